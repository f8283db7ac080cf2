// SPDX-License-Identifier: Apache-2.0
//! The rights of a container's process, given up in the last moment before its exec: capabilities
//! and seccomp.
//!
//! libcontainer would do it earlier and itself; it is handed a process without either (see
//! [`walnut_seccomp`] for why) and leaves every capability. A filter without no_new_privs needs
//! `CAP_SYS_ADMIN`, which few containers have: so everything else is given up first, then the
//! filter is put in place, and one call ends it.

use std::fs;
use std::path::Path;

use libcontainer::capabilities::CapabilityExt;
use oci_spec::runtime::{Capabilities, LinuxCapabilities, LinuxSeccomp};
use rustix::io::Errno;
use rustix::thread::{CapabilitySet, CapabilitySets};
use serde::{Deserialize, Serialize};
use walnut_protocol::agent::CreateRequest;
use walnut_seccomp::Filter;

use crate::failure::{Failure, Stage};

/// The filter of a container's processes, in its bundle: `seccomp(2)`'s flags, then the
/// instructions.
const FILTER_FILE: &str = "seccomp";

/// A process's capabilities, as capabilities(7) names their sets: bit n is capability n.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Sets {
    bounding: u64,
    effective: u64,
    permitted: u64,
    inheritable: u64,
    ambient: u64,
}

impl From<&LinuxCapabilities> for Sets {
    fn from(spec: &LinuxCapabilities) -> Self {
        let set = |names: &Option<Capabilities>| {
            names
                .iter()
                .flatten()
                .fold(0, |set, name| set | 1 << name.to_cap().index())
        };
        let permitted = set(spec.permitted());
        let inheritable = set(spec.inheritable());
        Self {
            bounding: set(spec.bounding()),
            // The kernel refuses what is effective and not permitted.
            effective: set(spec.effective()) & permitted,
            permitted,
            inheritable,
            // What is not permitted and inheritable both can't be ambient: runc warns and goes on.
            ambient: set(spec.ambient()) & permitted & inheritable,
        }
    }
}

/// Keeps the filter that `request` brings, or that `profile` describes, for every process that the
/// container will have.
///
/// # Errors
/// It is no filter, or the profile can't be compiled.
pub fn keep_filter(
    bundle: &Path,
    request: &CreateRequest,
    profile: Option<&str>,
) -> Result<(), Failure> {
    let security = |error: &dyn std::error::Error| Failure::of(Stage::Security, 0, error);
    let filter = match profile {
        _ if !request.seccomp_filter.is_empty() => {
            Filter::from_bytes(&request.seccomp_filter, request.seccomp_flags)
                .map_err(|e| security(&e))?
        }
        Some(json) => {
            let profile: LinuxSeccomp = serde_json::from_str(json).map_err(|error| {
                Failure::new(Stage::Spec, 0, format!("the spec's linux.seccomp: {error}"))
            })?;
            walnut_seccomp::compile(&profile).map_err(|e| security(&e))?
        }
        None => return Ok(()),
    };
    let (code, flags) = filter.to_bytes();
    let mut file = flags.to_le_bytes().to_vec();
    file.extend(code);
    fs::write(bundle.join(FILTER_FILE), file).map_err(|e| security(&e))
}

fn kept_filter(bundle: &Path) -> Result<Option<Filter>, Failure> {
    let security = |error: &dyn std::error::Error| Failure::of(Stage::Security, 0, error);
    let file = match fs::read(bundle.join(FILTER_FILE)) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(security(&error)),
    };
    let (flags, code) = file.split_first_chunk().unwrap_or((&[0; 4], &[]));
    Filter::from_bytes(code, u32::from_le_bytes(*flags))
        .map(Some)
        .map_err(|e| security(&e))
}

/// A process's rights, ready to be put in place.
#[derive(Clone, Debug)]
pub struct Rights {
    capabilities: Option<Sets>,
    filter: Option<Filter>,
}

impl Rights {
    /// # Errors
    /// The container's filter can't be read.
    pub fn new(capabilities: Option<Sets>, bundle: &Path) -> Result<Self, Failure> {
        Ok(Self {
            capabilities,
            filter: kept_filter(bundle)?,
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
        let effective = CapabilitySet::from_bits_retain(sets.effective) & all.permitted;
        set(CapabilitySets { effective, ..all })?;
        let seen = look();
        set(all)?;
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
        for number in (0..u64::BITS).filter(|number| sets.bounding >> number & 1 == 0) {
            let capability = CapabilitySet::from_bits_retain(1 << number);
            match rustix::thread::remove_capability_from_bounding_set(capability) {
                Ok(()) => {}
                // The kernel has no more than those before.
                Err(Errno::INVAL) => break,
                Err(errno) => return Err(failed("limit the bounding set", errno)),
            }
        }
        let with = |more| CapabilitySets {
            effective: CapabilitySet::from_bits_retain(sets.effective) | more,
            permitted: CapabilitySet::from_bits_retain(sets.permitted) | more,
            inheritable: CapabilitySet::from_bits_retain(sets.inheritable),
        };
        set(with(CapabilitySet::SYS_ADMIN))?;
        for number in (0..u64::BITS).filter(|number| sets.ambient >> number & 1 == 1) {
            let capability = CapabilitySet::from_bits_retain(1 << number);
            rustix::thread::configure_capability_in_ambient_set(capability, true)
                .map_err(|errno| failed("raise an ambient capability", errno))?;
        }
        self.install()?;
        set(with(CapabilitySet::empty()))
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

fn set(sets: CapabilitySets) -> Result<(), Failure> {
    rustix::thread::set_capabilities(None, sets).map_err(|e| failed("set capabilities", e))
}

fn failed(what: &str, errno: Errno) -> Failure {
    Failure::new(
        Stage::Security,
        errno.raw_os_error(),
        format!("{what}: {errno}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_by_number() {
        let spec: LinuxCapabilities = serde_json::from_value(serde_json::json!({
            "bounding": ["CAP_CHOWN", "CAP_CHECKPOINT_RESTORE"],
            "effective": ["CAP_CHOWN", "CAP_KILL"],
            "permitted": ["CAP_CHOWN"],
            "ambient": ["CAP_CHOWN"],
        }))
        .unwrap();
        let sets = Sets::from(&spec);
        assert_eq!(sets.bounding, 1 | 1 << 40);
        assert_eq!((sets.effective, sets.permitted), (1, 1));
        assert_eq!((sets.inheritable, sets.ambient), (0, 0));
    }

    #[test]
    fn a_filter_is_kept_as_it_comes() {
        let dir = tempfile::tempdir().unwrap();
        let profile = r#"{"defaultAction": "SCMP_ACT_ALLOW"}"#;
        keep_filter(dir.path(), &CreateRequest::new(), None).unwrap();
        assert!(kept_filter(dir.path()).unwrap().is_none());
        keep_filter(dir.path(), &CreateRequest::new(), Some(profile)).unwrap();
        let compiled = kept_filter(dir.path()).unwrap().unwrap().to_bytes();
        let request = CreateRequest {
            seccomp_filter: compiled.0.clone(),
            seccomp_flags: compiled.1,
            ..CreateRequest::default()
        };
        keep_filter(dir.path(), &request, Some("ignored")).unwrap();
        assert_eq!(
            kept_filter(dir.path()).unwrap().unwrap().to_bytes(),
            compiled
        );
        let nonsense = CreateRequest {
            seccomp_filter: vec![1],
            ..CreateRequest::default()
        };
        let refused = keep_filter(dir.path(), &nonsense, None).unwrap_err();
        assert_eq!(refused.stage, Stage::Security);
    }
}
