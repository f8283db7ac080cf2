// SPDX-License-Identifier: Apache-2.0

use std::sync::Arc;

use virtio_bindings::bindings::virtio_ring::VRING_DESC_F_WRITE;
use virtio_queue::QueueT as _;
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::{INTERRUPT_USED, Interrupt, QueueState, ROUNDS, VirtQueue};
use crate::memory::{GuestMemory, Memory, allocate};
use crate::virtio::registers::{INTERRUPT_STATUS, Registers};
use crate::virtio::test_driver::Counter;

const SIZE: u16 = 4;
const DESC: u64 = 0x1000;
const AVAIL: u64 = 0x2000;
const USED: u64 = 0x3000;

struct Driver {
    memory: Memory,
    kick: EventFd,
    registers: Registers,
}

fn queue() -> (Driver, VirtQueue) {
    let memory = allocate(&[(GuestAddress(0), 1 << 20)]).unwrap();
    for index in 0..u64::from(SIZE) {
        let entry = DESC + index * 16;
        memory.write_obj(0x8000u64, GuestAddress(entry)).unwrap();
        let rest = 64u64 | u64::from(VRING_DESC_F_WRITE) << 32;
        memory.write_obj(rest, GuestAddress(entry + 8)).unwrap();
    }
    let state = QueueState {
        max_size: SIZE,
        size: SIZE,
        ready: true,
        desc_table: DESC,
        avail_ring: AVAIL,
        used_ring: USED,
        ..QueueState::default()
    };
    let registers = Registers::alone();
    let interrupt = Interrupt::new(registers.clone(), Arc::<Counter>::default());
    let kick = EventFd::new(EFD_NONBLOCK).unwrap();
    let driver = Driver {
        memory: Arc::clone(&memory),
        kick: kick.try_clone().unwrap(),
        registers,
    };
    let queue = VirtQueue::new(0, state.restore().unwrap(), memory, interrupt, kick);
    (driver, queue)
}

/// Makes `count` more chains available, in the order of their descriptors.
fn offer(memory: &GuestMemory, count: u16) {
    let idx: u16 = memory.read_obj(GuestAddress(AVAIL + 2)).unwrap();
    for number in idx..idx + count {
        let slot = number % SIZE;
        let entry = AVAIL + 4 + u64::from(slot) * 2;
        memory.write_obj(slot, GuestAddress(entry)).unwrap();
    }
    memory
        .write_obj(idx + count, GuestAddress(AVAIL + 2))
        .unwrap();
}

fn used(memory: &GuestMemory) -> u16 {
    memory.read_obj(GuestAddress(USED + 2)).unwrap()
}

#[test]
fn a_driver_that_never_stops_is_left_for_later() {
    let (driver, mut queue) = queue();
    offer(&driver.memory, SIZE);
    let mut served = 0;
    queue
        .serve(|memory, _| {
            served += 1;
            assert!(served < 1000, "this thread has other work");
            offer(memory, 1);
            0
        })
        .unwrap();
    assert_eq!(served, usize::from(SIZE) * ROUNDS);
    assert_eq!(driver.kick.read().unwrap(), 1, "and not forgotten");
}

#[test]
fn rings_that_lie_in_each_other_are_left_for_later() {
    let (driver, mut queue) = queue();
    // The flags of the one are the index of the other.
    let rings = QueueState {
        avail_ring: USED - 2,
        used_ring: USED,
        ..queue.state()
    };
    queue.queue = rings.restore().unwrap();
    assert!(queue.queue.is_valid(&*driver.memory));
    let (done, served) = std::sync::mpsc::channel();
    std::thread::spawn(move || done.send(queue.serve(|_, _| 0).is_ok()));
    let patience = std::time::Duration::from_secs(10);
    assert_eq!(served.recv_timeout(patience), Ok(true));
    assert_eq!(driver.kick.read().unwrap(), 1, "and not forgotten");
}

#[test]
fn what_is_put_back_comes_again_in_order() {
    let (driver, mut queue) = queue();
    offer(&driver.memory, 3);
    let mut ring = queue.ring();
    let heads: Vec<_> = (0..3)
        .map(|_| ring.take().unwrap().unwrap().head_index())
        .collect();
    assert_eq!(heads, [0, 1, 2]);
    assert!(ring.take().unwrap().is_none());
    ring.complete(0, 7).unwrap();
    ring.put_back(2);
    assert_eq!(ring.take().unwrap().unwrap().head_index(), 1);
    ring.put_back(1);
    ring.finish().unwrap();
    assert_eq!(used(&driver.memory), 1);
    assert_eq!(driver.registers.get(INTERRUPT_STATUS), INTERRUPT_USED);
    let mut again = Vec::new();
    queue
        .serve(|_, chain| {
            again.push(chain.head_index());
            0
        })
        .unwrap();
    assert_eq!(again, [1, 2]);
    assert_eq!(queue.state().next_avail, 3);
}

#[test]
fn nothing_served_is_nothing_to_interrupt_for() {
    let (driver, mut queue) = queue();
    offer(&driver.memory, 1);
    queue.serve_while(|_, _| None).unwrap();
    assert_eq!(used(&driver.memory), 0);
    assert_eq!(driver.registers.get(INTERRUPT_STATUS), 0);
    assert!(driver.kick.read().is_err());
}

#[test]
fn a_driver_is_asked_not_to_kick_while_it_is_served() {
    let (driver, mut queue) = queue();
    // VIRTQ_USED_F_NO_NOTIFY (§2.7.10), without EVENT_IDX.
    let flags = |memory: &GuestMemory| memory.read_obj::<u16>(GuestAddress(USED)).unwrap();
    offer(&driver.memory, 1);
    queue
        .serve(|memory, _| {
            assert_eq!(flags(memory), 1);
            0
        })
        .unwrap();
    assert_eq!(flags(&driver.memory), 0);
}

/// Serves `count` chains more, one visit each, and says after which of them the driver, which wants
/// to hear of the used ring's entry `event` (VIRTIO_F_EVENT_IDX, §2.7.7.1), was interrupted.
fn interrupted_after(count: u16, event: u16) -> Vec<u16> {
    let (driver, mut queue) = queue();
    queue.queue.set_event_idx(true);
    let used_event = GuestAddress(AVAIL + 4 + 2 * u64::from(SIZE));
    driver.memory.write_obj(event, used_event).unwrap();
    let served = |number: &u16| {
        offer(&driver.memory, 1);
        queue.serve(|_, _| 0).unwrap();
        let word = driver.registers.word(INTERRUPT_STATUS);
        assert_eq!(used(&driver.memory), *number);
        word.swap(0, std::sync::atomic::Ordering::SeqCst) != 0
    };
    (1..=count).filter(served).collect()
}

#[test]
fn a_driver_hears_of_the_entry_that_it_names() {
    assert_eq!(interrupted_after(5, 0), [1]);
    assert_eq!(interrupted_after(5, 2), [3]);
    assert_eq!(interrupted_after(3, 7), [0; 0]);
}

#[test]
fn a_device_names_the_chain_that_it_waits_for() {
    let (driver, mut queue) = queue();
    queue.queue.set_event_idx(true);
    let avail_event = GuestAddress(USED + 4 + 8 * u64::from(SIZE));
    let named = |memory: &GuestMemory| memory.read_obj::<u16>(avail_event).unwrap();
    for number in 1..=6 {
        offer(&driver.memory, 1);
        queue
            .serve(|memory, _| {
                assert_ne!(named(memory), number, "no kick is wanted now");
                0
            })
            .unwrap();
        assert_eq!(named(&driver.memory), number);
    }
}

#[test]
fn a_queue_that_is_not_ready_is_left_alone() {
    let (driver, mut queue) = queue();
    queue.queue = QueueState {
        ready: false,
        ..queue.state()
    }
    .restore()
    .unwrap();
    offer(&driver.memory, 1);
    queue.serve(|_, _| panic!("there is no queue")).unwrap();
}
