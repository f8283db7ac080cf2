// SPDX-License-Identifier: Apache-2.0
//! A tree to a tar stream.
//!
//! The tree may change meanwhile: what goes is left out, what shrinks is filled up with zeros.

use std::collections::HashMap;
use std::fs::{self, Metadata, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use tar::{Builder, EntryType, Header};

use crate::{ArchiveError, sparse, xattr};

/// Writes one archive.
pub struct Packer<W: Write> {
    builder: Builder<W>,
    /// Files with several names, by device and inode: the first name here.
    linked: HashMap<(u64, u64), PathBuf>,
    holes: bool,
}

impl<W: Write> Packer<W> {
    /// With `holes`, a file's holes are said, not written, in a way that not every tar knows.
    pub fn new(out: W, holes: bool) -> Self {
        Self {
            builder: Builder::new(out),
            linked: HashMap::new(),
            holes,
        }
    }

    /// Adds what is at `path` under `name`, with all that is below it on the same file system or
    /// another one.
    ///
    /// # Errors
    /// It can't be read, or the archive not be written.
    pub fn add_tree(&mut self, path: &Path, name: &Path) -> Result<(), ArchiveError> {
        let mut left = vec![(path.to_owned(), name.to_owned())];
        while let Some((path, name)) = left.pop() {
            let Some(meta) = self.add(&path, &name)? else {
                continue;
            };
            if meta.is_dir() {
                // The last one is the next: names come in their order.
                for child in names(&path)?.into_iter().rev() {
                    left.push((path.join(&child), name.join(&child)));
                }
            }
        }
        Ok(())
    }

    /// Adds one file, directory, link or device; what it is. `None` where it is gone, or a socket,
    /// which is nothing without its process.
    ///
    /// # Errors
    /// As [`Self::add_tree`].
    pub fn add(&mut self, path: &Path, name: &Path) -> Result<Option<Metadata>, ArchiveError> {
        let read = |source| ArchiveError::Read {
            path: path.to_owned(),
            source,
        };
        let meta = match fs::symlink_metadata(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            meta => meta.map_err(read)?,
        };
        let kind = meta.file_type();
        if kind.is_socket() {
            return Ok(None);
        }
        let mut header = Header::new_gnu();
        header.set_metadata(&meta);
        if let Some(first) = self.first_name(&meta, name) {
            header.set_entry_type(EntryType::Link);
            header.set_size(0);
            return self.link(&mut header, name, &first).map(|()| Some(meta));
        }
        if kind.is_symlink() {
            let target = fs::read_link(path).map_err(read)?;
            header.set_size(0);
            return self.link(&mut header, name, &target).map(|()| Some(meta));
        }
        if kind.is_file() {
            return self.file(path, name, &meta, header).map(|()| Some(meta));
        }
        if name.as_os_str().is_empty() {
            // The archive's own directory has no entry.
            return Ok(Some(meta));
        }
        self.attributes(path)?;
        header.set_size(0);
        self.builder
            .append_data(&mut header, of_archive(name, meta.is_dir()), io::empty())
            .map_err(ArchiveError::Write)?;
        Ok(Some(meta))
    }

    /// Adds an empty file that is not there: an image's mark for one that is removed.
    ///
    /// # Errors
    /// The archive can't be written.
    pub fn add_empty(&mut self, name: &Path) -> Result<(), ArchiveError> {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o600);
        header.set_size(0);
        self.builder
            .append_data(&mut header, name, io::empty())
            .map_err(ArchiveError::Write)
    }

    /// Adds a symbolic link that is not there.
    ///
    /// # Errors
    /// The archive can't be written.
    pub fn add_link(&mut self, name: &Path, target: &Path) -> Result<(), ArchiveError> {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Symlink);
        header.set_mode(0o777);
        header.set_size(0);
        self.link(&mut header, name, target)
    }

    /// Ends the archive.
    ///
    /// # Errors
    /// It can't be written.
    pub fn finish(self) -> Result<W, ArchiveError> {
        self.builder.into_inner().map_err(ArchiveError::Write)
    }

    fn first_name(&mut self, meta: &Metadata, name: &Path) -> Option<PathBuf> {
        if meta.is_dir() || meta.nlink() < 2 {
            return None;
        }
        let first = self.linked.get(&(meta.dev(), meta.ino())).cloned();
        if first.is_none() {
            let key = (meta.dev(), meta.ino());
            self.linked.insert(key, name.to_owned());
        }
        first
    }

    fn link(
        &mut self,
        header: &mut Header,
        name: &Path,
        target: &Path,
    ) -> Result<(), ArchiveError> {
        self.builder
            .append_link(header, name, target)
            .map_err(ArchiveError::Write)
    }

    fn file(
        &mut self,
        path: &Path,
        name: &Path,
        meta: &Metadata,
        mut header: Header,
    ) -> Result<(), ArchiveError> {
        let opened = OpenOptions::new()
            .read(true)
            // It may be a pipe by now, or a link.
            .custom_flags(flags(OFlags::NONBLOCK | OFlags::NOFOLLOW))
            .open(path);
        let file = match opened {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            opened => opened.map_err(|source| ArchiveError::Read {
                path: path.to_owned(),
                source,
            })?,
        };
        self.attributes(path)?;
        let size = meta.len();
        let whole = [(0, size)];
        let pieces = sparse::pieces(&file, size).filter(|_| self.holes);
        let map = match &pieces {
            Some(pieces) => sparse::describe(&mut header, size, pieces),
            None => Vec::new(),
        };
        let data = sparse::Data::new(&file, pieces.as_deref().unwrap_or(&whole));
        self.builder
            .append_data(&mut header, name, map.chain(Buffered::new(data)))
            .map_err(ArchiveError::Write)
    }

    fn attributes(&mut self, path: &Path) -> Result<(), ArchiveError> {
        let all = xattr::of(path);
        let all = all
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_slice()));
        self.builder
            .append_pax_extensions(all)
            .map_err(ArchiveError::Write)
    }
}

/// The names in a directory, sorted.
fn names(path: &Path) -> Result<Vec<std::ffi::OsString>, ArchiveError> {
    let list = || -> io::Result<Vec<_>> {
        fs::read_dir(path)?
            .map(|entry| Ok(entry?.file_name()))
            .collect()
    };
    match list() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(source) => Err(ArchiveError::Read {
            path: path.to_owned(),
            source,
        }),
        Ok(mut names) => {
            names.sort();
            Ok(names)
        }
    }
}

fn of_archive(name: &Path, dir: bool) -> PathBuf {
    // A directory's name ends in a slash.
    if dir { name.join("") } else { name.to_owned() }
}

fn flags(flags: OFlags) -> i32 {
    flags.bits().cast_signed()
}

/// Large reads: std's copy has 8 KiB at a time.
struct Buffered<R>(io::BufReader<R>);

impl<R: Read> Buffered<R> {
    fn new(inner: R) -> Self {
        Self(io::BufReader::with_capacity(64 << 10, inner))
    }
}

impl<R: Read> Read for Buffered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}
