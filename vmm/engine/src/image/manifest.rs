// SPDX-License-Identifier: Apache-2.0
//! What an archive says of one image, typed and checked, before any layer is read.

use oci_spec::image::{
    Descriptor, ImageConfiguration, ImageManifest, ImageManifestBuilder, MediaType,
};

use super::digest::Digest;
use super::error::ImageError;
use super::platform::Platform;
use super::reference::Name;
use super::table::StoredLayer;

/// More than any image has; Docker stops at 127.
const MAX_LAYERS: usize = 1024;

/// A JSON document with its digest.
pub(super) struct Document {
    pub digest: Digest,
    pub bytes: Vec<u8>,
}

/// One layer to be applied.
pub(super) struct LayerSpec {
    /// Where the source keeps it.
    pub member: String,
    /// Of the bytes as they are there; `None` where nothing is promised.
    pub digest: Option<Digest>,
    pub size: Option<u64>,
    /// Of the uncompressed tar.
    pub diff_id: Digest,
}

impl LayerSpec {
    /// What the layer is known by.
    pub fn named(&self) -> Digest {
        self.digest.unwrap_or(self.diff_id)
    }
}

/// An image that is about to be loaded.
pub(super) struct Draft {
    /// `None` where the source has none (docker-archive).
    pub manifest: Option<Document>,
    pub config: Document,
    pub layers: Vec<LayerSpec>,
    pub names: Vec<Name>,
}

impl Draft {
    /// What identifies the file system that the layers give (OCI image-spec, config.md,
    /// "Layer ChainID").
    pub(super) fn chain_id(&self) -> Digest {
        let mut chain: Option<Digest> = None;
        for layer in &self.layers {
            chain = Some(match chain {
                None => layer.diff_id,
                Some(below) => Digest::of(format!("{below} {}", layer.diff_id).as_bytes()),
            });
        }
        chain.unwrap_or_else(|| Digest::of(b""))
    }
}

pub(super) fn parse_config(bytes: &[u8], what: &str) -> Result<ImageConfiguration, ImageError> {
    serde_json::from_slice(bytes).map_err(|source| ImageError::Json {
        what: what.into(),
        source,
    })
}

/// The configuration, if it fits the platform, and the diff_ids of its layers, as many as there
/// should be.
pub(super) fn check_config(
    config: &Document,
    layers: usize,
    platform: &Platform,
    reference: &str,
) -> Result<Vec<Digest>, ImageError> {
    let what = format!("image configuration {}", config.digest);
    let parsed = parse_config(&config.bytes, &what)?;
    check_platform(&parsed, platform, reference)?;
    let diff_ids = parsed.rootfs().diff_ids();
    if diff_ids.len() != layers {
        let reason = "it has not as many diff_ids as the image has layers";
        return Err(ImageError::Malformed { what, reason });
    }
    if layers > MAX_LAYERS {
        return Err(ImageError::Malformed {
            what,
            reason: "it has more than 1024 layers",
        });
    }
    diff_ids
        .iter()
        .map(|diff_id| {
            diff_id.parse().map_err(|source| ImageError::Digest {
                what: what.clone(),
                source,
            })
        })
        .collect()
}

pub(super) fn check_platform(
    config: &ImageConfiguration,
    wanted: &Platform,
    reference: &str,
) -> Result<(), ImageError> {
    let found = Platform::from(config);
    if wanted.accepts(&found) {
        return Ok(());
    }
    Err(ImageError::WrongPlatform {
        reference: reference.into(),
        found: Box::new(found),
        wanted: Box::new(wanted.clone()),
    })
}

/// The manifest of an image that came without one: its layers as they are kept.
pub(super) fn make_manifest(
    config: &Document,
    layers: &[StoredLayer],
) -> Result<Document, ImageError> {
    let describe = |media_type, digest: Digest, size| {
        let digest = oci_spec::image::Digest::try_from(digest.to_string())?;
        Ok(Descriptor::new(media_type, size, digest))
    };
    let make = || -> Result<ImageManifest, oci_spec::OciSpecError> {
        let layers = layers
            .iter()
            .map(|layer| {
                let media_type = MediaType::from(layer.media_type.as_str());
                describe(media_type, layer.digest, layer.size)
            })
            .collect::<Result<Vec<_>, oci_spec::OciSpecError>>()?;
        ImageManifestBuilder::default()
            .schema_version(2u32)
            .media_type(MediaType::ImageManifest)
            .config(describe(
                MediaType::ImageConfig,
                config.digest,
                config.bytes.len() as u64,
            )?)
            .layers(layers)
            .build()
    };
    let malformed = |_| ImageError::Malformed {
        what: format!("image {}", config.digest),
        reason: "no manifest can be made for it",
    };
    let bytes =
        serde_json::to_vec(&make().map_err(malformed)?).map_err(|source| ImageError::Json {
            what: "the new manifest".into(),
            source,
        })?;
    Ok(Document {
        digest: Digest::of(&bytes),
        bytes,
    })
}
