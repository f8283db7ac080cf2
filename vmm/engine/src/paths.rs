// SPDX-License-Identifier: Apache-2.0
//! Where everything is: the store, the state of running machines, and the files a machine is made
//! of.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use thiserror::Error;

#[derive(Debug, Error)]
pub enum PathError {
    #[error("find a home for images: neither $XDG_DATA_HOME nor $HOME is set; give --root DIR")]
    NoHome,
    #[error("create {path}")]
    Create { path: PathBuf, source: io::Error },
    #[error("look at {path}")]
    Inspect { path: PathBuf, source: io::Error },
    #[error("{path} belongs to user {owner}, not to this one; give --state DIR")]
    Foreign { path: PathBuf, owner: u32 },
    #[error("find where this program is")]
    Executable(#[source] io::Error),
    #[error(
        "find {name} in {dir}: {source}; `make build` puts it there, $WALNUT_LIBEXEC names another place"
    )]
    Artifact {
        name: &'static str,
        dir: PathBuf,
        source: io::Error,
    },
}

/// The two directories that everything we keep is in.
#[derive(Clone, Debug)]
pub struct Paths {
    /// Images and containers; survives a reboot.
    pub root: PathBuf,
    /// What lives as long as a machine does.
    pub state: PathBuf,
}

impl Paths {
    /// Both of a test's own.
    #[cfg(test)]
    pub(crate) fn within(dir: &Path) -> Self {
        Self {
            root: dir.join("r"),
            state: dir.join("s"),
        }
    }

    /// The given ones, or root's, or this user's own. Nothing is created yet.
    pub fn resolve(root: Option<PathBuf>, state: Option<PathBuf>) -> Result<Self, PathError> {
        let uid = rustix::process::geteuid();
        let var = |name: &str| {
            std::env::var_os(name)
                .filter(|v| !v.is_empty())
                .map(PathBuf::from)
        };
        let root = match root {
            Some(root) => absolute(root)?,
            None if uid.is_root() => PathBuf::from("/var/lib/walnut"),
            None => var("XDG_DATA_HOME")
                .or_else(|| var("HOME").map(|home| home.join(".local/share")))
                .ok_or(PathError::NoHome)?
                .join("walnut"),
        };
        let state = match state {
            Some(state) => absolute(state)?,
            None if uid.is_root() => PathBuf::from("/run/walnut"),
            None => match var("XDG_RUNTIME_DIR") {
                Some(dir) => dir.join("walnut"),
                // Without a login session there is none; /tmp is anybody's, hence the owner check.
                None => PathBuf::from(format!("/tmp/walnut-{}", uid.as_raw())),
            },
        };
        Ok(Self { root, state })
    }

    /// Makes the state directory, or makes sure that the one there is our own.
    pub fn ensure_state(&self) -> Result<(), PathError> {
        private_dir(&self.state)?;
        let meta = fs::metadata(&self.state).map_err(|source| PathError::Inspect {
            path: self.state.clone(),
            source,
        })?;
        let owner = meta.uid();
        if owner != rustix::process::geteuid().as_raw() {
            return Err(PathError::Foreign {
                path: self.state.clone(),
                owner,
            });
        }
        Ok(())
    }

    pub fn containers(&self) -> PathBuf {
        self.root.join("containers")
    }

    pub fn machines(&self) -> PathBuf {
        self.state.join("vm")
    }

    /// The directory of one running machine; `short` is how its container is called there.
    pub fn machine(&self, short: &str) -> PathBuf {
        self.machines().join(short)
    }
}

/// Makes a directory, and its parents, that only this user may enter.
pub fn private_dir(path: &Path) -> Result<(), PathError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| PathError::Create {
            path: path.to_owned(),
            source,
        })
}

fn absolute(path: PathBuf) -> Result<PathBuf, PathError> {
    std::path::absolute(&path).map_err(|source| PathError::Inspect { path, source })
}

/// The files a machine is made of: in `$WALNUT_LIBEXEC`, or beside this program.
#[derive(Clone, Debug)]
pub struct Artifacts {
    pub monitor: PathBuf,
    pub kernel: PathBuf,
    /// The guest's root file system: the agent.
    pub guest: PathBuf,
}

impl Artifacts {
    pub const MONITOR: &str = "walnut-vmm";
    pub const KERNEL: &str = "vmlinux";
    pub const GUEST: &str = "guest.erofs";

    pub fn dir() -> Result<PathBuf, PathError> {
        if let Some(dir) = std::env::var_os("WALNUT_LIBEXEC").filter(|v| !v.is_empty()) {
            return absolute(PathBuf::from(dir));
        }
        let exe = std::env::current_exe().map_err(PathError::Executable)?;
        Ok(exe.parent().unwrap_or(Path::new("/")).to_owned())
    }

    pub fn find() -> Result<Self, PathError> {
        let dir = Self::dir()?;
        let find = |name: &'static str| {
            let path = dir.join(name);
            match fs::metadata(&path) {
                Ok(_) => Ok(path),
                Err(source) => Err(PathError::Artifact {
                    name,
                    dir: dir.clone(),
                    source,
                }),
            }
        };
        Ok(Self {
            monitor: find(Self::MONITOR)?,
            kernel: find(Self::KERNEL)?,
            guest: find(Self::GUEST)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn given_directories_become_absolute() {
        let paths = Paths::resolve(Some("a".into()), Some("/b".into())).unwrap();
        assert!(paths.root.is_absolute() && paths.root.ends_with("a"));
        assert_eq!(paths.state, Path::new("/b"));
    }

    #[test]
    fn state_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("x/y");
        let paths = Paths::resolve(Some("a".into()), Some(state.clone())).unwrap();
        paths.ensure_state().unwrap();
        assert_eq!(fs::metadata(&state).unwrap().mode() & 0o777, 0o700);
    }
}
