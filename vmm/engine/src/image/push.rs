// SPDX-License-Identifier: Apache-2.0
//! `push`: an image into a registry, byte for byte as it came.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use walnut_registry::{PushBlob, Pushed, Registry, RegistryError};

use super::digest::Digest;
use super::error::ImageError;
use super::names::OCI_MANIFEST;
use super::progress::{Step, Tell};
use super::reference::{Name, Stored};
use super::store::Store;

impl Store {
    /// Digest and length of the manifest.
    pub fn push(
        &self,
        registry: &Registry,
        name: &Name,
        tell: &Tell,
    ) -> Result<(Digest, usize), ImageError> {
        let failed = |error: RegistryError| ImageError::Push {
            name: name.to_string(),
            source: Box::new(error),
        };
        // Nothing that is being pushed goes away meanwhile.
        let _busy = self.busy()?;
        let table = self.table()?;
        let wanted = Stored::Name(name.clone());
        let no_tag = || ImageError::NoSuchTag(name.to_string());
        let manifest = table.find(&wanted)?.ok_or_else(no_tag)?;
        let record = table.get(manifest).ok_or_else(no_tag)?;
        self.check_kept(&wanted, manifest, record)?;
        let known = record.digests.iter().filter_map(|d| d.parse::<Name>().ok());
        let from: Vec<String> = known
            .filter(|known| known.registry() == name.registry())
            .map(|known| known.repository().to_owned())
            .collect();
        let layers = record.layers.iter().map(|layer| (layer.digest, true));
        for (blob, is_layer) in layers.chain([(record.config, false)]) {
            let path = self.blobs.path(blob);
            let size = self.blobs.open(blob)?.and_then(|file| file.metadata().ok());
            let size = size.map_or(0, |metadata| metadata.len());
            let sent = Arc::new(AtomicU64::new(0));
            let tell_sent = Arc::clone(tell);
            let pushed = registry
                .push_blob(
                    name.repository(),
                    &PushBlob {
                        digest: &blob.to_string(),
                        size,
                        open: &|| File::open(&path),
                        from: &from,
                        sent: Arc::new(move |bytes| {
                            let sent = bytes + sent.fetch_add(bytes, Ordering::Relaxed);
                            if is_layer {
                                tell_sent(blob, Step::Pushing(sent.min(size), size));
                            }
                        }),
                    },
                )
                .map_err(failed)?;
            if is_layer {
                match pushed {
                    Pushed::Existed => tell(blob, Step::Said("Layer already exists")),
                    Pushed::Mounted(from) => {
                        tell(blob, Step::Said(&format!("Mounted from {from}")));
                    }
                    Pushed::Uploaded => tell(blob, Step::Said("Pushed")),
                }
            }
        }
        let bytes = self.blobs.read(manifest)?.unwrap_or_default();
        let said: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let media_type = said["mediaType"].as_str().unwrap_or(OCI_MANIFEST);
        let reference = match name.tag() {
            Some(tag) => tag.to_owned(),
            None => manifest.to_string(),
        };
        registry
            .push_manifest(name.repository(), &reference, media_type, &bytes)
            .map_err(failed)?;
        self.change(|table| {
            table.add_digests(manifest, &[name.at(manifest)]);
            Ok(())
        })?;
        Ok((manifest, bytes.len()))
    }
}
