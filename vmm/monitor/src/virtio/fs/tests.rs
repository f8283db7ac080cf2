// SPDX-License-Identifier: Apache-2.0
//! The device against a small FUSE client: what a guest's kernel would send, and what it would not.

mod hostile;
mod volumes;

use std::ffi::CStr;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use virtiofsd::filesystem::{FsOptions, OpenOptions};
use virtiofsd::fuse::{
    CreateIn, EntryOut, FsyncIn, GetxattrIn, InHeader, InitInCompat, InitInExt, InitOut, LinkIn,
    MkdirIn, MknodIn, Opcode, OpenIn, OpenOut, OutHeader, ROOT_ID, ReadIn, RenameIn, SetattrIn,
    SetxattrIn, WriteIn, WriteOut,
};
use vm_memory::ByteValued;
use walnut_vmm_config::{FsConfig, FsSource, Owner};

use super::{Fs, FsError, QUEUE_SIZES};
use crate::virtio::VirtioDevice;
use crate::virtio::test_driver::Driver;

const REQUESTS: usize = 1;

struct Client {
    driver: Driver,
    device: Fs,
    unique: u64,
    /// As whom the guest acts.
    ids: (u32, u32),
}

fn config(tag: &str, source: FsSource) -> FsConfig {
    FsConfig {
        tag: tag.to_owned(),
        source,
        owner: Owner::default(),
    }
}

/// What the server said: a reply's body, or the number of an error.
type Answer = Result<Vec<u8>, i32>;

impl Client {
    /// Mounts `root`.
    fn new(root: &Path) -> Self {
        let mut client = Self::idle(FsSource::Directory(root.to_owned()));
        client.init();
        client
    }

    fn idle(source: FsSource) -> Self {
        Self::of(&config("test", source))
    }

    fn of(config: &FsConfig) -> Self {
        let mut client = Self {
            driver: Driver::new(QUEUE_SIZES),
            device: Fs::new(config).unwrap(),
            unique: 0,
            ids: (0, 0),
        };
        client.reset();
        client
    }

    /// A reset, and the driver's second coming.
    fn reset(&mut self) {
        self.driver.activate(&mut self.device, 0);
    }

    fn init(&mut self) -> FsOptions {
        self.init_with(FsOptions::all()).unwrap()
    }

    fn init_with(&mut self, capable: FsOptions) -> Result<FsOptions, i32> {
        let all = capable.bits();
        let compat = InitInCompat {
            major: 7,
            minor: 38,
            max_readahead: 1 << 17,
            flags: (all & 0xffff_ffff) as u32,
        };
        let ext = InitInExt {
            flags2: (all >> 32) as u32,
            ..InitInExt::default()
        };
        let body = [compat.as_slice(), ext.as_slice()].concat();
        let out: InitOut = object(&self.call(Opcode::Init, 0, &body, 1024)?);
        assert_eq!(out.major, 7);
        let flags = u64::from(out.flags) | u64::from(out.flags2) << 32;
        Ok(FsOptions::from_bits_truncate(flags))
    }

    fn call(&mut self, opcode: Opcode, nodeid: u64, body: &[u8], room: u32) -> Answer {
        self.unique += 1;
        let header = self.header(opcode as u32, nodeid, body.len());
        let readable: [&[u8]; 2] = [header.as_slice(), body];
        let reply = self.driver.request(REQUESTS, &readable, &[16, room]);
        let out: OutHeader = object(&reply.written);
        assert_eq!(out.unique, self.unique);
        assert_eq!(out.len, reply.len);
        match out.error {
            0 => Ok(reply.written[16..reply.len as usize].to_vec()),
            error => Err(-error),
        }
    }

    fn header(&self, opcode: u32, nodeid: u64, body: usize) -> InHeader {
        InHeader {
            len: u32::try_from(size_of::<InHeader>() + body).unwrap(),
            opcode,
            unique: self.unique,
            nodeid,
            uid: self.ids.0.into(),
            gid: self.ids.1.into(),
            ..InHeader::default()
        }
    }

    fn entry(&mut self, opcode: Opcode, nodeid: u64, body: &[u8]) -> Result<EntryOut, i32> {
        self.call(opcode, nodeid, body, 256)
            .map(|reply| object(&reply))
    }

    fn lookup(&mut self, parent: u64, name: &CStr) -> Result<EntryOut, i32> {
        self.entry(Opcode::Lookup, parent, name.to_bytes_with_nul())
    }

    fn create(&mut self, parent: u64, name: &CStr, mode: u32) -> Result<(EntryOut, u64), i32> {
        let create = CreateIn {
            flags: libc::O_RDWR.unsigned_abs(),
            mode: mode | libc::S_IFREG,
            ..CreateIn::default()
        };
        let body = [create.as_slice(), name.to_bytes_with_nul()].concat();
        let reply = self.call(Opcode::Create, parent, &body, 512)?;
        let (entry, open) = reply.split_at(size_of::<EntryOut>());
        Ok((object(entry), object::<OpenOut>(open).fh))
    }

    fn open(&mut self, opcode: Opcode, nodeid: u64, flags: i32) -> Result<u64, i32> {
        Ok(self.opened(opcode, nodeid, flags)?.fh)
    }

    fn opened(&mut self, opcode: Opcode, nodeid: u64, flags: i32) -> Result<OpenOut, i32> {
        let open = OpenIn {
            flags: flags.unsigned_abs(),
            open_flags: 0,
        };
        Ok(object(&self.call(opcode, nodeid, open.as_slice(), 64)?))
    }

    fn write(&mut self, nodeid: u64, fh: u64, offset: u64, data: &[u8]) -> Result<u32, i32> {
        let write = WriteIn {
            fh,
            offset,
            size: u32::try_from(data.len()).unwrap(),
            ..WriteIn::default()
        };
        let body = [write.as_slice(), data].concat();
        let reply = self.call(Opcode::Write, nodeid, &body, 64)?;
        Ok(object::<WriteOut>(&reply).size)
    }

    fn read(&mut self, opcode: Opcode, nodeid: u64, fh: u64, offset: u64, size: u32) -> Answer {
        let read = ReadIn {
            fh,
            offset,
            size,
            ..ReadIn::default()
        };
        self.call(opcode, nodeid, read.as_slice(), size)
    }

    /// A message without room for a reply, over the high-priority queue.
    fn tell(&mut self, opcode: Opcode, nodeid: u64, body: &[u8]) {
        let header = self.header(opcode as u32, nodeid, body.len());
        let reply = self.driver.request(0, &[header.as_slice(), body], &[]);
        assert_eq!(reply.len, 0);
    }
}

fn object<T: ByteValued + Default>(bytes: &[u8]) -> T {
    let mut object = T::default();
    object
        .as_mut_slice()
        .copy_from_slice(&bytes[..size_of::<T>()]);
    object
}

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn config_space_has_tag_and_one_request_queue() {
    let root = directory();
    let device = Client::idle(FsSource::Directory(root.path().to_owned())).device;
    let bytes = device.config();
    assert_eq!(&bytes[..5], b"test\0");
    assert_eq!(bytes[5..36], [0; 31]);
    assert_eq!(bytes[36..], 1u32.to_le_bytes());
}

#[test]
fn bad_configurations_are_named() {
    let new = |tag: &str, source| Fs::new(&config(tag, source)).err();
    let here = || FsSource::Directory("/".into());
    assert!(matches!(new("", here()), Some(FsError::Tag { .. })));
    assert!(matches!(
        new(&"t".repeat(37), here()),
        Some(FsError::Tag { .. })
    ));
    assert!(new(&"t".repeat(36), here()).is_none());
    let file = FsSource::Directory("/proc/version".into());
    assert!(matches!(new("t", file), Some(FsError::Open { .. })));
    let unprepared = FsSource::Volumes(Vec::new());
    assert!(matches!(
        new("t", unprepared),
        Some(FsError::Unprepared { .. })
    ));
}

#[test]
fn what_is_offered() {
    let root = directory();
    let mut client = Client::idle(FsSource::Directory(root.path().to_owned()));
    let options = client.init();
    for wanted in [
        FsOptions::DO_READDIRPLUS,
        FsOptions::SUBMOUNTS,
        FsOptions::HANDLE_KILLPRIV_V2,
        FsOptions::POSIX_ACL,
    ] {
        assert!(options.contains(wanted), "{wanted:?}");
    }
    let old = FsOptions::all() - FsOptions::SUBMOUNTS;
    assert_eq!(client.init_with(old), Err(libc::EPROTO));
    // Locks stay in the guest; writes are not held back there.
    for unwanted in [
        FsOptions::POSIX_LOCKS,
        FsOptions::FLOCK_LOCKS,
        FsOptions::WRITEBACK_CACHE,
    ] {
        assert!(!options.contains(unwanted), "{unwanted:?}");
    }
}

#[test]
fn files_are_created_written_read_and_forgotten() {
    let root = directory();
    let mut client = Client::new(root.path());
    let (entry, fh) = client.create(ROOT_ID, c"file", 0o640).unwrap();
    assert_eq!(client.write(entry.nodeid, fh, 3, b"walnut").unwrap(), 6);
    let read = client
        .read(Opcode::Read, entry.nodeid, fh, 0, 4096)
        .unwrap();
    assert_eq!(read, b"\0\0\0walnut");
    let path = root.path().join("file");
    assert_eq!(fs::read(&path).unwrap(), b"\0\0\0walnut");
    // Whatever the umask of the monitor.
    assert_eq!(path.metadata().unwrap().mode() & 0o7777, 0o640);
    let fsync = FsyncIn {
        fh,
        ..FsyncIn::default()
    };
    client
        .call(Opcode::Fsync, entry.nodeid, fsync.as_slice(), 64)
        .unwrap();
    client.tell(Opcode::Forget, entry.nodeid, &1u64.to_le_bytes());
    let gone = client.call(Opcode::Getattr, entry.nodeid, &[0; 16], 256);
    assert_eq!(gone, Err(libc::EBADF));
    let batch = [1u64.to_le_bytes(), 77u64.to_le_bytes(), 1u64.to_le_bytes()].concat();
    client.tell(Opcode::BatchForget, 0, &batch);
}

#[test]
fn closing_what_was_only_read_is_no_message() {
    let root = directory();
    fs::write(root.path().join("file"), "walnut").unwrap();
    let mut client = Client::new(root.path());
    let file = client.lookup(ROOT_ID, c"file").unwrap().nodeid;
    for (flags, noflush) in [
        (libc::O_RDONLY, true),
        (libc::O_RDONLY | libc::O_CLOEXEC, true),
        (libc::O_WRONLY, false),
        (libc::O_RDWR | libc::O_TRUNC, false),
    ] {
        let opened = client.opened(Opcode::Open, file, flags).unwrap();
        let options = OpenOptions::from_bits(opened.open_flags).unwrap();
        let which = format!("{flags:#o}: {options:?}");
        assert_eq!(options.contains(OpenOptions::NOFLUSH), noflush, "{which}");
    }
}

#[test]
fn a_directory_is_synced_and_read_again_and_again() {
    let root = directory();
    for index in 0..300 {
        fs::write(root.path().join(format!("file-{index:03}")), "").unwrap();
    }
    let mut client = Client::new(root.path());
    let flags = libc::O_RDONLY | libc::O_DIRECTORY;
    let fh = client.open(Opcode::Opendir, ROOT_ID, flags).unwrap();
    let fsync = FsyncIn {
        fh,
        ..FsyncIn::default()
    };
    // PostgreSQL, for one, stops when this is ENOSYS.
    client
        .call(Opcode::Fsyncdir, ROOT_ID, fsync.as_slice(), 64)
        .unwrap();
    let (mut offset, mut names) = (0, 0);
    loop {
        let entries = client
            .read(Opcode::Readdir, ROOT_ID, fh, offset, 1024)
            .unwrap();
        if entries.is_empty() {
            break;
        }
        let mut at = 0;
        while at < entries.len() {
            // struct fuse_dirent { u64 ino, off; u32 namelen, type; char name[]; }, padded to 8.
            offset = u64::from_le_bytes(entries[at + 8..at + 16].try_into().unwrap());
            let len = u32::from_le_bytes(entries[at + 16..at + 20].try_into().unwrap());
            at += (24 + len as usize).next_multiple_of(8);
            names += 1;
        }
    }
    assert_eq!(names, 302);
}

#[test]
fn links_do_not_lead_out() {
    let (root, outside) = (directory(), directory());
    fs::write(outside.path().join("secret"), "").unwrap();
    symlink(outside.path(), root.path().join("link")).unwrap();
    let mut client = Client::new(root.path());
    let link = client.lookup(ROOT_ID, c"link").unwrap();
    assert_eq!(link.attr.mode & libc::S_IFMT, libc::S_IFLNK);
    assert!(client.lookup(link.nodeid, c"secret").is_err());
    for name in [c"link/secret", c"..", c".", c"../..", c"/etc", c""] {
        assert_eq!(client.lookup(ROOT_ID, name).err(), Some(libc::EINVAL));
    }
    let escape = c"link/new".to_bytes_with_nul();
    let mkdir = [MkdirIn::default().as_slice(), escape].concat();
    let mknod = [MknodIn::default().as_slice(), escape].concat();
    let rename = [RenameIn { newdir: ROOT_ID }.as_slice(), b"file\0", escape].concat();
    let away = [
        RenameIn { newdir: ROOT_ID }.as_slice(),
        b"link/secret\0",
        b"mine\0",
    ]
    .concat();
    let own = client.create(ROOT_ID, c"file", 0o600).unwrap().0.nodeid;
    let link = [LinkIn { oldnodeid: own }.as_slice(), escape].concat();
    for (opcode, body) in [
        (Opcode::Mkdir, mkdir.as_slice()),
        (Opcode::Mknod, &mknod),
        (Opcode::Rename, &rename),
        (Opcode::Rename, &away),
        (Opcode::Link, &link),
        (Opcode::Symlink, b"link/new\0target\0"),
        (Opcode::Unlink, b"link/secret\0"),
        (Opcode::Rmdir, b"link/secret\0"),
    ] {
        let refused = client.call(opcode, ROOT_ID, body, 256);
        assert_eq!(refused, Err(libc::EINVAL), "{opcode:?}");
    }
    let refused = client.create(ROOT_ID, c"link/new", 0o600);
    assert_eq!(refused.err(), Some(libc::EINVAL));
    assert_eq!(outside.path().read_dir().unwrap().count(), 1);
}

#[test]
fn a_reset_begins_a_new_session() {
    let root = directory();
    let mut client = Client::new(root.path());
    let (entry, fh) = client.create(ROOT_ID, c"file", 0o600).unwrap();
    client.reset();
    // Nothing is known before FUSE_INIT, and nothing of before the reset after it.
    assert_eq!(client.lookup(ROOT_ID, c"file").err(), Some(libc::EBADF));
    client.init();
    let read = client.read(Opcode::Read, entry.nodeid, fh, 0, 16);
    assert_eq!(read, Err(libc::EBADF));
    client.lookup(ROOT_ID, c"file").unwrap();
}

#[test]
fn an_access_control_list_is_kept() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("skipped: needs root");
    }
    let root = directory();
    let mut client = Client::new(root.path());
    let (entry, _) = client.create(ROOT_ID, c"file", 0o600).unwrap();
    let entries: [(u16, u16, u32); 5] = [
        (1, 6, u32::MAX),    // user::rw-
        (2, 4, 77),          // user:77:r--
        (4, 0, u32::MAX),    // group::---
        (0x10, 4, u32::MAX), // mask::r--
        (0x20, 0, u32::MAX), // other::---
    ];
    let mut list = 2u32.to_le_bytes().to_vec();
    for (tag, allowed, id) in entries {
        list.extend(tag.to_le_bytes());
        list.extend(allowed.to_le_bytes());
        list.extend(id.to_le_bytes());
    }
    let name = b"system.posix_acl_access\0";
    let size = u32::try_from(list.len()).unwrap();
    let set = SetxattrIn {
        size,
        ..SetxattrIn::default()
    };
    let body = [set.as_slice(), name, &list].concat();
    client
        .call(Opcode::Setxattr, entry.nodeid, &body, 64)
        .unwrap();
    let get = GetxattrIn { size, padding: 0 };
    let body = [get.as_slice(), name].concat();
    let got = client.call(Opcode::Getxattr, entry.nodeid, &body, size);
    assert_eq!(got, Ok(list));
    let mode = root.path().join("file").metadata().unwrap().mode();
    assert_eq!(mode & 0o777, 0o640);
}

#[test]
fn a_saved_session_goes_on() {
    let root = directory();
    let mut client = Client::new(root.path());
    let dir = MkdirIn {
        mode: 0o700,
        umask: 0,
    };
    let dir = [dir.as_slice(), b"dir\0"].concat();
    let dir = client.entry(Opcode::Mkdir, ROOT_ID, &dir).unwrap().nodeid;
    let (entry, fh) = client.create(dir, c"file", 0o600).unwrap();
    client.write(entry.nodeid, fh, 0, b"walnut").unwrap();
    let (lost, lost_fh) = client.create(dir, c"lost", 0o600).unwrap();
    client
        .call(Opcode::Unlink, dir, c"lost".to_bytes_with_nul(), 64)
        .unwrap();
    let saved = client.driver.handler().save().unwrap();
    client.reset();
    client.driver.handler().restore(saved.clone()).unwrap();
    // A session that nobody went on with yet can be saved again.
    assert_eq!(client.driver.handler().save().unwrap(), saved);
    let read = client.read(Opcode::Read, entry.nodeid, fh, 0, 64);
    assert_eq!(read, Ok(b"walnut".to_vec()));
    assert_eq!(client.write(entry.nodeid, fh, 6, b"!"), Ok(1));
    client.create(dir, c"more", 0o600).unwrap();
    // What had no name any more is gone, and only that.
    let read = client.read(Opcode::Read, lost.nodeid, lost_fh, 0, 64);
    assert!(read.is_err());
    client.tell(Opcode::Forget, entry.nodeid, &1u64.to_le_bytes());
}

#[test]
fn a_session_before_its_first_message_is_nothing() {
    let root = directory();
    let mut client = Client::idle(FsSource::Directory(root.path().to_owned()));
    let saved = client.driver.handler().save().unwrap();
    assert!(saved.is_null());
    client.driver.handler().restore(saved).unwrap();
    client.init();
    for bad in ["true", "[1, 2]", "\"xyz\""] {
        client.reset();
        let bad = serde_json::from_str(bad).unwrap();
        assert!(client.driver.handler().restore(bad).is_err());
    }
    client.reset();
    let bad = serde_json::Value::String("00ff".to_owned());
    client.driver.handler().restore(bad).unwrap();
    let getattr = client.call(Opcode::Getattr, ROOT_ID, &[0; 16], 256);
    assert_eq!(getattr, Err(libc::EIO));
}

#[test]
fn a_monitor_of_root_acts_as_the_guests_users() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("skipped: needs root");
    }
    let root = directory();
    fs::set_permissions(root.path(), fs::Permissions::from_mode(0o1777)).unwrap();
    let mut client = Client::new(root.path());
    client.ids = (1234, 2345);
    let (entry, _) = client.create(ROOT_ID, c"theirs", 0o600).unwrap();
    assert_eq!(entry.attr.uid, 1234.into());
    let metadata = root.path().join("theirs").metadata().unwrap();
    assert_eq!((metadata.uid(), metadata.gid()), (1234, 2345));
    client.ids = (0, 0);
    let chown = SetattrIn {
        valid: 1 << 1,
        uid: 77.into(),
        ..SetattrIn::default()
    };
    client
        .call(Opcode::Setattr, entry.nodeid, chown.as_slice(), 256)
        .unwrap();
    assert_eq!(root.path().join("theirs").metadata().unwrap().uid(), 77);
    let node = MknodIn {
        mode: libc::S_IFIFO | 0o600,
        ..MknodIn::default()
    };
    let body = [node.as_slice(), b"fifo\0"].concat();
    let fifo = client.entry(Opcode::Mknod, ROOT_ID, &body).unwrap();
    // The guest's kernel has FIFOs of its own; opening one here could block for ever.
    assert_eq!(
        client.open(Opcode::Open, fifo.nodeid, libc::O_RDONLY),
        Err(libc::EBADF)
    );
    let dir = MkdirIn {
        mode: 0o755,
        umask: 0,
    };
    let body = [dir.as_slice(), b"dir\0"].concat();
    client.entry(Opcode::Mkdir, ROOT_ID, &body).unwrap();
}
