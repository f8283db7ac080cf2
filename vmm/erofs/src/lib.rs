// SPDX-License-Identifier: Apache-2.0
//! Turns the tar layers of a container image into one read-only EROFS image.
//!
//! ```text
//! layer 1..n (tar) ─▶ tar (header blocks → typed entries) ─▶ layer (whiteouts, links, replacement)
//!                         │                                       │
//!                         │ file data                             ▼
//!                         └────────▶ output file ◀── layout ── tree (metadata, in memory)
//! ```
//!
//! Layers are added bottom first, each read once, front to back. File data goes straight to its
//! blocks in the output; only names and attributes stay in memory, and [`Builder::finish`] writes
//! them behind the data. What a later layer replaces or whites out gives its blocks back, for
//! files to come; blocks nobody took are punched out. (The other order, top layer first, would
//! never write what is hidden, but then neither a symlink among an entry's parents nor a hard link
//! into a lower layer can be resolved when it is met, and both occur.)
//!
//! The same layers give the same bytes. Nothing here needs root, follows a path on the host or
//! creates a file. Layers are hostile: each entry is typed once, bounded by [`Limits`], and what
//! can't be applied is an error that names it.
//!
//! # What a layer may hold
//!
//! As `docker load` has it, except where noted:
//! - a leading `/` is dropped, `.` and inner `..` are resolved by name; an entry that would climb
//!   above the root is refused.
//! - An entry's parents may be symlinks: they are followed inside the image, as the kernel would
//!   after chroot. One whose target climbs above the root may exist, but nothing can be put through
//!   it. A parent that is missing is made, root's, mode 0755; one that is no directory is an error.
//! - The last component is never followed: what stands there is replaced, whatever its type,
//!   except that a directory over a directory keeps its children.
//! - A hard link takes the target as it stands in the layers so far; its own attributes are
//!   ignored, as tar ignores them.
//! - A whiteout hides what lower layers brought, not what its own layer did, in either order
//!   (OCI image-spec, layer.md). One that hides nothing is no error.
//! - `trusted.overlay.*` and `user.overlay.*` attributes are dropped: they would steer the guest's
//!   overlay mount.

#![deny(unsafe_code)]

mod builder;
mod extents;
mod layer;
mod layout;
mod ondisk;
mod output;
mod path;
mod read;
pub mod tar;
mod tree;
mod xattr;

pub use builder::{Builder, FinishError, Limits, Summary};
pub use layer::{EntryError, LayerError};
pub use path::PathError;
pub use read::read_file;
pub use xattr::XattrError;

/// The image's length is a multiple of this: virtio-pmem maps nothing smaller.
pub const IMAGE_ALIGN: u64 = 2 << 20;

/// Changes with every change of the bytes that a given list of layers produces, so that images
/// that an older version wrote are not taken for ours.
pub const FORMAT_VERSION: u32 = 1;

#[cfg(test)]
#[path = "../tests/support/archive.rs"]
mod archive;
