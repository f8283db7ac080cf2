// SPDX-License-Identifier: Apache-2.0
//! The events so far, and those to come, by inotify(7).

use std::fs::{self, File};
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;
use thiserror::Error;

use super::{Event, LOG, OLD};
use crate::paths::{PathError, private_dir};
use crate::times::Timestamp;

#[derive(Debug, Error)]
pub enum EventsError {
    #[error(transparent)]
    Path(#[from] PathError),
    #[error("read {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("watch {path}")]
    Watch { path: PathBuf, source: Errno },
}

/// Reads from the oldest event on.
#[derive(Debug)]
pub struct Reader {
    dir: PathBuf,
    watch: Option<OwnedFd>,
    file: Option<File>,
    /// A line whose end is still to come.
    rest: Vec<u8>,
}

impl Reader {
    /// With `follow`, [`Self::wait`] works.
    pub fn new(dir: &Path, follow: bool) -> Result<Self, EventsError> {
        private_dir(dir)?;
        // Before the first read: nothing that comes later is missed.
        let watch = if follow { Some(watch(dir)?) } else { None };
        let mut reader = Self {
            dir: dir.to_owned(),
            watch,
            file: None,
            rest: Vec::new(),
        };
        reader.file = match reader.open(OLD)? {
            Some(old) => Some(old),
            None => reader.open(LOG)?,
        };
        Ok(reader)
    }

    fn open(&self, name: &str) -> Result<Option<File>, EventsError> {
        let path = self.dir.join(name);
        match File::open(&path) {
            Ok(file) => Ok(Some(file)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(EventsError::Read { path, source }),
        }
    }

    /// What has happened since the last time.
    pub fn read(&mut self) -> Result<Vec<Event>, EventsError> {
        let mut events = Vec::new();
        loop {
            // Before the file is read to its end: what comes into a newer one came later.
            let newer = self.newer()?;
            if let Some(file) = &mut self.file {
                file.read_to_end(&mut self.rest)
                    .map_err(|source| EventsError::Read {
                        path: self.dir.clone(),
                        source,
                    })?;
            }
            self.take_lines(&mut events);
            match newer {
                None => return Ok(events),
                Some(newer) => self.file = Some(newer),
            }
            self.rest.clear();
        }
    }

    fn newer(&self) -> Result<Option<File>, EventsError> {
        let inode = |meta: fs::Metadata| meta.ino();
        let ours = self.file.as_ref().and_then(|file| file.metadata().ok());
        let there = fs::metadata(self.dir.join(LOG)).ok();
        match (ours.map(inode), there.map(inode)) {
            (ours, Some(there)) if ours != Some(there) => self.open(LOG),
            _ => Ok(None),
        }
    }

    fn take_lines(&mut self, events: &mut Vec<Event>) {
        let Some(end) = self.rest.iter().rposition(|byte| *byte == b'\n') else {
            return;
        };
        for line in self.rest[..end].split(|byte| *byte == b'\n') {
            // A full disk may have cut one off.
            events.extend(serde_json::from_slice::<Event>(line).ok());
        }
        self.rest.drain(..=end);
    }

    /// Sleeps until something happens, or `until`.
    pub fn wait(&self, until: Option<Timestamp>) -> Result<(), EventsError> {
        let Some(watch) = &self.watch else {
            return Ok(());
        };
        let left = until.map(|until| until.since(Timestamp::now()));
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        match poll(&mut [PollFd::new(watch, PollFlags::IN)], left.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(source) => {
                return Err(EventsError::Watch {
                    path: self.dir.clone(),
                    source,
                });
            }
        }
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut said = inotify::Reader::new(watch, &mut buffer);
        // What they say is seen by looking.
        while said.next().is_ok() {}
        Ok(())
    }
}

fn watch(dir: &Path) -> Result<OwnedFd, EventsError> {
    let failed = |source| EventsError::Watch {
        path: dir.to_owned(),
        source,
    };
    let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).map_err(failed)?;
    let kinds = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO;
    inotify::add_watch(&watch, dir, kinds).map_err(failed)?;
    Ok(watch)
}
