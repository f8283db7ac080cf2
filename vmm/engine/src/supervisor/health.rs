// SPDX-License-Identifier: Apache-2.0
//! Asks a running container again and again whether it is well, in a thread of its supervisor.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use thiserror::Error;
use walnut_protocol::agent::ExecRequest;
use walnut_protocol::{CallError, Client, chain};

use super::control::spawn;
use super::exec::Exec;
use super::process::{ProcessError, Streams, exit_code};
use super::shared::Shared;
use super::stop::SIGKILL;
use crate::container::Healthcheck;
use crate::events::Event;
use crate::paths::Paths;
use crate::record::{Config, Health, Probe};
use crate::spec::SpecError;
use crate::spec::exec::ExecProcess;
use crate::times::Timestamp;

/// Docker's: how many answers are kept, and how much of each.
const MAX_PROBES: usize = 5;
const MAX_OUTPUT: usize = 4096;
/// Of a question that was not answered.
const NO_ANSWER: i32 = -1;

#[derive(Debug, Error)]
enum ProbeError {
    #[error(transparent)]
    Spec(#[from] SpecError),
    #[error(transparent)]
    Call(#[from] CallError),
    #[error(transparent)]
    Process(#[from] ProcessError),
    #[error("Health check exceeded timeout ({0:?})")]
    Timeout(Duration),
    #[error("read its output")]
    Read(#[source] std::io::Error),
}

struct Doctor {
    config: Config,
    paths: Paths,
    check: Healthcheck,
    command: Vec<String>,
    shared: Arc<Shared>,
    vsock: PathBuf,
}

/// Begins to ask, if there is something to ask, until the present run is over.
pub(super) fn watch(config: &Config, shared: &Arc<Shared>, paths: &Paths) -> std::io::Result<()> {
    let Some(check) = config.container.health.clone() else {
        return Ok(());
    };
    let Some(command) = check.command() else {
        return Ok(());
    };
    let doctor = Doctor {
        config: config.clone(),
        paths: paths.clone(),
        check,
        command,
        shared: Arc::clone(shared),
        vsock: config.container.vsock(paths),
    };
    spawn("health", move || doctor.look_after())
}

impl Doctor {
    fn look_after(&self) {
        let run = self.shared.runs();
        let began = Instant::now();
        let mut health = Health {
            status: "starting".to_owned(),
            ..Health::default()
        };
        self.write(&health);
        loop {
            let starts = began.elapsed() < self.check.start_period() && health.status == "starting";
            let pause = match starts {
                true => self.check.start_interval().min(self.check.interval()),
                false => self.check.interval(),
            };
            if self.shared.wait_run(run, Some(pause)) {
                return;
            }
            // One that is paused is neither.
            if !self.shared.state().is_running() {
                continue;
            }
            let Ok(agent) = self.shared.agent() else {
                return;
            };
            let probe = self.probe(&agent);
            let before = health.status.clone();
            judge(&mut health, probe, &self.check, began.elapsed());
            if !self.write(&health) {
                return;
            }
            if health.status != before {
                let action = format!("health_status: {}", health.status);
                self.event(action).emit(&self.paths);
            }
        }
    }

    /// False once the run is over.
    fn write(&self, health: &Health) -> bool {
        self.shared.update_health(health.clone())
    }

    fn event(&self, action: impl Into<String>) -> Event {
        let entry = &self.shared.entry;
        // It may have been renamed.
        let config = entry.config();
        Event::container(entry, config.as_ref().unwrap_or(&self.config), action)
    }

    fn probe(&self, agent: &Client) -> Probe {
        let start = Timestamp::now();
        let (exit_code, output) = match self.ask(agent) {
            Ok(answer) => answer,
            Err(error) => (NO_ANSWER, chain(&error)),
        };
        Probe {
            start,
            end: Timestamp::now(),
            exit_code,
            output,
        }
    }

    fn ask(&self, agent: &Client) -> Result<(i32, String), ProbeError> {
        let deadline = Instant::now() + self.check.timeout();
        let container = &self.config.container;
        let process = ExecProcess {
            args: self.command.clone(),
            ..ExecProcess::default()
        };
        let request = ExecRequest {
            container_id: container.id.to_string(),
            process: process.generate(container)?,
            user: container.user.clone(),
            ..ExecRequest::default()
        };
        let (exec, streams) = Exec::begin(agent, &self.vsock, request, false)?;
        let told = |action: String| self.event(action).with("execID", &exec.handle.exec_id);
        let line = self.command.join(" ");
        told(format!("exec_create: {line}")).emit(&self.paths);
        told(format!("exec_start: {line}")).emit(&self.paths);
        let output = streams.as_ref().and_then(|streams| read(streams, deadline));
        if output.is_none() {
            exec.handle.kill(SIGKILL)?;
        }
        drop(streams);
        let code = exit_code(&exec.handle.wait()?);
        told("exec_die".to_owned())
            .with("exitCode", code)
            .emit(&self.paths);
        match output {
            None => Err(ProbeError::Timeout(self.check.timeout())),
            Some(output) => Ok((i32::from(code), output.map_err(ProbeError::Read)?)),
        }
    }
}

/// Both streams to their ends, as it comes; nothing where that did not come in time.
fn read(streams: &Streams, deadline: Instant) -> Option<std::io::Result<String>> {
    let mut open: Vec<&UnixStream> = [Some(&streams.stdout), streams.stderr.as_ref()]
        .into_iter()
        .flatten()
        .collect();
    let mut output = Vec::new();
    let mut buffer = [0; 4096];
    while !open.is_empty() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        let mut fds: Vec<PollFd<'_>> = open
            .iter()
            .map(|stream| PollFd::new(*stream, PollFlags::IN))
            .collect();
        match poll(&mut fds, Timespec::try_from(left).ok().as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Some(Err(e.into())),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        let mut still = Vec::new();
        for (mut stream, ready) in open.into_iter().zip(ready) {
            match if ready {
                stream.read(&mut buffer)
            } else {
                Ok(1)
            } {
                Ok(0) => continue,
                Ok(count) if ready => {
                    let room = MAX_OUTPUT.saturating_sub(output.len());
                    output.extend_from_slice(&buffer[..count.min(room)]);
                }
                Ok(_) => {}
                Err(e) => return Some(Err(e)),
            }
            still.push(stream);
        }
        open = still;
    }
    Some(Ok(String::from_utf8_lossy(&output).into_owned()))
}

/// Docker's rules: one good answer is health, so many bad ones in a row are none; those of the start
/// don't count before the first good one.
fn judge(health: &mut Health, probe: Probe, check: &Healthcheck, age: Duration) {
    let is_well = probe.exit_code == 0;
    let starts = health.status == "starting" && age < check.start_period();
    if health.log.len() == MAX_PROBES {
        health.log.pop_front();
    }
    health.log.push_back(probe);
    if is_well {
        health.failing_streak = 0;
        "healthy".clone_into(&mut health.status);
    } else if !starts {
        health.failing_streak += 1;
        if health.failing_streak >= check.retries() {
            "unhealthy".clone_into(&mut health.status);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_many_answers_it_takes() {
        let check = Healthcheck {
            retries: 2,
            start_period: 1_000_000_000,
            ..Healthcheck::default()
        };
        let mut health = Health {
            status: "starting".to_owned(),
            ..Health::default()
        };
        let mut answer = |exit_code, age| {
            let probe = Probe {
                start: Timestamp::default(),
                end: Timestamp::default(),
                exit_code,
                output: String::new(),
            };
            judge(&mut health, probe, &check, Duration::from_millis(age));
            format!("{} {}", health.status, health.failing_streak)
        };
        assert_eq!(answer(1, 500), "starting 0");
        assert_eq!(answer(1, 1500), "starting 1");
        assert_eq!(answer(NO_ANSWER, 1500), "unhealthy 2");
        assert_eq!(answer(0, 1500), "healthy 0");
        assert_eq!(answer(1, 500), "healthy 1");
        assert_eq!(answer(1, 500), "unhealthy 2");
        answer(0, 0);
        assert_eq!(health.log.len(), MAX_PROBES);
    }
}
