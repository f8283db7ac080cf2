// SPDX-License-Identifier: Apache-2.0
//! PID 1's duty: every process whose parent is gone becomes its child, and somebody must wait for it.
//!
//! One thread, woken by `SIGCHLD`, which every thread blocks. What ends is looked up by pid: a
//! process that the host asked for tells its waiters, all others are forgotten.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;

use crate::lock;
use crate::process::{How, Process};

/// The processes that somebody waits for, by pid.
#[derive(Debug, Default)]
pub struct Reaper {
    processes: Mutex<HashMap<i32, Arc<Process>>>,
}

/// Blocks `SIGCHLD` in the calling thread and all that it makes later.
///
/// # Errors
/// None that the kernel is known for.
pub fn block_sigchld() -> nix::Result<()> {
    sigchld().thread_block()
}

/// Makes a write to a closed pipe or connection an error of the write alone.
///
/// # Errors
/// None that the kernel is known for.
#[expect(unsafe_code, reason = "a signal disposition")]
pub fn ignore_sigpipe() -> nix::Result<()> {
    // SAFETY: ignoring a signal runs no code.
    unsafe { nix::sys::signal::signal(Signal::SIGPIPE, nix::sys::signal::SigHandler::SigIgn) }
        .map(drop)
}

fn sigchld() -> SigSet {
    let mut set = SigSet::empty();
    set.add(Signal::SIGCHLD);
    set
}

impl Reaper {
    /// Adds a process that can't have been waited for yet.
    pub fn add(&self, process: &Arc<Process>) {
        lock(&self.processes).insert(process.pid, Arc::clone(process));
    }

    /// Waits for children for ever.
    pub fn run(&self) -> ! {
        loop {
            self.reap();
            // One may stand for many: all that is there is taken each time.
            if let Err(error) = sigchld().wait() {
                log::error!("wait for SIGCHLD: {error}");
            }
        }
    }

    fn reap(&self) {
        // The process stays on the kernel's list, and its pid its own, until its state is locked.
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        loop {
            let (pid, how) = match waitid(Id::All, flags) {
                Ok(WaitStatus::Exited(pid, code)) => {
                    (pid, How::Exited(code.cast_unsigned() & 0xff))
                }
                Ok(WaitStatus::Signaled(pid, signal, _)) => {
                    (pid, How::Signaled((signal as i32).cast_unsigned()))
                }
                Ok(_) | Err(Errno::ECHILD) => return,
                Err(Errno::EINTR) => continue,
                Err(Errno::EINVAL) => {
                    // A real-time signal ended it, which nix has no name for.
                    if !self.reap_unnamed() {
                        return;
                    }
                    continue;
                }
                Err(error) => {
                    log::error!("wait for children: {error}");
                    return;
                }
            };
            self.end(pid, how);
        }
    }

    fn end(&self, pid: Pid, how: How) {
        let forget = || {
            let _ = waitpid(pid, Some(WaitPidFlag::WNOHANG));
        };
        let process = lock(&self.processes).remove(&pid.as_raw());
        match process {
            Some(process) => process.end(how, forget),
            None => forget(),
        }
    }

    fn reap_unnamed(&self) -> bool {
        match rustix::process::wait(rustix::process::WaitOptions::NOHANG) {
            Ok(Some((pid, status))) => {
                let pid = Pid::from_raw(pid.as_raw_nonzero().get());
                let signal = status.terminating_signal().unwrap_or(0).cast_unsigned();
                self.end(pid, How::Signaled(signal));
                true
            }
            _ => false,
        }
    }
}
