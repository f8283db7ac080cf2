// SPDX-License-Identifier: Apache-2.0
//! Images made here: the layers of another one, or none, and one more. For `import` and `commit`.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::decompress::{Compression, Decoder};
use super::digest::{Digest, Hashing};
use super::error::ImageError;
use super::layers::{Layers, Stream};
use super::manifest::{Document, Draft, LayerSpec};
use super::progress::Progress;
use super::reference::Name;
use super::source::{Blob, blob_path, unnamed_file};
use super::store::Store;
use super::table::StoredLayer;

/// The uppermost layer of a new image.
#[derive(Debug)]
pub struct NewLayer {
    /// What it is called in messages.
    pub path: PathBuf,
    /// A tar archive, compressed or not; a pipe, too.
    pub file: File,
    /// Its entry in the image's history (OCI image-spec, config.md).
    pub history: Value,
}

/// The new layer from its file, those below it from the store.
struct OnTop<'a> {
    store: &'a Store,
    layer: File,
    digest: Digest,
    size: u64,
}

impl Layers for OnTop<'_> {
    fn open(&self, spec: &LayerSpec) -> Result<Stream<'_>, ImageError> {
        let read = |source| ImageError::ReadLayer {
            layer: spec.diff_id,
            source,
        };
        if spec.digest == Some(self.digest) {
            let file = self.layer.try_clone().map_err(read)?;
            return Ok(Stream {
                reader: Box::new(Blob::new(file, 0, self.size)),
                size: self.size,
                checked: false,
            });
        }
        let kept = spec.digest.map(|digest| self.store.blobs.open(digest));
        let file = kept.transpose()?.flatten();
        let file = file.ok_or_else(|| read(io::ErrorKind::NotFound.into()))?;
        let size = file.metadata().map_err(read)?.len();
        Ok(Stream {
            reader: Box::new(Blob::new(file, 0, size)),
            size,
            checked: false,
        })
    }
}

impl Store {
    /// An image's configuration, byte for byte.
    pub fn configuration(&self, id: Digest) -> Result<Vec<u8>, ImageError> {
        let bytes = self.blobs.read(id)?;
        bytes.ok_or_else(|| ImageError::NotFound(id.to_string()))
    }

    /// Makes an image of `base`'s layers (its manifest) and one more. `config` becomes its
    /// configuration: its `rootfs` is replaced, its history is added to. Returns the image's ID.
    pub fn create(
        &self,
        base: Option<Digest>,
        mut config: Value,
        layer: NewLayer,
        names: &[Name],
        progress: &mut dyn Progress,
    ) -> Result<Digest, ImageError> {
        let below = self.layers_of(base)?;
        let file = self.seekable(&layer.path, layer.file)?;
        let (digest, diff_id, size) = look(&layer.path, &file)?;
        let mut specs: Vec<LayerSpec> = below.iter().map(spec_of).collect();
        specs.push(LayerSpec {
            member: blob_path(digest),
            digest: Some(digest),
            size: Some(size),
            diff_id,
        });
        let diff_ids: Vec<Digest> = specs.iter().map(|spec| spec.diff_id).collect();
        config["rootfs"] = json!({"type": "layers", "diff_ids": diff_ids});
        match &mut config["history"] {
            Value::Array(history) => history.push(layer.history),
            other => *other = json!([layer.history]),
        }
        let bytes = serde_json::to_vec(&config).map_err(|source| ImageError::Json {
            what: "the new configuration".into(),
            source,
        })?;
        let draft = Draft {
            manifest: None,
            config: Document {
                digest: Digest::of(&bytes),
                bytes,
            },
            layers: specs,
            names: names.to_vec(),
        };
        let source = OnTop {
            store: self,
            layer: file,
            digest,
            size,
        };
        let busy = self.busy()?;
        let added = self.add(&busy, &source, &draft, &[], progress);
        drop(busy);
        if added.is_err()
            && let Err(e) = self.collect(false)
        {
            log::warn!("{e}");
        }
        added?;
        Ok(draft.config.digest)
    }

    fn layers_of(&self, base: Option<Digest>) -> Result<Vec<StoredLayer>, ImageError> {
        let Some(manifest) = base else {
            return Ok(Vec::new());
        };
        let table = self.table()?;
        let not_found = || ImageError::NotFound(manifest.to_string());
        let record = table.get(manifest).ok_or_else(not_found)?;
        let image = super::reference::Stored::Digest(manifest);
        self.check_kept(&image, manifest, record)?;
        Ok(record.layers.clone())
    }

    /// The file itself, or a copy without a name of what a pipe gives.
    fn seekable(&self, path: &Path, mut file: File) -> Result<File, ImageError> {
        let read = |source| ImageError::Open {
            path: path.into(),
            source,
        };
        if file.metadata().map_err(read)?.is_file() {
            return Ok(file);
        }
        log::debug!("descriptor {} can't be read twice", file.as_raw_fd());
        let mut copy = unnamed_file(&self.dir)?;
        io::copy(&mut file, &mut copy).map_err(read)?;
        Ok(copy)
    }
}

fn spec_of(layer: &StoredLayer) -> LayerSpec {
    LayerSpec {
        member: blob_path(layer.digest),
        digest: Some(layer.digest),
        size: Some(layer.size),
        diff_id: layer.diff_id,
    }
}

/// Digest, diff_id and size of a layer.
fn look(path: &Path, file: &File) -> Result<(Digest, Digest, u64), ImageError> {
    let failed = |source| ImageError::Read {
        path: path.into(),
        source,
    };
    let mut start = file.try_clone().map_err(failed)?;
    start.seek(SeekFrom::Start(0)).map_err(failed)?;
    let mut head = Vec::new();
    (&mut start)
        .take(6)
        .read_to_end(&mut head)
        .map_err(failed)?;
    start.seek(SeekFrom::Start(0)).map_err(failed)?;
    let compression = Compression::detect(&head);
    if let Compression::Unsupported(name) = compression {
        let reason = format!("it is compressed with {name}; gzip and zstd are supported");
        return Err(failed(io::Error::other(reason)));
    }
    let packed = io::BufReader::with_capacity(64 << 10, Hashing::new(start));
    let mut tar = Hashing::new(Decoder::new(compression, packed));
    let (diff_id, _) = tar.finish().map_err(failed)?;
    let packed = tar.get_mut().get_mut().get_mut();
    let (digest, size) = packed.finish().map_err(failed)?;
    Ok((digest, diff_id, size))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::platform::Platform;
    use crate::image::progress::Quiet;
    use crate::image::testing::{Layer, small, to_tar};

    #[test]
    fn a_layer_on_top_of_an_image_and_one_alone() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let archive = dir.path().join("a.tar");
        std::fs::write(&archive, to_tar(&small().layout())).unwrap();
        let file = File::open(&archive).unwrap();
        let guest = Platform::guest();
        store.load_all(&archive, file, &guest, &mut Quiet).unwrap();
        let base = store.look_up(&"test".parse().unwrap()).unwrap();
        let tar = dir.path().join("layer.tar.gz");
        std::fs::write(&tar, Layer::of(&[("more", b"3")]).gzip().blob()).unwrap();
        let layer = || NewLayer {
            path: tar.clone(),
            file: File::open(&tar).unwrap(),
            history: json!({"comment": "more"}),
        };
        let config: Value = serde_json::from_slice(&store.configuration(base.id).unwrap()).unwrap();
        let names = ["new:1".parse().unwrap()];
        let id = store
            .create(Some(base.digest), config, layer(), &names, &mut Quiet)
            .unwrap();
        let image = store
            .resolve(&"new:1".parse().unwrap(), &guest, &mut Quiet)
            .unwrap();
        assert_eq!(image.id, id);
        assert_eq!(image.config.rootfs().diff_ids().len(), 3);
        assert_eq!(
            image
                .config
                .config()
                .as_ref()
                .unwrap()
                .cmd()
                .clone()
                .unwrap(),
            ["sh"]
        );
        let config = json!({"architecture": "amd64", "os": "linux"});
        let alone = store
            .create(None, config, layer(), &[], &mut Quiet)
            .unwrap();
        let facts = store.configuration(alone).unwrap();
        assert!(
            String::from_utf8(facts)
                .unwrap()
                .contains("\"comment\":\"more\"")
        );
        let kept = |id: Digest| store.look_up(&id.to_string().parse().unwrap()).unwrap();
        store
            .save(
                &[format!("{}", kept(alone).id).parse().unwrap()],
                io::sink(),
            )
            .unwrap();
    }
}
