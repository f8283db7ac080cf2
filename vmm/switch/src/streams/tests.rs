// SPDX-License-Identifier: Apache-2.0
//! The gateway's side, with clients that are another smoltcp, and segments of nobody's making.

use proptest::prelude::*;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{EthernetFrame, Ipv4Packet, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber};

use super::*;
use crate::link::ETHERNET_LEN;
use crate::stack::now;
use crate::stack::tests::{Peer, frames};

const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 89, 0, 1);
const CONTAINER: Ipv4Addr = Ipv4Addr::new(10, 89, 0, 2);

fn segment(port: u16, opens: bool) -> Segment {
    Segment {
        gateway: GATEWAY,
        from: Mac([2, 0, 0, 0, 0, 1]),
        port,
        opens,
    }
}

fn client(port: u16, now: Instant) -> Peer {
    Peer::client(CONTAINER, port, (GATEWAY, DNS), now)
}

fn tcp(frame: &[u8]) -> TcpPacket<&[u8]> {
    let ethernet = EthernetFrame::new_checked(frame).unwrap();
    let ip = Ipv4Packet::new_checked(ethernet.payload()).unwrap();
    TcpPacket::new_checked(ip.payload()).unwrap()
}

/// Until nobody says anything; the questions that have come.
fn exchange(streams: &mut Streams, client: &mut Peer, now: Instant) -> Vec<(Number, Vec<u8>)> {
    let mut questions = Vec::new();
    loop {
        let said = client.frames(now);
        for frame in &said {
            let (port, opens) = (tcp(frame).src_port(), tcp(frame).syn());
            streams.hear(frame, &segment(port, opens), now);
        }
        questions.extend(streams.questions(now));
        let answered = frames(&streams.frames());
        if said.is_empty() && answered.is_empty() {
            return questions;
        }
        answered.iter().for_each(|frame| client.hear(frame));
    }
}

fn connected(streams: &mut Streams, port: u16, now: Instant) -> Peer {
    let mut client = client(port, now);
    exchange(streams, &mut client, now);
    assert_eq!(client.socket().state(), State::Established);
    client
}

#[test]
fn questions_one_after_the_other() {
    let (mut streams, now) = (Streams::default(), now());
    assert_eq!(streams.deadline(now), None);
    let mut client = connected(&mut streams, 4000, now);
    let both = [
        with_length(b"first").unwrap(),
        with_length(b"second").unwrap(),
    ]
    .concat();
    for byte in &both[..both.len() - 1] {
        client.say(&[*byte]);
    }
    let questions = exchange(&mut streams, &mut client, now);
    assert_eq!(questions, [(0, b"first".to_vec())]);
    client.say(&both[both.len() - 1..]);
    assert_eq!(
        exchange(&mut streams, &mut client, now),
        [],
        "one at a time"
    );
    assert!(streams.waits(0) && !streams.waits(1));
    // The longest answer that there is.
    let answer = vec![7; usize::from(u16::MAX)];
    streams.answer(0, Some(&answer), now);
    let mut got = Vec::new();
    let mut questions = Vec::new();
    while got.len() < PREFIX_LEN + answer.len() {
        questions.extend(exchange(&mut streams, &mut client, now));
        let some = client.read();
        assert!(!some.is_empty(), "{}", got.len());
        got.extend(some);
    }
    assert!(got == with_length(&answer).unwrap());
    questions.extend(exchange(&mut streams, &mut client, now));
    assert_eq!(questions, [(1, b"second".to_vec())]);
    streams.answer(1, Some(b"answer"), now);
    streams.answer(1, Some(b"again"), now);
    // It is done, and is answered all the same.
    client.socket().close();
    exchange(&mut streams, &mut client, now);
    assert_eq!(client.read(), with_length(b"answer").unwrap());
    exchange(&mut streams, &mut client, now);
    assert_eq!(streams.deadline(now), None);
    assert!(streams.stack.is_none() && streams.connections.is_empty());
}

#[test]
fn who_makes_no_sense_is_left() {
    let (mut streams, now) = (Streams::default(), now());
    // Longer than any question.
    let mut client = connected(&mut streams, 4000, now);
    client.say(&[0xff, 0xff, 0, 0]);
    assert_eq!(exchange(&mut streams, &mut client, now), []);
    assert_eq!(client.socket().state(), State::Closed);
    // One that has no answer.
    let mut client = connected(&mut streams, 4001, now);
    client.say(&[0, 0]);
    assert_eq!(exchange(&mut streams, &mut client, now), [(0, Vec::new())]);
    streams.answer(0, None, now);
    exchange(&mut streams, &mut client, now);
    assert_eq!(client.socket().state(), State::Closed);
    // Closed in the middle of a question.
    let mut client = connected(&mut streams, 4002, now);
    client.say(&[0, 9, 1, 2]);
    client.socket().close();
    assert_eq!(exchange(&mut streams, &mut client, now), []);
    assert!(!client.socket().is_active());
    // No connection at all.
    let mut stray = connected(&mut streams, 4003, now);
    let mut streams = Streams::default();
    stray.say(&[0, 1, 1]);
    exchange(&mut streams, &mut stray, now);
    assert_eq!(stray.socket().state(), State::Closed);
    assert!(streams.stack.is_none() && streams.connections.is_empty());
}

#[test]
fn half_open_ones_are_bounded() {
    let (mut streams, now) = (Streams::default(), now());
    let mut asks = connected(&mut streams, 4000, now);
    asks.say(&[0, 1, 1]);
    assert_eq!(exchange(&mut streams, &mut asks, now).len(), 1);
    for port in 5000..7000 {
        for frame in client(port, now).frames(now) {
            streams.hear(&frame, &segment(port, true), now);
        }
        assert!(streams.connections.len() <= MAX_CONNECTIONS);
    }
    streams.frames();
    // Who has asked is not put out for them, and they do not stay.
    assert!(streams.waits(0));
    let later = now + IDLE;
    assert!(streams.deadline(now).unwrap() <= later);
    streams.questions(later);
    assert_eq!(streams.connections.len(), 1);
    // Where all have asked, another one is refused.
    for port in 1..u16::try_from(MAX_CONNECTIONS).unwrap() {
        let mut other = connected(&mut streams, port, later);
        other.say(&[0, 1, 1]);
        exchange(&mut streams, &mut other, later);
    }
    let mut more = client(8000, later);
    exchange(&mut streams, &mut more, later);
    assert_eq!(more.socket().state(), State::Closed);
    // Nobody waits for ever.
    streams.questions(later + PATIENCE);
    assert!(streams.connections.is_empty() && streams.stack.is_none());
}

#[test]
fn idle_ones_are_closed() {
    let (mut streams, now) = (Streams::default(), now());
    let mut client = connected(&mut streams, 4000, now);
    assert_eq!(streams.deadline(now), Some(now + IDLE));
    // Half a question puts it off.
    let soon = now + IDLE / 2;
    client.say(&[0, 9]);
    exchange(&mut streams, &mut client, soon);
    exchange(&mut streams, &mut client, now + IDLE);
    assert_eq!(client.socket().state(), State::Established);
    let later = soon + IDLE;
    exchange(&mut streams, &mut client, later);
    assert_eq!(client.socket().state(), State::CloseWait);
    // It does not end it: then it is put an end to.
    exchange(&mut streams, &mut client, later + IDLE);
    assert_eq!(client.socket().state(), State::Closed);
    assert_eq!(streams.deadline(later + IDLE), None);
}

#[test]
fn a_client_that_never_reads() {
    let (mut streams, mut now) = (Streams::default(), now());
    let mut client = connected(&mut streams, 4000, now);
    client.say(&[0, 1, 1]);
    exchange(&mut streams, &mut client, now);
    streams.answer(0, Some(&[7; 60_000]), now);
    let end = now + IDLE * 4;
    // It says all the time that it has no room, and is not asked all the time.
    let mut rounds = 0;
    while let Some(due) = streams.deadline(now) {
        rounds += 1;
        assert!(due < end && rounds < 100, "it goes on for ever");
        now = now.max(due) + Duration::from_millis(1);
        exchange(&mut streams, &mut client, now);
    }
    assert!(streams.connections.is_empty());
}

/// A segment of nobody's making, with checksums that hold.
fn any_segment() -> impl Strategy<Value = (u16, Vec<u8>)> {
    let controls = prop_oneof![
        Just(TcpControl::None),
        Just(TcpControl::Psh),
        Just(TcpControl::Syn),
        Just(TcpControl::Fin),
        Just(TcpControl::Rst),
    ];
    let numbers = (-3..40_i32, proptest::option::of(-3..40_i32));
    let payload = proptest::collection::vec(prop_oneof![Just(0), any::<u8>()], 0..40);
    (1..4_u16, controls, numbers, any::<u16>(), payload).prop_map(
        |(port, control, (seq, ack), window_len, payload)| {
            let repr = TcpRepr {
                src_port: port,
                dst_port: DNS,
                control,
                seq_number: TcpSeqNumber(seq),
                ack_number: ack.map(TcpSeqNumber),
                window_len,
                window_scale: None,
                max_seg_size: None,
                sack_permitted: false,
                sack_ranges: [None; 3],
                timestamp: None,
                payload: &payload,
            };
            (port, tcp_frame(&repr))
        },
    )
}

fn tcp_frame(repr: &TcpRepr<'_>) -> Vec<u8> {
    let end = crate::packet::tests::end;
    // As long as that segment, to be written over.
    let padding = vec![0; repr.buffer_len() - 8];
    let (from, to) = (end(2, 0), end(1, 0));
    let mut frame = crate::packet::udp(&from, &to, &padding);
    let mut ip = Ipv4Packet::new_unchecked(&mut frame[ETHERNET_LEN..]);
    ip.set_next_header(smoltcp::wire::IpProtocol::Tcp);
    ip.fill_checksum();
    let (from, to) = (CONTAINER.into(), GATEWAY.into());
    let mut tcp = TcpPacket::new_unchecked(ip.payload_mut());
    repr.emit(&mut tcp, &from, &to, &ChecksumCapabilities::default());
    frame
}

proptest! {
    #[test]
    fn any_segments(segments in proptest::collection::vec(any_segment(), 1..60)) {
        let (mut streams, now) = (Streams::default(), now());
        let mut acknowledged = 0;
        for (at, (port, frame)) in segments.iter().enumerate() {
            let mut frame = frame.clone();
            // Half of them go on with what the gateway has said.
            if at % 2 == 0 && tcp(&frame).ack() {
                let mut ip = Ipv4Packet::new_unchecked(&mut frame[ETHERNET_LEN..]);
                let mut tcp = TcpPacket::new_unchecked(ip.payload_mut());
                let ack = tcp.ack_number().0.wrapping_add(acknowledged);
                tcp.set_ack_number(TcpSeqNumber(ack));
                tcp.fill_checksum(&CONTAINER.into(), &GATEWAY.into());
            }
            let opens = tcp(&frame).syn() && !tcp(&frame).ack();
            streams.hear(&frame, &segment(*port, opens), now);
            for (number, question) in streams.questions(now) {
                streams.answer(number, Some(&question), now);
            }
            if let Some(said) = frames(&streams.frames()).last() {
                acknowledged = tcp(said).seq_number().0;
            }
            prop_assert!(streams.connections.len() <= MAX_CONNECTIONS);
        }
        let end = now + IDLE * 2;
        for later in [now + IDLE, end, end + PATIENCE] {
            streams.questions(later);
        }
        prop_assert!(streams.connections.is_empty() && streams.stack.is_none());
    }

    #[test]
    fn any_bytes_of_a_client(
        pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..600), 1..8),
        small in any::<bool>(),
    ) {
        let (mut streams, now) = (Streams::default(), now());
        let mut client = connected(&mut streams, 4000, now);
        for mut piece in pieces {
            if small && piece.len() > 1 {
                // A length that may be an honest one.
                piece[0] &= 1;
            }
            if client.socket().can_send() {
                let _ = client.socket().send_slice(&piece);
            }
            for (number, question) in exchange(&mut streams, &mut client, now) {
                prop_assert!(question.len() <= MAX_QUESTION);
                streams.answer(number, Some(&question), now);
            }
        }
        client.socket().abort();
        exchange(&mut streams, &mut client, now);
        prop_assert!(streams.connections.is_empty());
    }
}
