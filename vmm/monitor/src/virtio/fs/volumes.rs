// SPDX-License-Identifier: Apache-2.0
//! Volumes: directories and files of the host, bind-mounted side by side in a tmpfs that a
//! virtio-fs device shows. Done once by the main thread, before there is any other.
//!
//! The mounts are made in a mount namespace of the monitor's own, and are taken out even of that:
//! what is left is one descriptor of a tree that belongs to no namespace and goes with the process.
//! A read-only volume is so by its mount, for everything that is mounted below it as well
//! (mount_setattr(2)).

use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags, UnmountFlags,
};
use rustix::thread::{CapabilitySet, UnshareFlags};
use thiserror::Error;
use walnut_vmm_config::{FsConfig, FsSource, Volume};

#[derive(Debug, Error)]
pub enum VolumesError {
    #[error("cannot make a mount namespace for volumes")]
    Namespace(#[source] Errno),
    #[error(
        "cannot make a user namespace for volumes; see user.max_user_namespaces and \
         kernel.apparmor_restrict_unprivileged_userns in sysctl, or start as root"
    )]
    UserNamespace(#[source] Errno),
    #[error("cannot write {path}")]
    Map {
        path: &'static str,
        source: std::io::Error,
    },
    #[error("cannot keep mounts to this namespace")]
    Private(#[source] Errno),
    #[error("cannot {what} for volumes")]
    Root { what: &'static str, source: Errno },
    #[error("{name:?} is no name for a volume")]
    Name { name: String },
    #[error("two volumes are named {name:?}")]
    Twice { name: String },
    #[error("cannot open the volume {path}")]
    Source { path: PathBuf, source: Errno },
    #[error("cannot make the volume {path} read-only")]
    ReadOnly { path: PathBuf, source: Errno },
    #[error("cannot mount the volume {path}")]
    Mount { path: PathBuf, source: Errno },
}

/// Mounts the volumes of every device that has some, and turns its source into the directory in
/// which they are: a path that holds for this process only. If there are none, does nothing.
///
/// To be called while the process has one thread. Without CAP_SYS_ADMIN the process moves to a user
/// namespace of its own, in which only its own user and group have names.
pub fn prepare(configs: &mut [FsConfig]) -> Result<(), VolumesError> {
    let mut separate = false;
    for config in configs {
        let FsSource::Volumes(volumes) = &config.source else {
            continue;
        };
        if !separate {
            enter_namespaces()?;
            separate = true;
        }
        let root = mount_all(volumes)?;
        // Open until the process ends.
        let path = PathBuf::from(format!("/proc/self/fd/{}", root.into_raw_fd()));
        config.source = FsSource::Directory(path);
    }
    Ok(())
}

fn enter_namespaces() -> Result<(), VolumesError> {
    let may_mount = rustix::thread::capabilities(None)
        .is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN));
    if may_mount {
        unshare(UnshareFlags::NEWNS).map_err(VolumesError::Namespace)?;
    } else {
        let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
        unshare(UnshareFlags::NEWUSER | UnshareFlags::NEWNS)
            .map_err(VolumesError::UserNamespace)?;
        // user_namespaces(7): without privilege a gid_map needs setgroups denied first.
        let (uid, gid) = (uid.as_raw(), gid.as_raw());
        for (path, line) in [
            ("/proc/self/setgroups", "deny".to_owned()),
            ("/proc/self/uid_map", format!("{uid} {uid} 1")),
            ("/proc/self/gid_map", format!("{gid} {gid} 1")),
        ] {
            std::fs::write(path, line).map_err(|source| VolumesError::Map { path, source })?;
        }
    }
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).map_err(VolumesError::Private)
}

#[expect(unsafe_code, reason = "other flags of unshare would need care")]
fn unshare(flags: UnshareFlags) -> rustix::io::Result<()> {
    // SAFETY: the callers' flags leave the table of open files shared.
    unsafe { rustix::thread::unshare_unsafe(flags) }
}

/// A read-only directory with the volumes in it, in no namespace.
fn mount_all(volumes: &[Volume]) -> Result<OwnedFd, VolumesError> {
    let failed = |what| move |source| VolumesError::Root { what, source };
    let root = empty_tree().map_err(failed("make a directory"))?;
    // Mounts can only be put into a tree that is mounted somewhere. Upon the root of the namespace
    // it hides nothing: paths start below it.
    let attach = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    rustix::mount::move_mount(&root, "", CWD, "/", attach).map_err(failed("mount a directory"))?;
    let filled = volumes
        .iter()
        .try_for_each(|volume| mount_one(&root, volume))
        .and_then(|()| clone_tree(&root, "").map_err(failed("copy the tree")));
    let here = format!("/proc/self/fd/{}", root.as_raw_fd());
    rustix::mount::unmount(here, UnmountFlags::DETACH).map_err(failed("unmount a directory"))?;
    let tree = filled?;
    // The guest may not fill it.
    set_read_only(&tree, false).map_err(failed("close the directory"))?;
    Ok(tree)
}

/// An empty tmpfs, not mounted anywhere.
fn empty_tree() -> rustix::io::Result<OwnedFd> {
    let tmpfs = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_set_string(&tmpfs, "mode", "0755")?;
    rustix::mount::fsconfig_create(&tmpfs)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    rustix::mount::fsmount(&tmpfs, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

fn mount_one(root: &OwnedFd, volume: &Volume) -> Result<(), VolumesError> {
    let name = volume.name.as_str();
    if matches!(name, "" | "." | "..") || name.contains(['/', '\0']) {
        let name = name.to_owned();
        return Err(VolumesError::Name { name });
    }
    let path = || volume.source.clone();
    let opened = |source| VolumesError::Source {
        path: path(),
        source,
    };
    let tree = clone_tree(CWD, &volume.source).map_err(opened)?;
    let kind = rustix::fs::fstat(&tree).map_err(opened)?.st_mode;
    let made = if FileType::from_raw_mode(kind) == FileType::Directory {
        rustix::fs::mkdirat(root, name, Mode::from_raw_mode(0o755))
    } else {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        rustix::fs::openat(root, name, flags, Mode::from_raw_mode(0o644)).map(drop)
    };
    made.map_err(|source| match source {
        Errno::EXIST => VolumesError::Twice {
            name: name.to_owned(),
        },
        source => VolumesError::Mount {
            path: path(),
            source,
        },
    })?;
    if volume.readonly {
        set_read_only(&tree, true).map_err(|source| VolumesError::ReadOnly {
            path: path(),
            source,
        })?;
    }
    let attach = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    rustix::mount::move_mount(&tree, "", root, name, attach).map_err(|source| {
        let path = path();
        VolumesError::Mount { path, source }
    })
}

/// A copy of what is mounted at `path` and below, not mounted anywhere.
fn clone_tree(at: impl std::os::fd::AsFd, path: impl AsRef<Path>) -> rustix::io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE
        | OpenTreeFlags::AT_EMPTY_PATH;
    rustix::mount::open_tree(at, path.as_ref(), flags)
}

/// mount_setattr(2), which rustix does not have.
#[expect(unsafe_code, reason = "a system call without a safe wrapper")]
fn set_read_only(tree: &OwnedFd, recursive: bool) -> rustix::io::Result<()> {
    #[repr(C)]
    struct MountAttr {
        attr_set: u64,
        attr_clr: u64,
        propagation: u64,
        userns_fd: u64,
    }
    const AT_RECURSIVE: u32 = 0x8000;
    let attributes = MountAttr {
        attr_set: u64::from(MountAttrFlags::MOUNT_ATTR_RDONLY.bits()),
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    let flags = AtFlags::EMPTY_PATH.bits() | if recursive { AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a C string, the structure is laid out as the kernel's first version of
    // it, and its size is passed along; the kernel keeps neither.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attributes,
            size_of::<MountAttr>(),
        )
    };
    if result == 0 {
        return Ok(());
    }
    let errno = std::io::Error::last_os_error();
    Err(Errno::from_io_error(&errno).unwrap_or(Errno::IO))
}
