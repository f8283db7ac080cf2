// SPDX-License-Identifier: Apache-2.0
//! Builds images, has fsck.erofs look at each, and tells what a tree holds.
#![allow(dead_code, reason = "each test program uses its part of it")]

pub mod archive;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::{NamedTempFile, TempDir};
use walnut_erofs::{Builder, IMAGE_ALIGN, LayerError, Limits, Summary};

/// An image that fsck.erofs found good.
pub struct Image {
    pub file: NamedTempFile,
    pub summary: Summary,
}

pub fn build(layers: &[Vec<u8>]) -> Result<Image, LayerError> {
    let file = NamedTempFile::new().unwrap();
    let mut builder = Builder::new(file.reopen().unwrap(), Limits::default());
    for layer in layers {
        builder.add_layer(layer.as_slice())?;
    }
    let (_, summary) = builder.finish([7; 16]).unwrap();
    let len = file.as_file().metadata().unwrap().len();
    assert_eq!(len, summary.image_bytes);
    assert_eq!(len % IMAGE_ALIGN, 0);
    let image = Image { file, summary };
    image.fsck(&[]);
    Ok(image)
}

impl Image {
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Panics where there are errors.
    pub fn fsck(&self, args: &[&str]) {
        let mut fsck = Command::new("fsck.erofs");
        fsck.args(args).arg(self.path());
        let Some(output) = run(&mut fsck) else {
            return;
        };
        let text = String::from_utf8_lossy(&output.stderr).into_owned()
            + &String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && !text.contains("<E>"),
            "{fsck:?}:\n{text}"
        );
    }

    /// What fsck.erofs unpacks; it keeps owners only as root, and neither xattrs nor hard links.
    pub fn extract(&self) -> TempDir {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("x");
        self.fsck(&[&format!("--extract={}", root.display())]);
        dir
    }

    /// The image as the kernel shows it; `None` where it can't be mounted, which is said.
    pub fn mount(&self) -> Option<Mount> {
        if !is_root("mounting") {
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "erofs", "-o", "ro"])
            .arg(self.path())
            .arg(dir.path());
        let output = run(&mut mount)?;
        if !output.status.success() {
            skip(&String::from_utf8_lossy(&output.stderr));
            return None;
        }
        Some(Mount { dir })
    }
}

pub struct Mount {
    dir: TempDir,
}

impl Mount {
    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let status = Command::new("umount").arg(self.dir.path()).status();
        assert!(status.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}

/// Whether we may do that; said where not.
pub fn is_root(what: &str) -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        skip(&format!("{what} needs root"));
    }
    is_root
}

pub fn skip(why: &str) {
    let mut err = std::io::stderr().lock();
    writeln!(err, "SKIPPED in part: {}", why.trim()).unwrap();
}

/// `None` where the program is missing, which is said.
fn run(command: &mut Command) -> Option<Output> {
    match command.stdin(Stdio::null()).output() {
        Ok(output) => Some(output),
        Err(error) => {
            skip(&format!("{}: {error}", command.get_program().display()));
            None
        }
    }
}

/// Unpacks layers one over the other with GNU tar; only fit for layers without whiteouts.
pub fn untar(layers: &[Vec<u8>]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for layer in layers {
        let mut tar = Command::new("tar")
            .args([
                "-x",
                "-p",
                "--numeric-owner",
                "--xattrs",
                "--xattrs-include=*",
            ])
            .args(["--overwrite", "--keep-directory-symlink", "-C"])
            .arg(dir.path())
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        tar.stdin.take().unwrap().write_all(layer).unwrap();
        assert!(tar.wait().unwrap().success());
    }
    dir
}

#[derive(Debug, PartialEq, Eq, Clone)]
pub struct Seen {
    pub kind: String,
    pub mode: u32,
    pub owner: (u32, u32),
    pub mtime: (i64, i64),
    pub links: u64,
    pub xattrs: BTreeMap<String, Vec<u8>>,
}

/// All that a tree holds. Of directories neither size nor link count is told: they differ between
/// file systems.
pub fn see(root: &Path) -> BTreeMap<PathBuf, Seen> {
    let mut seen = BTreeMap::new();
    let mut dirs = vec![root.to_path_buf()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let metadata = fs::symlink_metadata(&path).unwrap();
            if metadata.is_dir() {
                dirs.push(path.clone());
            }
            seen.insert(
                path.strip_prefix(root).unwrap().into(),
                look(&path, &metadata),
            );
        }
    }
    seen
}

fn look(path: &Path, metadata: &fs::Metadata) -> Seen {
    let kind = metadata.file_type();
    let what = if kind.is_dir() {
        "dir".into()
    } else if kind.is_symlink() {
        format!(
            "-> {}",
            fs::read_link(path)
                .unwrap()
                .as_os_str()
                .as_bytes()
                .escape_ascii()
        )
    } else if kind.is_char_device() {
        format!("char {}", metadata.rdev())
    } else if kind.is_block_device() {
        format!("block {}", metadata.rdev())
    } else if kind.is_fifo() {
        "fifo".into()
    } else {
        let mut data = Vec::new();
        File::open(path).unwrap().read_to_end(&mut data).unwrap();
        assert_eq!(data.len() as u64, metadata.len());
        let sum = data
            .iter()
            .fold(0u64, |sum, byte| sum.wrapping_mul(31) + u64::from(*byte));
        format!("file {} {sum:x}", data.len())
    };
    Seen {
        kind: what,
        mode: metadata.mode() & 0o7777,
        owner: (metadata.uid(), metadata.gid()),
        mtime: (metadata.mtime(), metadata.mtime_nsec()),
        links: if kind.is_dir() { 0 } else { metadata.nlink() },
        xattrs: xattrs(path),
    }
}

fn xattrs(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut names = vec![0; 1 << 16];
    let len = rustix::fs::llistxattr(path, &mut names).unwrap_or(0);
    let mut found = BTreeMap::new();
    for name in names[..len]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
    {
        let mut value = vec![0; 1 << 16];
        let len = rustix::fs::lgetxattr(path, name, &mut value).unwrap();
        value.truncate(len);
        found.insert(String::from_utf8(name.to_vec()).unwrap(), value);
    }
    found
}
