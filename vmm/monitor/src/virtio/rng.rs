// SPDX-License-Identifier: Apache-2.0
//! virtio-rng (virtio 1.3 §5.4): the host's random bytes for the guest. One queue of buffers to be
//! filled; no configuration. Served by the monitor's event loop.

use std::io::Write;

use virtio_queue::DescriptorChain;

use super::plain::PlainHandler;
use super::{ActivateError, Activation, QueueHandler, VirtioDevice};
use crate::memory::GuestMemory;

/// §5.4.
const TYPE: u32 = 4;

const QUEUE_SIZES: &[u16] = &[64];

/// Most bytes for one request: what the kernel's driver asks for at once is far less.
const MAX_REQUEST: usize = 4096;

pub struct Rng;

impl VirtioDevice for Rng {
    fn device_type(&self) -> u32 {
        TYPE
    }

    fn queue_sizes(&self) -> &[u16] {
        QUEUE_SIZES
    }

    fn activate(&mut self, activation: Activation) -> Result<Box<dyn QueueHandler>, ActivateError> {
        Ok(PlainHandler::boxed(activation, fill))
    }
}

/// Fills a chain's buffers; what cannot be filled is reported as not written.
fn fill(memory: &GuestMemory, chain: DescriptorChain<&GuestMemory>) -> u32 {
    let Ok(mut writer) = chain.writer(memory) else {
        return 0;
    };
    let mut bytes = [0; MAX_REQUEST];
    let wanted = writer.available_bytes().min(MAX_REQUEST);
    let flags = rustix::rand::GetRandomFlags::empty();
    let Ok(len) = rustix::rand::getrandom(&mut bytes[..wanted], flags) else {
        return 0;
    };
    match writer.write_all(&bytes[..len]) {
        Ok(()) => u32::try_from(len).expect("at most MAX_REQUEST"),
        Err(_) => 0,
    }
}
