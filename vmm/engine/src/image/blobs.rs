// SPDX-License-Identifier: Apache-2.0
//! Blobs by their digest: manifests, configurations, and layers as they came, so that `save` and
//! `push` give the same bytes back. Laid out as in an OCI layout (image-layout.md).

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::digest::Digest;
use super::error::ImageError;
use super::manifest::Document;
use super::publish::{self, Pending};

pub(super) struct Blobs {
    dir: PathBuf,
}

impl Blobs {
    pub(super) fn new(images: &Path) -> Self {
        Blobs {
            dir: images.join("blobs/sha256"),
        }
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn path(&self, digest: Digest) -> PathBuf {
        self.dir.join(digest.hex())
    }

    pub(super) fn has(&self, digest: Digest) -> bool {
        self.path(digest).exists()
    }

    /// `None` where there is none.
    pub(super) fn open(&self, digest: Digest) -> Result<Option<File>, ImageError> {
        let path = self.path(digest);
        match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            result => result.map(Some).map_err(|source| ImageError::Store {
                action: "open",
                path,
                source,
            }),
        }
    }

    /// A whole one. `None` where there is none.
    pub(super) fn read(&self, digest: Digest) -> Result<Option<Vec<u8>>, ImageError> {
        let path = self.path(digest);
        match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            result => result.map(Some).map_err(|source| ImageError::Store {
                action: "read",
                path,
                source,
            }),
        }
    }

    pub(super) fn write(&self, blob: &Document) -> Result<(), ImageError> {
        let path = self.path(blob.digest);
        if path.exists() {
            return Ok(());
        }
        publish::write(&path, &blob.bytes).map_err(|source| ImageError::Store {
            action: "write",
            path,
            source,
        })
    }

    /// A place for one that streams by. `None` if it is there, perhaps because somebody else has
    /// just brought it.
    pub(super) fn keep(&self, digest: Digest) -> Result<Option<Keep>, ImageError> {
        let path = self.path(digest);
        let failed = |source| ImageError::Store {
            action: "create",
            path: path.clone(),
            source,
        };
        let Some(pending) = Pending::new(&path).map_err(failed)? else {
            return Ok(None);
        };
        let file = pending.file().map_err(failed)?;
        Ok(Some(Keep {
            pending,
            file,
            path,
            error: None,
        }))
    }
}

/// A blob that is being written; it appears when it is right.
pub(super) struct Keep {
    pending: Pending,
    file: File,
    path: PathBuf,
    /// Of the first write that failed.
    error: Option<io::Error>,
}

impl Keep {
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes).map_err(|error| {
            let kind = error.kind();
            self.error = Some(error);
            kind.into()
        })
    }

    /// What went wrong on our side, rather than where the blob comes from.
    pub(super) fn check(&mut self) -> Result<(), ImageError> {
        match self.error.take() {
            None => Ok(()),
            Some(source) => Err(ImageError::Store {
                action: "write",
                path: self.path.clone(),
                source,
            }),
        }
    }

    pub(super) fn publish(self) -> Result<(), ImageError> {
        let published = self.pending.publish();
        published.map(drop).map_err(|source| ImageError::Store {
            action: "write",
            path: self.path,
            source,
        })
    }
}
