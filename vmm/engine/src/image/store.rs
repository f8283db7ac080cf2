// SPDX-License-Identifier: Apache-2.0
//! Where images are kept.
//!
//! ```text
//! ROOT/images/
//!   images.json              names, and what belongs to what (see `table`)
//!   lock                     held while images.json changes
//!   blobs/sha256/HEX         manifests and configurations, byte for byte
//!   erofs/CHAIN_ID-V.erofs   one per file system, shared by all images that have it
//! ```
//!
//! Layers themselves are not kept: what runs needs them no more, and they would double the cost of
//! an image that came from an archive that is still there. `blobs/` is where a pull, which has no
//! archive to go back to, can put them; it is an OCI layout's, and a layer's file there would have
//! its name.
//!
//! Everything appears by rename, the table last: a load that is cut short at any point leaves at
//! most files that no image refers to, and temporary ones that the next [`Store::open`] removes. A
//! file in `erofs/` is only removed by who can lock it alone; each [`Image`] holds a shared lock.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use oci_spec::image::ImageConfiguration;

use super::digest::Digest;
use super::docker;
use super::error::ImageError;
use super::layers;
use super::manifest::{Document, Draft, check_platform, make_manifest, parse_config};
use super::oci;
use super::platform::Platform;
use super::progress::Progress;
use super::publish::{self, Pending};
use super::reference::{Name, Reference, Stored};
use super::source::Source;
use super::table::{Listed, Record, Table};

/// The images of one `--root`.
pub struct Store {
    dir: PathBuf,
}

/// An image that is ready to run; it stays in the store as long as this lives.
pub struct Image {
    /// Digest of the configuration: what Docker calls the image ID.
    pub id: Digest,
    /// Digest of the manifest.
    pub digest: Digest,
    pub config: ImageConfiguration,
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

impl Store {
    /// Makes the directories that are missing and removes what killed commands left.
    pub fn open(root: &Path) -> Result<Self, ImageError> {
        let store = Store {
            dir: root.join("images"),
        };
        for dir in [store.erofs_dir(), store.blobs_dir()] {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&dir)
                .map_err(failed("create", &dir))?;
        }
        for dir in [&store.dir, &store.erofs_dir(), &store.blobs_dir()] {
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
            Reference::Stored(stored) => self.stored(stored, platform),
            Reference::OciArchive { file, image } => {
                let source = Source::archive(file, &self.dir)?;
                self.out_of_layout(&source, image.as_deref(), platform, &shown, progress)
            }
            Reference::OciDir { dir, image } => {
                let source = Source::directory(dir)?;
                self.out_of_layout(&source, image.as_deref(), platform, &shown, progress)
            }
            Reference::DockerArchive { file, image } => {
                let source = Source::archive(file, &self.dir)?;
                let draft = docker::read(&source, image.as_deref(), platform, &shown)?;
                let known = Table::read(&self.table_path())?
                    .by_config(draft.config.digest)
                    .map(|(manifest, _)| manifest);
                match self.reuse(known, &draft.names, platform, &shown)? {
                    Some(image) => Ok(image),
                    None => self.load(&source, draft, platform, &shown, progress),
                }
            }
        }
    }

    pub fn list(&self) -> Result<Vec<Listed>, ImageError> {
        Ok(Table::read(&self.table_path())?.list())
    }

    fn stored(&self, wanted: &Stored, platform: &Platform) -> Result<Image, ImageError> {
        let shown = wanted.to_string();
        let not_found = || ImageError::NotFound(shown.clone());
        let digest = Table::read(&self.table_path())?
            .find(wanted)?
            .ok_or_else(not_found)?;
        self.open_image(digest, platform, &shown)?
            .ok_or_else(not_found)
    }

    fn out_of_layout(
        &self,
        source: &Source,
        image: Option<&str>,
        platform: &Platform,
        reference: &str,
        progress: &mut dyn Progress,
    ) -> Result<Image, ImageError> {
        let choice = oci::choose(source, image, platform)?;
        if let Some(image) =
            self.reuse(Some(choice.manifest), &choice.names, platform, reference)?
        {
            return Ok(image);
        }
        let draft = oci::read(source, choice, platform, reference)?;
        self.load(source, draft, platform, reference, progress)
    }

    /// The image with this manifest if it is complete, given these names.
    fn reuse(
        &self,
        manifest: Option<Digest>,
        names: &[Name],
        platform: &Platform,
        reference: &str,
    ) -> Result<Option<Image>, ImageError> {
        let Some(manifest) = manifest else {
            return Ok(None);
        };
        let Some(mut image) = self.open_image(manifest, platform, reference)? else {
            return Ok(None);
        };
        image.names = self.name(manifest, names)?;
        Ok(Some(image))
    }

    /// Puts an image into the store. The file system is built once, whoever else loads it.
    fn load(
        &self,
        source: &Source,
        draft: Draft,
        platform: &Platform,
        reference: &str,
        progress: &mut dyn Progress,
    ) -> Result<Image, ImageError> {
        let rootfs = draft.chain_id();
        let path = self.erofs_path(rootfs);
        let store = |action| failed(action, &path);
        let mut sizes = None;
        if let Some(pending) = Pending::new(&path).map_err(store("create"))? {
            let out = pending.file().map_err(store("create"))?;
            sizes = Some(layers::build(source, &draft, out, progress)?);
            pending.publish().map_err(store("write"))?;
        }
        // From here on the file can't go away until the table names it.
        let held = publish::open_shared(&path).map_err(store("open"))?;
        let held = held.ok_or_else(|| store("open")(io::ErrorKind::NotFound.into()))?;
        let size = 512 * held.metadata().map_err(store("look at"))?.blocks();
        let manifest = match draft.manifest {
            Some(manifest) => manifest,
            None => {
                let sizes = match sizes {
                    Some(sizes) => sizes,
                    None => layers::measure(source, &draft, progress)?,
                };
                make_manifest(&draft.config, &sizes)?
            }
        };
        self.write_blob(&draft.config)?;
        self.write_blob(&manifest)?;
        let record = Record {
            config: draft.config.digest,
            rootfs,
            size,
            loaded: now(),
            names: [].into(),
        };
        self.change(|table| table.insert(manifest.digest, record, &draft.names))?;
        self.open_image(manifest.digest, platform, reference)?
            .ok_or_else(|| ImageError::NotFound(reference.into()))
    }

    /// `None` where anything of it is missing: then it must be loaded again.
    fn open_image(
        &self,
        manifest: Digest,
        platform: &Platform,
        reference: &str,
    ) -> Result<Option<Image>, ImageError> {
        let table = Table::read(&self.table_path())?;
        let Some(record) = table.get(manifest) else {
            return Ok(None);
        };
        let erofs = self.erofs_path(record.rootfs);
        let Some(file) = publish::open_shared(&erofs).map_err(failed("open", &erofs))? else {
            return Ok(None);
        };
        let config_path = self.blob_path(record.config);
        let bytes = match fs::read(&config_path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            result => result.map_err(failed("read", &config_path))?,
        };
        let config = parse_config(&bytes, &format!("image configuration {}", record.config))?;
        check_platform(&config, platform, reference)?;
        let names = record
            .names
            .iter()
            .filter_map(|name| name.parse().ok())
            .collect();
        Ok(Some(Image {
            id: record.config,
            digest: manifest,
            config,
            erofs,
            names,
            file,
        }))
    }

    /// Gives an image names beside those it has; returns all of them.
    fn name(&self, manifest: Digest, names: &[Name]) -> Result<Vec<Name>, ImageError> {
        let mut table = Table::read(&self.table_path())?;
        if !table.has_names(manifest, names) {
            table = self.change(|table| {
                if let Some(record) = table.get(manifest).cloned() {
                    table.insert(manifest, record, names);
                }
            })?;
        }
        let record = table.get(manifest);
        let names = record.map(|record| record.names.iter().filter_map(|name| name.parse().ok()));
        Ok(names.map(Iterator::collect).unwrap_or_default())
    }

    /// Changes the table, one process at a time.
    fn change(&self, change: impl FnOnce(&mut Table)) -> Result<Table, ImageError> {
        let lock_path = self.dir.join("lock");
        let _lock = publish::lock_file(&lock_path).map_err(failed("lock", &lock_path))?;
        let path = self.table_path();
        let mut table = Table::read(&path)?;
        change(&mut table);
        publish::write(&path, &table.to_json()?).map_err(failed("write", &path))?;
        Ok(table)
    }

    fn write_blob(&self, blob: &Document) -> Result<(), ImageError> {
        let path = self.blob_path(blob.digest);
        if path.exists() {
            return Ok(());
        }
        publish::write(&path, &blob.bytes).map_err(failed("write", &path))
    }

    fn table_path(&self) -> PathBuf {
        self.dir.join("images.json")
    }

    fn erofs_dir(&self) -> PathBuf {
        self.dir.join("erofs")
    }

    fn blobs_dir(&self) -> PathBuf {
        self.dir.join("blobs/sha256")
    }

    fn blob_path(&self, digest: Digest) -> PathBuf {
        self.blobs_dir().join(digest.hex())
    }

    fn erofs_path(&self, rootfs: Digest) -> PathBuf {
        let version = walnut_erofs::FORMAT_VERSION;
        self.erofs_dir()
            .join(format!("{}-{version}.erofs", rootfs.hex()))
    }
}

fn failed<'a>(action: &'static str, path: &'a Path) -> impl Fn(io::Error) -> ImageError + 'a {
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
