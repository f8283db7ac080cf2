// SPDX-License-Identifier: Apache-2.0
//! A container's TCP connections to others, which do not come along when its machine goes on
//! elsewhere.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use walnut_protocol::agent::ConnectionsResponse;

/// As many peers are named.
const MAX_PEERS: usize = 8;

/// Those of the network namespace of a process.
#[must_use]
pub fn established(pid: i32) -> ConnectionsResponse {
    // A process that is gone has none.
    let tables = ["tcp", "tcp6"]
        .map(|table| fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default());
    let peers = tables
        .iter()
        .flat_map(|table| table.lines().filter_map(peer));
    let mut response = ConnectionsResponse::new();
    for peer in peers {
        response.established = response.established.saturating_add(1);
        if response.peers.len() < MAX_PEERS {
            response.peers.push(peer.to_string());
        }
    }
    response
}

/// Of a line of proc_net_tcp (kernel: Documentation/networking/proc_net_tcp.rst) with an established
/// connection that leaves the machine.
fn peer(line: &str) -> Option<SocketAddr> {
    const ESTABLISHED: &str = "01";
    let mut fields = line.split_whitespace().skip(2);
    let (remote, state) = (fields.next()?, fields.next()?);
    let peer = address(remote)?;
    (state == ESTABLISHED && !peer.ip().to_canonical().is_loopback()).then_some(peer)
}

/// `0100007F:1F90`: words of 32 bits as this machine has them in memory, and the port.
fn address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let word = |at: usize| {
        let digits = address.get(at..at + 8)?;
        u32::from_str_radix(digits, 16).ok().map(u32::to_ne_bytes)
    };
    let ip = match address.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let words = [word(0)?, word(8)?, word(16)?, word(24)?];
            IpAddr::V6(Ipv6Addr::from(
                words.as_flattened().first_chunk::<16>().copied()?,
            ))
            .to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_kernels() {
        let to_outside = "   0: 6402000A:A0B4 0202000A:1F90 01 00000000:00000000 00:00000000";
        assert_eq!(peer(to_outside), Some("10.0.2.2:8080".parse().unwrap()));
        let listening = "   1: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000";
        let loopback = "   2: 0100007F:A0B4 0100007F:1F90 01 00000000:00000000 00:00000000";
        let closing = "   3: 6402000A:A0B4 0202000A:1F90 08 00000000:00000000 00:00000000";
        let mapped = "   4: 0000000000000000FFFF00000100007F:0050 \
                      0000000000000000FFFF00000100007F:C350 01 0:0 0:0";
        let heading = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when";
        for line in [
            listening,
            loopback,
            closing,
            mapped,
            heading,
            "",
            "a b c d e",
        ] {
            assert_eq!(peer(line), None, "{line}");
        }
        let v6 = " 0: 0:0 0000000000000000FFFF00000202000A:0050 01 0:0";
        assert_eq!(peer(v6), Some("10.0.2.2:80".parse().unwrap()));
        let v6 = " 0: 0:0 B80D0120000000000000000001000000:01BB 01 0:0";
        assert_eq!(peer(v6), Some("[2001:db8::1]:443".parse().unwrap()));
    }

    #[test]
    fn our_own() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let _ours = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let pid = i32::try_from(std::process::id()).unwrap();
        let port = format!(":{}", listener.local_addr().unwrap().port());
        let found = established(pid);
        assert!(!found.peers.iter().any(|peer| peer.ends_with(&port)));
        assert_eq!(established(-1), ConnectionsResponse::new());
    }
}
