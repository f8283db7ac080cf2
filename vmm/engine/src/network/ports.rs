// SPDX-License-Identifier: Apache-2.0
//! Ports of the host: whether they are free, and which of several is. Whoever is to listen binds
//! them a moment later; what was free here and is taken then fails there, in other words.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketFlags, SocketType, bind, getsockname, socket_with, sockopt,
};
use serde::{Deserialize, Serialize};

use super::{NetworkError, Protocol, Publish};

/// A port of the container and its place on the host.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq, Hash)]
pub struct Bound {
    pub address: IpAddr,
    pub host: u16,
    pub container: u16,
    pub protocol: Protocol,
}

/// Finds each a place, in their order.
pub(super) fn choose(wanted: &[Publish]) -> Result<Vec<Bound>, NetworkError> {
    let mut chosen: Vec<Bound> = Vec::with_capacity(wanted.len());
    let mut taken = HashSet::new();
    for publish in wanted {
        let host = match publish.host {
            None => any(publish, &taken)?,
            Some((first, last)) => first_free(publish, first, last, &taken)?,
        };
        taken.insert((host, publish.protocol));
        chosen.push(Bound {
            address: publish.address,
            host,
            container: publish.container,
            protocol: publish.protocol,
        });
    }
    Ok(chosen)
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
        match probe(publish.address, port, publish.protocol) {
            Ok(port) => return Ok(port),
            Err(errno) => {
                failed.get_or_insert(bind_error(publish.address, port, errno));
            }
        }
    }
    Err(failed.unwrap_or_else(|| bind_error(publish.address, first, Errno::ADDRINUSE)))
}

fn any(publish: &Publish, taken: &HashSet<(u16, Protocol)>) -> Result<u16, NetworkError> {
    loop {
        let port = probe(publish.address, 0, publish.protocol)
            .map_err(|errno| bind_error(publish.address, 0, errno))?;
        if !taken.contains(&(port, publish.protocol)) {
            return Ok(port);
        }
    }
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

/// Binds it, and lets go; which port it was.
fn probe(address: IpAddr, port: u16, protocol: Protocol) -> Result<u16, Errno> {
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
    Ok(bound.port())
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

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
