// SPDX-License-Identifier: Apache-2.0
//! walnut-vmm: a minimal KVM microVM monitor. It boots one Linux guest with virtio-mmio devices, and
//! knows nothing of containers or images. Start reading at [`run`], in boot order.

#![deny(unsafe_code)]

pub mod arch;
mod board;
mod bus;
pub mod cli;
mod console;
mod control;
mod devices;
pub mod ending;
mod hotplug;
pub mod jail;
mod janitor;
mod lifeline;
pub mod logging;
mod machine;
pub mod memory;
mod pause;
mod prefault;
pub mod report;
pub mod run;
mod snapshot;
pub mod terminal;
mod vcpu;
pub mod virtio;
