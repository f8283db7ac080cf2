// SPDX-License-Identifier: Apache-2.0
//! What the host can do, and words for what it can't.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use kvm_ioctls::{Cap, Kvm};
use thiserror::Error;

pub const NO_HARDWARE_VIRTUALIZATION: &str = "this machine's /proc/cpuinfo shows neither vmx nor \
     svm, so its /dev/kvm cannot run a stock kernel; use a machine with (nested) virtualization, \
     or the emulated host: make shell";

const KVM_API_VERSION: i32 = 12;

/// KVM capabilities without which no machine is made.
const NEEDED: &[(Cap, &str)] = &[
    (Cap::Irqchip, "KVM_CAP_IRQCHIP"),
    (Cap::Ioeventfd, "KVM_CAP_IOEVENTFD"),
    (Cap::Irqfd, "KVM_CAP_IRQFD"),
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::SetTssAddr, "KVM_CAP_SET_TSS_ADDR"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
];

#[derive(Debug, Error)]
pub enum HostError {
    #[error(
        "there is no /dev/kvm: load the module kvm_intel or kvm_amd, enable virtualization in the \
         firmware, or nested virtualization if this is a virtual machine"
    )]
    NoKvm,
    #[error("no permission to open /dev/kvm: {hint}")]
    NoPermission { hint: String },
    #[error("cannot open /dev/kvm")]
    Open(#[source] io::Error),
    #[error("KVM has API version {0}, not {KVM_API_VERSION}")]
    ApiVersion(i32),
    #[error("KVM lacks {0}; a newer kernel has it")]
    Capability(&'static str),
}

/// Opens `/dev/kvm` and checks that it has what walnut needs.
pub fn open_kvm() -> Result<Kvm, HostError> {
    let kvm = Kvm::new().map_err(|error| match error.errno() {
        libc::ENOENT | libc::ENODEV | libc::ENXIO => HostError::NoKvm,
        libc::EACCES | libc::EPERM => HostError::NoPermission {
            hint: permission_hint(),
        },
        errno => HostError::Open(io::Error::from_raw_os_error(errno)),
    })?;
    let version = kvm.get_api_version();
    if version != KVM_API_VERSION {
        return Err(HostError::ApiVersion(version));
    }
    match NEEDED.iter().find(|(cap, _)| !kvm.check_extension(*cap)) {
        Some((_, name)) => Err(HostError::Capability(name)),
        None => Ok(kvm),
    }
}

/// Which group may open `/dev/kvm`, and how to join it.
fn permission_hint() -> String {
    let Ok(metadata) = std::fs::metadata("/dev/kvm") else {
        return "ask for access to it".to_owned();
    };
    let gid = metadata.gid();
    if metadata.mode() & 0o060 != 0o060 {
        return "its mode allows no group; as root: chgrp kvm /dev/kvm && chmod 660 /dev/kvm"
            .into();
    }
    match group_name(Path::new("/etc/group"), gid) {
        Some(name) => format!(
            "it belongs to the group {name}; as root: usermod -aG {name} $USER, then log in again"
        ),
        None => format!("it belongs to the group with number {gid}, which you are not in"),
    }
}

fn group_name(file: &Path, gid: u32) -> Option<String> {
    let groups = std::fs::read_to_string(file).ok()?;
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(gid)).then(|| name.to_owned())
    })
}

/// Whether the processor itself virtualizes; a paravirtual `/dev/kvm` does without.
pub fn has_hardware_virtualization() -> bool {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    flags_show_virtualization(&cpuinfo)
}

fn flags_show_virtualization(cpuinfo: &str) -> bool {
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags"));
    flags.is_some_and(|flags| {
        flags
            .split_whitespace()
            .any(|flag| flag == "vmx" || flag == "svm")
    })
}

#[cfg(test)]
mod tests {
    use super::{flags_show_virtualization, group_name};
    use std::io::Write;

    #[test]
    fn virtualization_is_a_word_among_the_flags() {
        assert!(flags_show_virtualization(
            "model name : x\nflags\t\t: fpu svm sse\n"
        ));
        assert!(!flags_show_virtualization(
            "flags : fpu svm_lock\nbugs : vmx\n"
        ));
    }

    #[test]
    fn the_group_is_found_by_its_number() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"root:x:0:\nkvm:x:104:me\n").unwrap();
        assert_eq!(group_name(file.path(), 104).as_deref(), Some("kvm"));
        assert_eq!(group_name(file.path(), 105), None);
    }
}
