// SPDX-License-Identifier: Apache-2.0
//! The emulated host: a Debian kernel with a stock `/dev/kvm` in QEMU's TCG, which emulates an AMD
//! processor with SVM and nested paging. For machines whose own KVM can't run a normal kernel.
//!
//! ```text
//! emulated-host run -- CMD           (here, [`client`])
//!   └─ qemu-system-x86_64 -accel tcg (here, [`qemu`]); dies with its parent
//!        host kernel + initramfs     ([`kernel`], [`initramfs`]; cached)
//!          └─ emulated-host, PID 1   (inside, [`inside`]): / over 9p, tmpfs overlay on top
//!               └─ CMD               same paths, directory and environment as outside
//! ```
//!
//! Nothing is scraped from the console: four virtio-serial ports carry control ([`wire`]), stdin,
//! stdout and stderr. All of them, and the console, are socket pairs that QEMU inherits, so there
//! is no temporary file to clean up, however the run ends.

mod client;
mod initramfs;
pub mod inside;
mod kernel;
mod modules;
mod qemu;
mod tail;
mod terminal;
mod wire;

pub use client::{Outcome, Run, RunError, run, shell};
