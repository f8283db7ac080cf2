// SPDX-License-Identifier: Apache-2.0
//! The device against a guest that keeps to the protocol; [`hostile`] is one that does not.

mod guest;
mod hostile;
mod resume;

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use walnut_vmm_config::VsockConfig;

use super::credit::BUF_ALLOC;
use super::packet::{Op, SHUTDOWN_BOTH, SHUTDOWN_RCV, SHUTDOWN_SEND};
use super::{EVENT, RX, TX, Vsock, VsockError};
use crate::virtio::{QueueHandler as _, VirtioDevice as _};
use guest::{Guest, PORT, packet};

/// All that can be read now; `true` if the stream ended.
fn drain(host: &mut UnixStream) -> (Vec<u8>, bool) {
    let mut bytes = Vec::new();
    match host.read_to_end(&mut bytes) {
        Ok(_) => (bytes, true),
        Err(error) if error.kind() == ErrorKind::WouldBlock => (bytes, false),
        Err(error) => panic!("{error}"),
    }
}

/// Bytes in which a swapped or lost piece shows.
fn pattern(len: usize) -> Vec<u8> {
    (0u32..)
        .flat_map(|word| word.wrapping_mul(2_654_435_761).to_le_bytes())
        .take(len)
        .collect()
}

#[test]
fn the_guest_finds_its_cid() {
    let guest = Guest::new();
    assert_eq!(guest.device.config(), 3u64.to_le_bytes());
}

#[test]
fn a_host_connects_and_both_sides_talk() {
    let mut guest = Guest::new();
    let (mut host, request) = guest.connect_in();
    host.write_all(b"ping").unwrap();
    guest.poll();
    let (header, data) = guest.receive();
    assert_eq!((header.op, data.as_slice()), (Op::Rw, b"ping".as_slice()));
    assert!(guest.was_interrupted());
    guest.answer(&request, Op::Rw, 0, b"pong");
    assert_eq!(drain(&mut host), (b"pong".to_vec(), false));
}

#[test]
fn a_line_may_come_in_pieces_and_with_what_follows() {
    let mut guest = Guest::new();
    let mut host = guest.dial();
    guest.poll();
    host.write_all(b"CONN").unwrap();
    guest.poll();
    assert_eq!(guest.received(), []);
    host.write_all(b"ECT 7\nhello").unwrap();
    guest.poll();
    let request = guest.expect(Op::Request);
    assert_eq!(request.dst_port, 7);
    guest.answer(&request, Op::Response, 0, b"");
    assert_eq!(guest.receive().1, b"hello");
}

#[test]
fn a_host_that_the_guest_refuses_sees_the_end() {
    let mut guest = Guest::new();
    let mut host = guest.dial_and_say("CONNECT 9\n");
    let request = guest.expect(Op::Request);
    guest.answer(&request, Op::Rst, 0, b"");
    assert_eq!(drain(&mut host), (Vec::new(), true));
    assert_eq!(guest.received(), []);
}

#[test]
fn a_host_that_says_something_else_sees_the_end() {
    let mut guest = Guest::new();
    let mut host = guest.dial_and_say("GET / HTTP/1.1\n");
    assert_eq!(guest.received(), []);
    // What it wrote was not read, which a unix socket tells its peer by ECONNRESET.
    let mut byte = [0];
    assert!(!matches!(host.read(&mut byte), Ok(1)));
}

#[test]
fn a_host_that_leaves_before_the_answer_is_reset() {
    let mut guest = Guest::new();
    let host = guest.dial_and_say("CONNECT 9\n");
    let request = guest.expect(Op::Request);
    drop(host);
    guest.poll();
    guest.answer(&request, Op::Response, 0, b"");
    guest.expect(Op::Rst);
}

#[test]
fn the_guest_connects_to_the_host() {
    let mut guest = Guest::new();
    let (mut host, response) = guest.connect_out();
    assert_eq!((response.src_port, response.dst_port), (PORT, 4000));
    assert_eq!(response.buf_alloc, BUF_ALLOC);
    guest.answer(&response, Op::Rw, 0, b"hello");
    assert_eq!(drain(&mut host), (b"hello".to_vec(), false));
    host.write_all(b"back").unwrap();
    guest.poll();
    assert_eq!(guest.receive().1, b"back");
}

#[test]
fn nobody_at_the_host_port_is_an_rst() {
    let mut guest = Guest::new();
    guest.send(packet(4000, 1, Op::Request), b"");
    let reset = guest.expect(Op::Rst);
    assert_eq!((reset.src_port, reset.dst_port), (1, 4000));
}

#[test]
fn half_closes_pass_either_way() {
    let mut guest = Guest::new();
    let (mut host, request) = guest.connect_in();
    host.write_all(b"last words").unwrap();
    host.shutdown(Shutdown::Write).unwrap();
    guest.poll();
    let packets = guest.received();
    assert_eq!(packets[0].1, b"last words");
    assert_eq!(packets[1].0.op, Op::Shutdown);
    assert_eq!(packets[1].0.flags, SHUTDOWN_SEND);
    guest.answer(&request, Op::Rw, 0, b"answer");
    assert_eq!(drain(&mut host), (b"answer".to_vec(), false));
    guest.answer(&request, Op::Shutdown, SHUTDOWN_SEND, b"");
    assert_eq!(drain(&mut host), (Vec::new(), true));
    // Both have said all: the guest closes.
    guest.poll();
    guest.received();
    guest.answer(&request, Op::Shutdown, SHUTDOWN_BOTH, b"");
    guest.expect(Op::Rst);
}

#[test]
fn the_guest_may_go_on_receiving_after_its_end() {
    let mut guest = Guest::new();
    let (mut host, request) = guest.connect_in();
    guest.answer(&request, Op::Rw, 0, b"question");
    guest.answer(&request, Op::Shutdown, SHUTDOWN_SEND, b"");
    assert_eq!(drain(&mut host), (b"question".to_vec(), true));
    host.write_all(b"answer").unwrap();
    guest.poll();
    assert_eq!(guest.receive().1, b"answer");
    drop(host);
    guest.poll();
    let told = guest.expect(Op::Shutdown);
    assert_eq!(told.flags, SHUTDOWN_BOTH);
    guest.answer(&request, Op::Rst, 0, b"");
    assert_eq!(guest.received(), []);
}

#[test]
fn a_host_that_closes_leaves_its_last_bytes() {
    let mut guest = Guest::new();
    let (mut host, request) = guest.connect_in();
    guest.answer(&request, Op::Rw, 0, b"never read");
    host.write_all(b"the end").unwrap();
    drop(host);
    guest.poll();
    let packets = guest.received();
    let data: Vec<u8> = packets.iter().flat_map(|(_, data)| data.clone()).collect();
    // A unix socket that is closed with unread bytes resets its peer: what it sent may be lost.
    assert!(data == b"the end" || data.is_empty(), "{data:?}");
    let last = packets.last().unwrap().0;
    assert_eq!((last.op, last.flags), (Op::Shutdown, SHUTDOWN_BOTH));
    // The guest may not know yet: what it sends goes nowhere.
    guest.answer(&request, Op::Rw, 0, b"more");
    assert_eq!(guest.received(), []);
    guest.answer(&request, Op::Shutdown, SHUTDOWN_BOTH, b"");
    guest.expect(Op::Rst);
}

#[test]
fn a_host_that_reads_no_more_is_no_end_of_its_bytes() {
    let mut guest = Guest::new();
    let (mut host, request) = guest.connect_in();
    host.shutdown(Shutdown::Read).unwrap();
    guest.answer(&request, Op::Rw, 0, b"too late");
    let told = guest.expect(Op::Shutdown);
    assert_eq!(told.flags, SHUTDOWN_RCV);
    host.write_all(b"still here").unwrap();
    guest.poll();
    assert_eq!(guest.receive().1, b"still here");
}

#[test]
fn a_guest_that_closes_at_once_loses_nothing() {
    let mut guest = Guest::new();
    let (mut host, request) = guest.connect_in();
    let sent = pattern(BUF_ALLOC as usize);
    for chunk in sent.chunks(65536) {
        guest.answer(&request, Op::Rw, 0, chunk);
    }
    guest.answer(&request, Op::Shutdown, SHUTDOWN_BOTH, b"");
    // It waits for a while for the host to take all that, then gives up.
    guest.answer(&request, Op::Rst, 0, b"");
    let mut got = Vec::new();
    loop {
        let (bytes, end) = drain(&mut host);
        got.extend_from_slice(&bytes);
        if end {
            break;
        }
        assert!(!bytes.is_empty(), "stuck after {} bytes", got.len());
        guest.poll();
    }
    assert!(got == sent);
}

#[test]
fn much_from_the_guest_comes_whole_under_credit() {
    let mut guest = Guest::new();
    let (mut host, request) = guest.connect_in();
    let sent = pattern(8 << 20);
    let (mut got, mut at, mut acked, mut updates) = (Vec::new(), 0usize, 0u32, 0);
    let mut rounds = 0..10_000;
    while got.len() < sent.len() {
        assert!(rounds.next().is_some(), "stuck after {} bytes", got.len());
        let credit = BUF_ALLOC - u32::try_from(at).unwrap().wrapping_sub(acked);
        let len = (sent.len() - at).min(65536).min(credit as usize);
        if len > 0 {
            guest.answer(&request, Op::Rw, 0, &sent[at..at + len]);
            at += len;
        } else {
            let (bytes, end) = drain(&mut host);
            assert!(!end);
            got.extend_from_slice(&bytes);
            guest.poll();
        }
        for (header, _) in guest.received() {
            assert_eq!(header.op, Op::CreditUpdate);
            acked = header.fwd_cnt;
            updates += 1;
        }
        if at == sent.len() {
            guest.poll();
            got.extend_from_slice(&drain(&mut host).0);
        }
    }
    assert!(got == sent);
    // Two for each window at most: the guest is not told of every packet.
    let windows = sent.len() / BUF_ALLOC as usize;
    assert!(updates <= 2 * windows, "{updates} updates");
}

#[test]
fn what_waits_goes_before_what_comes() {
    let mut guest = Guest::new();
    let (mut host, request) = guest.connect_in();
    let sent = pattern(BUF_ALLOC as usize + 65536);
    let mut chunks = sent.chunks(65536);
    let last = chunks.next_back().unwrap();
    for chunk in chunks {
        guest.answer(&request, Op::Rw, 0, chunk);
    }
    // The host has room again, of which the device has not heard.
    let mut got = drain(&mut host).0;
    assert!(got.len() < sent.len() - last.len(), "nothing waits");
    guest.answer(&request, Op::Rw, 0, last);
    for _ in 0..8 {
        guest.poll();
        got.extend_from_slice(&drain(&mut host).0);
    }
    assert!(got == sent);
}

#[test]
fn room_is_not_told_of_while_there_is_plenty() {
    let mut guest = Guest::new();
    let (mut host, request) = guest.connect_in();
    for _ in 0..130 {
        guest.answer(&request, Op::Rw, 0, &[1; 1000]);
        drain(&mut host);
    }
    assert_eq!(guest.received(), []);
    guest.answer(&request, Op::Rw, 0, &[1; 1100]);
    assert_eq!(guest.expect(Op::CreditUpdate).fwd_cnt, 131_100);
}

#[test]
fn much_from_the_host_comes_whole_under_credit() {
    let mut guest = Guest::new();
    let (mut host, request) = guest.connect_in();
    let sent = pattern(8 << 20);
    let (mut got, mut at, mut told) = (Vec::new(), 0, 0);
    let mut rounds = 0..10_000;
    while got.len() < sent.len() {
        assert!(rounds.next().is_some(), "stuck after {} bytes", got.len());
        match host.write(&sent[at..]) {
            Ok(len) => at += len,
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        guest.poll();
        for (header, data) in guest.received() {
            assert_eq!(header.op, Op::Rw);
            got.extend_from_slice(&data);
        }
        guest.ready(RX);
        let in_flight = got.len() - told;
        assert!(in_flight <= 65536, "beyond the guest's credit");
        if in_flight == 65536 || at == sent.len() {
            told = got.len();
            let mut update = packet(request.dst_port, request.src_port, Op::CreditUpdate);
            update.fwd_cnt = u32::try_from(told).unwrap();
            guest.send(update, b"");
        }
    }
    assert!(got == sent);
}

#[test]
fn a_guest_without_buffers_holds_the_host_back() {
    let mut guest = Guest::new();
    let (mut host, _) = guest.connect_in();
    guest.refill = false;
    // Uses up what is on offer.
    let mut written = 0;
    for _ in 0..2 {
        while let Ok(len) = host.write(&[7; 65536]) {
            written += len;
        }
        guest.poll();
    }
    assert!(host.write(&[7]).is_err());
    let before: usize = guest.received().iter().map(|(_, data)| data.len()).sum();
    assert_eq!(before, 65536, "as much as the credit, and no more");
    assert!(written > before);
    guest.poll();
    assert_eq!(guest.received(), []);
}

#[test]
fn the_rx_queue_goes_on_when_buffers_come() {
    let mut guest = Guest::new();
    let (mut host, _) = guest.connect_in();
    guest.refill = false;
    let left = guest.rx_on_offer();
    // Use up the buffers with answers to credit requests.
    for _ in 0..left {
        guest.send(packet(1, 2, Op::CreditRequest), b"");
    }
    assert_eq!(guest.received().len(), usize::from(left));
    host.write_all(b"waits").unwrap();
    guest.poll();
    assert_eq!(guest.received(), []);
    guest.offer(1);
    guest.ready(RX);
    assert_eq!(guest.receive().1, b"waits");
}

#[test]
fn a_credit_request_is_answered() {
    let mut guest = Guest::new();
    let (_host, request) = guest.connect_in();
    guest.answer(&request, Op::Rw, 0, b"12345");
    guest.answer(&request, Op::CreditRequest, 0, b"");
    let update = guest.expect(Op::CreditUpdate);
    assert_eq!((update.fwd_cnt, update.buf_alloc), (5, BUF_ALLOC));
}

#[test]
fn two_connections_share_the_queue() {
    let mut guest = Guest::new();
    let (mut one, first) = guest.connect_in();
    let (mut two, second) = guest.connect_in();
    assert_ne!(first.src_port, second.src_port);
    one.write_all(b"one").unwrap();
    two.write_all(b"two").unwrap();
    guest.poll();
    let mut data: Vec<_> = guest
        .received()
        .into_iter()
        .map(|(header, data)| (header.src_port, data))
        .collect();
    data.sort();
    let expected = [
        (first.src_port, b"one".to_vec()),
        (second.src_port, b"two".to_vec()),
    ];
    assert_eq!(data, expected);
}

#[test]
fn a_reset_of_the_device_ends_all_and_new_connections_wait() {
    let mut guest = Guest::new();
    let (mut host, _) = guest.connect_in();
    guest.handler = None;
    assert_eq!(drain(&mut host), (Vec::new(), true));
    let mut waiting = guest.dial();
    waiting.write_all(b"CONNECT 5\n").unwrap();
    guest.activate();
    guest.offer(8);
    guest.poll();
    guest.poll();
    assert_eq!(guest.expect(Op::Request).dst_port, 5);
}

#[test]
fn after_a_restore_the_guest_hears_that_its_connections_are_gone() {
    let mut guest = Guest::new();
    let (_host, request) = guest.connect_in();
    let state = guest.handler().save().unwrap();
    guest.restore(state);
    // Not yet said when the next snapshot is taken.
    let state = guest.handler().save().unwrap();
    guest.restore(state);
    guest.poll();
    let reset = guest.expect(Op::Rst);
    assert_eq!(reset.src_port, request.src_port);
    // Once.
    let again = guest.handler().save().unwrap();
    guest.restore(again);
    guest.poll();
    assert_eq!(guest.received(), []);
    guest.ready(EVENT);
    assert_eq!(guest.used(EVENT), []);
}

#[test]
fn without_connections_a_restore_tells_nothing() {
    let mut guest = Guest::new();
    let (host, request) = guest.connect_in();
    drop(host);
    guest.poll();
    guest.expect(Op::Shutdown);
    guest.answer(&request, Op::Rst, 0, b"");
    let state = guest.handler().save().unwrap();
    guest.restore(state);
    guest.ready(EVENT);
    assert_eq!(guest.used(EVENT), []);
    let bad = serde_json::json!({ "guest_cid": "three" });
    assert!(guest.handler().restore(bad).is_err());
}

#[test]
fn another_cid_after_a_restore_is_told() {
    let mut guest = Guest::new();
    let state = serde_json::json!({ "guest_cid": 77, "transport_reset": false });
    guest.restore(state);
    guest.ready(EVENT);
    assert_eq!(guest.used(EVENT), [(0, 4)]);
}

#[test]
fn an_abandoned_socket_makes_room_and_one_in_use_does_not() {
    let directory = tempfile::tempdir().unwrap();
    let config = VsockConfig {
        socket: directory.path().join("vsock"),
        guest_cid: 3,
        resumed: Vec::new(),
    };
    drop(Vsock::new(&config).unwrap());
    let device = Vsock::new(&config).unwrap();
    let second = Vsock::new(&config).err();
    assert!(
        matches!(second, Some(VsockError::Bind { .. })),
        "{second:?}"
    );
    drop(device);
    std::fs::remove_file(&config.socket).unwrap();
    std::fs::write(&config.socket, b"not a socket").unwrap();
    assert!(matches!(Vsock::new(&config), Err(VsockError::Bind { .. })));
    assert!(config.socket.exists());
}

#[test]
fn what_cannot_work_is_refused() {
    let config = |socket: String, guest_cid| VsockConfig {
        socket: socket.into(),
        guest_cid,
        resumed: Vec::new(),
    };
    for cid in [0, 1, 2, u32::MAX] {
        let made = Vsock::new(&config("/nowhere".to_owned(), cid));
        assert!(matches!(made, Err(VsockError::GuestCid(bad)) if bad == cid));
    }
    let long = Vsock::new(&config(format!("/tmp/{}", "x".repeat(92)), 3));
    assert!(matches!(long, Err(VsockError::LongPath { .. })));
}

#[test]
fn tx_frames_of_any_shape_are_the_same_packet() {
    let mut guest = Guest::new();
    let (mut host, request) = guest.connect_in();
    let mut header = packet(request.dst_port, request.src_port, Op::Rw);
    header.len = 5;
    let mut bytes = header.to_bytes().to_vec();
    bytes.extend_from_slice(b"shape");
    for cut in [1usize, 43, 44, 46, 49] {
        guest.send_cut(&bytes, &[cut]);
    }
    guest.send_cut(&bytes, &[1, 2, 40, 44, 45, 48]);
    assert_eq!(drain(&mut host).0, b"shape".repeat(6));
    assert_eq!(guest.used(TX).len(), 7);
}
