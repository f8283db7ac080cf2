// SPDX-License-Identifier: Apache-2.0
//! One container's directory: its records and its locks.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use walnut_protocol::chain;

use super::{Config, RecordError, State, config, lock, lock_file, names};
use crate::container::InVm;
use crate::network::bridge;
use crate::vm::{self, rundir};

pub(super) const LOCK: &str = "lock";
const VISIT: &str = "visit";
const DISK: &str = "rw.ext4";
const LOG: &str = "container.log";

/// A container that was there when it was looked for.
#[derive(Clone, Debug)]
pub struct Entry {
    pub(super) dir: PathBuf,
    pub(super) id: String,
    /// Of its machine, while it has one.
    machine: PathBuf,
}

/// The right to change a container's life, as long as it is held.
#[derive(Debug)]
pub struct Change {
    _file: File,
}

/// The turn of a command that runs a container for its files only, for as long as whoever reads them
/// likes.
#[derive(Debug)]
pub struct Visit {
    _file: File,
}

/// The right to run a container. It is the supervisor's for its life: inherited or dropped, never
/// given back by other means.
#[derive(Debug)]
pub struct Alive(OwnedFd);

impl AsFd for Alive {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Alive {
    /// An inherited one.
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl Entry {
    pub(super) fn new(containers: &Path, machines: &Path, id: &str) -> Self {
        Self {
            dir: containers.join(id),
            machine: machines.join(id.get(..12).unwrap_or(id)),
            id: id.to_owned(),
        }
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    /// What people see and type.
    pub fn short(&self) -> &str {
        self.id.get(..12).unwrap_or(&self.id)
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn disk(&self) -> PathBuf {
        self.dir.join(DISK)
    }

    pub fn log(&self) -> PathBuf {
        self.dir.join(LOG)
    }

    pub fn config(&self) -> Result<Config, RecordError> {
        Config::read(&self.dir)?.ok_or_else(|| RecordError::NotFound(self.short().to_owned()))
    }

    pub fn write_config(&self, config: &Config) -> Result<(), RecordError> {
        config.write(&self.dir, true)
    }

    /// The truth: what a killed supervisor left is corrected first. A container that was to go
    /// with its end is gone then.
    pub fn state(&self) -> Result<State, RecordError> {
        let state = State::read(&self.dir)?;
        if !state.is_claimed() || self.is_alive()? {
            return Ok(state);
        }
        let change = self.change()?;
        self.correct(&change)
    }

    /// As it is written.
    pub fn raw_state(&self) -> Result<State, RecordError> {
        State::read(&self.dir)
    }

    /// With `durable`, what is written survives a power failure.
    pub fn write_state(&self, state: &State, durable: bool) -> Result<(), RecordError> {
        state.write(&self.dir, durable)
    }

    /// [`Self::state`], by whoever may change it.
    pub fn correct(&self, _change: &Change) -> Result<State, RecordError> {
        let mut state = State::read(&self.dir)?;
        // Whoever claims it holds the directory's lock before it says so.
        if !state.is_claimed() || self.is_alive()? {
            return Ok(state);
        }
        rundir::remove_dead(&self.machine);
        // STATE/vm/ID.
        if let Some(state) = self.machine.ancestors().nth(2) {
            bridge::tidy(state);
        }
        let container = self.config()?.container;
        if let Some(place) = &container.in_vm {
            self.evict(place);
        }
        if container.remove {
            self.remove()?;
            return Err(RecordError::NotFound(self.short().to_owned()));
        }
        state.after_sudden_death();
        if let Err(e) = state.write(&self.dir, true) {
            // True all the same: whoever looks next finds the same.
            log::warn!("{}", chain(&e));
        }
        Ok(state)
    }

    /// Its machine went on when its supervisor was killed: what runs of it there is to end.
    fn evict(&self, place: &InVm) {
        let vsock = rundir::vsock_in(&self.machine.with_file_name(place.machine()));
        let evicted = vm::agent(&vsock).map(|agent| vm::evict(&agent, &self.id));
        // Most often, that machine is gone, too.
        if let Err(e) = evicted {
            log::debug!("{}: {e}", self.short());
        }
    }

    /// Waits for other commands that change this container.
    pub fn change(&self) -> Result<Change, RecordError> {
        let file = self.lock(LOCK, FlockOperation::LockExclusive)?;
        // It may have been removed while this waited.
        if !self.dir.join(config::NAME).exists() {
            return Err(self.not_found());
        }
        Ok(Change { _file: file })
    }

    /// Waits for other commands that visit this container: before [`Self::change`], which nobody
    /// holds that long.
    pub fn visit(&self) -> Result<Visit, RecordError> {
        let file = match self.lock(VISIT, FlockOperation::NonBlockingLockExclusive) {
            Err(RecordError::Lock {
                source: Errno::WOULDBLOCK,
                ..
            }) => {
                log::warn!(
                    "container {} is in use by another command: waiting for it",
                    self.short()
                );
                self.lock(VISIT, FlockOperation::LockExclusive)?
            }
            locked => locked?,
        };
        Ok(Visit { _file: file })
    }

    fn is_visited(&self) -> Result<bool, RecordError> {
        match self.lock(VISIT, FlockOperation::NonBlockingLockShared) {
            Ok(_) => Ok(false),
            Err(RecordError::Lock {
                source: Errno::WOULDBLOCK,
                ..
            }) => Ok(true),
            Err(e) => Err(e),
        }
    }

    fn lock(&self, name: &str, operation: FlockOperation) -> Result<File, RecordError> {
        match lock_file(&self.dir.join(name), operation) {
            Err(RecordError::Create { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Err(self.not_found())
            }
            locked => locked,
        }
    }

    fn not_found(&self) -> RecordError {
        RecordError::NotFound(self.short().to_owned())
    }

    fn open_dir(&self) -> Result<File, RecordError> {
        File::open(&self.dir).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => self.not_found(),
            _ => RecordError::Read {
                path: self.dir.clone(),
                source,
            },
        })
    }

    /// Whether somebody runs it or brings it up.
    pub fn is_alive(&self) -> Result<bool, RecordError> {
        let dir = match self.open_dir() {
            Err(RecordError::NotFound(_)) => return Ok(false),
            opened => opened?,
        };
        // Shared: two that look at once don't see each other.
        match flock(&dir, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(false),
            Err(Errno::WOULDBLOCK) => Ok(true),
            Err(source) => Err(RecordError::Lock {
                path: self.dir.clone(),
                source,
            }),
        }
    }

    /// Takes the right to run it.
    ///
    /// # Errors
    /// [`RecordError::Running`] where somebody else has it, [`RecordError::InUse`] where that is for
    /// its files.
    pub fn claim(&self, _change: &Change) -> Result<Alive, RecordError> {
        let dir = self.open_dir()?;
        if !self.try_lock(&dir)? {
            // Still held though the end is written: it is about to go.
            if self.is_alive()? && State::read(&self.dir)?.is_claimed() {
                return Err(RecordError::Running(self.short().to_owned()));
            }
            if self.is_visited()? {
                return Err(RecordError::InUse(self.short().to_owned()));
            }
            lock(&dir, FlockOperation::LockExclusive, &self.dir)?;
        }
        Ok(Alive(dir.into()))
    }

    /// [`Self::claim`] of one that is known to end, whatever is written: there may have been no room
    /// to write it.
    pub fn claim_ended(&self, _change: &Change) -> Result<Alive, RecordError> {
        let dir = self.open_dir()?;
        lock(&dir, FlockOperation::LockExclusive, &self.dir)?;
        Ok(Alive(dir.into()))
    }

    pub(super) fn try_lock(&self, dir: &File) -> Result<bool, RecordError> {
        match flock(dir, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(true),
            Err(Errno::WOULDBLOCK) => Ok(false),
            Err(source) => Err(RecordError::Lock {
                path: self.dir.clone(),
                source,
            }),
        }
    }

    /// Removes all of it: the name first, the record last, so that what is left by a sudden death
    /// is found and removed; and the lock after that, so that whoever comes meanwhile waits.
    pub fn remove(&self) -> Result<(), RecordError> {
        if let (Some(parent), Ok(config)) = (self.dir.parent(), self.config()) {
            names::release(parent, config.name(), &self.id);
        }
        let record = self.dir.join(config::NAME);
        let last = [&record, &self.dir.join(LOCK)];
        let remove = || -> io::Result<()> {
            for entry in fs::read_dir(&self.dir)? {
                let path = entry?.path();
                if path.is_dir() {
                    fs::remove_dir_all(&path)?;
                } else if !last.contains(&&path) {
                    fs::remove_file(&path)?;
                }
            }
            fs::remove_file(&record)
        };
        match remove() {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(RecordError::Remove {
                path: self.dir.clone(),
                source: e,
            }),
            _ => {
                // Whatever is left has no record, such as the lock: nobody misses it, and what can't
                // be removed now is swept later.
                let _ = fs::remove_dir_all(&self.dir);
                Ok(())
            }
        }
    }
}
