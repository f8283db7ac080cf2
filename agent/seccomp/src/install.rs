// SPDX-License-Identifier: Apache-2.0
//! Gives a filter to the kernel: seccomp(2), `SECCOMP_SET_MODE_FILTER`.

#![expect(
    unsafe_code,
    reason = "a system call that no crate wraps for any filter"
)]

use libc::{sock_filter, sock_fprog};

use crate::MAX_LEN;

/// Bytes of an instruction.
const INSTRUCTION: usize = 8;

#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    #[error("install the seccomp filter")]
    Install(#[source] std::io::Error),
    #[error(
        "a seccomp filter has 1 to {MAX_LEN} instructions of {INSTRUCTION} bytes, not {len} bytes"
    )]
    Length { len: usize },
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

    /// The instructions as the kernel has them in memory, and the flags of seccomp(2).
    #[must_use]
    pub fn to_bytes(&self) -> (Vec<u8>, u32) {
        let mut bytes = Vec::with_capacity(self.code.len() * INSTRUCTION);
        for instruction in &self.code {
            bytes.extend(instruction.code.to_le_bytes());
            bytes.extend([instruction.jt, instruction.jf]);
            bytes.extend(instruction.k.to_le_bytes());
        }
        (bytes, u32::try_from(self.flags).unwrap_or(0))
    }

    /// The opposite of [`Self::to_bytes`]. What the instructions do is for the kernel to check.
    ///
    /// # Errors
    /// The length is no filter's.
    pub fn from_bytes(bytes: &[u8], flags: u32) -> Result<Self, FilterError> {
        let (instructions, rest) = bytes.as_chunks::<INSTRUCTION>();
        if instructions.is_empty() || instructions.len() > MAX_LEN || !rest.is_empty() {
            return Err(FilterError::Length { len: bytes.len() });
        }
        let code = instructions
            .iter()
            .map(
                |&[code_low, code_high, jt, jf, k0, k1, k2, k3]| sock_filter {
                    code: u16::from_le_bytes([code_low, code_high]),
                    jt,
                    jf,
                    k: u32::from_le_bytes([k0, k1, k2, k3]),
                },
            )
            .collect();
        Ok(Self {
            code,
            flags: flags.into(),
        })
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
    pub fn install(&self) -> Result<(), FilterError> {
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
            Err(FilterError::Install(std::io::Error::last_os_error()))
        }
    }
}
