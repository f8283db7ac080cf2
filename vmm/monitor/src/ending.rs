// SPDX-License-Identifier: Apache-2.0
//! How a machine ends. Whoever notices first says so; the event loop wakes and winds up.

use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex, PoisonError};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};
use walnut_vmm_config::Ending;

/// Cloned to every thread that can end the machine.
#[derive(Clone)]
pub struct Ender {
    ending: Arc<Mutex<Option<Ending>>>,
    event: Arc<EventFd>,
}

impl Ender {
    pub fn new() -> std::io::Result<Self> {
        let event = Arc::new(EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?);
        Ok(Self {
            ending: Arc::default(),
            event,
        })
    }

    /// The first reason stands; what follows from it is not news.
    pub fn end(&self, ending: Ending) {
        self.ending
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert(ending);
        // Fails only when the counter is full, and then the loop is awake already.
        let _ = self.event.write(1);
    }

    pub fn ending(&self) -> Option<Ending> {
        self.ending
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl AsRawFd for Ender {
    fn as_raw_fd(&self) -> RawFd {
        self.event.as_raw_fd()
    }
}

/// Whether it is an end that somebody wanted: the guest, or who started the machine.
pub fn is_orderly(ending: &Ending) -> bool {
    matches!(ending, Ending::GuestReset | Ending::Stopped)
}

/// One line for people.
pub fn describe(ending: &Ending) -> String {
    match ending {
        Ending::GuestReset => "the guest ended by a reset".to_owned(),
        Ending::Stopped => "the machine was stopped from outside".to_owned(),
        Ending::GuestPanic { message } => format!("the guest kernel panicked: {message}"),
        Ending::TripleFault => "the guest ended in a triple fault".to_owned(),
        Ending::KvmError { message } => format!("KVM cannot run the guest: {message}"),
        Ending::Failed { message } => message.clone(),
    }
}
