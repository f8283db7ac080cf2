// SPDX-License-Identifier: Apache-2.0
//! Ports of the host: whether they are free, and which of several is. Whoever is to listen binds
//! them a moment later; until then no other container gets them ([`Claim`]), and what somebody else
//! takes fails there, in other words.

mod claim;

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketFlags, SocketType, bind, getsockname, listen, socket_with, sockopt,
};
use serde::{Deserialize, Serialize};

pub use self::claim::Claim;
use super::{NetworkError, Protocol, Publish};
use crate::paths::Paths;

/// A port of the container and its place on the host.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq, Hash)]
pub struct Bound {
    pub address: IpAddr,
    pub host: u16,
    pub container: u16,
    pub protocol: Protocol,
}

/// Finds each a place, in their order; they are taken as long as the claim is there.
pub(super) fn choose(
    wanted: &[Publish],
    paths: &Paths,
) -> Result<(Vec<Bound>, Option<Claim>), NetworkError> {
    if wanted.is_empty() {
        return Ok((Vec::new(), None));
    }
    let claim = Claim::new(paths)?;
    let mut chosen: Vec<Bound> = Vec::with_capacity(wanted.len());
    let mut taken = HashSet::new();
    for publish in wanted {
        let host = match publish.host {
            None => any(publish, &taken, &claim)?,
            Some((first, last)) => first_free(publish, first, last, &taken, &claim)?,
        };
        taken.insert((host, publish.protocol));
        chosen.push(Bound {
            address: publish.address,
            host,
            container: publish.container,
            protocol: publish.protocol,
        });
    }
    Ok((chosen, Some(claim)))
}

/// Has the port itself, so that whoever else binds it is told.
fn hold(port: &Bound) -> Result<OwnedFd, NetworkError> {
    let held = probe(port.address, port.host, port.protocol).and_then(|(socket, _)| {
        match port.protocol {
            Protocol::Tcp => listen(&socket, 1)?,
            Protocol::Udp => {}
        }
        Ok(socket)
    });
    held.map_err(|errno| bind_error(port.address, port.host, errno))
}

/// Whether it can be bound now.
pub(super) fn check(port: &Bound) -> Result<(), NetworkError> {
    let probed = probe(port.address, port.host, port.protocol);
    probed
        .map(drop)
        .map_err(|errno| bind_error(port.address, port.host, errno))
}

/// The first that is by IPv6.
pub(super) fn ipv6(wanted: &[Publish]) -> Option<IpAddr> {
    let mut all = wanted.iter().map(|publish| publish.address);
    all.find(IpAddr::is_ipv6)
}

fn first_free(
    publish: &Publish,
    first: u16,
    last: u16,
    taken: &HashSet<(u16, Protocol)>,
    claim: &Claim,
) -> Result<u16, NetworkError> {
    let mut failed = None;
    for port in first..=last {
        if taken.contains(&(port, publish.protocol)) {
            failed.get_or_insert(NetworkError::Twice {
                address: publish.address,
                port,
            });
            continue;
        }
        match claimed(publish, port, claim) {
            Ok(()) => return Ok(port),
            Err(errno) => {
                failed.get_or_insert(bind_error(publish.address, port, errno));
            }
        }
    }
    Err(failed.unwrap_or_else(|| bind_error(publish.address, first, Errno::ADDRINUSE)))
}

fn any(
    publish: &Publish,
    taken: &HashSet<(u16, Protocol)>,
    claim: &Claim,
) -> Result<u16, NetworkError> {
    loop {
        let (_, port) = probe(publish.address, 0, publish.protocol)
            .map_err(|errno| bind_error(publish.address, 0, errno))?;
        if !taken.contains(&(port, publish.protocol)) && claimed(publish, port, claim).is_ok() {
            return Ok(port);
        }
    }
}

/// Locks it, where it is free.
fn claimed(publish: &Publish, port: u16, claim: &Claim) -> Result<(), Errno> {
    let Publish {
        address, protocol, ..
    } = *publish;
    let taken = claim.take(address, port, protocol);
    // An error of the lock's is as good a reason as one of the socket's.
    let taken = taken.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    if !taken {
        return Err(Errno::ADDRINUSE);
    }
    let probed = probe(address, port, protocol).map(drop);
    probed.inspect_err(|_| claim.give_back(address, port, protocol))
}

fn bind_error(address: IpAddr, port: u16, errno: Errno) -> NetworkError {
    let why = match errno {
        Errno::ADDRINUSE => "port is already allocated".to_owned(),
        Errno::ADDRNOTAVAIL => "cannot assign requested address".to_owned(),
        Errno::ACCESS => format!(
            "permission denied: ports below {} are root's",
            std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start")
                .unwrap_or_else(|_| "1024".to_owned())
                .trim()
        ),
        errno => std::io::Error::from(errno).to_string(),
    };
    NetworkError::Bind { address, port, why }
}

/// Binds it; which port it was.
fn probe(address: IpAddr, port: u16, protocol: Protocol) -> Result<(OwnedFd, u16), Errno> {
    let family = match address {
        IpAddr::V4(_) => AddressFamily::INET,
        IpAddr::V6(_) => AddressFamily::INET6,
    };
    let kind = match protocol {
        Protocol::Tcp => SocketType::STREAM,
        Protocol::Udp => SocketType::DGRAM,
    };
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
    if protocol == Protocol::Tcp {
        // What lingers of old connections is no obstacle to a listener. To UDP it would hide others.
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    bind(&socket, &SocketAddr::new(address, port))?;
    let bound = SocketAddr::try_from(getsockname(&socket)?).map_err(|_| Errno::INVAL)?;
    let port = bound.port();
    Ok((socket, port))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    /// By somebody who has a state directory for himself.
    fn choose(wanted: &[Publish]) -> Result<Vec<Bound>, NetworkError> {
        let dir = tempfile::tempdir().unwrap();
        super::choose(wanted, &Paths::within(dir.path())).map(|(chosen, _)| chosen)
    }

    fn publish(host: Option<(u16, u16)>, protocol: Protocol) -> Publish {
        Publish {
            address: [127, 0, 0, 1].into(),
            host,
            container: 80,
            protocol,
        }
    }

    #[test]
    fn what_is_taken_is_refused() {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        for (port, protocol) in [
            (tcp.local_addr().unwrap().port(), Protocol::Tcp),
            (udp.local_addr().unwrap().port(), Protocol::Udp),
        ] {
            let error = choose(&[publish(Some((port, port)), protocol)]).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("Bind for 127.0.0.1:{port} failed: port is already allocated")
            );
        }
    }

    #[test]
    fn the_first_that_is_free() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let first = taken.local_addr().unwrap().port();
        let last = first.saturating_add(20);
        let two = vec![publish(Some((first, last)), Protocol::Tcp); 2];
        let chosen = choose(&two).unwrap();
        assert!(first < chosen[0].host && chosen[0].host < chosen[1].host);
        let any = choose(&[publish(None, Protocol::Tcp), publish(None, Protocol::Tcp)]).unwrap();
        assert!(any[0].host > 0 && any[0].host != any[1].host);
    }

    #[test]
    fn one_port_once() {
        let free = choose(&[publish(None, Protocol::Tcp)]).unwrap()[0].host;
        let two = vec![publish(Some((free, free)), Protocol::Tcp); 2];
        assert!(matches!(choose(&two), Err(NetworkError::Twice { .. })));
    }

    /// Before whoever is to listen does.
    #[test]
    fn two_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::within(dir.path());
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let (one, claim) = super::choose(&[publish(None, protocol)], &paths).unwrap();
            let port = one[0].host;
            let again = [publish(Some((port, port)), protocol)];
            let error = super::choose(&again, &paths).unwrap_err().to_string();
            let said = format!("Bind for 127.0.0.1:{port} failed: port is already allocated");
            assert_eq!(error, said);
            drop(claim);
            let (ports, claim) = super::choose(&again, &paths).unwrap();
            // One of another state directory has it in the meantime.
            let there = hold(&ports[0]).unwrap();
            let error = claim.unwrap().hold(&ports).unwrap_err().to_string();
            assert_eq!(error, said);
            drop(there);
        }
        assert!(super::choose(&[], &paths).unwrap().1.is_none());
    }

    #[test]
    fn not_an_address_of_this_host() {
        let mut elsewhere = publish(None, Protocol::Tcp);
        elsewhere.address = [192, 0, 2, 77].into();
        let error = choose(&[elsewhere]).unwrap_err().to_string();
        assert!(
            error.ends_with("cannot assign requested address"),
            "{error}"
        );
    }
}
