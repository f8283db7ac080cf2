// SPDX-License-Identifier: Apache-2.0
//! `--vm` and `--pid|ipc|network container:NAME`: a container in the machine of another one, which
//! has a kernel in common with it and nothing else, but for the namespaces that it asks for.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Container;
use crate::paths::Paths;
use crate::vm::rundir::vsock_in;

/// Before the container whose namespace it is.
const CONTAINER: &str = "container:";

/// The container that a mode names: `container:NAME`.
pub fn named(mode: Option<&str>) -> Option<&str> {
    let name = mode?.strip_prefix(CONTAINER)?;
    (!name.is_empty()).then_some(name)
}

/// As a mode, and as the agent takes it for a namespace's path.
pub fn mode(name: &str) -> String {
    format!("{CONTAINER}{name}")
}

/// Where a container runs that has no machine of its own.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub struct InVm {
    /// The container whose machine it is, by its ID.
    pub host: String,
    /// What that machine has.
    pub cpus: u8,
    pub memory_mib: u32,
    /// Its image is the machine's own: nothing has to be brought.
    pub same_image: bool,
    /// Containers whose namespaces it shares, by their IDs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipc: Option<String>,
    /// In the guest, each of its volumes: the machine has them mounted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volume_sources: Vec<PathBuf>,
}

impl InVm {
    /// How that machine is called: by the beginning of its container's ID.
    pub fn machine(&self) -> &str {
        self.host.get(..12).unwrap_or(&self.host)
    }
}

impl Container {
    /// Virtual processors of its machine.
    pub fn machine_cpus(&self) -> u8 {
        match &self.in_vm {
            Some(place) => place.cpus,
            None => self.limits.machine_cpus(),
        }
    }

    pub fn machine_memory_mib(&self) -> u32 {
        match &self.in_vm {
            Some(place) => place.memory_mib,
            None => self.limits.machine_memory_mib(),
        }
    }

    /// The directory of the machine that it runs in.
    pub fn machine(&self, paths: &Paths) -> PathBuf {
        paths.machine(match &self.in_vm {
            Some(place) => place.machine(),
            None => self.id.short(),
        })
    }

    /// Where that machine's ports are.
    pub fn vsock(&self, paths: &Paths) -> PathBuf {
        vsock_in(&self.machine(paths))
    }
}
