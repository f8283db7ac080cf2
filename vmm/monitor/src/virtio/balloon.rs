// SPDX-License-Identifier: Apache-2.0
//! virtio-balloon (virtio 1.3 §5.5): guest memory that the guest does not use goes back to the host.
//! Served by the monitor's event loop.
//!
//! What counts is free page reporting (§5.5.6.7): the guest names free ranges by itself, and takes
//! them back by touching them. The balloon proper is never asked to grow.

#[cfg(test)]
mod tests;

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::mm::Advice;
use serde::{Deserialize, Serialize};
use virtio_queue::DescriptorChain;
use vm_memory::{GuestAddress, GuestMemory as _, VolatileSlice, bitmap::MS};

use super::{
    ActivateError, Activation, DeviceState, QueueError, QueueHandler, VirtQueue, VirtioDevice,
};
use crate::memory::GuestMemory;

/// §5.5.
const TYPE: u32 = 5;

// Queues. Drivers number those that the agreed features bring, without gaps: reporting is the third.
const INFLATE: usize = 0;
const REPORTING: usize = 2;

/// The kernel's driver wants to report 32 ranges at a time.
const QUEUE_SIZES: &[u16] = &[128, 128, 32];

// Features, §5.5.3.
const DEFLATE_ON_OOM: u64 = 1 << 2;
const PAGE_REPORTING: u64 = 1 << 5;

/// The balloon counts in such pages, whatever the guest's are (§5.5.6).
const PAGE_LEN: u64 = 4096;
const PAGE_MASK: usize = 4096 - 1;

/// Page numbers taken from one chain: the kernel's driver sends 256 at a time.
const MAX_PAGES: usize = 4096;

/// Ranges taken from one chain.
const MAX_RANGES: usize = 256;

/// Where `actual` is in the configuration structure (§5.5.4).
const ACTUAL: u64 = 4;

#[derive(Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
struct State {
    actual: u32,
}

#[derive(Debug, Default)]
pub struct Balloon {
    /// Pages in the balloon, says the driver.
    actual: Arc<AtomicU32>,
}

impl Balloon {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl VirtioDevice for Balloon {
    fn device_type(&self) -> u32 {
        TYPE
    }

    fn queue_sizes(&self) -> &[u16] {
        QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        DEFLATE_ON_OOM | PAGE_REPORTING
    }

    fn config(&self) -> Vec<u8> {
        // `num_pages`, the size that is asked for, stays zero.
        let mut config = vec![0; 4];
        config.extend(self.actual.load(Ordering::Relaxed).to_le_bytes());
        config
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        if let (ACTUAL, Ok(bytes)) = (offset, data.try_into()) {
            self.actual
                .store(u32::from_le_bytes(bytes), Ordering::Relaxed);
        }
    }

    fn activate(&mut self, activation: Activation) -> Result<Box<dyn QueueHandler>, ActivateError> {
        Ok(Box::new(BalloonHandler {
            queues: activation.queues,
            reporting: activation.features & PAGE_REPORTING != 0,
            actual: Arc::clone(&self.actual),
        }))
    }
}

struct BalloonHandler {
    queues: Vec<VirtQueue>,
    reporting: bool,
    actual: Arc<AtomicU32>,
}

impl QueueHandler for BalloonHandler {
    fn queue_ready(&mut self, index: usize) -> Result<(), QueueError> {
        let reporting = self.reporting;
        let Some(queue) = self.queues.get_mut(index) else {
            return Ok(());
        };
        queue.serve(|memory, chain| {
            match index {
                INFLATE => inflate(memory, chain),
                REPORTING if reporting => report(memory, chain),
                // A page that leaves the balloon comes back by itself when it is touched.
                _ => {}
            }
            0
        })
    }

    fn queues(&self) -> &[VirtQueue] {
        &self.queues
    }

    fn save(&self) -> io::Result<DeviceState> {
        let actual = self.actual.load(Ordering::Relaxed);
        Ok(serde_json::to_value(State { actual })?)
    }

    fn restore(&mut self, state: DeviceState) -> Result<(), ActivateError> {
        let state: State = serde_json::from_value(state)
            .map_err(|error| ActivateError::State(error.to_string()))?;
        self.actual.store(state.actual, Ordering::Relaxed);
        Ok(())
    }
}

/// Gives back the pages whose numbers (le32) the chain holds. Runs of them go in one piece.
fn inflate(memory: &GuestMemory, chain: DescriptorChain<&GuestMemory>) {
    let Ok(mut reader) = chain.reader(memory) else {
        return;
    };
    let mut run = 0..0;
    for _ in 0..MAX_PAGES {
        let mut number = [0; 4];
        if reader.read_exact(&mut number).is_err() {
            break;
        }
        let start = u64::from(u32::from_le_bytes(number)) * PAGE_LEN;
        if start == run.end {
            run.end += PAGE_LEN;
        } else {
            discard(memory, run.start, run.end - run.start);
            run = start..start + PAGE_LEN;
        }
    }
    discard(memory, run.start, run.end - run.start);
}

/// Gives back the ranges that the chain's buffers are.
fn report(memory: &GuestMemory, chain: DescriptorChain<&GuestMemory>) {
    for desc in chain.writable().take(MAX_RANGES) {
        discard(memory, desc.addr().0, desc.len().into());
    }
}

/// Gives back the whole pages of a range, as far as it is guest memory.
fn discard(memory: &GuestMemory, start: u64, len: u64) {
    let Ok(len) = usize::try_from(len) else {
        return;
    };
    for slice in memory.get_slices(GuestAddress(start), len) {
        match slice {
            Ok(slice) => give_back(&slice),
            Err(error) => {
                log::debug!("balloon: {len} bytes at {start:#x}: {error}");
                return;
            }
        }
    }
}

fn give_back(slice: &VolatileSlice<'_, MS<'_, GuestMemory>>) {
    let guard = slice.ptr_guard_mut();
    let head = guard.as_ptr().align_offset(PAGE_MASK + 1);
    let Some(len) = slice.len().checked_sub(head).map(|len| len & !PAGE_MASK) else {
        return;
    };
    if len == 0 {
        return;
    }
    let start = guard.as_ptr().wrapping_add(head);
    #[expect(unsafe_code, reason = "madvise is unsafe by nature")]
    // SAFETY: the range is guest memory, mapped as long as the guard lives. The guest said that it
    // does not need what is there, and this process keeps nothing of its own in it.
    let advised = unsafe { rustix::mm::madvise(start.cast(), len, Advice::LinuxDontNeed) };
    if let Err(error) = advised {
        log::debug!("balloon: cannot give back {len} bytes: {error}");
    }
}
