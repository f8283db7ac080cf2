// SPDX-License-Identifier: Apache-2.0
//! The guest's `/init`.
//!
//! Without Rust's own start: that aborts where descriptors 0 to 2 are closed and there is no
//! `/dev/null` to put in their place, as it is for PID 1 of a guest without a console.

#![no_main]
#![deny(unsafe_code)]

use std::ffi::{CStr, c_char, c_int};

#[expect(unsafe_code, reason = "the C library calls this name")]
// SAFETY: no other function of this program has the name, and the type is the one that is called.
#[unsafe(no_mangle)]
extern "C" fn main(argc: c_int, argv: *const *const c_char) -> c_int {
    if argc == 2 && first_argument(argv) == c"--version" {
        return walnut_agent::print_version();
    }
    walnut_agent::main()
}

/// There must be one.
fn first_argument<'a>(argv: *const *const c_char) -> &'a CStr {
    #[expect(unsafe_code, reason = "the C library's way to pass arguments")]
    // SAFETY: main's second argument is an array of at least two pointers.
    let argument = unsafe { argv.wrapping_add(1).read() };
    #[expect(unsafe_code, reason = "the C library's way to pass arguments")]
    // SAFETY: each points to a string that ends with a zero byte and lives as long as the process.
    unsafe {
        CStr::from_ptr(argument)
    }
}
