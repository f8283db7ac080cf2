// SPDX-License-Identifier: Apache-2.0
//! Which images there are, and what they are called: one JSON file, replaced whole.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::digest::Digest;
use super::error::ImageError;
use super::reference::{Name, Stored};

/// Raised when an older walnut could not make sense of the file.
const VERSION: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Table {
    version: u32,
    /// By manifest.
    #[serde(default)]
    images: BTreeMap<Digest, Record>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// The image's ID.
    pub config: Digest,
    /// Chain ID of its layers: what its EROFS image is called by.
    pub rootfs: Digest,
    /// Bytes that image takes on disk.
    pub size: u64,
    /// Seconds since the epoch.
    pub loaded: u64,
    /// In canonical form.
    #[serde(default)]
    pub names: BTreeSet<String>,
    /// `registry/repository@digest`, where it was pulled from or pushed to.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub digests: BTreeSet<String>,
    /// The lowest first.
    #[serde(default)]
    pub layers: Vec<StoredLayer>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StoredLayer {
    /// Of its blob.
    pub digest: Digest,
    /// Bytes of its blob.
    pub size: u64,
    pub media_type: String,
    pub diff_id: Digest,
    /// Bytes of its tar.
    pub unpacked: u64,
}

/// An image in the store, without opening it.
#[derive(Clone, Debug)]
pub struct Listed {
    pub id: Digest,
    /// Of its manifest.
    pub digest: Digest,
    /// Bytes it takes on disk, shared with every image that has the same layers.
    pub size: u64,
    /// Seconds since the epoch.
    pub loaded: u64,
    /// None: `<none>`.
    pub names: Vec<Name>,
    /// Where it was pulled from or pushed to: names with digests.
    pub digests: Vec<Name>,
}

impl Record {
    pub(super) fn names(&self) -> Vec<Name> {
        parse_all(&self.names)
    }
}

impl Table {
    pub(super) fn read(path: &Path) -> Result<Self, ImageError> {
        let bytes = match fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Table {
                    version: VERSION,
                    images: BTreeMap::new(),
                });
            }
            result => result.map_err(|source| ImageError::Store {
                action: "read",
                path: path.into(),
                source,
            })?,
        };
        let what = || format!("the image store's {}", path.display());
        let table: Table = serde_json::from_slice(&bytes).map_err(|source| ImageError::Json {
            what: what(),
            source,
        })?;
        if table.version > VERSION {
            return Err(ImageError::NewerStore { path: path.into() });
        }
        Ok(table)
    }

    pub(super) fn to_json(&self) -> Result<Vec<u8>, ImageError> {
        serde_json::to_vec_pretty(self).map_err(|source| ImageError::Json {
            what: "the table of images".into(),
            source,
        })
    }

    pub(super) fn get(&self, manifest: Digest) -> Option<&Record> {
        self.images.get(&manifest)
    }

    pub(super) fn by_config(&self, config: Digest) -> Option<(Digest, &Record)> {
        let mut images = self.images.iter();
        images
            .find(|(_, record)| record.config == config)
            .map(|(digest, record)| (*digest, record))
    }

    /// Adds an image, or names to one. What is known of it by now replaces what was.
    pub(super) fn insert(&mut self, manifest: Digest, record: Record, names: &[Name]) {
        let record = match self.images.remove(&manifest) {
            None => record,
            Some(old) => Record {
                loaded: old.loaded,
                names: old.names,
                digests: old.digests,
                ..record
            },
        };
        self.images.insert(manifest, record);
        self.add_names(manifest, names);
    }

    /// A name that belonged to another image moves. False where there is no such image.
    pub(super) fn add_names(&mut self, manifest: Digest, names: &[Name]) -> bool {
        if !self.images.contains_key(&manifest) {
            return false;
        }
        let names: BTreeSet<String> = names
            .iter()
            .filter(|name| name.tag().is_some())
            .map(Name::canonical_tag)
            .collect();
        for (other, record) in &mut self.images {
            if *other != manifest {
                record.names.retain(|name| !names.contains(name));
            }
        }
        if let Some(record) = self.images.get_mut(&manifest) {
            record.names.extend(names);
        }
        true
    }

    /// Where an image can be had again: names with digests.
    pub(super) fn add_digests(&mut self, manifest: Digest, names: &[Name]) {
        if let Some(record) = self.images.get_mut(&manifest) {
            record.digests.extend(names.iter().map(Name::canonical));
        }
    }

    pub(super) fn get_mut(&mut self, manifest: Digest) -> Option<&mut Record> {
        self.images.get_mut(&manifest)
    }

    pub(super) fn remove(&mut self, manifest: Digest) -> Option<Record> {
        self.images.remove(&manifest)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Digest, &Record)> {
        self.images.iter().map(|(digest, record)| (*digest, record))
    }

    pub(super) fn layer(&self, digest: Digest, diff_id: Digest) -> Option<&StoredLayer> {
        let mut layers = self.images.values().flat_map(|record| &record.layers);
        layers.find(|layer| layer.digest == digest && layer.diff_id == diff_id)
    }

    pub(super) fn has_names(&self, manifest: Digest, names: &[Name]) -> bool {
        let has = |record: &Record| {
            let mut tagged = names.iter().filter(|name| name.tag().is_some());
            tagged.all(|name| record.names.contains(&name.canonical_tag()))
        };
        self.get(manifest).is_some_and(has)
    }

    /// A name counts before an ID that begins alike, as Docker has it.
    pub(super) fn find(&self, wanted: &Stored) -> Result<Option<Digest>, ImageError> {
        match wanted {
            Stored::Name(name) => Ok(self.by_name(name)),
            Stored::Digest(digest) => Ok(self.by_digest(*digest)),
            Stored::NameOrId { name, id } => match self.by_name(name) {
                Some(found) => Ok(Some(found)),
                None => self.by_id(id),
            },
        }
    }

    fn by_name(&self, name: &Name) -> Option<Digest> {
        if let Some(digest) = name.digest() {
            let canonical = name.without_tag().canonical();
            let pulled = self.find_record(|record| record.digests.contains(&canonical));
            return pulled.or_else(|| self.by_digest(digest));
        }
        let canonical = name.canonical();
        self.find_record(|record| record.names.contains(&canonical))
    }

    fn find_record(&self, fits: impl Fn(&Record) -> bool) -> Option<Digest> {
        let mut images = self.images.iter();
        images
            .find(|(_, record)| fits(record))
            .map(|(digest, _)| *digest)
    }

    fn by_digest(&self, digest: Digest) -> Option<Digest> {
        if self.images.contains_key(&digest) {
            return Some(digest);
        }
        let index = format!("@{digest}");
        self.by_config(digest)
            .map(|(manifest, _)| manifest)
            .or_else(|| {
                self.find_record(|record| record.digests.iter().any(|d| d.ends_with(&index)))
            })
    }

    fn by_id(&self, id: &str) -> Result<Option<Digest>, ImageError> {
        let mut found = self
            .images
            .iter()
            .filter(|(_, record)| record.config.hex().starts_with(id));
        let first = found.next();
        if let Some((_, first)) = first
            && found.any(|(_, other)| other.config != first.config)
        {
            return Err(ImageError::AmbiguousId { id: id.into() });
        }
        Ok(first.map(|(digest, _)| *digest))
    }

    pub(super) fn list(&self) -> Vec<Listed> {
        let listed = |(digest, record): (&Digest, &Record)| Listed {
            id: record.config,
            digest: *digest,
            size: record.size,
            loaded: record.loaded,
            names: record.names(),
            digests: parse_all(&record.digests),
        };
        self.images.iter().map(listed).collect()
    }
}

fn parse_all(names: &BTreeSet<String>) -> Vec<Name> {
    names.iter().filter_map(|name| name.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(config: &str) -> Record {
        let config = Digest::of(config.as_bytes());
        Record {
            config,
            rootfs: config,
            size: 1,
            loaded: 2,
            names: BTreeSet::new(),
            digests: BTreeSet::new(),
            layers: Vec::new(),
        }
    }

    fn names(names: &[&str]) -> Vec<Name> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    fn table() -> (Table, Digest, Digest) {
        let mut table = Table {
            version: VERSION,
            images: BTreeMap::new(),
        };
        let [a, b] = ["a", "b"].map(|text| Digest::of(text.as_bytes()));
        table.insert(a, record("config a"), &names(&["busybox", "busybox:1"]));
        table.insert(b, record("config b"), &names(&["debian"]));
        (table, a, b)
    }

    fn find(table: &Table, text: &str) -> Option<Digest> {
        table.find(&text.parse().unwrap()).unwrap()
    }

    #[test]
    fn found_by_name_digest_and_start_of_id() {
        let (table, a, b) = table();
        assert_eq!(find(&table, "busybox:latest"), Some(a));
        assert_eq!(find(&table, "docker.io/library/debian"), Some(b));
        assert_eq!(find(&table, "busybox:2"), None);
        assert_eq!(find(&table, &a.to_string()), Some(a));
        assert_eq!(find(&table, &format!("busybox@{a}")), Some(a));
        let id = Digest::of(b"config b").hex();
        assert_eq!(find(&table, &id), Some(b));
        assert_eq!(find(&table, &id[..12]), Some(b));
    }

    #[test]
    fn a_name_moves_and_leaves_the_other_image_unnamed() {
        let (mut table, a, b) = table();
        table.insert(b, record("config b"), &names(&["busybox"]));
        assert_eq!(find(&table, "busybox"), Some(b));
        assert_eq!(find(&table, "busybox:1"), Some(a));
        assert!(table.has_names(b, &names(&["busybox", "debian"])));
        assert!(!table.has_names(a, &names(&["busybox"])));
    }

    #[test]
    fn json_and_back_but_not_from_the_future() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("images.json");
        assert!(Table::read(&path).unwrap().list().is_empty());
        let (table, a, _) = table();
        fs::write(&path, table.to_json().unwrap()).unwrap();
        assert_eq!(Table::read(&path).unwrap().get(a), table.get(a));
        fs::write(&path, r#"{"version": 2}"#).unwrap();
        assert!(matches!(
            Table::read(&path),
            Err(ImageError::NewerStore { .. })
        ));
        fs::write(&path, r#"{"version": 1, "imag"#).unwrap();
        assert!(matches!(Table::read(&path), Err(ImageError::Json { .. })));
    }
}
