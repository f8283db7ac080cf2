// SPDX-License-Identifier: Apache-2.0
//! `--start`: from a template or not, and what becomes of templates meanwhile.

use walnut_protocol::chain;

use crate::checkpoint::Checkpoint;
use crate::container::StartMode;
use crate::paths::Paths;
use crate::template::{self, Key, TemplateError, Templates};
use crate::vm::{Machine, Origin};

use super::{Supervisor, SupervisorError};

/// With this set to `no`, no template is made unless it is asked for.
const MAKE_VAR: &str = "WALNUT_MAKE_TEMPLATES";

/// How one machine starts.
pub(super) struct Start<'a> {
    paths: &'a Paths,
    mode: StartMode,
    key: Option<Key>,
    origin: Origin,
}

impl<'a> Start<'a> {
    pub fn choose(supervisor: &Supervisor<'a>, machine: &Machine) -> Result<Self, SupervisorError> {
        let mode = supervisor.config.container.start;
        // A debug log wants to see the kernel boot.
        let wanted = mode == StartMode::Template
            || mode == StartMode::Auto && !log::log_enabled!(log::Level::Debug);
        let mut start = Self {
            paths: supervisor.paths,
            mode,
            key: None,
            origin: Origin::Boot,
        };
        if !wanted {
            return Ok(start);
        }
        let key = Key::new(supervisor.artifacts, machine.into())?;
        let templates = Templates::new(supervisor.paths);
        let mut files = templates.find(&key.id());
        if files.is_none() && mode == StartMode::Template {
            let artifacts = supervisor.artifacts;
            let id = template::make(supervisor.paths, artifacts, key.size)?;
            files = templates.find(&id);
        }
        start.key = Some(key);
        if let Some(files) = files {
            start.origin = Origin::Template(files);
        }
        Ok(start)
    }

    pub fn from_checkpoint(paths: &'a Paths, checkpoint: &Checkpoint) -> Self {
        Self {
            paths,
            mode: StartMode::Cold,
            key: None,
            origin: Origin::Checkpoint {
                files: checkpoint.files(),
                hardware: checkpoint.record.hardware.clone(),
                resumed: checkpoint.record.streams.all(),
            },
        }
    }

    pub fn origin(&self) -> Origin {
        self.origin.clone()
    }

    /// Whether the machine is to boot after all. A template that does not work is of no use to the
    /// next one either.
    pub fn gives_up(&self, origin: &Origin, error: &SupervisorError) -> bool {
        let (Origin::Template(_), Some(key)) = (origin, &self.key) else {
            return false;
        };
        if matches!(error, SupervisorError::Interrupted(_)) {
            return false;
        }
        log::info!("template {}: {}", key.id(), chain(error));
        match Templates::new(self.paths).remove(&key.id()) {
            // Somebody else was here first.
            Ok(()) | Err(TemplateError::NotFound(_)) => {}
            Err(error) => log::warn!("{}", chain(&error)),
        }
        self.mode == StartMode::Auto
    }

    /// The container runs: time to think of the next one.
    pub fn afterwards(&self, origin: &Origin) {
        let (Origin::Boot, StartMode::Auto, Some(key)) = (origin, self.mode, &self.key) else {
            return;
        };
        if std::env::var_os(MAKE_VAR).is_some_and(|value| value == "no") {
            return;
        }
        template::make_in_background(self.paths, key.size);
    }
}
