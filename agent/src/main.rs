// SPDX-License-Identifier: Apache-2.0
//! The guest's `/init`.
//!
//! Without Rust's own start: that aborts where descriptors 0 to 2 are closed and there is no
//! `/dev/null` to put in their place, as it is for PID 1 of a guest without a console.

#![no_main]
#![deny(unsafe_code)]

#[expect(unsafe_code, reason = "the C library calls this name")]
// SAFETY: no other function of this program has the name, and the type is the one that is called.
#[unsafe(no_mangle)]
extern "C" fn main(
    _argc: std::ffi::c_int,
    _argv: *const *const std::ffi::c_char,
) -> std::ffi::c_int {
    walnut_agent::main()
}
