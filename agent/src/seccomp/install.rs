// SPDX-License-Identifier: Apache-2.0
//! Gives a filter to the kernel: seccomp(2), `SECCOMP_SET_MODE_FILTER`.

#![expect(
    unsafe_code,
    reason = "a system call that no crate wraps for any filter"
)]

use libc::{sock_filter, sock_fprog};

#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    #[error("install the seccomp filter")]
    Install(#[source] std::io::Error),
}

/// A compiled profile.
#[derive(Clone, Debug)]
pub struct Filter {
    code: Vec<sock_filter>,
    flags: libc::c_ulong,
}

impl Filter {
    pub(super) fn new(code: Vec<sock_filter>, flags: libc::c_ulong) -> Self {
        Self { code, flags }
    }

    #[cfg(test)]
    pub(super) fn code(&self) -> &[sock_filter] {
        &self.code
    }

    /// Puts the calling thread under the filter, for good. It needs `CAP_SYS_ADMIN` or
    /// no_new_privs.
    ///
    /// # Errors
    /// The caller has neither, or the kernel doesn't like the filter.
    pub fn install(&self) -> Result<(), InstallError> {
        let program = sock_fprog {
            // compile() has bounded it.
            len: u16::try_from(self.code.len()).unwrap_or(u16::MAX),
            filter: self.code.as_ptr().cast_mut(),
        };
        // SAFETY: the kernel reads `len` instructions at `filter`, which `self.code` has, and copies
        // them.
        let answer = unsafe {
            libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_SET_MODE_FILTER,
                self.flags,
                &raw const program,
            )
        };
        if answer == 0 {
            Ok(())
        } else {
            Err(InstallError::Install(std::io::Error::last_os_error()))
        }
    }
}
