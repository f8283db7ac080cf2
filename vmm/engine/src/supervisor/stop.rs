// SPDX-License-Identifier: Apache-2.0
//! How a container is ended: by signals as long as its machine listens, by the end of its machine where
//! that does not. Who was to read what it writes is waited for as long as nobody wants it to end at once.

use std::time::Duration;

use walnut_protocol::agent::KillRequest;
use walnut_protocol::{CallError, Client, chain};

use super::shared::Shared;
use crate::record::Status;

pub const SIGKILL: u32 = 9;

/// For a process that was sent SIGKILL to be gone: it may be in the middle of a long write.
const DYING: Duration = Duration::from_secs(30);
/// For one whose machine did not answer when it was sent that: perhaps it went just then.
const SILENT: Duration = Duration::from_secs(2);
/// For somebody to read what was written last.
const READING: Duration = Duration::from_secs(2);

/// Why a signal was not delivered.
struct Unsent {
    why: String,
    /// Nobody has answered.
    silent: bool,
}

impl Shared {
    /// Docker's stop: the stop signal, SIGKILL when the time is over; returns at the end.
    pub fn stop(&self, signal: Option<u32>, timeout_s: Option<i32>) -> Result<(), String> {
        self.stop_here();
        let runs = self.runs();
        let timeout = u64::try_from(timeout_s.unwrap_or(self.stop_timeout_s)).ok();
        let timeout = timeout.map(Duration::from_secs);
        let agent = self.agent_to_come();
        let signal = signal.unwrap_or(self.stop_signal);
        if signal != SIGKILL {
            // It has just ended, or takes no signals: SIGKILL will tell.
            if let Some(agent) = &agent
                && let Err(unsent) = self.send(agent, signal, true)
            {
                log::debug!("stop: {}", unsent.why);
            }
        }
        if signal == SIGKILL || !self.wait_run(runs, timeout) {
            self.end(agent.as_ref())?;
        }
        self.wait_over();
        Ok(())
    }

    /// Docker's kill: any signal; SIGKILL and the stop signal end a paused container, too, and keep
    /// it from being restarted.
    pub fn kill(&self, signal: u32) -> Result<(), String> {
        let told = |sent: Result<(), Unsent>| sent.map_err(|unsent| unsent.why);
        if signal != SIGKILL && signal != self.stop_signal {
            return told(self.send(&self.agent()?, signal, false));
        }
        let agent = match self.agent_to_stop() {
            Err(_) if signal == SIGKILL && self.is_ending() => None,
            agent => Some(agent?),
        };
        if signal == SIGKILL {
            self.end(agent.as_ref())?;
            self.wait_over();
        } else if let Some(agent) = &agent {
            told(self.send(agent, signal, true))?;
        }
        Ok(())
    }

    /// SIGKILL, and where nothing comes of that, the end of the machine. Returns when the process, as far
    /// as anybody can tell, has ended.
    fn end(&self, agent: Option<&Client>) -> Result<(), String> {
        let sent = agent.map_or(Ok(()), |agent| self.send(agent, SIGKILL, true));
        self.passing.force();
        let (patience, why) = match sent {
            Err(Unsent { why, silent: true }) => (SILENT, why),
            _ => (DYING, "it was sent SIGKILL".into()),
        };
        // It has not ended, for its agent, before what it wrote is read.
        if self.wait_process(READING) {
            return Ok(());
        }
        self.let_go_of_readers(|| self.wait_process(READING));
        if self.wait_process(patience) {
            return Ok(());
        }
        let short = self.entry.short();
        match self.machine() {
            Some(machine) => {
                self.end_machine(&machine)?;
                log::warn!("container {short} did not end ({why}): its machine was killed");
                Ok(())
            }
            // It went just now, or its machine is not its own.
            None if self.wait_process(Duration::ZERO) => Ok(()),
            None => Err(format!(
                "container {short} does not end ({why}): stop the container whose machine it is in"
            )),
        }
    }

    /// Waits until all that was written is read: with patience, for as long as nobody wants the end at
    /// once.
    pub(super) fn see_out(&self, patient: bool) {
        let passing = &self.passing;
        if patient && passing.wait() || passing.wait_for(READING) {
            return;
        }
        let read = || passing.wait_for(READING);
        self.let_go_of_readers(read);
        // A thread that still writes to this process's own stream ends with the process.
        read();
    }

    /// First of those that output waits for, then of all.
    fn let_go_of_readers(&self, enough: impl Fn() -> bool) {
        self.hub.leave_blocked();
        if !enough() {
            self.passing.close();
        }
    }

    /// A signal; one that is to end a paused container lets it go on, too.
    fn send(&self, agent: &Client, signal: u32, ends: bool) -> Result<(), Unsent> {
        let Some(_machine_runs) = self.checkpointing_soon() else {
            return Err(Unsent {
                why: "its machine is busy with a checkpoint or a network".into(),
                silent: true,
            });
        };
        let request = KillRequest {
            container_id: self.container_id.clone(),
            signal,
            ..KillRequest::default()
        };
        agent.kill(&request).map_err(|e| Unsent {
            why: chain(&e),
            silent: !matches!(e, CallError::Refused { .. }),
        })?;
        if ends
            && self.state().status == Status::Paused
            && let Err(e) = agent.resume(&self.this())
        {
            log::debug!("resume: {}", chain(&e));
        }
        Ok(())
    }
}
