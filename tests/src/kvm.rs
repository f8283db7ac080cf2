// SPDX-License-Identifier: Apache-2.0
//! Whether this machine's `/dev/kvm` can run a stock kernel.
//!
//! It may open and even make a VM where it can't: a paravirtual KVM without VMX or SVM emulates
//! most instructions and gives up at the first `cmpxchg16b` of a normal kernel. The processor's
//! flags tell.

use std::fmt::{self, Display, Formatter};
use std::fs::{self, OpenOptions};
use std::io;
use std::path::Path;

/// What was found, in words that complete "using … because …".
#[derive(Debug)]
pub enum Kvm {
    /// `/dev/kvm` opens and the processor has this extension.
    Usable { extension: &'static str },
    /// It can't be used.
    Unusable(Reason),
}

#[derive(Debug, thiserror::Error)]
pub enum Reason {
    #[error("/dev/kvm can't be opened ({0})")]
    Open(#[source] io::Error),
    #[error(
        "/dev/kvm is there, but /proc/cpuinfo shows neither vmx nor svm: it can't run a stock kernel"
    )]
    NoExtension,
}

impl Display for Kvm {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usable { extension } => {
                write!(
                    f,
                    "using /dev/kvm: it opens, and the processor has {extension}"
                )
            }
            Self::Unusable(reason) => write!(f, "using the emulated host: {reason}"),
        }
    }
}

impl Kvm {
    #[must_use]
    pub fn is_usable(&self) -> bool {
        matches!(self, Self::Usable { .. })
    }
}

/// Looks at this machine.
#[must_use]
pub fn detect() -> Kvm {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    judge(&cpuinfo, Path::new("/dev/kvm"))
}

fn judge(cpuinfo: &str, device: &Path) -> Kvm {
    if let Err(error) = OpenOptions::new().read(true).write(true).open(device) {
        return Kvm::Unusable(Reason::Open(error));
    }
    match extension(cpuinfo) {
        Some(extension) => Kvm::Usable { extension },
        None => Kvm::Unusable(Reason::NoExtension),
    }
}

fn extension(cpuinfo: &str) -> Option<&'static str> {
    let flags = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("flags")?.split_once(':'))?
        .1;
    ["vmx", "svm"]
        .into_iter()
        .find(|wanted| flags.split_whitespace().any(|flag| flag == *wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_extension_among_the_flags() {
        assert_eq!(
            extension("processor\t: 0\nflags\t\t: fpu svm npt\n"),
            Some("svm")
        );
        assert_eq!(
            extension("flags\t\t: fpu vmx ept\nvmx flags\t: vnmi\n"),
            Some("vmx")
        );
    }

    #[test]
    fn other_flags_and_other_lines_do_not_count() {
        assert_eq!(
            extension("model name\t: svm\nflags\t\t: fpu svm_lock vmxoff\n"),
            None
        );
        assert_eq!(extension(""), None);
    }

    #[test]
    fn a_device_that_is_missing_is_named() {
        let kvm = judge("flags : svm", Path::new("/nonexistent/kvm"));
        assert!(!kvm.is_usable());
        assert!(kvm.to_string().contains("can't be opened"), "{kvm}");
    }

    #[test]
    fn a_device_without_the_extension_is_not_used() {
        let kvm = judge("flags : fpu", Path::new("/dev/null"));
        assert!(kvm.to_string().contains("neither vmx nor svm"), "{kvm}");
    }
}
