// SPDX-License-Identifier: Apache-2.0
//! Why there is no image.

use std::io;
use std::path::PathBuf;

use super::digest::{Digest, DigestError};
use super::platform::Platform;

#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error("No such image: {0}")]
    NotFound(String),
    #[error("{id} is the start of more than one image ID")]
    AmbiguousId { id: String },
    #[error(
        "image with reference {reference} was found but its platform ({found}) does not match \
         the specified platform ({wanted})"
    )]
    WrongPlatform {
        reference: String,
        found: Box<Platform>,
        wanted: Box<Platform>,
    },
    #[error("no matching manifest for {wanted} in the manifest list entries")]
    NoMatchingManifest { wanted: Platform },

    #[error("manifest for {name} not found: {said}")]
    ManifestUnknown { name: String, said: String },
    #[error(
        "pull access denied for {repository}, repository does not exist or may require \
         'walnut login': {said}"
    )]
    AccessDenied { repository: String, said: String },
    #[error("pull {name}")]
    Registry {
        name: String,
        source: Box<walnut_registry::RegistryError>,
    },
    #[error("push {name}")]
    Push {
        name: String,
        source: Box<walnut_registry::RegistryError>,
    },
    #[error("An image does not exist locally with the tag: {0}")]
    NoSuchTag(String),
    #[error("refusing to create a tag with a digest reference")]
    TagDigest,
    #[error(
        "conflict: unable to delete {image} (must be forced) - image is referenced in multiple repositories"
    )]
    SeveralRepositories { image: String },
    #[error(
        "conflict: unable to delete {image} (must be forced) - image is being used by stopped container {container}"
    )]
    InUseByStopped { image: String, container: String },
    #[error("{}", running(image, container))]
    InUseByRunning { image: String, container: String },
    #[error(
        "conflict: unable to remove repository reference \"{name}\" (must force) - container \
         {container} is using its referenced image {image}"
    )]
    NameInUse {
        name: String,
        container: String,
        image: String,
    },

    #[error("open image archive {}", path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("read image archive {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is no tar archive", path.display())]
    NotTar {
        path: PathBuf,
        source: walnut_erofs::tar::TarError,
    },
    #[error("image archive {} is truncated: {member} ends at byte {end}, the file at {len}",
        path.display())]
    Truncated {
        path: PathBuf,
        member: String,
        end: u64,
        len: u64,
    },
    #[error("image archive {} is truncated: it has neither {member} nor an end mark",
        path.display())]
    Cut { path: PathBuf, member: String },
    #[error("image archive {} lists more than {limit} files", path.display())]
    TooManyMembers { path: PathBuf, limit: usize },
    #[error("{} has no {member}{hint}", path.display())]
    MissingMember {
        path: PathBuf,
        member: String,
        hint: &'static str,
    },
    #[error("{what} is {size} bytes long, more than {limit}")]
    TooLarge { what: String, size: u64, limit: u64 },
    #[error("{what} is malformed")]
    Json {
        what: String,
        source: serde_json::Error,
    },
    #[error("{what} is malformed: {reason}")]
    Malformed { what: String, reason: &'static str },
    #[error("{what} has a digest that can't be checked")]
    Digest { what: String, source: DigestError },
    #[error("{} holds several images: write one of {} behind it", path.display(), choices.join(", "))]
    WhichImage { path: PathBuf, choices: Vec<String> },
    #[error("{} holds no image \"{image}\"; it holds {}", path.display(), list(choices))]
    NotInArchive {
        path: PathBuf,
        image: String,
        choices: Vec<String>,
    },

    #[error("{what} is corrupt: expected digest {expected}, got {got}")]
    DigestMismatch {
        what: String,
        expected: Digest,
        got: Digest,
    },
    #[error("{what} is corrupt: expected {expected} bytes, got {got}")]
    SizeMismatch {
        what: String,
        expected: u64,
        got: u64,
    },
    #[error("layer {layer} is compressed with {name}; gzip and zstd are supported")]
    Compression { layer: Digest, name: &'static str },
    #[error("layer {layer} can't be applied")]
    Layer {
        layer: Digest,
        source: walnut_erofs::LayerError,
    },
    #[error("read layer {layer}")]
    ReadLayer { layer: Digest, source: io::Error },
    #[error("finish the image of {image}")]
    Finish {
        image: String,
        source: walnut_erofs::FinishError,
    },

    #[error("{image} can't be given away: its blob {blob} is not kept; pull or load it again")]
    NotKept { image: String, blob: Digest },
    #[error("invalid change \"{instruction}\": {reason}")]
    Change {
        instruction: String,
        reason: &'static str,
    },
    #[error("write the archive")]
    Save(#[source] io::Error),
    #[error("{action} {} in the image store", path.display())]
    Store {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("the image store's {} was written by a newer walnut", path.display())]
    NewerStore { path: PathBuf },
}

impl ImageError {
    /// What was begun is in nobody's way but then.
    pub(super) fn is_disk_full(&self) -> bool {
        let mut next: Option<&(dyn std::error::Error + 'static)> = Some(self);
        while let Some(cause) = next {
            let io = cause.downcast_ref::<io::Error>().map(io::Error::kind);
            if let Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) = io {
                return true;
            }
            next = cause.source();
        }
        false
    }
}

/// A container without a name that is run with `--rm` has no ID that anybody could know.
fn running(image: &str, container: &str) -> String {
    let words = "(cannot be forced) - image is being used by running container";
    let text = format!("conflict: unable to delete {image} {words} {container}");
    text.trim_end().into()
}

fn list(choices: &[String]) -> String {
    if choices.is_empty() {
        "only unnamed ones".into()
    } else {
        choices.join(", ")
    }
}
