// SPDX-License-Identifier: Apache-2.0
//! What the engine tells the monitor, and what the monitor tells back.
//!
//! `walnut-vmm --config-fd N` reads one [`VmConfig`] as JSON from an inherited file descriptor and,
//! when the document asks for it, writes [`Report`]s as JSON lines to another and takes [`Command`]s
//! on a third. Neither side needs
//! the other's code for this: these types are the whole contract.

#![deny(unsafe_code)]

mod control;
mod net;
mod report;
mod vm;

pub use control::{Answer, Command, Plug, PlugBackend};
pub use net::{Bucket, MAX_MTU, MIN_MTU, Mac, MacError, NetBackend, NetConfig, NetRate, Rate};
pub use report::{Ending, Report};
pub use vm::{
    Console, DiskConfig, FsConfig, FsSource, MAX_CPUS, MIN_MEMORY_MIB, Owner, PmemConfig,
    SnapshotFiles, VmConfig, Volume, VsockConfig,
};
