// SPDX-License-Identifier: Apache-2.0
//! The register machine against drivers that keep to the order of virtio 1.3 §3.1.1, drivers that
//! do not, and any writes at all.

mod devices;

use std::sync::{Arc, Mutex};

use event_manager::{EventManager, SubscriberOps};
use proptest::prelude::*;
use virtio_bindings::bindings::virtio_ring::VRING_DESC_F_WRITE;
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::memory::allocate;
use crate::virtio::queue::{INTERRUPT_CONFIG, INTERRUPT_USED};
use crate::virtio::registers::{DEVICE_ID, MAGIC_VALUE, MMIO_LEN, SHM_LEN_LOW, VERSION};
use crate::virtio::rng::Rng;
use crate::virtio::test_driver::Counter;
use crate::virtio::{ActivateError, DeviceState, QueueError, QueueHandler};

const READY: u32 = STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK | STATUS_DRIVER_OK;

const DESC: u32 = 0x1000;
const AVAIL: u32 = 0x2000;
const USED: u32 = 0x3000;
const BUFFER: u64 = 0x8000;
const SIZE: u16 = 16;

/// Each queue has rings and a buffer of its own.
fn queue_start(index: u32) -> u32 {
    index * 0x1_0000
}

/// A device that remembers what happens to it.
#[derive(Default)]
struct Probe {
    refuses: bool,
    config: Vec<u8>,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    features: Vec<u64>,
    ready: Vec<bool>,
    kicks: Vec<usize>,
    restored: Vec<DeviceState>,
}

struct ProbeHandler {
    queues: Vec<VirtQueue>,
    seen: Arc<Mutex<Seen>>,
}

const PROBE_FEATURES: u64 = 1 << 33 | 1 << 5;

impl VirtioDevice for Probe {
    fn device_type(&self) -> u32 {
        42
    }

    fn queue_sizes(&self) -> &[u16] {
        &[16, 64]
    }

    fn features(&self) -> u64 {
        PROBE_FEATURES
    }

    fn config(&self) -> Vec<u8> {
        self.config.clone()
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        self.config = offset.to_le_bytes().to_vec();
        self.config.extend_from_slice(data);
    }

    fn activate(&mut self, activation: Activation) -> Result<Box<dyn QueueHandler>, ActivateError> {
        if self.refuses {
            return Err(ActivateError::State("as the test wants".to_owned()));
        }
        let mut seen = self.seen.lock().unwrap();
        seen.features.push(activation.features);
        seen.ready = activation
            .queues
            .iter()
            .map(|queue| queue.state().ready)
            .collect();
        Ok(Box::new(ProbeHandler {
            queues: activation.queues,
            seen: Arc::clone(&self.seen),
        }))
    }
}

impl QueueHandler for ProbeHandler {
    fn queue_ready(&mut self, index: usize) -> Result<(), QueueError> {
        self.seen.lock().unwrap().kicks.push(index);
        self.queues[index].serve(|_, _| 0)
    }

    fn queues(&self) -> &[VirtQueue] {
        &self.queues
    }

    fn save(&self) -> std::io::Result<DeviceState> {
        Ok(serde_json::json!({ "probe": 7 }))
    }

    fn restore(&mut self, state: DeviceState) -> Result<(), ActivateError> {
        self.seen.lock().unwrap().restored.push(state);
        Ok(())
    }
}

/// A transport, and the thread that serves it.
struct Machine {
    transport: MmioTransport,
    registers: Registers,
    line: Arc<Counter>,
    events: EventManager<DeviceEvents>,
    memory: Memory,
}

impl Machine {
    fn new(device: impl VirtioDevice + 'static) -> Self {
        Self::with_memory(device, allocate(&[(GuestAddress(0), 1 << 20)]).unwrap())
    }

    fn with_memory(device: impl VirtioDevice + 'static, memory: Memory) -> Self {
        let (registers, line) = (Registers::alone(), Arc::<Counter>::default());
        let transport = MmioTransport::new(
            "test",
            Box::new(device),
            Arc::clone(&memory),
            registers.clone(),
            line.clone(),
        )
        .unwrap();
        let mut events = EventManager::new().unwrap();
        events.add_subscriber(transport.events().unwrap());
        Self {
            transport,
            registers,
            line,
            events,
            memory,
        }
    }

    fn read(&self, register: u64) -> u32 {
        self.registers.get(register)
    }

    fn write(&mut self, offset: u64, value: u32) {
        self.transport.write(offset, &value.to_le_bytes());
    }

    /// Serves what is due.
    fn run(&mut self) {
        self.events.run_with_timeout(0).unwrap();
    }

    fn negotiate(&mut self, features: u64) {
        self.write(STATUS, STATUS_ACKNOWLEDGE);
        self.write(STATUS, STATUS_ACKNOWLEDGE | STATUS_DRIVER);
        for (selector, half) in (0..).zip([features & 0xffff_ffff, features >> 32]) {
            self.write(DRIVER_FEATURES_SEL, selector);
            self.write(DRIVER_FEATURES, u32::try_from(half).unwrap());
        }
        self.write(
            STATUS,
            STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK,
        );
    }

    fn set_up_queue(&mut self, index: u32) {
        let start = queue_start(index);
        self.write(QUEUE_SEL, index);
        self.write(QUEUE_SIZE, SIZE.into());
        self.write(QUEUE_DESC_LOW, start + DESC);
        self.write(QUEUE_DRIVER_LOW, start + AVAIL);
        self.write(QUEUE_DEVICE_LOW, start + USED);
        self.write(QUEUE_READY, 1);
    }

    /// All of §3.1.1.
    fn start(&mut self) {
        self.negotiate(VERSION_1);
        self.set_up_queue(0);
        self.write(STATUS, READY);
        assert_eq!(self.read(STATUS), READY);
    }

    /// Makes a buffer of `len` bytes available, as the `number`th ever.
    fn offer(&mut self, number: u16, len: u32) {
        let desc = u64::from(DESC);
        self.memory.write_obj(BUFFER, GuestAddress(desc)).unwrap();
        let rest = u64::from(len) | u64::from(VRING_DESC_F_WRITE) << 32;
        self.memory.write_obj(rest, GuestAddress(desc + 8)).unwrap();
        let avail = u64::from(AVAIL);
        let entry = GuestAddress(avail + 4 + u64::from(number % SIZE) * 2);
        self.memory.write_obj(0u16, entry).unwrap();
        self.memory
            .write_obj(number + 1, GuestAddress(avail + 2))
            .unwrap();
    }

    fn used_idx(&self) -> u16 {
        let idx = GuestAddress(u64::from(USED) + 2);
        self.memory.read_obj(idx).unwrap()
    }
}

/// A machine with a probe in it, and what that sees.
fn probed() -> (Machine, Arc<Mutex<Seen>>) {
    let probe = Probe::default();
    let seen = Arc::clone(&probe.seen);
    (Machine::new(probe), seen)
}

/// Offers the `number`th buffer and has it served.
fn request(machine: &mut Machine, number: u16) {
    machine.offer(number, 64);
    machine.write(QUEUE_NOTIFY, 0);
    machine.run();
}

#[test]
fn says_what_it_is() {
    let machine = Machine::new(Rng);
    assert_eq!(machine.read(MAGIC_VALUE), 0x7472_6976);
    assert_eq!(machine.read(VERSION), 2);
    assert_eq!(machine.read(DEVICE_ID), 4);
    assert_eq!(machine.read(SHM_LEN_LOW), u32::MAX);
    assert_eq!(machine.read(STATUS), 0);
    assert_eq!(machine.read(0xdc), 0);
}

#[test]
fn features_are_offered_in_halves() {
    let mut machine = Machine::new(Probe::default());
    let mut half = |selector| {
        machine.write(DEVICE_FEATURES_SEL, selector);
        u64::from(machine.read(DEVICE_FEATURES))
    };
    assert_eq!(half(0) | half(1) << 32, PROBE_FEATURES | TRANSPORT_FEATURES);
    assert_eq!(half(2), 0);
}

#[test]
fn a_device_runs_when_its_driver_kept_the_order() {
    let (mut machine, seen) = probed();
    machine.negotiate(VERSION_1 | 1 << 5);
    machine.set_up_queue(1);
    assert_eq!(machine.read(QUEUE_SIZE_MAX), 64);
    assert_eq!(machine.read(QUEUE_READY), 1);
    machine.write(STATUS, READY);
    let seen = seen.lock().unwrap();
    assert_eq!(seen.features, [VERSION_1 | 1 << 5]);
    assert_eq!(seen.ready, [false, true]);
}

#[test]
fn features_that_were_not_offered_are_not_ok() {
    for features in [0, EVENT_IDX, VERSION_1 | 1 << 7, VERSION_1 | 1 << 63] {
        let (mut machine, seen) = probed();
        machine.negotiate(features);
        assert_eq!(machine.read(STATUS), STATUS_ACKNOWLEDGE | STATUS_DRIVER);
        machine.write(STATUS, READY);
        assert!(seen.lock().unwrap().features.is_empty(), "{features:#x}");
    }
}

#[test]
fn features_are_settled_once_they_are_ok() {
    let (mut machine, seen) = probed();
    machine.negotiate(VERSION_1);
    machine.write(DRIVER_FEATURES_SEL, 0);
    machine.write(DRIVER_FEATURES, 1 << 5);
    machine.write(STATUS, READY);
    assert_eq!(seen.lock().unwrap().features, [VERSION_1]);
}

#[test]
fn without_all_of_the_order_no_device_runs() {
    for status in [
        STATUS_DRIVER_OK,
        READY & !STATUS_ACKNOWLEDGE,
        READY & !STATUS_DRIVER,
        READY | STATUS_FAILED,
    ] {
        let (mut machine, seen) = probed();
        machine.write(DRIVER_FEATURES_SEL, 1);
        machine.write(DRIVER_FEATURES, 1);
        machine.write(STATUS, status);
        assert!(seen.lock().unwrap().features.is_empty(), "{status:#x}");
    }
}

#[test]
fn status_bits_are_cleared_by_a_reset_only() {
    let mut machine = Machine::new(Rng);
    machine.write(STATUS, STATUS_ACKNOWLEDGE | STATUS_DRIVER);
    machine.write(STATUS, STATUS_DRIVER);
    assert_eq!(machine.read(STATUS), STATUS_ACKNOWLEDGE | STATUS_DRIVER);
    machine.write(STATUS, 0);
    assert_eq!(machine.read(STATUS), 0);
}

#[test]
fn queue_registers_take_writes_between_features_and_driver_ok() {
    let mut machine = Machine::new(Rng);
    machine.set_up_queue(0);
    assert_eq!(machine.read(QUEUE_READY), 0, "before FEATURES_OK");
    machine.start();
    machine.write(QUEUE_READY, 0);
    assert_eq!(machine.read(QUEUE_READY), 1, "after DRIVER_OK");
    machine.write(QUEUE_DESC_LOW, 0x5000);
    let state = machine.transport.freeze_here().save().unwrap();
    assert_eq!(state.queues[0].desc_table, u64::from(DESC));
}

#[test]
fn a_queue_that_does_not_exist_is_none() {
    let mut machine = Machine::new(Rng);
    machine.negotiate(VERSION_1);
    machine.set_up_queue(1);
    assert_eq!(machine.read(QUEUE_SIZE_MAX), 0);
    assert_eq!(machine.read(QUEUE_READY), 0);
    machine.write(QUEUE_NOTIFY, 1);
    machine.write(QUEUE_NOTIFY, u32::MAX);
    machine.run();
}

#[test]
fn a_size_that_is_none_leaves_the_queue_as_it_was() {
    let mut machine = Machine::new(Rng);
    machine.negotiate(VERSION_1);
    machine.write(QUEUE_SIZE, 32);
    for size in [0, 3, 128, 65536 + 16, u32::MAX] {
        machine.write(QUEUE_SIZE, size);
        assert_eq!(
            machine.transport.freeze_here().save().unwrap().queues[0].size,
            32,
            "{size}"
        );
    }
}

#[test]
fn a_queue_outside_memory_is_not_used() {
    let (mut machine, seen) = probed();
    machine.negotiate(VERSION_1);
    machine.set_up_queue(0);
    machine.write(QUEUE_DEVICE_HIGH, 1);
    machine.set_up_queue(1);
    machine.write(STATUS, READY);
    assert_eq!(seen.lock().unwrap().ready, [false, true]);
    machine.write(QUEUE_NOTIFY, 0);
    machine.run();
    assert_eq!(machine.read(STATUS), READY);
}

#[test]
fn a_request_is_served_and_interrupts() {
    let mut machine = Machine::new(Rng);
    machine.start();
    machine.offer(0, 64);
    machine.write(QUEUE_NOTIFY, 0);
    assert_eq!(machine.used_idx(), 0, "not on the vCPU's thread");
    machine.run();
    assert_eq!(machine.used_idx(), 1);
    assert_eq!(machine.read(INTERRUPT_STATUS), INTERRUPT_USED);
    assert_eq!(machine.line.take(), 1);
    machine.write(INTERRUPT_ACK, INTERRUPT_CONFIG);
    assert_eq!(machine.read(INTERRUPT_STATUS), INTERRUPT_USED);
    machine.write(INTERRUPT_ACK, INTERRUPT_USED);
    assert_eq!(machine.read(INTERRUPT_STATUS), 0);
}

#[test]
fn after_a_reset_all_is_as_at_first() {
    let mut machine = Machine::new(Rng);
    let fresh = machine.transport.freeze_here().save().unwrap();
    machine.start();
    request(&mut machine, 0);
    machine.write(DEVICE_FEATURES_SEL, 1);
    machine.write(STATUS, 0);
    assert_eq!(machine.transport.freeze_here().save().unwrap(), fresh);
    // A kick from before finds nobody.
    machine.write(QUEUE_NOTIFY, 0);
    machine.run();
    assert_eq!(machine.read(STATUS), 0);
    // And the whole again.
    machine
        .memory
        .write_obj(0u32, GuestAddress(u64::from(USED)))
        .unwrap();
    machine.start();
    request(&mut machine, 0);
    assert_eq!(machine.used_idx(), 1);
}

#[test]
fn a_broken_ring_needs_a_reset_and_says_so_once() {
    let mut machine = Machine::new(Rng);
    machine.start();
    // More available than the queue has entries.
    let idx = GuestAddress(u64::from(AVAIL) + 2);
    machine.memory.write_obj(SIZE + 1, idx).unwrap();
    machine.write(QUEUE_NOTIFY, 0);
    machine.run();
    assert_eq!(machine.read(STATUS), READY | STATUS_NEEDS_RESET);
    assert_eq!(machine.read(INTERRUPT_STATUS), INTERRUPT_CONFIG);
    assert_eq!(machine.line.take(), 1);
    machine.write(QUEUE_NOTIFY, 0);
    machine.run();
    assert_eq!(machine.line.take(), 0);
    // A driver that writes its own bits does not clear the device's.
    machine.write(STATUS, READY | STATUS_FAILED);
    assert_ne!(machine.read(STATUS) & STATUS_NEEDS_RESET, 0);
    machine.write(STATUS, 0);
    machine.memory.write_obj(0u16, idx).unwrap();
    machine.start();
}

#[test]
fn a_device_that_cannot_start_needs_a_reset() {
    let mut machine = Machine::new(Probe {
        refuses: true,
        ..Probe::default()
    });
    machine.negotiate(VERSION_1);
    machine.write(STATUS, READY);
    assert_eq!(machine.read(STATUS), READY | STATUS_NEEDS_RESET);
    assert_eq!(machine.read(INTERRUPT_STATUS), INTERRUPT_CONFIG);
}

#[test]
fn the_configuration_space_is_the_devices() {
    let mut machine = Machine::new(Probe::default());
    machine.transport.write(CONFIG + 3, b"abc");
    assert_eq!(machine.read(CONFIG), 3);
    assert_eq!(machine.read(CONFIG + 8), u32::from_le_bytes(*b"abc\0"));
    // As much of it as there is room for.
    machine.transport.write(CONFIG, &[7; 5000]);
    assert_eq!(machine.read(MMIO_LEN - 4), 0x0707_0707);
}

/// Through JSON, as a template keeps it.
fn through_json(state: &TransportState) -> TransportState {
    serde_json::from_str(&serde_json::to_string(state).unwrap()).unwrap()
}

#[test]
fn a_restored_device_goes_on_where_it_was() {
    let mut machine = Machine::new(Rng);
    machine.start();
    for number in 0..3 {
        request(&mut machine, number);
    }
    // One more, whose kick is lost with the old process.
    machine.offer(3, 64);
    let state = through_json(&machine.transport.freeze_here().save().unwrap());
    let mut restored = Machine::with_memory(Rng, Arc::clone(&machine.memory));
    drop(machine);
    restored.transport.restore(state.clone()).unwrap();
    assert_eq!(
        through_json(&restored.transport.freeze_here().save().unwrap()),
        state
    );
    assert_eq!(restored.read(STATUS), READY);
    assert_eq!(restored.read(INTERRUPT_STATUS), INTERRUPT_USED);
    restored.run();
    assert_eq!(restored.used_idx(), 4);
    request(&mut restored, 4);
    assert_eq!(restored.used_idx(), 5);
}

#[test]
fn a_devices_own_state_is_handed_back() {
    let mut machine = Machine::new(Probe::default());
    machine.start();
    let state = through_json(&machine.transport.freeze_here().save().unwrap());
    let (mut restored, seen) = probed();
    restored.transport.restore(state).unwrap();
    let expected = serde_json::json!({ "probe": 7 });
    assert_eq!(seen.lock().unwrap().restored, [expected]);
    restored.run();
    assert_eq!(seen.lock().unwrap().kicks, [0, 1]);
}

#[test]
fn a_device_that_never_ran_does_not_run_after_a_restore() {
    let mut machine = Machine::new(Probe::default());
    machine.write(STATUS, STATUS_DRIVER_OK);
    let state = through_json(&machine.transport.freeze_here().save().unwrap());
    let (mut restored, seen) = probed();
    restored.transport.restore(state).unwrap();
    assert!(seen.lock().unwrap().features.is_empty());
}

#[test]
fn the_state_of_another_device_is_refused() {
    let mut machine = Machine::new(Rng);
    machine.start();
    let good = machine.transport.freeze_here().save().unwrap();
    let fresh = || Machine::new(Rng).transport;
    let with = |change: fn(&mut TransportState)| {
        let mut state = good.clone();
        change(&mut state);
        state
    };
    use super::state::RestoreError;
    assert!(matches!(
        fresh().restore(with(|state| state.device_type = 5)),
        Err(RestoreError::DeviceType { saved: 5, here: 4 })
    ));
    assert!(matches!(
        fresh().restore(with(|state| state.queues.clear())),
        Err(RestoreError::Queues { saved: 0, here: 1 })
    ));
    assert!(matches!(
        fresh().restore(with(|state| state.driver_features |= 1 << 40)),
        Err(RestoreError::Features(lacking)) if lacking == 1 << 40
    ));
    assert!(matches!(
        fresh().restore(with(|state| state.queues[0].size = 3)),
        Err(RestoreError::Queue { index: 0, .. })
    ));
    assert!(matches!(
        fresh().restore(with(|state| state.queues[0].desc_table = 1)),
        Err(RestoreError::Queue { index: 0, .. })
    ));
}

#[derive(Clone, Debug)]
enum Access {
    Write(u64, Vec<u8>),
    Memory(u64, u64),
    Run,
    SaveAndRestore,
}

fn access() -> impl Strategy<Value = Access> {
    let register = prop_oneof![
        4 => Just(STATUS),
        3 => prop::sample::select(vec![
            DRIVER_FEATURES, DRIVER_FEATURES_SEL, QUEUE_SEL, QUEUE_SIZE, QUEUE_READY, QUEUE_NOTIFY,
            INTERRUPT_ACK, QUEUE_DESC_LOW, QUEUE_DESC_HIGH, QUEUE_DRIVER_LOW, QUEUE_DRIVER_HIGH,
            QUEUE_DEVICE_LOW, QUEUE_DEVICE_HIGH,
        ]),
        1 => 0u64..0x1000,
    ];
    let value = prop_oneof![
        3 => prop::sample::select(vec![
            0, 1, 3, 11, 15, 16, DESC, AVAIL, USED, STATUS_FAILED, STATUS_NEEDS_RESET, u32::MAX,
        ]),
        1 => any::<u32>(),
    ];
    prop_oneof![
        12 => (register, value).prop_map(|(offset, value)| {
            Access::Write(offset, value.to_le_bytes().to_vec())
        }),
        1 => (0u64..0x1000, prop::collection::vec(any::<u8>(), 0..9))
            .prop_map(|(offset, bytes)| Access::Write(offset, bytes)),
        3 => (0u64..0x800, any::<u64>()).prop_map(|(at, value)| Access::Memory(at * 8, value)),
        3 => Just(Access::Run),
        1 => Just(Access::SaveAndRestore),
    ]
}

proptest! {
    #[test]
    fn any_accesses_leave_a_machine_that_works(
        started: bool,
        accesses in prop::collection::vec(access(), 1..80),
    ) {
        let mut machine = Machine::new(Rng);
        if started {
            machine.start();
        }
        for access in accesses {
            match access {
                Access::Write(offset, bytes) => machine.transport.write(offset, &bytes),
                Access::Memory(at, value) => {
                    machine.memory.write_obj(value, GuestAddress(at)).unwrap();
                }
                Access::Run => machine.run(),
                Access::SaveAndRestore => {
                    let state = through_json(&machine.transport.freeze_here().save().unwrap());
                    machine = Machine::with_memory(Rng, Arc::clone(&machine.memory));
                    machine.transport.restore(state.clone()).unwrap();
                    prop_assert_eq!(through_json(&machine.transport.freeze_here().save().unwrap()), state);
                }
            }
            let status = machine.read(STATUS);
            let state = machine.transport.freeze_here().save().unwrap();
            let acceptable = state.driver_features & !TRANSPORT_FEATURES == 0
                && state.driver_features & VERSION_1 != 0;
            prop_assert!(status & STATUS_FEATURES_OK == 0 || acceptable);
        }
        // Whatever it was, a reset puts it right.
        machine.write(STATUS, 0);
        machine.memory.write_slice(&[0; 0x3000], GuestAddress(0x1000)).unwrap();
        machine.start();
        request(&mut machine, 0);
        prop_assert_eq!(machine.used_idx(), 1);
    }
}
