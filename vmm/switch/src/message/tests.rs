// SPDX-License-Identifier: Apache-2.0
//! Messages changed as bytes, and read again by simple-dns.

use proptest::prelude::*;
use simple_dns::rdata::{A, OPT, RData};
use simple_dns::{CLASS, Packet, PacketFlag, RCODE, ResourceRecord, TYPE};

use super::*;
use crate::names::tests::question;

fn with_opt(mut packet: Packet<'_>, size: u16) -> Vec<u8> {
    *packet.opt_mut() = Some(OPT {
        opt_codes: Vec::new(),
        udp_packet_size: size,
        version: 0,
    });
    packet.build_bytes_vec_compressed().unwrap()
}

/// An answer of so many addresses.
pub(crate) fn answer(to: &[u8], addresses: u32) -> Packet<'_> {
    let mut packet = Packet::parse(to).unwrap();
    packet.set_flags(PacketFlag::RESPONSE);
    let name = packet.questions[0].qname.clone();
    let record = |address| {
        let data = RData::A(A { address });
        ResourceRecord::new(name.clone(), CLASS::IN, 60, data)
    };
    packet.answers = (0..addresses).map(record).collect();
    packet
}

#[test]
fn a_question_gets_room() {
    let plain = question("example.org", TYPE::A);
    let (bytes, added) = with_room(&plain);
    assert!(added);
    let packet = Packet::parse(&bytes).unwrap();
    assert_eq!(packet.opt().unwrap().udp_packet_size, LARGEST);
    assert_eq!((packet.id(), packet.questions.len()), (7, 1));
    // One that has EDNS has it still.
    let own = with_opt(Packet::parse(&plain).unwrap(), 1232);
    let (bytes, added) = with_room(&own);
    assert!(!added && bytes.len() == own.len());
    let packet = Packet::parse(&bytes).unwrap();
    assert_eq!(packet.opt().unwrap().udp_packet_size, LARGEST);
    // What is signed, or not whole, stays as it is.
    let mut signed = plain.clone();
    signed[11] = 1;
    signed.extend([0, 0, 250, 0, 255, 0, 0, 0, 0, 0, 0]);
    let rest = [&plain[..], &[0]].concat();
    for other in [signed, rest, plain[..20].to_vec(), Vec::new()] {
        assert_eq!(with_room(&other), (other, false));
    }
}

#[test]
fn an_answer_without_edns() {
    let asked = question("example.org", TYPE::A);
    let bytes = with_opt(answer(&asked, 100), 512);
    let plain = without_edns(bytes.clone()).unwrap();
    assert_eq!(plain.len() + 11, bytes.len());
    let packet = Packet::parse(&plain).unwrap();
    assert_eq!((packet.answers.len(), packet.opt()), (100, None));
    assert_eq!(without_edns(plain.clone()), Some(plain));
    // A code that is no other than with EDNS.
    let mut bad = with_opt(answer(&asked, 0), 512);
    let upper = bad.len() - 6;
    bad[upper] = 1;
    assert_eq!(without_edns(bad), None);
    // A record behind it.
    let mut more = bytes;
    more[11] = 2;
    more.extend([0, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 1, 2, 3, 4]);
    let packet = without_edns(more).unwrap();
    let packet = Packet::parse(&packet).unwrap();
    assert_eq!(
        (packet.answers.len(), packet.additional_records.len()),
        (100, 0)
    );
}

#[test]
fn what_is_an_answer() {
    let asked = question("example.org", TYPE::A);
    let bytes = |name, kind| {
        let to = question(name, kind);
        answer(&to, 1).build_bytes_vec_compressed().unwrap()
    };
    assert!(is_answer(&bytes("Example.ORG", TYPE::A), &asked));
    assert!(!is_answer(&bytes("example.net", TYPE::A), &asked));
    assert!(!is_answer(&bytes("www.example.org", TYPE::A), &asked));
    assert!(!is_answer(&bytes("example.org", TYPE::AAAA), &asked));
    assert!(!is_answer(&asked, &asked), "no answer at all");
    let mut other = bytes("example.org", TYPE::A);
    other[1] += 1;
    assert!(!is_answer(&other, &asked));
    assert!(!is_answer(&[], &asked) && !is_answer(&[], &[]));
    let mut failed = answer(&asked, 0);
    *failed.rcode_mut() = RCODE::ServerFailure;
    let failed = failed.build_bytes_vec().unwrap();
    assert!(is_answer(&failed, &asked) && is_failure(&failed) && !is_failure(&asked));
}

proptest! {
    #[test]
    fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
        let (with, added) = with_room(&bytes);
        prop_assert!(added || with.len() == bytes.len());
        let _ = without_edns(bytes.clone());
        let _ = is_answer(&bytes, &with);
        let _ = is_failure(&bytes);
    }

    #[test]
    fn an_answer_gone_wrong(changes in proptest::collection::vec((0..90usize, any::<u8>()), 1..5)) {
        let asked = question("example.org", TYPE::A);
        let mut bytes = with_opt(answer(&asked, 3), 512);
        for (at, value) in changes {
            let at = at % bytes.len();
            bytes[at] = value;
        }
        let _ = is_answer(&bytes, &asked);
        let _ = with_room(&bytes);
        let len = bytes.len();
        prop_assert!(without_edns(bytes).is_none_or(|plain| plain.len() <= len));
    }
}
