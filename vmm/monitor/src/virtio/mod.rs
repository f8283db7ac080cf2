// SPDX-License-Identifier: Apache-2.0
//! virtio (version 1.3): what a device is, and how the transport drives it.
//!
//! The transport ([`mmio`]) alone owns the status machine, feature negotiation, queue registers,
//! reset, and the saving and restoring of all that. A device says what it is ([`VirtioDevice`]) and,
//! once the driver is ready, hands over a [`QueueHandler`] that owns the queues until reset. The
//! handler runs on the thread its [`events::DeviceEvents`] are registered with: the monitor's one
//! event loop, or a worker of its own for devices that block on files.

pub mod balloon;
pub mod blk;
pub mod events;
pub mod fs;
pub mod mmio;
pub mod net;
mod plain;
pub mod pmem;
pub mod queue;
pub mod registers;
pub mod rng;
#[cfg(test)]
pub(crate) mod test_driver;
pub mod vsock;

use std::io;
use std::os::fd::BorrowedFd;

use event_manager::EventSet;
use thiserror::Error;

pub use queue::{Interrupt, QueueError, VirtQueue};

use crate::memory::Memory;

/// What a device keeps beyond its queues and negotiated features, as one serialisable document.
pub type DeviceState = serde_json::Value;

/// A device before the driver is ready, and its configuration space all the time.
pub trait VirtioDevice: Send {
    /// virtio 1.3 §5.
    fn device_type(&self) -> u32;

    /// The most entries each queue may have; its length is the number of queues.
    fn queue_sizes(&self) -> &[u16];

    /// Device bits only; the transport adds its own.
    fn features(&self) -> u64 {
        0
    }

    /// The configuration structure, as it is now. When the device changes it by itself, it says so by
    /// [`Interrupt::change_config`].
    fn config(&self) -> Vec<u8> {
        Vec::new()
    }

    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    /// A descriptor to watch besides the queues, the same from the device's making to its end: its
    /// readiness, or the edge of it, reaches [`QueueHandler::event_ready`].
    fn event_fd(&self) -> Option<(BorrowedFd<'_>, EventSet)> {
        None
    }

    /// False where the device has been taken away, or has not come yet: the driver sees an empty place.
    fn is_present(&self) -> bool {
        true
    }

    /// Only the thread that serves the device can save it.
    fn is_saved_where_served(&self) -> bool {
        false
    }

    /// `DRIVER_OK`: the handler owns queues and memory until reset.
    fn activate(&mut self, activation: Activation) -> Result<Box<dyn QueueHandler>, ActivateError>;
}

/// What a device is given when its driver is ready.
pub struct Activation {
    pub memory: Memory,
    /// As many as [`VirtioDevice::queue_sizes`] has, in its order.
    pub queues: Vec<VirtQueue>,
    /// The features that driver and device agreed on, the transport's included.
    pub features: u64,
    /// Raises a configuration-change interrupt.
    pub interrupt: Interrupt,
}

/// A device while its driver is ready.
pub trait QueueHandler: Send {
    /// The driver made buffers available on queue `index`. An error marks the device
    /// `DEVICE_NEEDS_RESET`; a bad request must not be one, but an error status to the driver.
    fn queue_ready(&mut self, index: usize) -> Result<(), QueueError>;

    /// The device's [`VirtioDevice::event_fd`] is readable.
    fn event_ready(&mut self) -> Result<(), QueueError> {
        Ok(())
    }

    /// The queues, in their order, to be saved.
    fn queues(&self) -> &[VirtQueue];

    /// Everything else that must survive a restore. Called only when no request is in flight.
    fn save(&self) -> io::Result<DeviceState> {
        Ok(DeviceState::Null)
    }

    /// The inverse of [`QueueHandler::save`], on a handler that was just made.
    fn restore(&mut self, _state: DeviceState) -> Result<(), ActivateError> {
        Ok(())
    }
}

#[derive(Debug, Error)]
pub enum ActivateError {
    #[error("cannot duplicate the event descriptor of a queue")]
    Event(#[source] std::io::Error),
    #[error("saved state of the device does not fit: {0}")]
    State(String),
}
