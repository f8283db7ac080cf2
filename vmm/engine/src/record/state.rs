// SPDX-License-Identifier: Apache-2.0
//! `state.json`: what became of a container. Its supervisor writes it; where there is none, whoever
//! holds the change lock.

use std::collections::VecDeque;
use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::RecordError;
use crate::network::Attachment;
use crate::times::Timestamp;

pub(super) const NAME: &str = "state.json";
/// Of a container whose supervisor was killed: its machine went the same way (128 + SIGKILL).
const KILLED: i32 = 137;

#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    #[default]
    Created,
    Running,
    Paused,
    Restarting,
    Exited,
    Dead,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Restarting => "restarting",
            Self::Exited => "exited",
            Self::Dead => "dead",
        })
    }
}

#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(default)]
pub struct State {
    pub status: Status,
    /// Somebody is bringing it up. It still has the status it had before.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub starting: bool,
    pub exit_code: i32,
    pub oom_killed: bool,
    pub error: String,
    pub started: Option<Timestamp>,
    pub finished: Option<Timestamp>,
    pub restart_count: u32,
    /// Of the supervisor.
    pub pid: u32,
    /// By `stop` or `kill`: `unless-stopped` does not bring it up again.
    pub manually_stopped: bool,
    pub health: Option<Health>,
    /// While it runs.
    #[serde(skip_serializing_if = "is_default")]
    pub network: Attachment,
}

fn is_default(network: &Attachment) -> bool {
    *network == Attachment::default()
}

/// Docker's `State.Health`.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub struct Health {
    /// `starting`, `healthy` or `unhealthy`.
    pub status: String,
    pub failing_streak: u32,
    /// The last ones, oldest first.
    pub log: VecDeque<Probe>,
}

#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub struct Probe {
    pub start: Timestamp,
    pub end: Timestamp,
    pub exit_code: i32,
    pub output: String,
}

impl State {
    /// A supervisor says that it has a machine, or will soon have the next.
    pub fn is_live(&self) -> bool {
        matches!(
            self.status,
            Status::Running | Status::Paused | Status::Restarting
        )
    }

    pub fn is_running(&self) -> bool {
        self.status == Status::Running
    }

    /// Processes of it exist.
    pub fn is_up(&self) -> bool {
        matches!(self.status, Status::Running | Status::Paused)
    }

    /// Somebody claims to run it or to bring it up.
    pub fn is_claimed(&self) -> bool {
        self.is_live() || self.starting
    }

    /// What is true once whoever wrote this was killed.
    pub(super) fn after_sudden_death(&mut self) {
        if self.is_live() {
            self.status = Status::Exited;
            self.exit_code = KILLED;
            self.network = Attachment::default();
            self.finished = Some(Timestamp::now());
        }
        self.starting = false;
        self.error = "its supervisor was killed".to_owned();
        self.pid = 0;
    }

    /// A container without this file was never started.
    pub(super) fn read(dir: &Path) -> Result<Self, RecordError> {
        let path = dir.join(NAME);
        match super::read(&path)? {
            None => Ok(Self::default()),
            Some(bytes) => {
                serde_json::from_slice(&bytes).map_err(|source| RecordError::Parse { path, source })
            }
        }
    }

    pub(super) fn write(&self, dir: &Path, durable: bool) -> Result<(), RecordError> {
        super::write(dir, NAME, self, durable)
    }
}
