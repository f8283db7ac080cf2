// SPDX-License-Identifier: Apache-2.0
//! The other end of a supervisor's control socket: what a command asks of a running container.

use std::io;
use std::os::unix::net::UnixStream;

use thiserror::Error;

use super::wire::{Frame, Refusal, Reply, Request, WireError};
use crate::paths::Paths;
use crate::record::{Entry, RecordError};
use crate::vm::rundir::control_in;

#[derive(Debug, Error)]
pub enum ClientError {
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error("container {0} is not running")]
    NotRunning(String),
    #[error("connect to the supervisor of container {id}")]
    Connect { id: String, source: io::Error },
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error("{0}")]
    Refused(String),
}

/// A connection to the supervisor of `entry`.
pub fn connect(paths: &Paths, entry: &Entry) -> Result<UnixStream, ClientError> {
    let path = control_in(&paths.machine(entry.short()));
    UnixStream::connect(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            ClientError::NotRunning(entry.short().to_owned())
        }
        _ => ClientError::Connect {
            id: entry.short().to_owned(),
            source,
        },
    })
}

/// Asks, and waits for the answer as long as it takes.
pub fn request(paths: &Paths, entry: &Entry, request: Request) -> Result<Reply, ClientError> {
    let mut stream = connect(paths, entry)?;
    ask(&mut stream, request)
}

pub fn ask(stream: &mut UnixStream, request: Request) -> Result<Reply, ClientError> {
    Frame::Request(request).write(stream)?;
    answer(stream)
}

/// The reply that is due.
pub fn answer(stream: &mut UnixStream) -> Result<Reply, ClientError> {
    match Frame::read(stream)? {
        Some(Frame::Reply(Reply {
            refused: Some(Refusal { message, .. }),
            ..
        })) => Err(ClientError::Refused(message)),
        Some(Frame::Reply(reply)) => Ok(reply),
        Some(other) => Err(other.unexpected().into()),
        None => Err(WireError::Gone.into()),
    }
}
