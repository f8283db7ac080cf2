// SPDX-License-Identifier: Apache-2.0
//! `pull`: an image out of a registry. Layers are unpacked while those above them are still being
//! fetched.

use walnut_registry::{Credential, Manifest, Options, Registry, RegistryError};

use super::digest::Digest;
use super::error::ImageError;
use super::incoming::{Incoming, is_given_up};
use super::manifest::{Document, Draft};
use super::oci;
use super::platform::Platform;
use super::progress::{Progress, Step, Tell};
use super::reference::{DEFAULT_REGISTRY, Name};
use super::store::Store;

/// Where Docker Hub's registry is.
pub const HUB: &str = "registry-1.docker.io";
/// Layers that are fetched at once.
const PARALLEL: usize = 3;
const MAX_CONFIG: u64 = 8 << 20;

/// What came of a pull.
#[derive(Clone, Debug)]
pub struct Pulled {
    pub id: Digest,
    /// Of what the name stands for: a manifest, or an index.
    pub digest: Digest,
    /// It was not there before.
    pub new: bool,
}

/// A registry as names call it.
pub fn connect_to(
    registry: &str,
    tls_verify: bool,
    credentials: Option<Credential>,
) -> Result<Registry, RegistryError> {
    let host = match registry {
        DEFAULT_REGISTRY => HUB,
        other => other,
    };
    let options = Options {
        tls_verify,
        credentials,
    };
    Registry::connect(host, options)
}

/// The registry that a name belongs to.
pub fn connect(
    name: &Name,
    tls_verify: bool,
    credentials: Option<Credential>,
) -> Result<Registry, ImageError> {
    connect_to(name.registry(), tls_verify, credentials).map_err(|error| of_registry(name, error))
}

/// In Docker's words.
pub(super) fn of_registry(name: &Name, error: RegistryError) -> ImageError {
    match error {
        RegistryError::NotFound(said) => ImageError::ManifestUnknown {
            name: name.to_string(),
            said,
        },
        RegistryError::Denied(said) => ImageError::AccessDenied {
            repository: name.familiar_repository(),
            said,
        },
        source => ImageError::Registry {
            name: name.to_string(),
            source: Box::new(source),
        },
    }
}

impl Store {
    pub fn pull(
        &self,
        registry: &Registry,
        name: &Name,
        platform: &Platform,
        tell: &Tell,
        progress: &mut dyn Progress,
    ) -> Result<Pulled, ImageError> {
        let failed = |error| of_registry(name, error);
        let repository = name.repository();
        let top = registry
            .manifest(repository, &name.version())
            .map_err(failed)?;
        let digest: Digest = parse_digest(&top.digest)?;
        let manifest = match pick(&top, platform)? {
            None => top,
            Some(chosen) => registry
                .manifest(repository, &chosen.to_string())
                .map_err(failed)?,
        };
        let manifest = Document {
            digest: parse_digest(&manifest.digest)?,
            bytes: manifest.bytes,
        };
        let shown = name.to_string();
        let digests = [name.at(digest)];
        let table = self.table()?;
        if let Some(image) = self.open_image(&table, manifest.digest, platform, &shown)? {
            let moved = !table.has_names(manifest.digest, std::slice::from_ref(name));
            self.change(|table| {
                table.add_names(manifest.digest, std::slice::from_ref(name));
                table.add_digests(manifest.digest, &digests);
                Ok(())
            })?;
            return Ok(Pulled {
                id: image.id,
                digest,
                new: moved,
            });
        }
        let draft = oci::draft(
            manifest,
            |config, _| {
                let config = config.to_string();
                let fetched = registry.blob(repository, &config, MAX_CONFIG);
                fetched.map_err(|error| of_registry(name, error))
            },
            vec![name.clone()],
            platform,
            &shown,
        )?;
        let fetched = self.fetch(registry, name, &draft, &digests, tell, progress);
        if fetched.as_ref().is_err_and(ImageError::is_disk_full)
            && let Err(error) = self.collect(true)
        {
            log::warn!("{error}");
        }
        fetched?;
        Ok(Pulled {
            id: draft.config.digest,
            digest,
            new: true,
        })
    }

    fn fetch(
        &self,
        registry: &Registry,
        name: &Name,
        draft: &Draft,
        digests: &[Name],
        tell: &Tell,
        progress: &mut dyn Progress,
    ) -> Result<(), ImageError> {
        let busy = self.busy()?;
        let (incoming, fetches) = Incoming::new(&self.blobs, &draft.layers, tell)?;
        let repository = name.repository();
        let (added, fetched) = std::thread::scope(|scope| {
            let fetching = scope.spawn(|| registry.fetch(repository, fetches, PARALLEL));
            let added = self.add(&busy, &incoming, draft, digests, progress);
            if added.is_err() {
                incoming.give_up();
            }
            (added, fetching.join())
        });
        // What the reader met is what the registry did, unless it was the reader that gave up.
        match (added, fetched) {
            (Err(error), Ok(Err(cause))) if !is_given_up(&cause) => {
                log::debug!("{error}");
                Err(of_registry(name, cause))
            }
            (Err(error), _) => Err(error),
            (Ok(_), Ok(Err(cause))) => Err(of_registry(name, cause)),
            (Ok(_), Err(panic)) => std::panic::resume_unwind(panic),
            (Ok(_), Ok(Ok(()))) => {
                for layer in &draft.layers {
                    let digest = layer.named();
                    tell(digest, Step::Said("Pull complete"));
                }
                Ok(())
            }
        }
    }
}

fn parse_digest(text: &str) -> Result<Digest, ImageError> {
    text.parse().map_err(|source| ImageError::Digest {
        what: "the registry's manifest".into(),
        source,
    })
}

/// The manifest for a platform, out of an index; `None` where it is a manifest itself.
fn pick(top: &Manifest, platform: &Platform) -> Result<Option<Digest>, ImageError> {
    let what = format!("manifest {}", top.digest);
    let said: serde_json::Value =
        serde_json::from_slice(&top.bytes).map_err(|source| ImageError::Json {
            what: what.clone(),
            source,
        })?;
    if said["manifests"].is_null() {
        return Ok(None);
    }
    let index = oci::parse_index(&top.bytes, &what)?;
    let entry = oci::choose_entry(index.manifests().iter(), platform)?;
    oci::digest(entry, &what).map(Some)
}
