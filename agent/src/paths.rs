// SPDX-License-Identifier: Apache-2.0
//! Paths from elsewhere: the host's, which lead through the guest's own tree, and a container's,
//! which lead through a tree that somebody hostile may have made.
//!
//! The first may hold no symbolic link at all, the second is resolved inside its root, as if that
//! were `/` (openat2(2), `RESOLVE_NO_SYMLINKS` and `RESOLVE_IN_ROOT`).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// `PATH_MAX`.
const MAX_LEN: usize = 4096;

/// Why a path is refused or can't be had.
#[derive(Debug, thiserror::Error)]
pub enum PathError {
    #[error("{path:?} is no absolute path of plain names")]
    NotPlain { path: String },
    #[error("{path:?} is longer than {MAX_LEN} bytes")]
    TooLong { path: String },
    #[error("{path} belongs to the agent or the kernel")]
    Reserved { path: String },
    #[error("open {}", path.display())]
    Open { path: PathBuf, source: Errno },
    #[error("create {}", path.display())]
    Create { path: PathBuf, source: Errno },
}

impl PathError {
    #[must_use]
    pub fn errno(&self) -> i32 {
        match self {
            Self::NotPlain { .. } | Self::Reserved { .. } => Errno::INVAL,
            Self::TooLong { .. } => Errno::NAMETOOLONG,
            Self::Open { source, .. } | Self::Create { source, .. } => *source,
        }
        .raw_os_error()
    }
}

/// Trees in the guest that the host has no business in.
const RESERVED: &[&str] = &["/proc", "/sys", "/dev", crate::STATE_DIR];

/// An absolute path in the guest, without `.`, `..` or anything that would need cleaning.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GuestPath(PathBuf);

impl GuestPath {
    /// # Errors
    /// The path is relative, too long, or has other parts than plain names.
    pub fn new(path: &str) -> Result<Self, PathError> {
        if path.len() >= MAX_LEN {
            return Err(PathError::TooLong {
                path: path.chars().take(80).collect(),
            });
        }
        let plain = path.len() > 1
            && !path.contains('\0')
            && path
                .strip_prefix('/')
                .is_some_and(|rest| rest.split('/').all(|name| !matches!(name, "" | "." | "..")));
        if plain {
            Ok(Self(path.into()))
        } else {
            Err(PathError::NotPlain { path: path.into() })
        }
    }

    /// A path that the host may have something made at.
    ///
    /// # Errors
    /// As [`Self::new`], or the path is in the kernel's trees or the agent's own.
    pub fn writable(path: &str) -> Result<Self, PathError> {
        let checked = Self::new(path)?;
        if RESERVED.iter().any(|tree| checked.0.starts_with(tree)) {
            return Err(PathError::Reserved { path: path.into() });
        }
        Ok(checked)
    }

    #[must_use]
    pub fn as_path(&self) -> &Path {
        &self.0
    }

    /// Opens what is there, through no symbolic link.
    ///
    /// # Errors
    /// It is not there, or a part of the path is a symbolic link (`ELOOP`).
    pub fn open(&self, flags: OFlags) -> Result<OwnedFd, PathError> {
        rustix::fs::openat2(
            CWD,
            &self.0,
            flags | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::NO_SYMLINKS,
        )
        .map_err(|source| PathError::Open {
            path: self.0.clone(),
            source,
        })
    }

    /// Opens the directory (`O_PATH`), made with those above it where they are not there yet.
    ///
    /// # Errors
    /// Something else is in the way, or there is no writing.
    pub fn make_dir(&self) -> Result<OwnedFd, PathError> {
        let at_slash = rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
            .map_err(|source| PathError::Open {
                path: "/".into(),
                source,
            })?;
        make_dirs(at_slash.as_fd(), &self.0, ResolveFlags::NO_SYMLINKS)
    }

    /// The directory that holds the path's last name, made where it is not there yet, and that name.
    ///
    /// # Errors
    /// As [`Self::make_dir`].
    pub fn make_parent(&self) -> Result<(OwnedFd, &std::ffi::OsStr), PathError> {
        let not_plain = || PathError::NotPlain {
            path: self.0.display().to_string(),
        };
        let name = self.0.file_name().ok_or_else(not_plain)?;
        let parent = self.0.parent().ok_or_else(not_plain)?;
        let parent = if parent == Path::new("/") {
            rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(
                |source| PathError::Open {
                    path: "/".into(),
                    source,
                },
            )?
        } else {
            Self(parent.into()).make_dir()?
        };
        Ok((parent, name))
    }
}

/// A container's root file system, opened.
#[derive(Debug)]
pub struct Rootfs(OwnedFd);

impl Rootfs {
    /// # Errors
    /// There is no such directory.
    pub fn open(path: &GuestPath) -> Result<Self, PathError> {
        path.open(OFlags::PATH | OFlags::DIRECTORY).map(Self)
    }

    /// Opens `path` as a process whose root this is would.
    ///
    /// # Errors
    /// It is not there, or can't be opened so.
    pub fn open_in(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, PathError> {
        open_beneath(self.0.as_fd(), path, flags, ResolveFlags::IN_ROOT).map_err(|source| {
            PathError::Open {
                path: path.into(),
                source,
            }
        })
    }

    /// Makes the directory `path`, and those above it, where they are not there yet.
    ///
    /// # Errors
    /// Something else is in the way, or the file system is read-only.
    pub fn make_dir(&self, path: &Path) -> Result<OwnedFd, PathError> {
        make_dirs(self.0.as_fd(), path, ResolveFlags::IN_ROOT)
    }
}

fn open_beneath(
    root: BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
    resolve: ResolveFlags,
) -> Result<OwnedFd, Errno> {
    let resolve = resolve | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)
}

fn make_dirs(
    root: BorrowedFd<'_>,
    path: &Path,
    resolve: ResolveFlags,
) -> Result<OwnedFd, PathError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    match open_beneath(root, path, flags, resolve) {
        Err(Errno::NOENT) => {}
        found => {
            return found.map_err(|source| PathError::Open {
                path: path.into(),
                source,
            });
        }
    }
    let mut so_far = PathBuf::from("/");
    let mut parent =
        open_beneath(root, &so_far, flags, resolve).map_err(|source| PathError::Open {
            path: so_far.clone(),
            source,
        })?;
    for component in path.components() {
        so_far.push(component);
        let failed = |source| PathError::Create {
            path: so_far.clone(),
            source,
        };
        parent = match open_beneath(root, &so_far, flags, resolve) {
            Err(Errno::NOENT) => {
                let Component::Normal(name) = component else {
                    return Err(failed(Errno::NOENT));
                };
                match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(source) => return Err(failed(source)),
                }
                open_beneath(root, &so_far, flags, resolve).map_err(failed)?
            }
            found => found.map_err(failed)?,
        };
    }
    Ok(parent)
}

/// Whether an open descriptor is a directory.
#[must_use]
pub fn is_dir(fd: &OwnedFd) -> bool {
    rustix::fs::fstat(fd)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
}

/// A name for an open descriptor that path-only system calls take.
#[must_use]
pub fn proc_path(fd: &OwnedFd) -> String {
    use std::os::fd::AsRawFd;
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Read;
    use std::os::unix::fs::symlink;

    use super::*;

    fn guest(path: &Path) -> GuestPath {
        GuestPath::new(path.to_str().unwrap()).unwrap()
    }

    #[test]
    fn only_plain_absolute_paths() {
        for bad in [
            "", "/", "a", "./a", "/a/../b", "/a//b", "/a/", "/./a", "/a\0b", "..",
        ] {
            assert!(GuestPath::new(bad).is_err(), "{bad:?}");
        }
        assert!(GuestPath::new(&format!("/{}", "x".repeat(MAX_LEN))).is_err());
        for good in ["/a", "/run/a.b/..c"] {
            assert_eq!(GuestPath::new(good).unwrap().as_path(), Path::new(good));
        }
        assert!(GuestPath::writable("/proc/sys/x").is_err());
        assert!(GuestPath::writable("/processes").is_ok());
        assert!(GuestPath::writable(&format!("{}/x", crate::STATE_DIR)).is_err());
    }

    #[test]
    fn the_guests_paths_follow_no_symbolic_link() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("real")).unwrap();
        symlink(dir.path().join("real"), dir.path().join("link")).unwrap();
        guest(&dir.path().join("real/a/b")).make_dir().unwrap();
        assert!(dir.path().join("real/a/b").is_dir());
        let through = guest(&dir.path().join("link/c")).make_dir().unwrap_err();
        assert_eq!(through.errno(), Errno::LOOP.raw_os_error());
        assert!(!dir.path().join("real/c").exists());
    }

    #[test]
    fn a_rootfs_keeps_its_links_inside() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir_all(root.join("inner")).unwrap();
        fs::write(dir.path().join("secret"), "outside").unwrap();
        fs::write(root.join("inner/secret"), "inside").unwrap();
        symlink("../../../secret", root.join("up")).unwrap();
        symlink("/inner", root.join("absolute")).unwrap();
        let rootfs = Rootfs::open(&guest(&root)).unwrap();
        assert!(rootfs.open_in(Path::new("/up"), OFlags::RDONLY).is_err());
        let fd = rootfs
            .open_in(Path::new("/absolute/secret"), OFlags::RDONLY)
            .unwrap();
        let mut text = String::new();
        fs::File::from(fd).read_to_string(&mut text).unwrap();
        assert_eq!(text, "inside");
        rootfs.make_dir(Path::new("/absolute/made/deep")).unwrap();
        assert!(root.join("inner/made/deep").is_dir());
        rootfs
            .make_dir(Path::new("/absolute/made/../../beside"))
            .unwrap();
        assert!(root.join("beside").is_dir());
    }
}
