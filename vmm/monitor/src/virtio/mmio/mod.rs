// SPDX-License-Identifier: Apache-2.0
//! virtio over MMIO, version 2 (virtio 1.3 §4.2): the register machine between a driver and a
//! [`VirtioDevice`]. Runs on the vCPU threads, but for [`super::events`].
//!
//! Queue notifications do not come here: an ioeventfd on [`QUEUE_NOTIFY`] turns each into an event
//! of the queue. They are accepted here all the same, for a write of another width.

mod state;
#[cfg(test)]
mod tests;

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use virtio_queue::{Queue, QueueT};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

pub use state::{FreezeError, Frozen, RestoreError, TransportState};

use super::events::{DeviceEvents, STATUS_NEEDS_RESET, Shared};
use super::queue::QueueState;
use super::{Activation, Interrupt, VirtQueue, VirtioDevice};
use crate::memory::Memory;

/// Bytes of address space each device occupies.
pub const MMIO_LEN: u64 = 0x1000;

const MAGIC: u32 = u32::from_le_bytes(*b"virt");
const VERSION: u32 = 2;
const VENDOR: u32 = u32::from_le_bytes(*b"wlnt");

// Register offsets, virtio 1.3 §4.2.2.
const MAGIC_VALUE: u64 = 0x00;
const VERSION_REG: u64 = 0x04;
const DEVICE_ID: u64 = 0x08;
const VENDOR_ID: u64 = 0x0c;
const DEVICE_FEATURES: u64 = 0x10;
const DEVICE_FEATURES_SEL: u64 = 0x14;
const DRIVER_FEATURES: u64 = 0x20;
const DRIVER_FEATURES_SEL: u64 = 0x24;
const QUEUE_SEL: u64 = 0x30;
const QUEUE_SIZE_MAX: u64 = 0x34;
const QUEUE_SIZE: u64 = 0x38;
const QUEUE_READY: u64 = 0x44;
pub const QUEUE_NOTIFY: u64 = 0x50;
const INTERRUPT_STATUS: u64 = 0x60;
const INTERRUPT_ACK: u64 = 0x64;
const STATUS: u64 = 0x70;
const QUEUE_DESC_LOW: u64 = 0x80;
const QUEUE_DESC_HIGH: u64 = 0x84;
const QUEUE_DRIVER_LOW: u64 = 0x90;
const QUEUE_DRIVER_HIGH: u64 = 0x94;
const QUEUE_DEVICE_LOW: u64 = 0xa0;
const QUEUE_DEVICE_HIGH: u64 = 0xa4;
const SHM_LEN_LOW: u64 = 0xb0;
const SHM_LEN_HIGH: u64 = 0xb4;
const SHM_BASE_LOW: u64 = 0xb8;
const SHM_BASE_HIGH: u64 = 0xbc;
const CONFIG_GENERATION: u64 = 0xfc;
const CONFIG: u64 = 0x100;

// Device status bits, virtio 1.3 §2.1.
const STATUS_ACKNOWLEDGE: u32 = 1;
const STATUS_DRIVER: u32 = 2;
const STATUS_DRIVER_OK: u32 = 4;
const STATUS_FEATURES_OK: u32 = 8;
const STATUS_FAILED: u32 = 0x80;

/// The transport's own feature bits (virtio 1.3 §6).
const INDIRECT_DESC: u64 = 1 << 28;
const EVENT_IDX: u64 = 1 << 29;
const VERSION_1: u64 = 1 << 32;
const TRANSPORT_FEATURES: u64 = INDIRECT_DESC | EVENT_IDX | VERSION_1;

/// What a place without a device answers (§4.2.2.2): ID 0, which a driver passes over in silence.
pub fn read_empty(offset: u64, data: &mut [u8]) {
    let value = match offset {
        MAGIC_VALUE => MAGIC,
        VERSION_REG => VERSION,
        VENDOR_ID => VENDOR,
        _ => 0,
    };
    match <&mut [u8; 4]>::try_from(&mut *data) {
        Ok(word) => *word = value.to_le_bytes(),
        Err(_) => data.fill(0),
    }
}

pub struct MmioTransport {
    name: String,
    device: Box<dyn VirtioDevice>,
    memory: Memory,
    shared: Arc<Shared>,
    interrupt_status: Arc<AtomicU32>,
    irqfd: Arc<EventFd>,
    kicks: Vec<EventFd>,
    /// The queues' registers; while a handler runs, it owns the queues that were made of them.
    queues: Vec<Queue>,
    queue_sel: u32,
    device_features_sel: u32,
    driver_features_sel: u32,
    driver_features: u64,
    config_generation: u32,
}

impl MmioTransport {
    /// `name` is for log lines: "vsock", "blk0".
    pub fn new(name: &str, device: Box<dyn VirtioDevice>, memory: Memory) -> std::io::Result<Self> {
        let event = || EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC);
        let kicks = device
            .queue_sizes()
            .iter()
            .map(|_| event())
            .collect::<Result<_, _>>()?;
        let interrupt_status = Arc::new(AtomicU32::new(0));
        let irqfd = Arc::new(event()?);
        let interrupt = Interrupt::new(Arc::clone(&interrupt_status), Arc::clone(&irqfd));
        let shared = Shared::new(interrupt, device.is_saved_where_served())?;
        let mut transport = Self {
            name: name.to_owned(),
            device,
            memory,
            shared: Arc::new(shared),
            interrupt_status,
            irqfd,
            kicks,
            queues: Vec::new(),
            queue_sel: 0,
            device_features_sel: 0,
            driver_features_sel: 0,
            driver_features: 0,
            config_generation: 0,
        };
        transport.reset();
        Ok(transport)
    }

    /// To be registered with the event manager of the thread that shall serve the device.
    pub fn events(&self) -> std::io::Result<DeviceEvents> {
        let kicks = self
            .kicks
            .iter()
            .map(EventFd::try_clone)
            .collect::<Result<_, _>>()?;
        DeviceEvents::new(
            self.name.clone(),
            Arc::clone(&self.shared),
            kicks,
            self.device.event_fd(),
        )
    }

    /// One for each queue, to be bound to a write of its index to [`QUEUE_NOTIFY`].
    pub fn kicks(&self) -> &[EventFd] {
        &self.kicks
    }

    pub fn irqfd(&self) -> &EventFd {
        &self.irqfd
    }

    /// A driver has it, and its queues.
    pub fn is_active(&self) -> bool {
        self.shared.handler().is_some()
    }

    pub fn read(&mut self, offset: u64, data: &mut [u8]) {
        if !self.device.is_present() {
            return read_empty(offset, data);
        }
        if let Some(config) = offset.checked_sub(CONFIG) {
            return self.device.read_config(config, data);
        }
        // §4.2.2.2: the driver uses aligned 32-bit accesses for everything below Config.
        match <&mut [u8; 4]>::try_from(&mut *data) {
            Ok(word) if offset.is_multiple_of(4) => {
                *word = self.read_register(offset).to_le_bytes()
            }
            _ => data.fill(0),
        }
    }

    pub fn write(&mut self, offset: u64, data: &[u8]) {
        if let Some(config) = offset.checked_sub(CONFIG) {
            return self.device.write_config(config, data);
        }
        match <[u8; 4]>::try_from(data) {
            Ok(word) if offset.is_multiple_of(4) => {
                self.write_register(offset, u32::from_le_bytes(word));
            }
            _ => log::debug!(
                "{}: write of {} bytes at {offset:#x}",
                self.name,
                data.len()
            ),
        }
    }

    fn read_register(&self, offset: u64) -> u32 {
        match offset {
            MAGIC_VALUE => MAGIC,
            VERSION_REG => VERSION,
            DEVICE_ID => self.device.device_type(),
            VENDOR_ID => VENDOR,
            DEVICE_FEATURES => half(self.device_features(), self.device_features_sel),
            QUEUE_SIZE_MAX => self.queue().map_or(0, |queue| u32::from(queue.max_size())),
            QUEUE_READY => self.queue().map_or(0, |queue| u32::from(queue.ready())),
            INTERRUPT_STATUS => self.interrupt_status.load(Ordering::SeqCst),
            STATUS => self.status(),
            // §4.2.2: a region that does not exist has length and base of all ones.
            SHM_LEN_LOW | SHM_LEN_HIGH | SHM_BASE_LOW | SHM_BASE_HIGH => u32::MAX,
            CONFIG_GENERATION => self.config_generation,
            _ => 0,
        }
    }

    fn write_register(&mut self, offset: u64, value: u32) {
        match offset {
            DEVICE_FEATURES_SEL => self.device_features_sel = value,
            DRIVER_FEATURES_SEL => self.driver_features_sel = value,
            DRIVER_FEATURES => self.write_driver_features(value),
            QUEUE_SEL => self.queue_sel = value,
            QUEUE_NOTIFY => self.notify(value),
            INTERRUPT_ACK => {
                self.interrupt_status.fetch_and(!value, Ordering::SeqCst);
            }
            STATUS => self.write_status(value),
            _ => self.write_queue_register(offset, value),
        }
    }

    fn write_queue_register(&mut self, offset: u64, value: u32) {
        if self.status() & (STATUS_FEATURES_OK | STATUS_DRIVER_OK) != STATUS_FEATURES_OK {
            log::debug!(
                "{}: queue register {offset:#x} written at the wrong time",
                self.name
            );
            return;
        }
        let index = self.queue_sel as usize;
        let Some(queue) = self.queues.get_mut(index) else {
            return;
        };
        match offset {
            // A size that is no power of two, or too large, leaves the queue as it was.
            QUEUE_SIZE => queue.set_size(u16::try_from(value).unwrap_or(0)),
            QUEUE_READY => queue.set_ready(value & 1 != 0),
            QUEUE_DESC_LOW => queue.set_desc_table_address(Some(value), None),
            QUEUE_DESC_HIGH => queue.set_desc_table_address(None, Some(value)),
            QUEUE_DRIVER_LOW => queue.set_avail_ring_address(Some(value), None),
            QUEUE_DRIVER_HIGH => queue.set_avail_ring_address(None, Some(value)),
            QUEUE_DEVICE_LOW => queue.set_used_ring_address(Some(value), None),
            QUEUE_DEVICE_HIGH => queue.set_used_ring_address(None, Some(value)),
            _ => {}
        }
    }

    fn write_driver_features(&mut self, value: u32) {
        if self.status() & STATUS_FEATURES_OK != 0 {
            return;
        }
        let value = u64::from(value);
        match self.driver_features_sel {
            0 => self.driver_features = self.driver_features & !0xffff_ffff | value,
            1 => self.driver_features = self.driver_features & 0xffff_ffff | value << 32,
            _ => {}
        }
    }

    /// §3.1.1: the driver only ever adds bits, or writes zero to reset.
    fn write_status(&mut self, value: u32) {
        if value == 0 {
            return self.reset();
        }
        let old = self.status();
        if value & old != old & !STATUS_NEEDS_RESET {
            log::debug!("{}: status {old:#x} -> {value:#x} clears bits", self.name);
            return;
        }
        let mut new = value | old;
        let added = new & !old;
        if added & STATUS_FEATURES_OK != 0 && !self.features_are_acceptable() {
            new &= !STATUS_FEATURES_OK;
        }
        self.shared.status.store(new, Ordering::SeqCst);
        let ready = STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK | STATUS_DRIVER_OK;
        if added & STATUS_DRIVER_OK != 0 && new & (ready | STATUS_FAILED) == ready {
            self.activate();
        }
    }

    fn features_are_acceptable(&self) -> bool {
        let offered = self.device_features();
        self.driver_features & !offered == 0 && self.driver_features & VERSION_1 != 0
    }

    fn activate(&mut self) {
        if let Err(error) = self.try_activate(None) {
            log::warn!("{}: {error}; the device needs a reset", self.name);
            self.shared
                .status
                .fetch_or(STATUS_NEEDS_RESET, Ordering::SeqCst);
            if let Err(error) = self.shared.interrupt.signal_config() {
                log::warn!("{}: {error}", self.name);
            }
        }
    }

    /// Hands the queues over; `device_state` is that of a device that was saved while active.
    fn try_activate(
        &mut self,
        device_state: Option<super::DeviceState>,
    ) -> Result<(), super::ActivateError> {
        let event_idx = self.driver_features & EVENT_IDX != 0;
        let mut queues = Vec::with_capacity(self.queues.len());
        for (index, (queue, kick)) in self.queues.iter().zip(&self.kicks).enumerate() {
            let mut queue = copy(queue);
            queue.set_event_idx(event_idx);
            if queue.ready() && !queue.is_valid(&*self.memory) {
                log::warn!("{}: queue {index} does not lie in guest memory", self.name);
                queue.set_ready(false);
            }
            let kick = kick.try_clone().map_err(super::ActivateError::Event)?;
            let interrupt = self.shared.interrupt.clone();
            let memory = Arc::clone(&self.memory);
            queues.push(VirtQueue::new(index, queue, memory, interrupt, kick));
        }
        let mut handler = self.device.activate(Activation {
            memory: Arc::clone(&self.memory),
            queues,
            features: self.driver_features,
            interrupt: self.shared.interrupt.clone(),
        })?;
        if let Some(state) = device_state {
            handler.restore(state)?;
        }
        *self.shared.handler() = Some(handler);
        Ok(())
    }

    /// §4.2.3.1: back to the state after power-on. No request is in flight afterwards.
    fn reset(&mut self) {
        *self.shared.handler() = None;
        self.shared.status.store(0, Ordering::SeqCst);
        self.interrupt_status.store(0, Ordering::SeqCst);
        self.driver_features = 0;
        self.driver_features_sel = 0;
        self.device_features_sel = 0;
        self.queue_sel = 0;
        self.queues = self
            .device
            .queue_sizes()
            .iter()
            .map(|&size| Queue::new(size).expect("a device's queue sizes are powers of two"))
            .collect();
    }

    fn notify(&self, index: u32) {
        if let Some(kick) = self.kicks.get(index as usize)
            && let Err(error) = kick.write(1)
        {
            log::warn!(
                "{}: cannot pass on a notification on {}: {error}",
                self.name,
                kick.as_raw_fd()
            );
        }
    }

    fn queue(&self) -> Option<&Queue> {
        self.queues.get(self.queue_sel as usize)
    }

    fn status(&self) -> u32 {
        self.shared.status.load(Ordering::SeqCst)
    }

    fn device_features(&self) -> u64 {
        self.device.features() | TRANSPORT_FEATURES
    }
}

/// A queue is not `Clone`, but its saved state is.
fn copy(queue: &Queue) -> Queue {
    QueueState::of(queue)
        .restore()
        .expect("the state of a queue makes a queue again")
}

/// One 32-bit half of the feature bits, as the selector register asks.
fn half(features: u64, selector: u32) -> u32 {
    match selector {
        0 => (features & 0xffff_ffff) as u32,
        1 => (features >> 32) as u32,
        _ => 0,
    }
}
