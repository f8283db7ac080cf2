// SPDX-License-Identifier: Apache-2.0
//! The guest's PID 1: mounts, runs containers, answers the host.
//!
//! In the order of a machine's life: [`boot`] makes a place to stand on, [`helper`] is forked while
//! there is one thread, [`listen`] opens the way to the host, [`service`] carries out what it says
//! ([`create`] for the most part), [`reaper`] waits for what ends, [`shutdown`] ends the rest.
//! Nothing polls: each thread sleeps in a system call until there is something for it.

#![deny(unsafe_code)]

pub mod agent;
pub mod boot;
pub mod cgroup;
pub mod clock;
pub mod failure;
pub mod files;
pub mod helper;
pub mod kmsg;
pub mod listen;
pub mod service;
pub mod shutdown;

mod block;
mod channel;
mod connections;
mod container;
mod create;
mod devices;
mod entropy;
mod heap;
mod id;
mod init;
mod jit;
mod launcher;
mod loopback;
mod mounts;
mod network;
mod paths;
mod pid1;
mod process;
mod processes;
mod pump;
mod reaper;
mod security;
mod spec;
mod streams;
mod sysctl;
mod systemd;
mod user;
mod wake;

use std::sync::{Mutex, MutexGuard, PoisonError};

pub use pid1::{main, print_version};
pub use reaper::block_sigchld;

/// Where the agent keeps what it needs of each container.
pub const STATE_DIR: &str = "/run/agent";

/// A panic elsewhere leaves nothing half-done under the agent's locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
