// SPDX-License-Identifier: Apache-2.0
//! EROFS's on-disk structures, encoded (Linux fs/erofs/erofs_fs.h; all fields little endian).

use crc::{CRC_32_ISCSI, Crc};

use crate::tar::Timestamp;

pub(crate) const BLOCK: u64 = 4096;
/// [`BLOCK`], for slices.
pub(crate) const BLOCK_LEN: usize = 4096;
pub(crate) const BLOCK_BITS: u8 = 12;
/// Inodes begin at multiples of this; a nid counts in it.
pub(crate) const SLOT: u64 = 32;
pub(crate) const COMPACT_INODE: u64 = 32;
pub(crate) const EXTENDED_INODE: u64 = 64;
pub(crate) const DIRENT: u64 = 12;
const DIRENT_LEN: usize = 12;
pub(crate) const XATTR_HEADER: usize = 12;

pub(crate) const MAGIC: u32 = 0xe0f5_e1e2;
pub(crate) const SUPER_OFFSET: usize = 1024;
const COMPAT_SB_CHKSUM: u32 = 1;
const COMPAT_MTIME: u32 = 2;

pub(crate) const XATTR_USER: u8 = 1;
pub(crate) const XATTR_ACL_ACCESS: u8 = 2;
pub(crate) const XATTR_ACL_DEFAULT: u8 = 3;
pub(crate) const XATTR_TRUSTED: u8 = 4;
pub(crate) const XATTR_SECURITY: u8 = 6;

/// File types: the numbers of a dirent, the `S_IFMT` bits of a mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileType {
    File,
    Dir,
    Char,
    Block,
    Fifo,
    Symlink,
}

impl FileType {
    fn dirent(self) -> u8 {
        match self {
            FileType::File => 1,
            FileType::Dir => 2,
            FileType::Char => 3,
            FileType::Block => 4,
            FileType::Fifo => 5,
            FileType::Symlink => 7,
        }
    }

    pub(crate) fn mode(self) -> u16 {
        match self {
            FileType::Fifo => 0o010_000,
            FileType::Char => 0o020_000,
            FileType::Dir => 0o040_000,
            FileType::Block => 0o060_000,
            FileType::File => 0o100_000,
            FileType::Symlink => 0o120_000,
        }
    }
}

pub(crate) struct SuperBlock {
    pub root_nid: u16,
    pub inodes: u64,
    pub build_time: Timestamp,
    pub blocks: u32,
    pub meta_block: u32,
    pub uuid: [u8; 16],
}

impl SuperBlock {
    /// Block 0, checksum included.
    pub(crate) fn encode(&self) -> [u8; BLOCK_LEN] {
        let mut block = [0; BLOCK_LEN];
        let sb = &mut block[SUPER_OFFSET..];
        sb[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        sb[8..12].copy_from_slice(&(COMPAT_SB_CHKSUM | COMPAT_MTIME).to_le_bytes());
        sb[12] = BLOCK_BITS;
        sb[14..16].copy_from_slice(&self.root_nid.to_le_bytes());
        sb[16..24].copy_from_slice(&self.inodes.to_le_bytes());
        sb[24..32].copy_from_slice(&self.build_time.secs.to_le_bytes());
        sb[32..36].copy_from_slice(&self.build_time.nanos.to_le_bytes());
        sb[36..40].copy_from_slice(&self.blocks.to_le_bytes());
        sb[40..44].copy_from_slice(&self.meta_block.to_le_bytes());
        sb[48..64].copy_from_slice(&self.uuid);
        // crc32c without the final inversion, over the rest of the block.
        let checksum = !Crc::<u32>::new(&CRC_32_ISCSI).checksum(sb);
        sb[4..8].copy_from_slice(&checksum.to_le_bytes());
        block
    }
}

pub(crate) struct InodeFields {
    pub file_type: FileType,
    /// Without the type.
    pub mode: u16,
    pub links: u32,
    pub size: u64,
    /// First block of the data, or the device number.
    pub location: u32,
    pub inline_data: bool,
    pub number: u32,
    pub uid: u32,
    pub gid: u32,
    /// `None`: the superblock's build time, which is all that a compact inode can say.
    pub mtime: Option<Timestamp>,
    pub xattr_len: usize,
}

impl InodeFields {
    pub(crate) fn is_compact(&self) -> bool {
        self.mtime.is_none()
            && self.uid <= u32::from(u16::MAX)
            && self.gid <= u32::from(u16::MAX)
            && self.links <= u32::from(u16::MAX)
            && self.size <= u64::from(u32::MAX)
    }

    /// The inode's own 32 or 64 bytes.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "is_compact() looked; icount is bounded"
    )]
    pub(crate) fn encode(&self, out: &mut Vec<u8>, build_time: Timestamp) {
        let compact = self.is_compact();
        let layout: u16 = if self.inline_data { 2 } else { 0 };
        let xattr_count = match self.xattr_len {
            0 => 0,
            len => ((len - XATTR_HEADER) / 4 + 1) as u16,
        };
        out.extend_from_slice(&(u16::from(!compact) | layout << 1).to_le_bytes());
        out.extend_from_slice(&xattr_count.to_le_bytes());
        out.extend_from_slice(&(self.file_type.mode() | self.mode).to_le_bytes());
        if compact {
            out.extend_from_slice(&(self.links as u16).to_le_bytes());
            out.extend_from_slice(&(self.size as u32).to_le_bytes());
            out.extend_from_slice(&[0; 4]);
            out.extend_from_slice(&self.location.to_le_bytes());
            out.extend_from_slice(&self.number.to_le_bytes());
            out.extend_from_slice(&(self.uid as u16).to_le_bytes());
            out.extend_from_slice(&(self.gid as u16).to_le_bytes());
            out.extend_from_slice(&[0; 4]);
            return;
        }
        let mtime = self.mtime.unwrap_or(build_time);
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(&self.size.to_le_bytes());
        out.extend_from_slice(&self.location.to_le_bytes());
        out.extend_from_slice(&self.number.to_le_bytes());
        out.extend_from_slice(&self.uid.to_le_bytes());
        out.extend_from_slice(&self.gid.to_le_bytes());
        out.extend_from_slice(&mtime.secs.to_le_bytes());
        out.extend_from_slice(&mtime.nanos.to_le_bytes());
        out.extend_from_slice(&self.links.to_le_bytes());
        out.extend_from_slice(&[0; 16]);
    }
}

pub(crate) fn xattr_entry(index: u8, name_len: u8, value_len: u16) -> [u8; 4] {
    let [low, high] = value_len.to_le_bytes();
    [name_len, index, low, high]
}

pub(crate) fn dirent(nid: u64, name_offset: u16, file_type: FileType) -> [u8; DIRENT_LEN] {
    let mut dirent = [0; DIRENT_LEN];
    dirent[0..8].copy_from_slice(&nid.to_le_bytes());
    dirent[8..10].copy_from_slice(&name_offset.to_le_bytes());
    dirent[10] = file_type.dirent();
    dirent
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields() -> InodeFields {
        InodeFields {
            file_type: FileType::File,
            mode: 0o644,
            links: 1,
            size: 5,
            location: 9,
            inline_data: false,
            number: 3,
            uid: 1000,
            gid: 1000,
            mtime: None,
            xattr_len: 0,
        }
    }

    #[test]
    fn inodes_are_compact_only_where_nothing_is_lost() {
        assert!(fields().is_compact());
        assert!(
            !InodeFields {
                uid: 65536,
                ..fields()
            }
            .is_compact()
        );
        assert!(
            !InodeFields {
                links: 65536,
                ..fields()
            }
            .is_compact()
        );
        assert!(
            !InodeFields {
                size: 1 << 32,
                ..fields()
            }
            .is_compact()
        );
        assert!(
            !InodeFields {
                mtime: Some(Timestamp::default()),
                ..fields()
            }
            .is_compact()
        );
        for fields in [
            fields(),
            InodeFields {
                uid: 1 << 20,
                ..fields()
            },
        ] {
            let mut out = Vec::new();
            fields.encode(&mut out, Timestamp::default());
            let expected = if fields.is_compact() {
                COMPACT_INODE
            } else {
                EXTENDED_INODE
            };
            assert_eq!(out.len() as u64, expected);
        }
    }
}
