// SPDX-License-Identifier: Apache-2.0
//! The writable layer's disk: a sparse file with an empty ext4, made once for each size and copied.
//!
//! Runs before the machine starts. A copy is its extents only, or a reflink where the host's file
//! system has those, so that no start waits for mkfs.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{FlockOperation, SeekFrom, flock, ioctl_ficlone, seek};
use rustix::io::Errno;
use thiserror::Error;

use crate::paths::{PathError, private_dir};
use crate::units::{GIB, MIB, human_size};

#[derive(Debug, Error)]
pub enum DiskError {
    #[error(transparent)]
    Path(#[from] PathError),
    #[error("--storage-opt size={}: the minimum is {}", human_size(*.size), human_size(MIN_SIZE))]
    TooSmall { size: u64 },
    #[error("create {path}")]
    Create { path: PathBuf, source: io::Error },
    #[error("lock {path}")]
    Lock { path: PathBuf, source: Errno },
    #[error(
        "run mkfs.ext4, which makes the container's disk: {0}; `apt-get install e2fsprogs` brings it"
    )]
    NoMkfs(io::Error),
    #[error("format {path}: mkfs.ext4 says: {message}")]
    Mkfs { path: PathBuf, message: String },
    #[error("copy {from} to {to}")]
    Copy {
        from: PathBuf,
        to: PathBuf,
        source: io::Error,
    },
}

/// Of a container that asks for none; what nobody writes takes no room on the host.
pub const DEFAULT_SIZE: u64 = 10 * GIB;
/// A journal and some room.
const MIN_SIZE: u64 = 16 * MIB;
const COPY_CHUNK: usize = 256 << 10;

/// Makes `target`, an empty ext4 of `size` bytes, from the blank one that `store` keeps.
pub fn create(store: &Path, size: u64, target: &Path) -> Result<(), DiskError> {
    if size < MIN_SIZE {
        return Err(DiskError::TooSmall { size });
    }
    let size = size.next_multiple_of(4096);
    let blanks = store.join("blank");
    private_dir(&blanks)?;
    let blank = blanks.join(format!("ext4-{size}"));
    let from = match File::open(&blank) {
        Ok(file) => file,
        Err(_) => format(&blanks, &blank, size)?,
    };
    copy_sparse(&from, target, size).map_err(|source| DiskError::Copy {
        from: blank,
        to: target.to_owned(),
        source,
    })
}

/// One at a time; whoever comes second finds it made.
fn format(dir: &Path, blank: &Path, size: u64) -> Result<File, DiskError> {
    let created = |path: &Path, source| DiskError::Create {
        path: path.to_owned(),
        source,
    };
    let lock_path = dir.join("lock");
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&lock_path)
        .map_err(|e| created(&lock_path, e))?;
    flock(&lock, FlockOperation::LockExclusive).map_err(|source| DiskError::Lock {
        path: lock_path,
        source,
    })?;
    if let Ok(file) = File::open(blank) {
        return Ok(file);
    }
    // Whatever a killed command left under this name is overwritten: we hold the lock.
    let temp = dir.join("new");
    let file = File::create(&temp).map_err(|e| created(&temp, e))?;
    file.set_len(size).map_err(|e| created(&temp, e))?;
    mkfs(&temp)?;
    file.sync_all().map_err(|e| created(&temp, e))?;
    fs::rename(&temp, blank).map_err(|e| created(blank, e))?;
    File::open(blank).map_err(|e| created(blank, e))
}

/// Debian keeps it where a user's PATH does not look.
pub fn mkfs_program() -> &'static str {
    ["/usr/sbin/mkfs.ext4", "/sbin/mkfs.ext4"]
        .into_iter()
        .find(|candidate| Path::new(candidate).exists())
        .unwrap_or("mkfs.ext4")
}

fn mkfs(path: &Path) -> Result<(), DiskError> {
    let output = Command::new(mkfs_program())
        .args(["-q", "-F", "-m", "0", "-L", "walnut-rw"])
        .args([
            "-O",
            "^resize_inode",
            "-E",
            "lazy_itable_init=1,lazy_journal_init=1,nodiscard",
        ])
        .arg(path)
        .stdin(Stdio::null())
        .output()
        .map_err(DiskError::NoMkfs)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let message = said.lines().next().unwrap_or("nothing").to_owned();
    Err(DiskError::Mkfs {
        path: path.to_owned(),
        message,
    })
}

/// Makes `to` what `from` is.
pub fn copy(from: &Path, to: &Path) -> Result<(), DiskError> {
    let copy = || {
        let file = File::open(from)?;
        let size = file.metadata()?.len();
        copy_sparse(&file, to, size)
    };
    copy().map_err(|source| DiskError::Copy {
        from: from.to_owned(),
        to: to.to_owned(),
        source,
    })
}

fn copy_sparse(from: &File, target: &Path, size: u64) -> io::Result<()> {
    let to = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(target)?;
    if ioctl_ficlone(&to, from).is_ok() {
        return Ok(());
    }
    to.set_len(size)?;
    let mut buffer = vec![0; COPY_CHUNK];
    let mut at = 0;
    loop {
        let start = match seek(from, SeekFrom::Data(at)) {
            Ok(start) => start,
            // Nothing but a hole up to the end.
            Err(Errno::NXIO) => return Ok(()),
            Err(e) => return Err(e.into()),
        };
        let end = seek(from, SeekFrom::Hole(start))?;
        at = start;
        while at < end {
            let left = usize::try_from(end - at)
                .unwrap_or(COPY_CHUNK)
                .min(COPY_CHUNK);
            let read = from.read_at(&mut buffer[..left], at)?;
            if read == 0 {
                return Ok(());
            }
            to.write_all_at(&buffer[..read], at)?;
            at += read as u64;
        }
    }
}

/// Bytes that a file takes on its disk, holes left out; none where there is no such file.
pub fn taken(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |meta| meta.blocks() * 512)
}

/// The same of all files below a directory; links are not followed.
pub fn taken_in(dir: &Path) -> u64 {
    let files = fs::read_dir(dir).into_iter().flatten().flatten();
    let size = |file: fs::DirEntry| match file.metadata() {
        Ok(meta) if meta.is_dir() => taken_in(&file.path()),
        Ok(meta) => meta.blocks() * 512,
        Err(_) => 0,
    };
    files.map(size).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn extents_are_copied_and_holes_stay() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("from");
        let from = File::create_new(&path).unwrap();
        from.set_len(64 * MIB).unwrap();
        from.write_all_at(b"first", 0).unwrap();
        from.write_all_at(&[7; 300_000], 32 * MIB).unwrap();
        let to = dir.path().join("to");
        copy_sparse(&File::open(&path).unwrap(), &to, 64 * MIB).unwrap();
        assert!(fs::read(&path).unwrap() == fs::read(&to).unwrap());
        assert!(fs::metadata(&to).unwrap().blocks() * 512 < 4 * MIB);
    }

    #[test]
    fn a_blank_is_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        match create(dir.path(), 64 * MIB, &a) {
            Err(DiskError::NoMkfs(_)) => {
                eprintln!("SKIPPED: mkfs.ext4 is not installed");
                return;
            }
            made => made.unwrap(),
        }
        let blank = dir.path().join(format!("blank/ext4-{}", 64 * MIB));
        let before = fs::metadata(&blank).unwrap().ino();
        create(dir.path(), 64 * MIB, &b).unwrap();
        assert_eq!(fs::metadata(&blank).unwrap().ino(), before);
        assert!(fs::read(&a).unwrap() == fs::read(&b).unwrap());
        // The superblock's magic (ext4's s_magic at 0x38 of the superblock, at 1024).
        assert_eq!(&fs::read(&a).unwrap()[1024 + 0x38..][..2], &[0x53, 0xef]);
        let small = create(dir.path(), MIB, &dir.path().join("c")).unwrap_err();
        assert_eq!(
            small.to_string(),
            "--storage-opt size=1 MiB: the minimum is 16 MiB"
        );
    }
}
