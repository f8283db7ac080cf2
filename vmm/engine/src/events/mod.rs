// SPDX-License-Identifier: Apache-2.0
//! What happens to containers, images and volumes, for `walnut events`: a line of JSON each, appended by
//! whoever does it to a file that all read. Without a daemon there is nobody else to tell.
//!
//! ```text
//! ROOT/events/log    the newest
//! ROOT/events/log.1  those before, once the first has grown
//! ROOT/events/lock   held while one takes the other's place
//! ```

mod read;

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

pub use read::{EventsError, Reader};

use crate::paths::{Paths, private_dir};
use crate::record::{Config, Entry, lock_file};
use crate::times::Timestamp;

const LOG: &str = "log";
const OLD: &str = "log.1";
const LOCK: &str = "lock";
/// Several thousand events.
const MAX_SIZE: u64 = 1 << 20;

#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub struct Event {
    pub time: Timestamp,
    /// `container`, `image`, `volume` or `network`.
    pub kind: String,
    pub action: String,
    pub id: String,
    pub attributes: BTreeMap<String, String>,
}

impl Event {
    /// Of a container, with the attributes that Docker gives all of them.
    pub fn container(entry: &Entry, config: &Config, action: impl Into<String>) -> Self {
        let container = &config.container;
        let mut attributes = container.labels.clone();
        attributes.insert("image".to_owned(), config.image.clone());
        attributes.insert("name".to_owned(), config.name().to_owned());
        Self {
            time: Timestamp::now(),
            kind: "container".to_owned(),
            action: action.into(),
            id: entry.id().to_owned(),
            attributes,
        }
    }

    pub fn volume(name: &str, action: &str) -> Self {
        Self {
            time: Timestamp::now(),
            kind: "volume".to_owned(),
            action: action.to_owned(),
            id: name.to_owned(),
            attributes: BTreeMap::from([("driver".to_owned(), "local".to_owned())]),
        }
    }

    /// `id` is the image's, or the name that it was asked for by.
    pub fn image(id: impl ToString, name: impl ToString, action: &str) -> Self {
        Self {
            time: Timestamp::now(),
            kind: "image".to_owned(),
            action: action.to_owned(),
            id: id.to_string(),
            attributes: BTreeMap::from([("name".to_owned(), name.to_string())]),
        }
    }

    pub fn network(id: &str, name: &str, action: &str) -> Self {
        Self {
            time: Timestamp::now(),
            kind: "network".to_owned(),
            action: action.to_owned(),
            id: id.to_owned(),
            attributes: BTreeMap::from([("name".to_owned(), name.to_owned())]),
        }
    }

    #[must_use]
    pub fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.attributes.insert(name.to_owned(), value.to_string());
        self
    }

    #[must_use]
    pub fn at(mut self, time: Timestamp) -> Self {
        self.time = time;
        self
    }

    /// Writes it down. That it can't be is no reason not to go on.
    pub fn emit(&self, paths: &Paths) {
        if let Err(e) = self.append(&dir(paths)) {
            log::debug!("write an event: {e}");
        }
    }

    fn append(&self, dir: &Path) -> io::Result<()> {
        let mut line = serde_json::to_vec(self)?;
        line.push(b'\n');
        let path = dir.join(LOG);
        let mut file = match open(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                private_dir(dir).map_err(io::Error::other)?;
                open(&path)?
            }
            opened => opened?,
        };
        // One write: lines of others don't get in between.
        file.write_all(&line)?;
        if file.metadata()?.len() > MAX_SIZE {
            rotate(dir)?;
        }
        Ok(())
    }
}

pub fn dir(paths: &Paths) -> PathBuf {
    paths.root.join("events")
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
}

fn rotate(dir: &Path) -> io::Result<()> {
    let lock = lock_file(&dir.join(LOCK), FlockOperation::LockExclusive);
    let _lock = lock.map_err(io::Error::other)?;
    let path = dir.join(LOG);
    // Somebody else may have been faster.
    if std::fs::metadata(&path)?.len() > MAX_SIZE {
        std::fs::rename(&path, dir.join(OLD))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(id: u32) -> Event {
        Event::volume(&id.to_string(), "create")
    }

    fn ids(events: &[Event]) -> Vec<u32> {
        events.iter().map(|e| e.id.parse().unwrap()).collect()
    }

    #[test]
    fn all_are_read_across_files_and_while_they_come() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("events");
        event(0).append(&dir).unwrap();
        let mut reader = Reader::new(&dir, true).unwrap();
        assert_eq!(ids(&reader.read().unwrap()), [0]);
        assert_eq!(ids(&reader.read().unwrap()), [0; 0]);
        let appending = {
            let dir = dir.clone();
            std::thread::spawn(move || event(1).append(&dir).unwrap())
        };
        reader.wait(None).unwrap();
        appending.join().unwrap();
        assert_eq!(ids(&reader.read().unwrap()), [1]);
        // What a reader has not seen yet of a file that is old by then is not lost.
        let long = event(2).with("long", "x".repeat(1 << 20));
        long.append(&dir).unwrap();
        event(3).append(&dir).unwrap();
        assert!(dir.join(OLD).exists());
        assert_eq!(ids(&reader.read().unwrap()), [2, 3]);
        let mut later = Reader::new(&dir, false).unwrap();
        assert_eq!(ids(&later.read().unwrap()), [0, 1, 2, 3]);
        // A line that was cut off, or of something newer, is passed over.
        std::fs::write(dir.join(LOG), "{\"time\":\nnonsense\n").unwrap();
        event(4).append(&dir).unwrap();
        let mut last = Reader::new(&dir, false).unwrap();
        assert_eq!(ids(&last.read().unwrap())[3..], [4]);
    }
}
