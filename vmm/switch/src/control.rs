// SPDX-License-Identifier: Apache-2.0
//! How a container joins, how its networks are made known to each other, and how it gets another name:
//! one message with its descriptors, one answer. SOCK_SEQPACKET, so that each comes whole.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, recvmsg, send,
    sendmsg, socket_with,
};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use walnut_vmm_config::Mac;

use crate::policy::Policy;

const MAX_MESSAGE: usize = 64 << 10;
/// For a switch, which does nothing that takes long, to come to who speaks to it.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What a switch is asked for.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    Join(Join),
    /// With a socket to the switch of another network that the container is on.
    Introduce {
        container: String,
    },
    /// The container on the network has these names from now on.
    Rename {
        container: String,
        names: Vec<String>,
    },
}

/// With the machine's end of its network, and the passt's where there is one.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Join {
    /// The container's ID: it has one place here.
    pub container: String,
    /// By which it can be found, its own first.
    pub names: Vec<String>,
    /// Any that is free, unless given.
    pub address: Option<Ipv4Addr>,
    /// That of the address, unless given.
    pub mac: Option<Mac>,
    /// The gateway's address is the host's loopback.
    pub host: bool,
    /// Who answers for names of others, as its passt reaches them.
    pub resolvers: Vec<Ipv4Addr>,
    /// All may leave, unless given.
    pub egress: Option<Policy>,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub struct Joined {
    pub address: Ipv4Addr,
    pub mac: Mac,
}

#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    Joined(Joined),
    Introduced,
    Renamed,
    /// In words.
    Refused(String),
}

#[derive(Debug, Error)]
pub enum ControlError {
    #[error("speak to the network's switch")]
    Exchange(#[source] io::Error),
    #[error("the network's switch does not answer")]
    Silent,
    #[error("make sense of what the network's switch says")]
    Parse(#[source] serde_json::Error),
    #[error("{0}")]
    Refused(String),
}

/// A connection to the switch that listens there. One that is stopped, or hangs, is waited for no
/// longer than [`TIMEOUT`], now and at each later step.
///
/// # Errors
/// There is no switch: `ENOENT`, `ECONNREFUSED`. It takes nobody: `EAGAIN`.
pub fn connect(address: &SocketAddrUnix) -> Result<OwnedFd, Errno> {
    connect_within(address, TIMEOUT)
}

fn connect_within(address: &SocketAddrUnix, timeout: Duration) -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC;
    let connection = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    for way in [Timeout::Send, Timeout::Recv] {
        set_socket_timeout(&connection, way, Some(timeout))?;
    }
    rustix::net::connect(&connection, address)?;
    Ok(connection)
}

/// Joins, over a fresh connection.
///
/// # Errors
/// The switch is gone, or refuses.
pub fn join(
    connection: BorrowedFd<'_>,
    join: &Join,
    machine: BorrowedFd<'_>,
    uplink: Option<BorrowedFd<'_>>,
) -> Result<Joined, ControlError> {
    let fds: Vec<BorrowedFd<'_>> = [Some(machine), uplink].into_iter().flatten().collect();
    match exchange(connection, &Request::Join(join.clone()), &fds)? {
        Reply::Joined(joined) => Ok(joined),
        other => Err(refused(other)),
    }
}

/// Tells a switch that `container` is on another network, too, whose switch has the other end of
/// `socket`; over a fresh connection.
///
/// # Errors
/// The switch is gone, or refuses.
pub fn introduce(
    connection: BorrowedFd<'_>,
    container: &str,
    socket: BorrowedFd<'_>,
) -> Result<(), ControlError> {
    let container = container.to_owned();
    match exchange(connection, &Request::Introduce { container }, &[socket])? {
        Reply::Introduced => Ok(()),
        other => Err(refused(other)),
    }
}

/// Gives a container that is on the network other names; over a fresh connection.
///
/// # Errors
/// The switch is gone, or refuses.
pub fn rename(
    connection: BorrowedFd<'_>,
    container: &str,
    names: Vec<String>,
) -> Result<(), ControlError> {
    let container = container.to_owned();
    match exchange(connection, &Request::Rename { container, names }, &[])? {
        Reply::Renamed => Ok(()),
        other => Err(refused(other)),
    }
}

fn refused(reply: Reply) -> ControlError {
    match reply {
        Reply::Refused(words) => ControlError::Refused(words),
        other => ControlError::Exchange(io::Error::other(format!("{other:?}"))),
    }
}

fn exchange(
    connection: BorrowedFd<'_>,
    request: &Request,
    fds: &[BorrowedFd<'_>],
) -> Result<Reply, ControlError> {
    let bytes = serde_json::to_vec(request).map_err(ControlError::Parse)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        ancillary.push(SendAncillaryMessage::ScmRights(fds));
    }
    let failed = |error: io::Error| match error.kind() {
        // socket(7): so a socket's timeout is told.
        io::ErrorKind::WouldBlock => ControlError::Silent,
        _ => ControlError::Exchange(error),
    };
    let data = [IoSlice::new(&bytes)];
    sendmsg(connection, &data, &mut ancillary, SendFlags::NOSIGNAL)
        .map_err(|errno| failed(errno.into()))?;
    let (answer, _) = receive(connection).map_err(failed)?;
    serde_json::from_slice(&answer).map_err(ControlError::Parse)
}

/// One message and its descriptors.
fn receive(connection: impl AsFd) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut bytes = vec![0; MAX_MESSAGE];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut data = [IoSliceMut::new(&mut bytes)];
    let received = recvmsg(
        connection,
        &mut data,
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let mut fds = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    if received.bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    bytes.truncate(received.bytes);
    Ok((bytes, fds))
}

/// What somebody asks of a switch. Of who joins, the first descriptor is the machine's, the second the
/// passt's.
pub(crate) fn receive_request(connection: impl AsFd) -> io::Result<(Request, Vec<OwnedFd>)> {
    let (bytes, fds) = receive(connection)?;
    let request = serde_json::from_slice(&bytes)?;
    Ok((request, fds))
}

pub(crate) fn reply(connection: impl AsFd, reply: &Reply) -> io::Result<()> {
    let bytes = serde_json::to_vec(reply)?;
    send(connection, &bytes, SendFlags::NOSIGNAL)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use rustix::net::{bind, listen, socketpair};

    use super::*;

    #[test]
    fn a_switch_that_is_stopped_is_not_waited_for() {
        const ENOUGH: usize = 100;
        let dir = tempfile::tempdir().unwrap();
        let address = SocketAddrUnix::new(dir.path().join("s")).unwrap();
        let nobody = connect(&address).unwrap_err();
        assert_eq!(nobody, Errno::NOENT);
        let kind = SocketType::SEQPACKET;
        let stopped = rustix::net::socket(AddressFamily::UNIX, kind, None).unwrap();
        bind(&stopped, &address).unwrap();
        listen(&stopped, 1).unwrap();
        let connect = || connect_within(&address, Duration::from_millis(50));
        let connection = connect().unwrap();
        let asked = rename(connection.as_fd(), "id", vec!["new".into()]);
        assert!(matches!(asked, Err(ControlError::Silent)), "{asked:?}");
        // Where as many wait as can, there is no connection any more.
        let mut more = (0..ENOUGH).map(|_| connect());
        let full = more.find_map(Result::err);
        assert_eq!(full, Some(Errno::AGAIN));
    }

    #[test]
    fn a_request_without_descriptors() {
        let flags = SocketFlags::CLOEXEC;
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        let switch = std::thread::spawn(move || {
            let (request, fds) = receive_request(&theirs).unwrap();
            reply(&theirs, &Reply::Renamed).unwrap();
            (request, fds.len())
        });
        rename(ours.as_fd(), "id", vec!["new".into()]).unwrap();
        let expected = Request::Rename {
            container: "id".into(),
            names: vec!["new".into()],
        };
        assert_eq!(switch.join().unwrap(), (expected, 0));
    }
}
