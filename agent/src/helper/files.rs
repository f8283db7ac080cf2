// SPDX-License-Identifier: Apache-2.0
//! A job's process that works on a container's files: `cp`, `diff`, `export`, `commit`.
//!
//! It is in the container's mount namespace, or has the container's root for its own, and in nothing
//! else of the container: its processes can't see it, its limits and a pause don't hold it.

#![expect(unsafe_code, reason = "fork")]

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use nix::unistd::{ForkResult, fork};
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags};
use rustix::thread::ThreadNameSpaceType;
use serde::{Deserialize, Serialize};
use walnut_protocol::agent::{FileJob, UpperJob, file_job};

use super::{FilesJob, Report, Word};
use crate::channel::Channel;
use crate::failure::{Failure, Stage, chain};
use crate::files::{self, FilesError, Upper};

/// The protocol's `FileJob`.
#[derive(Debug, Serialize, Deserialize)]
pub enum Work {
    Pack {
        path: PathBuf,
        name: PathBuf,
        follow: bool,
        holes: bool,
    },
    Unpack {
        path: PathBuf,
        owners: bool,
        /// Of the machine's tree.
        machine: bool,
    },
    Stat {
        path: PathBuf,
        follow: bool,
    },
    Changes(Upper),
    Layer(Upper),
    Export,
}

impl Work {
    /// `None` for one that asks for nothing.
    #[must_use]
    pub fn from_protocol(job: &FileJob) -> Option<Self> {
        let path = |bytes: &[u8]| PathBuf::from(OsString::from_vec(bytes.to_vec()));
        let upper = |job: &UpperJob| Upper {
            upper: PathBuf::from(&job.upper),
            lower: PathBuf::from(&job.lower),
            skip: job.skip.iter().map(|skip| path(skip)).collect(),
        };
        Some(match job.what.as_ref()? {
            file_job::What::Pack(job) => Self::Pack {
                path: path(&job.path),
                name: path(&job.name),
                follow: job.follow,
                holes: job.holes,
            },
            file_job::What::Unpack(job) => Self::Unpack {
                path: path(&job.path),
                owners: job.owners,
                machine: job.machine,
            },
            file_job::What::Stat(job) => Self::Stat {
                path: path(&job.path),
                follow: job.follow,
            },
            file_job::What::Changes(job) => Self::Changes(upper(job)),
            file_job::What::Layer(job) => Self::Layer(upper(job)),
            file_job::What::Export(_) => Self::Export,
            _ => return None,
        })
    }
}

/// Does the job and reports; the agent's answer ends it.
pub(super) fn run(job: &FilesJob, fds: Vec<OwnedFd>) {
    let mut fds = fds.into_iter();
    let (Some(control), Some(lifeline)) = (fds.next(), fds.next()) else {
        return;
    };
    let control = Channel::from_fd(control);
    let lifeline = Channel::from_fd(lifeline);
    // SAFETY: a job's process has one thread.
    let report = match unsafe { fork() } {
        Ok(ForkResult::Child) => {
            drop(control);
            let code = become_worker(job, lifeline, fds.collect());
            std::process::exit(code)
        }
        Ok(ForkResult::Parent { child }) => Report::Made {
            pid: child.as_raw(),
        },
        Err(error) => Report::Failed(Failure::new(
            Stage::Namespaces,
            error as i32,
            format!("fork: {error}"),
        )),
    };
    drop(lifeline);
    let _ = control.send(&report, &[]);
    let _ = control.receive_bytes();
}

fn become_worker(job: &FilesJob, lifeline: Channel, fds: Vec<OwnedFd>) -> i32 {
    if let Err(failure) = prepare(job, fds) {
        let _ = lifeline.send(&Word::Failed(failure), &[]);
        return 1;
    }
    let _ = lifeline.send(&Word::Ready, &[]);
    match lifeline.receive::<Word>() {
        Ok(Some((Word::Start, _))) => {}
        _ => return 1,
    }
    // Its end says that the work has begun.
    drop(lifeline);
    match work(&job.work) {
        Ok(()) => 0,
        // Nobody reads any more: nobody waits for a word.
        Err(error) => {
            let _ = writeln!(io::stderr(), "{}", chain(&error));
            1
        }
    }
}

fn prepare(job: &FilesJob, fds: Vec<OwnedFd>) -> Result<(), Failure> {
    let failed = |what: &str, errno: Errno| {
        let message = format!("{what}: {errno}");
        Failure::new(Stage::Namespaces, errno.raw_os_error(), message)
    };
    let Ok([stdin, stdout, stderr, root]) = <[OwnedFd; 4]>::try_from(fds) else {
        return Err(Failure::new(Stage::Streams, 0, "descriptors are missing"));
    };
    let streams = |errno| failed("connect the streams", errno);
    rustix::stdio::dup2_stdin(stdin).map_err(streams)?;
    rustix::stdio::dup2_stdout(stdout).map_err(streams)?;
    rustix::stdio::dup2_stderr(stderr).map_err(streams)?;
    rustix::process::umask(Mode::empty());
    match job.work {
        Work::Unpack { machine: true, .. } | Work::Changes(_) | Work::Layer(_) => Ok(()),
        Work::Pack { .. } | Work::Unpack { .. } | Work::Stat { .. } => {
            let enter = |errno| failed("enter the container's mount namespace", errno);
            let init = Pid::from_raw(job.init_pid).ok_or_else(|| enter(Errno::SRCH))?;
            let init = rustix::process::pidfd_open(init, PidfdFlags::empty()).map_err(enter)?;
            let mounts = ThreadNameSpaceType::MOUNT;
            rustix::thread::move_into_thread_name_spaces(init.as_fd(), mounts).map_err(enter)
        }
        Work::Export => {
            let enter = |errno| failed("enter the container's root", errno);
            rustix::process::fchdir(&root).map_err(enter)?;
            rustix::process::chroot(".").map_err(enter)
        }
    }
}

fn work(work: &Work) -> Result<(), FilesError> {
    let out = || io::BufWriter::with_capacity(64 << 10, io::stdout().lock());
    match work {
        Work::Pack {
            path,
            name,
            follow,
            holes,
        } => files::pack(path, name, *follow, *holes, out()),
        Work::Unpack {
            path,
            owners,
            machine,
        } => {
            if *machine {
                files::make_dir(path)?;
            }
            files::unpack(path, *owners, io::stdin().lock())
        }
        Work::Stat { path, follow } => files::stat(path, *follow, out()),
        Work::Changes(upper) => files::changes(upper, out()),
        Work::Layer(upper) => files::layer(upper, out()),
        Work::Export => files::pack("/".as_ref(), "".as_ref(), false, false, out()),
    }
}
