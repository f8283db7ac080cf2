// SPDX-License-Identifier: Apache-2.0
//! The whole way from layers to a finished image file.

use std::fs::File;
use std::io::{self, Read};

use crate::IMAGE_ALIGN;
use crate::extents::{Extent, Extents};
use crate::layer::{LayerError, LayerState};
use crate::layout::Layout;
use crate::ondisk::{BLOCK, BLOCK_LEN};
use crate::output::Output;
use crate::path;
use crate::tar::{Entry, Kind, Segment, TarError, TarReader};
use crate::tree::{Ino, Tree};

/// What a hostile layer may cost.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Length of the image's file data.
    pub image_bytes: u64,
    /// Memory for names and attributes, by estimate: about 200 bytes a file.
    pub metadata_bytes: u64,
}

impl Default for Limits {
    /// 256 GiB; 512 MiB, which is about two million files.
    fn default() -> Self {
        Limits {
            image_bytes: 256 << 30,
            metadata_bytes: 512 << 20,
        }
    }
}

/// What was built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Files, directories and all else, hard links counted once.
    pub inodes: u64,
    /// Bytes of the file system, without the padding to [`IMAGE_ALIGN`].
    pub used_bytes: u64,
    /// Length of the image file.
    pub image_bytes: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum FinishError {
    #[error("can't write the image")]
    Write(#[source] io::Error),
    #[error("the image needs more blocks than EROFS can number")]
    TooLarge,
}

/// Builds one image in one file. After an error the file holds nothing of use.
pub struct Builder {
    tree: Tree,
    output: Output,
    extents: Extents,
    layers: u32,
    limits: Limits,
}

impl Builder {
    /// `out` must be empty, writable and able to seek.
    pub fn new(out: File, limits: Limits) -> Self {
        let last_block = u32::try_from(limits.image_bytes / BLOCK).unwrap_or(u32::MAX);
        Builder {
            tree: Tree::new(),
            output: Output::new(out),
            extents: Extents::new(1, last_block),
            layers: 0,
            limits,
        }
    }

    /// Applies the next layer up, an uncompressed tar stream. Reads as far as the archive's end
    /// mark and no further than a buffer beyond it.
    pub fn add_layer(&mut self, tar: impl Read) -> Result<(), LayerError> {
        self.layers += 1;
        let mut layer = LayerState::new(self.layers);
        let mut tar = TarReader::new(tar);
        while let Some(entry) = tar.next_entry()? {
            let wants_data =
                layer
                    .apply(&mut self.tree, &entry)
                    .map_err(|source| LayerError::Entry {
                        path: path::display(&entry.path),
                        source,
                    })?;
            for extent in layer.released.drain(..) {
                self.extents.release(extent);
            }
            if self.tree.cost() > self.limits.metadata_bytes {
                return Err(LayerError::TooManyEntries(self.limits.metadata_bytes));
            }
            if let Some(ino) = wants_data {
                self.take_data(ino, &entry, &mut tar)?;
            }
        }
        Ok(())
    }

    /// Writes all metadata and gives the file back, its length a multiple of [`IMAGE_ALIGN`].
    /// `uuid` becomes the file system's. Nothing is synced.
    pub fn finish(self, uuid: [u8; 16]) -> Result<(File, Summary), FinishError> {
        let Builder {
            tree,
            mut output,
            extents,
            ..
        } = self;
        let (data_end, gaps) = extents.finish();
        for gap in gaps {
            output
                .punch(u64::from(gap.start) * BLOCK, u64::from(gap.blocks) * BLOCK)
                .map_err(FinishError::Write)?;
        }
        let layout = Layout::new(&tree, data_end).ok_or(FinishError::TooLarge)?;
        layout
            .write(&mut output, uuid)
            .map_err(FinishError::Write)?;
        let used_bytes = layout.len();
        let image_bytes = used_bytes.next_multiple_of(IMAGE_ALIGN);
        // Blocks beyond the end may hold data of files that are gone: cut, then stretch.
        output.set_len(used_bytes).map_err(FinishError::Write)?;
        let file = output.finish(image_bytes).map_err(FinishError::Write)?;
        Ok((
            file,
            Summary {
                inodes: tree.len() as u64,
                used_bytes,
                image_bytes,
            },
        ))
    }

    fn take_data(
        &mut self,
        ino: Ino,
        entry: &Entry,
        tar: &mut TarReader<impl Read>,
    ) -> Result<(), LayerError> {
        let Kind::File { size, map } = &entry.kind else {
            return Ok(());
        };
        let blocks = size.div_ceil(BLOCK);
        // What a sparse map leaves out must read as zeros: only new blocks do.
        let extent = match map {
            None => self.extents.allocate(blocks),
            Some(_) => self.extents.allocate_new(blocks),
        };
        let extent = extent.ok_or(LayerError::TooLarge(self.limits.image_bytes))?;
        self.tree.set_extent(ino, extent);
        let whole = [Segment {
            offset: 0,
            len: *size,
        }];
        for segment in map.as_deref().unwrap_or(&whole) {
            self.copy(extent, *segment, tar)?;
        }
        Ok(())
    }

    /// Copies one segment, and zeros up to the end of its last block: a mapping shows them.
    fn copy(
        &mut self,
        extent: Extent,
        segment: Segment,
        tar: &mut TarReader<impl Read>,
    ) -> Result<(), LayerError> {
        let mut at = u64::from(extent.start) * BLOCK + segment.offset;
        let mut left = segment.len;
        while left > 0 {
            let chunk = tar.data(left)?;
            let len = chunk.bytes().len() as u64;
            if len == 0 {
                return Err(TarError::Truncated("a file's data").into());
            }
            self.output
                .write_at(at, chunk.bytes())
                .map_err(LayerError::Write)?;
            at += len;
            left -= len;
        }
        let tail = usize::try_from(at.wrapping_neg() % BLOCK).unwrap_or(0);
        if tail > 0 {
            self.output
                .write_at(at, &[0; BLOCK_LEN][..tail])
                .map_err(LayerError::Write)?;
        }
        Ok(())
    }
}
