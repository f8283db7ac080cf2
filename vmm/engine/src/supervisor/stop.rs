// SPDX-License-Identifier: Apache-2.0
//! How a container is ended: by signals as long as its machine listens, by the end of its machine where
//! that does not.

use std::time::Duration;

use walnut_protocol::agent::KillRequest;
use walnut_protocol::{Client, chain};

use super::shared::Shared;
use crate::record::Status;

pub const SIGKILL: u32 = 9;

/// For a process that was sent SIGKILL to be gone: it may be in the middle of a long write.
const DYING: Duration = Duration::from_secs(30);
/// For one whose machine did not answer when it was sent that: perhaps it went just then.
const SILENT: Duration = Duration::from_secs(2);

impl Shared {
    /// Docker's stop: the stop signal, SIGKILL when the time is over; returns at the end.
    pub fn stop(&self, signal: Option<u32>, timeout_s: Option<i32>) -> Result<(), String> {
        self.stop_here();
        let runs = self.runs();
        let timeout = u64::try_from(timeout_s.unwrap_or(self.stop_timeout_s)).ok();
        if let Some(agent) = self.agent_to_come() {
            let signal = signal.unwrap_or(self.stop_signal);
            let ends = signal != SIGKILL && self.ends_by(&agent, signal, runs, timeout);
            if !ends {
                self.end(&agent)?;
            }
        }
        self.wait_over();
        Ok(())
    }

    /// Whether a signal ends it in time.
    fn ends_by(&self, agent: &Client, signal: u32, runs: u64, timeout: Option<u64>) -> bool {
        // It has just ended, or takes no signals: SIGKILL will tell.
        if let Err(e) = self.send(agent, signal, true) {
            log::debug!("stop: {e}");
        }
        self.wait_run(runs, timeout.map(Duration::from_secs))
    }

    /// Docker's kill: any signal; SIGKILL and the stop signal end a paused container, too, and keep
    /// it from being restarted.
    pub fn kill(&self, signal: u32) -> Result<(), String> {
        let agent = {
            // The machine may end with that.
            let _machine_runs = self.checkpointing();
            self.agent()?
        };
        if signal == SIGKILL {
            self.stop_here();
            self.end(&agent)?;
            self.wait_over();
            return Ok(());
        }
        let ends = signal == self.stop_signal;
        if ends {
            self.stop_here();
        }
        self.send(&agent, signal, ends)
    }

    /// SIGKILL, and where nothing comes of that, the end of the machine.
    fn end(&self, agent: &Client) -> Result<(), String> {
        let sent = self.send(agent, SIGKILL, true);
        let patience = if sent.is_ok() { DYING } else { SILENT };
        if self.wait_process(patience) {
            return Ok(());
        }
        let why = sent.err().unwrap_or_else(|| "SIGKILL was sent".into());
        let short = self.entry.short();
        match self.machine() {
            Some(machine) => {
                log::warn!("container {short} does not end ({why}): its machine is killed");
                self.end_machine(&machine)
            }
            // It went just now, or its machine is not its own.
            None if self.wait_process(Duration::ZERO) => Ok(()),
            None => Err(format!(
                "container {short} does not end ({why}): stop the container whose machine it is in"
            )),
        }
    }

    /// A signal; one that is to end a paused container lets it go on, too.
    fn send(&self, agent: &Client, signal: u32, ends: bool) -> Result<(), String> {
        let _machine_runs = self.checkpointing();
        let request = KillRequest {
            container_id: self.container_id.clone(),
            signal,
            ..KillRequest::default()
        };
        agent.kill(&request).map_err(|e| chain(&e))?;
        if ends
            && self.state().status == Status::Paused
            && let Err(e) = agent.resume(&self.this())
        {
            log::debug!("resume: {}", chain(&e));
        }
        Ok(())
    }
}
