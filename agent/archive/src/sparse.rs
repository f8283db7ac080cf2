// SPDX-License-Identifier: Apache-2.0
//! Files with holes, in the format that GNU tar has for them ("Old GNU Format", type `S`): a map of
//! the data in the header and, as needed, in blocks behind it.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;
use tar::{EntryType, GnuExtSparseHeader, Header};

/// More pieces than this are sent as one: the map would be larger than the holes.
const MAX_PIECES: usize = 1 << 16;

/// A piece of data: its offset and length.
type Piece = (u64, u64);

/// Where the data is; `None` for a file without holes.
pub fn pieces(file: &File, size: u64) -> Option<Vec<Piece>> {
    let mut pieces = Vec::new();
    let mut at = 0;
    while at < size {
        let start = match seek(file, SeekFrom::Data(at)) {
            Ok(start) => start,
            // Nothing but a hole up to the end.
            Err(Errno::NXIO) => break,
            Err(_) => return None,
        };
        let end = seek(file, SeekFrom::Hole(start)).ok()?.min(size);
        if start >= end || pieces.len() == MAX_PIECES {
            return None;
        }
        pieces.push((start, end - start));
        at = end;
    }
    if pieces == [(0, size)] || size == 0 {
        return None;
    }
    // The map's end is the file's.
    if pieces.last().is_none_or(|(at, len)| at + len < size) {
        pieces.push((size, 0));
    }
    Some(pieces)
}

/// Makes `header` that of a file with holes; the map's further blocks.
pub fn describe(header: &mut Header, size: u64, pieces: &[Piece]) -> Vec<u8> {
    header.set_entry_type(EntryType::GNUSparse);
    header.set_size(pieces.iter().map(|(_, len)| len).sum());
    let Some(gnu) = header.as_gnu_mut() else {
        return Vec::new();
    };
    gnu.set_real_size(size);
    let (first, rest) = pieces.split_at(pieces.len().min(gnu.sparse.len()));
    for (slot, (at, len)) in gnu.sparse.iter_mut().zip(first) {
        slot.set_offset(*at);
        slot.set_length(*len);
    }
    gnu.set_is_extended(!rest.is_empty());
    let mut blocks = Vec::new();
    let per_block = GnuExtSparseHeader::new().sparse.len();
    let mut chunks = rest.chunks(per_block).peekable();
    while let Some(chunk) = chunks.next() {
        let mut block = GnuExtSparseHeader::new();
        for (slot, (at, len)) in block.sparse.iter_mut().zip(chunk) {
            slot.set_offset(*at);
            slot.set_length(*len);
        }
        block.set_is_extended(chunks.peek().is_some());
        blocks.extend_from_slice(block.as_bytes());
    }
    blocks
}

/// Reads exactly the pieces: what a file has lost meanwhile is zeros.
pub struct Data<'a> {
    file: &'a File,
    pieces: std::slice::Iter<'a, Piece>,
    at: u64,
    left: u64,
}

impl<'a> Data<'a> {
    pub fn new(file: &'a File, pieces: &'a [Piece]) -> Self {
        Self {
            file,
            pieces: pieces.iter(),
            at: 0,
            left: 0,
        }
    }
}

impl Read for Data<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.left == 0 {
            match self.pieces.next() {
                None => return Ok(0),
                Some((at, len)) => (self.at, self.left) = (*at, *len),
            }
        }
        let most = usize::try_from(self.left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let buffer = &mut buffer[..most];
        let mut count = self.file.read_at(buffer, self.at)?;
        if count == 0 {
            buffer.fill(0);
            count = most;
        }
        self.at += count as u64;
        self.left -= count as u64;
        Ok(count)
    }
}
