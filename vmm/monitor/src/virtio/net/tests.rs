// SPDX-License-Identifier: Apache-2.0
//! The device between a mock driver and the other end of a stream socket.

use std::io::{Read, Write};
use std::mem::MaybeUninit;
use std::os::unix::net::UnixStream;

use proptest::prelude::*;
use rustix::event::epoll::{EventData, EventFlags};
use virtio_bindings::bindings::virtio_ring::{
    VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE,
};
use vm_memory::{Bytes, GuestAddress};
use walnut_vmm_config::{Bucket, Rate};

use super::*;
use crate::virtio::DeviceState;
use crate::virtio::queue::INTERRUPT_CONFIG;
use crate::virtio::registers::{CONFIG, CONFIG_GENERATION};
use crate::virtio::test_driver::Driver;

const MAC: Mac = Mac([2, 0, 0, 0, 0, 9]);
const HEADER: [u8; HEADER_LEN] = [0; HEADER_LEN];

struct Machine {
    driver: Driver,
    device: Net,
    peer: UnixStream,
}

fn machine(features: u64) -> Machine {
    machine_at(features, None)
}

fn machine_at(features: u64, rate: Option<&NetRate>) -> Machine {
    let (near, peer) = UnixStream::pair().unwrap();
    let backend = Stream::new(near.into()).unwrap();
    let mut device = Net::over(Box::new(backend), MAC, 1500, rate).unwrap();
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
        let config = self.device.config();
        u16::from_le_bytes([config[6], config[7]])
    }
}

/// The address of `plug` in a device that another one was in.
fn plug() -> Plug {
    Plug {
        backend: PlugBackend::Stream,
        mac: Mac([2, 0, 0, 0, 0, 9]),
        mtu: Some(9000),
        finish_handshakes: false,
    }
}

#[test]
fn one_goes_and_another_comes() {
    let mut machine = machine(0);
    let port = machine.device.port();
    assert!(port.is_present() && machine.device.is_present());
    port.unplug().unwrap();
    assert!(!machine.device.is_present());
    // Its other end is closed, and a driver that goes on all the same does no harm.
    assert_eq!(machine.peer.read(&mut [0; 4]).unwrap(), 0);
    machine.send(&[7; 60]);
    machine.offer(0, &[2000]);
    machine.ready();
    assert_eq!(machine.status(), 0);
    let (near, mut peer) = UnixStream::pair().unwrap();
    port.plug(&plug(), near.into()).unwrap();
    assert!(machine.device.is_present());
    assert_eq!(port.mac(), plug().mac);
    let config = machine.device.config();
    assert_eq!(config[..6], plug().mac.0);
    assert_eq!(config[10..], 9000_u16.to_le_bytes());
    assert_eq!(machine.status(), 1);
    machine.send(&[8; 60]);
    let mut frame = [0; 64];
    peer.read_exact(&mut frame).unwrap();
    assert_eq!(frame[..5], [0, 0, 0, 60, 8]);
    let absent = Net::absent().unwrap();
    assert!(!absent.is_present() && !absent.port().is_present());
    let bad = Plug {
        mtu: Some(67),
        ..plug()
    };
    let (near, _peer) = UnixStream::pair().unwrap();
    let refused = absent.port().plug(&bad, near.into());
    assert!(matches!(refused, Err(NetError::Mtu(67))));
    assert!(!absent.is_present());
}

#[test]
fn says_what_it_is() {
    let machine = machine(0);
    let config = machine.device.config();
    assert_eq!(config[..6], MAC.0);
    assert_eq!(config[6..], [1, 0, 0, 0, 0xdc, 5]);
    let (near, _peer) = UnixStream::pair().unwrap();
    let backend = Stream::new(near.into()).unwrap();
    let small = Net::over(Box::new(backend), MAC, 67, None);
    assert!(matches!(small, Err(NetError::Mtu(67))));
    let config = NetConfig {
        backend: NetBackend::Tap("no/interface".into()),
        mac: MAC,
        mtu: None,
        finish_handshakes: false,
        rate: None,
    };
    assert!(matches!(Net::new(&config), Err(NetError::Tap(_))));
    let config = NetConfig {
        mac: Mac([1, 0, 0, 0, 0, 0]),
        ..config
    };
    assert!(matches!(Net::new(&config), Err(NetError::Mac(_))));
    let (near, _peer) = UnixStream::pair().unwrap();
    let backend = Stream::new(near.into()).unwrap();
    let never = frames_a_minute(0);
    let standing = Net::over(Box::new(backend), MAC, 1500, Some(&never));
    assert!(matches!(standing, Err(NetError::Rate)));
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
    // The last two bytes of the address, and no link.
    assert_eq!(machine.driver.register(CONFIG + 4), 0x0900);
    assert_eq!(machine.driver.register(CONFIG_GENERATION), 1);
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

/// The second step of a handshake over IPv4, of port 80 to port 4000.
fn second_step() -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 9, 8, 0];
    frame.extend([0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0]);
    frame.extend([10, 0, 2, 100, 192, 0, 2, 1]);
    frame.extend([0, 80, 15, 160, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x12, 1, 0]);
    frame.extend([0; 4]);
    frame
}

#[test]
fn handshakes_are_finished_for_a_passt() {
    for finishes in [true, false] {
        let (near, peer) = UnixStream::pair().unwrap();
        let backend = Stream::new(near.into()).unwrap().finishing(finishes);
        let mut device = Net::over(Box::new(backend), MAC, 1500, None).unwrap();
        let mut driver = Driver::new(QUEUE_SIZES);
        driver.activate(&mut device, F_MRG_RXBUF);
        let mut machine = Machine {
            driver,
            device,
            peer,
        };
        machine.offer(0, &[40, 2000]);
        // What has come is not lost by it; the own one goes first.
        machine.peer.write_all(&wire(&frame(60, 5))).unwrap();
        // Once more, since it was not told.
        for _ in 0..2 {
            machine.send(&second_step());
            assert!(machine.sent() == second_step());
        }
        machine.ready();
        let used = machine.driver.used_since(RX, 0);
        if finishes {
            assert_eq!(used, [(0, 40), (1, 26)]);
            continue;
        }
        assert_eq!(used, [(0, 40), (1, 32)]);
    }
    // As many as there are, while the guest takes none.
    let (near, peer) = UnixStream::pair().unwrap();
    let backend = Stream::new(near.into()).unwrap().finishing(true);
    let mut device = Net::over(Box::new(backend), MAC, 1500, None).unwrap();
    let mut driver = Driver::new(QUEUE_SIZES);
    driver.activate(&mut device, 0);
    let mut machine = Machine {
        driver,
        device,
        peer,
    };
    for _ in 0..100 {
        machine.send(&second_step());
        machine.sent();
    }
    machine.offer(0, &[2000; 100]);
    let told = machine.driver.used_since(RX, 0);
    assert_eq!(told, (0..64).map(|head| (head, 66)).collect::<Vec<_>>());
}

fn frames_a_minute(size: u64) -> NetRate {
    let operations = Some(Bucket {
        size,
        refill_ms: 60_000,
    });
    let rate = Rate {
        operations,
        ..Rate::default()
    };
    NetRate { rx: rate, tx: rate }
}

/// The device's own descriptor, as the event loop watches it.
fn watch(device: &Net) -> OwnedFd {
    let (fd, set) = device.event_fd().unwrap();
    assert_eq!(set, EventSet::IN | EventSet::EDGE_TRIGGERED);
    let watch = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
    let flags = EventFlags::IN | EventFlags::ET;
    epoll::add(&watch, fd, EventData::new_u64(0), flags).unwrap();
    watch
}

fn wait(watch: &OwnedFd) {
    let mut events = [MaybeUninit::uninit()];
    epoll::wait(watch, &mut events, None).unwrap();
}

#[test]
fn what_is_too_fast_waits_for_the_timer() {
    // Two at once, and then one in every 20 ms.
    let bucket = Bucket {
        size: 2,
        refill_ms: 40,
    };
    let rate = Rate {
        operations: Some(bucket),
        ..Rate::default()
    };
    let mut machine = machine_at(0, Some(&NetRate { rx: rate, tx: rate }));
    let start = std::time::Instant::now();
    for number in 0..8u8 {
        let at = Driver::buffers() + u64::from(number) * 0x1_0000;
        let packet = [&HEADER[..], &frame(60, number)].concat();
        let memory = &machine.driver.memory;
        memory.write_slice(&packet, GuestAddress(at)).unwrap();
        machine.driver.offer(TX, number.into(), &[(at, 72, 0)]);
    }
    machine.driver.handler().queue_ready(TX).unwrap();
    let watch = watch(&machine.device);
    while machine.driver.used_since(TX, 0).len() < 8 {
        // A kick brings nothing sooner.
        machine.driver.handler().queue_ready(TX).unwrap();
        wait(&watch);
        machine.ready();
    }
    for number in 0..8 {
        assert!(machine.sent() == frame(60, number), "{number}");
    }
    // And to the guest.
    for number in 0..8 {
        machine.peer.write_all(&wire(&frame(60, number))).unwrap();
    }
    machine.offer(0, &[2000; 8]);
    while machine.driver.used_since(RX, 0).len() < 8 {
        wait(&watch);
        machine.ready();
    }
    // Six had to wait, each way.
    assert!(start.elapsed().as_millis() >= 2 * 6 * 20);
}

#[test]
fn a_reset_fills_no_bucket() {
    let mut machine = machine_at(0, Some(&frames_a_minute(2)));
    for number in 0..2 {
        machine.send(&frame(60, number));
        assert_eq!(machine.sent(), frame(60, number));
    }
    let Machine { driver, device, .. } = &mut machine;
    driver.activate(device, 0);
    let at = Driver::buffers();
    assert_eq!(machine.driver.chain(TX, &[(at, 72, 0)]), None);
    // Nor does a link that is down keep anything.
    let (_, other) = UnixStream::pair().unwrap();
    machine.peer = other;
    machine.ready();
    machine.driver.handler().queue_ready(TX).unwrap();
    assert_eq!(machine.driver.used_since(TX, 0).len(), 1);
}

#[test]
fn a_rate_of_bytes_counts_frames_without_our_header() {
    let bytes = Some(Bucket {
        size: 100,
        refill_ms: 60_000,
    });
    let tx = Rate {
        bytes,
        ..Rate::default()
    };
    let rate = NetRate {
        tx,
        ..NetRate::default()
    };
    let mut machine = machine_at(0, Some(&rate));
    // The second goes on credit; then there is none for half a minute.
    machine.send(&frame(99, 1));
    machine.send(&frame(50, 2));
    assert_eq!(machine.sent(), frame(99, 1));
    assert_eq!(machine.sent(), frame(50, 2));
    let at = Driver::buffers();
    assert_eq!(machine.driver.chain(TX, &[(at, 72, 0)]), None);
}

/// A descriptor as a driver may write it: address, length, flags, next.
type Raw = (u64, u32, u32, u16);

/// A name, the descriptors in the queue's table, and those at [`indirect_table`].
type Shape = (&'static str, Vec<Raw>, Vec<Raw>);

fn indirect_table() -> u64 {
    Driver::buffers() + 0x8_0000
}

/// What no driver should make.
fn wrong_shapes() -> Vec<Shape> {
    let (at, end) = (Driver::buffers(), 16 << 20);
    let table = indirect_table();
    let indirect = |len| vec![(table, len, VRING_DESC_F_INDIRECT, 0)];
    let loops: Vec<Raw> = vec![
        (at, 72, VRING_DESC_F_NEXT, 1),
        (at, 72, VRING_DESC_F_NEXT, 0),
    ];
    vec![
        ("a loop", loops.clone(), vec![]),
        ("itself", vec![(at, 72, VRING_DESC_F_NEXT, 0)], vec![]),
        (
            "a next outside of the table",
            vec![(at, 72, VRING_DESC_F_NEXT, 60_000)],
            vec![],
        ),
        ("no length", vec![(at, 0, 0, 0)], vec![]),
        ("all of the length", vec![(at, u32::MAX, 0, 0)], vec![]),
        ("over the end", vec![(end - 10, 72, 0, 0)], vec![]),
        ("beyond 64 bits", vec![(u64::MAX - 5, 72, 0, 0)], vec![]),
        (
            "written and read in turns",
            vec![
                (at, 72, VRING_DESC_F_WRITE | VRING_DESC_F_NEXT, 1),
                (at, 72, VRING_DESC_F_NEXT, 2),
                (at, 72, VRING_DESC_F_WRITE, 0),
            ],
            vec![],
        ),
        ("an indirect table", indirect(16), vec![(at, 72, 0, 0)]),
        ("an indirect table of nothing", indirect(0), vec![]),
        ("of half a descriptor", indirect(8), vec![(at, 72, 0, 0)]),
        (
            "outside of memory",
            vec![(end, 16, VRING_DESC_F_INDIRECT, 0)],
            vec![],
        ),
        ("an indirect loop", indirect(32), loops),
        (
            "an indirect table in an indirect table",
            indirect(16),
            vec![(table, 16, VRING_DESC_F_INDIRECT, 0)],
        ),
        (
            "an indirect table that goes on",
            vec![
                (table, 16, VRING_DESC_F_INDIRECT | VRING_DESC_F_NEXT, 1),
                (at, 72, 0, 0),
            ],
            vec![(at, 72, 0, 0)],
        ),
    ]
}

/// Each of them is returned or the ring is given up, at once, and what comes of it on the other side is
/// whole frames.
#[test]
fn chains_of_the_wrong_shape() {
    let (at, table) = (Driver::buffers(), indirect_table());
    for queue in [RX, TX] {
        for (what, descriptors, indirect) in wrong_shapes() {
            let mut machine = machine(F_MRG_RXBUF);
            machine.peer.set_nonblocking(true).unwrap();
            machine.peer.write_all(&wire(&frame(60, 1))).unwrap();
            machine.driver.raw(table, &indirect);
            machine.driver.raw(Driver::table(queue), &descriptors);
            machine.driver.publish(queue, 0);
            let served = machine.driver.handler().queue_ready(queue);
            let heads: Vec<u32> = machine
                .driver
                .used_since(queue, 0)
                .iter()
                .map(|used| used.0)
                .collect();
            let mut sent = Vec::new();
            // There is no more, which is an error here.
            let _ = machine.peer.read_to_end(&mut sent);
            while let Some((length, rest)) = sent.split_first_chunk::<4>() {
                let len = u32::from_be_bytes(*length) as usize;
                assert!(len >= 14 && rest.len() >= len, "{what} on {queue}");
                sent = rest[len..].to_vec();
            }
            if served.is_err() {
                continue;
            }
            assert!(heads.is_empty() || heads == [0], "{what} on {queue}");
            // The next one is served as ever.
            let before = machine.driver.used_since(TX, 0).len();
            machine.driver.offer(TX, 100, &[(at, 72, 0)]);
            machine.driver.handler().queue_ready(TX).unwrap();
            let after = machine.driver.used_since(TX, 0).len();
            assert_eq!(after, before + 1, "{what} on {queue}");
        }
    }
    // A head that is no descriptor's.
    for head in [256, u16::MAX] {
        let mut machine = machine(0);
        machine.driver.publish(TX, head);
        let served = machine.driver.handler().queue_ready(TX);
        assert!(served.is_err() || machine.driver.used_since(TX, 0).is_empty());
    }
}

/// §2.7.5.3.1: what is not read counts, too.
#[test]
fn a_chain_is_no_longer_than_its_queue() {
    let (at, table) = (Driver::buffers(), indirect_table());
    for (passed_over, first) in [(255, 60), (256, 61)] {
        let mut machine = machine(0);
        let link = |flags, next| (at, 1, flags | VRING_DESC_F_NEXT, next);
        let mut all: Vec<Raw> = (1..=passed_over)
            .map(|next| link(VRING_DESC_F_WRITE, next))
            .collect();
        all.push((at, 72, 0, 0));
        machine.driver.raw(table, &all);
        let len = u32::try_from(all.len() * 16).unwrap();
        let indirect = [(table, len, VRING_DESC_F_INDIRECT, 0)];
        machine.driver.raw(Driver::table(TX), &indirect);
        machine.driver.publish(TX, 0);
        machine.driver.handler().queue_ready(TX).unwrap();
        assert_eq!(machine.driver.used_since(TX, 0), [(0, 0)]);
        machine.send(&frame(61, 1));
        assert_eq!(machine.sent().len(), first);
    }
}

/// A network that says nothing but what is too long.
struct Endless;

impl Backend for Endless {
    fn fd(&self) -> BorrowedFd<'_> {
        rustix::stdio::stdin()
    }

    fn offloads(&self) -> u64 {
        0
    }

    fn negotiated(&mut self, _features: u64) -> std::io::Result<()> {
        Ok(())
    }

    fn most(&mut self) -> std::io::Result<Option<usize>> {
        Ok(Some(1514))
    }

    fn fetch(&mut self) -> std::io::Result<Option<usize>> {
        Ok(Some(1514))
    }

    fn receive(&mut self, _slices: &[chain::Slice<'_>]) -> std::io::Result<Option<usize>> {
        Ok(None)
    }

    fn discard(&mut self) {}

    fn send(&mut self, packets: &[Vec<chain::Slice<'_>>]) -> std::io::Result<usize> {
        Ok(packets.len())
    }
}

#[test]
fn a_network_without_end_gets_its_turn_and_no_more() {
    let mut machine = machine(0);
    machine.offer(0, &[100]);
    *hold(&machine.device.link.backend) = Box::new(Endless);
    // It comes back, and goes on when its turn comes again.
    machine.driver.handler().queue_ready(RX).unwrap();
    machine.driver.handler().queue_ready(RX).unwrap();
    assert_eq!(machine.driver.used_since(RX, 0), []);
}

#[test]
fn a_link_that_is_up_again_after_a_restore_is_told_of() {
    let up = machine(F_STATUS).driver.handler().save().unwrap();
    let mut down = machine(F_STATUS);
    down.peer = UnixStream::pair().unwrap().1;
    down.ready();
    let down = down.driver.handler().save().unwrap();
    for (saved, told) in [(up, 0), (DeviceState::Null, 0), (down, INTERRUPT_CONFIG)] {
        let mut machine = machine(F_STATUS);
        machine.driver.handler().restore(saved).unwrap();
        assert_eq!(machine.driver.interrupted(), told);
        assert_eq!(machine.status(), S_LINK_UP);
    }
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
