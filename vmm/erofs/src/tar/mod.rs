// SPDX-License-Identifier: Apache-2.0
//! A tar stream as a sequence of typed entries (POSIX pax, ustar, GNU; the tar(5) man page).
//!
//! Own code rather than a crate's, since a layer is hostile and the `tar` crate reads extension
//! records without bound, splits them at newlines (a binary xattr holds newlines), knows no
//! negative times and no pax sparse maps.

mod header;
mod pax;
mod sparse;

use std::io::{self, BufRead, BufReader, Read, Seek};

use header::Header;
use pax::Pax;
pub use sparse::Segment;
use sparse::SparseLayout;

const BLOCK: usize = 512;

/// Most bytes of one extension record (long name, pax header, sparse map).
const MAX_EXTENSION: u64 = 1 << 20;

const BUFFER: usize = 128 << 10;

#[derive(Debug, thiserror::Error)]
pub enum TarError {
    #[error("can't read the tar stream")]
    Read(#[source] io::Error),
    #[error("the tar stream ends in the middle of {0}")]
    Truncated(&'static str),
    #[error("not a tar header at byte {offset}: {reason}")]
    Header { offset: u64, reason: &'static str },
    #[error("tar extension header at byte {offset}: {reason}")]
    Extension { offset: u64, reason: &'static str },
    #[error("tar entry type {kind:?} at byte {offset} is not known")]
    Type { offset: u64, kind: char },
}

/// Seconds since the epoch, and nanoseconds after them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Timestamp {
    pub secs: i64,
    pub nanos: u32,
}

/// What an entry is. Device numbers, targets and sizes are as the header has them, unchecked.
#[derive(Debug, PartialEq, Eq)]
pub enum Kind {
    /// `map` is what of `size` bytes the stream holds, in order; `None`: all.
    File {
        size: u64,
        map: Option<Vec<Segment>>,
    },
    HardLink(Vec<u8>),
    Symlink(Vec<u8>),
    Char {
        major: u32,
        minor: u32,
    },
    Block {
        major: u32,
        minor: u32,
    },
    Dir,
    Fifo,
}

/// One member. `path` is as the archive has it: absolute, with `..`, or empty.
#[derive(Debug, PartialEq, Eq)]
pub struct Entry {
    pub path: Vec<u8>,
    pub kind: Kind,
    /// Permissions, set-id and sticky bits only.
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub mtime: Timestamp,
    /// Full names, as in `security.capability`.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Reads entries front to back; memory is bounded whatever the stream holds.
pub struct TarReader<R> {
    inner: BufReader<R>,
    /// Bytes consumed so far, for messages.
    offset: u64,
    /// Of the current entry.
    data_left: u64,
    padding: u64,
    ended: bool,
    end_mark: bool,
}

/// Extension records that apply to the entry that follows them.
#[derive(Default)]
struct Extensions {
    pax: Pax,
    gnu_path: Option<Vec<u8>>,
    gnu_link: Option<Vec<u8>>,
}

impl<R: Read> TarReader<R> {
    pub fn new(inner: R) -> Self {
        TarReader {
            inner: BufReader::with_capacity(BUFFER, inner),
            offset: 0,
            data_left: 0,
            padding: 0,
            ended: false,
            end_mark: false,
        }
    }

    /// The next entry, or `None` at the end of the archive. Skips what was left of the last one.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, TarError> {
        let mut extensions = Extensions::default();
        let mut extended = false;
        loop {
            self.skip_data()?;
            let at = self.offset;
            let Some(block) = self.header_block()? else {
                if extended {
                    return Err(TarError::Truncated("an extended header"));
                }
                return Ok(None);
            };
            let header =
                Header::parse(&block).map_err(|reason| TarError::Header { offset: at, reason })?;
            let extension = |reason| TarError::Extension { offset: at, reason };
            match header.kind {
                b'x' => {
                    let record = self.extension(&header, at)?;
                    extensions.pax = Pax::parse(&record).map_err(extension)?;
                }
                // Docker ignores global headers too: git archive puts a comment there.
                b'g' => drop(self.extension(&header, at)?),
                b'L' => extensions.gnu_path = Some(until_nul(self.extension(&header, at)?)),
                b'K' => extensions.gnu_link = Some(until_nul(self.extension(&header, at)?)),
                // A GNU volume label names no file.
                b'V' => self.set_data(header.size),
                _ => return self.entry(&block, header, extensions, at).map(Some),
            }
            extended = header_extends(header.kind);
        }
    }

    /// The next chunk of the current entry's bytes in the stream; empty at their end.
    pub fn data(&mut self, most: u64) -> Result<Chunk<'_, R>, TarError> {
        let want = self.data_left.min(most);
        if want == 0 {
            return Ok(Chunk {
                reader: self,
                len: 0,
            });
        }
        let have = self.inner.fill_buf().map_err(TarError::Read)?.len();
        if have == 0 {
            return Err(TarError::Truncated("a file's data"));
        }
        let len = usize::try_from(want).map_or(have, |want| want.min(have));
        Ok(Chunk { reader: self, len })
    }

    /// Whether the archive said that it is complete. Not all writers do.
    pub fn has_end_mark(&self) -> bool {
        self.end_mark
    }

    /// Where in the stream the next byte that was not yet handed out stands; after
    /// [`Self::next_entry`], the entry's data.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    fn entry(
        &mut self,
        block: &[u8; BLOCK],
        header: Header,
        extensions: Extensions,
        at: u64,
    ) -> Result<Entry, TarError> {
        let Extensions {
            pax,
            gnu_path,
            gnu_link,
        } = extensions;
        let extension = |reason| TarError::Extension { offset: at, reason };
        let size = pax.size.unwrap_or(header.size);
        let path = pax
            .sparse
            .name
            .clone()
            .or(pax.path)
            .or(gnu_path)
            .unwrap_or(header.path);
        let link = pax.link.or(gnu_link).unwrap_or(header.link);
        let (major, minor) = (header.major, header.minor);
        let kind = match header.kind {
            0 | b'0' | b'7' if path.ends_with(b"/") => Kind::Dir,
            0 | b'0' | b'7' => {
                self.set_data(size);
                match pax.sparse.layout().map_err(extension)? {
                    SparseLayout::Whole => Kind::File { size, map: None },
                    SparseLayout::Map { size, map } => self.sparse_file(size, map, at)?,
                    SparseLayout::MapBeforeData { size } => {
                        let map = self.leading_sparse_map(at)?;
                        self.sparse_file(size, map, at)?
                    }
                }
            }
            b'S' => {
                let (size_expanded, map) = self.gnu_sparse_map(block, at)?;
                self.set_data(size);
                self.sparse_file(size_expanded, map, at)?
            }
            // Nothing but files has data, whatever the size field says: old writers put the
            // target's size there.
            b'1' => Kind::HardLink(link),
            b'2' => Kind::Symlink(link),
            b'3' => Kind::Char { major, minor },
            b'4' => Kind::Block { major, minor },
            b'5' => Kind::Dir,
            b'6' => Kind::Fifo,
            other => {
                return Err(TarError::Type {
                    offset: at,
                    kind: char::from(other),
                });
            }
        };
        Ok(Entry {
            path,
            kind,
            mode: header.mode,
            uid: pax.uid.unwrap_or(header.uid),
            gid: pax.gid.unwrap_or(header.gid),
            mtime: pax.mtime.unwrap_or(header.mtime),
            xattrs: pax.xattrs.into_iter().collect(),
        })
    }

    fn sparse_file(&self, size: u64, map: Vec<Segment>, at: u64) -> Result<Kind, TarError> {
        sparse::check(&map, size, self.data_left)
            .map_err(|reason| TarError::Extension { offset: at, reason })?;
        Ok(Kind::File {
            size,
            map: Some(map),
        })
    }

    /// GNU sparse format 1.0: the map stands in front of the data, in decimal lines, padded to a
    /// block.
    fn leading_sparse_map(&mut self, at: u64) -> Result<Vec<Segment>, TarError> {
        let mut map = sparse::MapReader::default();
        let mut block = [0; BLOCK];
        while !map.is_complete() {
            if self.data_left < BLOCK as u64 {
                return Err(TarError::Truncated("a sparse map"));
            }
            self.read_exact(&mut block, "a sparse map")?;
            self.data_left -= BLOCK as u64;
            map.feed(&block)
                .map_err(|reason| TarError::Extension { offset: at, reason })?;
        }
        Ok(map.into_segments())
    }

    /// Old GNU format: four segments in the header, further ones in blocks behind it.
    fn gnu_sparse_map(
        &mut self,
        block: &[u8; BLOCK],
        at: u64,
    ) -> Result<(u64, Vec<Segment>), TarError> {
        let extension = |reason| TarError::Extension { offset: at, reason };
        let (size, mut map, mut more) = sparse::gnu_header(block).map_err(extension)?;
        let mut block = [0; BLOCK];
        while more {
            self.read_exact(&mut block, "a sparse map")?;
            more = sparse::gnu_continuation(&block, &mut map).map_err(extension)?;
        }
        Ok((size, map))
    }

    fn extension(&mut self, header: &Header, at: u64) -> Result<Vec<u8>, TarError> {
        if header.size > MAX_EXTENSION {
            return Err(TarError::Extension {
                offset: at,
                reason: "it is larger than 1 MiB",
            });
        }
        self.set_data(header.size);
        let mut record = Vec::new();
        loop {
            let chunk = self.data(MAX_EXTENSION)?;
            if chunk.bytes().is_empty() {
                return Ok(record);
            }
            record.extend_from_slice(chunk.bytes());
        }
    }

    fn set_data(&mut self, size: u64) {
        self.data_left = size;
        self.padding = size.wrapping_neg() % BLOCK as u64;
    }

    fn skip_data(&mut self) -> Result<(), TarError> {
        while !self.data(u64::MAX)?.bytes().is_empty() {}
        // The last entry's padding may be missing; GNU tar doesn't mind either.
        self.data_left = std::mem::take(&mut self.padding);
        while self.data_left > 0 && !self.inner.fill_buf().map_err(TarError::Read)?.is_empty() {
            drop(self.data(u64::MAX)?);
        }
        self.data_left = 0;
        Ok(())
    }

    /// `None` at the end: two zero blocks, or nothing more.
    fn header_block(&mut self) -> Result<Option<[u8; BLOCK]>, TarError> {
        let mut block = [0; BLOCK];
        if self.ended || self.inner.fill_buf().map_err(TarError::Read)?.is_empty() {
            self.ended = true;
            return Ok(None);
        }
        self.read_exact(&mut block, "a header")?;
        if block != [0; BLOCK] {
            return Ok(Some(block));
        }
        self.ended = true;
        self.end_mark = true;
        if !self.inner.fill_buf().map_err(TarError::Read)?.is_empty() {
            let offset = self.offset;
            self.read_exact(&mut block, "the end mark")?;
            if block != [0; BLOCK] {
                return Err(TarError::Header {
                    offset,
                    reason: "it follows a lone zero block",
                });
            }
        }
        Ok(None)
    }

    fn read_exact(&mut self, into: &mut [u8], what: &'static str) -> Result<(), TarError> {
        self.inner
            .read_exact(into)
            .map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => TarError::Truncated(what),
                _ => TarError::Read(error),
            })?;
        self.offset += into.len() as u64;
        Ok(())
    }
}

impl<R: Read + Seek> TarReader<R> {
    /// Goes to the next entry without reading what is between. A stream that ends before it is
    /// not noticed here, but by whoever reads that data.
    pub fn seek_past_data(&mut self) -> Result<(), TarError> {
        let len = self
            .data_left
            .saturating_add(std::mem::take(&mut self.padding));
        let offset = i64::try_from(len).map_err(|_| TarError::Truncated("a file's data"))?;
        self.inner.seek_relative(offset).map_err(TarError::Read)?;
        self.offset = self.offset.saturating_add(len);
        self.data_left = 0;
        Ok(())
    }
}

/// Bytes lent from the reader's buffer; consumed when dropped.
pub struct Chunk<'a, R: Read> {
    reader: &'a mut TarReader<R>,
    len: usize,
}

impl<R: Read> Chunk<'_, R> {
    pub fn bytes(&self) -> &[u8] {
        &self.reader.inner.buffer()[..self.len]
    }
}

impl<R: Read> Drop for Chunk<'_, R> {
    fn drop(&mut self) {
        self.reader.inner.consume(self.len);
        self.reader.offset += self.len as u64;
        self.reader.data_left -= self.len as u64;
    }
}

fn header_extends(kind: u8) -> bool {
    matches!(kind, b'x' | b'L' | b'K')
}

fn until_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(end) = bytes.iter().position(|byte| *byte == 0) {
        bytes.truncate(end);
    }
    bytes
}

#[cfg(test)]
mod tests;
