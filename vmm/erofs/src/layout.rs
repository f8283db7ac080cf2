// SPDX-License-Identifier: Apache-2.0
//! Places all metadata behind the file data, and encodes it.
//!
//! ```text
//! block 0     │ 1 ..       │ data_end ..            │ meta_block ..             │ .. 2 MiB
//! superblock  │ file data  │ blocks of large dirs,  │ inodes, each followed by  │ hole
//!             │            │ long symlinks          │ its xattrs and inline data│
//! ```
//! Regular files lie in whole blocks (`FLAT_PLAIN`), since nothing else can be mapped with DAX. A
//! directory's last block and a symlink's target stand behind their inode (`FLAT_INLINE`) where
//! that doesn't cross a block boundary.

use std::collections::HashMap;
use std::io;

use crate::ondisk::{self, BLOCK, BLOCK_LEN, DIRENT, FileType, InodeFields, SLOT, SuperBlock};
use crate::output::Output;
use crate::tar::Timestamp;
use crate::tree::{Ino, Inode, Node, ROOT, Tree};

/// Where an inode went.
#[derive(Clone, Copy, Default)]
struct Placed {
    /// 0: not yet.
    nid: u64,
    /// First block of a directory's or symlink's own data.
    block: u32,
    inline: bool,
}

pub(crate) struct Layout<'a> {
    tree: &'a Tree,
    build_time: Timestamp,
    data_end: u32,
    meta_block: u32,
    /// In the order in which they stand on disk.
    order: Vec<Ino>,
    placed: Vec<Placed>,
    /// Bytes of the metadata area.
    meta_len: u64,
}

impl<'a> Layout<'a> {
    /// `None` where block numbers don't suffice.
    pub(crate) fn new(tree: &'a Tree, data_end: u32) -> Option<Self> {
        let mut layout = Layout {
            tree,
            build_time: commonest_mtime(tree),
            data_end,
            meta_block: data_end,
            order: Vec::with_capacity(tree.len()),
            placed: vec![Placed::default(); tree.slots()],
            // Nid 0 stays unused: it would be inode number 0, which readdir(3) takes for deleted.
            meta_len: SLOT,
        };
        layout.place_all()?;
        u32::try_from(u64::from(layout.meta_block) + layout.meta_len.div_ceil(BLOCK)).ok()?;
        Some(layout)
    }

    /// Bytes up to the end of the last block in use.
    pub(crate) fn len(&self) -> u64 {
        (u64::from(self.meta_block) + self.meta_len.div_ceil(BLOCK)) * BLOCK
    }

    pub(crate) fn write(&self, output: &mut Output, uuid: [u8; 16]) -> io::Result<()> {
        self.write_blocks(output)?;
        self.write_inodes(output)?;
        let super_block = SuperBlock {
            root_nid: 1,
            inodes: self.order.len() as u64,
            build_time: self.build_time,
            blocks: u32::try_from(self.len() / BLOCK).map_err(io::Error::other)?,
            meta_block: self.meta_block,
            uuid,
        };
        output.write_at(0, &super_block.encode())
    }

    /// Depth first, a directory's own files right behind it; the root first, whose nid has 16 bits.
    fn place_all(&mut self) -> Option<()> {
        let mut dirs = vec![ROOT];
        self.place(ROOT)?;
        while let Some(dir) = dirs.pop() {
            let first_below = dirs.len();
            for dentry in self
                .tree
                .entries(dir)
                .into_iter()
                .flat_map(|entries| entries.values())
            {
                if self.placed[dentry.ino as usize].nid == 0 {
                    self.place(dentry.ino)?;
                }
                if self.tree.is_dir(dentry.ino) {
                    dirs.push(dentry.ino);
                }
            }
            dirs[first_below..].reverse();
        }
        Some(())
    }

    fn place(&mut self, ino: Ino) -> Option<()> {
        let size = self.size(ino);
        let inode = self.tree.inode(ino);
        let fields = self.fields(ino, Placed::default());
        let own = if fields.is_compact() {
            ondisk::COMPACT_INODE
        } else {
            ondisk::EXTENDED_INODE
        };
        let body = own + inode.attributes.xattrs.len() as u64;
        let mut placed = Placed::default();
        let mut tail = 0;
        if matches!(inode.node, Node::Dir { .. } | Node::Symlink(_)) {
            let rest = size % BLOCK;
            placed.inline = rest > 0 && body + rest <= BLOCK;
            tail = if placed.inline { rest } else { 0 };
            let blocks = if placed.inline {
                size / BLOCK
            } else {
                size.div_ceil(BLOCK)
            };
            placed.block = self.meta_block;
            self.meta_block = self.meta_block.checked_add(u32::try_from(blocks).ok()?)?;
        }
        // With inline data the whole must fit a block; without, only the inode itself.
        let unsplit = if placed.inline { body + tail } else { own };
        let room = BLOCK - self.meta_len % BLOCK;
        if unsplit > room {
            self.meta_len += room;
        }
        placed.nid = self.meta_len / SLOT;
        self.meta_len += (body + tail).next_multiple_of(SLOT);
        self.placed[ino as usize] = placed;
        self.order.push(ino);
        Some(())
    }

    /// What `stat` will say: for a directory, the length of its blocks.
    fn size(&self, ino: Ino) -> u64 {
        match &self.tree.inode(ino).node {
            Node::File { size, .. } => *size,
            Node::Symlink(target) => target.len() as u64,
            Node::Dir { .. } => dir_len(self.names(ino)),
            Node::Char(_) | Node::Block(_) | Node::Fifo | Node::Free => 0,
        }
    }

    fn fields(&self, ino: Ino, placed: Placed) -> InodeFields {
        let inode = self.tree.inode(ino);
        let attributes = &inode.attributes;
        InodeFields {
            file_type: file_type(inode),
            mode: attributes.mode,
            links: self.links(ino),
            size: self.size(ino),
            location: match &inode.node {
                Node::File { extent, .. } => extent.start,
                Node::Char(device) | Node::Block(device) => *device,
                _ => placed.block,
            },
            inline_data: placed.inline,
            number: ino.saturating_add(1),
            uid: attributes.uid,
            gid: attributes.gid,
            mtime: (attributes.mtime != self.build_time).then_some(attributes.mtime),
            xattr_len: attributes.xattrs.len(),
        }
    }

    fn links(&self, ino: Ino) -> u32 {
        let Some(entries) = self.tree.entries(ino) else {
            return self.tree.inode(ino).names;
        };
        let dirs = entries
            .values()
            .filter(|dentry| self.tree.is_dir(dentry.ino))
            .count();
        u32::try_from(dirs).unwrap_or(u32::MAX).saturating_add(2)
    }

    /// A directory's names in the order of their bytes, `.` and `..` among them.
    fn names(&self, dir: Ino) -> impl Iterator<Item = (&'a [u8], Ino)> {
        let (parent, entries) = match &self.tree.inode(dir).node {
            Node::Dir { parent, entries } => (*parent, Some(entries)),
            _ => (dir, None),
        };
        let mut dots = [(&b"."[..], dir), (&b".."[..], parent)]
            .into_iter()
            .peekable();
        let mut names = entries
            .into_iter()
            .flatten()
            .map(|(name, dentry)| (&**name, dentry.ino))
            .peekable();
        std::iter::from_fn(move || match (dots.peek(), names.peek()) {
            (Some((dot, _)), Some((name, _))) if name < dot => names.next(),
            (Some(_), _) => dots.next(),
            (None, _) => names.next(),
        })
    }

    /// The whole blocks of directories and symlinks, in the order in which they were placed.
    fn write_blocks(&self, output: &mut Output) -> io::Result<()> {
        let mut at = u64::from(self.data_end) * BLOCK;
        for ino in &self.order {
            let data = self.own_data(*ino);
            let whole = self.whole_blocks(*ino, data.len());
            output.write_at(at, &data[..whole])?;
            at += whole as u64;
            let missing = at.next_multiple_of(BLOCK) - at;
            output.write_at(at, &[0; BLOCK_LEN][..usize::try_from(missing).unwrap_or(0)])?;
            at += missing;
        }
        Ok(())
    }

    fn write_inodes(&self, output: &mut Output) -> io::Result<()> {
        let start = u64::from(self.meta_block) * BLOCK;
        let mut at = start;
        let mut bytes = Vec::new();
        for ino in &self.order {
            let placed = self.placed[*ino as usize];
            let offset = start + placed.nid * SLOT;
            bytes.clear();
            bytes.resize(usize::try_from(offset - at).map_err(io::Error::other)?, 0);
            self.fields(*ino, placed)
                .encode(&mut bytes, self.build_time);
            bytes.extend_from_slice(&self.tree.inode(*ino).attributes.xattrs);
            let data = self.own_data(*ino);
            bytes.extend_from_slice(&data[self.whole_blocks(*ino, data.len())..]);
            output.write_at(at, &bytes)?;
            at += bytes.len() as u64;
        }
        let end = at.next_multiple_of(BLOCK);
        bytes.clear();
        bytes.resize(usize::try_from(end - at).map_err(io::Error::other)?, 0);
        output.write_at(at, &bytes)
    }

    /// How much of its own data stands in blocks rather than behind the inode.
    fn whole_blocks(&self, ino: Ino, len: usize) -> usize {
        if self.placed[ino as usize].inline {
            len - len % BLOCK_LEN
        } else {
            len
        }
    }

    /// The bytes of a directory or symlink.
    fn own_data(&self, ino: Ino) -> Vec<u8> {
        match &self.tree.inode(ino).node {
            Node::Symlink(target) => target.to_vec(),
            Node::Dir { .. } => self.dir_data(ino),
            _ => Vec::new(),
        }
    }

    fn dir_data(&self, dir: Ino) -> Vec<u8> {
        let names: Vec<_> = self.names(dir).collect();
        let mut data = Vec::new();
        let mut first = 0;
        while first < names.len() {
            let len = fitting(names[first..].iter().map(|(name, _)| name.len() as u64));
            let block = &names[first..first + len];
            data.resize(data.len().next_multiple_of(BLOCK_LEN), 0);
            let mut name_offset = len as u64 * DIRENT;
            for (name, ino) in block {
                let nid = self.placed[*ino as usize].nid;
                let offset = u16::try_from(name_offset).unwrap_or(u16::MAX);
                data.extend(ondisk::dirent(
                    nid,
                    offset,
                    file_type(self.tree.inode(*ino)),
                ));
                name_offset += name.len() as u64;
            }
            block
                .iter()
                .for_each(|(name, _)| data.extend_from_slice(name));
            first += len;
        }
        data
    }
}

/// How many of these names one block holds.
fn fitting(lengths: impl Iterator<Item = u64>) -> usize {
    let mut left = BLOCK;
    lengths
        .take_while(|len| match left.checked_sub(DIRENT + len) {
            Some(rest) => {
                left = rest;
                true
            }
            None => false,
        })
        .count()
}

/// The length of a directory: whole blocks, the last one only as far as it is filled.
fn dir_len<'n>(names: impl Iterator<Item = (&'n [u8], Ino)>) -> u64 {
    let (mut whole, mut filled) = (0, 0);
    for (name, _) in names {
        let entry = DIRENT + name.len() as u64;
        if filled + entry > BLOCK {
            whole += BLOCK;
            filled = 0;
        }
        filled += entry;
    }
    whole + filled
}

fn file_type(inode: &Inode) -> FileType {
    match &inode.node {
        Node::Dir { .. } => FileType::Dir,
        Node::Symlink(_) => FileType::Symlink,
        Node::Char(_) => FileType::Char,
        Node::Block(_) => FileType::Block,
        Node::Fifo => FileType::Fifo,
        Node::File { .. } | Node::Free => FileType::File,
    }
}

/// Inodes with this mtime can be compact. The earliest of the most frequent ones.
fn commonest_mtime(tree: &Tree) -> Timestamp {
    let mut counts: HashMap<Timestamp, usize> = HashMap::new();
    for ino in 0..tree.slots() {
        let inode = tree.inode(Ino::try_from(ino).unwrap_or(Ino::MAX));
        if !matches!(inode.node, Node::Free) {
            *counts.entry(inode.attributes.mtime).or_default() += 1;
        }
    }
    let best = counts
        .into_iter()
        .max_by_key(|(time, count)| (*count, std::cmp::Reverse(*time)));
    best.map_or_else(Timestamp::default, |(time, _)| time)
}
