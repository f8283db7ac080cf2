// SPDX-License-Identifier: Apache-2.0
//! A checkpoint that is being made. Who asks for one makes the directory ([`Part`]) and waits; the
//! container's supervisor fills it ([`Writer`]) and gives it its name. Either may be killed: each
//! holds a lock on the directory (flock(2)), and what nobody holds is swept away by the next one
//! who looks.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::{CheckpointError, PART, RECORD, Record, disk_in};
use crate::container::ContainerId;
use crate::paths::private_dir;
use crate::storage::disk;

/// Gone when dropped, unless it has got its name by then.
#[derive(Debug)]
pub struct Part {
    dir: PathBuf,
    /// Held for its lock.
    _held: File,
}

impl Part {
    /// In `all`, for one called `name`.
    pub fn create(all: &Path, name: &str) -> Result<Self, CheckpointError> {
        private_dir(all)?;
        let _alone = lock(all, FlockOperation::LockExclusive)?;
        sweep(all);
        let random = ContainerId::random().map_err(failed(all))?;
        let dir = all.join(format!("{name}.{}.{PART}", random.short()));
        DirBuilder::new()
            .mode(0o700)
            .create(&dir)
            .map_err(failed(&dir))?;
        let held = lock(&dir, FlockOperation::LockShared)?;
        Ok(Self { dir, _held: held })
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        match fs::remove_dir_all(&self.dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                log::warn!("remove {}: {error}", self.dir.display());
            }
            _ => {}
        }
    }
}

/// Removes the parts in `all` that nobody makes any more. The caller holds the lock on `all`.
fn sweep(all: &Path) {
    for entry in fs::read_dir(all).into_iter().flatten().flatten() {
        let path = entry.path();
        let is_part = path.extension().is_some_and(|end| end == PART);
        if !is_part {
            continue;
        }
        let Ok(dir) = File::open(&path) else { continue };
        if flock(&dir, FlockOperation::NonBlockingLockExclusive).is_ok()
            && let Err(error) = fs::remove_dir_all(&path)
        {
            log::warn!("remove {}: {error}", path.display());
        }
    }
}

/// As [`Part::create`] does first.
pub(super) fn sweep_alone(all: &Path) -> Result<(), CheckpointError> {
    let _alone = lock(all, FlockOperation::LockExclusive)?;
    sweep(all);
    Ok(())
}

/// Takes a checkpoint's name away, and then all of it: half of one is none.
pub(super) fn remove(all: &Path, path: &Path) -> Result<(), CheckpointError> {
    let _alone = lock(all, FlockOperation::LockExclusive)?;
    let gone = path.with_extension(format!("removed.{PART}"));
    fs::rename(path, &gone)
        .and_then(|()| fs::remove_dir_all(&gone))
        .map_err(|source| CheckpointError::Remove {
            path: path.to_owned(),
            source,
        })
}

fn lock(dir: &Path, operation: FlockOperation) -> Result<File, CheckpointError> {
    let lock = || {
        let file = File::open(dir)?;
        flock(&file, operation)?;
        Ok(file)
    };
    lock().map_err(failed(dir))
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> CheckpointError {
    let path = path.to_owned();
    |source| CheckpointError::Write { path, source }
}

/// The supervisor's side.
pub struct Writer<'a> {
    dir: &'a Path,
    /// Shall outlive a power failure.
    durable: bool,
    /// Held for its lock.
    _held: File,
}

impl<'a> Writer<'a> {
    pub fn new(dir: &'a Path, durable: bool) -> Result<Self, CheckpointError> {
        Ok(Self {
            dir,
            durable,
            _held: lock(dir, FlockOperation::LockShared)?,
        })
    }

    fn create(&self, name: &str) -> Result<File, CheckpointError> {
        let path = self.dir.join(name);
        let mut options = File::options();
        let created = options.write(true).create_new(true).mode(0o600).open(&path);
        created.map_err(failed(&path))
    }

    /// Memory and state.
    pub fn files(&self) -> Result<[File; 2], CheckpointError> {
        Ok([self.create("memory")?, self.create("state")?])
    }

    /// Whether there is one.
    pub fn copy_disk(&self, from: &Path) -> Result<bool, CheckpointError> {
        match fs::metadata(from) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            found => found.map_err(failed(from))?,
        };
        disk::copy(from, &disk_in(self.dir))?;
        Ok(true)
    }

    /// All else is there: nobody changes it any more.
    pub fn record(&self, record: &Record) -> Result<(), CheckpointError> {
        let disk = record.disk.then_some("disk");
        for name in ["memory", "state"].into_iter().chain(disk) {
            let path = self.dir.join(name);
            let seal = || {
                let file = File::open(&path)?;
                file.set_permissions(fs::Permissions::from_mode(0o400))?;
                self.sync(&file)
            };
            seal().map_err(failed(&path))?;
        }
        let write = |mut file: File| {
            file.write_all(&serde_json::to_vec(record)?)?;
            self.sync(&file)
        };
        write(self.create(RECORD)?).map_err(failed(&self.dir.join(RECORD)))
    }

    /// Under its name from now on, which nothing has yet.
    pub fn publish(&self, to: &Path) -> Result<(), CheckpointError> {
        let sync = |dir: &Path| self.sync(&File::open(dir)?);
        let publish = || {
            sync(self.dir)?;
            // A directory that is not empty is never renamed over.
            fs::rename(self.dir, to)?;
            to.parent().map_or(Ok(()), sync)
        };
        publish().map_err(failed(to))
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        match self.durable {
            true => file.sync_all(),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(all: &Path) -> Vec<String> {
        let entries = fs::read_dir(all).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.collect()
    }

    #[test]
    fn what_nobody_makes_any_more_is_swept_away() {
        let all = tempfile::tempdir().unwrap();
        let part = Part::create(all.path(), "one").unwrap();
        let writer = Writer::new(part.dir(), true).unwrap();
        let other = Part::create(all.path(), "one").unwrap();
        assert_eq!(names(all.path()).len(), 2, "made at the same time");
        let dir = part.dir().to_owned();
        // Killed: the lock goes, and the directory stays.
        let Part { _held, .. } = &part;
        flock(_held, FlockOperation::Unlock).unwrap();
        sweep_alone(all.path()).unwrap();
        assert!(dir.is_dir(), "its writer goes on");
        drop(writer);
        sweep_alone(all.path()).unwrap();
        assert!(!dir.exists());
        assert!(other.dir().is_dir());
        drop((part, other));
        assert!(names(all.path()).is_empty());
    }

    #[test]
    fn a_name_is_given_once() {
        let all = tempfile::tempdir().unwrap();
        let to = all.path().join("name");
        for expected in [true, false] {
            let part = Part::create(all.path(), "name").unwrap();
            let writer = Writer::new(part.dir(), true).unwrap();
            writer.files().unwrap();
            let published = writer.publish(&to);
            assert_eq!(published.is_ok(), expected, "{published:?}");
        }
        assert_eq!(names(all.path()), ["name"]);
        let mode = fs::metadata(to.join("memory")).unwrap().permissions();
        assert_eq!(mode.mode() & 0o7777, 0o600);
        remove(all.path(), &to).unwrap();
        assert!(names(all.path()).is_empty());
    }
}
