// SPDX-License-Identifier: Apache-2.0
//! Streams layers into an EROFS image and into the store, every digest checked on the way.
//!
//! ```text
//! blob ─▶ kept as it came ─▶ SHA-256 (digest) ─▶ decompress ─▶ SHA-256 (diff_id) ─▶ EROFS writer
//! ```

use std::fs::File;
use std::io::{self, BufReader, Cursor, Read};

use walnut_erofs::{Builder, LayerError, Limits};

use super::blobs::{Blobs, Keep};
use super::decompress::{Compression, Decoder};
use super::digest::{Digest, Hashing};
use super::error::ImageError;
use super::manifest::{Draft, LayerSpec};
use super::progress::Progress;
use super::table::StoredLayer;

const BUFFER: usize = 64 << 10;

/// Where the layers of an image come from.
pub(super) trait Layers {
    /// # Errors
    /// The layer is not there, or not as long as it should be.
    fn open(&self, layer: &LayerSpec) -> Result<Stream<'_>, ImageError>;
}

/// A layer's bytes as they came.
pub(super) struct Stream<'a> {
    pub reader: Box<dyn Read + 'a>,
    pub size: u64,
    /// Somebody else compares the digest and keeps the blob; reading fails where it is wrong.
    pub checked: bool,
}

/// Writes the image of all of a draft's layers to `out`, and each layer that is not there yet to
/// `blobs`.
pub(super) fn build(
    source: &dyn Layers,
    draft: &Draft,
    out: File,
    blobs: &Blobs,
    progress: &mut dyn Progress,
) -> Result<Vec<StoredLayer>, ImageError> {
    let mut builder = Builder::new(out, Limits::default());
    let mut layers = Vec::new();
    for spec in &draft.layers {
        let layer = read_layer(source, spec, blobs, progress, |tar| builder.add_layer(tar))?;
        layers.push(layer);
    }
    let image = || draft.config.digest.to_string();
    builder
        .finish(draft.chain_id().first_16())
        .map_err(|source| ImageError::Finish {
            image: image(),
            source,
        })?;
    Ok(layers)
}

/// The same for layers whose image is there already.
pub(super) fn keep(
    source: &dyn Layers,
    draft: &Draft,
    blobs: &Blobs,
    progress: &mut dyn Progress,
) -> Result<Vec<StoredLayer>, ImageError> {
    let keep = |spec: &LayerSpec| read_layer(source, spec, blobs, progress, |_| Ok(()));
    draft.layers.iter().map(keep).collect()
}

/// Hands a layer's tar stream to `apply`, then reads the rest and compares digests. A digest that
/// is wrong is reported before whatever `apply` met: it is the cause.
fn read_layer(
    source: &dyn Layers,
    spec: &LayerSpec,
    blobs: &Blobs,
    progress: &mut dyn Progress,
    apply: impl FnOnce(&mut dyn Read) -> Result<(), LayerError>,
) -> Result<StoredLayer, ImageError> {
    let Opened {
        reader,
        layer,
        size,
        compression,
        checked,
    } = open(source, spec)?;
    let read = |source| ImageError::ReadLayer { layer, source };
    let mut keep = match checked {
        true => None,
        false => blobs.keep(layer)?,
    };
    progress.begin(&format!("Loading layer {}", &layer.hex()[..12]), size);
    let counted = Counted {
        reader,
        progress,
        keep: keep.as_mut(),
    };
    let (applied, tar_end, blob_end) = match compression {
        Compression::None => {
            let mut tar = Hashing::new(counted);
            let applied = unless_disk(apply(&mut tar), layer)?;
            let end = tar.finish();
            let blob_end = end.as_ref().map(|(digest, _)| *digest).ok();
            (applied, end, blob_end)
        }
        compression if checked => {
            let mut counted = counted;
            let source = BufReader::with_capacity(BUFFER, &mut counted);
            let mut tar = Hashing::new(Decoder::new(compression, source));
            let applied = unless_disk(apply(&mut tar), layer)?;
            let end = tar.finish();
            drop(tar);
            io::copy(&mut counted, &mut io::sink()).map_err(read)?;
            (applied, end, None)
        }
        compression => {
            let source = BufReader::with_capacity(BUFFER, Hashing::new(counted));
            let mut tar = Hashing::new(Decoder::new(compression, source));
            let applied = unless_disk(apply(&mut tar), layer)?;
            let end = tar.finish();
            // What the decoder left unread counts too.
            let blob_end = tar.get_mut().get_mut().get_mut().finish();
            (applied, end, Some(blob_end.map_err(read)?.0))
        }
    };
    if let Some(keep) = &mut keep {
        keep.check()?;
    }
    if let Some(got) = blob_end {
        check(format!("layer {layer}"), layer, got)?;
    }
    if let Ok((got, _)) = tar_end {
        check(format!("the content of layer {layer}"), spec.diff_id, got)?;
    }
    applied.map_err(|source| ImageError::Layer { layer, source })?;
    let (_, unpacked) = tar_end.map_err(read)?;
    keep.map_or(Ok(()), Keep::publish)?;
    progress.end();
    Ok(StoredLayer {
        digest: layer,
        size,
        media_type: compression.media_type().into(),
        diff_id: spec.diff_id,
        unpacked,
    })
}

/// A layer, with its first bytes looked at and its digest known.
struct Opened<'a> {
    reader: Box<dyn Read + 'a>,
    /// Of the bytes as they come.
    layer: Digest,
    size: u64,
    compression: Compression,
    checked: bool,
}

fn open<'a>(source: &'a dyn Layers, spec: &LayerSpec) -> Result<Opened<'a>, ImageError> {
    let named = spec.named();
    let read = |source| ImageError::ReadLayer {
        layer: named,
        source,
    };
    let mut stream = source.open(spec)?;
    if let Some(expected) = spec.size.filter(|expected| *expected != stream.size) {
        return Err(ImageError::SizeMismatch {
            what: format!("layer {named}"),
            expected,
            got: stream.size,
        });
    }
    let mut head = Vec::new();
    let mut start = (&mut stream.reader).take(6);
    start.read_to_end(&mut head).map_err(read)?;
    let compression = Compression::detect(&head);
    let layer = match (spec.digest, compression) {
        (_, Compression::Unsupported(name)) => {
            return Err(ImageError::Compression { layer: named, name });
        }
        (Some(digest), _) => digest,
        (None, Compression::None) => spec.diff_id,
        // Nothing says what a compressed layer of a docker-archive must be: it is what it is.
        (None, _) => {
            Hashing::new(source.open(spec)?.reader)
                .finish()
                .map_err(read)?
                .0
        }
    };
    Ok(Opened {
        reader: Box::new(Cursor::new(head).chain(stream.reader)),
        layer,
        size: stream.size,
        compression,
        checked: stream.checked,
    })
}

/// A full disk is no reason to read on.
fn unless_disk(
    applied: Result<(), LayerError>,
    layer: Digest,
) -> Result<Result<(), LayerError>, ImageError> {
    match applied {
        Err(source @ LayerError::Write(_)) => Err(ImageError::Layer { layer, source }),
        applied => Ok(applied),
    }
}

fn check(what: String, expected: Digest, got: Digest) -> Result<(), ImageError> {
    if expected == got {
        return Ok(());
    }
    Err(ImageError::DigestMismatch {
        what,
        expected,
        got,
    })
}

struct Counted<'a> {
    reader: Box<dyn Read + 'a>,
    progress: &'a mut dyn Progress,
    keep: Option<&'a mut Keep>,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.reader.read(buffer)?;
        if let Some(keep) = &mut self.keep {
            keep.write(&buffer[..len])?;
        }
        self.progress.advance(len as u64);
        Ok(len)
    }
}
