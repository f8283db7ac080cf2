// SPDX-License-Identifier: Apache-2.0
//! A tar stream to a tree.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;
use walnut_erofs::tar::{Entry, Kind, Segment, TarReader};

use crate::{ArchiveError, xattr};

/// Whose what is made is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// As the archive says.
    Archived,
    /// Nobody else's than the caller's: nothing is changed.
    Caller,
    These(u32, u32),
}

#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub owner: Owner,
    /// A symbolic link on the way leads where it leads: in a tree that is the caller's root. Without,
    /// nothing outside of the directory is reached.
    pub follow: bool,
    /// Devices are made, and what can't be set of an owner or attribute is an error.
    pub strict: bool,
}

/// Of the holes that are made for zeros.
const BLOCK: usize = 4096;

/// Reads an archive to its end, and makes what it holds below `directory`, which is there.
///
/// # Errors
/// The first entry that can't be made.
pub fn unpack(archive: impl Read, directory: &Path, options: Options) -> Result<(), ArchiveError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(directory, flags, Mode::empty()).map_err(|source| {
        ArchiveError::Create {
            path: directory.to_owned(),
            source,
        }
    })?;
    let mut tree = Tree {
        root,
        options,
        directories: Vec::new(),
    };
    let mut archive = TarReader::new(archive);
    while let Some(entry) = archive.next_entry()? {
        tree.make(entry, &mut archive)?;
    }
    tree.finish()
}

struct Tree {
    root: OwnedFd,
    options: Options,
    /// Modes and times are set at the end: a directory without write permission is filled, too.
    directories: Vec<(PathBuf, Attributes)>,
}

/// What an entry says of its file, beside what is in it.
struct Attributes {
    mode: Mode,
    uid: u32,
    gid: u32,
    times: Timestamps,
    extended: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Tree {
    fn make<R: Read>(
        &mut self,
        entry: Entry,
        archive: &mut TarReader<R>,
    ) -> Result<(), ArchiveError> {
        let Some(path) = plain(&entry.path)? else {
            // The directory itself.
            return Ok(());
        };
        let failed = |source| ArchiveError::Create {
            path: path.clone(),
            source,
        };
        let (Some(name), Some(parent)) = (path.file_name().map(Path::new), path.parent()) else {
            return Ok(());
        };
        let parent = self.parent(parent)?;
        let attributes = Attributes::from(&entry);
        match entry.kind {
            Kind::Dir => {
                make_dir(&parent, name, &path)?;
                self.directories.push((path, attributes));
            }
            Kind::Symlink(target) => {
                clear(&parent, name, &path)?;
                rustix::fs::symlinkat(target.as_slice(), &parent, name).map_err(failed)?;
                self.dress_link(&parent, name, &attributes)
                    .map_err(failed)?;
            }
            Kind::HardLink(target) => {
                let first = plain(&target)?.ok_or_else(|| failed(Errno::INVAL))?;
                self.link(&first, &parent, name, &path)?;
            }
            Kind::File { size, map } => {
                let file = replace(&parent, name, &path)?;
                fill(archive, size, map, &file, &path)?;
                self.dress(&file, &attributes).map_err(failed)?;
            }
            Kind::Char { .. } | Kind::Block { .. } if !self.options.strict => {}
            Kind::Char { major, minor } => {
                let node = (FileType::CharacterDevice, major, minor);
                self.node(&parent, name, &path, node, &attributes)?;
            }
            Kind::Block { major, minor } => {
                let node = (FileType::BlockDevice, major, minor);
                self.node(&parent, name, &path, node, &attributes)?;
            }
            Kind::Fifo => {
                self.node(&parent, name, &path, (FileType::Fifo, 0, 0), &attributes)?;
            }
        }
        Ok(())
    }

    /// Directories that the archive did not mention are made.
    fn parent(&self, path: &Path) -> Result<OwnedFd, ArchiveError> {
        if path.as_os_str().is_empty() {
            return self.open(Path::new("."));
        }
        match self.open(path) {
            Err(ArchiveError::Create {
                source: Errno::NOENT,
                ..
            }) => {}
            opened => return opened,
        }
        let above = self.parent(path.parent().unwrap_or(Path::new("")))?;
        if let Some(name) = path.file_name() {
            make_dir(&above, name.as_ref(), path)?;
        }
        self.open(path)
    }

    fn open(&self, path: &Path) -> Result<OwnedFd, ArchiveError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = if self.options.follow {
            ResolveFlags::NO_MAGICLINKS
        } else {
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS
        };
        let opened = rustix::fs::openat2(&self.root, path, flags, Mode::empty(), resolve);
        opened.map_err(|source| match source {
            Errno::LOOP | Errno::XDEV => ArchiveError::Outside {
                path: path.to_owned(),
            },
            source => ArchiveError::Create {
                path: path.to_owned(),
                source,
            },
        })
    }

    fn link(
        &self,
        first: &Path,
        parent: &OwnedFd,
        name: &Path,
        path: &Path,
    ) -> Result<(), ArchiveError> {
        let failed = |source| ArchiveError::Create {
            path: path.to_owned(),
            source,
        };
        let from = self.open(match first.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir,
            _ => Path::new("."),
        })?;
        let first_name = first.file_name().ok_or_else(|| failed(Errno::INVAL))?;
        if first == path {
            return Ok(());
        }
        clear(parent, name, path)?;
        // Without AT_SYMLINK_FOLLOW a link to a link is one.
        rustix::fs::linkat(&from, first_name, parent, name, AtFlags::empty()).map_err(failed)
    }

    fn node(
        &self,
        parent: &OwnedFd,
        name: &Path,
        path: &Path,
        (kind, major, minor): (FileType, u32, u32),
        attributes: &Attributes,
    ) -> Result<(), ArchiveError> {
        clear(parent, name, path)?;
        let device = rustix::fs::makedev(major, minor);
        let make = || -> Result<(), Errno> {
            rustix::fs::mknodat(parent, name, kind, attributes.mode, device)?;
            self.own(parent, name, attributes)?;
            // It was made just now, and is no link.
            rustix::fs::chmodat(parent, name, attributes.mode, AtFlags::empty())?;
            rustix::fs::utimensat(parent, name, &attributes.times, AtFlags::SYMLINK_NOFOLLOW)
        };
        make().map_err(|source| ArchiveError::Create {
            path: path.to_owned(),
            source,
        })
    }

    fn dress_link(
        &self,
        parent: &OwnedFd,
        name: &Path,
        attributes: &Attributes,
    ) -> Result<(), Errno> {
        self.own(parent, name, attributes)?;
        rustix::fs::utimensat(parent, name, &attributes.times, AtFlags::SYMLINK_NOFOLLOW)
    }

    fn own(&self, parent: &OwnedFd, name: &Path, attributes: &Attributes) -> Result<(), Errno> {
        let Some((uid, gid)) = self.owner(attributes) else {
            return Ok(());
        };
        let (uid, gid) = (ids_uid(uid), ids_gid(gid));
        let owned = rustix::fs::chownat(parent, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW);
        self.or_not(owned)
    }

    fn owner(&self, attributes: &Attributes) -> Option<(u32, u32)> {
        match self.options.owner {
            Owner::Archived => Some((attributes.uid, attributes.gid)),
            Owner::These(uid, gid) => Some((uid, gid)),
            Owner::Caller => None,
        }
    }

    /// Where not strict, what the file system or the caller's rights don't allow is left.
    fn or_not(&self, done: Result<(), Errno>) -> Result<(), Errno> {
        match done {
            Err(Errno::PERM | Errno::OPNOTSUPP | Errno::INVAL) if !self.options.strict => Ok(()),
            done => done,
        }
    }

    /// The owner first: a change of it takes the set-user-ID bit and capabilities away.
    fn dress(&self, file: &impl AsFd, attributes: &Attributes) -> Result<(), Errno> {
        if let Some((uid, gid)) = self.owner(attributes) {
            self.or_not(rustix::fs::fchown(file, ids_uid(uid), ids_gid(gid)))?;
        }
        for (name, value) in &attributes.extended {
            let set = rustix::fs::fsetxattr(file, name.as_slice(), value, XattrFlags::empty());
            self.or_not(set)?;
        }
        rustix::fs::fchmod(file, attributes.mode)?;
        rustix::fs::futimens(file, &attributes.times)
    }

    fn finish(&self) -> Result<(), ArchiveError> {
        for (path, attributes) in self.directories.iter().rev() {
            let directory = match self.open(path) {
                // A later entry took its place.
                Err(_) => continue,
                Ok(directory) => directory,
            };
            self.dress(&directory, attributes)
                .map_err(|source| ArchiveError::Create {
                    path: path.clone(),
                    source,
                })?;
        }
        Ok(())
    }
}

/// A path of names alone, from the directory on; `None` for the directory itself.
fn plain(path: &[u8]) -> Result<Option<PathBuf>, ArchiveError> {
    let path = Path::new(OsStr::from_bytes(path));
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(ArchiveError::Outside {
                    path: path.to_owned(),
                });
            }
        }
    }
    Ok((!clean.as_os_str().is_empty()).then_some(clean))
}

impl From<&Entry> for Attributes {
    fn from(entry: &Entry) -> Self {
        let modified = Timespec {
            tv_sec: entry.mtime.secs,
            tv_nsec: i64::from(entry.mtime.nanos),
        };
        let known = |(name, _): &&(Vec<u8>, Vec<u8>)| {
            std::str::from_utf8(name).is_ok_and(xattr::is_portable)
        };
        Self {
            mode: Mode::from_raw_mode(entry.mode.into()),
            uid: entry.uid,
            gid: entry.gid,
            times: Timestamps {
                last_access: modified,
                last_modification: modified,
            },
            extended: entry.xattrs.iter().filter(known).cloned().collect(),
        }
    }
}

fn kind_of(parent: &OwnedFd, name: &Path) -> Result<Option<FileType>, Errno> {
    match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(e),
    }
}

/// A directory that is there already stays.
fn make_dir(parent: &OwnedFd, name: &Path, path: &Path) -> Result<(), ArchiveError> {
    let failed = |source| ArchiveError::Create {
        path: path.to_owned(),
        source,
    };
    match kind_of(parent, name).map_err(failed)? {
        Some(FileType::Directory) => Ok(()),
        Some(_) => Err(ArchiveError::DirectoryOnto {
            path: path.to_owned(),
        }),
        None => rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755)).map_err(failed),
    }
}

/// Makes room for what is no directory.
fn clear(parent: &OwnedFd, name: &Path, path: &Path) -> Result<(), ArchiveError> {
    let failed = |source| ArchiveError::Create {
        path: path.to_owned(),
        source,
    };
    match kind_of(parent, name).map_err(failed)? {
        None => Ok(()),
        Some(FileType::Directory) => Err(ArchiveError::OntoDirectory {
            path: path.to_owned(),
        }),
        Some(_) => rustix::fs::unlinkat(parent, name, AtFlags::empty()).map_err(failed),
    }
}

/// An empty file in the place of what was there; one that something is mounted on is emptied.
fn replace(parent: &OwnedFd, name: &Path, path: &Path) -> Result<File, ArchiveError> {
    let create = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let flags = match clear(parent, name, path) {
        Err(ArchiveError::Create {
            source: Errno::BUSY,
            ..
        }) => create | OFlags::TRUNC,
        cleared => cleared.map(|()| create | OFlags::EXCL)?,
    };
    let opened = rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o600));
    opened
        .map(File::from)
        .map_err(|source| ArchiveError::Create {
            path: path.to_owned(),
            source,
        })
}

/// What the archive has of a file's bytes, where it says that they belong.
fn fill<R: Read>(
    archive: &mut TarReader<R>,
    size: u64,
    map: Option<Vec<Segment>>,
    to: &File,
    path: &Path,
) -> Result<(), ArchiveError> {
    let failed = |source| ArchiveError::Fill {
        path: path.to_owned(),
        source,
    };
    let whole = vec![Segment {
        offset: 0,
        len: size,
    }];
    for segment in map.unwrap_or(whole) {
        let mut at = segment.offset;
        let mut left = segment.len;
        while left > 0 {
            let chunk = archive.data(left)?;
            write_data(chunk.bytes(), to, at).map_err(failed)?;
            let count = chunk.bytes().len() as u64;
            at += count;
            left -= count;
        }
    }
    to.set_len(size).map_err(failed)
}

/// Blocks of zeros become holes.
fn write_data(bytes: &[u8], to: &File, at: u64) -> io::Result<()> {
    let is_hole = |block: &[u8]| block.iter().all(|byte| *byte == 0);
    let mut start = 0;
    while start < bytes.len() {
        let hole = is_hole(&bytes[start..bytes.len().min(start + BLOCK)]);
        let mut end = start;
        while end < bytes.len() && is_hole(&bytes[end..bytes.len().min(end + BLOCK)]) == hole {
            end = bytes.len().min(end + BLOCK);
        }
        if !hole {
            to.write_all_at(&bytes[start..end], at + start as u64)?;
        }
        start = end;
    }
    Ok(())
}

fn ids_uid(uid: u32) -> Option<rustix::fs::Uid> {
    Some(rustix::fs::Uid::from_raw(uid))
}

fn ids_gid(gid: u32) -> Option<rustix::fs::Gid> {
    Some(rustix::fs::Gid::from_raw(gid))
}
