// SPDX-License-Identifier: Apache-2.0
//! mmap(2): shared pages are the file.

#![expect(unsafe_code, reason = "memory that the kernel maps")]

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::ensure;
use rustix::mm::{self, MapFlags, MsyncFlags, ProtFlags};

const LEN: usize = 8192;

pub fn mmap(dir: &Path) -> anyhow::Result<()> {
    let path = dir.join("file");
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create_new(true).open(path)?;
    file.set_len(LEN as u64)?;
    let map = |flags| {
        let rights = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping, wherever there is room, replaces none.
        unsafe { mm::mmap(std::ptr::null_mut(), LEN, rights, flags, &file, 0) }
    };
    let shared = map(MapFlags::SHARED)?.cast::<u8>();
    let private = map(MapFlags::PRIVATE)?.cast::<u8>();
    let last = LEN - 1;
    // SAFETY: within the mapping, which is of the file's length.
    let (at, own) = unsafe { (shared.add(last), private) };
    // SAFETY: as above; a byte of a mapping that may be written to.
    unsafe { at.write_volatile(b'm') };
    // SAFETY: as above.
    unsafe { own.write_volatile(b'p') };
    // SAFETY: the whole mapping.
    unsafe { mm::msync(shared.cast(), LEN, MsyncFlags::SYNC) }?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, last as u64)?;
    ensure!(byte == *b"m", "written by memory, read: {byte:?}");
    file.read_exact_at(&mut byte, 0)?;
    ensure!(byte == [0], "a private page went to the file");
    file.write_all_at(b"w", 100)?;
    // SAFETY: within the mapping.
    let at = unsafe { shared.add(100) };
    // SAFETY: as above; it may be read.
    let seen = unsafe { at.read_volatile() };
    ensure!(seen == b'w', "written, read by memory: {seen}");
    for mapping in [shared, private] {
        // SAFETY: nothing refers to it any more.
        unsafe { mm::munmap(mapping.cast(), LEN) }?;
    }
    Ok(())
}
