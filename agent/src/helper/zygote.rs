// SPDX-License-Identifier: Apache-2.0
//! The process that every job is forked from.
//!
//! It has one thread and no state but its socket; it never waits for its children, the kernel
//! forgets them (`SIGCHLD` ignored).

#![expect(
    unsafe_code,
    reason = "fork, and the signal dispositions that go with it"
)]

use std::os::fd::{BorrowedFd, OwnedFd};

use nix::sys::signal::{SigHandler, Signal, signal};
use nix::unistd::{ForkResult, fork};
use rustix::io::Errno;

use super::{Job, create, enter, files};
use crate::channel::{Channel, ChannelError};
use crate::failure::chain;

/// Why there is no helper, or why it takes no job.
#[derive(Debug, thiserror::Error)]
pub enum HelperError {
    #[error("fork the helper")]
    Fork(#[source] nix::Error),
    #[error("reach the helper")]
    Channel(#[from] ChannelError),
}

/// The agent's end of the helper.
#[derive(Debug)]
pub struct Helper {
    jobs: Channel,
}

impl Helper {
    /// Forks the helper. The caller must have one thread only.
    ///
    /// # Errors
    /// The kernel refuses a socket or a process.
    pub fn spawn() -> Result<Self, HelperError> {
        let (near, far) = Channel::pair()?;
        // SAFETY: the caller has one thread, so the child may do whatever the parent might.
        match unsafe { fork() }.map_err(HelperError::Fork)? {
            ForkResult::Parent { .. } => Ok(Self { jobs: near }),
            ForkResult::Child => {
                drop(near);
                serve(far);
                std::process::exit(0)
            }
        }
    }

    /// Hands a job over, with its descriptors.
    ///
    /// # Errors
    /// The helper is gone, or the job is too long to be sent.
    pub fn run(&self, job: &Job, fds: &[BorrowedFd<'_>]) -> Result<(), HelperError> {
        Ok(self.jobs.send(job, fds)?)
    }
}

fn serve(jobs: Channel) {
    let _ = rustix::thread::set_name(c"walnut-helper");
    // What is ignored stays so in a program. A container begins with nothing ignored, whoever
    // started the agent: ^C and writes to closed pipes must end it.
    for ignored in [
        Signal::SIGPIPE,
        Signal::SIGINT,
        Signal::SIGQUIT,
        Signal::SIGHUP,
    ] {
        set_disposition(ignored, SigHandler::SigDfl);
    }
    set_disposition(Signal::SIGCHLD, SigHandler::SigIgn);
    loop {
        let (job, fds) = match jobs.receive::<Job>() {
            Ok(Some(job)) => job,
            Ok(None) => return,
            Err(error) => {
                log::error!("helper: {}", chain(&error));
                continue;
            }
        };
        // SAFETY: this process has one thread, so the child may do whatever the parent might.
        match unsafe { fork() } {
            Ok(ForkResult::Parent { .. }) => {}
            Ok(ForkResult::Child) => {
                drop(jobs);
                run(&job, fds);
                std::process::exit(0)
            }
            // The job's sockets close, and the agent sees that.
            Err(error) => log::error!("fork for a job: {error}"),
        }
    }
}

fn run(job: &Job, fds: Vec<OwnedFd>) {
    set_disposition(Signal::SIGCHLD, SigHandler::SigDfl);
    match job {
        Job::Create(job) => create::run(job, fds),
        Job::Enter(job) => enter::run(job, fds),
        Job::Files(job) => files::run(job, fds),
    }
}

fn set_disposition(which: Signal, to: SigHandler) {
    // SAFETY: neither disposition runs code in this process.
    if let Err(error) = unsafe { signal(which, to) } {
        log::error!("{which}: {}", Errno::from_raw_os_error(error as i32));
    }
}
