// SPDX-License-Identifier: Apache-2.0
//! The events of one device, for whichever thread serves it: its queues' kicks and, where it has
//! one, its own descriptor; and the wish to have it saved. The transport (on a vCPU thread) puts the
//! handler in and takes it out.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::{DeviceState, Interrupt, QueueError, QueueHandler};

/// The event that is neither a queue's nor the device's own.
const SAVE: u32 = u32::MAX;

/// What the transport and the serving thread share.
pub struct Shared {
    pub interrupt: Interrupt,
    /// Filled by `DRIVER_OK`, emptied by a reset. A request is served with the lock held, so that
    /// whoever takes the handler out knows that none is in flight.
    handler: Mutex<Option<Box<dyn QueueHandler>>>,
    /// Of a device that only its own thread can save.
    saving: Option<Saving>,
}

/// A wish and its answer.
struct Saving {
    wanted: EventFd,
    asked: Mutex<Option<Sender<io::Result<DeviceState>>>>,
}

impl Shared {
    /// `saved_where_served` is the device's [`super::VirtioDevice::is_saved_where_served`].
    pub fn new(interrupt: Interrupt, saved_where_served: bool) -> io::Result<Self> {
        let saving = || -> io::Result<Saving> {
            Ok(Saving {
                wanted: EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?,
                asked: Mutex::new(None),
            })
        };
        Ok(Self {
            interrupt,
            handler: Mutex::new(None),
            saving: saved_where_served.then(saving).transpose()?,
        })
    }

    /// Asks the thread that serves the device for its state, if no other can have it.
    pub fn ask_for_state(&self) -> io::Result<Option<Receiver<io::Result<DeviceState>>>> {
        let Some(saving) = &self.saving else {
            return Ok(None);
        };
        let (answer, state) = channel();
        *saving.asked.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
        saving.wanted.write(1)?;
        Ok(Some(state))
    }

    pub fn handler(&self) -> MutexGuard<'_, Option<Box<dyn QueueHandler>>> {
        // A poisoned lock means that a handler panicked; release builds abort there.
        self.handler.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Register with an event manager; it serves the device from that thread.
pub struct DeviceEvents {
    name: String,
    shared: Arc<Shared>,
    kicks: Vec<EventFd>,
    own: Option<(OwnedFd, EventSet)>,
}

impl DeviceEvents {
    pub fn new(
        name: String,
        shared: Arc<Shared>,
        kicks: Vec<EventFd>,
        own: Option<(BorrowedFd<'_>, EventSet)>,
    ) -> io::Result<Self> {
        let own = own.map(|(fd, set)| Ok::<_, io::Error>((fd.try_clone_to_owned()?, set)));
        let own = own.transpose()?;
        Ok(Self {
            name,
            shared,
            kicks,
            own,
        })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    fn serve(&mut self, event: usize) {
        let mut slot = self.shared.handler();
        let Some(handler) = slot.as_mut() else { return };
        let served = if event < self.kicks.len() {
            handler.queue_ready(event)
        } else {
            handler.event_ready()
        };
        if let Err(error) = served {
            // The handler goes, so that a broken ring is reported once and costs nothing more.
            *slot = None;
            self.give_up(&error);
        }
    }

    /// What the driver has asked for is done first: nothing more comes, since no vCPU runs.
    fn save(&mut self) {
        for event in 0..self.kicks.len() {
            self.serve(event);
        }
        let Some(saving) = &self.shared.saving else {
            return;
        };
        let _ = saving.wanted.read();
        let asked = saving
            .asked
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(asked) = asked else { return };
        let state = match self.shared.handler().as_ref() {
            Some(handler) => handler.save(),
            None => Ok(DeviceState::Null),
        };
        // Nobody waits for it any more, if this fails.
        let _ = asked.send(state);
    }

    fn give_up(&self, error: &QueueError) {
        log::warn!("{}: {error}; the device needs a reset", self.name);
        if let Err(error) = self.shared.interrupt.needs_reset() {
            log::warn!("{}: {error}", self.name);
        }
    }
}

impl MutEventSubscriber for DeviceEvents {
    fn process(&mut self, events: Events, _ops: &mut EventOps) {
        match events.data() {
            SAVE => self.save(),
            event => self.serve(event as usize),
        }
    }

    fn init(&mut self, ops: &mut EventOps) {
        // Each kick is an edge, so that none has to be read; nor does their count matter.
        let edge = EventSet::IN | EventSet::EDGE_TRIGGERED;
        let kicks = self.kicks.iter().map(|kick| (kick.as_raw_fd(), edge));
        let own = self.own.as_ref().map(|(fd, set)| (fd.as_raw_fd(), *set));
        let save = self.shared.saving.as_ref();
        let save = save.map(|saving| (SAVE, (saving.wanted.as_raw_fd(), EventSet::IN)));
        for (data, (fd, set)) in (0u32..).zip(kicks.chain(own)).chain(save) {
            if let Err(error) = ops.add(Events::with_data_raw(fd, data, set)) {
                log::error!("{}: cannot watch event {data}: {error:?}", self.name);
            }
        }
    }
}
