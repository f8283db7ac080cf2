// SPDX-License-Identifier: Apache-2.0
//! The host's side: the unix socket that is listened on, those that the guest's connections go to,
//! and the one descriptor that tells of all of them.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::event::epoll;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::VsockError;

/// The listener's event; connections have greater numbers.
pub(super) const LISTENER: u64 = 0;

/// What `_<port>` adds to a path, at most.
const SUFFIX_LEN: usize = 11;

/// `sun_path` of unix(7), without the NUL at its end.
const MAX_PATH: usize = 107;

#[derive(Debug)]
pub(super) struct Backend {
    pub epoll: OwnedFd,
    pub listener: UnixListener,
    /// [`Backend::connect`] adds the port.
    prefix: Vec<u8>,
}

impl Backend {
    pub(super) fn new(socket: &Path) -> Result<Self, VsockError> {
        let path = || PathBuf::from(socket);
        let mut prefix = socket.as_os_str().as_bytes().to_vec();
        if prefix.len() + SUFFIX_LEN > MAX_PATH {
            let most = MAX_PATH - SUFFIX_LEN;
            return Err(VsockError::LongPath { path: path(), most });
        }
        prefix.push(b'_');
        let bind = |source| VsockError::Bind {
            path: path(),
            source,
        };
        let listener = listen(socket).map_err(bind)?;
        listener.set_nonblocking(true).map_err(bind)?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)
            .map_err(|error| VsockError::Events(error.into()))?;
        Ok(Self {
            epoll,
            listener,
            prefix,
        })
    }

    /// Connects to the socket of the guest's connections to `port`, or fails, at once.
    pub(super) fn connect(&self, port: u32) -> io::Result<UnixStream> {
        let mut path = self.prefix.clone();
        path.extend_from_slice(port.to_string().as_bytes());
        Ok(connect(&SocketAddrUnix::new(path)?)?.into())
    }
}

/// Binds `path`; a socket that a monitor left behind when it was killed makes room.
fn listen(path: &Path) -> io::Result<UnixListener> {
    match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_abandoned(path) => {
            std::fs::remove_file(path)?;
            UnixListener::bind(path)
        }
        listener => listener,
    }
}

fn is_abandoned(path: &Path) -> bool {
    // A file that is no socket refuses a connection just as well.
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    let (Ok(address), true) = (SocketAddrUnix::new(path), is_socket) else {
        return false;
    };
    connect(&address).is_err_and(|error| error == Errno::CONNREFUSED)
}

/// A unix socket is connected now or never: a full backlog is `EAGAIN` (unix(7)).
fn connect(address: &SocketAddrUnix) -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, address)?;
    Ok(socket)
}
