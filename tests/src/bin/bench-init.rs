// SPDX-License-Identifier: Apache-2.0
//! The guest's PID 1 in the benchmark's race to init: it says one word on the kernel's console and
//! then nothing more.
//!
//! Without Rust's own start, which wants a `/dev/null` where there is no console to inherit.

#![no_main]
#![deny(unsafe_code)]

use std::fs::OpenOptions;
use std::io::Write;

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

/// Priority 0, so that `quiet` doesn't hold it back; the word is `INIT_SAYS` of the bench's rows.
const WORD: &[u8] = b"<0>walnut-bench-init\n";

#[expect(unsafe_code, reason = "the C library calls this name")]
// SAFETY: no other function of this program has the name, and the type is one that it may have.
#[unsafe(no_mangle)]
extern "C" fn main() -> std::ffi::c_int {
    let kmsg = "/kmsg";
    // Any failure shows as the word's absence: there is nobody to tell.
    let _ = mknodat(
        CWD,
        kmsg,
        FileType::CharacterDevice,
        Mode::RWXU,
        makedev(1, 11),
    );
    let _ = OpenOptions::new()
        .write(true)
        .open(kmsg)
        .and_then(|mut file| file.write_all(WORD));
    // PID 1 must not end.
    loop {
        let _ = rustix::event::poll(&mut [], None);
    }
}
