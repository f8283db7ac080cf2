// SPDX-License-Identifier: Apache-2.0
//! A BPF program that stays.
//!
//! The kernel compiles programs into packs of 2 MiB each. The first program has one allocated and
//! filled, the last takes it along (kernel: kernel/bpf/core.c). A template that holds a program
//! spares each clone these 512 pages.

#![expect(unsafe_code, reason = "a socket option that no crate wraps")]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use libc::{sock_filter, sock_fprog};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

/// `BPF_RET | BPF_K`.
const RETURN: u16 = 0x06;

#[expect(clippy::cast_possible_truncation, reason = "a few bytes")]
const LEN: libc::socklen_t = size_of::<sock_fprog>() as libc::socklen_t;

/// As long as this is open, there is a program: that of a socket which nobody writes to.
///
/// # Errors
/// The kernel has no such sockets or takes no programs.
pub fn hold() -> io::Result<OwnedFd> {
    let family = AddressFamily::UNIX;
    let socket = rustix::net::socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    // Drops each packet.
    let mut code = [sock_filter {
        code: RETURN,
        jt: 0,
        jf: 0,
        k: 0,
    }];
    let program = sock_fprog {
        len: 1,
        filter: code.as_mut_ptr(),
    };
    // SAFETY: SO_ATTACH_FILTER reads one `sock_fprog` and the instruction it points to, and copies
    // them.
    let answer = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast(),
            LEN,
        )
    };
    match answer {
        0 => Ok(socket),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;

    #[test]
    fn the_socket_has_the_filter() {
        let filtered = UnixDatagram::from(hold().unwrap());
        let name = tempfile::tempdir().unwrap();
        let path = name.path().join("socket");
        let address = rustix::net::SocketAddrUnix::new(&path).unwrap();
        rustix::net::bind(&filtered, &address).unwrap();
        let peer = UnixDatagram::unbound().unwrap();
        filtered.set_nonblocking(true).unwrap();
        // What a filter drops is no error of the sender's.
        peer.send_to(b"x", &path).unwrap_or_default();
        let got = filtered.recv(&mut [0; 1]);
        assert_eq!(got.unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}
