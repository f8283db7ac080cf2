// SPDX-License-Identifier: Apache-2.0
//! A split virtqueue (virtio 1.3 §2.7) with all that serving it takes: memory, interrupt, and the
//! event that the driver's kick raises. Runs on the thread of the device's handler.

#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

use super::registers::{
    CONFIG_GENERATION, INTERRUPT_STATUS, Registers, STATUS, STATUS_NEEDS_RESET,
};
use crate::memory::{GuestMemory, Memory};

/// Bits of the transport's InterruptStatus (virtio 1.3 §4.2.2).
pub const INTERRUPT_USED: u32 = 1;
pub const INTERRUPT_CONFIG: u32 = 2;

/// `VIRTQ_AVAIL_F_NO_INTERRUPT` (§2.7.6).
const AVAIL_F_NO_INTERRUPT: u16 = 1;

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
    Interrupt(#[source] io::Error),
    #[error("cannot wait for the device's events")]
    Events(#[source] io::Error),
}

/// Wired to the guest's interrupt controller.
pub trait Line: Send + Sync {
    fn raise(&self) -> io::Result<()>;

    /// A little later will do: then one may be for several.
    fn raise_soon(&self) -> io::Result<()>;
}

/// The device's one interrupt: status bits, then the line.
#[derive(Clone)]
pub struct Interrupt {
    registers: Registers,
    line: Arc<dyn Line>,
}

impl Interrupt {
    pub fn new(registers: Registers, line: Arc<dyn Line>) -> Self {
        Self { registers, line }
    }

    pub fn signal_used(&self) -> Result<(), QueueError> {
        self.signal(INTERRUPT_USED)
    }

    /// Of buffers that nobody waits for.
    fn signal_used_soon(&self) -> Result<(), QueueError> {
        self.registers.add(INTERRUPT_STATUS, INTERRUPT_USED);
        self.line.raise_soon().map_err(QueueError::Interrupt)
    }

    pub fn signal_config(&self) -> Result<(), QueueError> {
        self.signal(INTERRUPT_CONFIG)
    }

    /// Shows the driver another configuration, and tells it so.
    pub fn change_config(&self, config: &[u8]) -> Result<(), QueueError> {
        self.registers.set_config(config);
        let generation = self.registers.get(CONFIG_GENERATION);
        self.registers
            .set(CONFIG_GENERATION, generation.wrapping_add(1));
        self.signal_config()
    }

    /// The device can't go on (virtio 1.3 §2.1.2).
    pub fn needs_reset(&self) -> Result<(), QueueError> {
        self.registers.add(STATUS, STATUS_NEEDS_RESET);
        self.signal_config()
    }

    /// The line alone.
    pub fn raise(&self) -> io::Result<()> {
        self.line.raise()
    }

    fn signal(&self, bit: u32) -> Result<(), QueueError> {
        self.registers.add(INTERRUPT_STATUS, bit);
        self.raise().map_err(QueueError::Interrupt)
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
        let mut ring = self.ring();
        while let Some(chain) = ring.take()? {
            let head = chain.head_index();
            let Some(len) = serve(ring.memory, chain) else {
                ring.put_back(1);
                break;
            };
            ring.complete(head, len)?;
        }
        ring.finish()
    }

    /// For a device that wants several chains at once.
    pub fn ring(&mut self) -> Ring<'_> {
        Ring {
            index: self.index,
            budget: usize::from(self.queue.size()) * ROUNDS,
            first_used: self.queue.next_used(),
            queue: &mut self.queue,
            memory: &self.memory,
            interrupt: &self.interrupt,
            kick: &self.kick,
            quiet: false,
        }
    }

    /// Raises the queue's event, for a handler that stopped early.
    pub fn wake(&self) -> Result<(), QueueError> {
        self.kick.write(1).map_err(QueueError::Interrupt)
    }

    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    pub fn state(&self) -> QueueState {
        QueueState::of(&self.queue)
    }
}

/// One visit to a queue. Chains are taken in order; each is completed, or put back in reverse.
pub struct Ring<'a> {
    index: usize,
    queue: &'a mut Queue,
    memory: &'a GuestMemory,
    interrupt: &'a Interrupt,
    kick: &'a EventFd,
    /// Chains that this visit may still take, or packets that it may drop.
    budget: usize,
    /// The driver's notifications are off.
    quiet: bool,
    /// Where the used ring ended before.
    first_used: u16,
}

impl<'a> Ring<'a> {
    pub fn memory(&self) -> &'a GuestMemory {
        self.memory
    }

    /// Entries of the queue.
    pub fn size(&self) -> u16 {
        self.queue.size()
    }

    /// The next chain that is available. After `None` the queue's event comes when there is one.
    pub fn take(&mut self) -> Result<Option<DescriptorChain<&'a GuestMemory>>, QueueError> {
        let index = self.index;
        let ring = |source| QueueError::Ring { index, source };
        if !self.queue.ready() {
            return Ok(None);
        }
        // Each look counts: in rings that lie in each other, what is written here is a new chain each time.
        while self.goes_on()? {
            if !self.quiet {
                self.queue.disable_notification(self.memory).map_err(ring)?;
                self.quiet = true;
            }
            if let Some(chain) = self.queue.iter(self.memory).map_err(ring)?.next() {
                return Ok(Some(chain));
            }
            self.quiet = false;
            if !self.queue.enable_notification(self.memory).map_err(ring)? {
                return Ok(None);
            }
        }
        Ok(None)
    }

    /// One piece of work more in this visit. Where that is too much, the queue's event comes for the rest:
    /// neither a driver that never stops nor whoever sends to it keeps this thread from its other work.
    pub fn goes_on(&mut self) -> Result<bool, QueueError> {
        let Some(left) = self.budget.checked_sub(1) else {
            self.kick.write(1).map_err(QueueError::Interrupt)?;
            return Ok(false);
        };
        self.budget = left;
        Ok(true)
    }

    /// Makes the last `count` chains that were taken, and not completed, available again.
    pub fn put_back(&mut self, count: usize) {
        for _ in 0..count {
            self.queue.go_to_previous_position();
        }
        self.budget += count;
    }

    /// Returns a chain, `len` bytes of which were written.
    pub fn complete(&mut self, head: u16, len: u32) -> Result<(), QueueError> {
        self.complete_all(&[(head, len)])
    }

    /// Returns several chains, each with the bytes of it that were written: the driver sees all of
    /// them at once, or none (§5.1.6.4 asks for that).
    pub fn complete_all(&mut self, chains: &[(u16, u32)]) -> Result<(), QueueError> {
        let index = self.index;
        self.add_used(chains)
            .map_err(|source| QueueError::Ring { index, source })
    }

    /// §2.7.8.
    fn add_used(&mut self, chains: &[(u16, u32)]) -> Result<(), virtio_queue::Error> {
        let size = self.queue.size();
        let mut next = self.queue.next_used();
        for &(head, len) in chains {
            if head >= size {
                return Err(virtio_queue::Error::InvalidDescriptorIndex);
            }
            let offset = 4 + u64::from(next % size) * 8;
            // struct virtq_used_elem: le32 id, le32 len.
            let element = u64::from(head) | u64::from(len) << 32;
            self.memory
                .write_obj(element.to_le(), at(self.queue.used_ring(), offset)?)
                .map_err(virtio_queue::Error::GuestMemory)?;
            next = next.wrapping_add(1);
        }
        self.queue.set_next_used(next);
        self.memory
            .store(
                next.to_le(),
                at(self.queue.used_ring(), 2)?,
                Ordering::Release,
            )
            .map_err(virtio_queue::Error::GuestMemory)
    }

    /// Interrupts the driver once, if chains were completed and it wants to know.
    pub fn finish(self) -> Result<(), QueueError> {
        match self.is_wanted()? {
            true => self.interrupt.signal_used(),
            false => Ok(()),
        }
    }

    /// As [`Self::finish`], where the driver has nothing but its buffers back.
    pub fn finish_soon(self) -> Result<(), QueueError> {
        match self.is_wanted()? {
            true => self.interrupt.signal_used_soon(),
            false => Ok(()),
        }
    }

    fn is_wanted(&self) -> Result<bool, QueueError> {
        let index = self.index;
        self.wants_interrupt()
            .map_err(|source| QueueError::Ring { index, source })
    }

    /// §2.7.7.2: with EVENT_IDX, when the used ring has passed the entry that the driver named.
    fn wants_interrupt(&self) -> Result<bool, virtio_queue::Error> {
        let (first, next) = (self.first_used, self.queue.next_used());
        if first == next {
            return Ok(false);
        }
        // The driver may go to sleep at this very moment: the ring first, then its wish.
        fence(Ordering::SeqCst);
        let (offset, is_event) = match self.queue.event_idx_enabled() {
            true => (4 + 2 * u64::from(self.queue.size()), true),
            false => (0, false),
        };
        let wish: u16 = self
            .memory
            .load(at(self.queue.avail_ring(), offset)?, Ordering::Relaxed)
            .map_err(virtio_queue::Error::GuestMemory)?;
        let wish = u16::from_le(wish);
        Ok(if is_event {
            next.wrapping_sub(wish).wrapping_sub(1) < next.wrapping_sub(first)
        } else {
            wish & AVAIL_F_NO_INTERRUPT == 0
        })
    }
}

/// An address in a ring, which the driver chose.
fn at(ring: u64, offset: u64) -> Result<GuestAddress, virtio_queue::Error> {
    ring.checked_add(offset)
        .map(GuestAddress)
        .ok_or(virtio_queue::Error::AddressOverflow)
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
