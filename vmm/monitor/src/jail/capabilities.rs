// SPDX-License-Identifier: Apache-2.0
//! Capabilities. Only the fs worker of a monitor that was started by root keeps some: it acts for
//! the guest's users on the host's files.

use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

use super::JailError;
use crate::devices::Served;
use crate::virtio::fs::WORKER_CAPABILITIES;

/// What the whole process may still have: nothing, unless an fs worker is to be started.
pub(super) fn drop_all_but(workers: &[Served]) -> Result<(), JailError> {
    if workers.contains(&Served::FsWorker) {
        keep(WORKER_CAPABILITIES)
    } else {
        keep(CapabilitySet::empty())
    }
}

pub(super) fn drop_all() -> Result<(), JailError> {
    keep(CapabilitySet::empty())
}

/// Never adds: what the thread does not have, it does not get. The bounding set needs no care:
/// with no_new_privs set, no exec could use it, and no filter allows an exec.
fn keep(wanted: CapabilitySet) -> Result<(), JailError> {
    let now = capabilities(None).map_err(JailError::Capabilities)?;
    let kept = CapabilitySets {
        effective: now.effective & wanted,
        permitted: now.permitted & wanted,
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, kept).map_err(JailError::Capabilities)
}
