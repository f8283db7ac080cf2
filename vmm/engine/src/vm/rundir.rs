// SPDX-License-Identifier: Apache-2.0
//! A running machine's directory: its sockets, its console, its monitor's log.
//!
//! The directory is locked (flock) as long as its owner lives. An unlocked one was left by a
//! command that was killed: the next one removes it. The monitor itself ends with its lifeline.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;
use thiserror::Error;

use crate::paths::{PathError, Paths, private_dir};

#[derive(Debug, Error)]
pub enum RunDirError {
    #[error(transparent)]
    Path(#[from] PathError),
    #[error("create {path}")]
    Create { path: PathBuf, source: io::Error },
    #[error("lock {path}")]
    Lock { path: PathBuf, source: Errno },
    #[error(
        "the path {path} is {} bytes too long for a unix socket; give a shorter --state DIR",
        path.as_os_str().len() - MAX_SOCKET_PATH
    )]
    TooLong { path: PathBuf },
}

/// `sun_path` holds 108 bytes, the last of them zero (unix(7)).
const MAX_SOCKET_PATH: usize = 107;
/// Of the machine's sockets, all of them.
const SOCKET: &str = "v";
const CONTROL: &str = "control";

/// Where the host connects to the ports of the guest whose directory is `dir`.
pub fn vsock_in(dir: &Path) -> PathBuf {
    dir.join(SOCKET)
}

/// Where the supervisor of the machine whose directory is `dir` listens.
pub fn control_in(dir: &Path) -> PathBuf {
    dir.join(CONTROL)
}

/// Removed, with all that is in it, when dropped.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    /// Held for its lock.
    _lock: File,
}

impl RunDir {
    /// Removes what dead commands left, then makes one for `name`. Also the names of those that
    /// are dead.
    pub fn create(paths: &Paths, name: &str) -> Result<(Self, Vec<String>), RunDirError> {
        paths.ensure_state()?;
        let machines = paths.machines();
        private_dir(&machines)?;
        // Nobody may take a directory for a dead one's between its creation and its locking.
        let _registry = lock_registry(&paths.state)?;
        let dead = sweep(&machines);
        let path = machines.join(name);
        let longest = path.join(format!("{SOCKET}_{}", u32::MAX));
        if longest.as_os_str().len() > MAX_SOCKET_PATH {
            return Err(RunDirError::TooLong { path: longest });
        }
        fs::create_dir(&path).map_err(|source| RunDirError::Create {
            path: path.clone(),
            source,
        })?;
        let lock = File::open(&path).map_err(|source| RunDirError::Create {
            path: path.clone(),
            source,
        })?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|source| {
            RunDirError::Lock {
                path: path.clone(),
                source,
            }
        })?;
        Ok((Self { path, _lock: lock }, dead))
    }

    /// Where the host connects to the guest's ports.
    pub fn vsock(&self) -> PathBuf {
        vsock_in(&self.path)
    }

    /// Where the guest's connections to the host's `port` arrive.
    pub fn vsock_port(&self, port: u32) -> PathBuf {
        self.path.join(format!("{SOCKET}_{port}"))
    }

    /// Where the container's supervisor listens.
    pub fn control(&self) -> PathBuf {
        control_in(&self.path)
    }

    /// Makes room for the next machine's sockets.
    pub fn clear_sockets(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            let name = entry.file_name();
            if name.as_encoded_bytes().starts_with(SOCKET.as_bytes()) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    pub fn console(&self) -> PathBuf {
        self.path.join("console")
    }

    pub fn monitor_log(&self) -> PathBuf {
        self.path.join("monitor.log")
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        if let Err(e) = fs::remove_dir_all(&self.path) {
            log::warn!("remove {}: {e}", self.path.display());
        }
    }
}

fn lock_registry(state: &Path) -> Result<File, RunDirError> {
    let path = state.join("lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|source| RunDirError::Create {
            path: path.clone(),
            source,
        })?;
    flock(&file, FlockOperation::LockExclusive)
        .map_err(|source| RunDirError::Lock { path, source })?;
    Ok(file)
}

/// Removes the directories that nobody has locked; their names.
fn sweep(machines: &Path) -> Vec<String> {
    let mut dead = Vec::new();
    let Ok(entries) = fs::read_dir(machines) else {
        return dead;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        if remove_dead(&path) {
            dead.extend(entry.file_name().into_string());
        }
    }
    dead
}

/// Removes a machine's directory if nobody has locked it; whether that was so.
pub fn remove_dead(path: &Path) -> bool {
    // An open of anything else might wait, as that of a FIFO does.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(dir) = rustix::fs::open(path, flags, Mode::empty()) else {
        return false;
    };
    if flock(&dir, FlockOperation::NonBlockingLockExclusive).is_err() {
        return false;
    }
    log::info!("remove {}, which a killed command left", path.display());
    if let Err(e) = fs::remove_dir_all(path) {
        log::warn!("remove {}: {e}", path.display());
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_commands_directory_goes_a_living_ones_stays() {
        let temp = tempfile::tempdir().unwrap();
        let paths = Paths::within(temp.path());
        let (alive, _) = RunDir::create(&paths, "alive").unwrap();
        let stale = paths.machines().join("stale");
        fs::create_dir_all(stale.join("sub")).unwrap();
        fs::write(stale.join("sub/file"), "x").unwrap();
        let (second, dead) = RunDir::create(&paths, "second").unwrap();
        assert!(!stale.exists());
        assert_eq!(dead, ["stale"]);
        assert!(alive.vsock().parent().unwrap().exists());
        drop(second);
        drop(alive);
        assert_eq!(fs::read_dir(paths.machines()).unwrap().count(), 0);
    }

    #[test]
    fn what_is_no_directory_is_passed_over() {
        let temp = tempfile::tempdir().unwrap();
        let paths = Paths::within(temp.path());
        let (_dir, _) = RunDir::create(&paths, "first").unwrap();
        let fifo = paths.machines().join("fifo");
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, 0o600.into()).unwrap();
        // Nobody waits for its other end here.
        let both = OpenOptions::new().read(true).write(true).open(&fifo);
        let (_dir, dead) = RunDir::create(&paths, "second").unwrap();
        assert!(both.is_ok() && dead.is_empty(), "{dead:?}");
    }

    #[test]
    fn a_long_path_is_refused_in_words() {
        let temp = tempfile::tempdir().unwrap();
        let paths = Paths::within(&temp.path().join("x".repeat(100)));
        let said = RunDir::create(&paths, "n").unwrap_err().to_string();
        assert!(said.contains("too long for a unix socket"), "{said}");
    }
}
