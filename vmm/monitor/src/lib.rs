// SPDX-License-Identifier: Apache-2.0
//! walnut-vmm: a minimal KVM microVM monitor. It boots one Linux guest with virtio-mmio devices, and
//! knows nothing of containers or images.

#![deny(unsafe_code)]

pub mod arch;
mod bus;
mod console;
pub mod ending;
pub mod host;
pub mod logging;
pub mod memory;
pub mod report;
pub mod terminal;
mod vcpu;
pub mod virtio;
