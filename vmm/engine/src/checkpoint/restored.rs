// SPDX-License-Identifier: Apache-2.0
//! A container's disk as a checkpoint has it, in the place of today's. That one is kept beside it
//! until the machine goes on: a start that fails changes nothing.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::CheckpointError;
use crate::storage::disk;

/// Today's disk is back when this is dropped before [`RestoredDisk::keep`].
#[derive(Debug)]
#[must_use]
pub struct RestoredDisk {
    disk: PathBuf,
    kept: bool,
}

impl RestoredDisk {
    pub(super) fn put(saved: &Path, disk: &Path) -> Result<Self, CheckpointError> {
        let new = disk.with_extension("new");
        remove(&new)?;
        let restored = Self {
            disk: disk.to_owned(),
            kept: false,
        };
        let put = disk::copy(saved, &new)
            .map_err(CheckpointError::from)
            .and_then(|()| {
                rename(disk, &old(disk))?;
                rename(&new, disk)
            });
        if put.is_err() {
            remove(&new)?;
        }
        put.map(|()| restored)
    }

    /// The machine runs on it.
    pub fn keep(mut self) {
        self.kept = true;
        if let Err(error) = remove(&old(&self.disk)) {
            log::warn!("{error}");
        }
    }
}

impl Drop for RestoredDisk {
    fn drop(&mut self) {
        if !self.kept {
            put_back(&self.disk);
        }
    }
}

/// Takes today's disk again, where whoever restored another one has not come so far as to keep it.
pub fn put_back(disk: &Path) {
    if let Err(error) = rename(&old(disk), disk) {
        log::warn!("{error}");
    }
}

fn old(disk: &Path) -> PathBuf {
    disk.with_extension("old")
}

/// One that is not there need not be.
fn rename(from: &Path, to: &Path) -> Result<(), CheckpointError> {
    unless_missing(fs::rename(from, to)).map_err(|source| CheckpointError::Write {
        path: to.to_owned(),
        source,
    })
}

fn remove(path: &Path) -> Result<(), CheckpointError> {
    unless_missing(fs::remove_file(path)).map_err(|source| CheckpointError::Remove {
        path: path.to_owned(),
        source,
    })
}

fn unless_missing(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn todays_disk_is_back_unless_the_other_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let (disk, saved) = (dir.path().join("rw.ext4"), dir.path().join("saved"));
        fs::write(&disk, "today").unwrap();
        fs::write(&saved, "then").unwrap();
        let read = || fs::read_to_string(&disk).unwrap();
        let restored = RestoredDisk::put(&saved, &disk).unwrap();
        assert_eq!(read(), "then");
        drop(restored);
        assert_eq!(read(), "today");
        // Killed on the way.
        std::mem::forget(RestoredDisk::put(&saved, &disk).unwrap());
        assert_eq!(read(), "then");
        put_back(&disk);
        assert_eq!(read(), "today");
        put_back(&disk);
        assert!(RestoredDisk::put(&dir.path().join("none"), &disk).is_err());
        assert_eq!(read(), "today");
        RestoredDisk::put(&saved, &disk).unwrap().keep();
        put_back(&disk);
        assert_eq!(read(), "then");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
        // A clone has none so far.
        fs::remove_file(&disk).unwrap();
        RestoredDisk::put(&saved, &disk).unwrap().keep();
        assert_eq!(read(), "then");
    }
}
