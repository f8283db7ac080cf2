// SPDX-License-Identifier: Apache-2.0
//! Messages from both queues to the session, and error replies where it has none to give. Runs on
//! the device's worker thread.

use std::io::{self, Write};

use virtio_queue::DescriptorChain;
use virtiofsd::fuse::{InHeader, OutHeader};
use vm_memory::ByteValued;

use super::session::{Session, Source};
use crate::memory::GuestMemory;
use crate::virtio::{ActivateError, DeviceState, QueueError, QueueHandler, VirtQueue};

pub(super) struct FsHandler {
    queues: Vec<VirtQueue>,
    state: State,
}

enum State {
    /// No message yet, but maybe a session to go on with.
    Idle {
        source: Source,
        saved: Option<Vec<u8>>,
    },
    Running {
        session: Box<Session>,
        tag: String,
        /// A malformed message was logged; the next ones won't be.
        complained: bool,
    },
    /// The session could not be started, which was logged. Every message fails.
    Failed,
}

impl FsHandler {
    pub(super) fn new(queues: Vec<VirtQueue>, source: Source) -> Self {
        Self {
            queues,
            state: State::Idle {
                source,
                saved: None,
            },
        }
    }
}

impl QueueHandler for FsHandler {
    fn queue_ready(&mut self, index: usize) -> Result<(), QueueError> {
        let Self { queues, state } = self;
        let Some(queue) = queues.get_mut(index) else {
            return Ok(());
        };
        state.start();
        queue.serve(|memory, chain| state.answer(memory, chain))
    }

    fn queues(&self) -> &[VirtQueue] {
        &self.queues
    }

    /// A session as hexadecimal digits, or nothing if the guest has not mounted.
    fn save(&self) -> io::Result<DeviceState> {
        Ok(match self.state.save()? {
            Some(saved) => DeviceState::String(hex::encode(saved)),
            None => DeviceState::Null,
        })
    }

    fn restore(&mut self, state: DeviceState) -> Result<(), ActivateError> {
        let bad = |what: &str| ActivateError::State(what.to_owned());
        let session = match state {
            DeviceState::Null => return Ok(()),
            DeviceState::String(digits) => hex::decode(digits).ok(),
            _ => None,
        };
        let session = session.ok_or_else(|| bad("a FUSE session is hexadecimal digits"))?;
        match &mut self.state {
            State::Idle { saved, .. } => *saved = Some(session),
            _ => return Err(bad("the device is already in use")),
        }
        Ok(())
    }
}

impl State {
    /// Starts the session on the thread that serves it.
    fn start(&mut self) {
        let Self::Idle { source, saved } = self else {
            return;
        };
        let tag = source.tag().to_owned();
        *self = match Session::start(source, saved.as_deref()) {
            Ok(session) => Self::Running {
                session: Box::new(session),
                tag,
                complained: false,
            },
            Err(error) => {
                log::error!("fs {tag}: {:#}", anyhow::Error::new(error));
                Self::Failed
            }
        };
    }

    fn save(&self) -> io::Result<Option<Vec<u8>>> {
        match self {
            Self::Idle { saved, .. } => Ok(saved.clone()),
            Self::Running { session, .. } => session.save().map(Some),
            Self::Failed => Ok(None),
        }
    }

    fn answer(&mut self, memory: &GuestMemory, chain: DescriptorChain<&GuestMemory>) -> u32 {
        let Self::Running {
            session,
            tag,
            complained,
        } = self
        else {
            return refuse(memory, chain);
        };
        match session.answer(memory, chain.clone()) {
            // A reply is at most a little over 1 MiB.
            Ok(len) => u32::try_from(len).unwrap_or(0),
            Err(error) => {
                if !std::mem::replace(complained, true) {
                    log::warn!("fs {tag}: {error}; further ones are not logged");
                }
                refuse(memory, chain)
            }
        }
    }
}

/// Answers any message with EIO, if it has room for that.
fn refuse(memory: &GuestMemory, chain: DescriptorChain<&GuestMemory>) -> u32 {
    let Ok(mut reader) = chain.clone().reader(memory) else {
        return 0;
    };
    let Ok(mut writer) = chain.writer(memory) else {
        return 0;
    };
    let mut header = InHeader::default();
    if std::io::Read::read_exact(&mut reader, header.as_mut_slice()).is_err() {
        return 0;
    }
    let len = u32::try_from(size_of::<OutHeader>()).expect("16 bytes");
    let reply = OutHeader {
        len,
        error: -libc::EIO,
        unique: header.unique,
    };
    match writer.write_all(reply.as_slice()) {
        Ok(()) => len,
        Err(_) => 0,
    }
}
