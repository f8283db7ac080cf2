// SPDX-License-Identifier: Apache-2.0
//! No more machines come up at once than the host has processors. Sharing them, all would be ready
//! as late as the last; one after the other, most are there long before it.
//!
//! ```text
//! STATE/turns/N    one for each processor, locked by whoever brings a machine up
//! ```

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::FlockOperation;
use walnut_protocol::chain;

use crate::paths::{Paths, private_dir};
use crate::record::{RecordError, lock_file};

/// Whoever is before us may hang: then it is not worth waiting for.
const PATIENCE: Duration = Duration::from_secs(20);

/// Held while a machine comes up.
#[derive(Debug)]
pub struct Turn {
    /// Held for its lock; none where there was nothing to lock.
    _place: Option<File>,
}

impl Turn {
    /// Waits for a place, at most [`PATIENCE`], or until one of `interrupts` is readable: whoever
    /// is in the way of a start, it is not this.
    pub fn wait(paths: &Paths, interrupts: &[BorrowedFd<'_>]) -> Self {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        let place = take(paths, processors, interrupts, PATIENCE).unwrap_or_else(|error| {
            log::debug!("wait for a turn: {}", chain(&error));
            None
        });
        Self { _place: place }
    }
}

fn take(
    paths: &Paths,
    places: usize,
    interrupts: &[BorrowedFd<'_>],
    patience: Duration,
) -> io::Result<Option<File>> {
    let dir = paths.state.join("turns");
    private_dir(&dir).map_err(io::Error::other)?;
    let path = |place: usize| dir.join(place.to_string());
    for place in 0..places {
        match lock_file(&path(place), FlockOperation::NonBlockingLockExclusive) {
            Ok(file) => return Ok(Some(file)),
            Err(RecordError::Lock { .. }) => {}
            Err(error) => return Err(io::Error::other(error)),
        }
    }
    let place = usize::try_from(std::process::id()).unwrap_or(0) % places;
    queue(path(place), interrupts, patience)
}

/// flock(2) can't be waited for together with anything else: a thread does.
fn queue(
    path: PathBuf,
    interrupts: &[BorrowedFd<'_>],
    patience: Duration,
) -> io::Result<Option<File>> {
    let ours = eventfd(0, EventfdFlags::CLOEXEC)?;
    let theirs = rustix::io::dup(&ours)?;
    let (give, given) = mpsc::sync_channel(1);
    thread::Builder::new()
        .name("turn".into())
        .stack_size(128 << 10)
        .spawn(move || {
            // Where nobody waits any more, the lock goes at once.
            if let Ok(file) = lock_file(&path, FlockOperation::LockExclusive) {
                let _ = give.send(file);
            }
            let _ = rustix::io::write(&theirs, &1_u64.to_ne_bytes());
        })?;
    let mut fds = vec![PollFd::from_borrowed_fd(ours.as_fd(), PollFlags::IN)];
    fds.extend(
        interrupts
            .iter()
            .map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)),
    );
    let timeout = Timespec::try_from(patience).map_err(io::Error::other)?;
    poll(&mut fds, Some(&timeout))?;
    Ok(given.try_recv().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_comes_when_one_is_done() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::within(dir.path());
        let long = Duration::from_secs(60);
        let first = take(&paths, 2, &[], long).unwrap().unwrap();
        let second = take(&paths, 2, &[], long).unwrap().unwrap();
        thread::scope(|scope| {
            let third = scope.spawn(|| take(&paths, 2, &[], long).unwrap());
            drop((first, second));
            assert!(third.join().unwrap().is_some());
        });
    }

    #[test]
    fn nobody_waits_for_ever_or_against_their_will() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::within(dir.path());
        let first = take(&paths, 1, &[], PATIENCE).unwrap().unwrap();
        let short = Duration::from_millis(1);
        assert!(take(&paths, 1, &[], short).unwrap().is_none());
        let stop = eventfd(1, EventfdFlags::CLOEXEC).unwrap();
        let stopped = take(&paths, 1, &[stop.as_fd()], Duration::from_secs(600));
        assert!(stopped.unwrap().is_none());
        // Those who left the queue hold nothing when their turn comes.
        drop(first);
        assert!(take(&paths, 1, &[], PATIENCE).unwrap().is_some());
    }
}
