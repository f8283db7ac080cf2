// SPDX-License-Identifier: Apache-2.0
//! The ports that a container publishes, for as long as it does. passt binds a moment after we have
//! looked, and to UDP it lets others bind, too; so what was found free is locked until the end.
//!
//! ```text
//! STATE/ports/NAMESPACE   empty; one lock of a byte for each port, of this network namespace
//! ```
//!
//! The locks are those of an open file description (fcntl(2)): they go with the process, however that
//! ends, and those of neighbouring ports are one to the kernel.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

use super::{Bound, hold};
use crate::network::{NetworkError, Protocol};
use crate::paths::{Paths, private_dir};

const DIR: &str = "ports";
const NAMESPACE: &str = "/proc/self/ns/net";

/// Of what bytes a port's is one: an address has this many, TCP's before UDP's.
const ADDRESS: i64 = 2 << 16;
/// Addresses of IPv6 are folded into this many bits: two that are the same then are taken for one.
const FOLDED: u32 = 44;

#[derive(Debug)]
pub struct Claim {
    file: File,
    /// Where nobody listens: they say that the ports are taken.
    held: Vec<OwnedFd>,
}

impl Claim {
    pub(super) fn new(paths: &Paths) -> Result<Self, NetworkError> {
        let dir = paths.state.join(DIR);
        private_dir(&dir)?;
        let namespace = fs::metadata(NAMESPACE).map_or(0, |meta| meta.ino());
        let path = dir.join(namespace.to_string());
        let opened = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .mode(0o600)
            .open(&path);
        let file = opened.map_err(|source| NetworkError::Claim { path, source })?;
        Ok(Self {
            file,
            held: Vec::new(),
        })
    }

    /// Whether it is ours now; it is not where another one has it, or one at all addresses.
    pub(super) fn take(&self, address: IpAddr, port: u16, protocol: Protocol) -> io::Result<bool> {
        let [everywhere, here] = places(address, port, protocol);
        let everywhere_as = match here {
            None => libc::F_WRLCK,
            Some(_) => libc::F_RDLCK,
        };
        if !self.lock(everywhere, everywhere_as)? {
            return Ok(false);
        }
        match self.lock(here, libc::F_WRLCK) {
            Ok(true) => Ok(true),
            refused => {
                self.lock(everywhere, libc::F_UNLCK)?;
                refused
            }
        }
    }

    /// It turned out not to be free.
    pub(super) fn give_back(&self, address: IpAddr, port: u16, protocol: Protocol) {
        for place in places(address, port, protocol) {
            // It goes with the file at the latest.
            let _ = self.lock(place, libc::F_UNLCK);
        }
    }

    fn lock(&self, place: Option<i64>, kind: i32) -> io::Result<bool> {
        let Some(start) = place else {
            return Ok(true);
        };
        let lock = libc::flock {
            l_type: i16::try_from(kind).unwrap_or(i16::MAX),
            l_whence: 0,
            l_start: start,
            l_len: 1,
            l_pid: 0,
        };
        match fcntl(&self.file, FcntlArg::F_OFD_SETLK(&lock)) {
            Ok(_) => Ok(true),
            Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Has the ports themselves, where nobody else is going to.
    ///
    /// # Errors
    /// One of them is taken.
    pub fn hold(&mut self, ports: &[Bound]) -> Result<(), NetworkError> {
        let held = ports.iter().map(hold).collect::<Result<Vec<_>, _>>()?;
        self.held.extend(held);
        Ok(())
    }
}

/// Where a port's locks are: the one that all addresses share, and the address's own.
fn places(address: IpAddr, port: u16, protocol: Protocol) -> [Option<i64>; 2] {
    let port = match protocol {
        Protocol::Tcp => i64::from(port),
        Protocol::Udp => ADDRESS / 2 + i64::from(port),
    };
    // Sockets of the one family leave the other's ports alone.
    let (family, number) = match address {
        IpAddr::V4(address) => (0, i64::from(address.to_bits())),
        IpAddr::V6(address) => {
            let bits = address.to_bits();
            let folded = bits ^ (bits >> FOLDED) ^ (bits >> (2 * FOLDED));
            let folded = i64::try_from(folded & ((1 << FOLDED) - 1)).unwrap_or(0);
            (1, (1 << 32) + folded)
        }
    };
    let here = (!address.is_unspecified()).then_some((2 + number) * ADDRESS + port);
    [Some(family * ADDRESS + port), here]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_has_a_port_at_an_address() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::within(dir.path());
        let one = Claim::new(&paths).unwrap();
        let take = |claim: &Claim, address: &str, port, protocol| {
            claim
                .take(address.parse().unwrap(), port, protocol)
                .unwrap()
        };
        for (address, port, protocol) in [
            ("127.0.0.1", 53, Protocol::Udp),
            ("0.0.0.0", 80, Protocol::Tcp),
            ("::1", 54, Protocol::Udp),
            ("::", 65535, Protocol::Tcp),
            ("255.255.255.255", 65535, Protocol::Udp),
        ] {
            assert!(take(&one, address, port, protocol), "{address}");
        }
        let other = Claim::new(&paths).unwrap();
        for (address, port, protocol, free) in [
            ("127.0.0.1", 53, Protocol::Udp, false),
            ("0.0.0.0", 53, Protocol::Udp, false),
            ("127.0.0.2", 53, Protocol::Udp, true),
            ("127.0.0.1", 53, Protocol::Tcp, true),
            ("127.0.0.1", 54, Protocol::Udp, true),
            ("127.0.0.1", 80, Protocol::Tcp, false),
            ("0.0.0.0", 80, Protocol::Tcp, false),
            ("0.0.0.0", 80, Protocol::Udp, true),
            ("::", 80, Protocol::Tcp, true),
            ("::1", 54, Protocol::Udp, false),
            ("::", 54, Protocol::Udp, false),
            ("fd00::1", 54, Protocol::Udp, true),
            ("fd00::1", 65535, Protocol::Tcp, false),
            ("0.0.0.0", 65535, Protocol::Udp, false),
        ] {
            let taken = take(&other, address, port, protocol);
            assert_eq!(taken, free, "{address} {port} {protocol}");
        }
        // What was refused leaves nothing locked; what is given back is anybody's.
        one.give_back([127, 0, 0, 1].into(), 53, Protocol::Udp);
        assert!(take(&one, "0.0.0.0", 52, Protocol::Udp));
        assert!(!take(&one, "0.0.0.0", 53, Protocol::Udp));
        drop(other);
        assert!(take(&one, "0.0.0.0", 53, Protocol::Udp));
        drop(one);
        let next = Claim::new(&paths).unwrap();
        assert!(take(&next, "127.0.0.1", 80, Protocol::Tcp));
    }
}
