// SPDX-License-Identifier: Apache-2.0
//! Typed messages with descriptors between processes of the agent: a `SOCK_SEQPACKET` pair, one
//! JSON document a packet.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Most bytes of a message; a spec goes by way of a file.
const MAX_MESSAGE: usize = 128 << 10;
/// Most descriptors with one.
const MAX_FDS: usize = 8;

/// What comes at once: bytes, and the descriptors with them.
pub type Packet = (Vec<u8>, Vec<OwnedFd>);

#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    #[error("make a socket pair")]
    Pair(#[source] Errno),
    #[error("send a message of {len} bytes")]
    Send { len: usize, source: Errno },
    #[error("encode a message")]
    Encode(#[source] serde_json::Error),
    #[error("receive a message")]
    Receive(#[source] Errno),
    #[error("a message makes no sense")]
    Decode(#[source] serde_json::Error),
    #[error("no message came within {} ms", timeout.as_millis())]
    Timeout { timeout: Duration },
}

/// One end.
#[derive(Debug)]
pub struct Channel(OwnedFd);

impl Channel {
    /// # Errors
    /// No descriptors are left.
    pub fn pair() -> Result<(Self, Self), ChannelError> {
        let (a, b) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .map_err(ChannelError::Pair)?;
        Ok((Self(a), Self(b)))
    }

    #[must_use]
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    #[must_use]
    pub fn into_fd(self) -> OwnedFd {
        self.0
    }

    /// # Errors
    /// The other end is gone, or the message is too long.
    pub fn send<T: Serialize>(
        &self,
        message: &T,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), ChannelError> {
        let bytes = serde_json::to_vec(message).map_err(ChannelError::Encode)?;
        let failed = |source| ChannelError::Send {
            len: bytes.len(),
            source,
        };
        if bytes.len() > MAX_MESSAGE {
            return Err(failed(Errno::MSGSIZE));
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(failed(Errno::TOOBIG));
        }
        let flags = SendFlags::NOSIGNAL;
        rustix::net::sendmsg(&self.0, &[IoSlice::new(&bytes)], &mut ancillary, flags)
            .map(drop)
            .map_err(failed)
    }

    /// The next message and its descriptors; `None` once the other end is closed.
    ///
    /// # Errors
    /// What came is no message.
    pub fn receive<T: DeserializeOwned>(&self) -> Result<Option<(T, Vec<OwnedFd>)>, ChannelError> {
        let Some((bytes, fds)) = self.receive_bytes()? else {
            return Ok(None);
        };
        let message = serde_json::from_slice(&bytes).map_err(ChannelError::Decode)?;
        Ok(Some((message, fds)))
    }

    /// As [`Self::receive`], with an end to its patience.
    ///
    /// # Errors
    /// Nothing came in time, or what came is no message.
    pub fn receive_within<T: DeserializeOwned>(
        &self,
        timeout: Duration,
    ) -> Result<Option<(T, Vec<OwnedFd>)>, ChannelError> {
        if self.wait(timeout)? {
            self.receive()
        } else {
            Err(ChannelError::Timeout { timeout })
        }
    }

    /// The next packet whatever it says, and its descriptors.
    ///
    /// # Errors
    /// The socket fails.
    pub fn receive_bytes(&self) -> Result<Option<Packet>, ChannelError> {
        receive_from(self.0.as_fd()).map_err(ChannelError::Receive)
    }

    /// Whether there is something to receive, be it the end, before `timeout` is over.
    fn wait(&self, timeout: Duration) -> Result<bool, ChannelError> {
        let deadline = Instant::now() + timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let left = left
                .try_into()
                .map_err(|_| ChannelError::Receive(Errno::INVAL))?;
            match poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&left)) {
                Ok(ready) => return Ok(ready > 0),
                Err(Errno::INTR) => {}
                Err(error) => return Err(ChannelError::Receive(error)),
            }
        }
    }
}

/// One packet, or what a stream has, and the descriptors with it; `None` at the end.
///
/// # Errors
/// The socket fails.
pub fn receive_from(socket: BorrowedFd<'_>) -> Result<Option<Packet>, Errno> {
    let mut bytes = vec![0; MAX_MESSAGE];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        let mut into = [IoSliceMut::new(&mut bytes)];
        match rustix::net::recvmsg(socket, &mut into, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            // A packet that was never read when the other end went: it is gone all the same.
            Err(Errno::CONNRESET) => return Ok(None),
            received => break received?,
        }
    };
    let fds: Vec<OwnedFd> = ancillary
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        })
        .flatten()
        .collect();
    if received.bytes == 0 && fds.is_empty() {
        return Ok(None);
    }
    bytes.truncate(received.bytes);
    Ok(Some((bytes, fds)))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn messages_and_descriptors_go_through() {
        let (near, far) = Channel::pair().unwrap();
        let (read, write) = rustix::pipe::pipe().unwrap();
        near.send(&"first", &[write.as_fd()]).unwrap();
        near.send(&vec![1, 2, 3], &[]).unwrap();
        drop((near, write));
        let (text, mut fds) = far.receive::<String>().unwrap().unwrap();
        assert_eq!((text.as_str(), fds.len()), ("first", 1));
        File::from(fds.remove(0)).write_all(b"x").unwrap();
        let mut through = String::new();
        File::from(read).read_to_string(&mut through).unwrap();
        assert_eq!(through, "x");
        assert_eq!(far.receive::<Vec<u8>>().unwrap().unwrap().0, [1, 2, 3]);
        assert!(far.receive::<String>().unwrap().is_none());
    }

    #[test]
    fn nobody_waits_for_ever() {
        let (near, _far) = Channel::pair().unwrap();
        let waited = near.receive_within::<String>(Duration::from_millis(1));
        assert!(matches!(waited, Err(ChannelError::Timeout { .. })));
    }

    #[test]
    fn nonsense_is_an_error() {
        let (near, far) = Channel::pair().unwrap();
        near.send(&7, &[]).unwrap();
        assert!(matches!(
            far.receive::<String>(),
            Err(ChannelError::Decode(_))
        ));
    }
}
