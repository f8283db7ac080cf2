// SPDX-License-Identifier: Apache-2.0
//! Where an image's files are read from: an archive, or a directory.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::archive::Archive;
use super::digest::Digest;
use super::error::ImageError;
use super::layers::{Layers, Stream};
use super::manifest::LayerSpec;

/// Most bytes of any JSON document; Docker and containerd stop at 4 MiB for a manifest.
const MAX_JSON: u64 = 8 << 20;

pub(super) struct Source {
    path: PathBuf,
    /// `None`: `path` is a directory.
    archive: Option<Archive>,
}

/// One file's bytes, at their place in whatever holds them.
pub(super) struct Blob {
    file: File,
    at: u64,
    left: u64,
    size: u64,
}

impl Source {
    pub(super) fn archive(path: &Path, spool: &Path) -> Result<Self, ImageError> {
        Ok(Source {
            path: path.into(),
            archive: Some(Archive::open(path, spool)?),
        })
    }

    /// The same for a file that is open already; `path` is for messages.
    pub(super) fn archive_file(path: &Path, file: File, spool: &Path) -> Result<Self, ImageError> {
        Ok(Source {
            path: path.into(),
            archive: Some(Archive::from_file(path, file, spool)?),
        })
    }

    pub(super) fn directory(path: &Path) -> Result<Self, ImageError> {
        let open = |source| ImageError::Open {
            path: path.into(),
            source,
        };
        if !path.metadata().map_err(open)?.is_dir() {
            return Err(open(io::ErrorKind::NotADirectory.into()));
        }
        Ok(Source {
            path: path.into(),
            archive: None,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn has(&self, member: &str) -> bool {
        match &self.archive {
            Some(archive) => archive.has(member),
            None => self.path.join(member).exists(),
        }
    }

    pub(super) fn open(&self, member: &str) -> Result<Blob, ImageError> {
        let found = match &self.archive {
            Some(archive) => archive.member(&self.path, member)?,
            None => open_file(&self.path.join(member))?,
        };
        found.ok_or_else(|| self.missing(member, ""))
    }

    pub(super) fn missing(&self, member: &str, hint: &'static str) -> ImageError {
        let (path, member) = (self.path.clone(), member.into());
        match &self.archive {
            Some(archive) if !archive.is_complete() => ImageError::Cut { path, member },
            _ => ImageError::MissingMember { path, member, hint },
        }
    }

    /// A whole JSON document.
    pub(super) fn read(&self, member: &str) -> Result<Vec<u8>, ImageError> {
        let mut blob = self.open(member)?;
        if blob.size > MAX_JSON {
            return Err(ImageError::TooLarge {
                what: member.into(),
                size: blob.size,
                limit: MAX_JSON,
            });
        }
        let mut bytes = Vec::new();
        blob.read_to_end(&mut bytes)
            .map_err(|source| ImageError::Read {
                path: self.path.clone(),
                source,
            })?;
        Ok(bytes)
    }

    /// A JSON document in the OCI layout, its digest checked. `what` is for messages.
    pub(super) fn read_blob(&self, what: &str, digest: Digest) -> Result<Vec<u8>, ImageError> {
        let bytes = self.read(&blob_path(digest))?;
        let got = Digest::of(&bytes);
        if got != digest {
            return Err(ImageError::DigestMismatch {
                what: what.into(),
                expected: digest,
                got,
            });
        }
        Ok(bytes)
    }
}

impl Layers for Source {
    fn open(&self, layer: &LayerSpec) -> Result<Stream<'_>, ImageError> {
        let blob = self.open(&layer.member)?;
        Ok(Stream {
            size: blob.size,
            reader: Box::new(blob),
            checked: false,
        })
    }
}

/// Where an OCI layout keeps a blob (OCI image-spec, image-layout.md).
pub(super) fn blob_path(digest: Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// A file without a name, which goes away with whoever has it open.
pub fn unnamed_file(dir: &Path) -> Result<File, ImageError> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    rustix::fs::open(dir, flags, Mode::RUSR | Mode::WUSR)
        .map(File::from)
        .map_err(|error| ImageError::Store {
            action: "unpack into",
            path: dir.into(),
            source: error.into(),
        })
}

fn open_file(path: &Path) -> Result<Option<Blob>, ImageError> {
    let read = |source| ImageError::Read {
        path: path.into(),
        source,
    };
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        result => result.map_err(read)?,
    };
    let metadata = file.metadata().map_err(read)?;
    if !metadata.is_file() {
        return Err(read(io::Error::other("it is not a regular file")));
    }
    Ok(Some(Blob::new(file, 0, metadata.len())))
}

impl Blob {
    pub(super) fn new(file: File, at: u64, size: u64) -> Self {
        Blob {
            file,
            at,
            left: size,
            size,
        }
    }
}

impl Read for Blob {
    /// A file that ends before its stated size is an error, not an end.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let want = usize::try_from(self.left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let len = self.file.read_at(&mut buffer[..want], self.at)?;
        if len == 0 && want > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += len as u64;
        self.left -= len as u64;
        Ok(len)
    }
}
