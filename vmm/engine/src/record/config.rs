// SPDX-License-Identifier: Apache-2.0
//! `container.json`: what was asked for. Written when the container is made; `rename` and `update`
//! replace it.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::RecordError;
use crate::container::Container;
use crate::image::Digest;
use crate::times::Timestamp;

/// Of the format; what is newer is left alone.
const VERSION: u32 = 2;
pub(super) const NAME: &str = "container.json";

#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Config {
    version: u32,
    pub created: Timestamp,
    /// As the user named it; empty for a `--rootfs`.
    pub image: String,
    /// Digest of the image's configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_id: Option<Digest>,
    /// The directory of the host that it runs, instead of an image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rootfs: Option<PathBuf>,
    pub container: Container,
}

/// What every version has.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

impl Config {
    pub fn new(
        container: Container,
        image: &str,
        image_id: Option<Digest>,
        rootfs: Option<PathBuf>,
    ) -> Self {
        Self {
            version: VERSION,
            created: Timestamp::now(),
            image: image.to_owned(),
            image_id,
            rootfs,
            container,
        }
    }

    /// `None` where there is none (yet).
    pub(super) fn read(dir: &Path) -> Result<Option<Self>, RecordError> {
        let path = dir.join(NAME);
        let Some(bytes) = super::read(&path)? else {
            return Ok(None);
        };
        let newer = |path, version| RecordError::Newer { path, version };
        match serde_json::from_slice::<Self>(&bytes) {
            // It can be read, but who knows what else it says.
            Ok(config) if config.version > VERSION => Err(newer(path, config.version)),
            Ok(config) => Ok(Some(config)),
            Err(source) => Err(match serde_json::from_slice::<Versioned>(&bytes) {
                Ok(Versioned { version }) if version > VERSION => newer(path, version),
                _ => RecordError::Parse { path, source },
            }),
        }
    }

    pub(super) fn write(&self, dir: &Path, durable: bool) -> Result<(), RecordError> {
        super::write(dir, NAME, self, durable)
    }

    pub fn name(&self) -> &str {
        self.container.name.as_deref().unwrap_or_default()
    }
}
