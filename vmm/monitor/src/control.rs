// SPDX-License-Identifier: Apache-2.0
//! Commands to a running machine ([`Command`]), carried out by the event loop: no device that it
//! serves is at work meanwhile.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, MutexGuard, PoisonError};

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, recvmsg, send};
use thiserror::Error;
use vm_memory::GuestAddress;
use walnut_vmm_config::{Answer, Command, Plug};

use crate::arch::x86_64::state::{StateError, VmState};
use crate::board::Board;
use crate::bus::Bus;
use crate::hotplug::{Hotplug, HotplugError};
use crate::pause::{PauseError, Vcpus};
use crate::report::chain;
use crate::snapshot::memory::{self, Pagemap, SnapshotMemoryError};
use crate::snapshot::{SnapshotError, State, VERSION, working_set};
use crate::virtio::mmio::{FreezeError, Frozen, MmioTransport};

/// A command is a few words.
const MESSAGE_MAX: usize = 256;

#[derive(Debug, Error)]
enum ControlError {
    #[error("{files} files came with a command that wants {wanted}")]
    Files { wanted: usize, files: usize },
    #[error("cannot record the working set")]
    WorkingSet(#[source] io::Error),
    #[error(transparent)]
    Pause(#[from] PauseError),
    #[error(transparent)]
    Freeze(#[from] FreezeError),
    #[error(transparent)]
    Memory(#[from] SnapshotMemoryError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error(transparent)]
    Hotplug(#[from] HotplugError),
    #[error("the machine was written down and stands still: it can only be told to go on")]
    StandsStill,
    #[error("there is no such command")]
    Parse(#[source] serde_json::Error),
}

/// What a snapshot needs of a machine, besides its vCPUs.
pub struct Anatomy {
    pub board: Board,
    pub memory_mib: u32,
    /// Parts of memory that are files of the host, by address.
    pub mapped: Vec<(GuestAddress, u64)>,
    pub bus: Arc<Bus>,
    pub msrs: Arc<[u32]>,
    pub pagemap: Pagemap,
}

/// The control socket, while somebody holds its other end.
pub struct Control {
    socket: OwnedFd,
    machine: Anatomy,
    vcpus: Vcpus,
    hotplug: Hotplug,
}

impl Control {
    pub fn new(socket: OwnedFd, machine: Anatomy, vcpus: Vcpus, hotplug: Hotplug) -> Self {
        Self {
            socket,
            machine,
            vcpus,
            hotplug,
        }
    }

    /// `None` at the end.
    fn receive(&self) -> io::Result<Option<(Vec<u8>, Vec<File>)>> {
        let mut message = [0; MESSAGE_MAX];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = recvmsg(
            &self.socket,
            &mut [IoSliceMut::new(&mut message)],
            &mut ancillary,
            RecvFlags::CMSG_CLOEXEC,
        )?;
        if received.bytes == 0 {
            return Ok(None);
        }
        let files = ancillary
            .drain()
            .filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(fds) => Some(fds),
                _ => None,
            })
            .flatten()
            .map(File::from)
            .collect();
        Ok(Some((message[..received.bytes].to_vec(), files)))
    }

    fn plug(&mut self, plug: &Plug, files: Vec<File>) -> Result<Answer, ControlError> {
        let [backend] = exactly(files)?;
        let machine = &self.machine;
        let place = (&machine.board, &*machine.bus);
        let device = self.hotplug.plug(plug, backend.into(), place)?;
        Ok(Answer::Plugged { device })
    }

    fn working_set(&self, files: Vec<File>) -> Result<Answer, ControlError> {
        let [to] = exactly(files)?;
        let machine = &self.machine;
        done(
            working_set::record(&machine.board.memory, &machine.pagemap)
                .and_then(|runs| working_set::write(&runs, &to))
                .map_err(ControlError::WorkingSet),
        )
    }

    /// Writes the machine down. After that it stands still as it was written, its devices too, until
    /// it is told to go on or nobody holds the other end any more: what it did meanwhile it would do
    /// again wherever the snapshot goes on.
    fn stand_still(&mut self, files: Vec<File>) -> io::Result<()> {
        // First: a vCPU that waits for a device's lock would not stop.
        if let Err(error) = self.vcpus.pause() {
            return self.answer(Err(error.into()));
        }
        let bus = Arc::clone(&self.machine.bus);
        let devices = bus.devices();
        let frozen = match self.write_down(&devices, files) {
            Ok(frozen) => frozen,
            Err(error) => return self.answer(Err(error)),
        };
        self.answer(Ok(Answer::Done))?;
        while let Some((message, _)) = self.receive()? {
            if let Ok(Command::Resume) = serde_json::from_slice(&message) {
                drop(frozen);
                drop(devices);
                let resumed = done(self.vcpus.resume());
                return self.answer(resumed);
            }
            self.answer(Err(ControlError::StandsStill))?;
        }
        Ok(())
    }

    fn write_down<'a>(
        &self,
        devices: &'a [MutexGuard<'_, MmioTransport>],
        files: Vec<File>,
    ) -> Result<Vec<Frozen<'a>>, ControlError> {
        let [to, state] = exactly(files)?;
        let frozen = devices.iter().map(|device| device.freeze());
        let frozen = frozen.collect::<Result<Vec<_>, _>>()?;
        let machine = &self.machine;
        let vcpus = self.vcpus.save(&machine.msrs)?;
        let serial = machine
            .bus
            .serial()
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .state();
        let saved = State {
            version: VERSION.to_owned(),
            memory_mib: machine.memory_mib,
            extents: memory::save(
                &machine.board.memory,
                &machine.pagemap,
                &machine.mapped,
                &to,
            )?,
            vm: VmState::save(&machine.board.vm)?,
            vcpus,
            devices: frozen.iter().map(Frozen::save).collect::<Result<_, _>>()?,
            serial,
        };
        saved.write(&state)?;
        Ok(frozen)
    }

    /// Whether there may be more.
    fn serve(&mut self) -> io::Result<bool> {
        let Some((message, files)) = self.receive()? else {
            return Ok(false);
        };
        let answer = match serde_json::from_slice(&message) {
            Err(error) => Err(ControlError::Parse(error)),
            Ok(Command::Pause) => done(self.vcpus.pause()),
            Ok(Command::Resume) => done(self.vcpus.resume()),
            Ok(Command::Snapshot) => return self.stand_still(files).map(|()| true),
            Ok(Command::WorkingSet) => self.working_set(files),
            Ok(Command::Plug(plug)) => self.plug(&plug, files),
            Ok(Command::Unplug(mac)) => done(self.hotplug.unplug(mac, &self.machine.bus)),
        };
        self.answer(answer)?;
        Ok(true)
    }

    fn answer(&self, answer: Result<Answer, ControlError>) -> io::Result<()> {
        let answer = answer.unwrap_or_else(|error| Answer::Failed {
            message: chain(&error),
        });
        let answer = serde_json::to_vec(&answer)?;
        send(&self.socket, &answer, SendFlags::NOSIGNAL)?;
        Ok(())
    }
}

fn done<E: Into<ControlError>>(result: Result<(), E>) -> Result<Answer, ControlError> {
    result.map(|()| Answer::Done).map_err(Into::into)
}

/// Those that came with a command.
fn exactly<const N: usize>(files: Vec<File>) -> Result<[File; N], ControlError> {
    let wrong = |files: Vec<File>| ControlError::Files {
        wanted: N,
        files: files.len(),
    };
    files.try_into().map_err(wrong)
}

impl MutEventSubscriber for Control {
    fn process(&mut self, _events: Events, ops: &mut EventOps) {
        let more = self.serve().unwrap_or_else(|error| {
            log::warn!("the control socket: {error}");
            false
        });
        if !more {
            let socket = Events::new_raw(self.socket.as_raw_fd(), EventSet::IN);
            if let Err(error) = ops.remove(socket) {
                log::warn!("cannot forget the control socket: {error:?}");
            }
        }
    }

    fn init(&mut self, ops: &mut EventOps) {
        let socket = Events::new_raw(self.socket.as_raw_fd(), EventSet::IN);
        if let Err(error) = ops.add(socket) {
            log::error!("cannot watch the control socket: {error:?}");
        }
    }
}
