// SPDX-License-Identifier: Apache-2.0
//! Whether this machine can run virtual machines, and in words why not.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use thiserror::Error;

pub const DEVICE: &str = "/dev/kvm";

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
    #[error("{NO_VIRTUALIZATION}")]
    NoVirtualization,
}

/// The explanation for a machine whose KVM is no hardware's.
pub const NO_VIRTUALIZATION: &str = "\
     this machine's processor has no virtualization (neither vmx nor svm in /proc/cpuinfo): what \
     answers at /dev/kvm, kvm_pvm perhaps, can't run a stock guest kernel; take a machine with \
     nested virtualization, or `make shell`, a shell in an emulated host";

/// Opens the device as the monitor will: the same answer, before anything is started.
pub fn check() -> Result<(), KvmError> {
    open()?;
    if has_virtualization() {
        Ok(())
    } else {
        Err(KvmError::NoVirtualization)
    }
}

pub fn open() -> Result<File, KvmError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(DEVICE)
        .map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => KvmError::Missing,
            io::ErrorKind::PermissionDenied => KvmError::Permission {
                hint: permission_hint(),
            },
            _ if e.raw_os_error() == Some(rustix::io::Errno::NXIO.raw_os_error())
                || e.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error()) =>
            {
                KvmError::Missing
            }
            _ => KvmError::Open(e),
        })
}

/// Whether the first processor has `vmx` (Intel) or `svm` (AMD).
pub fn has_virtualization() -> bool {
    // The flags stand within the first processor's kilobytes; a machine may have hundreds of them.
    let mut head = Vec::new();
    let read = File::open("/proc/cpuinfo").and_then(|f| f.take(8192).read_to_end(&mut head));
    // Where it can't be read, let KVM speak for itself.
    read.is_err() || cpuinfo_has_virtualization(&String::from_utf8_lossy(&head))
}

fn cpuinfo_has_virtualization(cpuinfo: &str) -> bool {
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags"));
    flags.is_none_or(|line| {
        line.split_whitespace()
            .any(|flag| flag == "vmx" || flag == "svm")
    })
}

fn permission_hint() -> String {
    let Ok(meta) = fs::metadata(DEVICE) else {
        return "ask the administrator for access".to_owned();
    };
    if meta.mode() & 0o060 != 0o060 || meta.gid() == 0 {
        return format!(
            "it is for user {} only; `chgrp kvm {DEVICE} && chmod 660 {DEVICE}` lets a group in",
            meta.uid()
        );
    }
    let group = group_name(meta.gid()).unwrap_or_else(|| meta.gid().to_string());
    format!(
        "it is for the group {group}; `sudo usermod -aG {group} $USER` and a new login put you in it"
    )
}

fn group_name(gid: u32) -> Option<String> {
    name_of(&fs::read_to_string(Path::new("/etc/group")).ok()?, gid)
}

fn name_of(groups: &str, gid: u32) -> Option<String> {
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(gid)).then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags() {
        let cpu = |flags: &str| format!("processor\t: 0\nflags\t\t: fpu {flags} nx\n");
        assert!(cpuinfo_has_virtualization(&cpu("vmx")));
        assert!(cpuinfo_has_virtualization(&cpu("svm")));
        assert!(!cpuinfo_has_virtualization(&cpu("svm_lock vmxoff")));
        assert!(cpuinfo_has_virtualization("no flags at all"));
    }

    #[test]
    fn groups() {
        let groups = "root:x:0:\nkvm:x:107:alice,bob\nbroken\n";
        assert_eq!(name_of(groups, 107).as_deref(), Some("kvm"));
        assert_eq!(name_of(groups, 1), None);
    }
}
