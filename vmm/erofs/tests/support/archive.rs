// SPDX-License-Identifier: Apache-2.0
//! Writes tar archives that an orderly writer would refuse to write.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test program uses its part of it"
)]

use tar::{EntryType, Header};

/// An archive, and the next member's attributes.
#[derive(Clone, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    pax: Vec<u8>,
    mode: Option<u32>,
    owner: Option<(u64, u64)>,
    mtime: Option<u64>,
}

impl Archive {
    pub fn new() -> Self {
        Self::default()
    }

    /// A pax record for the next member.
    pub fn pax(mut self, key: &str, value: &[u8]) -> Self {
        let body = [b" ", key.as_bytes(), b"=", value, b"\n"].concat();
        let mut len = body.len();
        while body.len() + len.to_string().len() != len {
            len = body.len() + len.to_string().len();
        }
        self.pax.extend_from_slice(len.to_string().as_bytes());
        self.pax.extend_from_slice(&body);
        self
    }

    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = Some(mode);
        self
    }

    pub fn owner(mut self, uid: u64, gid: u64) -> Self {
        self.owner = Some((uid, gid));
        self
    }

    pub fn mtime(mut self, mtime: u64) -> Self {
        self.mtime = Some(mtime);
        self
    }

    pub fn xattr(self, name: &str, value: &[u8]) -> Self {
        self.pax(&format!("SCHILY.xattr.{name}"), value)
    }

    pub fn file(self, path: &str, data: &[u8]) -> Self {
        self.member(EntryType::Regular, path, "", data, |_| {})
    }

    pub fn dir(self, path: &str) -> Self {
        self.member(EntryType::Directory, path, "", &[], |_| {})
    }

    pub fn symlink(self, path: &str, target: &str) -> Self {
        self.member(EntryType::Symlink, path, target, &[], |_| {})
    }

    pub fn hard_link(self, path: &str, target: &str) -> Self {
        self.member(EntryType::Link, path, target, &[], |_| {})
    }

    pub fn device(self, kind: EntryType, path: &str, major: u32, minor: u32) -> Self {
        self.member(kind, path, "", &[], |header| {
            header.set_device_major(major).unwrap();
            header.set_device_minor(minor).unwrap();
        })
    }

    pub fn fifo(self, path: &str) -> Self {
        self.member(EntryType::Fifo, path, "", &[], |_| {})
    }

    /// Any member; names that don't fit the header go into pax records.
    pub fn member(
        mut self,
        kind: EntryType,
        path: &str,
        link: &str,
        data: &[u8],
        change: impl FnOnce(&mut Header),
    ) -> Self {
        if path.len() > 100 {
            self = self.pax("path", path.as_bytes());
        }
        if link.len() > 100 {
            self = self.pax("linkpath", link.as_bytes());
        }
        let pax = std::mem::take(&mut self.pax);
        if !pax.is_empty() {
            let mut header = Header::new_ustar();
            set_name(&mut header, b"pax");
            header.set_entry_type(EntryType::XHeader);
            header.set_size(pax.len() as u64);
            self.push(header, &pax);
        }
        let mut header = Header::new_ustar();
        set_name(&mut header, &path.as_bytes()[..path.len().min(100)]);
        header.as_old_mut().linkname[..link.len().min(100)]
            .copy_from_slice(&link.as_bytes()[..link.len().min(100)]);
        header.set_entry_type(kind);
        let usual = if kind == EntryType::Directory {
            0o755
        } else {
            0o644
        };
        header.set_mode(self.mode.take().unwrap_or(usual));
        let (uid, gid) = self.owner.take().unwrap_or((0, 0));
        header.set_uid(uid);
        header.set_gid(gid);
        header.set_mtime(self.mtime.take().unwrap_or(1_700_000_000));
        header.set_size(data.len() as u64);
        change(&mut header);
        self.push(header, data);
        self
    }

    /// Bytes as they are.
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// With the end mark.
    pub fn finish(self) -> Vec<u8> {
        self.raw(&[0; 1024]).bytes
    }

    pub fn unfinished(self) -> Vec<u8> {
        self.bytes
    }

    fn push(&mut self, mut header: Header, data: &[u8]) {
        header.set_cksum();
        self.bytes.extend_from_slice(header.as_bytes());
        self.bytes.extend_from_slice(data);
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
    }
}

fn set_name(header: &mut Header, name: &[u8]) {
    header.as_old_mut().name[..name.len()].copy_from_slice(name);
}
