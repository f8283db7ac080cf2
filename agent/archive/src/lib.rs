// SPDX-License-Identifier: Apache-2.0
//! Trees of files to tar streams and back: for `cp`, `export`, `commit` and a volume's first use.
//!
//! Both ends of a copy are this crate, one of them in the guest. So what comes may be hostile:
//! [`unpack`] can be told to leave its directory by no symbolic link.

#![deny(unsafe_code)]

mod pack;
mod sparse;
mod unpack;
mod xattr;

use std::io;
use std::path::PathBuf;

use rustix::io::Errno;

pub use pack::Packer;
pub use unpack::{Options, Owner, unpack};

/// Why a tree could not be copied.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    #[error("read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("write the archive")]
    Write(#[source] io::Error),
    #[error("read the archive")]
    Archive(#[from] walnut_erofs::tar::TarError),
    #[error("{} leads out of its directory", path.display())]
    Outside { path: PathBuf },
    #[error("cannot overwrite directory {} with what is none", path.display())]
    OntoDirectory { path: PathBuf },
    #[error("cannot overwrite {}, which is no directory, with one", path.display())]
    DirectoryOnto { path: PathBuf },
    #[error("create {}", path.display())]
    Create { path: PathBuf, source: Errno },
    #[error("write {}", path.display())]
    Fill { path: PathBuf, source: io::Error },
}

#[cfg(test)]
mod tests;
