// SPDX-License-Identifier: Apache-2.0
//! One container: what was made for it, and its processes.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use crate::cgroup::{Cgroup, CgroupError};
use crate::failure::chain;
use crate::lock;
use crate::mounts::Mounts;
use crate::paths::{GuestPath, Rootfs};
use crate::process::Process;

/// What a container is made of, besides processes; undone when dropped, so that a container half
/// made leaves as little behind as a whole one that is deleted.
#[derive(Debug)]
pub struct Base {
    /// The agent's name for it, in paths and control groups.
    pub name: String,
    pub mounts: Mounts,
    pub files: Vec<GuestPath>,
    pub cgroup: Option<Arc<Cgroup>>,
}

impl Base {
    #[must_use]
    pub fn new(name: String) -> Self {
        Self {
            name,
            mounts: Mounts::default(),
            files: Vec::new(),
            cgroup: None,
        }
    }

    /// The directory of `config.json`.
    #[must_use]
    pub fn bundle(&self) -> PathBuf {
        Path::new(crate::STATE_DIR).join("bundles").join(&self.name)
    }

    /// libcontainer's own directory.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        Path::new(crate::STATE_DIR).join(&self.name)
    }
}

impl Drop for Base {
    fn drop(&mut self) {
        if let Some(cgroup) = self.cgroup.take()
            && let Err(error) = cgroup.remove()
        {
            log::warn!("{}", chain(&error));
        }
        self.mounts.undo();
        for path in self.files.drain(..) {
            let _ = fs::remove_file(path.as_path());
        }
        for dir in [self.bundle(), self.state()] {
            if let Err(error) = fs::remove_dir_all(&dir)
                && error.kind() != std::io::ErrorKind::NotFound
            {
                log::warn!("remove {}: {error}", dir.display());
            }
        }
    }
}

#[derive(Debug)]
pub struct Container {
    pub init: Arc<Process>,
    pub rootfs: Rootfs,
    /// `CLONE_NEW…` of the namespaces that it has of its own.
    pub namespaces: u32,
    pub stop_signal: u32,
    pub cgroup: Arc<Cgroup>,
    execs: Mutex<HashMap<String, Option<Arc<Process>>>>,
    base: Base,
}

impl Container {
    #[must_use]
    pub fn new(
        init: Arc<Process>,
        rootfs: Rootfs,
        namespaces: u32,
        stop_signal: u32,
        cgroup: Arc<Cgroup>,
        base: Base,
    ) -> Self {
        Self {
            init,
            rootfs,
            namespaces,
            stop_signal,
            cgroup,
            execs: Mutex::default(),
            base,
        }
    }

    #[must_use]
    pub fn bundle(&self) -> PathBuf {
        self.base.bundle()
    }

    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.base.state()
    }

    /// The first process for an empty id, otherwise the one that was made under it.
    #[must_use]
    pub fn process(&self, exec_id: &str) -> Option<Arc<Process>> {
        if exec_id.is_empty() {
            return Some(Arc::clone(&self.init));
        }
        lock(&self.execs).get(exec_id).cloned().flatten()
    }

    /// Takes an id for a process that is being made; false when it is taken.
    #[must_use]
    pub fn reserve(&self, exec_id: &str) -> bool {
        let mut execs = lock(&self.execs);
        let free = !execs.contains_key(exec_id);
        if free {
            execs.insert(exec_id.into(), None);
        }
        free
    }

    /// Gives a reserved id its process, or back.
    pub fn settle(&self, exec_id: &str, process: Option<Arc<Process>>) {
        let mut execs = lock(&self.execs);
        match process {
            Some(process) => execs.insert(exec_id.into(), Some(process)),
            None => execs.remove(exec_id),
        };
    }

    /// Kills whatever runs in it, and drops what of its output has not been passed on.
    ///
    /// # Errors
    /// The control group can't be written.
    pub fn kill_all(&self) -> Result<(), CgroupError> {
        self.cgroup.kill()
    }

    /// Ends every stream of every process.
    pub fn abandon_streams(&self) {
        self.init.streams.abandon();
        for process in lock(&self.execs).values().flatten() {
            process.streams.abandon();
        }
    }
}

/// A signal by its name, with or without `SIG`, or by its number; SIGTERM where it is neither.
#[must_use]
pub fn signal_number(name: Option<&str>) -> u32 {
    let parse = |name: &str| -> Option<u32> {
        if let Ok(number) = name.parse::<u32>() {
            return (1..=64).contains(&number).then_some(number);
        }
        let name = name.to_ascii_uppercase();
        let name = name.strip_prefix("SIG").unwrap_or(&name);
        let first = libc::SIGRTMIN();
        if let Some(offset) = name.strip_prefix("RTMIN") {
            let offset: i32 = if offset.is_empty() {
                0
            } else {
                offset.parse().ok()?
            };
            return u32::try_from(first.checked_add(offset)?)
                .ok()
                .filter(|n| *n <= 64);
        }
        let signal: nix::sys::signal::Signal = format!("SIG{name}").parse().ok()?;
        Some((signal as i32).cast_unsigned())
    };
    name.and_then(parse)
        .unwrap_or(libc::SIGTERM.cast_unsigned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stop_signals() {
        assert_eq!(signal_number(None), 15);
        assert_eq!(signal_number(Some("SIGINT")), 2);
        assert_eq!(signal_number(Some("int")), 2);
        assert_eq!(signal_number(Some("9")), 9);
        assert_eq!(signal_number(Some("SIGRTMIN+3")), 37);
        assert_eq!(signal_number(Some("SIGRTMIN+2147483647")), 15);
        assert_eq!(signal_number(Some("99")), 15);
        assert_eq!(signal_number(Some("nonsense")), 15);
    }
}
