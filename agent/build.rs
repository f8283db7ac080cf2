// SPDX-License-Identifier: Apache-2.0
//! Links the agent with packed relocations: as a static, position-independent program it carries
//! them all itself, and unpacked they are a tenth of the program.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
}
