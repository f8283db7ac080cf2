// SPDX-License-Identifier: Apache-2.0
//! Checkpoints: a running container's whole machine on disk, to go on from there later or, as a
//! clone, elsewhere.
//!
//! ```text
//! CONTAINER/checkpoints/
//!   NAME/memory           guest memory, mapped privately by whoever goes on from it
//!   NAME/state            vCPUs and devices
//!   NAME/disk             what the container had written over its image, if that is on a disk
//!   NAME/checkpoint.json  what it is of
//!   NAME.RANDOM.part/     one that is being made, or was when its maker was killed
//! ```
//!
//! What lies outside of the machine is not in it: directories of the host, named volumes,
//! connections to others.

mod part;
mod restored;

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use walnut_vmm_config::{Mac, PmemConfig, SnapshotFiles};

use crate::container::Container;
use crate::network::{Attachment, Mode};
use crate::networks::check_name;
use crate::paths::{Artifacts, PathError};
use crate::record::Entry;
use crate::storage::disk::{self, DiskError};
use crate::supervisor::process::Ports;
use crate::template::{Made, Stamp};
use crate::times::Timestamp;

pub use part::{Part, Writer};
pub use restored::{RestoredDisk, put_back};

const RECORD: &str = "checkpoint.json";
const PART: &str = "part";

#[derive(Debug, Error)]
pub enum CheckpointError {
    #[error(transparent)]
    Path(#[from] PathError),
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error("invalid checkpoint name ({0}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")]
    Name(String),
    #[error("checkpoint with name {name} already exists for container {container}")]
    Exists { name: String, container: String },
    #[error("checkpoint {name} does not exist for container {container}")]
    NotFound { name: String, container: String },
    #[error("write {path}")]
    Write { path: PathBuf, source: io::Error },
    #[error("read {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} makes no sense")]
    Parse {
        path: PathBuf,
        source: serde_json::Error,
    },
    #[error(
        "the checkpoint was made by other programs than those of today, and only they can go on"
    )]
    Other,
    #[error(
        "volume {0} has been used since the checkpoint was made: the machine's memory does not fit it any more"
    )]
    Volume(String),
    #[error("remove {path}")]
    Remove { path: PathBuf, source: io::Error },
}

/// What of a machine must be there again, besides its devices.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub struct Hardware {
    pub cpus: u8,
    pub memory_mib: u32,
    /// As the guest has it: with its room.
    pub image: Option<PmemConfig>,
}

/// `checkpoint.json`.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub struct Record {
    pub made: Made,
    pub created: Timestamp,
    /// The agent's name for the container.
    pub container_id: String,
    pub hardware: Hardware,
    pub streams: Ports,
    /// What the container had written lies on a disk, which is here as well.
    #[serde(default)]
    pub disk: bool,
    pub network: Attachment,
    /// Named volumes that it may write to, as they were left.
    pub volumes: Vec<(String, Stamp)>,
}

/// One on disk.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    dir: PathBuf,
    pub record: Record,
}

impl Checkpoint {
    /// That in `dir`, if it can be gone on from.
    pub fn open(dir: &Path, artifacts: &Artifacts) -> Result<Self, CheckpointError> {
        let checkpoint = Self {
            dir: dir.to_owned(),
            record: read(dir)?,
        };
        if checkpoint.record.made != Made::of(artifacts)? {
            return Err(CheckpointError::Other);
        }
        Ok(checkpoint)
    }

    pub fn files(&self) -> SnapshotFiles {
        SnapshotFiles {
            memory: self.dir.join("memory"),
            state: self.dir.join("state"),
            working_set: None,
        }
    }

    /// Puts the container's disk back to what it was, if it has one.
    pub fn restore_disk(&self, to: &Path) -> Result<Option<RestoredDisk>, CheckpointError> {
        let saved = self.record.disk.then(|| disk_in(&self.dir));
        saved.map(|saved| RestoredDisk::put(&saved, to)).transpose()
    }

    /// Named volumes, and their files, must be as the machine left them.
    pub fn check_volumes(&self, all: &[(String, PathBuf)]) -> Result<(), CheckpointError> {
        for (name, path) in all {
            let mut then = self.record.volumes.iter();
            let then = then.find(|(other, _)| other == name);
            if then.is_some_and(|(_, then)| Stamp::of(path).ok().as_ref() != Some(then)) {
                return Err(CheckpointError::Volume(name.clone()));
            }
        }
        Ok(())
    }

    /// The container, with the addresses that it had where it did not choose them itself: the
    /// programs in it know them.
    pub fn with_addresses(&self, container: &Container) -> Container {
        let mut container = container.clone();
        let network = &mut container.network;
        if let Some((address, mac)) = self.place_on(&network.mode) {
            (network.address, network.mac) = (address, mac);
        }
        for other in &mut network.others {
            if let Some((address, mac)) = self.place_on(&other.mode) {
                (other.address, other.mac) = (address, mac);
            }
        }
        container
    }

    /// What the container had on a network where it can have it again.
    fn place_on(&self, mode: &Mode) -> Option<Place> {
        if !matches!(mode, Mode::Bridge | Mode::Network(_)) {
            return None;
        }
        let mut all = self.record.network.all();
        let had = all.find(|one| one.network == mode.name())?;
        let address = had.address().and_then(|address| match address {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        });
        Some((address, had.mac))
    }
}

/// An address, and the interface's own.
type Place = (Option<Ipv4Addr>, Option<Mac>);

fn disk_in(dir: &Path) -> PathBuf {
    dir.join("disk")
}

fn read(dir: &Path) -> Result<Record, CheckpointError> {
    let path = dir.join(RECORD);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(source) => return Err(CheckpointError::Read { path, source }),
    };
    serde_json::from_slice(&text).map_err(|source| CheckpointError::Parse { path, source })
}

/// One of `checkpoint ls`.
#[derive(Debug)]
pub struct Listed {
    pub name: String,
    pub created: Timestamp,
    /// On disk.
    pub size: u64,
}

/// Those of one container.
#[derive(Debug)]
pub struct Checkpoints<'a> {
    entry: &'a Entry,
    dir: PathBuf,
}

impl<'a> Checkpoints<'a> {
    pub fn of(entry: &'a Entry) -> Self {
        Self {
            entry,
            dir: entry.dir().join("checkpoints"),
        }
    }

    /// Where one of this name is, or would be.
    pub fn path(&self, name: &str) -> Result<PathBuf, CheckpointError> {
        // A dot would be that of a part.
        match check_name(name) {
            Ok(()) if Path::new(name).extension().is_none_or(|end| end != PART) => {
                Ok(self.dir.join(name))
            }
            _ => Err(CheckpointError::Name(name.chars().take(80).collect())),
        }
    }

    /// Where one that must be there is.
    pub fn find(&self, name: &str) -> Result<PathBuf, CheckpointError> {
        let path = self.path(name)?;
        match path.is_dir() {
            true => Ok(path),
            false => Err(CheckpointError::NotFound {
                name: name.to_owned(),
                container: self.entry.short().to_owned(),
            }),
        }
    }

    pub fn create(&self, name: &str) -> Result<Part, CheckpointError> {
        let path = self.path(name)?;
        if path.exists() {
            return Err(CheckpointError::Exists {
                name: name.to_owned(),
                container: self.entry.short().to_owned(),
            });
        }
        Part::create(&self.dir, name)
    }

    /// For clones, which need it for as long as they start.
    pub fn create_unnamed(&self) -> Result<Part, CheckpointError> {
        Part::create(&self.dir, "clone")
    }

    pub fn remove(&self, name: &str) -> Result<(), CheckpointError> {
        let path = self.find(name)?;
        part::remove(&self.dir, &path)
    }

    /// Oldest first.
    pub fn list(&self) -> Vec<Listed> {
        if self.dir.is_dir()
            && let Err(error) = part::sweep_alone(&self.dir)
        {
            log::debug!("{error}");
        }
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let mut all: Vec<_> = entries
            .filter_map(|entry| {
                let name = entry.file_name().into_string().ok()?;
                self.path(&name).ok()?;
                Some(Listed {
                    created: read(&entry.path()).ok()?.created,
                    size: disk::taken_in(&entry.path()),
                    name,
                })
            })
            .collect();
        all.sort_by(|a, b| (a.created, &a.name).cmp(&(b.created, &b.name)));
        all
    }
}
