// SPDX-License-Identifier: Apache-2.0
//! What a frame is, read once and checked; and the packets that the gateway makes itself.

use std::net::Ipv4Addr;

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol,
    EthernetRepr, Icmpv4DstUnreachable, Icmpv4Packet, Icmpv4Repr, IpProtocol, Ipv4Packet, Ipv4Repr,
    TcpPacket, UdpPacket, UdpRepr,
};
use walnut_vmm_config::Mac;

use crate::link::ETHERNET_LEN;

/// IEEE 802.1Q, 802.1ad, and what came before that. A receiver that has no VLANs takes a tag of the
/// number 0 for nothing, and what is behind it for a frame: it would be one that nobody here has seen.
const TAGS: [u16; 3] = [0x8100, 0x88a8, 0x9100];

/// As far as anybody here looks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Packet {
    Arp(Arp),
    Ipv4(Ipv4),
    Other,
    /// It says that it is one of the above, and is not.
    Nonsense,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Arp {
    pub is_request: bool,
    pub sender: Ipv4Addr,
    pub target: Ipv4Addr,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ipv4 {
    pub source: Ipv4Addr,
    pub target: Ipv4Addr,
    pub what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Tcp {
        source: u16,
        target: u16,
        /// It asks for a new connection.
        opens: bool,
    },
    Udp {
        source: u16,
        target: u16,
    },
    Icmp,
    /// Ports are in the first one only.
    Fragment,
    Other,
}

pub(crate) fn destination(frame: &[u8]) -> Mac {
    mac(frame, 0)
}

pub(crate) fn source(frame: &[u8]) -> Mac {
    mac(frame, 6)
}

fn mac(frame: &[u8], at: usize) -> Mac {
    let mut mac = [0; 6];
    if let Some(bytes) = frame.get(at..at + 6) {
        mac.copy_from_slice(bytes);
    }
    Mac(mac)
}

impl Packet {
    pub fn of(frame: &[u8]) -> Self {
        let Ok(ethernet) = EthernetFrame::new_checked(frame) else {
            return Self::Nonsense;
        };
        match ethernet.ethertype() {
            EthernetProtocol::Arp => arp(ethernet.payload()).map_or(Self::Nonsense, Self::Arp),
            EthernetProtocol::Ipv4 => ipv4(ethernet.payload()).map_or(Self::Nonsense, Self::Ipv4),
            EthernetProtocol::Unknown(kind) if TAGS.contains(&kind) => Self::Nonsense,
            _ => Self::Other,
        }
    }
}

fn arp(bytes: &[u8]) -> Option<Arp> {
    let packet = ArpPacket::new_checked(bytes).ok()?;
    match ArpRepr::parse(&packet).ok()? {
        ArpRepr::EthernetIpv4 {
            operation,
            source_protocol_addr,
            target_protocol_addr,
            ..
        } => Some(Arp {
            is_request: operation == ArpOperation::Request,
            sender: source_protocol_addr,
            target: target_protocol_addr,
        }),
        _ => None,
    }
}

fn ipv4(bytes: &[u8]) -> Option<Ipv4> {
    let packet = Ipv4Packet::new_checked(bytes).ok()?;
    if packet.version() != 4 {
        return None;
    }
    let payload = packet.payload();
    let what = if packet.more_frags() || packet.frag_offset() > 0 {
        What::Fragment
    } else {
        match packet.next_header() {
            IpProtocol::Tcp => {
                let tcp = TcpPacket::new_checked(payload).ok()?;
                What::Tcp {
                    source: tcp.src_port(),
                    target: tcp.dst_port(),
                    opens: tcp.syn() && !tcp.ack(),
                }
            }
            IpProtocol::Udp => {
                let udp = UdpPacket::new_checked(payload).ok()?;
                What::Udp {
                    source: udp.src_port(),
                    target: udp.dst_port(),
                }
            }
            IpProtocol::Icmp => What::Icmp,
            _ => What::Other,
        }
    };
    Some(Ipv4 {
        source: packet.src_addr(),
        target: packet.dst_addr(),
        what,
    })
}

/// What a UDP packet carries.
pub(crate) fn udp_payload(frame: &[u8]) -> Option<&[u8]> {
    let packet = Ipv4Packet::new_checked(frame.get(ETHERNET_LEN..)?).ok()?;
    Some(UdpPacket::new_checked(packet.payload()).ok()?.payload())
}

/// One end of a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct End {
    pub mac: Mac,
    pub address: Ipv4Addr,
    pub port: u16,
}

fn ethernet(from: Mac, to: Mac, kind: EthernetProtocol, payload: usize) -> Vec<u8> {
    let mut bytes = vec![0; ETHERNET_LEN + payload];
    EthernetRepr {
        src_addr: EthernetAddress(from.0),
        dst_addr: EthernetAddress(to.0),
        ethertype: kind,
    }
    .emit(&mut EthernetFrame::new_unchecked(&mut bytes));
    bytes
}

/// `address` is at `mac`.
pub(crate) fn arp_reply(mac: Mac, address: Ipv4Addr, to: Mac, asker: Ipv4Addr) -> Vec<u8> {
    let reply = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Reply,
        source_hardware_addr: EthernetAddress(mac.0),
        source_protocol_addr: address,
        target_hardware_addr: EthernetAddress(to.0),
        target_protocol_addr: asker,
    };
    let mut bytes = ethernet(mac, to, EthernetProtocol::Arp, reply.buffer_len());
    reply.emit(&mut ArpPacket::new_unchecked(&mut bytes[ETHERNET_LEN..]));
    bytes
}

fn ip(from: &End, to: &End, protocol: IpProtocol, payload: usize) -> (Vec<u8>, usize) {
    let header = Ipv4Repr {
        src_addr: from.address,
        dst_addr: to.address,
        next_header: protocol,
        payload_len: payload,
        hop_limit: 64,
    };
    let start = ETHERNET_LEN + header.buffer_len();
    let mut bytes = ethernet(
        from.mac,
        to.mac,
        EthernetProtocol::Ipv4,
        header.buffer_len() + payload,
    );
    header.emit(
        &mut Ipv4Packet::new_unchecked(&mut bytes[ETHERNET_LEN..]),
        &ChecksumCapabilities::default(),
    );
    (bytes, start)
}

pub(crate) fn udp(from: &End, to: &End, payload: &[u8]) -> Vec<u8> {
    let repr = UdpRepr {
        src_port: from.port,
        dst_port: to.port,
    };
    let (mut bytes, start) = ip(from, to, IpProtocol::Udp, repr.header_len() + payload.len());
    repr.emit(
        &mut UdpPacket::new_unchecked(&mut bytes[start..]),
        &from.address.into(),
        &to.address.into(),
        payload.len(),
        |buffer| buffer.copy_from_slice(payload),
        &ChecksumCapabilities::default(),
    );
    bytes
}

/// The answer to an ICMP echo request, if it is one.
pub(crate) fn echo_reply(frame: &[u8], from: &End, to: &End) -> Option<Vec<u8>> {
    let packet = Ipv4Packet::new_checked(frame.get(ETHERNET_LEN..)?).ok()?;
    let capabilities = ChecksumCapabilities::default();
    let icmp = Icmpv4Packet::new_checked(packet.payload()).ok()?;
    let Icmpv4Repr::EchoRequest {
        ident,
        seq_no,
        data,
    } = Icmpv4Repr::parse(&icmp, &capabilities).ok()?
    else {
        return None;
    };
    let reply = Icmpv4Repr::EchoReply {
        ident,
        seq_no,
        data,
    };
    let (mut bytes, start) = ip(from, to, IpProtocol::Icmp, reply.buffer_len());
    reply.emit(
        &mut Icmpv4Packet::new_unchecked(&mut bytes[start..]),
        &capabilities,
    );
    Some(bytes)
}

/// Why a packet went nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// A policy is against it.
    Prohibited,
    /// There is no way there.
    Network,
    /// Nobody listens.
    Port,
}

/// What tells the sender, so that nobody waits for an answer; nothing where that was ICMP itself
/// (RFC 1122 §3.2.2).
pub(crate) fn refusal(frame: &[u8], why: Refusal, from: &End, to: &End) -> Option<Vec<u8>> {
    /// Of the packet that was refused, as much as RFC 792 asks for.
    const QUOTED: usize = 8;
    let packet = Ipv4Packet::new_checked(frame.get(ETHERNET_LEN..)?).ok()?;
    if packet.next_header() == IpProtocol::Icmp || packet.frag_offset() > 0 {
        return None;
    }
    let payload = packet.payload();
    let message = Icmpv4Repr::DstUnreachable {
        reason: match why {
            Refusal::Prohibited => Icmpv4DstUnreachable::CommProhibited,
            Refusal::Network => Icmpv4DstUnreachable::NetUnreachable,
            Refusal::Port => Icmpv4DstUnreachable::PortUnreachable,
        },
        header: Ipv4Repr {
            src_addr: packet.src_addr(),
            dst_addr: packet.dst_addr(),
            next_header: packet.next_header(),
            payload_len: payload.len(),
            hop_limit: packet.hop_limit(),
        },
        data: &payload[..payload.len().min(QUOTED)],
    };
    let (mut bytes, start) = ip(from, to, IpProtocol::Icmp, message.buffer_len());
    message.emit(
        &mut Icmpv4Packet::new_unchecked(&mut bytes[start..]),
        &ChecksumCapabilities::default(),
    );
    Some(bytes)
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn end(last: u8, port: u16) -> End {
        End {
            mac: Mac([2, 0, 0, 0, 0, last]),
            address: [10, 89, 0, last].into(),
            port,
        }
    }

    #[test]
    fn what_is_made_is_read() {
        let (one, other) = (end(2, 4000), end(3, 53));
        let frame = udp(&one, &other, b"question");
        assert_eq!(destination(&frame), other.mac);
        assert_eq!(source(&frame), one.mac);
        let Packet::Ipv4(packet) = Packet::of(&frame) else {
            panic!("no IPv4")
        };
        assert_eq!((packet.source, packet.target), (one.address, other.address));
        assert_eq!(
            packet.what,
            What::Udp {
                source: 4000,
                target: 53
            }
        );
        assert_eq!(udp_payload(&frame), Some(&b"question"[..]));
        let reply = arp_reply(one.mac, one.address, other.mac, other.address);
        let Packet::Arp(arp) = Packet::of(&reply) else {
            panic!("no ARP")
        };
        assert!(!arp.is_request && arp.sender == one.address && arp.target == other.address);
    }

    proptest! {
        #[test]
        fn any_bytes(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 0..3) {
            if bytes.len() > 14 && kind > 0 {
                bytes[12..15].copy_from_slice(if kind == 1 { &[8, 0, 0x45] } else { &[8, 6, 0] });
            }
            let _ = Packet::of(&bytes);
            let _ = udp_payload(&bytes);
            let _ = refusal(&bytes, Refusal::Port, &end(1, 0), &end(2, 0));
            let _ = echo_reply(&bytes, &end(1, 0), &end(2, 0));
            let _ = (destination(&bytes), source(&bytes));
        }
    }
}
