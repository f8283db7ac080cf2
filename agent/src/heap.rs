// SPDX-License-Identifier: Apache-2.0
//! How the C library keeps memory: each page that the agent holds is one that no container has, and
//! that each clone of a template has for itself.

#![expect(unsafe_code, reason = "a setting of the C library that no crate wraps")]

/// What is larger is given back as soon as it is free, and costs what is used of it.
const LARGE: libc::c_int = 32 << 10;

/// One heap for all threads, which do little, and never at once. To be called before there is a
/// second one.
pub fn keep_small() {
    for (what, value) in [(libc::M_ARENA_MAX, 1), (libc::M_MMAP_THRESHOLD, LARGE)] {
        // SAFETY: mallopt(3) changes settings of an allocator that no other thread uses yet.
        if unsafe { libc::mallopt(what, value) } == 0 {
            log::debug!("the C library does not know of setting {what}");
        }
    }
}
