// SPDX-License-Identifier: Apache-2.0
//! Mounts that the host asks for, before a container or for one: mount(2) with its target made
//! first, undone in reverse.
//!
//! RPC threads. Targets and sources in the guest's tree are opened through no symbolic link and
//! mounted by descriptor, so that nothing inside an image already mounted can lead elsewhere.

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use walnut_protocol::agent::MountPoint;

use crate::block;
use crate::paths::{self, GuestPath, PathError};

/// Most mounts that one request may name.
const MAX_MOUNTS: usize = 256;

/// Why a mount was not made.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    #[error("{count} mounts in one request are more than {MAX_MOUNTS}")]
    TooMany { count: usize },
    #[error("mount {fstype} on {target}")]
    Path {
        fstype: String,
        target: String,
        source: PathError,
    },
    #[error("mount {fstype} on {target}: a zero byte in its source, type or options")]
    ZeroByte { fstype: String, target: String },
    #[error("mount {source_name:?} ({fstype}) on {target}")]
    Mount {
        source_name: String,
        fstype: String,
        target: String,
        source: Errno,
    },
}

impl MountError {
    #[must_use]
    pub fn errno(&self) -> i32 {
        match self {
            Self::TooMany { .. } | Self::ZeroByte { .. } => Errno::INVAL.raw_os_error(),
            Self::Path { source, .. } => source.errno(),
            Self::Mount { source, .. } => source.raw_os_error(),
        }
    }
}

/// Mounts made, to be undone together.
#[derive(Debug, Default)]
pub struct Mounts(Vec<GuestPath>);

impl Mounts {
    /// Makes `points` in their order; all or none.
    ///
    /// # Errors
    /// The first that can't be made.
    pub fn make(points: &[MountPoint]) -> Result<Self, MountError> {
        if points.len() > MAX_MOUNTS {
            return Err(MountError::TooMany {
                count: points.len(),
            });
        }
        let mut made = Self::default();
        for point in points {
            match mount(point) {
                Ok(target) => made.0.push(target),
                Err(error) => {
                    made.undo();
                    return Err(error);
                }
            }
        }
        Ok(made)
    }

    /// Adds `later`'s mounts after these.
    pub fn append(&mut self, mut later: Self) {
        self.0.append(&mut later.0);
    }

    /// Gives those on `targets` away.
    #[must_use]
    pub fn split(&mut self, targets: &[String]) -> Self {
        let wanted = |path: &GuestPath| targets.iter().any(|t| path.as_path() == Path::new(t));
        Self(self.0.extract_if(.., |path| wanted(path)).collect())
    }

    /// Unmounts, last first. What is still in use vanishes from the tree and ends with its users.
    pub fn undo(&mut self) {
        for target in self.0.drain(..).rev() {
            let path = target.as_path();
            let mut done = rustix::mount::unmount(path, UnmountFlags::NOFOLLOW);
            if done == Err(Errno::BUSY) {
                done = rustix::mount::unmount(path, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH);
            }
            if let Err(error) = done {
                log::warn!("unmount {}: {error}", path.display());
            }
        }
    }
}

/// The options of mount(8), parted into what the kernel takes as what.
#[derive(Debug, Default, PartialEq, Eq)]
struct Options {
    flags: u32,
    bind: bool,
    recursive: bool,
    propagation: Option<u32>,
    data: Vec<String>,
}

impl Options {
    fn parse(options: &[String]) -> Self {
        let mut parsed = Self::default();
        for option in options {
            match option.as_str() {
                "bind" => parsed.bind = true,
                "rbind" => (parsed.bind, parsed.recursive) = (true, true),
                name => match (flag(name), propagation(name)) {
                    (Some((flag, true)), _) => parsed.flags |= flag.bits(),
                    (Some((flag, false)), _) => parsed.flags &= !flag.bits(),
                    (None, Some(flags)) => parsed.propagation = Some(flags),
                    (None, None) => parsed.data.push(name.into()),
                },
            }
        }
        parsed
    }

    fn flags(&self) -> MountFlags {
        MountFlags::from_bits_retain(self.flags)
    }

    /// `key`'s value among the file system's own options.
    fn value(&self, key: &str) -> Option<&str> {
        self.data
            .iter()
            .find_map(|option| option.strip_prefix(key)?.strip_prefix('='))
    }
}

/// A flag by its name in mount(8), and whether the name sets or clears it.
fn flag(name: &str) -> Option<(MountFlags, bool)> {
    Some(match name {
        "defaults" => (MountFlags::empty(), true),
        "ro" => (MountFlags::RDONLY, true),
        "rw" => (MountFlags::RDONLY, false),
        "nosuid" => (MountFlags::NOSUID, true),
        "suid" => (MountFlags::NOSUID, false),
        "nodev" => (MountFlags::NODEV, true),
        "dev" => (MountFlags::NODEV, false),
        "noexec" => (MountFlags::NOEXEC, true),
        "exec" => (MountFlags::NOEXEC, false),
        "sync" => (MountFlags::SYNCHRONOUS, true),
        "async" => (MountFlags::SYNCHRONOUS, false),
        "dirsync" => (MountFlags::DIRSYNC, true),
        "noatime" => (MountFlags::NOATIME, true),
        "nodiratime" => (MountFlags::NODIRATIME, true),
        "relatime" => (MountFlags::RELATIME, true),
        "strictatime" => (MountFlags::STRICTATIME, true),
        "lazytime" => (MountFlags::LAZYTIME, true),
        _ => return None,
    })
}

fn propagation(name: &str) -> Option<u32> {
    let (kind, recursive) = match name.strip_prefix('r') {
        Some(kind) => (kind, MountPropagationFlags::REC),
        None => (name, MountPropagationFlags::empty()),
    };
    let kind = match kind {
        "private" => MountPropagationFlags::PRIVATE,
        "slave" => MountPropagationFlags::DOWNSTREAM,
        "shared" => MountPropagationFlags::SHARED,
        "unbindable" => MountPropagationFlags::UNBINDABLE,
        _ => return None,
    };
    Some((kind | recursive).bits())
}

fn mount(point: &MountPoint) -> Result<GuestPath, MountError> {
    let options = Options::parse(&point.options);
    let in_path = |source| MountError::Path {
        fstype: point.type_.clone(),
        target: point.target.clone(),
        source,
    };
    let target = GuestPath::writable(&point.target).map_err(in_path)?;
    if point.type_ == "overlay" {
        for key in ["upperdir", "workdir"] {
            if let Some(path) = options.value(key) {
                GuestPath::writable(path)
                    .and_then(|dir| dir.make_dir())
                    .map_err(in_path)?;
            }
        }
    }
    if options.bind {
        let source = GuestPath::new(&point.source)
            .and_then(|source| source.open(OFlags::PATH))
            .map_err(in_path)?;
        let onto = make_target(&target, paths::is_dir(&source)).map_err(in_path)?;
        bind(point, &options, &source, &onto)?;
    } else {
        let onto = make_target(&target, true).map_err(in_path)?;
        mount_new(point, &options, &onto)?;
    }
    if let Some(flags) = options.propagation {
        let flags = MountPropagationFlags::from_bits_retain(flags);
        rustix::mount::mount_change(target.as_path(), flags).map_err(|e| failed(point, e))?;
    }
    Ok(target)
}

fn failed(point: &MountPoint, source: Errno) -> MountError {
    MountError::Mount {
        source_name: point.source.clone(),
        fstype: point.type_.clone(),
        target: point.target.clone(),
        source,
    }
}

/// A directory, or for a file to be bound an empty file.
fn make_target(target: &GuestPath, dir: bool) -> Result<OwnedFd, PathError> {
    if dir {
        return target.make_dir();
    }
    let (parent, name) = target.make_parent()?;
    let mode = rustix::fs::Mode::from_raw_mode(0o644);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(&parent, name, flags, mode).map_err(|source| PathError::Create {
        path: target.as_path().into(),
        source,
    })?;
    target.open(OFlags::PATH)
}

fn bind(
    point: &MountPoint,
    options: &Options,
    source: &OwnedFd,
    onto: &OwnedFd,
) -> Result<(), MountError> {
    let (from, to) = (paths::proc_path(source), paths::proc_path(onto));
    let bound = if options.recursive {
        rustix::mount::mount_bind_recursive(from, to)
    } else {
        rustix::mount::mount_bind(from, to)
    };
    bound.map_err(|e| failed(point, e))?;
    if options.flags == 0 {
        return Ok(());
    }
    // A bind mount takes its flags in a second step, at its own root: `onto` is what lies below.
    let flags = MountFlags::BIND | options.flags();
    let remounted = rustix::mount::mount_remount(&point.target, flags, c"");
    remounted.map_err(|e| {
        let _ = rustix::mount::unmount(&point.target, UnmountFlags::NOFOLLOW);
        failed(point, e)
    })
}

fn mount_new(point: &MountPoint, options: &Options, onto: &OwnedFd) -> Result<(), MountError> {
    let text = |text: &str| {
        CString::new(text).map_err(|_| MountError::ZeroByte {
            fstype: point.type_.clone(),
            target: point.target.clone(),
        })
    };
    let data = text(&options.data.join(","))?;
    let (source, fstype) = (text(&point.source)?, text(&point.type_)?);
    if options.flags().contains(MountFlags::RDONLY) && point.source.starts_with("/dev/") {
        GuestPath::new(&point.source)
            .and_then(|device| device.open(OFlags::RDONLY | OFlags::NONBLOCK))
            .map_err(|source| MountError::Path {
                fstype: point.type_.clone(),
                target: point.target.clone(),
                source,
            })
            .and_then(|device| block::set_read_only(device).map_err(|e| failed(point, e)))?;
    }
    let onto = paths::proc_path(onto);
    rustix::mount::mount(&source, onto, &fstype, options.flags(), data.as_c_str())
        .map_err(|e| failed(point, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(text: &str) -> Options {
        Options::parse(&text.split(',').map(String::from).collect::<Vec<_>>())
    }

    #[test]
    fn flags_and_data_are_told_apart() {
        let parsed = options("ro,nosuid,nodev,size=64m,mode=0755");
        assert_eq!(
            parsed.flags(),
            MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV
        );
        assert_eq!(parsed.data, ["size=64m", "mode=0755"]);
        assert_eq!(options("ro,rw").flags(), MountFlags::empty());
        let parsed = options("rbind,rslave,ro");
        assert!(parsed.bind && parsed.recursive);
        let slave = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
        assert_eq!(parsed.propagation, Some(slave.bits()));
        assert_eq!(
            options("lowerdir=/a,upperdir=/b").value("upperdir"),
            Some("/b")
        );
        assert_eq!(options("upperdirs=/b").value("upperdir"), None);
    }

    #[test]
    fn a_containers_mounts_are_taken_from_the_machines() {
        let paths = ["/run/a", "/run/b", "/run/a/c"];
        let mut all = Mounts(paths.iter().map(|p| GuestPath::new(p).unwrap()).collect());
        let own = all.split(&["/run/a".to_owned(), "/run/none".to_owned()]);
        let shown = |mounts: &Mounts| -> Vec<String> {
            let paths = mounts.0.iter().map(|path| path.as_path());
            paths.map(|path| path.display().to_string()).collect()
        };
        assert_eq!(shown(&own), ["/run/a"]);
        assert_eq!(shown(&all), ["/run/b", "/run/a/c"]);
    }

    #[test]
    fn targets_in_the_kernels_trees_are_refused() {
        let point = MountPoint {
            type_: "tmpfs".into(),
            source: "tmpfs".into(),
            target: "/proc/sys".into(),
            ..MountPoint::default()
        };
        let refused = Mounts::make(&[point]).unwrap_err();
        assert_eq!(refused.errno(), Errno::INVAL.raw_os_error());
    }
}
