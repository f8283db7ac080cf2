// SPDX-License-Identifier: Apache-2.0
//! Kernel parameters that a container asks for. Those of a namespace that the container has for
//! itself are for libcontainer to set in it; the rest are the machine's, and set here.
//!
//! All names are looked up before anything is set. The words are runc's, which Docker shows as they
//! are.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::failure::describe;

const PROC_SYS: &str = "/proc/sys";

/// Of the IPC namespace (ipc_namespaces(7)).
const IPC: &[&str] = &[
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shm_rmid_forced",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
];

#[derive(Debug, thiserror::Error)]
pub enum SysctlError {
    #[error("sysctl {name:?} is no name of a kernel parameter")]
    Name { name: String },
    #[error("open {}: {}", path.display(), describe(*errno))]
    Open { path: PathBuf, errno: Errno },
    #[error("write {}: {}", path.display(), describe(*errno))]
    Write { path: PathBuf, errno: Errno },
}

impl SysctlError {
    /// The kernel does not take `name`'s value.
    #[must_use]
    pub fn refused(name: &str, errno: Errno) -> Self {
        let path = Path::new(PROC_SYS).join(name.replace('.', "/"));
        Self::Write { path, errno }
    }

    #[must_use]
    pub fn errno(&self) -> i32 {
        match self {
            Self::Name { .. } => Errno::INVAL,
            Self::Open { errno, .. } | Self::Write { errno, .. } => *errno,
        }
        .raw_os_error()
    }
}

/// Sets what is the machine's; returns what is to be set in the container's `namespaces`
/// (`CLONE_NEW…`).
///
/// # Errors
/// A name that is none or does not exist: nothing has been set then. A value that the kernel refuses.
pub fn apply(
    wanted: &HashMap<String, String>,
    namespaces: u32,
) -> Result<BTreeMap<String, String>, SysctlError> {
    apply_in(Path::new(PROC_SYS), wanted, namespaces)
}

fn apply_in(
    tree: &Path,
    wanted: &HashMap<String, String>,
    namespaces: u32,
) -> Result<BTreeMap<String, String>, SysctlError> {
    let (mut own, mut machine) = (BTreeMap::new(), Vec::new());
    // In the same order each time, so that of two bad ones the same is named.
    for (name, value) in wanted.iter().collect::<BTreeMap<_, _>>() {
        let path = relative(name)?;
        let fd = open(tree, &path)?;
        if is_namespaced(name, namespaces) {
            own.insert(name.clone(), value.clone());
        } else {
            machine.push((name, fd, value));
        }
    }
    for (name, fd, value) in machine {
        // In one write: the kernel takes each for a whole value.
        rustix::io::write(&fd, value.as_bytes())
            .map_err(|errno| SysctlError::refused(name, errno))?;
    }
    Ok(own)
}

fn is_namespaced(name: &str, namespaces: u32) -> bool {
    let has = |flag: i32| namespaces & flag.cast_unsigned() != 0;
    let ipc = IPC.contains(&name) || name.starts_with("fs.mqueue.");
    (ipc && has(libc::CLONE_NEWIPC))
        || (name == "kernel.domainname" && has(libc::CLONE_NEWUTS))
        || (name.starts_with("net.") && has(libc::CLONE_NEWNET))
}

/// `net.ipv4.ip_forward` is the file `net/ipv4/ip_forward`.
fn relative(name: &str) -> Result<PathBuf, SysctlError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    let is_part = |part: &str| !part.is_empty() && part.chars().all(plain);
    if name.len() < 256 && name.split('.').all(is_part) {
        return Ok(name.replace('.', "/").into());
    }
    let name = name.chars().take(80).collect();
    Err(SysctlError::Name { name })
}

fn open(tree: &Path, path: &Path) -> Result<OwnedFd, SysctlError> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let open = |dir: OwnedFd| rustix::fs::openat2(dir, path, flags, Mode::empty(), resolve);
    let dir = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, tree, dir, Mode::empty())
        .and_then(open)
        .map_err(|errno| SysctlError::Open {
            path: Path::new(PROC_SYS).join(path),
            errno,
        })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn map(pairs: &[(&str, &str)]) -> HashMap<String, String> {
        pairs
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .collect()
    }

    fn tree() -> tempfile::TempDir {
        let tree = tempfile::tempdir().unwrap();
        fs::create_dir_all(tree.path().join("kernel")).unwrap();
        fs::create_dir_all(tree.path().join("vm")).unwrap();
        for file in ["kernel/shmmax", "kernel/pid_max", "vm/swappiness"] {
            fs::write(tree.path().join(file), "").unwrap();
        }
        tree
    }

    #[test]
    fn each_where_it_belongs() {
        let tree = tree();
        let wanted = map(&[("kernel.shmmax", "1"), ("vm.swappiness", "2 3")]);
        let ipc = libc::CLONE_NEWIPC.cast_unsigned();
        let own = apply_in(tree.path(), &wanted, ipc).unwrap();
        assert_eq!(own, [("kernel.shmmax".to_owned(), "1".to_owned())].into());
        let read = |file: &str| fs::read_to_string(tree.path().join(file)).unwrap();
        assert_eq!(
            (read("kernel/shmmax"), read("vm/swappiness")),
            (String::new(), "2 3".into())
        );
        // Without a namespace of its own, that one is the machine's too.
        assert!(apply_in(tree.path(), &wanted, 0).unwrap().is_empty());
        assert_eq!(read("kernel/shmmax"), "1");
    }

    #[test]
    fn what_does_not_exist_is_named_before_anything_is_set() {
        let tree = tree();
        let wanted = map(&[("kernel.pid_max", "1"), ("vm.nosuch", "2")]);
        let error = apply_in(tree.path(), &wanted, 0).unwrap_err();
        assert_eq!(
            error.to_string(),
            "open /proc/sys/vm/nosuch: no such file or directory"
        );
        let pid_max = fs::read_to_string(tree.path().join("kernel/pid_max")).unwrap();
        assert_eq!(pid_max, "");
        let error = apply_in(tree.path(), &map(&[("kernel", "1")]), 0).unwrap_err();
        assert_eq!(error.to_string(), "open /proc/sys/kernel: is a directory");
    }

    #[test]
    fn names_lead_nowhere_else() {
        for bad in [
            "",
            ".",
            "..",
            "a..b",
            "/etc.passwd",
            "a./b",
            "a.b\0",
            ".a",
            "a.",
        ] {
            assert!(
                matches!(relative(bad), Err(SysctlError::Name { .. })),
                "{bad}"
            );
        }
        assert!(relative(&"a".repeat(256)).is_err());
    }
}
