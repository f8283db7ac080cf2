// SPDX-License-Identifier: Apache-2.0
//! A layer: a list of entries that becomes a tar.

use std::io::{self, Write};

use tar::{Builder, EntryType, Header};

/// One entry of a layer. Paths are relative, as in any layer.
#[derive(Clone, Debug)]
pub enum Entry {
    Directory {
        path: String,
        mode: u32,
        uid: u64,
        gid: u64,
    },
    File {
        path: String,
        mode: u32,
        uid: u64,
        gid: u64,
        content: Vec<u8>,
    },
    Symlink {
        path: String,
        target: String,
    },
    Hardlink {
        path: String,
        target: String,
    },
}

impl Entry {
    #[must_use]
    pub fn directory(path: &str, mode: u32) -> Self {
        Self::Directory {
            path: path.into(),
            mode,
            uid: 0,
            gid: 0,
        }
    }

    #[must_use]
    pub fn file(path: &str, mode: u32, content: impl Into<Vec<u8>>) -> Self {
        Self::File {
            path: path.into(),
            mode,
            uid: 0,
            gid: 0,
            content: content.into(),
        }
    }

    #[must_use]
    pub fn symlink(path: &str, target: &str) -> Self {
        Self::Symlink {
            path: path.into(),
            target: target.into(),
        }
    }

    /// Puts an owner other than root on a directory or a file.
    #[must_use]
    pub fn owned(mut self, owner: u64) -> Self {
        match &mut self {
            Self::Directory { uid, gid, .. } | Self::File { uid, gid, .. } => {
                *uid = owner;
                *gid = owner;
            }
            Self::Symlink { .. } | Self::Hardlink { .. } => {}
        }
        self
    }
}

/// A layer's entries, in tar order.
#[derive(Clone, Debug, Default)]
pub struct Layer(pub Vec<Entry>);

impl Layer {
    /// The uncompressed tar; the same bytes each time.
    ///
    /// # Errors
    /// What `out` said.
    pub fn write_tar(&self, out: impl Write) -> io::Result<()> {
        let mut tar = Builder::new(out);
        for entry in &self.0 {
            append(&mut tar, entry)?;
        }
        tar.into_inner()?.flush()
    }
}

fn append(tar: &mut Builder<impl Write>, entry: &Entry) -> io::Result<()> {
    let mut header = Header::new_gnu();
    header.set_mtime(0);
    header.set_size(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mode(0o777);
    match entry {
        Entry::Directory {
            path,
            mode,
            uid,
            gid,
        } => {
            header.set_entry_type(EntryType::Directory);
            header.set_mode(*mode);
            header.set_uid(*uid);
            header.set_gid(*gid);
            tar.append_data(&mut header, format!("{path}/"), io::empty())
        }
        Entry::File {
            path,
            mode,
            uid,
            gid,
            content,
        } => {
            header.set_entry_type(EntryType::Regular);
            header.set_mode(*mode);
            header.set_uid(*uid);
            header.set_gid(*gid);
            header.set_size(content.len() as u64);
            if path.starts_with('/') || path.split('/').any(|name| name == "..") {
                // The crate would not write such a path: only a test wants it.
                header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
                header.set_cksum();
                return tar.append(&header, content.as_slice());
            }
            tar.append_data(&mut header, path, content.as_slice())
        }
        Entry::Symlink { path, target } => {
            header.set_entry_type(EntryType::Symlink);
            tar.append_link(&mut header, path, target)
        }
        Entry::Hardlink { path, target } => {
            header.set_entry_type(EntryType::Link);
            tar.append_link(&mut header, path, target)
        }
    }
}

const PASSWD: &str = "\
root:x:0:0:root:/root:/bin/sh
alice:x:1000:1000:Alice:/home/alice:/bin/sh
nobody:x:65534:65534:nobody:/nonexistent:/bin/false
";

const GROUP: &str = "\
root:x:0:
wheel:x:10:root,alice
alice:x:1000:
nogroup:x:65534:
";

/// The applets that get a name of their own in `/bin`; any other is `busybox APPLET`.
const APPLETS: &[&str] = &[
    "[",
    "ash",
    "awk",
    "base64",
    "basename",
    "cat",
    "chgrp",
    "chmod",
    "chown",
    "chroot",
    "cmp",
    "cp",
    "cut",
    "date",
    "dd",
    "df",
    "diff",
    "dirname",
    "dmesg",
    "du",
    "echo",
    "env",
    "expr",
    "false",
    "find",
    "free",
    "grep",
    "gunzip",
    "gzip",
    "head",
    "hostname",
    "id",
    "ifconfig",
    "ip",
    "kill",
    "killall",
    "ln",
    "ls",
    "md5sum",
    "mkdir",
    "mkfifo",
    "mknod",
    "mktemp",
    "more",
    "mount",
    "mv",
    "nc",
    "nproc",
    "nslookup",
    "od",
    "pgrep",
    "pidof",
    "ping",
    "printf",
    "ps",
    "pwd",
    "readlink",
    "realpath",
    "reset",
    "rm",
    "rmdir",
    "route",
    "sed",
    "seq",
    "setsid",
    "sh",
    "sha256sum",
    "sleep",
    "sort",
    "stat",
    "stty",
    "sync",
    "tail",
    "tar",
    "tee",
    "test",
    "time",
    "timeout",
    "top",
    "touch",
    "tr",
    "true",
    "truncate",
    "tty",
    "ulimit",
    "umount",
    "uname",
    "uniq",
    "unshare",
    "uptime",
    "usleep",
    "vi",
    "wc",
    "wget",
    "which",
    "whoami",
    "xargs",
    "yes",
];

/// A small root file system around a static busybox.
pub(super) fn busybox(binary: Vec<u8>) -> Layer {
    let mut entries = vec![
        Entry::directory("bin", 0o755),
        Entry::file("bin/busybox", 0o755, binary),
        Entry::directory("etc", 0o755),
        Entry::file("etc/passwd", 0o644, PASSWD),
        Entry::file("etc/group", 0o644, GROUP),
        Entry::file(
            "etc/os-release",
            0o644,
            "ID=busybox\nPRETTY_NAME=\"walnut test image\"\n",
        ),
        Entry::directory("home", 0o755),
        Entry::directory("home/alice", 0o750).owned(1000),
        Entry::directory("root", 0o700),
        Entry::directory("dev", 0o755),
        Entry::directory("proc", 0o555),
        Entry::directory("sys", 0o555),
        Entry::directory("tmp", 0o1777),
        Entry::directory("var", 0o755),
        Entry::directory("var/tmp", 0o1777),
        Entry::directory("usr", 0o755),
        Entry::symlink("usr/bin", "../bin"),
    ];
    entries.extend(
        APPLETS
            .iter()
            .map(|name| Entry::symlink(&format!("bin/{name}"), "busybox")),
    );
    Layer(entries)
}
