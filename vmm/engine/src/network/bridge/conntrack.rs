// SPDX-License-Identifier: Apache-2.0
//! Flows that the kernel has seen (nf_conntrack), as far as rules come too late for them: NAT is decided
//! by a flow's first packet. One of TCP ends; datagrams that somebody sends all the time are one for
//! ever, and go on to where a port was, or was not yet, translated to.
//!
//! ctnetlink, of linux/netfilter/nfnetlink_conntrack.h: what there is, is asked for whole, and what is
//! meant, deleted one by one.

use std::io;
use std::net::{IpAddr, Ipv4Addr};

use rustix::io::Errno;
use rustix::net::netlink::{NETFILTER, SocketAddrNetlink};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, send, socket_with,
};

use crate::network::{Bound, Protocol};

const GET: u16 = 0x0101;
const DELETE: u16 = 0x0102;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;
/// nlmsghdr and nfgenmsg.
const HEADER: usize = 20;
const AF_INET: u8 = 2;
const IPPROTO_UDP: u8 = 17;

// Attributes, each within the one above it.
const ORIGINAL: u16 = 1;
const IP: u16 = 1;
const IP_TO: u16 = 2;
const PROTO: u16 = 2;
const PROTO_NUMBER: u16 = 1;
const PROTO_TO: u16 = 3;
/// Nested, and of the network's byte order.
const FLAGS: u16 = 0xc000;
/// The kernel's messages are shorter.
const ROOM: usize = 64 << 10;

/// Whoever sends datagrams to one of these ports is somebody new to the kernel.
pub(super) fn forget(ports: &[Bound]) -> io::Result<()> {
    if ports.iter().all(|port| port.protocol != Protocol::Udp) {
        return Ok(());
    }
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        flags,
        Some(NETFILTER),
    )?;
    bind(&socket, &SocketAddrNetlink::new(0, 0))?;
    let exchange = |request: &[u8], each: &mut dyn FnMut(&[u8])| -> io::Result<()> {
        send(&socket, request, SendFlags::empty())?;
        let mut answer = vec![0; ROOM];
        loop {
            let (len, _) = recv(&socket, &mut answer[..], RecvFlags::empty())?;
            let mut rest = &answer[..len];
            while let Some((kind, body, next)) = message(rest) {
                rest = next;
                match kind {
                    DONE => return Ok(()),
                    ERROR => return outcome(body),
                    _ => each(body),
                }
            }
        }
    };
    let mut meant = Vec::new();
    exchange(&request(GET, DUMP, &[]), &mut |body| {
        let tuple = attribute(body.get(4..).unwrap_or_default(), ORIGINAL);
        meant.extend(
            tuple
                .filter(|tuple| is_meant(tuple, ports))
                .map(<[u8]>::to_vec),
        );
    })?;
    for tuple in meant {
        let deleted = exchange(&request(DELETE, ACK, &tuple), &mut |_| {});
        match deleted {
            // It has ended by itself.
            Err(error) if error.raw_os_error() == Some(Errno::NOENT.raw_os_error()) => {}
            deleted => deleted?,
        }
    }
    Ok(())
}

/// nlmsgerr: a negative errno, or 0.
fn outcome(body: &[u8]) -> io::Result<()> {
    match body.first_chunk().map(|errno| i32::from_ne_bytes(*errno)) {
        Some(0) => Ok(()),
        Some(errno) => Err(io::Error::from_raw_os_error(errno.wrapping_neg())),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Of all flows, or of the one of that tuple.
fn request(kind: u16, flags: u16, tuple: &[u8]) -> Vec<u8> {
    let mut text = vec![0; HEADER];
    text[4..6].copy_from_slice(&kind.to_ne_bytes());
    text[6..8].copy_from_slice(&(REQUEST | flags).to_ne_bytes());
    text[16] = AF_INET;
    if let (Ok(len), false) = (u16::try_from(tuple.len() + 4), tuple.is_empty()) {
        text.extend(len.to_ne_bytes());
        text.extend((ORIGINAL | 0x8000).to_ne_bytes());
        text.extend(tuple);
        text.resize(text.len().next_multiple_of(4), 0);
    }
    let len = u32::try_from(text.len()).unwrap_or(u32::MAX);
    text[..4].copy_from_slice(&len.to_ne_bytes());
    text
}

/// The first of some messages: its kind, what is behind nlmsghdr, and the rest.
fn message(text: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let len = u32::from_ne_bytes(*text.first_chunk()?);
    let len = usize::try_from(len).ok()?;
    let kind = u16::from_ne_bytes(*text.get(4..)?.first_chunk()?);
    let body = text.get(16..len)?;
    let next = text.get(len.next_multiple_of(4)..).unwrap_or_default();
    Some((kind, body, next))
}

/// The value of the first attribute of that kind.
fn attribute(mut text: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let len = usize::from(u16::from_ne_bytes(*text.first_chunk()?));
        let kind = u16::from_ne_bytes(*text.get(2..)?.first_chunk()?) & !FLAGS;
        let value = text.get(4..len)?;
        if kind == wanted {
            return Some(value);
        }
        text = text.get(len.next_multiple_of(4)..)?;
    }
}

fn is_meant(tuple: &[u8], ports: &[Bound]) -> bool {
    let to = || -> Option<(Ipv4Addr, u16)> {
        let proto = attribute(tuple, PROTO)?;
        let is_udp = attribute(proto, PROTO_NUMBER)? == [IPPROTO_UDP];
        let port = u16::from_be_bytes(*attribute(proto, PROTO_TO)?.first_chunk()?);
        let address: [u8; 4] = *attribute(attribute(tuple, IP)?, IP_TO)?.first_chunk()?;
        is_udp.then_some((address.into(), port))
    };
    let is_one = |(address, number): (Ipv4Addr, u16)| {
        ports.iter().any(|port| {
            let here = port.address.is_unspecified() || port.address == IpAddr::V4(address);
            port.protocol == Protocol::Udp && port.host == number && here
        })
    };
    to().is_some_and(is_one)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn nested(kind: u16, value: &[u8]) -> Vec<u8> {
        let len = u16::try_from(value.len() + 4).unwrap();
        let mut text = [len.to_ne_bytes(), kind.to_ne_bytes()].concat();
        text.extend(value);
        text.resize(text.len().next_multiple_of(4), 0);
        text
    }

    fn tuple(protocol: u8, to: [u8; 4], port: u16) -> Vec<u8> {
        let ip = [nested(1, &[127, 0, 0, 9]), nested(IP_TO, &to)].concat();
        let proto = [
            nested(PROTO_NUMBER, &[protocol]),
            nested(2, &[0, 1]),
            nested(PROTO_TO, &port.to_be_bytes()),
        ];
        let proto = nested(PROTO | 0x8000, &proto.concat());
        [nested(IP | 0x8000, &ip), proto].concat()
    }

    fn bound(address: [u8; 4], protocol: Protocol) -> Bound {
        Bound {
            address: address.into(),
            host: 5353,
            container: 53,
            protocol,
        }
    }

    #[test]
    fn which_flows_are_meant() {
        let here = [bound([127, 0, 0, 1], Protocol::Udp)];
        let flow = tuple(IPPROTO_UDP, [127, 0, 0, 1], 5353);
        assert!(is_meant(&flow, &here));
        assert!(is_meant(&flow, &[bound([0; 4], Protocol::Udp)]));
        assert!(!is_meant(&flow, &[bound([127, 0, 0, 1], Protocol::Tcp)]));
        assert!(!is_meant(&tuple(IPPROTO_UDP, [127, 0, 0, 2], 5353), &here));
        assert!(!is_meant(&tuple(IPPROTO_UDP, [127, 0, 0, 1], 5354), &here));
        assert!(!is_meant(&tuple(6, [127, 0, 0, 1], 5353), &here));
    }

    #[test]
    fn what_is_said_is_understood() {
        let flow = tuple(IPPROTO_UDP, [127, 0, 0, 1], 5353);
        let one = request(DELETE, ACK, &flow);
        let two = [one.clone(), request(GET, DUMP, &[])].concat();
        let (kind, body, rest) = message(&two).unwrap();
        assert_eq!(
            (kind, attribute(&body[4..], ORIGINAL)),
            (DELETE, Some(&flow[..]))
        );
        let (kind, body, rest) = message(rest).unwrap();
        assert_eq!((kind, body, rest), (GET, &[AF_INET, 0, 0, 0][..], &[][..]));
        assert!(outcome(&0_i32.to_ne_bytes()).is_ok());
        let error = outcome(&(-2_i32).to_ne_bytes()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    proptest! {
        #[test]
        fn any_bytes(text in proptest::collection::vec(any::<u8>(), 0..80)) {
            let ports = [bound([0; 4], Protocol::Udp)];
            is_meant(&text, &ports);
            if let Some((_, body, rest)) = message(&text) {
                prop_assert!(body.len() < text.len() && rest.len() < text.len());
            }
        }
    }
}
