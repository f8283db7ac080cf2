// SPDX-License-Identifier: Apache-2.0
//! Whether this machine can run virtual machines, and in words why not. The engine asks before it
//! starts anything, the monitor when it opens `/dev/kvm`: both get the same answer. And what both ask of
//! the host's kernel: taps, seccomp filters; and what both say in passt's stead.

#![deny(unsafe_code)]

mod group;
pub mod handshake;
mod kvm;
mod processor;
pub mod seccomp;
mod tap;

pub use kvm::{DEVICE, KvmError, check, open};
pub use processor::{CpuInfo, NO_VIRTUALIZATION, extension, has_virtualization};
pub use tap::{TUN, TapError, check_interface_name, open_tap};
