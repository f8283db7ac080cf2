// SPDX-License-Identifier: Apache-2.0
//! The "process" object of one more process in a container.

use std::path::PathBuf;

use oci_spec::runtime::{BoxBuilder, ProcessBuilder};

use super::{SpecError, capabilities, capability_set, rlimits};
use crate::container::{Container, env, security};

/// What is asked for; all else is as the container's first process has it.
#[derive(Debug, Default)]
pub struct ExecProcess {
    pub args: Vec<String>,
    /// `NAME=value`, or `NAME` to have none.
    pub env: Vec<String>,
    pub cwd: Option<String>,
    pub tty: bool,
    /// Width and height.
    pub tty_size: Option<(u32, u32)>,
    pub privileged: bool,
}

impl ExecProcess {
    pub fn generate(&self, container: &Container) -> Result<Vec<u8>, SpecError> {
        let cwd = self.cwd.as_ref().unwrap_or(&container.cwd);
        let capabilities = if self.privileged {
            capability_set(security::all())?
        } else {
            capabilities(container)?
        };
        let mut process = ProcessBuilder::default()
            .terminal(self.tty)
            .args(self.args.clone())
            .env(env::extend(&container.env, self.tty, &self.env))
            .cwd(PathBuf::from(cwd))
            .capabilities(capabilities)
            .rlimits(rlimits(container)?)
            .no_new_privileges(container.security.no_new_privileges)
            .oom_score_adj(container.oom_score_adj)
            .build()?;
        if let Some((width, height)) = self.tty_size {
            let size = BoxBuilder::default().width(width).height(height).build()?;
            process.set_console_size(Some(size));
        }
        Ok(serde_json::to_vec(&process)?)
    }
}
