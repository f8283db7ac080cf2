// SPDX-License-Identifier: Apache-2.0
//! What a template is of. A machine that differs in any of this is another template's.

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::image::Digest;
use crate::network;
use crate::paths::{Artifacts, PathError};
use crate::vm::{Machine, template_cmdline};
use walnut_vmm_config::PmemConfig;

/// The programs and files that a machine is made of, as they are now. What CPU there is the monitor
/// compares by itself.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub struct Made {
    version: String,
    cmdline: String,
    monitor: Stamp,
    kernel: Stamp,
    guest: Stamp,
}

/// One file, told from its successors without being read.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub struct Stamp {
    path: PathBuf,
    device: u64,
    inode: u64,
    size: u64,
    modified_s: i64,
    modified_ns: i64,
}

impl Stamp {
    pub fn of(path: &Path) -> Result<Self, PathError> {
        let meta = fs::metadata(path).map_err(|source| PathError::Inspect {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self {
            path: path.to_owned(),
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.size(),
            modified_s: meta.mtime(),
            modified_ns: meta.mtime_nsec(),
        })
    }
}

impl Made {
    pub fn of(artifacts: &Artifacts) -> Result<Self, PathError> {
        Ok(Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            cmdline: template_cmdline(),
            monitor: Stamp::of(&artifacts.monitor)?,
            kernel: Stamp::of(&artifacts.kernel)?,
            guest: Stamp::of(&artifacts.guest)?,
        })
    }
}

#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub struct Key {
    pub made: Made,
    pub size: Size,
}

/// How large a machine is that can be a template's clone.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub struct Size {
    pub cpus: u8,
    pub memory_mib: u32,
    /// See [`image_room`].
    pub image_room: u64,
    /// It has the network interface that a container has unless it asks for another.
    pub network: bool,
}

impl From<&Machine> for Size {
    fn from(machine: &Machine) -> Self {
        Self {
            cpus: machine.cpus,
            memory_mib: machine.memory_mib,
            image_room: machine.image_room,
            network: network::is_usual(&machine.net),
        }
    }
}

/// Most images are no larger. The guest's kernel keeps 1/64 of it in memory.
pub const LEAST_IMAGE_ROOM: u64 = 128 << 20;

/// The room for images that one template has: a power of two, so that there are few templates.
pub fn image_room(image: Option<&PmemConfig>) -> u64 {
    let len = image.and_then(|image| fs::metadata(&image.path).ok());
    let len = len.map_or(0, |meta| meta.len());
    len.checked_next_power_of_two()
        .map_or(len, |room| room.max(LEAST_IMAGE_ROOM))
}

impl Key {
    pub fn new(artifacts: &Artifacts, size: Size) -> Result<Self, PathError> {
        Ok(Self {
            made: Made::of(artifacts)?,
            size,
        })
    }

    pub fn id(&self) -> Id {
        // Fields in their order, no maps: one key, one document.
        let document = serde_json::to_vec(self).unwrap_or_default();
        Id(Digest::of(&document).hex()[..Id::LEN].to_owned())
    }
}

/// A template's name: the first digits of its key's SHA-256.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Id(String);

impl Id {
    const LEN: usize = 16;

    /// `None` for what is no name of a template.
    pub fn parse(text: &str) -> Option<Self> {
        let is_digit = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
        (text.len() == Self::LEN && text.chars().all(is_digit)).then(|| Self(text.to_owned()))
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for Id {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_kernel_or_another_size_is_another_key() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| {
            let path = dir.path().join(name);
            fs::write(&path, name).unwrap();
            path
        };
        let artifacts = Artifacts {
            monitor: file("monitor"),
            kernel: file("kernel"),
            guest: file("guest"),
        };
        let key = |cpus, memory_mib, network| {
            let image_room = image_room(None);
            let size = Size {
                cpus,
                memory_mib,
                image_room,
                network,
            };
            Key::new(&artifacts, size).unwrap().id()
        };
        let first = key(1, 512, true);
        assert_eq!(first, key(1, 512, true));
        assert_ne!(first, key(2, 512, true));
        assert_ne!(first, key(1, 256, true));
        assert_ne!(first, key(1, 512, false));
        fs::write(&artifacts.kernel, "another").unwrap();
        assert_ne!(first, key(1, 512, true));
        assert_eq!(Id::parse(first.as_ref()), Some(first));
        assert_eq!(Id::parse("../../etc/passwd"), None);
    }
}
