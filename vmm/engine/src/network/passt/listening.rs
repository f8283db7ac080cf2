// SPDX-License-Identifier: Apache-2.0
//! What passt is told of published ports, and what it says of those that it can't have.

use std::net::IpAddr;

use rustix::process::{Resource, getrlimit};

use crate::network::{Bound, NetworkError, Protocol, ports};

/// Each by itself up to here. Of a range, passt says nothing as long as it gets one of its ports; but
/// more arguments than these may be too long for the kernel.
const MAX_SINGLE: usize = 4096;

/// `--tcp-ports 127.0.0.1/8000-8010:80-90`
pub(super) fn arguments(ports: &[Bound]) -> Vec<String> {
    let longest = match ports.len() {
        ..=MAX_SINGLE => 1,
        _ => usize::MAX,
    };
    let runs = runs(ports, longest).into_iter();
    runs.flat_map(|(first, last)| {
        let flag = match first.protocol {
            Protocol::Tcp => "--tcp-ports",
            Protocol::Udp => "--udp-ports",
        };
        let range = |first: u16, last: u16| match first == last {
            true => first.to_string(),
            false => format!("{first}-{last}"),
        };
        let host = range(first.host, last.host);
        let container = range(first.container, last.container);
        [
            flag.to_owned(),
            format!("{}/{host}:{container}", first.address),
        ]
    })
    .collect()
}

/// Neighbours that go to neighbours, the first and the last of each such run.
fn runs(ports: &[Bound], longest: usize) -> Vec<(Bound, Bound)> {
    let mut all: Vec<(Bound, Bound)> = Vec::new();
    for port in ports {
        if let Some((first, last)) = all.last_mut()
            && (last.address, last.protocol) == (port.address, port.protocol)
            && last.host.checked_add(1) == Some(port.host)
            && last.container.checked_add(1) == Some(port.container)
            && usize::from(last.host - first.host) + 1 < longest
        {
            *last = *port;
            continue;
        }
        all.push((*port, *port));
    }
    all
}

/// Why it does not listen, where what it says is about ports.
pub(super) fn failure(said: &str, ports: &[Bound]) -> Option<NetworkError> {
    if said.contains("Too many open files") {
        let limit = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
        return Some(NetworkError::TooManyPorts {
            wanted: ports.len(),
            possible: limit.saturating_sub(FILES),
        });
    }
    let (address, host) = refused(said)?;
    let port = ports
        .iter()
        .find(|port| (port.address, port.host) == (address, host))?;
    // Where it is free, there is another reason.
    ports::check(port).err()
}

/// That it has open besides.
const FILES: u64 = 16;

/// `Failed to bind any port for '-t 127.0.0.1/8080:80', exiting`
fn refused(said: &str) -> Option<(IpAddr, u16)> {
    let (_, rest) = said.split_once("Failed to bind any port for '")?;
    let (spec, _) = rest.split_once('\'')?;
    let (_, place) = spec.split_once(' ')?;
    let (address, ports) = place.split_once('/')?;
    let first = ports.split(['-', ':', ',']).next()?;
    Some((address.parse().ok()?, first.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn bound(host: u16, container: u16, protocol: Protocol) -> Bound {
        Bound {
            address: [127, 0, 0, 1].into(),
            host,
            container,
            protocol,
        }
    }

    #[test]
    fn few_ports_each_by_itself() {
        let two = [(8080, 80), (8081, 81)].map(|(a, b)| bound(a, b, Protocol::Udp));
        let said = arguments(&two).join(" ");
        let expected = "--udp-ports 127.0.0.1/8080:80 --udp-ports 127.0.0.1/8081:81";
        assert_eq!(said, expected);
    }

    #[test]
    fn many_ports_in_ranges() {
        let all = (1..=u16::MAX).map(|port| bound(port, port, Protocol::Tcp));
        let mut all: Vec<_> = all.collect();
        assert_eq!(
            arguments(&all),
            ["--tcp-ports", "127.0.0.1/1-65535:1-65535"]
        );
        all[9] = bound(9999, 10, Protocol::Udp);
        all.truncate(MAX_SINGLE + 1);
        let said = arguments(&all).join(" ");
        let expected = "--tcp-ports 127.0.0.1/1-9:1-9 --udp-ports 127.0.0.1/9999:10 \
                        --tcp-ports 127.0.0.1/11-4097:11-4097";
        assert_eq!(said, expected);
    }

    #[test]
    fn why_it_does_not_listen() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let ports = [bound(1, 1, Protocol::Udp), bound(port, 80, Protocol::Tcp)];
        for spec in [format!("{port}:80"), format!("{port}-65535:80-90")] {
            let said = format!("Failed to bind any port for '-t 127.0.0.1/{spec}', exiting");
            let error = failure(&said, &ports).unwrap().to_string();
            let expected = format!("Bind for 127.0.0.1:{port} failed: port is already allocated");
            assert_eq!(error, expected);
            // Not one of ours.
            assert!(failure(&said, &ports[..1]).is_none());
        }
        drop(taken);
        let said = format!("Failed to bind any port for '-t 127.0.0.1/{port}:80', exiting");
        assert!(failure(&said, &ports).is_none());
        let error = failure("L4 socket: Too many open files; x", &ports).unwrap();
        assert!(
            error
                .to_string()
                .starts_with("2 ports are too many for passt")
        );
        for nonsense in [
            "",
            "Failed to bind any port for '-t x",
            "Failed to bind any port for ''",
        ] {
            assert!(failure(nonsense, &ports).is_none(), "{nonsense}");
        }
    }
}
