// SPDX-License-Identifier: Apache-2.0
//! What goes over a supervisor's control socket: frames of a kind, a length (32 bits, little
//! endian) and a body.
//!
//! A connection begins with one request, which is answered by one reply. Only `Attach` goes on:
//! the container's streams follow, each frame of output a `Stdout` or `Stderr`, each of input a
//! `Stdin`, an empty one its end; `Exit` is the last.

use std::io::{self, Read, Write};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::network::{Mode, Other};

/// More than anybody sends at once.
const MAX_BODY: usize = 1 << 20;

#[derive(Debug, Error)]
pub enum WireError {
    #[error("read from the container's supervisor")]
    Read(#[source] io::Error),
    #[error("write to the container's supervisor")]
    Write(#[source] io::Error),
    #[error("a frame of kind {0} makes no sense here")]
    Kind(u8),
    #[error("a frame is {0} bytes long, more than {MAX_BODY}")]
    TooLong(usize),
    #[error("a frame's body makes no sense")]
    Body(#[source] serde_json::Error),
    #[error("the container's supervisor is gone")]
    Gone,
}

#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    Attach(Wanted),
    /// Answered at the container's end.
    Wait {
        condition: Condition,
    },
    Stop {
        signal: Option<u32>,
        /// Negative is for ever.
        timeout_s: Option<i32>,
    },
    Kill {
        signal: u32,
    },
    Pause,
    Unpause,
    /// Writes a checkpoint into a directory that is there; the container goes on, or not.
    Checkpoint {
        dir: PathBuf,
        /// What the directory is called when all is there: it shall outlive a power failure, too.
        to: Option<PathBuf>,
        leave_running: bool,
    },
    Connect(Other),
    Disconnect(Mode),
    /// `linux.resources` of the OCI runtime spec.
    Update {
        resources: String,
    },
}

/// The streams that a client wants.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub struct Wanted {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    /// The container's input ends with this client's.
    pub stdin_once: bool,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Condition {
    NotRunning,
    NextExit,
    Removed,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub struct Reply {
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<Refusal>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
}

#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub struct Refusal {
    pub message: String,
    /// What the command exits with.
    pub code: u8,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    Request(Request),
    Reply(Reply),
    Stdin(Vec<u8>),
    Stdout(Vec<u8>),
    Stderr(Vec<u8>),
    Resize { width: u32, height: u32 },
    Exit { code: i32 },
}

#[derive(Deserialize, Serialize)]
struct Size {
    width: u32,
    height: u32,
}

const REQUEST: u8 = 1;
const REPLY: u8 = 2;
pub(super) const STDIN: u8 = 3;
pub(super) const STDOUT: u8 = 4;
pub(super) const STDERR: u8 = 5;
const RESIZE: u8 = 6;
const EXIT: u8 = 7;

impl Frame {
    pub fn write(&self, to: &mut impl Write) -> Result<(), WireError> {
        let json = |value: serde_json::Result<Vec<u8>>| value.map_err(WireError::Body);
        match self {
            Self::Request(request) => write(to, REQUEST, &json(serde_json::to_vec(request))?),
            Self::Reply(reply) => write(to, REPLY, &json(serde_json::to_vec(reply))?),
            Self::Stdin(bytes) => write(to, STDIN, bytes),
            Self::Stdout(bytes) => write(to, STDOUT, bytes),
            Self::Stderr(bytes) => write(to, STDERR, bytes),
            Self::Resize { width, height } => {
                let size = Size {
                    width: *width,
                    height: *height,
                };
                write(to, RESIZE, &json(serde_json::to_vec(&size))?)
            }
            Self::Exit { code } => write(to, EXIT, &json(serde_json::to_vec(code))?),
        }
    }

    /// The next one; `None` at the connection's end.
    pub fn read(from: &mut impl Read) -> Result<Option<Self>, WireError> {
        let mut kind = [0; 1];
        loop {
            match from.read(&mut kind) {
                Ok(0) => return Ok(None),
                Ok(_) => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                Err(e) => return Err(WireError::Read(e)),
            }
        }
        let mut len = [0; 4];
        from.read_exact(&mut len).map_err(WireError::Read)?;
        let len = u32::from_le_bytes(len) as usize;
        if len > MAX_BODY {
            return Err(WireError::TooLong(len));
        }
        let mut body = vec![0; len];
        from.read_exact(&mut body).map_err(WireError::Read)?;
        Ok(Some(match kind[0] {
            REQUEST => Self::Request(serde_json::from_slice(&body).map_err(WireError::Body)?),
            REPLY => Self::Reply(serde_json::from_slice(&body).map_err(WireError::Body)?),
            STDIN => Self::Stdin(body),
            STDOUT => Self::Stdout(body),
            STDERR => Self::Stderr(body),
            RESIZE => {
                let size: Size = serde_json::from_slice(&body).map_err(WireError::Body)?;
                Self::Resize {
                    width: size.width,
                    height: size.height,
                }
            }
            EXIT => Self::Exit {
                code: serde_json::from_slice(&body).map_err(WireError::Body)?,
            },
            other => return Err(WireError::Kind(other)),
        }))
    }

    /// For one that is not wanted here.
    pub fn unexpected(&self) -> WireError {
        WireError::Kind(match self {
            Self::Request(_) => REQUEST,
            Self::Reply(_) => REPLY,
            Self::Stdin(_) => STDIN,
            Self::Stdout(_) => STDOUT,
            Self::Stderr(_) => STDERR,
            Self::Resize { .. } => RESIZE,
            Self::Exit { .. } => EXIT,
        })
    }
}

/// One frame in one piece.
pub(super) fn write(to: &mut impl Write, kind: u8, body: &[u8]) -> Result<(), WireError> {
    let len = match u32::try_from(body.len()) {
        Ok(len) if body.len() <= MAX_BODY => len,
        _ => return Err(WireError::TooLong(body.len())),
    };
    let mut frame = Vec::with_capacity(5 + body.len());
    frame.push(kind);
    frame.extend_from_slice(&len.to_le_bytes());
    frame.extend_from_slice(body);
    to.write_all(&frame).map_err(WireError::Write)
}

impl Reply {
    pub fn refused(message: impl Into<String>, code: u8) -> Self {
        Self {
            refused: Some(Refusal {
                message: message.into(),
                code,
            }),
            exit_code: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn round_trip() {
        let frames = [
            Frame::Request(Request::Stop {
                signal: None,
                timeout_s: Some(-1),
            }),
            Frame::Request(Request::Attach(Wanted {
                stdin: true,
                ..Wanted::default()
            })),
            Frame::Reply(Reply::refused("no", 126)),
            Frame::Stdin(Vec::new()),
            Frame::Stdout(vec![0, 255]),
            Frame::Stderr(b"e".to_vec()),
            Frame::Resize {
                width: 80,
                height: 25,
            },
            Frame::Exit { code: 137 },
        ];
        let mut wire = Vec::new();
        for frame in &frames {
            frame.write(&mut wire).unwrap();
        }
        let mut rest = wire.as_slice();
        for frame in frames {
            assert_eq!(Frame::read(&mut rest).unwrap(), Some(frame));
        }
        assert_eq!(Frame::read(&mut rest).unwrap(), None);
    }

    #[test]
    fn a_long_one_is_refused_before_it_is_read() {
        let wire = [&[STDOUT][..], &u32::MAX.to_le_bytes()].concat();
        assert!(matches!(
            Frame::read(&mut wire.as_slice()),
            Err(WireError::TooLong(_))
        ));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_frame_or_an_error(bytes: Vec<u8>) {
            let _ = Frame::read(&mut bytes.as_slice());
        }
    }
}
