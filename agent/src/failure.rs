// SPDX-License-Identifier: Apache-2.0
//! Why a process never ran, on its way from wherever it failed to the host.

use std::path::Path;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use walnut_protocol::agent;
pub use walnut_protocol::chain;

/// The protocol's `Failed`, as it travels between the helper and the agent.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    pub stage: Stage,
    /// 0 where there is none.
    pub errno: i32,
    pub message: String,
}

/// The protocol's `Stage`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub enum Stage {
    Mounts,
    Spec,
    User,
    Namespaces,
    Cgroup,
    Rootfs,
    Security,
    WorkingDir,
    Exec,
    Streams,
    Network,
}

impl Failure {
    pub fn new(stage: Stage, errno: i32, message: impl Into<String>) -> Self {
        Self {
            stage,
            errno,
            message: message.into(),
        }
    }

    /// One of changing to the working directory, in runc's words.
    #[must_use]
    pub fn in_cwd(mut self, cwd: &Path) -> Self {
        if self.stage == Stage::WorkingDir {
            let why = describe(Errno::from_raw_os_error(self.errno));
            self.message = format!("chdir to cwd ({cwd:?}): {why}");
        }
        self
    }

    /// An error and what caused it, as one line.
    pub fn of(stage: Stage, errno: i32, error: &dyn std::error::Error) -> Self {
        Self::new(stage, errno, chain(error))
    }
}

/// An errno in the words of strerror(3), in lower case, as runc prints them.
#[must_use]
pub fn describe(errno: Errno) -> String {
    let text = std::io::Error::from(errno).to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    text.to_lowercase()
}

impl From<Failure> for agent::Failed {
    fn from(failure: Failure) -> Self {
        let stage = match failure.stage {
            Stage::Mounts => agent::Stage::MOUNTS,
            Stage::Spec => agent::Stage::SPEC,
            Stage::User => agent::Stage::USER,
            Stage::Namespaces => agent::Stage::NAMESPACES,
            Stage::Cgroup => agent::Stage::CGROUP,
            Stage::Rootfs => agent::Stage::ROOTFS,
            Stage::Security => agent::Stage::SECURITY,
            Stage::WorkingDir => agent::Stage::WORKING_DIR,
            Stage::Exec => agent::Stage::EXEC,
            Stage::Streams => agent::Stage::STREAMS,
            Stage::Network => agent::Stage::NETWORK,
        };
        Self {
            stage: stage.into(),
            errno: failure.errno,
            message: failure.message,
            ..Self::default()
        }
    }
}
