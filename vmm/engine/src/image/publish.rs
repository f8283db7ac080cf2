// SPDX-License-Identifier: Apache-2.0
//! Files that appear whole or not at all, and that one process at a time writes.
//!
//! A file is written under `.NAME.tmp` beside its place, by whoever holds a lock on it (flock(2)),
//! and renamed once it is synced. The lock ends with its owner, however that happens: a temporary
//! file that nobody has locked is left over, and may be removed by anyone.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

pub(super) struct Pending {
    file: File,
    temp: PathBuf,
    target: PathBuf,
    published: bool,
}

impl Pending {
    /// Waits for whoever else writes `target`; `None` once it is there.
    pub(super) fn new(target: &Path) -> io::Result<Option<Self>> {
        loop {
            if target.exists() {
                return Ok(None);
            }
            let pending = Pending::replace(target)?;
            // Someone may have been done between the two looks.
            if !target.exists() {
                return Ok(Some(pending));
            }
        }
    }

    /// The same for a file that may be there already and will be replaced.
    pub(super) fn replace(target: &Path) -> io::Result<Self> {
        let temp = temp_path(target)?;
        loop {
            let mut options = OpenOptions::new();
            options
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600);
            let file = options.open(&temp)?;
            lock(&file, FlockOperation::LockExclusive)?;
            if !is_at(&file, &temp)? {
                continue;
            }
            file.set_len(0)?;
            let target = target.to_path_buf();
            return Ok(Pending {
                file,
                temp,
                target,
                published: false,
            });
        }
    }

    pub(super) fn file(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// Syncs the file and gives it its name. It is locked as long as what is returned is open.
    pub(super) fn publish(mut self) -> io::Result<File> {
        self.file.sync_all()?;
        fs::rename(&self.temp, &self.target)?;
        self.published = true;
        sync_dir(&self.target)?;
        self.file.try_clone()
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if !self.published {
            // Still locked: nobody else has begun to use the name.
            let _ = fs::remove_file(&self.temp);
        }
    }
}

/// Writes a small file whole.
pub(super) fn write(target: &Path, bytes: &[u8]) -> io::Result<()> {
    let pending = Pending::replace(target)?;
    io::Write::write_all(&mut pending.file()?, bytes)?;
    pending.publish().map(drop)
}

/// Writes a file whole, wherever it is; `fill` says whether it succeeded.
pub fn write_file(target: &Path, fill: impl FnOnce(File) -> bool) -> io::Result<()> {
    let pending = Pending::replace(target)?;
    match fill(pending.file()?) {
        true => pending.publish().map(drop),
        false => Ok(()),
    }
}

/// Removes what killed processes left in a directory.
pub(super) fn sweep(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if !is_temp(&path) {
            continue;
        }
        let file = match OpenOptions::new().write(true).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            result => result?,
        };
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => {}
            Err(error) => return Err(error.into()),
            Ok(()) if is_at(&file, &path)? => fs::remove_file(&path)?,
            Ok(()) => {}
        }
    }
    Ok(())
}

/// Opens a published file so that it stays while this is held: whoever removes it must lock it
/// alone first. `None` where there is none.
pub(super) fn open_shared(path: &Path) -> io::Result<Option<File>> {
    loop {
        let file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            result => result?,
        };
        lock(&file, FlockOperation::LockShared)?;
        if is_at(&file, path)? {
            return Ok(Some(file));
        }
    }
}

/// Locks a file that stands for something else, made if need be.
pub(super) fn lock_file(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let file = options
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)?;
    lock(&file, FlockOperation::LockExclusive)?;
    Ok(file)
}

/// A shared lock on a directory.
pub(super) fn share_dir(path: &Path) -> io::Result<File> {
    let dir = File::open(path)?;
    lock(&dir, FlockOperation::LockShared)?;
    Ok(dir)
}

/// One's own lock on a file or directory. `None` while anybody else has one.
pub(super) fn try_alone(path: &Path) -> io::Result<Option<File>> {
    let file = File::open(path)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => Ok(None),
        result => Ok(result.map(|()| Some(file))?),
    }
}

/// Waits until nobody else has it locked.
pub(super) fn lock_alone(file: &File) -> io::Result<()> {
    lock(file, FlockOperation::LockExclusive)
}

fn lock(file: &File, operation: FlockOperation) -> io::Result<()> {
    loop {
        match rustix::fs::flock(file, operation) {
            Err(Errno::INTR) => {}
            result => return result.map_err(Into::into),
        }
    }
}

/// Whether the name still belongs to this very file.
pub(crate) fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let ours = file.metadata()?;
    match fs::symlink_metadata(path) {
        Ok(there) => Ok((there.dev(), there.ino()) == (ours.dev(), ours.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn temp_path(target: &Path) -> io::Result<PathBuf> {
    let name = target
        .file_name()
        .and_then(OsStr::to_str)
        .ok_or(io::ErrorKind::InvalidInput)?;
    Ok(target.with_file_name(format!(".{name}.tmp")))
}

fn is_temp(path: &Path) -> bool {
    let name = path.file_name().and_then(OsStr::to_str);
    name.is_some_and(|name| name.starts_with('.') && name.ends_with(".tmp"))
}

pub(super) fn sync_dir(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(dir) if dir.as_os_str().is_empty() => File::open(".")?.sync_all(),
        Some(dir) => File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_file_appears_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("x");
        let pending = Pending::new(&target).unwrap().unwrap();
        pending.file().unwrap().write_all(b"half").unwrap();
        assert!(!target.exists());
        drop(pending);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        write(&target, b"whole").unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"whole");
        assert!(Pending::new(&target).unwrap().is_none());
    }

    #[test]
    fn the_second_writer_waits_for_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("x");
        let first = Pending::new(&target).unwrap().unwrap();
        let second = {
            let target = target.clone();
            std::thread::spawn(move || Pending::new(&target).unwrap().is_none())
        };
        first.file().unwrap().write_all(b"1").unwrap();
        first.publish().unwrap();
        assert!(
            second.join().unwrap(),
            "the second finds what the first published"
        );
        assert_eq!(fs::read(&target).unwrap(), b"1");
    }

    #[test]
    fn only_what_nobody_holds_is_swept() {
        let dir = tempfile::tempdir().unwrap();
        let held = Pending::new(&dir.path().join("held")).unwrap().unwrap();
        fs::write(dir.path().join(".dead.tmp"), b"left by a killed process").unwrap();
        fs::write(dir.path().join("kept"), b"").unwrap();
        sweep(dir.path()).unwrap();
        assert!(!dir.path().join(".dead.tmp").exists());
        assert!(dir.path().join(".held.tmp").exists());
        assert!(dir.path().join("kept").exists());
        held.publish().unwrap();
    }

    #[test]
    fn a_shared_file_can_not_be_locked_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        assert!(open_shared(&path).unwrap().is_none());
        write(&path, b"1").unwrap();
        let shared = open_shared(&path).unwrap().unwrap();
        let other = File::open(&path).unwrap();
        let alone = FlockOperation::NonBlockingLockExclusive;
        assert_eq!(rustix::fs::flock(&other, alone), Err(Errno::WOULDBLOCK));
        drop(shared);
        rustix::fs::flock(&other, alone).unwrap();
    }
}
