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

use walnut_vmm_host::extension;

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

#[cfg(test)]
mod tests {
    use super::*;

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
