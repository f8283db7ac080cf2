// SPDX-License-Identifier: Apache-2.0
//! Containers that are kept: each has a directory, locked while it runs.
//!
//! ```text
//! ROOT/containers/
//!   lock                 held while one is made
//!   ID/container.json    the record: what it is and what became of it
//!   ID/rw.ext4           what it has written
//! ```
//!
//! A container run with `--rm` and no name leaves no trace here, nor does one whose directory has
//! no record: that was never finished, and the next command removes it. A record that says running
//! in a directory that nobody has locked is a killed command's: it is corrected.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::container::Container;
use crate::paths::{PathError, Paths, private_dir};

#[derive(Debug, Error)]
pub enum KeptError {
    #[error(transparent)]
    Path(#[from] PathError),
    #[error("create {path}")]
    Create { path: PathBuf, source: io::Error },
    #[error("write {path}")]
    Write { path: PathBuf, source: io::Error },
    #[error("lock {path}")]
    Lock { path: PathBuf, source: Errno },
    #[error(
        "Conflict. The container name \"/{name}\" is already in use by container \"{id}\". You have \
         to remove (or rename) that container to be able to reuse that name."
    )]
    NameTaken { name: String, id: String },
}

/// Of the record's format; another one is left alone.
const VERSION: u32 = 1;
const RECORD: &str = "container.json";
const DISK: &str = "rw.ext4";
/// Docker's code for a container whose end nobody saw.
const UNSEEN_END: u8 = 255;

/// Times are seconds since 1970.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
struct Record {
    version: u32,
    id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    image: String,
    args: Vec<String>,
    created_at: u64,
    /// It goes when it ends (`--rm`).
    remove: bool,
    #[serde(flatten)]
    state: State,
}

#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(tag = "state", rename_all = "kebab-case")]
enum State {
    /// It has not begun: whatever fails before that leaves nothing.
    Created,
    Running,
    Exited {
        exit_code: u8,
        finished_at: u64,
    },
}

/// A container's directory, while it is ours.
#[derive(Debug)]
pub struct Kept {
    path: PathBuf,
    record: Record,
    /// Held for its lock.
    _lock: File,
}

impl Kept {
    /// Makes the container's directory and record; refuses a name that another one has.
    pub fn create(paths: &Paths, container: &Container, image: &str) -> Result<Self, KeptError> {
        let dir = paths.containers();
        private_dir(&dir)?;
        let _registry = lock_registry(&dir)?;
        sweep(&dir);
        if let Some(name) = &container.name
            && let Some(other) = records(&dir).find(|record| record.name.as_ref() == Some(name))
        {
            return Err(KeptError::NameTaken {
                name: name.clone(),
                id: other.id,
            });
        }
        let path = dir.join(container.id.as_str());
        let create = |source| KeptError::Create {
            path: path.clone(),
            source,
        };
        DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(create)?;
        let lock = File::open(&path).map_err(create)?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|source| {
            KeptError::Lock {
                path: path.clone(),
                source,
            }
        })?;
        let record = Record {
            version: VERSION,
            id: container.id.to_string(),
            name: container.name.clone(),
            image: image.to_owned(),
            args: container.args.clone(),
            created_at: now(),
            remove: container.remove,
            state: State::Created,
        };
        let kept = Self {
            path,
            record,
            _lock: lock,
        };
        write(&kept.path, &kept.record)?;
        Ok(kept)
    }

    pub fn disk(&self) -> PathBuf {
        self.path.join(DISK)
    }

    /// The container has begun: from now on it is kept.
    pub fn keep(&mut self) -> Result<(), KeptError> {
        self.record.state = State::Running;
        write(&self.path, &self.record)
    }

    pub fn finish(&mut self, exit_code: u8) -> Result<(), KeptError> {
        self.record.state = State::Exited {
            exit_code,
            finished_at: now(),
        };
        if self.record.remove {
            Ok(())
        } else {
            write(&self.path, &self.record)
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if self.record.remove || self.record.state == State::Created {
            remove(&self.path);
        }
    }
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

fn lock_registry(dir: &Path) -> Result<File, KeptError> {
    let path = dir.join("lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(|source| KeptError::Create {
            path: path.clone(),
            source,
        })?;
    flock(&file, FlockOperation::LockExclusive)
        .map_err(|source| KeptError::Lock { path, source })?;
    Ok(file)
}

/// Whole or not at all, whenever the power fails.
fn write(dir: &Path, record: &Record) -> Result<(), KeptError> {
    let temp = dir.join("container.json.new");
    let write = || -> io::Result<()> {
        let mut file = File::create(&temp)?;
        let mut text = serde_json::to_vec(record)?;
        text.push(b'\n');
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&temp, dir.join(RECORD))?;
        File::open(dir)?.sync_all()
    };
    write().map_err(|source| KeptError::Write {
        path: dir.join(RECORD),
        source,
    })
}

fn read(dir: &Path) -> Option<Record> {
    serde_json::from_slice(&fs::read(dir.join(RECORD)).ok()?).ok()
}

fn directories(dir: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
}

fn records(dir: &Path) -> impl Iterator<Item = Record> {
    directories(dir).filter_map(|path| read(&path))
}

/// Puts right what killed commands left.
fn sweep(dir: &Path) {
    for path in directories(dir) {
        let unlocked = File::open(&path)
            .is_ok_and(|lock| flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok());
        if !unlocked {
            continue;
        }
        match read(&path) {
            // Never finished; a record that can't be read is somebody's, though.
            None if !path.join(RECORD).exists() => remove(&path),
            Some(record) if record.remove || record.state == State::Created => remove(&path),
            Some(mut record) if record.version == VERSION && record.state == State::Running => {
                record.state = State::Exited {
                    exit_code: UNSEEN_END,
                    finished_at: now(),
                };
                if let Err(e) = write(&path, &record) {
                    log::warn!("correct the record of container {}: {e}", record.id);
                }
            }
            _ => {}
        }
    }
}

fn remove(path: &Path) {
    if let Err(e) = fs::remove_dir_all(path) {
        log::warn!("remove {}: {e}", path.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use crate::container::ImageDefaults;

    fn container(flags: &[&str]) -> Container {
        let line = ["walnut", "run"]
            .iter()
            .chain(flags)
            .chain(&["image", "sh"]);
        let argv: Vec<std::ffi::OsString> = line.map(Into::into).collect();
        let Command::Run(args) = Cli::from_args(&argv).unwrap().command else {
            panic!("not run")
        };
        let mut container = Container::from_flags(&args, Path::new("/")).unwrap();
        container
            .apply_image(None, &args.args[1..], &ImageDefaults::default())
            .unwrap();
        container
    }

    fn paths(temp: &tempfile::TempDir) -> Paths {
        Paths {
            root: temp.path().join("r"),
            state: temp.path().join("s"),
        }
    }

    #[test]
    fn what_ran_is_kept_with_its_end() {
        let temp = tempfile::tempdir().unwrap();
        let paths = paths(&temp);
        let mut kept = Kept::create(&paths, &container(&["--name", "web"]), "image").unwrap();
        kept.keep().unwrap();
        kept.finish(7).unwrap();
        let path = kept.path.clone();
        drop(kept);
        let record = read(&path).unwrap();
        assert!(matches!(record.state, State::Exited { exit_code: 7, .. }));
        assert_eq!(
            (record.name.as_deref(), record.image.as_str()),
            (Some("web"), "image")
        );
        assert_eq!(record.args, ["sh"]);
    }

    #[test]
    fn a_name_is_one_containers() {
        let temp = tempfile::tempdir().unwrap();
        let paths = paths(&temp);
        let first = Kept::create(&paths, &container(&["--rm", "--name", "web"]), "i").unwrap();
        let id = first.record.id.clone();
        let said = Kept::create(&paths, &container(&["--name", "web"]), "i")
            .unwrap_err()
            .to_string();
        assert!(
            said.starts_with("Conflict. The container name \"/web\" is already in use"),
            "{said}"
        );
        assert!(said.contains(&id));
        drop(first);
        Kept::create(&paths, &container(&["--name", "web"]), "i").unwrap();
    }

    #[test]
    fn what_never_ran_leaves_nothing() {
        let temp = tempfile::tempdir().unwrap();
        let paths = paths(&temp);
        drop(Kept::create(&paths, &container(&[]), "i").unwrap());
        assert_eq!(directories(&paths.containers()).count(), 0);
    }

    #[test]
    fn the_next_command_puts_right_what_a_killed_one_left() {
        let temp = tempfile::tempdir().unwrap();
        let paths = paths(&temp);
        let containers = paths.containers();
        let record = |id: &str, remove: bool, state: State| {
            let dir = containers.join(id);
            fs::create_dir_all(&dir).unwrap();
            let record = Record {
                version: VERSION,
                id: id.into(),
                name: None,
                image: "i".into(),
                args: vec![],
                created_at: 1,
                remove,
                state,
            };
            write(&dir, &record).unwrap();
            dir
        };
        let kept = record("kept", false, State::Running);
        let removed = record("removed", true, State::Running);
        let never_begun = record("never-begun", false, State::Created);
        let unfinished = containers.join("unfinished");
        fs::create_dir(&unfinished).unwrap();
        let broken = containers.join("broken");
        fs::create_dir(&broken).unwrap();
        fs::write(broken.join(RECORD), "{").unwrap();
        drop(Kept::create(&paths, &container(&[]), "i").unwrap());
        assert!(!removed.exists() && !unfinished.exists() && broken.exists());
        assert!(!never_begun.exists());
        let state = read(&kept).unwrap().state;
        assert!(matches!(
            state,
            State::Exited {
                exit_code: UNSEEN_END,
                ..
            }
        ));
    }
}
