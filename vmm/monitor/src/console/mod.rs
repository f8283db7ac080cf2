// SPDX-License-Identifier: Apache-2.0
//! The 16550 at `0x3f8`: early boot and panics only. A guest at work writes nothing here.
//!
//! Output is written on the vCPU thread that made it; [`input`] feeds the event loop's standard input.

mod input;
mod output;

use std::sync::{Arc, Mutex};

use vm_superio::serial::SerialEvents;
use vm_superio::{Serial, SerialState, Trigger};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

pub use input::ConsoleInput;
pub use output::{ConsoleError, ConsoleOutput, Tail};

pub type SharedSerial = Arc<Mutex<Serial<Line, Room, ConsoleOutput>>>;

/// The device's interrupt line.
pub struct Line(EventFd);

impl Trigger for Line {
    type E = std::io::Error;

    fn trigger(&self) -> std::io::Result<()> {
        self.0.write(1)
    }
}

/// Raised when the guest has read all input, so that there is room for more.
pub struct Room(EventFd);

impl SerialEvents for Room {
    fn buffer_read(&self) {}

    fn out_byte(&self) {}

    fn tx_lost_byte(&self) {}

    fn in_buffer_empty(&self) {
        // Fails only when the counter is full, and then the reader is awake already.
        let _ = self.0.write(1);
    }
}

/// The device, its interrupt line, and the event that there is room for input.
pub struct Console {
    pub serial: SharedSerial,
    pub irqfd: EventFd,
    pub room: EventFd,
}

impl Console {
    /// In the state of another machine's, or as after power-on.
    pub fn new(output: ConsoleOutput, state: &SerialState) -> std::io::Result<Self> {
        let event = || EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC);
        let (irqfd, room) = (event()?, event()?);
        let (line, room_event) = (Line(irqfd.try_clone()?), Room(room.try_clone()?));
        let serial = Serial::from_state(state, line, room_event, output)
            .map_err(|error| std::io::Error::other(format!("{error:?}")))?;
        Ok(Self {
            serial: Arc::new(Mutex::new(serial)),
            irqfd,
            room,
        })
    }
}
