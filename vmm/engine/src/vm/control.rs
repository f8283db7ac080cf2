// SPDX-License-Identifier: Apache-2.0
//! The engine's end of a monitor's control socket.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, Shutdown,
    SocketFlags, SocketType, recv, sendmsg, shutdown, socketpair,
};
use thiserror::Error;
use walnut_vmm_config::{Answer, Command, Plug};

/// For everything that is done in memory. Writing all of a machine's takes as long as the disk wants.
const PATIENCE: Duration = Duration::from_secs(120);

/// An answer is a line.
const MESSAGE_MAX: usize = 4096;

#[derive(Debug, Error)]
pub enum ControlError {
    #[error("reach the monitor")]
    Socket(#[source] io::Error),
    #[error("the monitor's answer is garbled")]
    Answer(#[source] serde_json::Error),
    #[error("{0}")]
    Refused(String),
}

#[derive(Debug)]
pub struct Control(OwnedFd);

impl Control {
    /// Our end, and the monitor's.
    pub fn pair() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        Ok((Self(ours), theirs))
    }

    /// Returns when it is done.
    pub fn tell(&self, command: &Command, files: &[BorrowedFd<'_>]) -> Result<(), ControlError> {
        self.ask(command, files).map(drop)
    }

    /// The number of the device that has come.
    pub fn plug(&self, plug: Plug, backend: BorrowedFd<'_>) -> Result<u8, ControlError> {
        match self.ask(&Command::Plug(plug), &[backend])? {
            Answer::Plugged { device } => Ok(device),
            other => Err(ControlError::Refused(format!("{other:?}"))),
        }
    }

    fn ask(&self, command: &Command, files: &[BorrowedFd<'_>]) -> Result<Answer, ControlError> {
        let answer = self.exchange(command, files).map_err(|error| {
            // One that comes too late would be taken for that of the next command: there is none.
            // It fails only for one that is shut down.
            let _ = shutdown(&self.0, Shutdown::Both);
            ControlError::Socket(error)
        })?;
        match serde_json::from_slice(&answer).map_err(ControlError::Answer)? {
            Answer::Failed { message } => Err(ControlError::Refused(message)),
            answer => Ok(answer),
        }
    }

    fn exchange(&self, command: &Command, files: &[BorrowedFd<'_>]) -> io::Result<Vec<u8>> {
        let patience = (*command != Command::Snapshot).then_some(PATIENCE);
        set_socket_timeout(&self.0, Timeout::Recv, patience)?;
        let message = serde_json::to_vec(command)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !files.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(files)) {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        sendmsg(
            &self.0,
            &[IoSlice::new(&message)],
            &mut ancillary,
            SendFlags::NOSIGNAL,
        )?;
        let mut answer = vec![0; MESSAGE_MAX];
        let (len, _) = recv(&self.0, &mut answer[..], RecvFlags::empty())?;
        if len == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        }
        answer.truncate(len);
        Ok(answer)
    }
}
