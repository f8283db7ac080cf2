// SPDX-License-Identifier: Apache-2.0
//! Reads single files back out of an image that [`crate::Builder`] wrote: what its layouts are, and no
//! others. What a damaged image says leads to an error, never further than the image.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::ondisk::{
    BLOCK, BLOCK_LEN, COMPACT_INODE, EXTENDED_INODE, FileType, MAGIC, SLOT, SUPER_OFFSET,
    XATTR_HEADER,
};

/// An inode's own bytes, the long form's.
const INODE_LEN: usize = 64;
const DIRENT_LEN: usize = 12;

/// The first `most` bytes of the regular file at `path`, whose names are separated by slashes. `None`
/// where there is no such file. Symbolic links are not followed.
///
/// # Errors
/// The image can't be read, or is none of ours.
pub fn read_file(image: &File, path: &str, most: u64) -> io::Result<Option<Vec<u8>>> {
    let (meta, root) = super_block(image)?;
    let mut inode = Inode::read(image, meta, root)?;
    for name in path.split('/').filter(|name| !name.is_empty()) {
        match inode.find(image, name.as_bytes())? {
            Some(nid) => inode = Inode::read(image, meta, nid)?,
            None => return Ok(None),
        }
    }
    if !inode.is(FileType::File) {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    for index in 0..inode.size.min(most).div_ceil(BLOCK) {
        let block = inode.block(image, index)?;
        let left = most - index * BLOCK;
        let take = usize::try_from(left).map_or(block.len(), |left| left.min(block.len()));
        bytes.extend_from_slice(&block[..take]);
    }
    Ok(Some(bytes))
}

/// Where inodes begin, in bytes, and the root's nid.
fn super_block(image: &File) -> io::Result<(u64, u64)> {
    let mut sb = [0; 64];
    image.read_exact_at(&mut sb, SUPER_OFFSET as u64)?;
    if u32_at(&sb, 0)? != MAGIC {
        return Err(malformed());
    }
    let meta = u64::from(u32_at(&sb, 40)?) * BLOCK;
    Ok((meta, u16_at(&sb, 14)?.into()))
}

struct Inode {
    mode: u16,
    size: u64,
    /// Of the data's first block, in bytes.
    data: u64,
    /// Where the last block stands if it is behind the inode.
    inline: Option<u64>,
}

impl Inode {
    fn read(image: &File, meta: u64, nid: u64) -> io::Result<Self> {
        let offset = nid.checked_mul(SLOT).and_then(|at| at.checked_add(meta));
        let at = offset.ok_or_else(malformed)?;
        let mut bytes = [0; INODE_LEN];
        // The last inode may be a short one.
        let len = image.read_at(&mut bytes, at)?;
        let bytes = &bytes[..len];
        let format = u16_at(bytes, 0)?;
        let (own, size) = match format & 1 {
            0 => (COMPACT_INODE, u32_at(bytes, 8)?.into()),
            _ => (EXTENDED_INODE, u64_at(bytes, 8)?),
        };
        let xattrs = match u64::from(u16_at(bytes, 2)?) {
            0 => 0,
            count => XATTR_HEADER as u64 + (count - 1) * 4,
        };
        let inline = match format >> 1 {
            0 => None,
            2 => Some(at.checked_add(own + xattrs).ok_or_else(malformed)?),
            _ => return Err(malformed()),
        };
        Ok(Self {
            mode: u16_at(bytes, 4)?,
            size,
            data: u64::from(u32_at(bytes, 16)?) * BLOCK,
            inline,
        })
    }

    fn is(&self, kind: FileType) -> bool {
        const TYPE: u16 = 0o170_000;
        self.mode & TYPE == kind.mode()
    }

    /// The `index`th block of the data, as far as there is data in it.
    fn block(&self, image: &File, index: u64) -> io::Result<Vec<u8>> {
        let left = self.size.saturating_sub(index * BLOCK);
        let mut bytes = vec![0; usize::try_from(left).map_or(BLOCK_LEN, |n| n.min(BLOCK_LEN))];
        let at = match self.inline {
            Some(inline) if index == self.size / BLOCK => inline,
            _ => self.data + index * BLOCK,
        };
        image.read_exact_at(&mut bytes, at)?;
        Ok(bytes)
    }

    /// The nid of `name` in this directory.
    fn find(&self, image: &File, name: &[u8]) -> io::Result<Option<u64>> {
        if !self.is(FileType::Dir) {
            return Ok(None);
        }
        for index in 0..self.size.div_ceil(BLOCK) {
            let found = find_in(&self.block(image, index)?, name)?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }
}

/// One block of a directory: entries, then their names; a name ends where the next one begins, the
/// last one at the end or at a zero.
fn find_in(block: &[u8], wanted: &[u8]) -> io::Result<Option<u64>> {
    let name_at = |index: usize| u16_at(block, index * DIRENT_LEN + 8).map(usize::from);
    let count = name_at(0)? / DIRENT_LEN;
    for index in 0..count {
        let start = name_at(index)?;
        let end = match index + 1 < count {
            true => name_at(index + 1)?,
            false => block.len(),
        };
        let name = block.get(start..end).ok_or_else(malformed)?;
        let name = name.split(|byte| *byte == 0).next().unwrap_or(name);
        if name == wanted {
            return u64_at(block, index * DIRENT_LEN).map(Some);
        }
    }
    Ok(None)
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> io::Result<[u8; N]> {
    let tail = bytes.get(at..).ok_or_else(malformed)?;
    tail.first_chunk().copied().ok_or_else(malformed)
}

fn u16_at(bytes: &[u8], at: usize) -> io::Result<u16> {
    array(bytes, at).map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> io::Result<u32> {
    array(bytes, at).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> io::Result<u64> {
    array(bytes, at).map(u64::from_le_bytes)
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "malformed EROFS image")
}
