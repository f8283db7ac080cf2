// SPDX-License-Identifier: Apache-2.0
//! Why a container was not run, or not to its end.

use std::io;
use std::path::PathBuf;

use thiserror::Error;
use walnut_archive::ArchiveError;
use walnut_protocol::CallError;

use super::process::ProcessError;
use crate::checkpoint::CheckpointError;
use crate::files::FilesError;
use crate::image::{ImageError, ReferenceError};
use crate::network::NetworkError;
use crate::paths::PathError;
use crate::record::RecordError;
use crate::run::signals::SignalError;
use crate::spec::SpecError;
use crate::storage::disk::DiskError;
use crate::template::TemplateError;
use crate::vm::VmError;
use crate::vm::rundir::RunDirError;
use crate::volumes::VolumesError;

#[derive(Debug, Error)]
pub enum SupervisorError {
    #[error(transparent)]
    Path(#[from] PathError),
    #[error(transparent)]
    RunDir(#[from] RunDirError),
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error(transparent)]
    Volumes(#[from] VolumesError),
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error("find image {0}")]
    Reference(String, #[source] ReferenceError),
    #[error(transparent)]
    Spec(#[from] SpecError),
    #[error(transparent)]
    Vm(#[from] VmError),
    #[error(transparent)]
    Template(#[from] TemplateError),
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error(transparent)]
    Process(#[from] ProcessError),
    #[error(transparent)]
    Signal(#[from] SignalError),
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("connect the container's streams")]
    Streams(#[source] io::Error),
    #[error("share a volume's lock with the monitor")]
    Claim(#[source] io::Error),
    #[error("the agent did not answer")]
    NoAnswer,
    #[error("container {0}, in whose machine it is to run, is not running")]
    HostStopped(String),
    #[error("the machine of container {0} ended")]
    HostEnded(String),
    #[error(
        "the image takes {image} of the {memory} that the machine of {host} has, more than half: give {host} more --memory"
    )]
    TooLarge {
        image: String,
        memory: String,
        host: String,
    },
    #[error("bring the image into the machine of {host}")]
    Bring { host: String, source: io::Error },
    #[error(transparent)]
    Files(#[from] FilesError),
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error("open the log {path}")]
    Log { path: PathBuf, source: io::Error },
    #[error("listen on {path}")]
    Control { path: PathBuf, source: io::Error },
    /// A signal ended the run before the container could be told of it.
    #[error("interrupted by signal {0}")]
    Interrupted(i32),
}

impl SupervisorError {
    /// Docker's exit codes.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Process(ProcessError::Failed { exit_code, .. }) => *exit_code,
            Self::Interrupted(signal) => u8::try_from(128 + signal).unwrap_or(125),
            _ => 125,
        }
    }

    /// Who presses ^C knows what happened.
    pub fn is_silent(&self) -> bool {
        matches!(self, Self::Interrupted(_))
    }
}
