// SPDX-License-Identifier: Apache-2.0
//! `save`: images as one archive, which is an OCI layout with the `manifest.json` of older Dockers
//! beside it. Blobs go out as they came in.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};

use serde_json::{Value, json};

use super::digest::Digest;
use super::error::ImageError;
use super::names::OCI_MANIFEST;
use super::oci::{FULL_NAME, REF_NAME};
use super::reference::{Name, Stored};
use super::source::blob_path;
use super::store::Store;
use super::table::Record;

/// One image of the archive.
struct Saved {
    manifest: Digest,
    record: Record,
    /// None where it was asked for by its ID.
    names: BTreeSet<Name>,
}

impl Store {
    /// # Errors
    /// An image is not there, or one of its layers is not kept, before anything is written.
    pub fn save(&self, wanted: &[Stored], out: impl Write) -> Result<(), ImageError> {
        let _busy = self.busy()?;
        let images = self.to_save(wanted)?;
        let mut archive = tar::Builder::new(out);
        archive.mode(tar::HeaderMode::Deterministic);
        self.write_archive(&mut archive, &images)
            .map_err(ImageError::Save)
    }

    fn to_save(&self, wanted: &[Stored]) -> Result<Vec<Saved>, ImageError> {
        let table = self.table()?;
        let mut images: Vec<Saved> = Vec::new();
        for wanted in wanted {
            let not_found = || ImageError::NotFound(wanted.to_string());
            let manifest = table.find(wanted)?.ok_or_else(not_found)?;
            let record = table.get(manifest).ok_or_else(not_found)?;
            self.check_kept(wanted, manifest, record)?;
            let name = match wanted {
                Stored::Name(name) | Stored::NameOrId { name, .. }
                    if record.names.contains(&name.canonical_tag()) =>
                {
                    Some(name.without_digest())
                }
                _ => None,
            };
            match images.iter_mut().find(|image| image.manifest == manifest) {
                Some(image) => image.names.extend(name),
                None => images.push(Saved {
                    manifest,
                    record: record.clone(),
                    names: name.into_iter().collect(),
                }),
            }
        }
        Ok(images)
    }

    pub(super) fn check_kept(
        &self,
        image: &Stored,
        manifest: Digest,
        record: &Record,
    ) -> Result<(), ImageError> {
        let layers = record.layers.iter().map(|layer| layer.digest);
        let mut blobs = layers.chain([manifest, record.config]);
        match blobs.find(|blob| !self.blobs.has(*blob)) {
            None => Ok(()),
            Some(blob) => Err(ImageError::NotKept {
                image: image.to_string(),
                blob,
            }),
        }
    }

    fn write_archive<W: Write>(
        &self,
        archive: &mut tar::Builder<W>,
        images: &[Saved],
    ) -> io::Result<()> {
        directory(archive, "blobs/")?;
        directory(archive, "blobs/sha256/")?;
        let mut done = BTreeSet::new();
        let mut entries = Vec::new();
        for image in images {
            let layers = image.record.layers.iter().map(|layer| layer.digest);
            for blob in layers.chain([image.record.config, image.manifest]) {
                if done.insert(blob) {
                    self.write_blob(archive, blob)?;
                }
            }
            let manifest = self.blobs.read(image.manifest).map_err(io::Error::other)?;
            entries.extend(index_entries(image, &manifest.unwrap_or_default()));
        }
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": entries,
        });
        file(archive, "index.json", &serde_json::to_vec(&index)?)?;
        let manifests: Vec<Value> = images.iter().map(docker_entry).collect();
        file(archive, "manifest.json", &serde_json::to_vec(&manifests)?)?;
        file(archive, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        archive.finish()?;
        archive.get_mut().flush()
    }

    fn write_blob<W: Write>(&self, archive: &mut tar::Builder<W>, blob: Digest) -> io::Result<()> {
        let open = self.blobs.open(blob).map_err(io::Error::other)?;
        let open = open.ok_or(io::ErrorKind::NotFound)?;
        let len = open.metadata()?.len();
        append(archive, &blob_path(blob), len, open)
    }
}

fn index_entries(image: &Saved, manifest: &[u8]) -> Vec<Value> {
    let said: Value = serde_json::from_slice(manifest).unwrap_or_default();
    let entry = json!({
        "mediaType": said["mediaType"].as_str().unwrap_or(OCI_MANIFEST),
        "digest": image.manifest,
        "size": manifest.len(),
    });
    let named = |name: &Name| {
        let mut entry = entry.clone();
        entry["annotations"] = json!({
            FULL_NAME: name.canonical(),
            REF_NAME: name.tag(),
        });
        entry
    };
    match image.names.is_empty() {
        true => vec![entry],
        false => image.names.iter().map(named).collect(),
    }
}

fn docker_entry(image: &Saved) -> Value {
    let names: Vec<String> = image.names.iter().map(Name::to_string).collect();
    let layers = image.record.layers.iter();
    json!({
        "Config": blob_path(image.record.config),
        "RepoTags": if names.is_empty() { None } else { Some(names) },
        "Layers": layers.map(|layer| blob_path(layer.digest)).collect::<Vec<_>>(),
    })
}

fn file<W: Write>(archive: &mut tar::Builder<W>, path: &str, bytes: &[u8]) -> io::Result<()> {
    append(archive, path, bytes.len() as u64, bytes)
}

fn append<W: Write>(
    archive: &mut tar::Builder<W>,
    path: &str,
    len: u64,
    data: impl Read,
) -> io::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_size(len);
    header.set_mode(0o644);
    header.set_mtime(0);
    archive.append_data(&mut header, path, data)
}

fn directory<W: Write>(archive: &mut tar::Builder<W>, path: &str) -> io::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::Directory);
    header.set_size(0);
    header.set_mode(0o755);
    header.set_mtime(0);
    archive.append_data(&mut header, path, io::empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::platform::Platform;
    use crate::image::progress::Quiet;
    use crate::image::testing::{TestImage, small, to_tar};

    fn load(store: &Store, dir: &std::path::Path, image: &TestImage) {
        let archive = dir.join("in.tar");
        std::fs::write(&archive, to_tar(&image.layout())).unwrap();
        let file = std::fs::File::open(&archive).unwrap();
        store
            .load_all(&archive, file, &Platform::guest(), &mut Quiet)
            .unwrap();
    }

    #[test]
    fn what_is_saved_comes_back_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("a")).unwrap();
        load(&store, dir.path(), &small());
        let other = TestImage {
            cmd: "other",
            name: Some("example.org/other:1"),
            ..small()
        };
        load(&store, dir.path(), &other);
        let wanted = ["test", "example.org/other:1"].map(|name| name.parse().unwrap());
        let saved = dir.path().join("out.tar");
        store
            .save(&wanted, std::fs::File::create(&saved).unwrap())
            .unwrap();
        let back = Store::open(&dir.path().join("b")).unwrap();
        let file = std::fs::File::open(&saved).unwrap();
        let loaded = back
            .load_all(&saved, file, &Platform::guest(), &mut Quiet)
            .unwrap();
        assert_eq!(loaded.len(), 2);
        let digests = |store: &Store| {
            let mut list = store.list().unwrap();
            list.sort_by_key(|image| image.digest);
            list.into_iter()
                .map(|image| (image.digest, image.id, image.names))
                .collect::<Vec<_>>()
        };
        assert_eq!(digests(&store), digests(&back));
        // The same by the file that older Dockers read.
        let by_docker = Store::open(&dir.path().join("c")).unwrap();
        let reference = format!("docker-archive:{}:test", saved.display());
        let reference = reference.parse().unwrap();
        let image = by_docker
            .resolve(&reference, &Platform::guest(), &mut Quiet)
            .unwrap();
        assert_eq!(image.id, loaded[0].id);
    }

    #[test]
    fn what_is_not_kept_is_not_saved() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        load(&store, dir.path(), &small());
        let layer = dir.path().join("images").join(small().layers[0].path());
        std::fs::remove_file(layer).unwrap();
        let mut out = Vec::new();
        let error = store.save(&["test".parse().unwrap()], &mut out);
        assert!(matches!(error, Err(ImageError::NotKept { .. })) && out.is_empty());
        let error = store.save(&["nosuch".parse().unwrap()], &mut out);
        assert!(matches!(error, Err(ImageError::NotFound(_))));
    }
}
