// SPDX-License-Identifier: Apache-2.0
//! That nobody listens where the guest wants to. passt of 2023 says so by a reset that acknowledges
//! nothing. Who has sent a SYN believes one alone that does (RFC 9293 §3.10.7.3), and would ask on for two
//! minutes: so what is acknowledged is filled in.

use std::collections::VecDeque;

use super::{ACK, ETHERNET_LEN, FIN, IPV4, RST, SYN, TCP_LEN, add, checksum, segment};

/// Connections that began lately; of one that was forgotten, the guest asks once more.
const MAX_OPENED: usize = 256;

// Where they are in TCP's header.
const SEQUENCE: usize = 4;
const ACKNOWLEDGED: usize = 8;
const OFFSET: usize = 12;
const FLAGS: usize = 13;
const WINDOW: usize = 14;
const CHECKSUM: usize = 16;

/// The guest's address, the other side's, and their ports.
type Flow = Vec<u8>;

#[derive(Debug, Default)]
pub(super) struct Opened {
    /// What its refusal is to acknowledge; the oldest first.
    known: VecDeque<(Flow, u32)>,
}

impl Opened {
    pub(super) fn guest_says(&mut self, frame: &[u8]) {
        let Some((at, addresses)) = parts(frame) else {
            return;
        };
        let tcp = &frame[at..];
        if flags(tcp) != SYN {
            return;
        }
        let (guest, other) = addresses.split_at(addresses.len() / 2);
        let flow = [guest, other, &tcp[..2], &tcp[2..4]].concat();
        let mut sequence = [0; 4];
        sequence.copy_from_slice(&tcp[SEQUENCE..SEQUENCE + 4]);
        self.known.retain(|(known, _)| *known != flow);
        if self.known.len() == MAX_OPENED {
            self.known.pop_front();
        }
        let next = u32::from_be_bytes(sequence).wrapping_add(1);
        self.known.push_back((flow, next));
    }

    pub(super) fn passt_says(&self, frame: &mut [u8]) {
        let Some((at, addresses)) = parts(frame) else {
            return;
        };
        let tcp = &frame[at..];
        if flags(tcp) != RST {
            return;
        }
        let (other, guest) = addresses.split_at(addresses.len() / 2);
        let flow = [guest, other, &tcp[2..4], &tcp[..2]].concat();
        let found = self.known.iter().find(|(known, _)| *known == flow);
        if let Some((_, next)) = found {
            acknowledge(&mut frame[at..at + TCP_LEN], *next);
        }
    }
}

/// Where TCP's header begins, all of which is there, and the addresses before it.
fn parts(frame: &[u8]) -> Option<(usize, &[u8])> {
    let (kind, header_len) = segment(frame)?;
    let at = ETHERNET_LEN + header_len;
    frame.get(at..at + TCP_LEN)?;
    let addresses = match kind {
        IPV4 => ETHERNET_LEN + 12..ETHERNET_LEN + 20,
        _ => ETHERNET_LEN + 8..ETHERNET_LEN + 40,
    };
    Some((at, frame.get(addresses)?))
}

fn flags(tcp: &[u8]) -> u8 {
    tcp[FLAGS] & (FIN | SYN | RST | ACK)
}

/// The checksum follows what is changed (RFC 1624).
fn acknowledge(tcp: &mut [u8], next: u32) {
    let changed = ACKNOWLEDGED..WINDOW;
    let before: Vec<u8> = tcp[changed.clone()].iter().map(|byte| !byte).collect();
    let sum = u16::from_be_bytes([!tcp[CHECKSUM], !tcp[CHECKSUM + 1]]);
    tcp[ACKNOWLEDGED..OFFSET].copy_from_slice(&next.to_be_bytes());
    tcp[FLAGS] |= ACK;
    let sum = add(add(sum.into(), &before), &tcp[changed]);
    tcp[CHECKSUM..CHECKSUM + 2].copy_from_slice(&checksum(sum));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{IPV6, TCP, pseudo};
    use super::*;

    const GUEST: [u8; 2] = [15, 160];
    const OTHER: [u8; 2] = [0, 80];

    fn frame(kind: [u8; 2], turned: bool, flags: u8, sequence: u32) -> Vec<u8> {
        let mut all = vec![2; 12];
        all.extend(kind);
        let len = if kind == IPV4 { 4 } else { 16 };
        all.extend(match kind {
            IPV4 => vec![0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, TCP, 0, 0],
            _ => vec![0x60, 0, 0, 0, 0, 20, TCP, 64],
        });
        let mut ends = [(vec![10; len], GUEST), (vec![192; len], OTHER)];
        if turned {
            ends.reverse();
        }
        all.extend(ends.iter().flat_map(|(address, _)| address.clone()));
        let mut tcp = ends.map(|(_, port)| port).concat();
        tcp.extend(sequence.to_be_bytes());
        tcp.extend([0, 0, 0, 0, 0x50, flags, 0, 0, 0, 0, 0, 0]);
        let sum = checksum(add(add(pseudo(), &all[all.len() - 2 * len..]), &tcp));
        tcp[CHECKSUM..CHECKSUM + 2].copy_from_slice(&sum);
        all.extend(tcp);
        all
    }

    #[test]
    fn a_refusal_acknowledges_what_was_asked() {
        for kind in [IPV4, IPV6] {
            let mut opened = Opened::default();
            let bare = frame(kind, true, RST, 0);
            let mut said = bare.clone();
            opened.passt_says(&mut said);
            assert_eq!(said, bare, "nobody has asked");
            // The second has another number.
            opened.guest_says(&frame(kind, false, SYN, 7));
            opened.guest_says(&frame(kind, false, SYN, 0x0102_ffff));
            opened.passt_says(&mut said);
            let at = said.len() - TCP_LEN;
            let tcp = &said[at..];
            assert_eq!(tcp[ACKNOWLEDGED..WINDOW], [1, 3, 0, 0, 0x50, RST | ACK]);
            let addresses = parts(&said).unwrap().1;
            assert_eq!(checksum(add(add(pseudo(), addresses), tcp)), [0, 0]);
            for other in [
                frame(kind, true, RST | ACK, 0),
                frame(kind, true, FIN, 0),
                frame(kind, false, RST, 0),
            ] {
                let mut said = other.clone();
                opened.passt_says(&mut said);
                assert_eq!(said, other);
            }
        }
    }

    #[test]
    fn only_so_many_are_known() {
        let mut opened = Opened::default();
        for port in 0..1000_u16 {
            let mut syn = frame(IPV4, false, SYN, 1);
            let at = syn.len() - TCP_LEN;
            syn[at..at + 2].copy_from_slice(&port.to_be_bytes());
            opened.guest_says(&syn);
        }
        assert_eq!(opened.known.len(), MAX_OPENED);
    }

    proptest! {
        #[test]
        fn any_bytes(mut bytes in proptest::collection::vec(any::<u8>(), 0..120), kind in 0..3usize) {
            if bytes.len() > 14 {
                bytes[12..15].copy_from_slice(&[[8, 0, 0x4f], [0x86, 0xdd, 0x60], [8, 0, 0x45]][kind]);
            }
            let mut opened = Opened::default();
            opened.guest_says(&bytes);
            opened.passt_says(&mut bytes);
        }
    }
}
