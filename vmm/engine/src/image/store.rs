// SPDX-License-Identifier: Apache-2.0
//! Where images are kept.
//!
//! ```text
//! ROOT/images/
//!   images.json              names, and what belongs to what (see `table`)
//!   lock                     held while images.json changes
//!   blobs/sha256/HEX         manifests, configurations and layers, byte for byte
//!   erofs/CHAIN_ID-V.erofs   one per file system, shared by all images that have it
//! ```
//!
//! What runs needs the EROFS image alone; `save` and `push` need the blobs, and so does a walnut
//! that writes EROFS images in another way.
//!
//! Everything appears by rename, the table last: a load that is cut short at any point leaves at
//! most files that no image refers to, which [`Store::collect`] removes, and temporary ones, which
//! the next [`Store::open`] removes. Whoever adds files holds a shared lock on `blobs/sha256`, and
//! `collect` one of its own. A file in `erofs/` is only removed by who can lock it alone; each
//! [`Image`] holds a shared lock.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use oci_spec::image::ImageConfiguration;
use serde::Deserialize;

use super::blobs::Blobs;
use super::digest::Digest;
use super::docker;
use super::error::ImageError;
use super::layers::{self, Layers};
use super::manifest::{Document, Draft, LayerSpec, check_platform, make_manifest, parse_config};
use super::oci;
use super::platform::Platform;
use super::progress::Progress;
use super::publish::{self, Pending};
use super::reference::{Name, Reference, Stored};
use super::source::{Source, blob_path};
use super::table::{Record, StoredLayer, Table};
use crate::container::Healthcheck;

/// The images of one `--root`.
pub struct Store {
    pub(super) dir: PathBuf,
    pub(super) blobs: Blobs,
}

/// While this is held, files that no image refers to yet are left alone.
pub(super) struct Busy(#[expect(dead_code, reason = "held for its lock")] File);

/// An image that is ready to run; it stays in the store as long as this lives.
pub struct Image {
    /// Digest of the configuration: what Docker calls the image ID.
    pub id: Digest,
    /// Digest of the manifest.
    pub digest: Digest,
    pub config: ImageConfiguration,
    /// Docker's addition to the configuration.
    pub health: Option<Healthcheck>,
    /// A read-only EROFS image, a multiple of 2 MiB long.
    pub erofs: PathBuf,
    pub names: Vec<Name>,
    file: File,
}

impl Image {
    /// `erofs`, open for reading. Its shared lock lasts as long as this descriptor or a copy of it
    /// is open in any process.
    pub fn file(&self) -> &File {
        &self.file
    }
}

/// What most images don't have is not looked for twice.
fn health_of(config: &[u8]) -> Option<Healthcheck> {
    #[derive(Deserialize)]
    struct Document {
        config: Inner,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Inner {
        healthcheck: Option<Healthcheck>,
    }
    const KEY: &[u8] = b"\"Healthcheck\"";
    if !config.windows(KEY.len()).any(|part| part == KEY) {
        return None;
    }
    let document: Document = serde_json::from_slice(config).ok()?;
    document.config.healthcheck
}

impl Store {
    /// Makes the directories that are missing and removes what killed commands left.
    pub fn open(root: &Path) -> Result<Self, ImageError> {
        let dir = root.join("images");
        let store = Store {
            blobs: Blobs::new(&dir),
            dir,
        };
        let erofs = store.erofs_dir();
        for dir in [&erofs, store.blobs.dir()] {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(dir)
                .map_err(failed("create", dir))?;
        }
        for dir in [&store.dir, &erofs, store.blobs.dir()] {
            publish::sweep(dir).map_err(failed("clean", dir))?;
        }
        Ok(store)
    }

    /// The image a user named: from the store, or out of an archive into the store.
    pub fn resolve(
        &self,
        reference: &Reference,
        platform: &Platform,
        progress: &mut dyn Progress,
    ) -> Result<Image, ImageError> {
        let shown = reference.to_string();
        match reference {
            Reference::Stored(stored) => self.stored(stored, platform, progress),
            Reference::OciArchive { file, image } => {
                let source = Source::archive(file, &self.dir)?;
                let choice = oci::choose(&source, image.as_deref(), platform)?;
                self.load_choice(&source, choice, platform, &shown, progress)
            }
            Reference::OciDir { dir, image } => {
                let source = Source::directory(dir)?;
                let choice = oci::choose(&source, image.as_deref(), platform)?;
                self.load_choice(&source, choice, platform, &shown, progress)
            }
            Reference::DockerArchive { file, image } => {
                let source = Source::archive(file, &self.dir)?;
                let draft = docker::read(&source, image.as_deref(), platform, &shown)?;
                self.load_draft(&source, draft, platform, &shown, progress)
            }
        }
    }

    fn stored(
        &self,
        wanted: &Stored,
        platform: &Platform,
        progress: &mut dyn Progress,
    ) -> Result<Image, ImageError> {
        let shown = wanted.to_string();
        let not_found = || ImageError::NotFound(shown.clone());
        let table = self.table()?;
        let digest = table.find(wanted)?.ok_or_else(not_found)?;
        if let Some(image) = self.open_image(&table, digest, platform, &shown)? {
            return Ok(image);
        }
        let draft = self.draft(&table, digest)?.ok_or_else(not_found)?;
        self.load(
            &Source::directory(&self.dir)?,
            draft,
            platform,
            &shown,
            progress,
        )
    }

    /// An image whose EROFS image is to be made again, if its blobs are all there.
    fn draft(&self, table: &Table, manifest: Digest) -> Result<Option<Draft>, ImageError> {
        let Some(record) = table.get(manifest) else {
            return Ok(None);
        };
        let document = |digest| -> Result<Option<Document>, ImageError> {
            let bytes = self.blobs.read(digest)?;
            Ok(bytes.map(|bytes| Document { digest, bytes }))
        };
        let (Some(manifest), Some(config)) = (document(manifest)?, document(record.config)?) else {
            return Ok(None);
        };
        if !record
            .layers
            .iter()
            .all(|layer| self.blobs.has(layer.digest))
        {
            return Ok(None);
        }
        let layers = record.layers.iter().map(|layer| LayerSpec {
            member: blob_path(layer.digest),
            digest: Some(layer.digest),
            size: Some(layer.size),
            diff_id: layer.diff_id,
        });
        let draft = Draft {
            manifest: Some(manifest),
            config,
            layers: layers.collect(),
            names: Vec::new(),
        };
        // Before there were layers in the table, there were none in `blobs/` either.
        Ok(Some(draft).filter(|draft| draft.chain_id() == record.rootfs))
    }

    /// The image with this manifest if it is complete, given these names.
    pub(super) fn reuse(
        &self,
        table: &Table,
        manifest: Digest,
        names: &[Name],
        platform: &Platform,
        reference: &str,
    ) -> Result<Option<Image>, ImageError> {
        let Some(mut image) = self.open_image(table, manifest, platform, reference)? else {
            return Ok(None);
        };
        if !table.has_names(manifest, names) {
            image.names = self.name(manifest, names)?;
        }
        Ok(Some(image))
    }

    /// Puts an image into the store, or leaves nothing there.
    pub(super) fn load(
        &self,
        source: &dyn Layers,
        draft: Draft,
        platform: &Platform,
        reference: &str,
        progress: &mut dyn Progress,
    ) -> Result<Image, ImageError> {
        let busy = self.busy()?;
        let loaded = self.add(&busy, source, &draft, &[], progress);
        drop(busy);
        let manifest = match loaded {
            Ok(manifest) => manifest,
            Err(error) => {
                if let Err(e) = self.collect(false) {
                    log::warn!("{e}");
                }
                return Err(error);
            }
        };
        self.open_image(&self.table()?, manifest, platform, reference)?
            .ok_or_else(|| ImageError::NotFound(reference.into()))
    }

    /// Everything of an image, the table last; its manifest. The file system is built once, whoever
    /// else loads it.
    pub(super) fn add(
        &self,
        _busy: &Busy,
        source: &dyn Layers,
        draft: &Draft,
        digests: &[Name],
        progress: &mut dyn Progress,
    ) -> Result<Digest, ImageError> {
        let rootfs = draft.chain_id();
        let path = self.erofs_path(rootfs);
        let store = |action| failed(action, &path);
        let (held, layers) = match Pending::new(&path).map_err(store("create"))? {
            Some(pending) => {
                let out = pending.file().map_err(store("create"))?;
                let layers = layers::build(source, draft, out, &self.blobs, progress)?;
                // Still locked: whoever waits for it finds the table written.
                (pending.publish().map_err(store("write"))?, Some(layers))
            }
            None => {
                let held = publish::open_shared(&path).map_err(store("open"))?;
                let held = held.ok_or_else(|| store("open")(io::ErrorKind::NotFound.into()))?;
                (held, None)
            }
        };
        let size = 512 * held.metadata().map_err(store("look at"))?.blocks();
        let layers = match layers {
            Some(layers) => layers,
            None => match self.known_layers(draft)? {
                Some(layers) => layers,
                None => layers::keep(source, draft, &self.blobs, progress)?,
            },
        };
        let made;
        let manifest = match &draft.manifest {
            Some(manifest) => manifest,
            None => {
                made = make_manifest(&draft.config, &layers)?;
                &made
            }
        };
        self.blobs.write(&draft.config)?;
        self.blobs.write(manifest)?;
        let record = Record {
            config: draft.config.digest,
            rootfs,
            size,
            loaded: now(),
            names: [].into(),
            digests: [].into(),
            layers,
        };
        self.change(|table| {
            table.insert(manifest.digest, record, &draft.names);
            table.add_digests(manifest.digest, digests);
            Ok(())
        })?;
        Ok(manifest.digest)
    }

    /// What is known of a draft's layers, if all of them are kept.
    fn known_layers(&self, draft: &Draft) -> Result<Option<Vec<StoredLayer>>, ImageError> {
        let table = self.table()?;
        let known = |spec: &LayerSpec| {
            let digest = spec.digest.filter(|digest| self.blobs.has(*digest))?;
            table.layer(digest, spec.diff_id).cloned()
        };
        Ok(draft.layers.iter().map(known).collect())
    }

    pub(super) fn busy(&self) -> Result<Busy, ImageError> {
        let dir = self.blobs.dir();
        let file = publish::share_dir(dir).map_err(failed("lock", dir))?;
        Ok(Busy(file))
    }

    /// `None` where anything of it is missing: then it must be loaded again.
    pub(super) fn open_image(
        &self,
        table: &Table,
        manifest: Digest,
        platform: &Platform,
        reference: &str,
    ) -> Result<Option<Image>, ImageError> {
        let Some(record) = table.get(manifest) else {
            return Ok(None);
        };
        let erofs = self.erofs_path(record.rootfs);
        let Some(file) = publish::open_shared(&erofs).map_err(failed("open", &erofs))? else {
            return Ok(None);
        };
        let Some(bytes) = self.blobs.read(record.config)? else {
            return Ok(None);
        };
        let config = parse_config(&bytes, &format!("image configuration {}", record.config))?;
        check_platform(&config, platform, reference)?;
        Ok(Some(Image {
            id: record.config,
            digest: manifest,
            config,
            health: health_of(&bytes),
            erofs,
            names: record.names(),
            file,
        }))
    }

    /// Gives an image names beside those it has; returns all of them.
    fn name(&self, manifest: Digest, names: &[Name]) -> Result<Vec<Name>, ImageError> {
        self.change(|table| {
            table.add_names(manifest, names);
            Ok(table.get(manifest).map(Record::names).unwrap_or_default())
        })
    }

    pub(super) fn table(&self) -> Result<Table, ImageError> {
        Table::read(&self.table_path())
    }

    /// Changes the table, one process at a time. What fails changes nothing.
    pub(super) fn change<T>(
        &self,
        change: impl FnOnce(&mut Table) -> Result<T, ImageError>,
    ) -> Result<T, ImageError> {
        let lock_path = self.dir.join("lock");
        let _lock = publish::lock_file(&lock_path).map_err(failed("lock", &lock_path))?;
        let path = self.table_path();
        let mut table = Table::read(&path)?;
        let result = change(&mut table)?;
        publish::write(&path, &table.to_json()?).map_err(failed("write", &path))?;
        Ok(result)
    }

    pub(super) fn table_path(&self) -> PathBuf {
        self.dir.join("images.json")
    }

    pub(super) fn erofs_dir(&self) -> PathBuf {
        self.dir.join("erofs")
    }

    pub(super) fn erofs_path(&self, rootfs: Digest) -> PathBuf {
        let version = walnut_erofs::FORMAT_VERSION;
        self.erofs_dir()
            .join(format!("{}-{version}.erofs", rootfs.hex()))
    }
}

pub(super) fn failed<'a>(
    action: &'static str,
    path: &'a Path,
) -> impl Fn(io::Error) -> ImageError + 'a {
    move |source| ImageError::Store {
        action,
        path: path.into(),
        source,
    }
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests;
