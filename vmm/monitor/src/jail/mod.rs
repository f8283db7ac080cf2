// SPDX-License-Identifier: Apache-2.0
//! Giving up rights: no new privileges, no capabilities but those a worker needs, and for each kind
//! of thread a seccomp allow-list. What the monitor needs it has opened before.

mod capabilities;
mod filters;
#[cfg(test)]
mod tests;

use thiserror::Error;

use crate::devices::Served;

#[derive(Debug, Error)]
pub enum JailError {
    #[error("cannot set no_new_privs")]
    NoNewPrivs(#[source] rustix::io::Errno),
    #[error("cannot drop capabilities")]
    Capabilities(#[source] rustix::io::Errno),
    #[error("cannot build the seccomp filter of the {0} threads")]
    Build(&'static str, #[source] seccompiler::BackendError),
    #[error("cannot install the seccomp filter of the {0} threads")]
    Install(&'static str, #[source] seccompiler::Error),
}

/// The kinds of threads, each with an allow-list of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Thread {
    EventLoop,
    Vcpu,
    Blk,
    Fs,
}

impl Thread {
    const fn name(self) -> &'static str {
        match self {
            Self::EventLoop => "event loop",
            Self::Vcpu => "vCPU",
            Self::Blk => "blk",
            Self::Fs => "fs",
        }
    }
}

/// For the whole process, while it still has one thread.
pub fn enter(workers: &[Served]) -> Result<(), JailError> {
    capabilities::drop_all_but(workers)?;
    rustix::thread::set_no_new_privs(true).map_err(JailError::NoNewPrivs)
}

/// For the calling thread, for good.
pub fn confine(thread: Thread) -> Result<(), JailError> {
    if thread != Thread::Fs {
        capabilities::drop_all()?;
    }
    let program = filters::program(thread).map_err(|e| JailError::Build(thread.name(), e))?;
    seccompiler::apply_filter(&program).map_err(|e| JailError::Install(thread.name(), e))
}
