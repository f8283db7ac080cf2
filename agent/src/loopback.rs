// SPDX-License-Identifier: Apache-2.0
//! Brings the loopback interface up: netdevice(7), `SIOCSIFFLAGS`.

#![expect(unsafe_code, reason = "an ioctl that no crate wraps")]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};

/// As [`up`], in the network namespace of the process `pid`.
///
/// # Errors
/// The process is gone, or what [`up`] says.
pub fn up_in(pid: i32) -> io::Result<()> {
    let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::NotFound)?;
    let process = pidfd_open(pid, PidfdFlags::empty())?;
    // A thread that ends takes its namespace with it.
    let there = move || {
        move_into_thread_name_spaces(process.as_fd(), ThreadNameSpaceType::NETWORK)?;
        up()
    };
    let thread = std::thread::Builder::new()
        .stack_size(64 << 10)
        .spawn(there)?;
    thread.join().unwrap_or(Err(io::ErrorKind::Other.into()))
}

/// Sets `IFF_UP` on `lo` of the calling thread's network namespace; the kernel gives it 127.0.0.1
/// and ::1 by itself.
///
/// # Errors
/// There is no `lo`, or the caller may not.
pub fn up() -> io::Result<()> {
    let socket = rustix::net::socket_with(
        AddressFamily::INET,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    let mut name = [0; libc::IFNAMSIZ];
    for (to, from) in name.iter_mut().zip(b"lo") {
        *to = from.cast_signed();
    }
    let flags = libc::IFF_UP | libc::IFF_RUNNING;
    let request = libc::ifreq {
        ifr_name: name,
        ifr_ifru: libc::__c_anonymous_ifr_ifru {
            ifru_flags: i16::try_from(flags).map_err(io::Error::other)?,
        },
    };
    // SAFETY: SIOCSIFFLAGS reads one `ifreq`, which `request` is, and keeps no reference to it.
    let answer = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    if answer < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
