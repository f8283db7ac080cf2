// SPDX-License-Identifier: Apache-2.0
//! A container's birth on disk.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use super::{Alive, Config, Entry, RecordError, Registry, State, config, lock, lock_file, names};
use crate::paths::private_dir;

const LOCK: &str = "lock";

impl Registry {
    /// Makes the container's directory and record. `config` gets a name if it has none. The
    /// container is the caller's alone until it lets go of [`Alive`].
    pub fn create(
        &self,
        config: &mut Config,
        state: &State,
    ) -> Result<(Entry, Alive), RecordError> {
        // Most often the directory is there.
        let _making = match self.lock(FlockOperation::LockShared) {
            Err(RecordError::Create { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                private_dir(self.dir())?;
                self.lock(FlockOperation::LockShared)?
            }
            locked => locked?,
        };
        let id = config.container.id.to_string();
        let entry = self.entry(&id);
        let created = |source| RecordError::Create {
            path: entry.dir.clone(),
            source,
        };
        DirBuilder::new()
            .mode(0o700)
            .create(&entry.dir)
            .map_err(created)?;
        let alive = File::open(&entry.dir).map_err(created)?;
        lock(&alive, FlockOperation::LockExclusive, &entry.dir)?;
        let made = self.fill(config, state, &entry);
        if made.is_err() {
            // The first error is the one to tell.
            let _ = fs::remove_dir_all(&entry.dir);
        }
        made.map(|()| (entry, Alive::from_fd(alive.into())))
    }

    fn fill(&self, config: &mut Config, state: &State, entry: &Entry) -> Result<(), RecordError> {
        match &config.container.name {
            Some(name) => names::take(self.dir(), name, &entry.id)?,
            None => config.container.name = Some(names::take_random(self.dir(), &entry.id)?),
        }
        // What goes with its end needs no protection from a power failure.
        let durable = !config.container.remove;
        let written = state
            .write(&entry.dir, durable)
            .and_then(|()| config.write(&entry.dir, durable));
        if written.is_err() {
            names::release(self.dir(), config.name(), &entry.id);
        }
        written
    }

    /// Takes another name; the record follows.
    pub fn rename(&self, entry: &Entry, name: &str) -> Result<(), RecordError> {
        let _change = entry.change()?;
        let mut config = entry.config()?;
        names::take(self.dir(), name, &entry.id)?;
        let old = config.container.name.replace(name.to_owned());
        let written = entry.write_config(&config);
        let over = match written {
            Ok(()) => &old.unwrap_or_default(),
            Err(_) => name,
        };
        names::release(self.dir(), over, &entry.id);
        written
    }

    fn lock(&self, operation: FlockOperation) -> Result<File, RecordError> {
        lock_file(&self.dir().join(LOCK), operation)
    }

    /// Removes the directories whose making was cut short, and their names, if nobody makes one now.
    pub(super) fn sweep(&self, without_record: &[PathBuf]) {
        let Ok(_alone) = self.lock(FlockOperation::NonBlockingLockExclusive) else {
            return;
        };
        for dir in without_record.iter().filter(|dir| !has_record(dir)) {
            let id = dir.file_name().unwrap_or_default().to_string_lossy();
            if let Some(name) = names::of(self.dir(), &id) {
                names::release(self.dir(), &name, &id);
            }
            if let Err(e) = fs::remove_dir_all(dir) {
                log::warn!("remove {}: {e}", dir.display());
            }
        }
    }
}

fn has_record(dir: &Path) -> bool {
    dir.join(config::NAME).exists()
}
