// SPDX-License-Identifier: Apache-2.0
//! Strips the monitor: cargo forgets the profile's `strip` for a package whose level of optimization
//! is its own.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var("PROFILE").as_deref() == Ok("release") {
        println!("cargo::rustc-link-arg-bins=-Wl,--strip-all");
    }
}
