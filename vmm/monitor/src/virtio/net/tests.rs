// SPDX-License-Identifier: Apache-2.0
//! The device between a mock driver and the other end of a stream socket.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use proptest::prelude::*;
use virtio_bindings::bindings::virtio_ring::VRING_DESC_F_WRITE;
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::virtio::queue::INTERRUPT_CONFIG;
use crate::virtio::test_driver::Driver;

const MAC: Mac = Mac([2, 0, 0, 0, 0, 9]);
const HEADER: [u8; HEADER_LEN] = [0; HEADER_LEN];

struct Machine {
    driver: Driver,
    device: Net,
    peer: UnixStream,
}

fn machine(features: u64) -> Machine {
    let (near, peer) = UnixStream::pair().unwrap();
    let backend = Stream::new(near.into()).unwrap();
    let mut device = Net::over(Box::new(backend), MAC, 1500).unwrap();
    let mut driver = Driver::new(QUEUE_SIZES);
    driver.activate(&mut device, features);
    Machine {
        driver,
        device,
        peer,
    }
}

/// A frame as it is on the stream.
fn wire(frame: &[u8]) -> Vec<u8> {
    let length = u32::try_from(frame.len()).unwrap().to_be_bytes();
    [&length[..], frame].concat()
}

fn frame(len: usize, seed: u8) -> Vec<u8> {
    (0..=250)
        .cycle()
        .take(len)
        .map(|byte: u8| byte ^ seed)
        .collect()
}

impl Machine {
    fn send(&mut self, frame: &[u8]) {
        let reply = self.driver.request(TX, &[&HEADER, frame], &[]);
        assert_eq!(reply.len, 0);
    }

    /// The next frame that comes out of the stream.
    fn sent(&mut self) -> Vec<u8> {
        let mut length = [0; 4];
        self.peer.read_exact(&mut length).unwrap();
        let mut frame = vec![0; u32::from_be_bytes(length) as usize];
        self.peer.read_exact(&mut frame).unwrap();
        frame
    }

    /// Makes rx buffers of these lengths available, one after the other in guest memory.
    fn offer(&mut self, first: u16, lengths: &[u32]) {
        let mut at = Driver::buffers() + u64::from(first) * 0x1_0000;
        for (head, &len) in (first..).zip(lengths) {
            self.driver
                .offer(RX, head, &[(at, len, VRING_DESC_F_WRITE)]);
            at += 0x1_0000;
        }
        self.driver.handler().queue_ready(RX).unwrap();
    }

    fn ready(&mut self) {
        self.driver.handler().event_ready().unwrap();
    }

    /// What is in the buffer that was offered under `head`.
    fn buffer(&self, head: u32, len: u32) -> Vec<u8> {
        let at = Driver::buffers() + u64::from(head) * 0x1_0000;
        let mut bytes = vec![0; len as usize];
        let memory = &self.driver.memory;
        memory.read_slice(&mut bytes, GuestAddress(at)).unwrap();
        bytes
    }

    fn status(&self) -> u16 {
        let mut status = [0; 2];
        self.device.read_config(6, &mut status);
        u16::from_le_bytes(status)
    }
}

#[test]
fn says_what_it_is() {
    let machine = machine(0);
    let mut config = [0; 14];
    machine.device.read_config(0, &mut config);
    assert_eq!(config[..6], MAC.0);
    assert_eq!(config[6..], [1, 0, 0, 0, 0xdc, 5, 0, 0]);
    let (near, _peer) = UnixStream::pair().unwrap();
    let backend = Stream::new(near.into()).unwrap();
    let small = Net::over(Box::new(backend), MAC, 67);
    assert!(matches!(small, Err(NetError::Mtu(67))));
    let config = NetConfig {
        backend: NetBackend::Tap("no/interface".into()),
        mac: MAC,
        mtu: None,
    };
    assert!(matches!(Net::new(&config), Err(NetError::Tap(_))));
    let config = NetConfig {
        mac: Mac([1, 0, 0, 0, 0, 0]),
        ..config
    };
    assert!(matches!(Net::new(&config), Err(NetError::Mac(_))));
}

#[test]
fn frames_go_out_with_their_length() {
    let mut machine = machine(0);
    for len in [14, 60, 1514, 65_534] {
        let frame = frame(len, 1);
        let mut peer = machine.peer.try_clone().unwrap();
        let reader = std::thread::spawn(move || {
            let mut all = vec![0; 4 + len];
            peer.read_exact(&mut all).unwrap();
            all
        });
        machine.send(&frame);
        assert_eq!(reader.join().unwrap(), wire(&frame));
    }
}

#[test]
fn a_frame_may_be_cut_anywhere() {
    let mut machine = machine(0);
    let frame = frame(60, 2);
    let parts: &[&[u8]] = &[&HEADER[..3], &HEADER[3..], &frame[..1], &frame[1..]];
    machine.driver.request(TX, parts, &[]);
    assert_eq!(machine.sent(), frame);
    let whole = [&HEADER[..], &frame].concat();
    machine.driver.request(TX, &[&whole], &[]);
    assert_eq!(machine.sent(), frame);
}

#[test]
fn what_is_no_packet_is_dropped() {
    let mut machine = machine(0);
    let bad: &[&[u8]] = &[&[], &HEADER[..5], &HEADER, &[0; HEADER_LEN + 13]];
    for bytes in bad {
        assert_eq!(machine.driver.request(TX, &[bytes], &[]).len, 0);
    }
    let huge = vec![0; HEADER_LEN + MAX_FRAME + 1];
    machine.driver.request(TX, &[&huge], &[]);
    // What the stream's other end does not take.
    machine
        .driver
        .request(TX, &[&huge[..HEADER_LEN + 65_536]], &[]);
    // Outside of guest memory; writable only.
    let far = [(1 << 40, 100, 0)];
    assert_eq!(machine.driver.chain(TX, &far), Some(0));
    let writable = [(Driver::buffers(), 100, VRING_DESC_F_WRITE)];
    assert_eq!(machine.driver.chain(TX, &writable), Some(0));
    machine.send(&frame(14, 3));
    assert_eq!(machine.sent(), frame(14, 3));
}

#[test]
fn a_peer_that_does_not_read_is_waited_for() {
    let mut machine = machine(0);
    // The mock's rings overlap from the 128th entry on.
    let count = 100;
    for number in 0..count {
        let at = Driver::buffers() + u64::from(number) * 0x1_0000;
        let packet = [&HEADER[..], &frame(40_000, number)].concat();
        let memory = &machine.driver.memory;
        memory.write_slice(&packet, GuestAddress(at)).unwrap();
        let len = u32::try_from(packet.len()).unwrap();
        machine.driver.offer(TX, number.into(), &[(at, len, 0)]);
    }
    machine.driver.handler().queue_ready(TX).unwrap();
    let taken = machine.driver.used_since(TX, 0).len();
    assert!(taken < usize::from(count), "the socket took {taken} frames");
    // A kick brings nothing while the socket is full.
    machine.driver.handler().queue_ready(TX).unwrap();
    for number in 0..count {
        // It is writable again, or that is a spurious event.
        machine.ready();
        assert!(machine.sent() == frame(40_000, number), "{number}");
    }
    machine.ready();
    let heads: Vec<u32> = machine
        .driver
        .used_since(TX, 0)
        .iter()
        .map(|u| u.0)
        .collect();
    assert_eq!(heads, (0..u32::from(count)).collect::<Vec<_>>());
}

#[test]
fn frames_come_in() {
    let mut machine = machine(F_GUEST_CSUM | F_MRG_RXBUF);
    machine.offer(0, &[2000, 2000, 2000]);
    assert_eq!(machine.driver.used_since(RX, 0), []);
    let frames = [frame(60, 4), frame(1514, 5)];
    let all = [wire(&frames[0]), wire(&frames[1])].concat();
    // Wherever the stream happens to be cut.
    for part in all.chunks(500) {
        machine.peer.write_all(part).unwrap();
        machine.ready();
    }
    assert_eq!(machine.driver.used_since(RX, 0), [(0, 72), (1, 1526)]);
    assert_ne!(machine.driver.interrupted(), 0);
    for (head, frame) in (0..).zip(frames) {
        let buffer = machine.buffer(head, 12 + u32::try_from(frame.len()).unwrap());
        assert_eq!(buffer[..12], [2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
        assert!(buffer[12..] == frame);
    }
}

#[test]
fn a_long_frame_is_spread_over_buffers() {
    let mut machine = machine(F_MRG_RXBUF);
    let long = frame(5000, 6);
    machine.peer.write_all(&wire(&long)).unwrap();
    // Not enough: nothing is taken.
    machine.offer(0, &[1500, 1500]);
    assert_eq!(machine.driver.used_since(RX, 0), []);
    machine.offer(2, &[1500, 1500]);
    let used = machine.driver.used_since(RX, 0);
    assert_eq!(used, [(0, 1500), (1, 1500), (2, 1500), (3, 512)]);
    let all: Vec<u8> = used
        .iter()
        .flat_map(|&(head, len)| machine.buffer(head, len))
        .collect();
    assert_eq!(all[..12], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0]);
    assert!(all[12..] == long);
}

#[test]
fn without_merging_what_does_not_fit_is_dropped() {
    let mut machine = machine(0);
    let stream = [wire(&frame(1514, 7)), wire(&frame(60, 8))].concat();
    machine.peer.write_all(&stream).unwrap();
    machine.offer(0, &[100, 100]);
    assert_eq!(machine.driver.used_since(RX, 0), [(0, 72)]);
    assert!(machine.buffer(0, 72)[12..] == frame(60, 8));
}

#[test]
fn an_rx_buffer_that_is_none_comes_back_empty() {
    let mut machine = machine(F_MRG_RXBUF);
    let driver = &mut machine.driver;
    driver.offer(RX, 0, &[(1 << 40, 2000, VRING_DESC_F_WRITE)]);
    driver.offer(RX, 1, &[(Driver::buffers(), 2000, 0)]);
    driver.offer(RX, 2, &[(Driver::buffers(), 11, VRING_DESC_F_WRITE)]);
    machine.peer.write_all(&wire(&frame(60, 9))).unwrap();
    machine.offer(3, &[2000]);
    let used = machine.driver.used_since(RX, 0);
    assert_eq!(used, [(0, 0), (1, 0), (2, 0), (3, 72)]);
}

#[test]
fn the_link_goes_down_with_its_peer() {
    let mut machine = machine(F_STATUS);
    assert_eq!(machine.status(), S_LINK_UP);
    let (_, other) = UnixStream::pair().unwrap();
    machine.peer = other;
    machine.ready();
    assert_eq!(machine.status(), 0);
    assert_eq!(machine.driver.interrupted(), INTERRUPT_CONFIG);
    // Nothing waits for a link that does not come back.
    machine.send(&frame(60, 0));
    machine.offer(0, &[2000]);
    machine.ready();
    assert_eq!(machine.driver.used_since(RX, 0), []);
    // Nor does a driver that starts anew.
    let Machine { driver, device, .. } = &mut machine;
    driver.activate(device, 0);
    machine.send(&frame(60, 0));
    assert_eq!(machine.status(), 0);
}

#[test]
fn a_stream_of_nonsense_takes_the_link_down() {
    let mut machine = machine(0);
    machine.offer(0, &[2000]);
    machine.peer.write_all(&[0xff; 64]).unwrap();
    machine.ready();
    assert_eq!(machine.status(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever chains a driver makes: nothing breaks, and each comes back once.
    #[test]
    fn any_chains(chains in prop::collection::vec(
        (0..2usize, prop::collection::vec((0..40u64, 0..70_000u32, prop::bool::ANY), 1..4)), 1..40)
    ) {
        let mut machine = machine(F_MRG_RXBUF);
        let mut peer = machine.peer.try_clone().unwrap();
        peer.set_nonblocking(true).unwrap();
        for (number, (queue, descriptors)) in (0u16..).zip(chains) {
            let place = |at: u64| match at {
                39 => u64::MAX - 10,
                38 => (16 << 20) - 100,
                at => Driver::buffers() + at * 1000,
            };
            let descriptors: Vec<_> = descriptors
                .iter()
                .map(|&(at, len, write)| {
                    (place(at), len, if write { VRING_DESC_F_WRITE } else { 0 })
                })
                .collect();
            machine.driver.offer(queue, number * 3, &descriptors);
            let _ = peer.write(&wire(&frame(60, 0)));
            machine.driver.handler().queue_ready(queue).unwrap();
            machine.ready();
            let _ = peer.read(&mut vec![0; 1 << 20]);
        }
        machine.ready();
        for queue in [RX, TX] {
            let mut heads: Vec<_> =
                machine.driver.used_since(queue, 0).iter().map(|u| u.0).collect();
            let all = heads.len();
            heads.sort_unstable();
            heads.dedup();
            prop_assert_eq!(heads.len(), all);
        }
    }
}
