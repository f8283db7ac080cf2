// SPDX-License-Identifier: Apache-2.0
//! The single-threaded side of the agent, where processes become containers.
//!
//! libcontainer clones in-process, which a process with threads can't survive. So PID 1 forks a
//! helper before it makes its first thread; the helper forks once for each job it is handed, and
//! nothing is ever executed for it. A job's process makes the container (or enters one), tells the
//! pid, and stays until the agent knows it: then it ends, and PID 1 inherits the child.
//!
//! Two sockets go with a job. *Control* is between the agent and the job's process: [`Report`],
//! then an empty answer. The *lifeline* is between the agent and the process that becomes the
//! program: [`Word`]s, and its end, by close-on-exec, says that the program runs.

mod capture;
mod create;
mod enter;
mod files;
mod zygote;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::security::Sets;

pub use create::NOTIFY_SOCKET;
pub use files::Work;
pub use zygote::{Helper, HelperError};

/// What a helper is to do. Descriptors go with it: control, lifeline, then [`Stdio`]'s.
#[derive(Debug, Serialize, Deserialize)]
pub enum Job {
    Create(CreateJob),
    Enter(EnterJob),
    Files(FilesJob),
}

/// Make a container up to its first process's exec.
#[derive(Debug, Serialize, Deserialize)]
pub struct CreateJob {
    /// The agent's name for it, a directory below its state.
    pub name: String,
    /// Holds `config.json`, and the seccomp filter.
    pub bundle: PathBuf,
    pub capabilities: Option<Sets>,
    pub stdio: Stdio,
    /// Process 1 is none of the container's programs.
    pub init: bool,
}

/// Run one more process in a container.
#[derive(Debug, Serialize, Deserialize)]
pub struct EnterJob {
    /// The container's first process.
    pub init_pid: i32,
    /// `CLONE_NEW…` of the namespaces that the container has of its own.
    pub namespaces: u32,
    /// `cgroup.procs` of its control group.
    pub cgroup_procs: PathBuf,
    /// The container's, for its seccomp filter.
    pub bundle: PathBuf,
    /// OCI runtime spec, the "process" object.
    pub process: String,
    pub stdio: Stdio,
}

/// Work on a container's files. A last descriptor is the container's root directory.
#[derive(Debug, Serialize, Deserialize)]
pub struct FilesJob {
    /// The container's first process.
    pub init_pid: i32,
    pub work: Work,
}

/// Where a process's standard streams come from.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub enum Stdio {
    /// Three descriptors.
    Pipes,
    /// A terminal of the container's own. Its master goes to this listening socket in the bundle
    /// ([`Job::Create`]), or over a third socket that goes with the job ([`Job::Enter`]).
    Terminal,
}

/// The listening socket of [`Stdio::Terminal`] in a bundle.
pub const CONSOLE_SOCKET: &str = "console.sock";

/// What a job came to.
#[derive(Debug, Serialize, Deserialize)]
pub enum Report {
    /// The process's pid in the agent's namespace.
    Made {
        pid: i32,
    },
    Failed(Failure),
}

/// What is said on a lifeline.
#[derive(Debug, Serialize, Deserialize)]
pub enum Word {
    /// From the process: everything is done but the exec. (A container's first process has no
    /// need to say it: [`Report::Made`] comes when it is.)
    Ready,
    /// From the process: it will not run.
    Failed(Failure),
    /// To the process: exec. (A container's first process hears it from libcontainer's socket.)
    Start,
}
