// SPDX-License-Identifier: Apache-2.0
//! Reads a log from where it is asked for to its end, and on while it grows.
//!
//! Waits are for inotify(7) events in the container's directory and for the supervisor's death.

use std::fs::File;
use std::io::{self, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use thiserror::Error;

use super::read::{Filter, ReadError, Style, print};
use super::tail::{files, start_of_last};
use crate::times::Timestamp;

const CHUNK: usize = 256 << 10;

#[derive(Debug, Error)]
pub enum FollowError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("watch {path}")]
    Watch { path: PathBuf, source: Errno },
}

/// A reader of one container's log.
#[derive(Debug)]
pub struct Follower {
    path: PathBuf,
    /// Files that are still to be read, the current one last.
    queue: Vec<PathBuf>,
    file: Option<File>,
    at: u64,
    rest: Vec<u8>,
    watch: Option<OwnedFd>,
}

impl Follower {
    /// Begins `tail` entries before the end, or at the beginning. With `follow`, [`Self::wait`] works.
    pub fn new(path: &Path, tail: Option<u64>, follow: bool) -> Result<Self, FollowError> {
        // Before the first read: nothing that comes later is missed.
        let watch = if follow { Some(watch(path)?) } else { None };
        let mut all = files(path);
        let (mut at, mut first) = (0, 0);
        if let Some(mut wanted) = tail {
            for (index, file) in all.iter().enumerate().rev() {
                let Some(opened) = open(file)? else { continue };
                let (start, found) =
                    start_of_last(&opened, wanted).map_err(|e| read_error(file, e))?;
                (at, first) = (start, index);
                wanted -= found.min(wanted);
                if wanted == 0 {
                    break;
                }
            }
        }
        let queue = all.split_off(first);
        Ok(Self {
            path: path.to_owned(),
            queue,
            file: None,
            at,
            rest: Vec::new(),
            watch,
        })
    }

    /// Shows all that is there now; false once an entry was later than `filter` wants.
    pub fn show(
        &mut self,
        filter: Filter,
        style: Style,
        out: &mut impl Write,
        err: &mut impl Write,
    ) -> Result<bool, FollowError> {
        loop {
            if self.file.is_none() && !self.open_next()? {
                return Ok(true);
            }
            let Some(file) = &self.file else {
                return Ok(true);
            };
            let begin = self.rest.len();
            self.rest.resize(begin + CHUNK, 0);
            let count = file
                .read_at(&mut self.rest[begin..], self.at)
                .map_err(|e| read_error(&self.path, e))?;
            self.rest.truncate(begin + count);
            self.at += count as u64;
            if count == 0 {
                if self.is_replaced() {
                    self.file = None;
                    self.at = 0;
                    self.rest.clear();
                    continue;
                }
                return Ok(true);
            }
            let (done, over) = print(&self.rest, filter, style, out, err)?;
            self.rest.drain(..done);
            if over {
                return Ok(false);
            }
        }
    }

    /// The next file in the queue.
    fn open_next(&mut self) -> Result<bool, FollowError> {
        while !self.queue.is_empty() {
            let path = self.queue.remove(0);
            if let Some(file) = open(&path)? {
                self.file = Some(file);
                return Ok(true);
            }
            self.at = 0;
        }
        // Not written yet, or read to its end.
        self.file = open(&self.path)?;
        Ok(self.file.is_some())
    }

    /// Whether there is a newer file than the one that was read to its end.
    fn is_replaced(&mut self) -> bool {
        if !self.queue.is_empty() {
            return true;
        }
        let (Some(Ok(ours)), Ok(there)) = (
            self.file.as_ref().map(File::metadata),
            std::fs::metadata(&self.path),
        ) else {
            return false;
        };
        ours.ino() != there.ino() || there.len() < self.at
    }

    /// Sleeps until something happens in the container's directory, `supervisor` dies, or `until`.
    pub fn wait(&self, supervisor: u32, until: Option<Timestamp>) -> Result<(), FollowError> {
        let Some(watch) = &self.watch else {
            return Ok(());
        };
        let failed = |source| FollowError::Watch {
            path: self.path.clone(),
            source,
        };
        let pid = i32::try_from(supervisor).ok().and_then(Pid::from_raw);
        let pidfd = pid.map(|pid| pidfd_open(pid, PidfdFlags::empty()));
        let pidfd = match pidfd {
            // It has gone meanwhile: look again.
            Some(Err(Errno::SRCH)) => return Ok(()),
            Some(opened) => Some(opened.map_err(failed)?),
            None => None,
        };
        let mut fds = vec![PollFd::new(watch, PollFlags::IN)];
        fds.extend(pidfd.as_ref().map(|fd| PollFd::new(fd, PollFlags::IN)));
        let left = until.map(|until| until.since(Timestamp::now()));
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        match poll(&mut fds, left.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(failed(e)),
        }
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(watch, &mut buffer);
        // What they say is seen by looking.
        while events.next().is_ok() {}
        Ok(())
    }

    /// For other waits beside this one.
    pub fn watch(&self) -> Option<impl AsFd + '_> {
        self.watch.as_ref()
    }
}

fn watch(path: &Path) -> Result<OwnedFd, FollowError> {
    let dir = path.parent().unwrap_or(path);
    let failed = |source| FollowError::Watch {
        path: dir.to_owned(),
        source,
    };
    let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).map_err(failed)?;
    let events = WatchFlags::MODIFY
        | WatchFlags::CREATE
        | WatchFlags::MOVED_TO
        | WatchFlags::DELETE_SELF
        | WatchFlags::DELETE;
    inotify::add_watch(&watch, dir, events).map_err(failed)?;
    Ok(watch)
}

fn open(path: &Path) -> Result<Option<File>, FollowError> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(read_error(path, e).into()),
    }
}

fn read_error(path: &Path, source: io::Error) -> ReadError {
    ReadError::Read {
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::super::{LogWriter, Options, Splitter, Stream};
    use super::*;

    fn read(follower: &mut Follower) -> String {
        let mut out = Vec::new();
        let (filter, style) = (Filter::default(), Style::default());
        follower
            .show(filter, style, &mut out, &mut Vec::new())
            .unwrap();
        String::from_utf8(out).unwrap()
    }

    fn write(log: &mut LogWriter, text: &str) {
        let entries = Splitter::new(Stream::Stdout).push(text.as_bytes(), Timestamp::now());
        log.append(&entries).unwrap();
    }

    #[test]
    fn across_rotations() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("container.log");
        let options = Options {
            max_size: Some(1),
            max_file: 3,
            ..Options::default()
        };
        let mut follower = Follower::new(&path, None, true).unwrap();
        assert_eq!(read(&mut follower), "");
        let mut log = LogWriter::open(&path, &options).unwrap();
        write(&mut log, "one\n");
        assert_eq!(read(&mut follower), "one\n");
        write(&mut log, "two\n");
        // Returns at once: something has happened.
        follower.wait(0, None).unwrap();
        assert_eq!(read(&mut follower), "two\n");
        write(&mut log, "three\n");
        let mut from_start = Follower::new(&path, None, false).unwrap();
        assert_eq!(read(&mut from_start), "one\ntwo\nthree\n");
        for (tail, text) in [
            (0, ""),
            (1, "three\n"),
            (2, "two\nthree\n"),
            (9, "one\ntwo\nthree\n"),
        ] {
            let mut last = Follower::new(&path, Some(tail), false).unwrap();
            assert_eq!(read(&mut last), text);
        }
    }

    #[test]
    fn a_file_that_starts_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("container.log");
        let options = Options {
            max_size: Some(1),
            ..Options::default()
        };
        let mut log = LogWriter::open(&path, &options).unwrap();
        let mut follower = Follower::new(&path, None, true).unwrap();
        write(&mut log, "a longer line\n");
        assert_eq!(read(&mut follower), "a longer line\n");
        write(&mut log, "b\n");
        assert_eq!(read(&mut follower), "b\n");
    }
}
