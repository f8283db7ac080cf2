// SPDX-License-Identifier: Apache-2.0
//! What the processor says of itself. A paravirtual `/dev/kvm` does without its help: it opens, and
//! even makes machines, but gives up at the first `cmpxchg16b` of a stock kernel.

use std::fs::File;
use std::io::Read;

/// The explanation for a machine whose KVM is no hardware's.
pub const NO_VIRTUALIZATION: &str = "\
     this machine's processor has no virtualization (neither vmx nor svm in /proc/cpuinfo): what \
     answers at /dev/kvm, kvm_pvm perhaps, can't run a stock guest kernel; take a machine with \
     nested virtualization, or `make shell`, a shell in an emulated host";

/// `/proc/cpuinfo`, opened while this process may still open files.
pub struct CpuInfo(Option<File>);

impl CpuInfo {
    #[must_use]
    pub fn open() -> Self {
        Self(File::open("/proc/cpuinfo").ok())
    }

    /// Whether the first processor has `vmx` (Intel) or `svm` (AMD).
    #[must_use]
    pub fn has_virtualization(self) -> bool {
        // The flags stand within the first processor's kilobytes; a machine may have hundreds of
        // them.
        let mut head = Vec::new();
        let read = self.0.map(|file| file.take(8192).read_to_end(&mut head));
        // Where it can't be read, let KVM speak for itself.
        !matches!(read, Some(Ok(_))) || extension(&String::from_utf8_lossy(&head)).is_some()
    }
}

/// [`CpuInfo::has_virtualization`], now.
#[must_use]
pub fn has_virtualization() -> bool {
    CpuInfo::open().has_virtualization()
}

/// The processor's extension for virtual machines, from the text of `/proc/cpuinfo`.
#[must_use]
pub fn extension(cpuinfo: &str) -> Option<&'static str> {
    let is_flags = |line: &&str| line.split([' ', '\t', ':']).next() == Some("flags");
    let flags = cpuinfo.lines().find(is_flags)?;
    ["vmx", "svm"]
        .into_iter()
        .find(|wanted| flags.split_whitespace().any(|flag| flag == *wanted))
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, Write};

    use super::*;

    #[test]
    fn the_extension_is_a_word_among_the_flags() {
        let cpu = |flags: &str| format!("processor\t: 0\nflags\t\t: fpu {flags} nx\n");
        assert_eq!(extension(&cpu("vmx")), Some("vmx"));
        assert_eq!(extension(&cpu("svm")), Some("svm"));
        assert_eq!(extension(&cpu("svm_lock vmxoff")), None);
    }

    #[test]
    fn what_was_opened_is_read_later() {
        let file = |text: &str| {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(text.as_bytes()).unwrap();
            file.rewind().unwrap();
            CpuInfo(Some(file))
        };
        assert!(file("flags\t: fpu svm\n").has_virtualization());
        assert!(!file("flags\t: fpu\n").has_virtualization());
        assert!(CpuInfo(None).has_virtualization(), "nobody knows");
    }

    #[test]
    fn other_lines_do_not_count() {
        let others = "model name\t: svm\nvmx flags\t: vnmi\nbugs\t\t: vmx\n";
        assert_eq!(extension(others), None);
        assert_eq!(extension(&format!("{others}flags\t: vmx\n")), Some("vmx"));
        assert_eq!(extension(""), None);
    }
}
