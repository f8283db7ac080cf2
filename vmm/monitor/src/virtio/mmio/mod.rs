// SPDX-License-Identifier: Apache-2.0
//! virtio over MMIO, version 2 (virtio 1.3 §4.2): the register machine between a driver and a
//! [`VirtioDevice`]. Runs on the vCPU threads, but for [`super::events`].
//!
//! Only writes come here: what a driver reads is memory, see [`super::registers`]. Nor do all of
//! them: an ioeventfd on [`QUEUE_NOTIFY`] turns a notification into an event of the queue. One is
//! accepted here all the same, for a write of another width.

mod state;
#[cfg(test)]
mod tests;

use std::os::fd::AsRawFd;
use std::sync::Arc;

use virtio_queue::{Queue, QueueT};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

pub use state::{FreezeError, Frozen, RestoreError, TransportState};

use super::events::{DeviceEvents, Shared};
use super::queue::{Line, QueueState};
use super::registers::{
    CONFIG, DEVICE_FEATURES, DEVICE_FEATURES_SEL, DRIVER_FEATURES, DRIVER_FEATURES_SEL,
    INTERRUPT_ACK, INTERRUPT_STATUS, QUEUE_DESC_HIGH, QUEUE_DESC_LOW, QUEUE_DEVICE_HIGH,
    QUEUE_DEVICE_LOW, QUEUE_DRIVER_HIGH, QUEUE_DRIVER_LOW, QUEUE_NOTIFY, QUEUE_READY, QUEUE_SEL,
    QUEUE_SIZE, QUEUE_SIZE_MAX, Registers, STATUS, STATUS_ACKNOWLEDGE, STATUS_DRIVER,
    STATUS_DRIVER_OK, STATUS_FAILED, STATUS_FEATURES_OK, STATUS_NEEDS_RESET,
};
use super::{Activation, Interrupt, VirtQueue, VirtioDevice};
use crate::memory::Memory;

/// The transport's own feature bits (virtio 1.3 §6).
const INDIRECT_DESC: u64 = 1 << 28;
const EVENT_IDX: u64 = 1 << 29;
const VERSION_1: u64 = 1 << 32;
const TRANSPORT_FEATURES: u64 = INDIRECT_DESC | EVENT_IDX | VERSION_1;

pub struct MmioTransport {
    name: String,
    device: Box<dyn VirtioDevice>,
    memory: Memory,
    shared: Arc<Shared>,
    registers: Registers,
    kicks: Vec<EventFd>,
    /// The queues' registers; while a handler runs, it owns the queues that were made of them.
    queues: Vec<Queue>,
    queue_sel: u32,
    device_features_sel: u32,
    driver_features_sel: u32,
    driver_features: u64,
}

impl MmioTransport {
    /// `name` is for log lines: "vsock", "blk0".
    pub fn new(
        name: &str,
        device: Box<dyn VirtioDevice>,
        memory: Memory,
        registers: Registers,
        line: Arc<dyn Line>,
    ) -> std::io::Result<Self> {
        let event = || EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC);
        let kicks = device
            .queue_sizes()
            .iter()
            .map(|_| event())
            .collect::<Result<_, _>>()?;
        let interrupt = Interrupt::new(registers.clone(), line);
        let shared = Shared::new(interrupt, device.is_saved_where_served())?;
        let mut transport = Self {
            name: name.to_owned(),
            device,
            memory,
            shared: Arc::new(shared),
            registers,
            kicks,
            queues: Vec::new(),
            queue_sel: 0,
            device_features_sel: 0,
            driver_features_sel: 0,
            driver_features: 0,
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

    /// A driver has it, and its queues.
    pub fn is_active(&self) -> bool {
        self.shared.handler().is_some()
    }

    pub fn write(&mut self, offset: u64, data: &[u8]) {
        if !self.device.is_present() {
            // A driver that lets go of what was here.
            if (offset, data) == (STATUS, &[0; 4]) {
                self.reset();
            }
            return;
        }
        if let Some(config) = offset.checked_sub(CONFIG) {
            self.device.write_config(config, data);
            return self.show();
        }
        // §4.2.2.2: the driver uses aligned 32-bit accesses for everything below Config.
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

    /// Shows the driver what the device is now: to be called when that has changed.
    pub fn show(&self) {
        if !self.device.is_present() {
            self.registers.wipe();
            return self.registers.show_empty();
        }
        self.registers.show(self.device.device_type());
        self.registers.set_config(&self.device.config());
        self.show_features();
        self.show_queue();
    }

    /// The half that is selected.
    fn show_features(&self) {
        let features = half(self.device_features(), self.device_features_sel);
        self.registers.set(DEVICE_FEATURES, features);
    }

    /// The one that is selected.
    fn show_queue(&self) {
        let (size, ready) = self
            .queue()
            .map_or((0, false), |queue| (queue.max_size(), queue.ready()));
        self.registers.set(QUEUE_SIZE_MAX, size.into());
        self.registers.set(QUEUE_READY, ready.into());
    }

    fn write_register(&mut self, offset: u64, value: u32) {
        match offset {
            DEVICE_FEATURES_SEL => {
                self.device_features_sel = value;
                self.show_features();
            }
            DRIVER_FEATURES_SEL => self.driver_features_sel = value,
            DRIVER_FEATURES => self.write_driver_features(value),
            QUEUE_SEL => {
                self.queue_sel = value;
                self.show_queue();
            }
            QUEUE_NOTIFY => self.notify(value),
            INTERRUPT_ACK => self.registers.clear(INTERRUPT_STATUS, value),
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
        self.show_queue();
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
        self.registers.set(STATUS, new);
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
            if let Err(error) = self.shared.interrupt.needs_reset() {
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
        self.registers.set(STATUS, 0);
        self.registers.set(INTERRUPT_STATUS, 0);
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
        self.show();
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
        self.registers.get(STATUS)
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
