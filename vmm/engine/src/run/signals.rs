// SPDX-License-Identifier: Apache-2.0
//! This process's signals while a container runs: blocked in every thread, read from a descriptor.

use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::signal::{SigSet, Signal, raise};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use thiserror::Error;

#[derive(Debug, Error)]
#[error("take over signals")]
pub struct SignalError(#[from] nix::Error);

/// What a container may be told by signalling `walnut run`, as `docker run` passes signals on.
const FORWARDED: &[Signal] = &[
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGALRM,
    Signal::SIGTERM,
    // ^Z: a supervisor that it stopped would have no ear for anybody.
    Signal::SIGTSTP,
];

#[derive(Debug)]
pub struct Signals(SignalFd);

/// One signal that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caught {
    /// The terminal changed its size.
    Resize,
    Signal(Signal),
}

impl Signals {
    /// Before any thread is made: they inherit the mask. So does the monitor, which ends with its
    /// lifeline and by signals that it takes over itself.
    pub fn take_over() -> Result<Self, SignalError> {
        let mut all: SigSet = FORWARDED.iter().copied().collect();
        all.add(Signal::SIGWINCH);
        all.thread_block()?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        Ok(Self(SignalFd::with_flags(&all, flags)?))
    }

    pub fn next(&self) -> Result<Option<Caught>, SignalError> {
        let Some(info) = self.0.read_signal()? else {
            return Ok(None);
        };
        let number = i32::try_from(info.ssi_signo).unwrap_or(0);
        Ok(Signal::try_from(number).ok().map(|signal| match signal {
            Signal::SIGWINCH => Caught::Resize,
            other => Caught::Signal(other),
        }))
    }
}

/// What ^Z does by itself, for whoever does not pass it on; returns when this process goes on.
pub fn stop() -> Result<(), SignalError> {
    let ctrl_z = SigSet::from(Signal::SIGTSTP);
    raise(Signal::SIGTSTP)?;
    ctrl_z.thread_unblock()?;
    Ok(ctrl_z.thread_block()?)
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
