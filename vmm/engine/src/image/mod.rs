// SPDX-License-Identifier: Apache-2.0
//! Images: what they are called, where they come from, and where they are kept.
//!
//! ```text
//! Reference ─▶ Source (archive, directory) ─▶ manifest, config ─▶ layers ─▶ Store ─▶ Image
//! ```
//!
//! [`Store::resolve`] turns a [`Reference`] into an [`Image`]: a configuration and one EROFS image
//! to boot from. What comes out of an archive is hostile: JSON and tar headers are bounded, every
//! blob's digest and every layer's diff_id is compared while it streams by, and nothing is
//! published before all of it was right.
//!
//! An archive whose image is in the store already costs reading its index and no more.

mod archive;
mod blobs;
mod change;
mod collect;
mod create;
mod decompress;
mod digest;
mod docker;
mod error;
mod incoming;
mod layers;
mod load;
mod manifest;
mod names;
mod oci;
mod platform;
mod progress;
mod publish;
mod pull;
mod push;
mod reference;
mod save;
mod source;
mod store;
mod table;
#[cfg(test)]
mod testing;

pub use change::apply_change;
pub use create::NewLayer;
pub use digest::{Digest, DigestError, Hashing};
pub use error::ImageError;
pub use load::Loaded;
pub use names::{Details, Removed, User};
pub use platform::{Platform, PlatformError};
pub use progress::{Progress, Quiet, Step, Tell, Terminal};
pub(crate) use publish::is_at;
pub use publish::write_file;
pub use pull::{HUB, Pulled, connect, connect_to};
pub use reference::{DEFAULT_REGISTRY, Name, Reference, ReferenceError, Stored};
pub use source::unnamed_file;
pub use store::{Image, Store};
pub use table::Listed;
