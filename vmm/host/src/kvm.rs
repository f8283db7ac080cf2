// SPDX-License-Identifier: Apache-2.0
//! `/dev/kvm`, and whether it has what a machine needs.

use std::io;

use kvm_ioctls::{Cap, Kvm};
use rustix::io::Errno;
use thiserror::Error;

use crate::group::permission_hint;
use crate::processor::{NO_VIRTUALIZATION, has_virtualization};

pub const DEVICE: &str = "/dev/kvm";

/// The only version there is since Linux 2.6.22 (KVM api.rst, `KVM_GET_API_VERSION`).
const API_VERSION: i32 = 12;

/// Capabilities without which no machine is made.
const NEEDED: &[(Cap, &str)] = &[
    (Cap::Irqchip, "KVM_CAP_IRQCHIP"),
    (Cap::Ioeventfd, "KVM_CAP_IOEVENTFD"),
    (Cap::Irqfd, "KVM_CAP_IRQFD"),
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::SetTssAddr, "KVM_CAP_SET_TSS_ADDR"),
    (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
    (Cap::ReadonlyMem, "KVM_CAP_READONLY_MEM"),
    (Cap::MpState, "KVM_CAP_MP_STATE"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
];

#[derive(Debug, Error)]
pub enum KvmError {
    #[error(
        "{DEVICE} does not exist: this machine has no KVM. On hardware, switch virtualization on in \
         the firmware and load kvm_intel or kvm_amd; in a virtual machine, its host must allow \
         nested virtualization; in a container, pass the device in"
    )]
    Missing,
    #[error("no permission to open {DEVICE}: {hint}")]
    Permission { hint: String },
    #[error("open {DEVICE}")]
    Open(#[source] io::Error),
    #[error("KVM has API version {0}, not {API_VERSION}")]
    ApiVersion(i32),
    #[error("KVM lacks {0}; a newer kernel has it")]
    Capability(&'static str),
    #[error("{NO_VIRTUALIZATION}")]
    NoVirtualization,
}

/// Everything that can be known before a machine is started.
///
/// # Errors
/// Why none can run here.
pub fn check() -> Result<(), KvmError> {
    open()?;
    if has_virtualization() {
        Ok(())
    } else {
        Err(KvmError::NoVirtualization)
    }
}

/// Opens the device and looks whether it has what walnut needs.
///
/// # Errors
/// It can't be opened, or it is too old.
pub fn open() -> Result<Kvm, KvmError> {
    let kvm = Kvm::new().map_err(|error| refused(Errno::from_raw_os_error(error.errno())))?;
    let version = kvm.get_api_version();
    if version != API_VERSION {
        return Err(KvmError::ApiVersion(version));
    }
    match NEEDED.iter().find(|(cap, _)| !kvm.check_extension(*cap)) {
        Some((_, name)) => Err(KvmError::Capability(name)),
        None => Ok(kvm),
    }
}

fn refused(errno: Errno) -> KvmError {
    match errno {
        Errno::NOENT | Errno::NODEV | Errno::NXIO => KvmError::Missing,
        Errno::ACCESS | Errno::PERM => KvmError::Permission {
            hint: permission_hint(DEVICE),
        },
        other => KvmError::Open(other.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_refuses_has_words() {
        assert!(matches!(refused(Errno::NODEV), KvmError::Missing));
        let text = refused(Errno::ACCESS).to_string();
        assert!(
            text.starts_with("no permission to open /dev/kvm: "),
            "{text}"
        );
        assert!(matches!(refused(Errno::MFILE), KvmError::Open(_)));
    }
}
