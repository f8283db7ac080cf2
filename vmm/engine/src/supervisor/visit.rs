// SPDX-License-Identifier: Apache-2.0
//! A container's machine without its process, for who works on the files of one that does not run.

use std::sync::Arc;

use walnut_protocol::agent::ShutdownRequest;

use super::life::{CREATE_TIMEOUT, SYNC_TIMEOUT};
use super::process::created;
use super::{Supervisor, SupervisorError, ready_timeout};
use crate::files::Files;
use crate::network::Session;
use crate::spec;
use crate::vm::rundir::RunDir;
use crate::vm::{Origin, Ready, Vm};

/// A program that is there in every container, to be named and never run.
const NO_PROGRAM: &str = "/proc/self/exe";

impl Supervisor<'_> {
    /// Boots its machine, makes the container, has `work` done with its files, and ends it.
    ///
    /// # Errors
    /// The machine does not come up, or what `work` says.
    pub fn visit<T, E: From<SupervisorError>>(
        mut self,
        work: impl FnOnce(&Files<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        // Its program may be missing: that is no reason not to look at its files.
        let asked = self.config.container.clone();
        let container = &mut self.config.container;
        container.args = vec![NO_PROGRAM.to_owned()];
        container.user.clear();
        container.cwd = "/".to_owned();
        container.tty = false;
        container.interactive = false;
        let (dir, _) =
            RunDir::create(self.paths, self.entry.short()).map_err(SupervisorError::from)?;
        let dir = Arc::new(dir);
        // It runs nothing that could want one.
        let mut network = Session::default();
        let (machine, layout, _claims) = self.machine(&mut network)?;
        let mut vm = Vm::start(self.artifacts, &machine, &Origin::Boot, Arc::clone(&dir))
            .map_err(SupervisorError::from)?;
        let create = spec::request(&self.config.container, &layout, &network, None)
            .map_err(SupervisorError::from)?;
        match vm
            .wait_ready(ready_timeout(), &[])
            .map_err(SupervisorError::from)?
        {
            Ready::Hello(_) | Ready::Restored | Ready::Interrupted => {}
        }
        let agent = vm.agent().map_err(SupervisorError::from)?;
        let answer = agent.within(CREATE_TIMEOUT).create(&create);
        created(answer.map_err(SupervisorError::from)?).map_err(SupervisorError::from)?;
        let files = Files {
            agent: agent.clone(),
            vsock: dir.vsock(),
            container: &asked,
        };
        let done = work(&files);
        // What was written goes to the disks.
        let ended = agent
            .within(SYNC_TIMEOUT)
            .shutdown(&ShutdownRequest::default());
        ended.map_err(SupervisorError::from)?;
        vm.wait_end(SYNC_TIMEOUT);
        done
    }
}
