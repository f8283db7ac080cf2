// SPDX-License-Identifier: Apache-2.0
//! Tap devices (kernel: Documentation/networking/tuntap.rst): one descriptor, one interface.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use thiserror::Error;

pub const TUN: &str = "/dev/net/tun";

/// linux/if_tun.h.
const TUNSETIFF: u64 = 0x4004_54ca;

#[derive(Debug, Error)]
pub enum TapError {
    #[error("{0:?} is no name of a network interface")]
    Name(String),
    #[error("cannot open {TUN} for the tap {name}{}", open_hint(*source))]
    Open { name: String, source: Errno },
    #[error("cannot attach to the tap {name}{}", hint(source))]
    Attach { name: String, source: io::Error },
}

/// The tap of that name, with a virtio-net header before each frame. Where there is none it is made,
/// and goes with its descriptor.
///
/// # Errors
/// The name is none, or the kernel refuses.
pub fn open_tap(name: &str) -> Result<OwnedFd, TapError> {
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    let mut request = libc::ifreq {
        ifr_name: interface_name(name)?,
        ifr_ifru: libc::__c_anonymous_ifr_ifru {
            ifru_flags: i16::try_from(flags).expect("15 bits"),
        },
    };
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = rustix::fs::open(TUN, flags, Mode::empty()).map_err(|source| TapError::Open {
        name: name.to_owned(),
        source,
    })?;
    #[expect(unsafe_code, reason = "an ioctl that no crate wraps")]
    // SAFETY: TUNSETIFF reads and writes the ifreq that was made for it, and keeps no reference.
    let done = unsafe { libc::ioctl(fd.as_raw_fd(), TUNSETIFF, &raw mut request) };
    if done < 0 {
        return Err(TapError::Attach {
            name: name.to_owned(),
            source: io::Error::last_os_error(),
        });
    }
    Ok(fd)
}

/// # Errors
/// It is none.
pub fn check_interface_name(name: &str) -> Result<(), TapError> {
    interface_name(name).map(drop)
}

/// As the kernel takes it: NUL-terminated, no path.
fn interface_name(name: &str) -> Result<[libc::c_char; libc::IFNAMSIZ], TapError> {
    let plain = |byte: u8| byte.is_ascii_graphic() && byte != b'/' && byte != b':';
    let fits = (1..libc::IFNAMSIZ).contains(&name.len());
    if !fits || !name.bytes().all(plain) || matches!(name, "." | "..") {
        return Err(TapError::Name(name.chars().take(40).collect()));
    }
    let mut bytes = [0; libc::IFNAMSIZ];
    for (to, from) in bytes.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    Ok(bytes)
}

/// What to do about it, in words.
fn open_hint(errno: Errno) -> &'static str {
    match errno {
        Errno::NOENT | Errno::NODEV => " (is the kernel module loaded? modprobe tun)",
        Errno::ACCESS | Errno::PERM => {
            " (it is not this user's to open: root can, or can chmod 666 /dev/net/tun)"
        }
        _ => "",
    }
}

fn hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM) => " (it is another user's: ip tuntap add NAME mode tap user USER)",
        Some(libc::EBUSY) => " (another process has it)",
        Some(libc::EINVAL) => " (is it a tap, and of one queue?)",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert!(interface_name("walnut-t0").is_ok());
        for bad in ["", ".", "..", "a/b", "a:b", "a b", "sixteen-letters-"] {
            assert!(interface_name(bad).is_err(), "{bad}");
        }
    }
}
