// SPDX-License-Identifier: Apache-2.0
//! Containers on disk: what each was asked to be, what became of it, and who may change that.
//!
//! ```text
//! ROOT/containers/
//!   lock                 shared while a container is made, alone while leftovers are removed
//!   names/NAME           symbolic link to the ID: made exclusively, so a name is one container's
//!   ID/                  locked by whoever runs it, as long as that lives
//!   ID/lock              held while a command changes the container's life
//!   ID/visit             held while a command runs the container for its files only
//!   ID/container.json    what was asked for (`config`)
//!   ID/state.json        what became of it (`state`)
//!   ID/container.log     what it wrote
//!   ID/rw.ext4           its files
//! ```
//!
//! Each file is replaced whole, by rename (on a full disk, in its place). A record that says running in a directory that nobody
//! has locked is a killed supervisor's: whoever reads it next writes the truth.

mod config;
mod create;
mod entry;
mod find;
mod names;
mod state;

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::Serialize;
use thiserror::Error;

pub use config::Config;
pub use entry::{Alive, Change, Entry};
pub use find::{Registry, Unreadable};
pub use state::{Health, Probe, State, Status};

use crate::paths::PathError;

#[derive(Debug, Error)]
pub enum RecordError {
    #[error(transparent)]
    Path(#[from] PathError),
    #[error("create {path}")]
    Create { path: PathBuf, source: io::Error },
    #[error("read {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("make sense of {path}")]
    Parse {
        path: PathBuf,
        source: serde_json::Error,
    },
    #[error("{path} was written by a newer walnut (version {version})")]
    Newer { path: PathBuf, version: u32 },
    #[error("write {path}")]
    Write { path: PathBuf, source: io::Error },
    #[error("lock {path}")]
    Lock { path: PathBuf, source: Errno },
    #[error("remove {path}")]
    Remove { path: PathBuf, source: io::Error },
    #[error(
        "Conflict. The container name \"/{name}\" is already in use by container \"{id}\". You have \
         to remove (or rename) that container to be able to reuse that name."
    )]
    NameTaken { name: String, id: String },
    #[error("No such container: {0}")]
    NotFound(String),
    #[error("Multiple IDs found with provided prefix: {0}")]
    Ambiguous(String),
    #[error("container {0} is being run already")]
    Running(String),
    #[error("container {0} is in use by another command: try again")]
    InUse(String),
}

impl RecordError {
    /// Whether it is the record itself that can't be understood.
    pub fn is_unreadable(&self) -> bool {
        matches!(
            self,
            Self::Read { .. } | Self::Parse { .. } | Self::Newer { .. }
        )
    }
}

/// The bytes of a file; `None` where there is none.
pub(crate) fn read(path: &Path) -> Result<Option<Vec<u8>>, RecordError> {
    match std::fs::read(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(RecordError::Read {
            path: path.to_owned(),
            source,
        }),
        Ok(bytes) => Ok(Some(bytes)),
    }
}

/// One line of JSON, by [`replace`].
pub(crate) fn write(
    dir: &Path,
    name: &str,
    record: &impl Serialize,
    durable: bool,
) -> Result<(), RecordError> {
    let mut text = serde_json::to_vec(record).map_err(|source| RecordError::Parse {
        path: dir.join(name),
        source,
    })?;
    text.push(b'\n');
    replace(dir, name, &text, durable)
}

/// A file that is there for its lock alone.
pub(crate) fn lock_file(path: &Path, operation: FlockOperation) -> Result<File, RecordError> {
    let opened = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path);
    let file = opened.map_err(|source| RecordError::Create {
        path: path.to_owned(),
        source,
    })?;
    lock(&file, operation, path)?;
    Ok(file)
}

fn lock(file: &File, operation: FlockOperation, path: &Path) -> Result<(), RecordError> {
    loop {
        match flock(file, operation) {
            Err(Errno::INTR) => {}
            locked => {
                return locked.map_err(|source| RecordError::Lock {
                    path: path.to_owned(),
                    source,
                });
            }
        }
    }
}

/// Whole or not at all; with `durable`, also whenever the power fails.
fn replace(dir: &Path, name: &str, bytes: &[u8], durable: bool) -> Result<(), RecordError> {
    let temp = dir.join(format!("{name}.new"));
    let path = dir.join(name);
    let write = || -> io::Result<()> {
        let mut file = File::create(&temp)?;
        file.write_all(bytes)?;
        if durable {
            file.sync_all()?;
        }
        std::fs::rename(&temp, &path)?;
        if durable {
            File::open(dir)?.sync_all()?;
        }
        Ok(())
    };
    let written = write().or_else(|e| {
        let _ = std::fs::remove_file(&temp);
        match e.kind() {
            io::ErrorKind::StorageFull => overwrite(&path, bytes).map_err(|_| e),
            _ => Err(e),
        }
    });
    written.map_err(|source| RecordError::Write { path, source })
}

/// Where no room is left for a second file, the one that is there has its block: what became of a
/// container is not lost because its files filled the disk.
fn overwrite(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).open(path)?;
    file.write_all(bytes)?;
    file.set_len(bytes.len() as u64)?;
    file.sync_all()
}

#[cfg(test)]
mod tests;
