// SPDX-License-Identifier: Apache-2.0
//! What passt of 2023 leaves out of a TCP handshake (RFC 9293 §3.5), said in its stead by whoever stands
//! between it and the guest. `refusal.rs`: of a connection that is refused. Here: the last step of one from
//! outside, made of the one before.
//!
//! It has a connection from outside be established when the guest has answered (SYN, ACK), but
//! tells the guest so with the first data alone (its later versions at once). A server that has to speak
//! first waits for ever then: nobody has told it that there is anybody. So whoever stands between the two
//! says it in passt's stead: when the guest answers once more, a second later, since it has not been told.
//! Not sooner: that passt never comes back from one read that has both the answer and what follows it.

mod refusal;

use std::collections::VecDeque;

use self::refusal::Opened;

/// What of a frame is looked at: headers, IPv4's with all options.
pub const LOOKED_AT: usize = ETHERNET_LEN + 60 + TCP_LEN;

/// Connections that began lately.
const MAX_ANSWERED: usize = 64;

const ETHERNET_LEN: usize = 14;
const IPV4_LEN: usize = 20;
const IPV6_LEN: usize = 40;
const TCP_LEN: usize = 20;

const IPV4: [u8; 2] = [0x08, 0x00];
const IPV6: [u8; 2] = [0x86, 0xdd];
const TCP: u8 = 6;
const HOP_LIMIT: u8 = 64;

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// Room for the first data: passt says how much there is with its first word. Its SYN may scale this, by
/// 256 at most.
const WINDOW: u16 = 256;

/// Handshakes of which something has perhaps been left out.
#[derive(Debug, Default)]
pub struct Handshakes {
    /// The last steps of those that the guest has answered, the oldest first.
    answered: VecDeque<Vec<u8>>,
    /// Those that the guest has begun.
    opened: Opened,
}

impl Handshakes {
    /// What to tell the guest on this frame of its own; of the frame, at least its first [`LOOKED_AT`]
    /// bytes, or all.
    pub fn guest_says(&mut self, frame: &[u8]) -> Option<Vec<u8>> {
        self.opened.guest_says(frame);
        let step = last_step(frame)?;
        if self.answered.contains(&step) {
            return Some(step);
        }
        if self.answered.len() == MAX_ANSWERED {
            self.answered.pop_front();
        }
        self.answered.push_back(step);
        None
    }

    /// Makes a whole of a frame for the guest, where something is missing.
    pub fn passt_says(&mut self, frame: &mut [u8]) {
        self.opened.passt_says(frame);
    }
}

/// The frame that answers one of a guest's, where that one is the second step.
fn last_step(frame: &[u8]) -> Option<Vec<u8>> {
    let (kind, header_len) = segment(frame)?;
    let (ethernet, packet) = frame.split_at(ETHERNET_LEN);
    let tcp: &[u8; TCP_LEN] = packet.get(header_len..)?.first_chunk()?;
    if tcp[13] & (FIN | SYN | RST | ACK) != SYN | ACK {
        return None;
    }
    let mut answer = [&ethernet[6..12], &ethernet[..6], &kind].concat();
    let sum = match kind {
        IPV4 => push_ipv4(&mut answer, packet),
        _ => push_ipv6(&mut answer, packet),
    };
    let [a, b, c, d] = [tcp[4], tcp[5], tcp[6], tcp[7]];
    let next = u32::from_be_bytes([a, b, c, d]).wrapping_add(1);
    let mut step = [0; TCP_LEN];
    step[..2].copy_from_slice(&tcp[2..4]);
    step[2..4].copy_from_slice(&tcp[..2]);
    step[4..8].copy_from_slice(&tcp[8..12]);
    step[8..12].copy_from_slice(&next.to_be_bytes());
    // Five words of header.
    step[12] = 5 << 4;
    step[13] = ACK;
    step[14..16].copy_from_slice(&WINDOW.to_be_bytes());
    let checksum = checksum(add(sum, &step));
    step[16..18].copy_from_slice(&checksum);
    answer.extend(step);
    Some(answer)
}

/// Which IP a segment is in, and the length of its header.
fn segment(frame: &[u8]) -> Option<([u8; 2], usize)> {
    let (ethernet, packet) = frame.split_at_checked(ETHERNET_LEN)?;
    match [ethernet[12], ethernet[13]] {
        IPV4 => Some((IPV4, ipv4_header_len(packet)?)),
        IPV6 => Some((IPV6, ipv6_header_len(packet)?)),
        _ => None,
    }
}

fn ipv4_header_len(packet: &[u8]) -> Option<usize> {
    let header: &[u8; IPV4_LEN] = packet.first_chunk()?;
    let len = usize::from(header[0] & 15) * 4;
    // Neither part of a packet nor the beginning of one.
    let is_whole = header[6] & 0x3f == 0 && header[7] == 0;
    let is_tcp = header[0] >> 4 == 4 && header[9] == TCP;
    (is_tcp && is_whole && len >= IPV4_LEN).then_some(len)
}

fn ipv6_header_len(packet: &[u8]) -> Option<usize> {
    let header: &[u8; IPV6_LEN] = packet.first_chunk()?;
    (header[0] >> 4 == 6 && header[6] == TCP).then_some(IPV6_LEN)
}

/// The header of the answer to `packet`; the sum over what TCP's checksum covers of it.
fn push_ipv4(answer: &mut Vec<u8>, packet: &[u8]) -> u32 {
    let len = u16::try_from(IPV4_LEN + TCP_LEN).unwrap_or(u16::MAX);
    let [high, low] = len.to_be_bytes();
    // Not to be fragmented.
    let mut header = [0x45, 0, high, low, 0, 0, 0x40, 0, HOP_LIMIT, TCP, 0, 0]
        .into_iter()
        .chain(packet[16..20].iter().copied())
        .chain(packet[12..16].iter().copied())
        .collect::<Vec<u8>>();
    let sum = checksum(add(0, &header));
    header[10..12].copy_from_slice(&sum);
    answer.extend(&header);
    add(pseudo(), &packet[12..20])
}

fn push_ipv6(answer: &mut Vec<u8>, packet: &[u8]) -> u32 {
    let [high, low] = u16::try_from(TCP_LEN).unwrap_or(u16::MAX).to_be_bytes();
    answer.extend([0x60, 0, 0, 0, high, low, TCP, HOP_LIMIT]);
    answer.extend(&packet[24..40]);
    answer.extend(&packet[8..24]);
    add(pseudo(), &packet[8..40])
}

/// Of the pseudo-header what is no address.
fn pseudo() -> u32 {
    u32::from(TCP) + u32::try_from(TCP_LEN).unwrap_or(u32::MAX)
}

/// RFC 1071. Bytes are even in number.
fn add(sum: u32, bytes: &[u8]) -> u32 {
    let words = bytes.chunks_exact(2);
    let words = words.map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    words.fold(sum, |sum, word| sum + word)
}

fn checksum(sum: u32) -> [u8; 2] {
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    let [_, _, high, low] = (!folded).to_be_bytes();
    [high, low]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// SYN, ACK of port 80 to port 4000: sequence 0x0102_03ff, acknowledging 0xaabb_ccdd.
    fn second_step(ip: &[u8], kind: [u8; 2]) -> Vec<u8> {
        let ethernet = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, kind[0], kind[1]];
        let tcp = [
            0, 80, 15, 160, 1, 2, 3, 0xff, 0xaa, 0xbb, 0xcc, 0xdd, 0x60, 0x12, 1, 0, 0, 0, 0, 0, 2,
            4, 5, 180,
        ];
        [&ethernet[..], ip, &tcp].concat()
    }

    fn ipv4() -> Vec<u8> {
        let ip = [
            0x45, 0, 0, 44, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 2, 100, 192, 0, 2, 1,
        ];
        second_step(&ip, IPV4)
    }

    fn ipv6() -> Vec<u8> {
        let mut ip = vec![0x60, 0, 0, 0, 0, 24, 6, 64];
        ip.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x64]);
        ip.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        second_step(&ip, IPV6)
    }

    /// A checksum over itself is nothing.
    fn holds(sum: u32, bytes: &[u8]) -> bool {
        checksum(add(sum, bytes)) == [0, 0]
    }

    #[test]
    fn the_last_step_of_ipv4() {
        let answer = last_step(&ipv4()).unwrap();
        assert_eq!(answer.len(), 14 + 20 + 20);
        assert_eq!(answer[..12], [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1]);
        assert!(holds(0, &answer[14..34]));
        assert_eq!(answer[26..34], [192, 0, 2, 1, 10, 0, 2, 100]);
        let tcp = &answer[34..];
        let expected = [
            15, 160, 0, 80, 0xaa, 0xbb, 0xcc, 0xdd, 1, 2, 4, 0, 0x50, 0x10,
        ];
        assert_eq!(tcp[..14], expected);
        assert!(holds(add(pseudo(), &answer[26..34]), tcp));
    }

    #[test]
    fn the_last_step_of_ipv6() {
        let answer = last_step(&ipv6()).unwrap();
        assert_eq!(answer.len(), 14 + 40 + 20);
        assert_eq!((answer[37], answer[53]), (1, 0x64));
        assert!(holds(add(pseudo(), &answer[22..54]), &answer[54..]));
    }

    #[test]
    fn it_is_made_when_the_guest_asks_again() {
        let mut handshakes = Handshakes::default();
        for frame in [ipv4(), ipv6()] {
            assert_eq!(handshakes.guest_says(&frame), None);
            assert_eq!(handshakes.guest_says(&frame), last_step(&frame));
        }
        for port in 0..1000_u16 {
            let mut other = ipv4();
            other[36..38].copy_from_slice(&port.to_be_bytes());
            assert_eq!(handshakes.guest_says(&other), None, "{port}");
        }
        assert_eq!(handshakes.answered.len(), MAX_ANSWERED);
    }

    #[test]
    fn other_steps_have_none() {
        for (frame, flags) in [(ipv4(), 14 + 20 + 13), (ipv6(), 14 + 40 + 13)] {
            for other in [SYN, ACK, SYN | ACK | RST, FIN | ACK, 0] {
                let mut frame = frame.clone();
                frame[flags] = other;
                assert_eq!(last_step(&frame), None, "{other:#x}");
            }
        }
        let mut fragment = ipv4();
        fragment[20] = 0x20;
        assert_eq!(last_step(&fragment), None);
        let mut udp = ipv4();
        udp[23] = 17;
        assert_eq!(last_step(&udp), None);
    }

    proptest! {
        #[test]
        fn any_bytes(mut bytes in proptest::collection::vec(any::<u8>(), 0..120), kind in 0..3usize) {
            if bytes.len() > 14 {
                bytes[12..15].copy_from_slice(&[[8, 0, 0x4f], [0x86, 0xdd, 0x60], [8, 0, 0x45]][kind]);
            }
            let _ = last_step(&bytes);
        }

        #[test]
        fn cut_anywhere(len in 0..100usize) {
            for frame in [ipv4(), ipv6()] {
                let _ = last_step(&frame[..len.min(frame.len())]);
            }
        }
    }
}
