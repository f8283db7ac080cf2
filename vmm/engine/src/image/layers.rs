// SPDX-License-Identifier: Apache-2.0
//! Streams layers from a source into an EROFS image, every digest checked on the way.
//!
//! blob → SHA-256 (digest) → decompress → SHA-256 (diff_id) → EROFS writer

use std::fs::File;
use std::io::{self, BufReader, Read};

use walnut_erofs::{Builder, LayerError, Limits};

use super::decompress::{Compression, Decoder};
use super::digest::{Digest, Hashing};
use super::error::ImageError;
use super::manifest::{Draft, LayerSpec};
use super::progress::Progress;
use super::source::{Blob, Source};

const BUFFER: usize = 64 << 10;

/// Writes the image of all of a draft's layers to `out`. Each layer's diff_id and uncompressed
/// size.
pub(super) fn build(
    source: &Source,
    draft: &Draft,
    out: File,
    progress: &mut dyn Progress,
) -> Result<Vec<(Digest, u64)>, ImageError> {
    let mut builder = Builder::new(out, Limits::default());
    let mut layers = Vec::new();
    for spec in &draft.layers {
        let size = read_layer(source, spec, progress, |tar| builder.add_layer(tar))?;
        layers.push((spec.diff_id, size));
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

/// The uncompressed sizes of layers whose image is there already, their digests checked as well.
pub(super) fn measure(
    source: &Source,
    draft: &Draft,
    progress: &mut dyn Progress,
) -> Result<Vec<(Digest, u64)>, ImageError> {
    let measure = |spec: &LayerSpec| {
        let size = read_layer(source, spec, progress, |_| Ok(()))?;
        Ok((spec.diff_id, size))
    };
    draft.layers.iter().map(measure).collect()
}

/// Hands a layer's tar stream to `apply`, then reads the rest and compares digests. A digest that
/// is wrong is reported before whatever `apply` met: it is the cause.
fn read_layer(
    source: &Source,
    spec: &LayerSpec,
    progress: &mut dyn Progress,
    apply: impl FnOnce(&mut dyn Read) -> Result<(), LayerError>,
) -> Result<u64, ImageError> {
    let layer = spec.digest.unwrap_or(spec.diff_id);
    let read = |source| ImageError::ReadLayer { layer, source };
    let blob = source.open(&spec.member)?;
    let (what, size) = (format!("layer {layer}"), blob.size());
    if let Some(expected) = spec.size.filter(|expected| *expected != size) {
        return Err(ImageError::SizeMismatch {
            what,
            expected,
            got: size,
        });
    }
    let mut head = [0; 6];
    let head_len = blob.peek(&mut head).map_err(read)?;
    let compression = Compression::detect(&head[..head_len]);
    progress.begin(&format!("Loading layer {}", &layer.hex()[..12]), size);
    let counted = Counted { blob, progress };
    let (applied, tar_end, blob_end) = match compression {
        Compression::Unsupported(name) => return Err(ImageError::Compression { layer, name }),
        Compression::None => {
            let mut tar = Hashing::new(counted);
            let applied = unless_disk(apply(&mut tar), layer)?;
            let end = tar.finish();
            let blob_end = end.as_ref().map(|(digest, _)| *digest).ok();
            (applied, end, blob_end)
        }
        compression => {
            let source = BufReader::with_capacity(BUFFER, Hashing::new(counted));
            let mut tar = Hashing::new(Decoder::new(compression, source));
            let applied = unless_disk(apply(&mut tar), layer)?;
            let end = tar.finish();
            // What the decoder left unread counts too.
            let (blob_end, _) = tar.get_mut().get_mut().get_mut().finish().map_err(read)?;
            (applied, end, Some(blob_end))
        }
    };
    if let (Some(expected), Some(got)) = (spec.digest, blob_end) {
        check(what, expected, got)?;
    }
    if let Ok((got, _)) = tar_end {
        check(format!("the content of layer {layer}"), spec.diff_id, got)?;
    }
    applied.map_err(|source| ImageError::Layer { layer, source })?;
    let (_, len) = tar_end.map_err(read)?;
    progress.end();
    Ok(len)
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
    blob: Blob,
    progress: &'a mut dyn Progress,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.blob.read(buffer)?;
        self.progress.advance(len as u64);
        Ok(len)
    }
}
