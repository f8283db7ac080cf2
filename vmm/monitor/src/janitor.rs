// SPDX-License-Identifier: Apache-2.0
//! Removes the vsock socket's file when the machine has ended, where nobody else does: started by
//! hand, the monitor has no parent that clears its directory away.
//!
//! The jail lets no thread of the monitor remove files, so this is a process of its own, forked
//! before there is anything in memory that it would share. It knows one path, and hears two things
//! from the monitor: that the socket is there, and the end.

#![expect(unsafe_code, reason = "fork, and the end of the forked process")]

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::unistd::{ForkResult, fork};
use walnut_vmm_config::VmConfig;

/// The monitor's end; the file is gone when the drop of it returns.
pub struct Janitor(UnixStream);

impl Janitor {
    /// Nothing for a machine without a socket, or with a parent that holds its lifeline. The caller
    /// has one thread, and the signals that end a monitor blocked.
    pub fn start(config: &VmConfig) -> io::Result<Option<Self>> {
        match &config.vsock {
            Some(vsock) if config.lifeline_fd.is_none() => Self::of(&vsock.socket).map(Some),
            _ => Ok(None),
        }
    }

    fn of(path: &Path) -> io::Result<Self> {
        let (near, far) = UnixStream::pair()?;
        // SAFETY: the child makes system calls and ends; it runs nothing of the parent's.
        match unsafe { fork() }? {
            ForkResult::Parent { .. } => Ok(Self(near)),
            ForkResult::Child => {
                drop(near);
                clear(path, far);
                // SAFETY: the process ends without running anything that belongs to its parent.
                unsafe { libc::_exit(0) }
            }
        }
    }

    /// The socket is there now.
    pub fn arm(&mut self) -> io::Result<()> {
        self.0.write_all(&[1])
    }
}

impl Drop for Janitor {
    fn drop(&mut self) {
        // Fails only where the janitor has gone, and then there is nothing to wait for.
        let _ = self.0.shutdown(Shutdown::Write);
        let _ = self.0.read(&mut [0]);
    }
}

/// In the janitor: waits for the word and for the end.
fn clear(path: &Path, mut monitor: UnixStream) {
    let mut words = Vec::new();
    // One byte, whatever a monitor that was taken over sends.
    let heard = (&mut monitor).take(1).read_to_end(&mut words);
    if heard.is_err() || words.is_empty() {
        return;
    }
    let _ = monitor.read(&mut [0]);
    // Whoever has removed it before us meant the same.
    let _ = std::fs::remove_file(path);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_goes_with_the_monitor() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        std::fs::write(&path, "").unwrap();
        let mut janitor = Janitor::of(&path).unwrap();
        janitor.arm().unwrap();
        assert!(path.exists());
        drop(janitor);
        assert!(!path.exists());
    }

    #[test]
    fn what_is_not_the_monitors_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        std::fs::write(&path, "").unwrap();
        drop(Janitor::of(&path).unwrap());
        assert!(path.exists());
    }
}
