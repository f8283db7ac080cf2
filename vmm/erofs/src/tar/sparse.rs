// SPDX-License-Identifier: Apache-2.0
//! Maps of sparse members: old GNU headers, and pax formats 0.0, 0.1 and 1.0 (GNU tar manual,
//! "Storing Sparse Files").

use super::BLOCK;
use super::header::number;
use super::pax::decimal;

/// Most segments of one file; a map in memory stays below 4 MiB.
const MAX_SEGMENTS: usize = 256 << 10;

const TOO_MANY: &str = "its sparse map is too long";
const BAD_MAP: &str = "its sparse map is malformed";

/// Bytes that the stream holds; everything between two segments is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    pub offset: u64,
    pub len: u64,
}

/// In order, apart, inside the file, and as long as the data that follows.
pub(super) fn check(map: &[Segment], size: u64, data: u64) -> Result<(), &'static str> {
    let mut end = 0;
    let mut total = 0u64;
    for segment in map {
        if segment.offset < end {
            return Err("its sparse map is not in order");
        }
        end = segment.offset.checked_add(segment.len).ok_or(BAD_MAP)?;
        total += segment.len;
    }
    if end > size {
        return Err("its sparse map reaches beyond the file");
    }
    if total != data {
        return Err("its sparse map doesn't match its data");
    }
    Ok(())
}

/// What pax records say of a file's holes; `size` is the file's with them.
pub(super) enum SparseLayout {
    Whole,
    Map { size: u64, map: Vec<Segment> },
    MapBeforeData { size: u64 },
}

/// The `GNU.sparse.*` records.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct PaxSparse {
    pub name: Option<Vec<u8>>,
    major: Option<u64>,
    size: Option<u64>,
    /// Formats 0.0 and 0.1: offsets and lengths in turn.
    numbers: Vec<u64>,
    has_map: bool,
}

impl PaxSparse {
    pub(super) fn apply(&mut self, key: &[u8], value: &[u8]) -> Result<(), &'static str> {
        let number = || decimal(value).ok_or(BAD_MAP);
        match key {
            b"name" if value.is_empty() || value.contains(&0) => return Err(BAD_MAP),
            b"name" => self.name = Some(value.to_vec()),
            b"major" => self.major = Some(number()?),
            b"realsize" | b"size" => self.size = Some(number()?),
            b"offset" if self.numbers.len().is_multiple_of(2) => self.numbers.push(number()?),
            b"numbytes" if !self.numbers.len().is_multiple_of(2) => self.numbers.push(number()?),
            b"offset" | b"numbytes" => return Err(BAD_MAP),
            b"map" => {
                self.has_map = true;
                self.numbers.clear();
                for field in value
                    .split(|byte| *byte == b',')
                    .filter(|field| !field.is_empty())
                {
                    self.numbers.push(decimal(field).ok_or(BAD_MAP)?);
                }
            }
            b"numblocks" => self.has_map = true,
            _ => {}
        }
        Ok(())
    }

    pub(super) fn layout(&self) -> Result<SparseLayout, &'static str> {
        match self.major {
            Some(1) => Ok(SparseLayout::MapBeforeData {
                size: self.size.ok_or(BAD_MAP)?,
            }),
            None | Some(0) if !self.has_map && self.numbers.is_empty() => Ok(SparseLayout::Whole),
            None | Some(0) => {
                let size = self.size.ok_or(BAD_MAP)?;
                Ok(SparseLayout::Map {
                    size,
                    map: segments(&self.numbers)?,
                })
            }
            Some(_) => Err("its sparse format is not known"),
        }
    }
}

fn segments(numbers: &[u64]) -> Result<Vec<Segment>, &'static str> {
    let (pairs, []) = numbers.as_chunks::<2>() else {
        return Err(BAD_MAP);
    };
    if pairs.len() > MAX_SEGMENTS {
        return Err(TOO_MANY);
    }
    Ok(pairs
        .iter()
        .map(|[offset, len]| Segment {
            offset: *offset,
            len: *len,
        })
        .collect())
}

/// Format 1.0: a count, then offsets and lengths, a decimal line each.
#[derive(Default)]
pub(super) struct MapReader {
    line: Vec<u8>,
    /// Numbers to come, once the count is known.
    left: Option<u64>,
    numbers: Vec<u64>,
}

impl MapReader {
    pub(super) fn is_complete(&self) -> bool {
        self.left == Some(0)
    }

    pub(super) fn feed(&mut self, block: &[u8]) -> Result<(), &'static str> {
        for byte in block {
            if self.is_complete() {
                break;
            }
            if *byte != b'\n' {
                if self.line.len() == 20 {
                    return Err(BAD_MAP);
                }
                self.line.push(*byte);
                continue;
            }
            let number = decimal(&self.line).ok_or(BAD_MAP)?;
            self.line.clear();
            match &mut self.left {
                None if number > MAX_SEGMENTS as u64 => return Err(TOO_MANY),
                None => self.left = Some(number * 2),
                Some(left) => {
                    *left -= 1;
                    self.numbers.push(number);
                }
            }
        }
        Ok(())
    }

    pub(super) fn into_segments(self) -> Vec<Segment> {
        segments(&self.numbers).unwrap_or_default()
    }
}

/// Old GNU header: the file's size, the segments in it, and whether a continuation block follows.
pub(super) fn gnu_header(block: &[u8; BLOCK]) -> Result<(u64, Vec<Segment>, bool), &'static str> {
    let mut map = Vec::new();
    gnu_segments(&block[386..482], &mut map)?;
    let size = u64::try_from(number(&block[483..495])?).map_err(|_| BAD_MAP)?;
    Ok((size, map, block[482] != 0))
}

/// 21 more segments; true where yet another block follows.
pub(super) fn gnu_continuation(
    block: &[u8; BLOCK],
    map: &mut Vec<Segment>,
) -> Result<bool, &'static str> {
    gnu_segments(&block[..504], map)?;
    Ok(block[504] != 0)
}

fn gnu_segments(fields: &[u8], map: &mut Vec<Segment>) -> Result<(), &'static str> {
    let (pairs, _) = fields.as_chunks::<24>();
    for pair in pairs {
        if pair[0] == 0 {
            break;
        }
        if map.len() == MAX_SEGMENTS {
            return Err(TOO_MANY);
        }
        let [offset, len] = [&pair[..12], &pair[12..]].map(number);
        map.push(Segment {
            offset: u64::try_from(offset?).map_err(|_| BAD_MAP)?,
            len: u64::try_from(len?).map_err(|_| BAD_MAP)?,
        });
    }
    Ok(())
}
