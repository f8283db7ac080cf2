// SPDX-License-Identifier: Apache-2.0
//! Block devices that nobody is to write to: `BLKROSET` of linux/fs.h.
//!
//! A read-only mount does not keep a process with the right to make device nodes from the device
//! itself. What it writes there would be this machine's own, but the mounted file system would change
//! under everybody.

#![expect(unsafe_code, reason = "an ioctl that no crate wraps")]

use std::ffi::c_int;
use std::os::fd::AsFd;

use rustix::fs::FileType;
use rustix::io::Errno;
use rustix::ioctl::{Opcode, Setter, ioctl, opcode};

const BLKROSET: Opcode = opcode::none(0x12, 93);

/// Opening the device for writing fails from now on. What is no block device stays as it is.
///
/// # Errors
/// The kernel refuses.
pub fn set_read_only(device: impl AsFd) -> Result<(), Errno> {
    let mode = rustix::fs::fstat(&device)?.st_mode;
    if FileType::from_raw_mode(mode) != FileType::BlockDevice {
        return Ok(());
    }
    // SAFETY: BLKROSET reads one int, which the setter points to.
    let setter = unsafe { Setter::<BLKROSET, c_int>::new(1) };
    // SAFETY: nothing else is read or written, and no memory is kept.
    unsafe { ioctl(device, setter) }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn a_file_is_left_alone() {
        set_read_only(File::open("/dev/null").unwrap()).unwrap();
        set_read_only(tempfile::tempfile().unwrap()).unwrap();
    }
}
