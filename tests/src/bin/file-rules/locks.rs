// SPDX-License-Identifier: Apache-2.0
//! Locks, between processes and between open files.

use std::fs::{File, OpenOptions};
use std::path::Path;

use anyhow::ensure;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::{again, text};

pub fn probe_flock(path: &Path) -> anyhow::Result<()> {
    let file = File::open(path)?;
    Ok(rustix::fs::flock(
        file,
        FlockOperation::NonBlockingLockExclusive,
    )?)
}

pub fn flock(dir: &Path) -> anyhow::Result<()> {
    let path = dir.join("file");
    let file = File::create(&path)?;
    let probe = || again(["--flock", text(&path)], None);
    rustix::fs::flock(&file, FlockOperation::LockExclusive)?;
    ensure!(!probe()?, "two processes hold one lock");
    let same = probe_flock(&path).map_err(|e| e.downcast_ref::<Errno>().copied());
    ensure!(
        matches!(same, Err(Some(Errno::WOULDBLOCK))),
        "a second descriptor: {same:?}"
    );
    rustix::fs::flock(&file, FlockOperation::LockShared)?;
    rustix::fs::flock(File::open(&path)?, FlockOperation::NonBlockingLockShared)?;
    drop(file);
    ensure!(probe()?, "a lock outlives its file");
    Ok(())
}

/// Ten bytes from `start` on, for writing.
fn range(start: i64, kind: i32) -> libc::flock {
    libc::flock {
        l_type: i16::try_from(kind).unwrap_or_default(),
        l_whence: i16::try_from(libc::SEEK_SET).unwrap_or_default(),
        l_start: start,
        l_len: 10,
        l_pid: 0,
    }
}

/// The first ten bytes are another's, the next ten are free.
pub fn probe_fcntl(path: &Path) -> anyhow::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    let first = fcntl(&file, FcntlArg::F_SETLK(&range(0, libc::F_WRLCK)));
    ensure!(
        first == Err(nix::Error::EAGAIN) || first == Err(nix::Error::EACCES),
        "{first:?}"
    );
    fcntl(&file, FcntlArg::F_SETLK(&range(10, libc::F_WRLCK)))?;
    Ok(())
}

pub fn fcntl_locks(dir: &Path) -> anyhow::Result<()> {
    let path = dir.join("file");
    let file = File::create(&path)?;
    let probe = || again(["--fcntl", text(&path)], None);
    fcntl(&file, FcntlArg::F_SETLK(&range(0, libc::F_WRLCK)))?;
    ensure!(probe()?, "a lock on a range of bytes");
    fcntl(&file, FcntlArg::F_SETLK(&range(0, libc::F_UNLCK)))?;
    ensure!(!probe()?, "a lock that was given back");
    // Of the open file, not of the process.
    fcntl(&file, FcntlArg::F_OFD_SETLK(&range(0, libc::F_WRLCK)))?;
    ensure!(probe()?, "an open file's lock");
    Ok(())
}
