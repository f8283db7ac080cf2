// SPDX-License-Identifier: Apache-2.0
//! A directory on a tmpfs with a copy of everything that is timed, peers and their libraries
//! included: no run waits for a disk, and none reads over a slower file system than another.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{StatVfsMountFlags, statfs, statvfs};
use tempfile::TempDir;

use super::interrupt;
use super::process::{self, ProcessError};
use super::rows::LIMIT;

#[derive(Debug, thiserror::Error)]
pub enum StageError {
    #[error("no tmpfs that programs may run from: neither /dev/shm nor $TMPDIR is one")]
    NoTmpfs,
    #[error("can't take over the signals that end the bench")]
    Signals(#[source] io::Error),
    #[error("can't copy {} to {}", from.display(), to.display())]
    Copy {
        from: PathBuf,
        to: PathBuf,
        source: io::Error,
    },
    #[error("can't write {}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("{name} is not installed")]
    Missing { name: String },
    #[error(transparent)]
    Process(#[from] ProcessError),
}

/// Removed with everything in it when dropped.
#[derive(Debug)]
pub struct Stage {
    directory: TempDir,
}

/// A staged program, with the libraries that it needs.
#[derive(Clone, Debug)]
pub struct Program {
    pub path: PathBuf,
    libraries: PathBuf,
}

impl Program {
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        command.env("LD_LIBRARY_PATH", &self.libraries);
        command
    }
}

/// `TMPFS_MAGIC` of linux/magic.h.
const TMPFS_MAGIC: i64 = 0x0102_1994;

impl Stage {
    /// Makes the directory.
    ///
    /// # Errors
    /// [`StageError::NoTmpfs`].
    pub fn new() -> Result<Self, StageError> {
        let candidates = [
            PathBuf::from("/dev/shm"),
            std::env::temp_dir(),
            "/run".into(),
        ];
        for candidate in candidates.iter().filter(|path| may_run_from(path)) {
            // Short: unix sockets lie below it.
            if let Ok(directory) = tempfile::Builder::new().prefix("wb.").tempdir_in(candidate) {
                interrupt::clean_up(directory.path().into()).map_err(StageError::Signals)?;
                return Ok(Self { directory });
            }
        }
        Err(StageError::NoTmpfs)
    }

    #[must_use]
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A new, empty directory.
    ///
    /// # Errors
    /// [`StageError::Write`].
    pub fn directory(&self, name: &str) -> Result<PathBuf, StageError> {
        let path = self.path(name);
        fs::create_dir_all(&path).map_err(|source| StageError::Write {
            path: path.clone(),
            source,
        })?;
        Ok(path)
    }

    /// # Errors
    /// [`StageError::Write`].
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> Result<PathBuf, StageError> {
        let path = self.path(name);
        fs::write(&path, content).map_err(|source| StageError::Write {
            path: path.clone(),
            source,
        })?;
        Ok(path)
    }

    /// Copies a file, mode included.
    ///
    /// # Errors
    /// [`StageError::Copy`].
    pub fn copy(&self, from: &Path, name: &str) -> Result<PathBuf, StageError> {
        let to = self.path(name);
        fs::copy(from, &to).map_err(|source| StageError::Copy {
            from: from.into(),
            to: to.clone(),
            source,
        })?;
        Ok(to)
    }

    /// Copies an installed program and the shared libraries that it is linked with.
    ///
    /// # Errors
    /// It isn't on the `PATH`, or can't be copied.
    pub fn program(&self, name: &str) -> Result<Program, StageError> {
        let installed =
            find_on_path(name).ok_or_else(|| StageError::Missing { name: name.into() })?;
        let libraries = self.directory("lib")?;
        self.directory("bin")?;
        let path = self.copy(&installed, &format!("bin/{name}"))?;
        // Fails for a static program, which has none.
        let listed = process::run("ldd", Command::new("ldd").arg(&installed), LIMIT)
            .map(|done| String::from_utf8_lossy(&done.stdout).into_owned())
            .unwrap_or_default();
        for library in parse_ldd(&listed) {
            let Some(file) = library.file_name().and_then(OsStr::to_str) else {
                continue;
            };
            if !libraries.join(file).exists() {
                self.copy(&library, &format!("lib/{file}"))?;
            }
        }
        Ok(Program { path, libraries })
    }

    /// A symbolic link to `target`.
    ///
    /// # Errors
    /// [`StageError::Write`].
    pub fn link(&self, target: &Path, name: &str) -> Result<PathBuf, StageError> {
        let path = self.path(name);
        symlink(target, &path).map_err(|source| StageError::Write {
            path: path.clone(),
            source,
        })?;
        Ok(path)
    }
}

fn may_run_from(path: &Path) -> bool {
    let tmpfs = statfs(path).is_ok_and(|found| found.f_type == TMPFS_MAGIC);
    tmpfs && statvfs(path).is_ok_and(|found| !found.f_flag.contains(StatVfsMountFlags::NOEXEC))
}

fn find_on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // An ordinary user's PATH leaves out where some distributions put runc.
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(name))
        .find(|file| {
            fs::metadata(file).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
        })
}

/// The libraries in what ldd(1) says, but for the loader, whose path is in the program itself.
fn parse_ldd(text: &str) -> HashSet<PathBuf> {
    text.lines()
        .filter_map(|line| line.split_once("=>")?.1.split_whitespace().next())
        .filter(|path| path.starts_with('/'))
        .map(Into::into)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_with_a_path() {
        let text = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibc.so.6 => /lib/x/libc.so.6 (0x00007f)\n\
                    \tlibgone.so => not found\n\t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        assert_eq!(
            parse_ldd(text),
            HashSet::from([PathBuf::from("/lib/x/libc.so.6")])
        );
        assert!(parse_ldd("\tnot a dynamic executable\n").is_empty());
    }

    #[test]
    fn a_staged_program_runs_with_the_staged_libraries() {
        let Ok(stage) = Stage::new() else {
            eprintln!("skipped: this machine has no tmpfs that programs may run from");
            return;
        };
        let program = stage.program("sh").unwrap();
        assert!(program.path.starts_with(stage.path("bin")));
        let done = process::run("sh", program.command().args(["-c", "echo x"]), LIMIT).unwrap();
        assert_eq!(done.stdout, b"x\n");
        let missing = stage.program("no-such-program").unwrap_err().to_string();
        assert_eq!(missing, "no-such-program is not installed");
    }
}
