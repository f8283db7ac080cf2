// SPDX-License-Identifier: Apache-2.0
//! Templates: machines that were stopped as soon as their agent was ready, to be started from there.
//!
//! ```text
//! ROOT/templates/
//!   ID/memory         guest memory, mapped privately by every clone; never written to again
//!   ID/state          vCPUs and devices
//!   ID/working-set    the pages that a start needs
//!   ID/template.json  what it is of
//!   ID.part/          one that is being made, locked by whoever makes it
//! ```
//!
//! A template appears whole, by rename. Its name is the hash of all that it depends on, so that one
//! of another kernel, program or size is never found; such a one goes when the next is made.

mod key;
mod make;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use walnut_protocol::CallError;
use walnut_vmm_config::SnapshotFiles;

use crate::container::ContainerError;
use crate::image::Digest;
use crate::network::NetworkError;
use crate::paths::{Artifacts, PathError, Paths};
use crate::spec::SpecError;
use crate::storage::disk;
use crate::supervisor::process::ProcessError;
use crate::times::Timestamp;
use crate::vm::rundir::RunDirError;
use crate::vm::{ControlError, VmError};
pub use key::{Id, Key, LEAST_IMAGE_ROOM, Made, Size, Stamp, image_room};
pub use make::{make, make_in_background, step_back};

#[derive(Debug, Error)]
pub enum TemplateError {
    #[error(transparent)]
    Path(#[from] PathError),
    #[error(transparent)]
    RunDir(#[from] RunDirError),
    #[error(transparent)]
    Vm(#[from] VmError),
    #[error("snapshot the machine")]
    Snapshot(#[from] ControlError),
    #[error("try the template")]
    Try(#[source] CallError),
    #[error("wait until the agent hangs up")]
    Hello(#[source] io::Error),
    #[error("the template's container says nothing")]
    Silent,
    #[error(transparent)]
    Container(#[from] ContainerError),
    #[error(transparent)]
    Spec(#[from] SpecError),
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error(transparent)]
    Process(#[from] ProcessError),
    #[error("the machine was interrupted")]
    Interrupted,
    #[error("template {0} is being made already")]
    Busy(Id),
    #[error("No such template: {0}")]
    NotFound(String),
    #[error("write {path}")]
    Write { path: PathBuf, source: io::Error },
    #[error("remove {path}")]
    Remove { path: PathBuf, source: io::Error },
}

/// `template.json`.
#[derive(Debug, Deserialize, Serialize)]
struct Record {
    key: Key,
    created: Timestamp,
    /// Of the memory file, as it was published.
    digest: Digest,
}

/// One of `template ls`.
#[derive(Debug)]
pub struct Template {
    pub id: Id,
    pub of: Size,
    pub created: Timestamp,
    /// On disk.
    pub size: u64,
    /// A start could use it today.
    pub current: bool,
}

#[derive(Debug)]
pub struct Templates {
    dir: PathBuf,
}

impl Templates {
    pub fn new(paths: &Paths) -> Self {
        Self {
            dir: paths.root.join("templates"),
        }
    }

    fn path(&self, id: &Id) -> PathBuf {
        self.dir.join(id.as_ref())
    }

    pub fn find(&self, id: &Id) -> Option<SnapshotFiles> {
        let dir = self.path(id);
        dir.is_dir().then(|| SnapshotFiles {
            memory: dir.join("memory"),
            state: dir.join("state"),
            working_set: Some(dir.join("working-set")),
        })
    }

    /// Machines that use it go on.
    pub fn remove(&self, id: &Id) -> Result<(), TemplateError> {
        let path = self.path(id);
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(TemplateError::NotFound(id.to_string()))
            }
            removed => removed.map_err(|source| TemplateError::Remove { path, source }),
        }
    }

    /// All of them; one whose record can't be read is of no use to anybody.
    pub fn list(&self, artifacts: &Artifacts) -> Result<Vec<Template>, TemplateError> {
        let made = Made::of(artifacts)?;
        let Ok(entries) = fs::read_dir(&self.dir) else {
            return Ok(Vec::new());
        };
        let mut all: Vec<_> = entries
            .flatten()
            .filter_map(|entry| {
                let id = Id::parse(entry.file_name().to_str()?)?;
                let record = read(&entry.path());
                if record.is_none() {
                    log::warn!("{} is no template", entry.path().display());
                }
                let record = record?;
                Some(Template {
                    id,
                    of: record.key.size,
                    created: record.created,
                    size: disk::taken_in(&entry.path()),
                    current: record.key.made == made,
                })
            })
            .collect();
        all.sort_by_key(|template| template.created);
        Ok(all)
    }

    /// Removes those that no start can use any more; or, with `all`, every one. What went, and how
    /// many bytes that are.
    pub fn prune(&self, artifacts: &Artifacts, all: bool) -> Result<(Vec<Id>, u64), TemplateError> {
        let (mut gone, mut bytes) = (Vec::new(), 0);
        for template in self.list(artifacts)? {
            if all || !template.current {
                self.remove(&template.id)?;
                bytes += template.size;
                gone.push(template.id);
            }
        }
        Ok((gone, bytes))
    }
}

fn read(dir: &Path) -> Option<Record> {
    let text = fs::read(dir.join("template.json")).ok()?;
    serde_json::from_slice(&text).ok()
}
