// SPDX-License-Identifier: Apache-2.0
//! A guest for tests: offers rx buffers, sends packets, and sees what comes. Everything happens on
//! the test's own thread: unix sockets pass bytes and events on at once.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;

use tempfile::TempDir;
use virtio_bindings::bindings::virtio_ring::{VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use virtio_queue::desc::{RawDescriptor, split::Descriptor};
use vm_memory::{Address, Bytes, GuestAddress};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use walnut_vmm_config::VsockConfig;

use crate::memory::{Memory, allocate};
use crate::virtio::queue::QueueState;
use crate::virtio::registers::Registers;
use crate::virtio::test_driver::{Counter, acknowledge};
use crate::virtio::vsock::handler::VsockHandler;
use crate::virtio::vsock::packet::{HEADER_LEN, Header, Op, TYPE_STREAM};
use crate::virtio::vsock::{EVENT, HOST_CID, QUEUE_SIZES, RX, TX, Vsock};
use crate::virtio::{Activation, DeviceState, Interrupt, QueueHandler as _, VirtQueue};

pub(super) const GUEST_CID: u32 = 3;

/// A port that the guest listens on, as far as the tests go.
pub(super) const PORT: u32 = 1024;

/// Bytes of an rx buffer, and of a slot for a packet to be sent.
pub(super) const RX_LEN: u32 = 4096;
const TX_LEN: u64 = 0x1_1000;

const RINGS_LEN: u64 = 0x1_0000;
const RX_BUFFERS: u64 = 0x10_0000;
const TX_BUFFERS: u64 = 0x20_0000;
const MEMORY_LEN: usize = 16 << 20;

struct Ring {
    size: u16,
    descs: GuestAddress,
    avail: GuestAddress,
    used: GuestAddress,
    next_avail: u16,
    next_used: u16,
}

pub(super) struct Guest {
    pub memory: Memory,
    rings: Vec<Ring>,
    interrupt: Interrupt,
    registers: Registers,
    pub handler: Option<VsockHandler>,
    pub device: Vsock,
    pub directory: TempDir,
    /// Offer an rx buffer again as soon as it was used.
    pub refill: bool,
}

impl Guest {
    /// All rx buffers are on offer.
    pub(super) fn new() -> Self {
        let mut guest = Self::idle();
        guest.offer(QUEUE_SIZES[RX]);
        guest
    }

    /// No rx buffer is on offer.
    pub(super) fn idle() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let device = Vsock::new(&VsockConfig {
            socket: directory.path().join("vsock"),
            guest_cid: GUEST_CID,
            resumed: Vec::new(),
        })
        .unwrap();
        let registers = Registers::alone();
        let mut guest = Self {
            memory: allocate(&[(GuestAddress(0), MEMORY_LEN)]).unwrap(),
            rings: Vec::new(),
            interrupt: Interrupt::new(registers.clone(), Arc::<Counter>::default()),
            registers,
            handler: None,
            device,
            directory,
            refill: true,
        };
        guest.activate();
        guest
    }

    pub(super) fn activate(&mut self) {
        self.handler = None;
        self.rings.clear();
        let mut queues = Vec::new();
        for (index, &size) in QUEUE_SIZES.iter().enumerate() {
            let start = GuestAddress(index as u64 * RINGS_LEN);
            let ring = Ring {
                size,
                descs: start,
                avail: start.unchecked_add(0x1000),
                used: start.unchecked_add(0x2000),
                next_avail: 0,
                next_used: 0,
            };
            self.memory.write_slice(&[0; 0x1_0000], start).unwrap();
            let queue = QueueState {
                max_size: size,
                size,
                ready: true,
                desc_table: ring.descs.0,
                avail_ring: ring.avail.0,
                used_ring: ring.used.0,
                ..QueueState::default()
            };
            let queue = queue.restore().unwrap();
            self.rings.push(ring);
            let (memory, interrupt) = (Arc::clone(&self.memory), self.interrupt.clone());
            let kick = EventFd::new(EFD_NONBLOCK).unwrap();
            queues.push(VirtQueue::new(index, queue, memory, interrupt, kick));
        }
        let activation = Activation {
            memory: Arc::clone(&self.memory),
            queues,
            features: 0,
            interrupt: self.interrupt.clone(),
        };
        self.handler = Some(self.device.handler(activation).unwrap());
    }

    pub(super) fn handler(&mut self) -> &mut VsockHandler {
        self.handler.as_mut().unwrap()
    }

    pub(super) fn ready(&mut self, queue: usize) {
        self.handler().queue_ready(queue).unwrap();
    }

    /// The host's sockets have news.
    pub(super) fn poll(&mut self) {
        self.handler().event_ready().unwrap();
    }

    /// Offers `count` more rx buffers, without a word to the device.
    pub(super) fn offer(&mut self, count: u16) {
        for _ in 0..count {
            let index = self.rings[RX].next_avail % QUEUE_SIZES[RX];
            let at = RX_BUFFERS + u64::from(index) * u64::from(RX_LEN);
            self.describe(RX, index, at, RX_LEN, VRING_DESC_F_WRITE);
            self.publish(RX, index);
        }
    }

    pub(super) fn describe(&self, queue: usize, index: u16, at: u64, len: u32, flags: u32) {
        let next = (index + 1) % self.rings[queue].size;
        self.describe_raw(queue, index, at, len, u16::try_from(flags).unwrap(), next);
    }

    pub(super) fn describe_raw(
        &self,
        queue: usize,
        index: u16,
        at: u64,
        len: u32,
        flags: u16,
        next: u16,
    ) {
        let desc = RawDescriptor::from(Descriptor::new(at, len, flags, next));
        let entry = self.rings[queue].descs.unchecked_add(u64::from(index) * 16);
        self.memory.write_obj(desc, entry).unwrap();
    }

    /// The tx queue is not full.
    pub(super) fn tx_is_free(&mut self) -> bool {
        self.used(TX);
        let ring = &self.rings[TX];
        ring.next_avail.wrapping_sub(ring.next_used) < ring.size / 2
    }

    pub(super) fn publish(&mut self, queue: usize, head: u16) {
        let ring = &mut self.rings[queue];
        let slot = u64::from(ring.next_avail % ring.size);
        let entry = ring.avail.unchecked_add(4 + slot * 2);
        self.memory.write_obj(head, entry).unwrap();
        ring.next_avail = ring.next_avail.wrapping_add(1);
        let idx = ring.avail.unchecked_add(2);
        self.memory.write_obj(ring.next_avail, idx).unwrap();
    }

    /// What came back on `queue` since the last look: heads and lengths.
    pub(super) fn used(&mut self, queue: usize) -> Vec<(u16, u32)> {
        let ring = &mut self.rings[queue];
        let idx: u16 = self.memory.read_obj(ring.used.unchecked_add(2)).unwrap();
        let mut used = Vec::new();
        while ring.next_used != idx {
            let slot = u64::from(ring.next_used % ring.size);
            let entry = ring.used.unchecked_add(4 + slot * 8);
            let head: u32 = self.memory.read_obj(entry).unwrap();
            let len = self.memory.read_obj(entry.unchecked_add(4)).unwrap();
            used.push((u16::try_from(head).unwrap(), len));
            ring.next_used = ring.next_used.wrapping_add(1);
        }
        used
    }

    /// The packets that came.
    pub(super) fn received(&mut self) -> Vec<(Header, Vec<u8>)> {
        let mut packets = Vec::new();
        for (head, len) in self.used(RX) {
            let at = GuestAddress(RX_BUFFERS + u64::from(head) * u64::from(RX_LEN));
            let mut bytes = vec![0; len as usize];
            self.memory.read_slice(&mut bytes, at).unwrap();
            let data = bytes.split_off(HEADER_LEN);
            let header = Header::from_bytes(bytes.first_chunk().unwrap());
            assert_eq!(header.len as usize, data.len());
            packets.push((header, data));
        }
        if self.refill {
            self.offer(u16::try_from(packets.len()).unwrap());
        }
        packets
    }

    /// The one packet that came.
    pub(super) fn receive(&mut self) -> (Header, Vec<u8>) {
        let mut packets = self.received();
        assert_eq!(packets.len(), 1, "{packets:?}");
        packets.remove(0)
    }

    /// The one packet that came, which must be of this kind.
    pub(super) fn expect(&mut self, op: Op) -> Header {
        let (header, data) = self.receive();
        assert_eq!(header.op, op, "{header:?}");
        assert_eq!(data, b"");
        header
    }

    /// Sends a packet and lets the device serve it; `data` is in a descriptor of its own.
    pub(super) fn send(&mut self, header: Header, data: &[u8]) {
        let ring = &self.rings[TX];
        let first = (ring.next_avail % (ring.size / 2)) * 2;
        let at = TX_BUFFERS + u64::from(first / 2) * TX_LEN;
        let bytes = header.to_bytes();
        self.memory.write_slice(&bytes, GuestAddress(at)).unwrap();
        let data_at = at + bytes.len() as u64;
        self.memory
            .write_slice(data, GuestAddress(data_at))
            .unwrap();
        let data_len = u32::try_from(data.len()).unwrap();
        let flags = if data.is_empty() {
            0
        } else {
            VRING_DESC_F_NEXT
        };
        self.describe(TX, first, at, 44, flags);
        self.describe(TX, first + 1, data_at, data_len, 0);
        self.publish(TX, first);
        self.ready(TX);
    }

    /// Sends a packet that answers `header`.
    pub(super) fn answer(&mut self, header: &Header, op: Op, flags: u32, data: &[u8]) {
        let answer = packet(header.dst_port, header.src_port, op);
        let len = u32::try_from(data.len()).unwrap();
        self.send(
            Header {
                flags,
                len,
                ..answer
            },
            data,
        );
    }

    /// A host process that has said nothing yet.
    pub(super) fn dial(&self) -> UnixStream {
        UnixStream::connect(self.directory.path().join("vsock")).unwrap()
    }

    /// A host process whose line the device has read.
    pub(super) fn dial_and_say(&mut self, line: &str) -> UnixStream {
        let mut host = self.dial();
        host.write_all(line.as_bytes()).unwrap();
        self.poll();
        // The first event was the connection, the next is its line.
        self.poll();
        host
    }

    /// A host process connects to the guest's [`PORT`], and the guest accepts.
    pub(super) fn connect_in(&mut self) -> (UnixStream, Header) {
        let mut host = self.dial_and_say(&format!("CONNECT {PORT}\n"));
        let request = self.expect(Op::Request);
        assert_eq!(request.dst_port, PORT);
        self.answer(&request, Op::Response, 0, b"");
        let ok = format!("OK {}\n", request.src_port);
        let mut line = vec![0; ok.len()];
        host.read_exact(&mut line).unwrap();
        assert_eq!(String::from_utf8(line).unwrap(), ok);
        host.set_nonblocking(true).unwrap();
        (host, request)
    }

    /// The guest connects to a port of the host, where somebody listens.
    pub(super) fn connect_out(&mut self) -> (UnixStream, Header) {
        let path = self.directory.path().join(format!("vsock_{PORT}"));
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(path).unwrap();
        self.send(packet(4000, PORT, Op::Request), b"");
        let (host, _) = listener.accept().unwrap();
        host.set_nonblocking(true).unwrap();
        (host, self.expect(Op::Response))
    }

    pub(super) fn was_interrupted(&self) -> bool {
        acknowledge(&self.registers) != 0
    }

    /// A restore: the same queues, another handler, which gets `state`.
    pub(super) fn restore(&mut self, state: DeviceState) {
        self.activate();
        self.handler().restore(state).unwrap();
        self.offer(QUEUE_SIZES[RX]);
        let at = TX_BUFFERS;
        self.describe(EVENT, 0, at, 8, VRING_DESC_F_WRITE);
        self.publish(EVENT, 0);
    }
}

/// A packet of the guest's, with 64 KiB of credit.
pub(super) fn packet(guest: u32, host: u32, op: Op) -> Header {
    Header {
        src_cid: GUEST_CID.into(),
        dst_cid: HOST_CID,
        src_port: guest,
        dst_port: host,
        len: 0,
        kind: TYPE_STREAM,
        op,
        flags: 0,
        buf_alloc: 65536,
        fwd_cnt: 0,
    }
}

impl Guest {
    /// Rx buffers that the device has not used.
    pub(super) fn rx_on_offer(&self) -> u16 {
        let ring = &self.rings[RX];
        ring.next_avail.wrapping_sub(ring.next_used)
    }

    /// Sends `bytes` in one chain that is cut at `cuts`, which ascend.
    pub(super) fn send_cut(&mut self, bytes: &[u8], cuts: &[usize]) {
        let at = TX_BUFFERS + 100 * TX_LEN;
        self.memory.write_slice(bytes, GuestAddress(at)).unwrap();
        let ends = cuts.iter().copied().chain([bytes.len()]);
        let mut start = 0;
        for (index, end) in (0u16..).zip(ends) {
            let flags = if end == bytes.len() {
                0
            } else {
                VRING_DESC_F_NEXT
            };
            let len = u32::try_from(end - start).unwrap();
            self.describe(TX, index, at + start as u64, len, flags);
            start = end;
            if end == bytes.len() {
                break;
            }
        }
        self.publish(TX, 0);
        self.ready(TX);
    }
}
