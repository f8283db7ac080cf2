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

use std::env;
use std::io;
use std::path::PathBuf;

pub use client::{Outcome, Run, RunError, run, shell};

/// The `emulated-host` binary that was built with this program: beside it, or for a test one up.
///
/// # Errors
/// When it isn't there: nobody built it.
pub fn program() -> io::Result<PathBuf> {
    let this = env::current_exe()?;
    let mut near = this
        .ancestors()
        .skip(1)
        .take(2)
        .map(|place| place.join("emulated-host"));
    near.find(|path| path.is_file()).ok_or_else(|| {
        let words = format!("no emulated-host beside {}", this.display());
        io::Error::new(io::ErrorKind::NotFound, words)
    })
}
