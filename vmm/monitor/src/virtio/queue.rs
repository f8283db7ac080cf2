// SPDX-License-Identifier: Apache-2.0
//! A split virtqueue (virtio 1.3 §2.7) with all that serving it takes: memory, interrupt, and the
//! event that the driver's kick raises. Runs on the thread of the device's handler.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};
use vmm_sys_util::eventfd::EventFd;

use crate::memory::{GuestMemory, Memory};

/// Bits of the transport's InterruptStatus (virtio 1.3 §4.2.2).
pub const INTERRUPT_USED: u32 = 1;
pub const INTERRUPT_CONFIG: u32 = 2;

/// Chains served in one go, in queue sizes, before other events get their turn.
const ROUNDS: usize = 4;

#[derive(Debug, Error)]
pub enum QueueError {
    #[error("queue {index}: the driver broke the ring")]
    Ring {
        index: usize,
        source: virtio_queue::Error,
    },
    #[error("cannot raise the device's interrupt")]
    Interrupt(#[source] std::io::Error),
    #[error("cannot wait for the device's events")]
    Events(#[source] std::io::Error),
}

/// The device's one interrupt line: status bits, then the irqfd.
#[derive(Clone)]
pub struct Interrupt {
    status: Arc<AtomicU32>,
    irqfd: Arc<EventFd>,
}

impl Interrupt {
    pub fn new(status: Arc<AtomicU32>, irqfd: Arc<EventFd>) -> Self {
        Self { status, irqfd }
    }

    pub fn signal_used(&self) -> Result<(), QueueError> {
        self.signal(INTERRUPT_USED)
    }

    pub fn signal_config(&self) -> Result<(), QueueError> {
        self.signal(INTERRUPT_CONFIG)
    }

    fn signal(&self, bit: u32) -> Result<(), QueueError> {
        self.status.fetch_or(bit, Ordering::SeqCst);
        self.irqfd.write(1).map_err(QueueError::Interrupt)
    }
}

pub struct VirtQueue {
    index: usize,
    queue: Queue,
    memory: Memory,
    interrupt: Interrupt,
    kick: EventFd,
}

impl VirtQueue {
    pub fn new(
        index: usize,
        queue: Queue,
        memory: Memory,
        interrupt: Interrupt,
        kick: EventFd,
    ) -> Self {
        Self {
            index,
            queue,
            memory,
            interrupt,
            kick,
        }
    }

    /// Serves every chain that is available: `serve` executes one and says how many bytes it wrote.
    /// Interrupts the driver once, if it wants to know.
    pub fn serve(
        &mut self,
        mut serve: impl FnMut(&GuestMemory, DescriptorChain<&GuestMemory>) -> u32,
    ) -> Result<(), QueueError> {
        self.serve_while(|memory, chain| Some(serve(memory, chain)))
    }

    /// Like [`VirtQueue::serve`], but stops, and leaves the chain available, when `serve` has no use
    /// for it now.
    pub fn serve_while(
        &mut self,
        mut serve: impl FnMut(&GuestMemory, DescriptorChain<&GuestMemory>) -> Option<u32>,
    ) -> Result<(), QueueError> {
        let index = self.index;
        let ring = |source| QueueError::Ring { index, source };
        let memory: &GuestMemory = &self.memory;
        let mut budget = usize::from(self.queue.size()) * ROUNDS;
        let mut used = false;
        if !self.queue.ready() {
            return Ok(());
        }
        'drain: loop {
            self.queue.disable_notification(memory).map_err(ring)?;
            while let Some(chain) = self.queue.iter(memory).map_err(ring)?.next() {
                let head = chain.head_index();
                let Some(len) = serve(memory, chain) else {
                    self.queue.go_to_previous_position();
                    break 'drain;
                };
                self.queue.add_used(memory, head, len).map_err(ring)?;
                used = true;
                budget -= 1;
                if budget == 0 {
                    // A driver that never stops must not keep this thread from its other work.
                    self.kick.write(1).map_err(QueueError::Interrupt)?;
                    break 'drain;
                }
            }
            if !self.queue.enable_notification(memory).map_err(ring)? {
                break;
            }
        }
        if used && self.queue.needs_notification(memory).map_err(ring)? {
            self.interrupt.signal_used()?;
        }
        Ok(())
    }

    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    pub fn state(&self) -> QueueState {
        QueueState::of(&self.queue)
    }
}

/// A queue's registers and positions, to be saved.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct QueueState {
    pub max_size: u16,
    pub size: u16,
    pub ready: bool,
    pub event_idx: bool,
    pub next_avail: u16,
    pub next_used: u16,
    pub desc_table: u64,
    pub avail_ring: u64,
    pub used_ring: u64,
}

impl QueueState {
    pub fn of(queue: &Queue) -> Self {
        Self {
            max_size: queue.max_size(),
            size: queue.size(),
            ready: queue.ready(),
            event_idx: queue.event_idx_enabled(),
            next_avail: queue.next_avail(),
            next_used: queue.next_used(),
            desc_table: queue.desc_table(),
            avail_ring: queue.avail_ring(),
            used_ring: queue.used_ring(),
        }
    }

    /// Checks what a queue needs: sizes that are powers of two, aligned rings.
    pub fn restore(&self) -> Result<Queue, virtio_queue::Error> {
        Queue::try_from(virtio_queue::QueueState {
            max_size: self.max_size,
            next_avail: self.next_avail,
            next_used: self.next_used,
            event_idx_enabled: self.event_idx,
            size: self.size,
            ready: self.ready,
            desc_table: self.desc_table,
            avail_ring: self.avail_ring,
            used_ring: self.used_ring,
        })
    }
}
