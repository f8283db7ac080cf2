// SPDX-License-Identifier: Apache-2.0
//! What is done with a container's files beside its processes: archives of them, what they are, and
//! what of them is the container's own.
//!
//! Runs in a job's process ([`crate::helper`]), but for [`fill_volume`], which an RPC thread does.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use serde_json::json;
use walnut_archive::{ArchiveError, Options, Owner, Packer};

use crate::paths::{self, Rootfs};

#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error("write the answer")]
    Write(#[source] io::Error),
    #[error("look at {}", path.display())]
    Look { path: PathBuf, source: io::Error },
    #[error("make {}", path.display())]
    Make { path: PathBuf, source: io::Error },
    #[error("copy what is in the image to the volume: {0}")]
    Copy(&'static str),
}

/// A tar archive of `path`, which is called `name` in it.
///
/// # Errors
/// Something can't be read, or nobody takes it.
pub fn pack(
    path: &Path,
    name: &Path,
    follow: bool,
    holes: bool,
    out: impl Write,
) -> Result<(), FilesError> {
    let real = if follow {
        fs::canonicalize(path).map_err(|source| FilesError::Look {
            path: path.to_owned(),
            source,
        })?
    } else {
        path.to_owned()
    };
    let mut packer = Packer::new(out, holes);
    packer.add_tree(&real, name)?;
    packer.finish()?.flush().map_err(FilesError::Write)
}

/// Unpacks what is read below `path`, whose symbolic links lead where they lead.
///
/// # Errors
/// Something can't be made.
pub fn unpack(path: &Path, owners: bool, from: impl Read) -> Result<(), FilesError> {
    let owner = if owners {
        Owner::Archived
    } else {
        Owner::These(0, 0)
    };
    let options = Options {
        owner,
        follow: true,
        strict: true,
    };
    Ok(walnut_archive::unpack(from, path, options)?)
}

/// # Errors
/// It can't be made.
pub fn make_dir(path: &Path) -> Result<(), FilesError> {
    fs::create_dir_all(path).map_err(|source| FilesError::Make {
        path: path.to_owned(),
        source,
    })
}

/// Says what `path` is.
///
/// # Errors
/// It can't be looked at, or nobody reads the answer.
pub fn stat(path: &Path, follow: bool, mut out: impl Write) -> Result<(), FilesError> {
    let look = |path: &Path| {
        if follow {
            fs::metadata(path)
        } else {
            fs::symlink_metadata(path)
        }
    };
    let answer = match look(path) {
        Err(e) if is_missing(&e) => json!({ "exists": false, "directory": false }),
        Err(source) => {
            return Err(FilesError::Look {
                path: path.to_owned(),
                source,
            });
        }
        Ok(meta) => {
            let target = fs::read_link(path).ok().filter(|_| !follow);
            let real = if follow {
                fs::canonicalize(path).ok()
            } else {
                None
            };
            json!({
                "exists": true,
                "directory": meta.is_dir(),
                "size": meta.len(),
                "mode": meta.mode(),
                "mtime": meta.mtime(),
                "target": target.map(|target| target.to_string_lossy().into_owned()),
                "real": real.map(|real| real.to_string_lossy().into_owned()),
            })
        }
    };
    writeln!(out, "{answer}")
        .and_then(|()| out.flush())
        .map_err(FilesError::Write)
}

fn is_missing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// An overlay's two directories.
#[derive(Debug, Serialize, Deserialize)]
pub struct Upper {
    pub upper: PathBuf,
    pub lower: PathBuf,
    /// Paths in it that the container has not made.
    pub skip: Vec<PathBuf>,
}

/// What stands in an upper directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Added,
    Changed,
    Deleted,
}

/// A path in the overlay, and what becomes of it there.
struct Found {
    path: PathBuf,
    change: Change,
    /// A directory that hides what is below it.
    opaque: bool,
}

impl Upper {
    /// In the order of their paths, parents first.
    fn find(&self) -> Result<Vec<Found>, FilesError> {
        let mut found = Vec::new();
        self.look_into(Path::new(""), &mut found)?;
        Ok(found)
    }

    fn look_into(&self, dir: &Path, found: &mut Vec<Found>) -> Result<(), FilesError> {
        let here = self.upper.join(dir);
        let failed = |source| FilesError::Look {
            path: here.clone(),
            source,
        };
        let mut names = Vec::new();
        for entry in fs::read_dir(&here).map_err(failed)? {
            names.push(entry.map_err(failed)?.file_name());
        }
        names.sort();
        for name in names {
            let path = dir.join(name);
            let meta = match fs::symlink_metadata(self.upper.join(&path)) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                meta => meta.map_err(failed)?,
            };
            let below = self.below(&path);
            let whiteout = meta.file_type().is_char_device() && meta.rdev() == 0;
            if whiteout {
                found.push(Found {
                    path,
                    change: Change::Deleted,
                    opaque: false,
                });
                continue;
            }
            let skipped = self.skip.contains(&path);
            let at = found.len();
            if meta.is_dir() {
                self.look_into(&path, found)?;
            }
            // A directory that is there for what is below it alone.
            let same = below.is_some_and(|below| {
                meta.is_dir()
                    && below.st_mode == meta.mode()
                    && (below.st_uid, below.st_gid) == (meta.uid(), meta.gid())
            });
            let is_empty = found.len() == at;
            if is_empty && (skipped || (same && self.holds_skipped(&path))) {
                continue;
            }
            let opaque = meta.is_dir() && is_opaque(&self.upper.join(&path));
            let change = match below {
                Some(_) => Change::Changed,
                None => Change::Added,
            };
            let entry = Found {
                path,
                change,
                opaque,
            };
            found.insert(at, entry);
        }
        Ok(())
    }

    fn holds_skipped(&self, dir: &Path) -> bool {
        self.skip.iter().any(|skip| skip.starts_with(dir))
    }

    /// What the image has there.
    fn below(&self, path: &Path) -> Option<rustix::fs::Stat> {
        let open = |dir: &Path, flags| rustix::fs::open(dir, flags, Mode::empty());
        let lower = open(&self.lower, OFlags::PATH | OFlags::CLOEXEC).ok()?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let fd = rustix::fs::openat2(&lower, path, flags, Mode::empty(), resolve).ok()?;
        rustix::fs::fstat(&fd).ok()
    }
}

fn is_opaque(dir: &Path) -> bool {
    let mut value = [0; 1];
    rustix::fs::lgetxattr(dir, "trusted.overlay.opaque", &mut value[..]).is_ok() && value == *b"y"
}

/// A line for each change.
///
/// # Errors
/// A directory can't be read, or nobody reads the answer.
pub fn changes(upper: &Upper, mut out: impl Write) -> Result<(), FilesError> {
    for found in upper.find()? {
        let letter = match found.change {
            Change::Added => 'A',
            Change::Changed => 'C',
            Change::Deleted => 'D',
        };
        let path = Path::new("/").join(&found.path);
        let path = json!(path.to_string_lossy());
        writeln!(out, "{letter} {path}").map_err(FilesError::Write)?;
    }
    out.flush().map_err(FilesError::Write)
}

/// An image's layer (OCI image-spec, layer.md).
///
/// # Errors
/// As [`pack`].
pub fn layer(upper: &Upper, out: impl Write) -> Result<(), FilesError> {
    let mut packer = Packer::new(out, false);
    for found in upper.find()? {
        if found.change == Change::Deleted {
            let name = found.path.file_name().unwrap_or_default();
            let mut marked = b".wh.".to_vec();
            marked.extend_from_slice(name.as_bytes());
            let marked = std::ffi::OsStr::from_bytes(&marked);
            packer.add_empty(&found.path.with_file_name(marked))?;
            continue;
        }
        packer.add(&upper.upper.join(&found.path), &found.path)?;
        if found.opaque {
            packer.add_empty(&found.path.join(".wh..wh..opq"))?;
        }
    }
    packer.finish()?.flush().map_err(FilesError::Write)
}

/// Makes a volume's directory at its first use, as Docker does: as the image has what is below it.
///
/// # Errors
/// The volume can't be written, or the image's directory not be read.
pub fn fill_volume(
    directory: &Path,
    rootfs: &Rootfs,
    target: &Path,
    copy: bool,
) -> Result<(), FilesError> {
    let made = |source| FilesError::Make {
        path: directory.to_owned(),
        source,
    };
    let is_used = match fs::read_dir(directory) {
        Ok(mut entries) => entries.next().is_some(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => false,
        Err(e) => return Err(made(e)),
    };
    if is_used {
        return Ok(());
    }
    let below = rootfs.open_in(target, OFlags::RDONLY | OFlags::DIRECTORY);
    let new = directory.with_extension("new");
    // Of a first use that was cut short.
    let _ = fs::remove_dir_all(&new);
    fs::create_dir(&new).map_err(made)?;
    let mut attributes = (0o755, 0, 0);
    if let Ok(below) = below {
        let stat = rustix::fs::fstat(&below).map_err(|e| made(e.into()))?;
        attributes = (stat.st_mode & 0o7777, stat.st_uid, stat.st_gid);
        if copy {
            copy_tree(&below, &new)?;
        }
    }
    let (mode, uid, gid) = attributes;
    std::os::unix::fs::chown(&new, Some(uid), Some(gid)).map_err(made)?;
    rustix::fs::chmod(&new, Mode::from_raw_mode(mode)).map_err(|e| made(e.into()))?;
    match rustix::fs::rmdir(directory) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(e) => return Err(made(e.into())),
    }
    fs::rename(&new, directory).map_err(made)
}

/// Through a pipe: one thread packs, this one unpacks.
fn copy_tree(from: &OwnedFd, to: &Path) -> Result<(), FilesError> {
    let pipe = |e: Errno| FilesError::Make {
        path: to.to_owned(),
        source: e.into(),
    };
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(pipe)?;
    // The names below it: the directory itself is there.
    let source = PathBuf::from(paths::proc_path(from)).join(".");
    let packer =
        std::thread::spawn(move || pack(&source, Path::new(""), false, true, File::from(write)));
    let options = Options {
        owner: Owner::Archived,
        follow: false,
        strict: true,
    };
    let unpacked = walnut_archive::unpack(File::from(read), to, options);
    match packer.join() {
        Ok(packed) => packed?,
        Err(_) => return Err(FilesError::Copy("its thread panicked")),
    }
    Ok(unpacked?)
}
