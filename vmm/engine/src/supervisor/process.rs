// SPDX-License-Identifier: Apache-2.0
//! One process in a guest, from outside: the token that the agent gave for it, its streams, what
//! became of it.

use std::os::unix::net::UnixStream;
use std::path::Path;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use walnut_protocol::agent::{
    CreateResponse, Failed, Stage, StartResponse, WaitResponse, create_response, start_response,
    wait_response,
};
use walnut_protocol::stream::{Stdio, StreamError, StreamHeader, Token};
use walnut_protocol::{CallError, STDIO_PORT};

use crate::vm::{VmError, dial, resume};

#[derive(Debug, Error)]
pub enum ProcessError {
    #[error(transparent)]
    Vm(#[from] VmError),
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("create an ID")]
    Id(#[source] std::io::Error),
    #[error("connect the process's streams")]
    Streams(#[from] StreamError),
    #[error("make a stream that is at its end")]
    Ended(#[source] std::io::Error),
    #[error("the agent's answer to {0} says nothing")]
    EmptyAnswer(&'static str),
    /// It never ran; the agent says why.
    #[error("{message}")]
    Failed { message: String, exit_code: u8 },
}

/// The host's ends.
#[derive(Debug)]
pub struct Streams {
    pub stdin: Option<UnixStream>,
    pub stdout: UnixStream,
    pub stderr: Option<UnixStream>,
    pub ports: Ports,
}

/// The host's ports of a process's streams, by which they are taken up after a restore.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub struct Ports {
    pub stdin: Option<u32>,
    pub stdout: Option<u32>,
    pub stderr: Option<u32>,
}

impl Ports {
    pub fn all(&self) -> Vec<u32> {
        let all = [self.stdin, self.stdout, self.stderr];
        all.into_iter().flatten().collect()
    }
}

impl Streams {
    /// All of a process's streams must be there before it starts.
    pub fn connect(
        vsock: &Path,
        token: &Token,
        stdin: bool,
        tty: bool,
    ) -> Result<Self, ProcessError> {
        let one = |fd| -> Result<(UnixStream, u32), ProcessError> {
            let (mut stream, port) = dial(vsock, STDIO_PORT)?;
            StreamHeader { token: *token, fd }.write(&mut stream)?;
            Ok((stream, port))
        };
        let stdin = stdin.then(|| one(Stdio::Stdin)).transpose()?.unzip();
        let (stdout, stdout_port) = one(Stdio::Stdout)?;
        let stderr = (!tty).then(|| one(Stdio::Stderr)).transpose()?.unzip();
        Ok(Self {
            stdin: stdin.0,
            stdout,
            stderr: stderr.0,
            ports: Ports {
                stdin: stdin.1,
                stdout: Some(stdout_port),
                stderr: stderr.1,
            },
        })
    }

    /// Those of a process that goes on from a checkpoint. Where it has ended one, that is at its end
    /// here as well.
    pub fn resume(vsock: &Path, ports: Ports) -> Result<Self, ProcessError> {
        let one = |port: Option<u32>| -> Result<Option<UnixStream>, ProcessError> {
            Ok(port.map(|port| resume(vsock, port)).transpose()?.flatten())
        };
        let ended = || UnixStream::pair().map(|(end, _)| end);
        Ok(Self {
            stdin: one(ports.stdin)?,
            stdout: match one(ports.stdout)? {
                Some(stream) => stream,
                None => ended().map_err(ProcessError::Ended)?,
            },
            stderr: one(ports.stderr)?,
            ports,
        })
    }
}

/// The token of a process that was made.
pub fn created(response: CreateResponse) -> Result<Token, ProcessError> {
    match response.result {
        Some(create_response::Result::Token(token)) => Ok(Token::try_from(token.as_slice())?),
        Some(create_response::Result::Failed(failed)) => Err(failure(&failed)),
        _ => Err(ProcessError::EmptyAnswer("Create")),
    }
}

pub fn started(response: StartResponse) -> Result<(), ProcessError> {
    match response.result {
        Some(start_response::Result::Pid(_)) => Ok(()),
        Some(start_response::Result::Failed(failed)) => Err(failure(&failed)),
        _ => Err(ProcessError::EmptyAnswer("Start")),
    }
}

/// Docker's codes for a command that can't be found (127) or not be invoked (126).
fn failure(failed: &Failed) -> ProcessError {
    const ENOENT: i32 = 2;
    let exit_code = match (failed.stage.enum_value(), failed.errno) {
        (Ok(Stage::EXEC), ENOENT) => 127,
        (Ok(Stage::EXEC), _) => 126,
        _ => 125,
    };
    ProcessError::Failed {
        message: failed.message.clone(),
        exit_code,
    }
}

/// What a shell would call it: the exit code, or 128 and the signal.
pub fn exit_code(ended: &WaitResponse) -> u8 {
    match ended.how {
        Some(wait_response::How::Exited(code)) => u8::try_from(code).unwrap_or(255),
        Some(wait_response::How::Signaled(signal)) => {
            u8::try_from(128 + signal.min(127)).unwrap_or(255)
        }
        _ => 255,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_of_a_command_that_never_ran() {
        let code = |stage: Stage, errno| {
            let failed = Failed {
                stage: stage.into(),
                errno,
                ..Failed::default()
            };
            match failure(&failed) {
                ProcessError::Failed { exit_code, .. } => exit_code,
                other => panic!("{other}"),
            }
        };
        assert_eq!(code(Stage::EXEC, 2), 127);
        assert_eq!(code(Stage::EXEC, 13), 126);
        assert_eq!(code(Stage::EXEC, 8), 126);
        assert_eq!(code(Stage::ROOTFS, 2), 125);
    }
}
