// SPDX-License-Identifier: Apache-2.0
//! A driver for tests: activates a device, puts requests into its queues, and looks at what comes
//! back, all on the test's own thread.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use virtio_bindings::bindings::virtio_ring::{VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use virtio_queue::desc::{RawDescriptor, split::Descriptor};
use virtio_queue::mock::MockSplitQueue;
use virtio_queue::{Queue, QueueT};
use vm_memory::{Address, Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

use super::queue::Line;
use super::registers::{INTERRUPT_STATUS, Registers};
use super::{Activation, Interrupt, QueueHandler, VirtQueue, VirtioDevice};
use crate::memory::{Memory, allocate};

/// Address space for each queue's rings, then for buffers.
const RINGS_LEN: u64 = 0x1_0000;
const BUFFERS: u64 = 0x10_0000;
const MEMORY_LEN: usize = 16 << 20;

/// An interrupt line that counts.
#[derive(Default)]
pub(crate) struct Counter(AtomicU32);

impl Counter {
    /// How often it was raised since it was last asked.
    pub(crate) fn take(&self) -> u32 {
        self.0.swap(0, Ordering::SeqCst)
    }
}

impl Line for Counter {
    fn raise(&self) -> io::Result<()> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    fn raise_soon(&self) -> io::Result<()> {
        self.raise()
    }
}

/// Whether a driver was interrupted, and what for; it acknowledges.
pub(crate) fn acknowledge(registers: &Registers) -> u32 {
    registers.word(INTERRUPT_STATUS).swap(0, Ordering::SeqCst)
}

pub(crate) struct Driver {
    pub(crate) memory: Memory,
    sizes: Vec<u16>,
    next: Vec<u16>,
    /// Where each queue's avail and used rings are.
    rings: Vec<(GuestAddress, GuestAddress)>,
    registers: Registers,
    handler: Option<Box<dyn QueueHandler>>,
}

/// What a request came back with.
#[derive(Debug)]
pub(crate) struct Reply {
    /// The length in the used ring.
    pub(crate) len: u32,
    /// All the bytes of the device-writable buffers.
    pub(crate) written: Vec<u8>,
}

impl Driver {
    pub(crate) fn new(sizes: &[u16]) -> Self {
        Self {
            memory: allocate(&[(GuestAddress(0), MEMORY_LEN)]).unwrap(),
            sizes: sizes.to_vec(),
            next: vec![0; sizes.len()],
            rings: Vec::new(),
            registers: Registers::alone(),
            handler: None,
        }
    }

    pub(crate) fn activate(&mut self, device: &mut dyn VirtioDevice, features: u64) {
        let interrupt = Interrupt::new(self.registers.clone(), Arc::<Counter>::default());
        // A driver resets a device before it starts it anew.
        self.handler = None;
        self.rings.clear();
        let mut queues = Vec::new();
        for (index, &size) in self.sizes.iter().enumerate() {
            let start = GuestAddress(index as u64 * RINGS_LEN);
            // Clears the indices of both rings.
            let mock = MockSplitQueue::create(&*self.memory, start, size);
            self.rings.push((mock.avail_addr(), mock.used_addr()));
            let queue: Queue = mock.create_queue().unwrap();
            assert!(queue.is_valid(&*self.memory));
            let (memory, kick) = (Arc::clone(&self.memory), EventFd::new(0).unwrap());
            queues.push(VirtQueue::new(
                index,
                queue,
                memory,
                interrupt.clone(),
                kick,
            ));
        }
        self.next.fill(0);
        self.handler = Some(
            device
                .activate(Activation {
                    memory: Arc::clone(&self.memory),
                    queues,
                    features,
                    interrupt,
                })
                .unwrap(),
        );
    }

    pub(crate) fn handler(&mut self) -> &mut dyn QueueHandler {
        self.handler.as_deref_mut().unwrap()
    }

    /// Where buffers may lie that a test wants to place itself.
    pub(crate) fn buffers() -> u64 {
        BUFFERS
    }

    /// One request: each of `readable` in a descriptor of its own, then one for each length in
    /// `writable`.
    pub(crate) fn request(&mut self, queue: usize, readable: &[&[u8]], writable: &[u32]) -> Reply {
        let mut at = BUFFERS;
        let mut descriptors = Vec::new();
        for bytes in readable {
            self.memory.write_slice(bytes, GuestAddress(at)).unwrap();
            descriptors.push((at, u32::try_from(bytes.len()).unwrap(), 0));
            at += bytes.len() as u64;
        }
        let replies = at;
        for &len in writable {
            descriptors.push((at, len, VRING_DESC_F_WRITE));
            at += u64::from(len);
        }
        self.memory
            .write_slice(
                &vec![0xee; usize::try_from(at - replies).unwrap()],
                GuestAddress(replies),
            )
            .unwrap();
        let len = self
            .chain(queue, &descriptors)
            .expect("the request comes back");
        let mut written = vec![0; usize::try_from(at - replies).unwrap()];
        self.memory
            .read_slice(&mut written, GuestAddress(replies))
            .unwrap();
        Reply { len, written }
    }

    /// Any chain of `(address, length, flags)`; the length in the used ring, if it was returned.
    pub(crate) fn chain(&mut self, queue: usize, descriptors: &[(u64, u32, u32)]) -> Option<u32> {
        let rings = GuestAddress(queue as u64 * RINGS_LEN);
        let size = self.sizes[queue];
        for (index, &(addr, len, flags)) in (0u16..).zip(descriptors) {
            let last = usize::from(index) + 1 == descriptors.len();
            let next = if last { 0 } else { VRING_DESC_F_NEXT };
            let flags = u16::try_from(flags | next).unwrap();
            let descriptor = RawDescriptor::from(Descriptor::new(addr, len, flags, index + 1));
            let at = rings.unchecked_add(u64::from(index) * 16);
            self.memory.write_obj(descriptor, at).unwrap();
        }
        self.publish(queue, 0);
        let idx_at = self.used(queue).unchecked_add(2);
        self.handler().queue_ready(queue).unwrap();
        let now: u16 = self.memory.read_obj(idx_at).unwrap();
        if now == self.next[queue].wrapping_sub(1) {
            return None;
        }
        assert_eq!(now, self.next[queue], "one request, one completion");
        let slot = u64::from(now.wrapping_sub(1) % size);
        let element = self.used(queue).unchecked_add(4 + slot * 8);
        let (id, len): (u32, u32) = (
            self.memory.read_obj(element).unwrap(),
            self.memory.read_obj(element.unchecked_add(4)).unwrap(),
        );
        assert_eq!(id, 0);
        assert_ne!(acknowledge(&self.registers), 0);
        Some(len)
    }

    /// Makes a chain available whose descriptors begin at number `head`, and has nothing served.
    pub(crate) fn offer(&mut self, queue: usize, head: u16, descriptors: &[(u64, u32, u32)]) {
        let rings = GuestAddress(queue as u64 * RINGS_LEN);
        for (index, &(addr, len, flags)) in (head..).zip(descriptors) {
            let last = usize::from(index - head) + 1 == descriptors.len();
            let next = if last { 0 } else { VRING_DESC_F_NEXT };
            let flags = u16::try_from(flags | next).unwrap();
            let descriptor = RawDescriptor::from(Descriptor::new(addr, len, flags, index + 1));
            let at = rings.unchecked_add(u64::from(index) * 16);
            self.memory.write_obj(descriptor, at).unwrap();
        }
        self.publish(queue, head);
    }

    /// Writes descriptors as they are: address, length, flags, next.
    pub(crate) fn raw(&self, at: u64, descriptors: &[(u64, u32, u32, u16)]) {
        for (index, &(addr, len, flags, next)) in (0..).zip(descriptors) {
            let flags = u16::try_from(flags).unwrap();
            let descriptor = RawDescriptor::from(Descriptor::new(addr, len, flags, next));
            let at = GuestAddress(at + index * 16);
            self.memory.write_obj(descriptor, at).unwrap();
        }
    }

    /// Where a queue's descriptors are.
    pub(crate) fn table(queue: usize) -> u64 {
        queue as u64 * RINGS_LEN
    }

    /// The entries of the used ring, as (head, length), from number `first` on.
    pub(crate) fn used_since(&self, queue: usize, first: u16) -> Vec<(u32, u32)> {
        let used = self.used(queue);
        let now: u16 = self.memory.read_obj(used.unchecked_add(2)).unwrap();
        let entry = |number: u16| {
            let at = 4 + u64::from(number % self.sizes[queue]) * 8;
            self.memory.read_obj(used.unchecked_add(at)).unwrap()
        };
        (first..now)
            .map(entry)
            .map(|e: u64| ((e & 0xffff_ffff) as u32, (e >> 32) as u32))
            .collect()
    }

    /// Whether the driver was interrupted since it was last asked.
    pub(crate) fn interrupted(&self) -> u32 {
        acknowledge(&self.registers)
    }

    /// What it reads of a register.
    pub(crate) fn register(&self, register: u64) -> u32 {
        self.registers.get(register)
    }

    /// Puts the chain that starts at descriptor `head` into the avail ring.
    pub(crate) fn publish(&mut self, queue: usize, head: u16) {
        let size = self.sizes[queue];
        let avail = self.rings[queue].0;
        let slot = u64::from(self.next[queue] % size);
        self.memory
            .write_obj(head, avail.unchecked_add(4 + slot * 2))
            .unwrap();
        self.next[queue] = self.next[queue].wrapping_add(1);
        self.memory
            .write_obj(self.next[queue], avail.unchecked_add(2))
            .unwrap();
    }

    fn used(&self, queue: usize) -> GuestAddress {
        self.rings[queue].1
    }
}
