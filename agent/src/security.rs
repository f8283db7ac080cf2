// SPDX-License-Identifier: Apache-2.0
//! The rights of a container's process, given up in the last moment before its exec: capabilities
//! and seccomp.
//!
//! libcontainer would do it earlier and itself; it is handed a process without either (see
//! [`crate::seccomp`] for why) and leaves every capability. A filter without no_new_privs needs
//! `CAP_SYS_ADMIN`, which few containers have: so everything else is given up first, then the
//! filter is put in place, and one call ends it.

use std::fs;
use std::path::Path;

use libcontainer::capabilities::CapabilityExt;
use oci_spec::runtime::{Capabilities, LinuxCapabilities, LinuxSeccomp};
use rustix::io::Errno;
use rustix::thread::{CapabilitySet, CapabilitySets};
use serde::Deserialize;

use crate::failure::{Failure, Stage};
use crate::seccomp::{self, Filter};

/// What a container's processes may do: a file of this name beside its `config.json`, which has
/// none of it.
pub const FILE: &str = "security.json";

/// What is in [`FILE`].
#[derive(Debug, Deserialize)]
pub struct Security {
    /// For every process of the container.
    pub seccomp: Option<LinuxSeccomp>,
    /// Of its first process.
    pub capabilities: Option<LinuxCapabilities>,
}

impl Security {
    /// # Errors
    /// There is no such file, or the host's words in it make no sense.
    pub fn load(bundle: &Path) -> Result<Self, Failure> {
        let path = bundle.join(FILE);
        let json = fs::read(&path).map_err(|error| {
            let errno = error.raw_os_error().unwrap_or(0);
            Failure::new(
                Stage::Spec,
                errno,
                format!("read {}: {error}", path.display()),
            )
        })?;
        serde_json::from_slice(&json)
            .map_err(|error| Failure::new(Stage::Spec, 0, format!("the spec's security: {error}")))
    }
}

/// A process's rights, ready to be put in place.
#[derive(Clone, Debug)]
pub struct Rights {
    capabilities: Option<Sets>,
    filter: Option<Filter>,
}

/// capabilities(7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sets {
    bounding: CapabilitySet,
    effective: CapabilitySet,
    permitted: CapabilitySet,
    inheritable: CapabilitySet,
    ambient: CapabilitySet,
}

impl Rights {
    /// # Errors
    /// The profile can't be compiled.
    pub fn new(
        capabilities: Option<&LinuxCapabilities>,
        profile: Option<&LinuxSeccomp>,
    ) -> Result<Self, Failure> {
        let filter = profile
            .map(seccomp::compile)
            .transpose()
            .map_err(|error| Failure::of(Stage::Security, 0, &error))?;
        Ok(Self {
            capabilities: capabilities.map(Sets::from),
            filter,
        })
    }

    /// Looks as the process will: `look` runs with the capabilities that it is going to have.
    ///
    /// # Errors
    /// What `look` says, or the kernel refuses.
    pub fn looking<T>(&self, look: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
        let Some(sets) = self.capabilities else {
            return look();
        };
        let all = rustix::thread::capabilities(None).map_err(|e| failed("read capabilities", e))?;
        let seen = look_with(
            CapabilitySets {
                effective: sets.effective,
                ..all
            },
            look,
        );
        rustix::thread::set_capabilities(None, all)
            .map_err(|e| failed("restore capabilities", e))?;
        seen
    }

    /// Gives up everything else, for good.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn apply(&self) -> Result<(), Failure> {
        let Some(sets) = self.capabilities else {
            return self.install();
        };
        for capability in CapabilitySet::all().iter() {
            if !sets.bounding.contains(capability) {
                match rustix::thread::remove_capability_from_bounding_set(capability) {
                    // Newer than the kernel.
                    Ok(()) | Err(Errno::INVAL) => {}
                    Err(errno) => return Err(failed("limit the bounding set", errno)),
                }
            }
        }
        let last = CapabilitySets {
            effective: sets.effective,
            permitted: sets.permitted,
            inheritable: sets.inheritable,
        };
        let for_the_filter = CapabilitySets {
            effective: last.effective | CapabilitySet::SYS_ADMIN,
            permitted: last.permitted | CapabilitySet::SYS_ADMIN,
            inheritable: last.inheritable,
        };
        let failed_set = |errno| failed("set capabilities", errno);
        rustix::thread::set_capabilities(None, for_the_filter).map_err(failed_set)?;
        // What is not permitted and inheritable both can't be ambient: runc warns and goes on.
        for capability in (sets.ambient & last.permitted & last.inheritable).iter() {
            rustix::thread::configure_capability_in_ambient_set(capability, true)
                .map_err(|errno| failed("raise an ambient capability", errno))?;
        }
        self.install()?;
        rustix::thread::set_capabilities(None, last).map_err(failed_set)
    }

    fn install(&self) -> Result<(), Failure> {
        let Some(filter) = &self.filter else {
            return Ok(());
        };
        filter
            .install()
            .map_err(|error| Failure::of(Stage::Security, 0, &error))
    }
}

fn look_with<T>(
    sets: CapabilitySets,
    look: impl FnOnce() -> Result<T, Failure>,
) -> Result<T, Failure> {
    rustix::thread::set_capabilities(None, sets).map_err(|e| failed("set capabilities", e))?;
    look()
}

impl From<&LinuxCapabilities> for Sets {
    fn from(spec: &LinuxCapabilities) -> Self {
        let set = |names: &Option<Capabilities>| {
            names
                .iter()
                .flatten()
                .fold(CapabilitySet::empty(), |set, capability| {
                    set | CapabilitySet::from_bits_retain(1 << capability.to_cap().index())
                })
        };
        let permitted = set(spec.permitted());
        Self {
            bounding: set(spec.bounding()),
            // The kernel refuses what is effective and not permitted.
            effective: set(spec.effective()) & permitted,
            permitted,
            inheritable: set(spec.inheritable()),
            ambient: set(spec.ambient()),
        }
    }
}

fn failed(what: &str, errno: Errno) -> Failure {
    Failure::new(
        Stage::Security,
        errno.raw_os_error(),
        format!("{what}: {errno}"),
    )
}
