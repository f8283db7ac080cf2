// SPDX-License-Identifier: Apache-2.0
//! Standard input to the guest's serial line. Input that does not fit the device's FIFO stays where
//! it is until the guest has read what is there.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::PoisonError;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use vmm_sys_util::eventfd::EventFd;

use super::SharedSerial;

const STDIN: u32 = 0;
const ROOM: u32 = 1;

pub struct ConsoleInput {
    /// Unbuffered, so that what is readable is what the event loop sees.
    stdin: BorrowedFd<'static>,
    serial: SharedSerial,
    room: EventFd,
    watching: bool,
}

impl ConsoleInput {
    pub fn new(serial: SharedSerial, room: EventFd) -> Self {
        Self {
            stdin: rustix::stdio::stdin(),
            serial,
            room,
            watching: false,
        }
    }

    fn watch(&mut self, on: bool, ops: &mut EventOps) {
        if on == self.watching {
            return;
        }
        let stdin = Events::with_data_raw(self.stdin.as_raw_fd(), STDIN, EventSet::IN);
        let done = if on {
            ops.add(stdin)
        } else {
            ops.remove(stdin)
        };
        match done {
            Ok(()) => self.watching = on,
            // A regular file or /dev/null cannot be watched.
            Err(error) => log::debug!("no console input: {error:?}"),
        }
    }

    fn read(&mut self, ops: &mut EventOps) {
        let mut serial = self.serial.lock().unwrap_or_else(PoisonError::into_inner);
        let mut buffer = [0; 64];
        let room = serial.fifo_capacity().min(buffer.len());
        let read = if room > 0 {
            rustix::io::read(self.stdin, &mut buffer[..room])
        } else {
            Ok(0)
        };
        match read {
            Ok(len) if len > 0 => {
                if let Err(error) = serial.enqueue_raw_bytes(&buffer[..len]) {
                    log::debug!("console input is lost: {error:?}");
                }
            }
            // No room, end of file, or an error: the next event is the guest's.
            _ => {
                drop(serial);
                self.watch(false, ops);
            }
        }
    }
}

impl MutEventSubscriber for ConsoleInput {
    fn process(&mut self, events: Events, ops: &mut EventOps) {
        if events.data() == ROOM {
            let _ = self.room.read();
            self.watch(true, ops);
        } else {
            self.read(ops);
        }
    }

    fn init(&mut self, ops: &mut EventOps) {
        if let Err(error) = ops.add(Events::with_data(&self.room, ROOM, EventSet::IN)) {
            log::warn!("no console input: {error:?}");
        }
        self.watch(true, ops);
    }
}
