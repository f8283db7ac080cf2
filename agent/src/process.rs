// SPDX-License-Identifier: Apache-2.0
//! One process that the host asked for: a container's first, or one run in it later.
//!
//! Its pid is the kernel's for as long as nobody has waited for it. Only the reaper waits, with
//! this process's state locked; whoever sends a signal holds the same lock.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::io::Errno;
use rustix::termios::Winsize;

use crate::cgroup::Cgroup;
use crate::channel::Channel;
use crate::lock;
use crate::streams::Streams;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Its exit code, 0 to 255.
    Exited(u32),
    /// The signal that ended it.
    Signaled(u32),
}

/// How and when, and whether the OOM killer had struck in its container meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    pub how: How,
    pub at_ns: u64,
    pub oom_killed: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    #[error("the process has ended")]
    Ended,
    #[error("signal {signal} is none")]
    NoSignal { signal: u32 },
    #[error("send signal {signal}")]
    Kill { signal: u32, source: nix::Error },
    #[error("the process has no terminal")]
    NoTerminal,
    #[error("set the terminal's size")]
    Resize(#[source] Errno),
}

#[derive(Debug)]
pub struct Process {
    pub pid: i32,
    pub streams: Arc<Streams>,
    pub lifeline: Channel,
    pub cgroup: Arc<Cgroup>,
    terminal: OnceLock<OwnedFd>,
    /// The container's count when the process was made.
    oom_kills_before: u64,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    started: bool,
    exit: Option<Exit>,
}

impl Process {
    #[must_use]
    pub fn new(pid: i32, streams: Arc<Streams>, lifeline: Channel, cgroup: Arc<Cgroup>) -> Self {
        Self {
            pid,
            streams,
            lifeline,
            oom_kills_before: cgroup.oom_kills().unwrap_or(0),
            cgroup,
            terminal: OnceLock::new(),
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// Gives the process's terminal, its master side.
    pub fn set_terminal(&self, master: OwnedFd) {
        let _ = self.terminal.set(master);
    }

    /// The right to start the process, given once.
    #[must_use]
    pub fn claim_start(&self) -> bool {
        !std::mem::replace(&mut lock(&self.state).started, true)
    }

    #[must_use]
    pub fn is_started(&self) -> bool {
        lock(&self.state).started
    }

    #[must_use]
    pub fn exit(&self) -> Option<Exit> {
        lock(&self.state).exit
    }

    /// Sends a signal, unless the process has ended.
    ///
    /// # Errors
    /// It has ended, or the number is no signal's.
    pub fn kill(&self, signal: u32) -> Result<(), ProcessError> {
        let number = i32::try_from(signal).map_err(|_| ProcessError::NoSignal { signal })?;
        let state = lock(&self.state);
        if state.exit.is_some() {
            return Err(ProcessError::Ended);
        }
        send(self.pid, number).map_err(|source| match source {
            nix::Error::EINVAL => ProcessError::NoSignal { signal },
            nix::Error::ESRCH => ProcessError::Ended,
            source => ProcessError::Kill { signal, source },
        })
    }

    /// Sets the terminal's size, in characters.
    ///
    /// # Errors
    /// There is none.
    pub fn resize(&self, width: u16, height: u16) -> Result<(), ProcessError> {
        let terminal = self.terminal.get().ok_or(ProcessError::NoTerminal)?;
        let size = Winsize {
            ws_row: height,
            ws_col: width,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        rustix::termios::tcsetwinsize(terminal, size).map_err(ProcessError::Resize)
    }

    /// The reaper's: takes the dead process off the kernel's list by `reap`, and tells how it ended.
    pub fn end(&self, how: How, reap: impl FnOnce()) {
        // A count that can't be read is that of a container without the controller.
        let oom_kills = self.cgroup.oom_kills().unwrap_or(0);
        let exit = Exit {
            how,
            at_ns: crate::clock::realtime_ns(),
            oom_killed: oom_kills > self.oom_kills_before,
        };
        {
            let mut state = lock(&self.state);
            reap();
            state.exit = Some(exit);
        }
        self.changed.notify_all();
        self.streams.process_ended();
    }

    /// Waits until the process has ended and its output has been passed on.
    pub fn wait(&self) -> Exit {
        let mut state = lock(&self.state);
        let exit = loop {
            if let Some(exit) = state.exit {
                break exit;
            }
            state = match self.changed.wait(state) {
                Ok(state) => state,
                Err(poisoned) => poisoned.into_inner(),
            };
        };
        drop(state);
        self.streams.wait_drained();
        exit
    }

    /// Waits for the process's end alone; false when it did not come in time.
    pub fn wait_ended(&self, deadline: Instant) -> bool {
        let mut state = lock(&self.state);
        while state.exit.is_none() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left == Duration::ZERO {
                return false;
            }
            state = match self.changed.wait_timeout(state, left) {
                Ok((state, _)) => state,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
        true
    }

    #[must_use]
    pub fn terminal(&self) -> Option<BorrowedFd<'_>> {
        self.terminal.get().map(AsFd::as_fd)
    }
}

/// kill(2) with any number: the real-time signals have no names in [`Signal`].
fn send(pid: i32, signal: i32) -> nix::Result<()> {
    match Signal::try_from(signal) {
        Ok(signal) => kill(Pid::from_raw(pid), signal),
        Err(_) => send_real_time(pid, signal),
    }
}

#[expect(
    unsafe_code,
    reason = "kill(2) with numbers that no crate's type holds"
)]
fn send_real_time(pid: i32, signal: i32) -> nix::Result<()> {
    if signal <= 0 || signal > libc::SIGRTMAX() {
        return Err(nix::Error::EINVAL);
    }
    // SAFETY: kill(2) takes two numbers and touches no memory of ours.
    let answer = unsafe { libc::kill(pid, signal) };
    nix::errno::Errno::result(answer).map(drop)
}
