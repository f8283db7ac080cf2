// SPDX-License-Identifier: Apache-2.0
//! Links `walnut` to fixed addresses: nothing is relocated when it starts, and its tables of
//! pointers are the page cache's, shared by all supervisors. What it gives up is chance in where
//! its own code lies (stack, heap and mappings are still anywhere). It runs no guest, and the bytes
//! of others it reads are read by safe Rust; `walnut-vmm`, which runs one, stays as it is.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    for arg in ["-no-pie", "-static"] {
        println!("cargo::rustc-link-arg-bin=walnut={arg}");
    }
}
