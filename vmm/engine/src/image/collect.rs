// SPDX-License-Identifier: Apache-2.0
//! Removes what no image refers to: blobs and EROFS images.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::digest::Digest;
use super::error::ImageError;
use super::publish;
use super::store::{Store, failed};
use super::table::Record;

/// What a blob that was only half fetched is called behind its digest.
pub(super) const PARTIAL: &str = ".part";

impl Store {
    /// Bytes of disk that were freed. Nothing happens while anybody adds an image: the next one who
    /// removes something comes by here again. `partial` takes half-fetched blobs, too.
    pub fn collect(&self, partial: bool) -> Result<u64, ImageError> {
        let dir = self.blobs.dir();
        let Some(_alone) = publish::try_alone(dir).map_err(failed("lock", dir))? else {
            return Ok(0);
        };
        // Names may still change, but no image can come.
        let table = self.table()?;
        let blobs: BTreeSet<String> = table.iter().flat_map(blobs_of).map(|d| d.hex()).collect();
        let rootfs: BTreeSet<String> = table
            .iter()
            .filter_map(|(_, record)| file_name(&self.erofs_path(record.rootfs)))
            .collect();
        let is_garbage = |name: &str| match name.strip_suffix(PARTIAL) {
            Some(_) => partial,
            None => Digest::from_hex(name).is_some() && !blobs.contains(name),
        };
        let mut freed = remove_where(dir, is_garbage).map_err(failed("clean", dir))?;
        let dir = &self.erofs_dir();
        let is_garbage = |name: &str| name.ends_with(".erofs") && !rootfs.contains(name);
        freed += remove_where(dir, is_garbage).map_err(failed("clean", dir))?;
        Ok(freed)
    }
}

impl Store {
    /// Bytes of disk that some images take together.
    pub fn disk_usage(&self, counts: impl Fn(Digest) -> bool) -> Result<u64, ImageError> {
        let table = self.table()?;
        let mut paths = BTreeSet::new();
        for (manifest, record) in table.iter().filter(|(manifest, _)| counts(*manifest)) {
            paths.insert(self.erofs_path(record.rootfs));
            paths.extend(blobs_of((manifest, record)).map(|blob| self.blobs.path(blob)));
        }
        let mut bytes = 0;
        for path in paths {
            match fs::metadata(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                metadata => bytes += 512 * metadata.map_err(failed("look at", &path))?.blocks(),
            }
        }
        Ok(bytes)
    }
}

fn blobs_of((manifest, record): (Digest, &Record)) -> impl Iterator<Item = Digest> {
    let layers = record.layers.iter().map(|layer| layer.digest);
    [manifest, record.config].into_iter().chain(layers)
}

fn file_name(path: &Path) -> Option<String> {
    Some(path.file_name()?.to_str()?.to_owned())
}

/// A file that somebody has locked stays.
fn remove_where(dir: &Path, fits: impl Fn(&str) -> bool) -> io::Result<u64> {
    let mut freed = 0;
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let Some(name) = file_name(&path).filter(|name| fits(name)) else {
            continue;
        };
        match publish::try_alone(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
            Ok(None) => log::info!("{name} is in use, and stays"),
            Ok(Some(file)) => {
                let bytes = 512 * file.metadata()?.blocks();
                fs::remove_file(&path)?;
                freed += bytes;
            }
        }
    }
    Ok(freed)
}
