// SPDX-License-Identifier: Apache-2.0
//! The emulated host's initramfs: the `emulated-host` binary itself as `/init`, and the modules that it needs
//! before it can see the file system outside. Cached by the hash of both.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::kernel::HostKernel;
use super::modules::{self, ModuleError};
use crate::place;

/// Loaded up front. Anything else (netfilter, say) the kernel asks modprobe for, when it is needed.
const MODULES: &[&str] = &[
    "virtio_pci",
    "virtio_console",
    "9p",
    "9pnet_virtio",
    "overlay",
    "kvm_amd",
    "tun",
    "fuse",
    "loop",
    "bridge",
    "veth",
];

#[derive(Debug, thiserror::Error)]
pub enum InitramfsError {
    #[error(transparent)]
    Module(#[from] ModuleError),
    #[error("can't read {}, the program that is to be PID 1", path.display())]
    Program { path: PathBuf, source: io::Error },
    #[error("can't write the initramfs in {}", path.display())]
    Cache { path: PathBuf, source: io::Error },
}

/// The initramfs for this kernel and this program, made if it isn't in the cache.
pub(super) fn initramfs(kernel: &HostKernel, program: &Path) -> Result<PathBuf, InitramfsError> {
    let cache = place::cache().join("host-initramfs");
    let in_cache = |source| InitramfsError::Cache {
        path: cache.clone(),
        source,
    };
    let init = fs::read(program).map_err(|source| InitramfsError::Program {
        path: program.into(),
        source,
    })?;
    let mut hash = Sha256::new();
    hash.update(&init);
    hash.update(kernel.modules.as_os_str().as_encoded_bytes());
    let key: String = hash
        .finalize()
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let path = cache.join(format!("{key}.cpio"));

    let _lock = place::lock(&cache).map_err(in_cache)?;
    if !path.exists() {
        drop_old(&cache).map_err(in_cache)?;
        let modules = modules::in_load_order(&kernel.modules, MODULES)?;
        let mut cpio = Cpio::default();
        for directory in ["dev", "proc", "sys", "modules", "host", "overlay", "root"] {
            cpio.add(directory, 0o040_755, (0, 0), &[]);
        }
        cpio.add("dev/console", 0o020_600, (5, 1), &[]);
        for (n, module) in modules.iter().enumerate() {
            cpio.add(
                &format!("modules/{n:03}-{}", module.name),
                0o100_644,
                (0, 0),
                &module.bytes,
            );
        }
        cpio.add("init", 0o100_755, (0, 0), &init);
        let temporary = cache.join("tmp");
        fs::write(&temporary, cpio.finish()).map_err(in_cache)?;
        fs::rename(&temporary, &path).map_err(in_cache)?;
    }
    Ok(path)
}

/// Each build of this program leaves an initramfs here. The last few stay: somebody may be about
/// to boot one.
fn drop_old(cache: &Path) -> io::Result<()> {
    const KEPT: usize = 8;
    let mut found: Vec<PathBuf> = fs::read_dir(cache)?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "cpio")
        })
        .collect();
    found.sort_by_key(|path| fs::metadata(path).and_then(|m| m.modified()).ok());
    let excess = found.len().saturating_sub(KEPT);
    found.iter().take(excess).try_for_each(fs::remove_file)
}

/// A cpio archive of the "newc" kind (kernel: Documentation/driver-api/early-userspace/buffer-format.rst).
#[derive(Default)]
struct Cpio {
    bytes: Vec<u8>,
    inode: u32,
}

impl Cpio {
    fn add(&mut self, name: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        self.inode += 1;
        let links = 1;
        let fields = [
            self.inode,
            mode,
            0, // uid
            0, // gid
            links,
            0, // mtime
            u32::try_from(content.len()).expect("no file here comes near 4 GiB"),
            0, // device of the file itself
            0,
            device.0,
            device.1,
            u32::try_from(name.len() + 1).expect("names are short"),
            0, // checksum: only in the "crc" kind
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes
                .extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.add("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_110_bytes_and_everything_is_aligned() {
        let mut cpio = Cpio::default();
        cpio.add("init", 0o100_755, (0, 0), b"12345");
        let bytes = cpio.finish();
        assert_eq!(bytes.get(..14), Some(b"07070100000001".as_slice()));
        // Header and "init\0" make 115, padded to 116; five bytes of content, padded to 124.
        assert_eq!(bytes.get(116..121), Some(b"12345".as_slice()));
        assert_eq!(bytes.get(124..130), Some(b"070701".as_slice()));
        assert_eq!(bytes.len() % 4, 0);
    }
}
