// SPDX-License-Identifier: Apache-2.0
//! Connections across a snapshot.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use super::guest::{Guest, PORT, packet};
use super::{drain, pattern};
use crate::virtio::QueueHandler as _;
use crate::virtio::vsock::EVENT;
use crate::virtio::vsock::packet::{Header, Op, SHUTDOWN_SEND};

/// A restore after which the host takes up the connections with these ports.
fn restore(guest: &mut Guest, resumed: &[u32]) {
    let state = guest.handler().save().unwrap();
    guest.device.resumed = resumed.to_vec();
    guest.restore(state);
}

/// Takes up the connection that began with `request`.
fn take_up(guest: &mut Guest, request: &Header) -> UnixStream {
    let port = request.src_port;
    let mut host = guest.dial_and_say(&format!("RESUME {port}\n"));
    let ok = format!("OK {port}\n");
    let mut line = vec![0; ok.len()];
    host.read_exact(&mut line).unwrap();
    assert_eq!(String::from_utf8(line).unwrap(), ok);
    host.set_nonblocking(true).unwrap();
    host
}

#[test]
fn a_connection_goes_on_with_another_host() {
    let mut guest = Guest::new();
    let (mut first, request) = guest.connect_in();
    first.write_all(b"before").unwrap();
    guest.poll();
    assert_eq!(guest.receive().1, b"before");
    restore(&mut guest, &[request.src_port]);
    // Before anybody is there to read it.
    guest.answer(&request, Op::Rw, 0, b"early ");
    guest.ready(EVENT);
    assert_eq!(guest.used(EVENT), []);
    let mut host = take_up(&mut guest, &request);
    guest.answer(&request, Op::Rw, 0, b"late");
    assert_eq!(drain(&mut host), (b"early late".to_vec(), false));
    host.write_all(b"after").unwrap();
    guest.poll();
    let (header, data) = guest.receive();
    assert_eq!((header.op, data.as_slice()), (Op::Rw, b"after".as_slice()));
    assert_eq!(header.src_port, request.src_port);
    guest.handler().muxer.check();
}

#[test]
fn what_no_host_had_taken_is_kept() {
    let mut guest = Guest::new();
    let (_first, request) = guest.connect_in();
    // More than a socket holds, and no more than the credit.
    let all = pattern(256 << 10);
    for part in all.chunks(32 << 10) {
        guest.answer(&request, Op::Rw, 0, part);
    }
    let waiting = guest.handler().save().unwrap();
    assert_ne!(waiting["muxer"]["connections"][0]["outbox"], "");
    restore(&mut guest, &[request.src_port]);
    let mut host = take_up(&mut guest, &request);
    let mut rest = Vec::new();
    loop {
        let (bytes, _) = drain(&mut host);
        rest.extend(&bytes);
        guest.poll();
        if bytes.is_empty() {
            break;
        }
    }
    assert!(!rest.is_empty() && all.ends_with(&rest), "{}", rest.len());
}

#[test]
fn an_end_that_came_meanwhile_is_seen() {
    let mut guest = Guest::new();
    let (_first, request) = guest.connect_in();
    restore(&mut guest, &[request.src_port]);
    guest.answer(&request, Op::Rw, 0, b"last words");
    guest.answer(&request, Op::Shutdown, SHUTDOWN_SEND, b"");
    let mut host = take_up(&mut guest, &request);
    assert_eq!(drain(&mut host), (b"last words".to_vec(), true));
}

#[test]
fn an_end_that_the_host_has_said_is_not_said_again() {
    let mut guest = Guest::new();
    let (first, request) = guest.connect_in();
    first.shutdown(Shutdown::Write).unwrap();
    guest.poll();
    guest.expect(Op::Shutdown);
    restore(&mut guest, &[request.src_port]);
    let mut host = take_up(&mut guest, &request);
    assert_eq!(guest.received(), []);
    guest.answer(&request, Op::Rw, 0, b"still here");
    assert_eq!(drain(&mut host).0, b"still here");
}

#[test]
fn those_that_nobody_wants_are_reset() {
    let mut guest = Guest::new();
    let (_first, one) = guest.connect_in();
    let (_second, two) = guest.connect_in();
    restore(&mut guest, &[two.src_port]);
    guest.poll();
    let reset = guest.expect(Op::Rst);
    assert_eq!((reset.src_port, reset.dst_port), (one.src_port, PORT));
    // No port is given twice.
    let mut third = guest.dial_and_say(&format!("CONNECT {PORT}\n"));
    let request = guest.expect(Op::Request);
    assert!(request.src_port > two.src_port);
    guest.answer(&request, Op::Response, 0, b"");
    third.set_nonblocking(true).unwrap();
    assert!(!drain(&mut third).0.is_empty());
    guest.handler().muxer.check();
}

#[test]
fn nobody_takes_up_what_is_not_there() {
    let mut guest = Guest::new();
    let (_first, request) = guest.connect_in();
    for port in [request.src_port, 0, 77] {
        let mut host = guest.dial_and_say(&format!("RESUME {port}\n"));
        host.set_nonblocking(true).unwrap();
        assert_eq!(drain(&mut host), (Vec::new(), true), "{port}");
    }
    restore(&mut guest, &[request.src_port]);
    let _host = take_up(&mut guest, &request);
    let mut again = guest.dial_and_say(&format!("RESUME {}\n", request.src_port));
    again.set_nonblocking(true).unwrap();
    assert_eq!(drain(&mut again), (Vec::new(), true));
}

#[test]
fn one_that_waits_holds_no_more_than_its_credit() {
    let mut guest = Guest::new();
    let (_first, request) = guest.connect_in();
    restore(&mut guest, &[request.src_port]);
    for _ in 0..20 {
        guest.answer(&request, Op::Rw, 0, &[7; 32 << 10]);
    }
    guest.handler().muxer.check();
    let port = (request.dst_port, request.src_port);
    let resets = guest.received();
    assert!(resets.iter().all(|(header, _)| header.op == Op::Rst));
    assert_eq!((resets[0].0.dst_port, resets[0].0.src_port), port);
}

#[test]
fn a_state_that_makes_no_sense_is_none() {
    let mut guest = Guest::new();
    let (_first, _) = guest.connect_in();
    let good = guest.handler().save().unwrap();
    for (pointer, value) in [
        ("/muxer/connections/0/outbox", "xyz".into()),
        ("/muxer/connections/0/ports", 7.into()),
        ("/muxer/lost", "none".into()),
    ] {
        let mut bad = good.clone();
        *bad.pointer_mut(pointer).unwrap() = value;
        guest.activate();
        assert!(guest.handler().restore(bad).is_err(), "{pointer}");
    }
    let mut long = good;
    let outbox = hex::encode(vec![0; (256 << 10) + 1]);
    *long.pointer_mut("/muxer/connections/0/outbox").unwrap() = outbox.into();
    guest.restore(long);
    guest.poll();
    guest.expect(Op::Rst);
    guest.send(packet(PORT, 1, Op::Rst), b"");
}
