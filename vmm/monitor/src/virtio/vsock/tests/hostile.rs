// SPDX-License-Identifier: Apache-2.0
//! A guest that sends anything at all: nothing may panic, spin, or grow.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};

use proptest::prelude::*;
use virtio_bindings::bindings::virtio_ring::{VRING_DESC_F_INDIRECT, VRING_DESC_F_WRITE};
use vm_memory::{Bytes, GuestAddress};

use super::guest::{GUEST_CID, Guest, PORT, packet};
use crate::virtio::vsock::credit::BUF_ALLOC;
use crate::virtio::vsock::packet::{HEADER_LEN, Header, Op, SHUTDOWN_BOTH};
use crate::virtio::vsock::{RX, TX};

#[test]
fn more_than_the_credit_is_an_rst() {
    let mut guest = Guest::new();
    let (mut host, request) = guest.connect_in();
    let chunk = vec![1; 65536];
    // The socket takes some; the rest is kept, up to the credit.
    let mut sent = 0;
    loop {
        guest.answer(&request, Op::Rw, 0, &chunk);
        sent += chunk.len();
        let packets = guest.received();
        guest.handler().muxer.check();
        if let Some((last, _)) = packets.last()
            && last.op == Op::Rst
        {
            break;
        }
        assert!(sent < 4 << 20, "the guest is never stopped");
    }
    assert!(sent > BUF_ALLOC as usize);
    // What was taken is the host's, then comes the end.
    let mut got = 0;
    let mut bytes = [0; 65536];
    for _ in 0..1000 {
        match host.read(&mut bytes) {
            Ok(0) => break,
            Ok(len) => got += len,
            Err(_) => guest.poll(),
        }
    }
    assert_eq!(got, sent - chunk.len());
}

#[test]
fn answers_wait_without_growing() {
    let mut guest = Guest::idle();
    for port in 0..350 {
        guest.send(packet(port, 9, Op::Rw), b"");
        guest.handler().muxer.check();
    }
    let taken = guest.used(TX).len();
    assert_eq!(taken, 256);
}

#[test]
fn the_tx_queue_goes_on_after_it_had_to_wait() {
    let mut guest = Guest::idle();
    for port in 0..300 {
        guest.send(packet(port, 9, Op::Rw), b"");
    }
    let mut resets = Vec::new();
    for _ in 0..3 {
        guest.offer(100);
        guest.ready(RX);
        guest.refill = false;
        resets.extend(guest.received().iter().map(|(header, _)| header.dst_port));
    }
    assert_eq!(guest.used(TX).len(), 300);
    assert_eq!(resets, (0..300).collect::<Vec<_>>());
}

#[test]
fn connections_are_bounded() {
    let mut guest = Guest::new();
    let path = guest.directory.path().join(format!("vsock_{PORT}"));
    let listener = UnixListener::bind(path).unwrap();
    listener.set_nonblocking(true).unwrap();
    let mut hosts = Vec::new();
    let mut refused = 0;
    for port in 0..600 {
        guest.send(packet(port, PORT, Op::Request), b"");
        refused += usize::from(guest.receive().0.op == Op::Rst);
        hosts.extend(listener.accept().into_iter().map(|(host, _)| host));
    }
    assert_eq!(guest.handler().muxer.check(), 512);
    assert_eq!((hosts.len(), refused), (512, 88));
    // A host waits, and gets its turn when there is room.
    let _waiting = guest.dial_and_say("CONNECT 5\n");
    assert_eq!(guest.received(), []);
    guest.send(packet(7, PORT, Op::Rst), b"");
    guest.poll();
    assert_eq!(guest.expect(Op::Request).dst_port, 5);
    drop(hosts);
}

#[test]
fn connections_that_come_and_go_leave_nothing() {
    let mut guest = Guest::idle();
    let path = guest.directory.path().join(format!("vsock_{PORT}"));
    let listener = UnixListener::bind(path).unwrap();
    for _ in 0..100 {
        guest.send(packet(1, PORT, Op::Request), b"");
        guest.handler().muxer.check();
        drop(listener.accept().unwrap());
        guest.send(packet(1, PORT, Op::Rst), b"");
        guest.used(TX);
        assert_eq!(guest.handler().muxer.check(), 0);
    }
    guest.offer(8);
    guest.ready(RX);
    assert_eq!(guest.received(), []);
}

#[test]
fn packets_for_or_from_elsewhere() {
    let mut guest = Guest::new();
    let request = packet(4000, PORT, Op::Request);
    guest.send(
        Header {
            src_cid: 4,
            ..request
        },
        b"",
    );
    assert_eq!(guest.received(), []);
    guest.send(
        Header {
            dst_cid: 5,
            ..request
        },
        b"",
    );
    let reset = guest.expect(Op::Rst);
    assert_eq!((reset.src_cid, reset.dst_cid), (5, GUEST_CID.into()));
    guest.send(Header { kind: 2, ..request }, b"");
    assert_eq!(guest.expect(Op::Rst).kind, 2);
    // Never an answer to an answer.
    guest.send(packet(1, 2, Op::Rst), b"");
    assert_eq!(guest.received(), []);
}

#[test]
fn an_established_connection_ends_by_nonsense() {
    for op in [Op::Request, Op::Response, Op::Unknown(0), Op::Unknown(99)] {
        let mut guest = Guest::new();
        let (mut host, request) = guest.connect_in();
        guest.answer(&request, op, 0, b"");
        guest.expect(Op::Rst);
        assert!(matches!(host.read(&mut [0]), Ok(0)));
        assert_eq!(guest.handler().muxer.check(), 0);
    }
}

#[test]
fn a_length_beyond_the_chain_is_an_rst() {
    let mut guest = Guest::new();
    let (_host, request) = guest.connect_in();
    let mut header = packet(request.dst_port, request.src_port, Op::Rw);
    header.len = 100;
    guest.send(header, b"short");
    guest.expect(Op::Rst);
}

#[test]
fn data_after_the_end_is_an_rst() {
    let mut guest = Guest::new();
    let (_host, request) = guest.connect_in();
    guest.answer(&request, Op::Shutdown, SHUTDOWN_BOTH & 2, b"");
    guest.answer(&request, Op::Rw, 0, b"more");
    guest.expect(Op::Rst);
}

#[test]
fn useless_rx_buffers_are_returned_and_skipped() {
    let mut guest = Guest::idle();
    let at = 0x80_0000;
    // Too small, not writable, not in memory: then a good one.
    guest.describe(RX, 0, at, 44, VRING_DESC_F_WRITE);
    guest.describe(RX, 1, at, 4096, 0);
    guest.describe(RX, 2, u64::MAX - 10, 4096, VRING_DESC_F_WRITE);
    guest.describe(RX, 3, at, 45, VRING_DESC_F_WRITE);
    for head in 0..4 {
        guest.publish(RX, head);
    }
    guest.send(packet(1, 2, Op::Rw), b"");
    assert_eq!(guest.used(RX), [(0, 0), (1, 0), (2, 0), (3, 44)]);
    let mut bytes = [0; HEADER_LEN];
    guest
        .memory
        .read_slice(&mut bytes, GuestAddress(at))
        .unwrap();
    assert_eq!(Header::from_bytes(&bytes).op, Op::Rst);
}

#[test]
fn an_endless_indirect_table_is_dropped() {
    let mut guest = Guest::new();
    let table = 0x80_0000;
    // A header that would be answered, and 65534 descriptors of one byte each.
    let mut header = packet(1, 2, Op::Rw);
    header.len = 65534;
    let at = 0x90_0000 + 65536;
    guest
        .memory
        .write_slice(&header.to_bytes(), GuestAddress(at))
        .unwrap();
    for index in 0..65535u64 {
        let entry = table + index * 16;
        guest
            .memory
            .write_obj(0x10_0000u64, GuestAddress(entry))
            .unwrap();
        let rest = 1u64 | 1 << 32 | ((index + 1) % 65536) << 48;
        guest
            .memory
            .write_obj(rest, GuestAddress(entry + 8))
            .unwrap();
    }
    guest.memory.write_obj(at, GuestAddress(table)).unwrap();
    guest
        .memory
        .write_obj(44u32, GuestAddress(table + 8))
        .unwrap();
    guest.describe(TX, 0, table, 65535 * 16, VRING_DESC_F_INDIRECT);
    guest.publish(TX, 0);
    guest.ready(TX);
    assert_eq!(guest.used(TX), [(0, 0)]);
    assert_eq!(guest.received(), []);
}

/// What may happen, in any order.
#[derive(Clone, Debug)]
enum Step {
    Send {
        header: Header,
        data: u32,
    },
    Chain {
        queue: usize,
        at: u64,
        len: u32,
        flags: u16,
        next: u16,
    },
    Bytes(Vec<u8>),
    Offer(u16),
    HostConnects(Vec<u8>),
    HostWrites(usize),
    HostReads,
    HostCloses,
    Poll,
    Receive,
}

fn header() -> impl Strategy<Value = Header> {
    let cids = (
        prop_oneof![9 => Just(u64::from(GUEST_CID)), 1 => any::<u64>()],
        prop_oneof![9 => Just(2), 1 => any::<u64>()],
    );
    // Few ports, so that packets meet connections; PORT + 1 is listened on.
    let ports = (
        prop_oneof![3 => Just(PORT), 2 => 0u32..4],
        prop_oneof![(1u32 << 30)..(1 << 30) + 4, Just(PORT + 1), 0u32..3],
    );
    let op = prop_oneof![9 => 1u16..8, 1 => any::<u16>()];
    let kind = prop_oneof![9 => Just(1u16), 1 => any::<u16>()];
    let credit = (
        prop_oneof![0u32..10_000, any::<u32>()],
        prop_oneof![0u32..10_000, any::<u32>()],
    );
    (cids, ports, op, kind, 0u32..5, credit).prop_map(
        |((src_cid, dst_cid), (src_port, dst_port), op, kind, flags, (buf_alloc, fwd_cnt))| {
            Header {
                src_cid,
                dst_cid,
                src_port,
                dst_port,
                len: 0,
                kind,
                op: Op::from(op),
                flags,
                buf_alloc,
                fwd_cnt,
            }
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    let at = prop_oneof![0u64..(17 << 20), any::<u64>()];
    let len = prop_oneof![0u32..9000, any::<u32>()];
    prop_oneof![
        8 => (header(), 0u32..66_000).prop_map(|(header, data)| Step::Send { header, data }),
        1 => (0usize..2, at, len, 0u16..8, 0u16..130).prop_map(|(queue, at, len, flags, next)| {
            Step::Chain { queue, at, len, flags, next }
        }),
        1 => prop::collection::vec(any::<u8>(), 0..100).prop_map(Step::Bytes),
        2 => (0u16..20).prop_map(Step::Offer),
        1 => prop::collection::vec(any::<u8>(), 0..40).prop_map(Step::HostConnects),
        3 => Just(Step::HostConnects(format!("CONNECT {PORT}\n").into_bytes())),
        2 => (0usize..200_000).prop_map(Step::HostWrites),
        2 => Just(Step::HostReads),
        1 => Just(Step::HostCloses),
        4 => Just(Step::Poll),
        2 => Just(Step::Receive),
    ]
}

struct World {
    guest: Guest,
    listener: UnixListener,
    hosts: Vec<UnixStream>,
}

impl World {
    fn new() -> Self {
        let guest = Guest::idle();
        let path = guest.directory.path().join(format!("vsock_{}", PORT + 1));
        let listener = UnixListener::bind(path).unwrap();
        listener.set_nonblocking(true).unwrap();
        Self {
            guest,
            listener,
            hosts: Vec::new(),
        }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Send { mut header, data } => {
                header.len = data;
                if self.guest.tx_is_free() {
                    self.guest.send(header, &vec![5; data as usize]);
                }
            }
            Step::Chain {
                queue,
                at,
                len,
                flags,
                next,
            } => {
                if queue == RX && self.guest.rx_on_offer() == 0 || self.guest.tx_is_free() {
                    self.guest.describe_raw(queue, 0, at, len, flags, next);
                    self.guest.publish(queue, 0);
                    self.guest.ready(queue);
                }
            }
            Step::Bytes(bytes) => {
                if self.guest.tx_is_free() {
                    self.guest.send_cut(&bytes, &[]);
                }
            }
            Step::Offer(count) => {
                let free = 128 - self.guest.rx_on_offer();
                self.guest.offer(count.min(free));
                self.guest.ready(RX);
            }
            Step::HostConnects(line) => {
                let path = self.guest.directory.path().join("vsock");
                let mut host = UnixStream::connect(path).unwrap();
                host.set_nonblocking(true).unwrap();
                host.write_all(&line).unwrap();
                self.hosts.push(host);
            }
            Step::HostWrites(len) => {
                if let Some(host) = self.hosts.last_mut() {
                    let _ = host.write(&vec![6; len]);
                }
            }
            Step::HostReads => {
                for host in &mut self.hosts {
                    let _ = host.read(&mut [0; 65536]);
                }
            }
            Step::HostCloses => {
                if !self.hosts.is_empty() {
                    self.hosts.remove(0);
                }
            }
            Step::Poll => self.guest.poll(),
            Step::Receive => {
                self.guest.used(RX);
            }
        }
        while let Ok((host, _)) = self.listener.accept() {
            host.set_nonblocking(true).unwrap();
            self.hosts.push(host);
        }
        self.guest.handler().muxer.check();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn nothing_panics_or_grows(steps in prop::collection::vec(step(), 1..60)) {
        let mut world = World::new();
        for step in steps {
            world.take(step);
        }
        // Whatever it did, a reset and a new start put it right.
        world.guest.activate();
        world.guest.offer(128);
        world.hosts.clear();
        // The first takes those that wait, the second hears that they are gone.
        world.guest.poll();
        world.guest.poll();
        world.guest.received();
        let (mut host, _) = world.guest.connect_in();
        host.write_all(b"alive").unwrap();
        world.guest.poll();
        prop_assert_eq!(world.guest.receive().1, b"alive");
    }

    #[test]
    fn headers_survive_the_wire(bytes: [u8; 16], tail: [u8; 16], rest: [u8; 12]) {
        let mut wire = [0; HEADER_LEN];
        wire[..16].copy_from_slice(&bytes);
        wire[16..32].copy_from_slice(&tail);
        wire[32..].copy_from_slice(&rest);
        prop_assert_eq!(Header::from_bytes(&wire).to_bytes(), wire);
    }
}
