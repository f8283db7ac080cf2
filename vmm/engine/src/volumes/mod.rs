// SPDX-License-Identifier: Apache-2.0
//! Named volumes: directories that outlive their containers.
//!
//! ```text
//! ROOT/volumes/
//!   lock              held while a volume is made or removed
//!   NAME/             locked by who has it in a machine: alone, or shared if nobody writes
//!   NAME/volume.json  what it is
//!   NAME/data.ext4    its files, in a directory `data`
//! ```
//!
//! An ext4 is one kernel's at a time: a second writer would destroy it. So a container that may
//! write has its volumes alone, as long as its machine lives.

mod claim;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use claim::{Claim, claim};

use crate::container::{self, ContainerId, volume};
use crate::events::Event;
use crate::paths::{PathError, Paths, private_dir};
use crate::record::{self, RecordError, Registry};
use crate::storage::disk::{self, DiskError};
use crate::times::Timestamp;

#[derive(Debug, Error)]
pub enum VolumesError {
    #[error(transparent)]
    Path(#[from] PathError),
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error(transparent)]
    Name(#[from] volume::VolumeError),
    #[error("get {0}: no such volume")]
    NotFound(String),
    #[error("remove {name}: volume is in use - [{users}]")]
    InUse { name: String, users: String },
    #[error(
        "volume {name} is in use{by}: a volume is one machine's at a time (to share files, mount a \
         directory of the host)"
    )]
    Taken { name: String, by: String },
    #[error("create {path}")]
    Create { path: PathBuf, source: io::Error },
    #[error("open {path}")]
    Open { path: PathBuf, source: io::Error },
    #[error("remove {path}")]
    Remove { path: PathBuf, source: io::Error },
    #[error("create a name")]
    Random(#[source] io::Error),
}

const VERSION: u32 = 1;
const RECORD: &str = "volume.json";
const DATA: &str = "data.ext4";
const LOCK: &str = "lock";

/// `volume.json`.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Volume {
    version: u32,
    pub name: String,
    pub created: Timestamp,
    pub labels: BTreeMap<String, String>,
    /// As they were given.
    pub options: BTreeMap<String, String>,
    /// Made for a container that gave it no name.
    pub anonymous: bool,
}

/// What a volume is to be.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// A random one, if empty.
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub options: BTreeMap<String, String>,
    /// In bytes; what nobody writes takes no room on the host.
    pub size: Option<u64>,
}

/// Which containers have which volumes.
#[derive(Clone, Debug, Default)]
pub struct Users(BTreeMap<String, BTreeSet<String>>);

impl Users {
    pub fn of(&self, name: &str) -> Vec<&str> {
        let users = self.0.get(name).into_iter().flatten();
        users.map(String::as_str).collect()
    }
}

/// All volumes of one `--root`.
#[derive(Clone, Debug)]
pub struct Volumes<'a> {
    paths: &'a Paths,
    dir: PathBuf,
}

impl<'a> Volumes<'a> {
    pub fn new(paths: &'a Paths) -> Self {
        Self {
            paths,
            dir: paths.root.join("volumes"),
        }
    }

    pub fn dir(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub fn data(&self, name: &str) -> PathBuf {
        self.dir(name).join(DATA)
    }

    /// Makes a volume; one that is there already stays as it is.
    pub fn create(&self, wanted: &Wanted) -> Result<Volume, VolumesError> {
        let anonymous = wanted.name.is_empty();
        let name = if anonymous {
            let id = ContainerId::random().map_err(VolumesError::Random)?;
            id.to_string()
        } else {
            volume::check_name(&wanted.name)?;
            wanted.name.clone()
        };
        private_dir(&self.dir)?;
        let _lock = self.lock()?;
        if let Some(volume) = self.read(&name)? {
            return Ok(volume);
        }
        let dir = self.dir(&name);
        // Of a making that was cut short.
        self.remove_dir(&dir)?;
        let volume = Volume {
            version: VERSION,
            name,
            created: Timestamp::now(),
            labels: wanted.labels.clone(),
            options: wanted.options.clone(),
            anonymous,
        };
        let made = self.fill(&dir, &volume, wanted.size);
        if made.is_err() {
            // The first error is the one to tell.
            let _ = fs::remove_dir_all(&dir);
        }
        made?;
        Event::volume(&volume.name, "create").emit(self.paths);
        Ok(volume)
    }

    /// The record comes last: what has none is not there.
    fn fill(&self, dir: &Path, volume: &Volume, size: Option<u64>) -> Result<(), VolumesError> {
        let made = DirBuilder::new().mode(0o700).create(dir);
        made.map_err(|source| VolumesError::Create {
            path: dir.to_owned(),
            source,
        })?;
        let size = size.unwrap_or(disk::DEFAULT_SIZE);
        disk::create(&self.paths.containers(), size, &dir.join(DATA))?;
        Ok(record::write(dir, RECORD, volume, true)?)
    }

    fn lock(&self) -> Result<File, VolumesError> {
        let path = self.dir.join(LOCK);
        Ok(record::lock_file(&path, FlockOperation::LockExclusive)?)
    }

    fn read(&self, name: &str) -> Result<Option<Volume>, VolumesError> {
        let path = self.dir(name).join(RECORD);
        let Some(bytes) = record::read(&path)? else {
            return Ok(None);
        };
        let volume = serde_json::from_slice(&bytes);
        Ok(Some(
            volume.map_err(|source| RecordError::Parse { path, source })?,
        ))
    }

    pub fn find(&self, name: &str) -> Result<Volume, VolumesError> {
        let missing = || VolumesError::NotFound(name.to_owned());
        volume::check_name(name).map_err(|_| missing())?;
        self.read(name)?.ok_or_else(missing)
    }

    /// All that can be read, by name. One that can't is said, not hidden.
    pub fn list(&self) -> Vec<Volume> {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let mut all = Vec::new();
        // Beside them is the lock.
        let entries = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        for entry in entries {
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            match self.read(&name) {
                Ok(volume) => all.extend(volume),
                Err(e) => log::warn!("{}", walnut_protocol::chain(&e)),
            }
        }
        all.sort_by(|a: &Volume, b| a.name.cmp(&b.name));
        all
    }

    /// The containers that have each volume, running or not, by their IDs.
    pub fn users(&self) -> Users {
        let all = Registry::new(self.paths).list();
        let mut users = BTreeMap::<String, BTreeSet<String>>::new();
        for (entry, config, _) in all {
            for name in config.container.volumes.into_iter().filter_map(|v| v.name) {
                users.entry(name).or_default().insert(entry.id().to_owned());
            }
        }
        Users(users)
    }

    /// Bytes of the host's disk.
    pub fn size(&self, name: &str) -> u64 {
        disk::taken(&self.data(name))
    }

    /// # Errors
    /// [`VolumesError::InUse`] where a container has it.
    pub fn remove(&self, name: &str) -> Result<(), VolumesError> {
        self.find(name)?;
        let _lock = self.lock()?;
        let users = self.users();
        let users = users.of(name);
        if !users.is_empty() || claim::is_claimed(&self.dir(name))? {
            return Err(VolumesError::InUse {
                name: name.to_owned(),
                users: users.join(", "),
            });
        }
        self.remove_dir(&self.dir(name))?;
        Event::volume(name, "destroy").emit(self.paths);
        Ok(())
    }

    fn remove_dir(&self, dir: &Path) -> Result<(), VolumesError> {
        // First the record: what is left by a sudden death is none.
        let removed = match fs::remove_file(dir.join(RECORD)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => fs::remove_dir_all(dir),
        };
        match removed {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(VolumesError::Remove {
                path: dir.to_owned(),
                source: e,
            }),
            _ => Ok(()),
        }
    }
}

/// Makes a container's volumes that are not there yet, and says where they are.
pub fn make_all(paths: &Paths, all: &mut [container::Volume]) -> Result<(), VolumesError> {
    let volumes = Volumes::new(paths);
    for volume in all {
        let Some(name) = &mut volume.name else {
            continue;
        };
        if volume.anonymous || volumes.find(name).is_err() {
            let mut wanted = Wanted {
                name: name.clone(),
                ..Wanted::default()
            };
            if let Some((text, bytes)) = &volume.size {
                wanted.options.insert("size".to_owned(), text.clone());
                wanted.size = Some(*bytes);
            }
            *name = volumes.create(&wanted)?.name;
        }
        volume.source = volumes.data(name);
    }
    Ok(())
}

/// Removes what was made for one container alone, which is gone.
pub fn remove_anonymous(paths: &Paths, all: &[container::Volume]) {
    let volumes = Volumes::new(paths);
    for volume in all.iter().filter(|volume| volume.anonymous) {
        let Some(name) = &volume.name else { continue };
        match volumes.remove(name) {
            // Another container has it by now, or it is gone.
            Ok(()) | Err(VolumesError::InUse { .. } | VolumesError::NotFound(_)) => {}
            Err(e) => log::warn!("{}", walnut_protocol::chain(&e)),
        }
    }
}

#[cfg(test)]
mod tests;
