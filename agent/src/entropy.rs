// SPDX-License-Identifier: Apache-2.0
//! Feeds the kernel's random number generator: random(4), `RNDADDENTROPY` and `RNDRESEEDCRNG`.
//!
//! A restored clone has the generator of its template: it must be told apart before anything runs.

#![expect(unsafe_code, reason = "ioctls that no crate wraps")]

use std::fs::OpenOptions;
use std::io;
use std::os::fd::AsRawFd;

/// Most bytes that one call credits.
pub const MAX_SEED: usize = 512;

// linux/random.h: _IOW('R', 0x03, int[2]) and _IO('R', 0x07).
const RNDADDENTROPY: libc::c_ulong = 0x4008_5203;
const RNDRESEEDCRNG: libc::c_ulong = 0x5207;

/// `struct rand_pool_info`, its buffer included.
#[repr(C)]
struct RandPoolInfo {
    entropy_count_bits: i32,
    buf_size: i32,
    buf: [u8; MAX_SEED],
}

/// Why the generator was not fed.
#[derive(Debug, thiserror::Error)]
pub enum EntropyError {
    #[error("a seed has 1 to {MAX_SEED} bytes, not {len}")]
    Length { len: usize },
    #[error("open /dev/urandom")]
    Open(#[source] io::Error),
    #[error("credit {len} bytes of entropy")]
    Credit { len: usize, source: io::Error },
    #[error("reseed the random number generator")]
    Reseed(#[source] io::Error),
}

/// Mixes `seed` in, credits eight bits for each byte, and makes the generator take a new key.
///
/// # Errors
/// See [`EntropyError`].
pub fn add(seed: &[u8]) -> Result<(), EntropyError> {
    let len = seed.len();
    let size = match i32::try_from(len) {
        Ok(size) if (1..=MAX_SEED).contains(&len) => size,
        _ => return Err(EntropyError::Length { len }),
    };
    let mut info = RandPoolInfo {
        entropy_count_bits: size * 8,
        buf_size: size,
        buf: [0; MAX_SEED],
    };
    info.buf[..len].copy_from_slice(seed);
    let random = OpenOptions::new()
        .write(true)
        .open("/dev/urandom")
        .map_err(EntropyError::Open)?;
    // SAFETY: RNDADDENTROPY reads the two counts and `buf_size` bytes after them, which `info` has.
    let answer = unsafe { libc::ioctl(random.as_raw_fd(), RNDADDENTROPY, &raw const info) };
    if answer < 0 {
        return Err(EntropyError::Credit {
            len,
            source: io::Error::last_os_error(),
        });
    }
    // SAFETY: RNDRESEEDCRNG takes no argument.
    let answer = unsafe { libc::ioctl(random.as_raw_fd(), RNDRESEEDCRNG) };
    if answer < 0 {
        return Err(EntropyError::Reseed(io::Error::last_os_error()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_is_bounded() {
        assert!(matches!(add(&[]), Err(EntropyError::Length { len: 0 })));
        assert!(matches!(
            add(&[0; MAX_SEED + 1]),
            Err(EntropyError::Length { len: 513 })
        ));
    }

    #[test]
    fn the_kernel_takes_a_seed() {
        match add(&[7; 32]) {
            Ok(()) => {}
            Err(EntropyError::Credit { source, .. })
                if source.kind() == io::ErrorKind::PermissionDenied =>
            {
                eprintln!("SKIPPED: crediting entropy needs CAP_SYS_ADMIN");
            }
            Err(other) => panic!("{other:?}"),
        }
    }
}
