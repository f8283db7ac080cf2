// SPDX-License-Identifier: Apache-2.0
//! Servers behind an uplink: another smoltcp, and what anybody may say.

use proptest::prelude::*;
use simple_dns::TYPE;

use super::*;
use crate::names::tests::question;
use crate::packet::Packet;
use crate::stack::now;
use crate::stack::tests::{Peer, frames};

const CONTAINER: Ipv4Addr = Ipv4Addr::new(10, 89, 0, 2);
const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 53);
const OTHER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 54);

fn upstream() -> Upstream {
    Upstream::new(Mac([2, 0, 0, 0, 0, 2]), CONTAINER)
}

fn asked(number: Number) -> Question {
    Question {
        number,
        id: 7,
        name: "example.org".to_owned(),
        message: question("example.org", TYPE::A),
    }
}

fn answer() -> Vec<u8> {
    let mut bytes = question("example.org", TYPE::A);
    bytes[2] |= 0x80;
    bytes
}

fn ipv4(frame: &[u8]) -> Ipv4 {
    match Packet::of(frame) {
        Packet::Ipv4(packet) => packet,
        other => panic!("{other:?}"),
    }
}

/// Until nobody says anything; what the uplink carries each way.
fn exchange(upstream: &mut Upstream, server: &mut Peer, now: Instant) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    loop {
        upstream.poll(now);
        let said = frames(&upstream.frames());
        said.iter().for_each(|frame| server.hear(frame));
        let answered = server.frames(now);
        for frame in &answered {
            assert!(upstream.hears(frame, &ipv4(frame), now));
        }
        if said.is_empty() && answered.is_empty() {
            return all;
        }
        all.extend(said);
        all.extend(answered);
    }
}

/// What the container would say on a connection of ours, or like it.
fn of_container(port: u16, server: Ipv4Addr, opens: bool) -> Ipv4 {
    Ipv4 {
        source: CONTAINER,
        target: server,
        what: What::Tcp {
            source: port,
            target: DNS,
            opens,
        },
    }
}

#[test]
fn by_tcp() {
    let (mut upstream, now) = (upstream(), now());
    let mut server = Peer::server(SERVER, DNS, now);
    upstream.ask(asked(1), &[SERVER], now);
    let said = exchange(&mut upstream, &mut server, now);
    let first = ipv4(&said[0]);
    let What::Tcp {
        source: port,
        opens,
        ..
    } = first.what
    else {
        panic!("{first:?}")
    };
    assert!(opens && port >= FIRST_PORT && first.source == CONTAINER && first.target == SERVER);
    assert_eq!(server.read(), with_length(&asked(1).message).unwrap());
    // Nobody else says anything on it.
    assert!(upstream.owns(&of_container(port, SERVER, false)));
    assert!(upstream.owns(&of_container(port, SERVER, true)));
    assert!(!upstream.owns(&of_container(port, OTHER, false)));
    assert!(!upstream.owns(&of_container(port - 1, SERVER, true)));
    let bytes = with_length(&answer()).unwrap();
    server.say(&bytes[..9]);
    exchange(&mut upstream, &mut server, now);
    assert_eq!(upstream.answers(now), []);
    server.say(&bytes[9..]);
    let late = server.frames(now);
    for frame in &late {
        assert!(upstream.hears(frame, &ipv4(frame), now));
    }
    assert_eq!(upstream.answers(now), [(asked(1), Some(answer()))]);
    assert_eq!(upstream.deadline(now), None);
    assert!(upstream.stack.is_none());
    // It ended by a reset, and what still comes of it is for nobody.
    for frame in frames(&upstream.frames()) {
        server.hear(&frame);
    }
    server.frames(now);
    assert!(!server.socket().is_active());
    for frame in &late {
        assert!(upstream.hears(frame, &ipv4(frame), now));
    }
    assert!(upstream.owns(&of_container(port, SERVER, false)));
    // From then on the container can have one like it.
    assert!(!upstream.owns(&of_container(port, SERVER, true)));
    assert!(!upstream.owns(&of_container(port, SERVER, false)));
    assert!(!upstream.hears(&late[0], &ipv4(&late[0]), now));
    assert!(upstream.others.contains(&Flow {
        port,
        server: SERVER
    }));
}

#[test]
fn one_server_after_the_other() {
    let (mut upstream, now) = (upstream(), now());
    // Nobody listens at the first one.
    let mut first = Peer::server(SERVER, 1, now);
    let mut second = Peer::server(OTHER, DNS, now);
    upstream.ask(asked(1), &[SERVER, OTHER], now);
    let said = frames(&upstream.frames());
    said.iter().for_each(|frame| first.hear(frame));
    for frame in first.frames(now) {
        assert!(upstream.hears(&frame, &ipv4(&frame), now));
    }
    exchange(&mut upstream, &mut second, now);
    // An answer to something else is none, and there is nobody else.
    let mut wrong = answer();
    wrong[1] ^= 1;
    second.say(&with_length(&wrong).unwrap());
    exchange(&mut upstream, &mut second, now);
    assert_eq!(upstream.answers(now), [(asked(1), None)]);
    // Who fails is better than nobody.
    let mut server = Peer::server(SERVER, DNS, now);
    upstream.ask(asked(2), &[SERVER, OTHER], now);
    exchange(&mut upstream, &mut server, now);
    let mut failed = answer();
    failed[3] |= 2;
    server.say(&with_length(&failed).unwrap());
    let frame = server.frames(now).remove(0);
    assert!(upstream.hears(&frame, &ipv4(&frame), now));
    assert_eq!(upstream.answers(now), []);
    let late = upstream.deadline(now + PATIENCE).unwrap();
    assert!(late <= now + PATIENCE);
    let over = upstream.answers(now + PATIENCE);
    assert_eq!(over, [(asked(2), Some(failed))]);
}

#[test]
fn nobody_says_anything() {
    let (mut upstream, now) = (upstream(), now());
    let servers = [SERVER, LINK_RESOLVER, OTHER, SERVER];
    upstream.ask(asked(1), &servers, now);
    for n in 1..3 {
        assert_eq!(upstream.answers(now + PATIENCE * n), []);
    }
    assert_eq!(upstream.answers(now + PATIENCE * 3), [(asked(1), None)]);
    upstream.ask(asked(2), &[], now);
    assert_eq!(upstream.answers(now), [(asked(2), None)]);
    // What nobody wants to know any more.
    upstream.ask(asked(3), &servers, now);
    upstream.ask(asked(4), &servers, now);
    upstream.keep(|number| number == 4, now);
    assert_eq!(upstream.queries.len(), 1);
    upstream.keep(|_| false, now);
    assert_eq!(
        (upstream.answers(now), upstream.deadline(now)),
        (vec![], None)
    );
}

#[test]
fn the_hosts_resolver_by_udp() {
    let (mut upstream, now) = (upstream(), now());
    upstream.ask(asked(1), &[LINK_RESOLVER], now);
    let said = frames(&upstream.frames()).remove(0);
    let packet = ipv4(&said);
    let What::Udp {
        source: port,
        target: DNS,
    } = packet.what
    else {
        panic!("{packet:?}")
    };
    assert_eq!((packet.source, packet.target), (CONTAINER, LINK_RESOLVER));
    let (question, added) = message::with_room(&asked(1).message);
    assert!(added);
    assert_eq!(packet::udp_payload(&said), Some(&question[..]));
    let mut good = question.clone();
    good[2] |= 0x80;
    let frame = |server: Ipv4Addr, from: u16, to: u16, bytes: &[u8]| {
        let end = |mac, address, port| End { mac, address, port };
        let from = end(GATEWAY_MAC, server, from);
        packet::udp(&from, &end(Mac([2, 0, 0, 0, 0, 2]), CONTAINER, to), bytes)
    };
    let mut other_id = good.clone();
    other_id[0] ^= 1;
    let mut other_name = good.clone();
    other_name[13] ^= 1;
    for wrong in [
        frame(SERVER, DNS, port, &good),
        frame(LINK_RESOLVER, 54, port, &good),
        frame(LINK_RESOLVER, DNS, port ^ 1, &good),
        frame(LINK_RESOLVER, DNS, port, &other_id),
        frame(LINK_RESOLVER, DNS, port, &other_name),
        frame(LINK_RESOLVER, DNS, port, &question),
        frame(LINK_RESOLVER, DNS, port, &[]),
    ] {
        assert!(!upstream.hears(&wrong, &ipv4(&wrong), now));
    }
    let right = frame(LINK_RESOLVER, DNS, port, &good);
    assert!(upstream.hears(&right, &ipv4(&right), now));
    // As it was asked: without EDNS.
    assert_eq!(upstream.answers(now), [(asked(1), Some(answer()))]);
    assert!(!upstream.hears(&right, &ipv4(&right), now));
}

#[test]
fn nothing_grows_without_bound() {
    let (mut upstream, now) = (upstream(), now());
    for number in 0..200 {
        upstream.ask(asked(number), &[SERVER], now);
        upstream.keep(|_| false, now);
        upstream.frames();
        let port = FIRST_PORT + u16::try_from(number).unwrap();
        upstream.owns(&of_container(port, OTHER, true));
    }
    assert_eq!(
        (upstream.ended.len(), upstream.others.len()),
        (MAX_KNOWN, MAX_KNOWN)
    );
    assert!(upstream.queries.is_empty());
}

proptest! {
    #[test]
    fn any_bytes_of_a_server(
        pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..600), 1..6),
        head in proptest::option::of(0..3_u8),
    ) {
        let (mut upstream, now) = (upstream(), now());
        let mut server = Peer::server(SERVER, DNS, now);
        upstream.ask(asked(1), &[SERVER], now);
        exchange(&mut upstream, &mut server, now);
        let mut over = Vec::new();
        for (at, mut piece) in pieces.into_iter().enumerate() {
            if let Some(head) = head.filter(|_| at == 0) {
                piece[0] = head;
            }
            if server.socket().can_send() {
                server.say(&piece);
            }
            exchange(&mut upstream, &mut server, now);
            over.extend(upstream.answers(now));
        }
        over.extend(upstream.answers(now + PATIENCE));
        prop_assert_eq!(over, [(asked(1), None)]);
    }
}
