// SPDX-License-Identifier: Apache-2.0
//! Each device behind its transport, saved between two requests and gone on with as another one.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use virtio_bindings::bindings::virtio_ring::VRING_DESC_F_NEXT;
use virtiofsd::filesystem::FsOptions;
use virtiofsd::fuse::{InHeader, InitInCompat, InitInExt, Opcode, ROOT_ID};
use vm_memory::ByteValued;
use walnut_vmm_config::{
    DiskConfig, FsConfig, FsSource, Mac, NetBackend, NetConfig, Owner, Plug, PlugBackend,
    PmemConfig, VsockConfig,
};

use super::*;
use crate::virtio::balloon::Balloon;
use crate::virtio::blk::Blk;
use crate::virtio::fs::Fs;
use crate::virtio::net::Net;
use crate::virtio::pmem::Pmem;
use crate::virtio::vsock::Vsock;

/// A request, and what is expected of its answer.
struct Exchange<'a> {
    queue: u32,
    readable: &'a [u8],
    writable: u32,
    answer: fn(&[u8]),
}

impl Machine {
    /// All queues, all that the device offers.
    fn start_all(&mut self) {
        let queues = self.transport.queues.len();
        self.negotiate(self.transport.device_features());
        for index in (0u32..).take(queues) {
            self.set_up_queue(index);
        }
        self.write(STATUS, READY);
        assert_eq!(self.read(STATUS), READY);
    }

    /// Sends the `number`th request of its queue.
    fn exchange(&mut self, number: u16, exchange: &Exchange<'_>) {
        let start = u64::from(queue_start(exchange.queue));
        let (desc, buffer) = (start + u64::from(DESC), start + BUFFER);
        let len = u32::try_from(exchange.readable.len()).unwrap();
        let reply = buffer + 0x1000;
        let memory = Arc::clone(&self.memory);
        let describe = |index: u64, at: u64, len: u32, flags: u32| {
            let rest = u64::from(len) | u64::from(flags) << 32 | 1 << 48;
            let entry = desc + index * 16;
            memory.write_obj(at, GuestAddress(entry)).unwrap();
            memory.write_obj(rest, GuestAddress(entry + 8)).unwrap();
        };
        memory
            .write_slice(exchange.readable, GuestAddress(buffer))
            .unwrap();
        let more = if exchange.writable == 0 {
            0
        } else {
            VRING_DESC_F_NEXT
        };
        describe(0, buffer, len, more);
        describe(1, reply, exchange.writable, VRING_DESC_F_WRITE);
        let avail = start + u64::from(AVAIL);
        let entry = GuestAddress(avail + 4 + u64::from(number % SIZE) * 2);
        memory.write_obj(0u16, entry).unwrap();
        memory
            .write_obj(number + 1, GuestAddress(avail + 2))
            .unwrap();
        self.write(QUEUE_NOTIFY, exchange.queue);
        self.run();
        let used = GuestAddress(start + u64::from(USED) + 2);
        assert_eq!(memory.read_obj::<u16>(used).unwrap(), number + 1);
        let mut answer = vec![0; exchange.writable as usize];
        memory.read_slice(&mut answer, GuestAddress(reply)).unwrap();
        (exchange.answer)(&answer);
    }
}

/// `first` before, `then` after; the machine as it is then.
fn goes_on<D: VirtioDevice + 'static>(
    make: impl Fn() -> D,
    first: &Exchange<'_>,
    then: &Exchange<'_>,
) -> Machine {
    let mut machine = Machine::new(make());
    machine.start_all();
    machine.exchange(0, first);
    // A device's own configuration registers, where they can be written.
    machine.transport.write(CONFIG + 4, &7u32.to_le_bytes());
    let state = through_json(&machine.transport.freeze_here().save().unwrap());
    assert!(state.active);
    let memory = Arc::clone(&machine.memory);
    // One process ends before the other begins: files are locked, sockets bound.
    drop(machine);
    let mut restored = Machine::with_memory(make(), memory);
    restored.transport.restore(state.clone()).unwrap();
    assert_eq!(
        through_json(&restored.transport.freeze_here().save().unwrap()),
        state
    );
    restored.run();
    let number = if first.queue == then.queue { 1 } else { 0 };
    restored.exchange(number, then);
    assert_eq!(restored.read(STATUS), READY);
    restored
}

#[test]
fn balloon() {
    let pages = 200u32.to_le_bytes();
    let inflate = Exchange {
        queue: 0,
        readable: &pages,
        writable: 0,
        answer: |_| {},
    };
    let machine = goes_on(Balloon::new, &inflate, &inflate);
    assert_eq!(machine.read(CONFIG + 4), 7);
}

#[test]
fn pmem() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(1).unwrap();
    let config = PmemConfig {
        path: file.path().to_owned(),
        room: None,
        prefault: false,
    };
    let flush = Exchange {
        queue: 0,
        readable: &[0; 4],
        writable: 4,
        answer: |status| assert_eq!(status, [0; 4]),
    };
    let make = || Pmem::new(&config, GuestAddress(1 << 32)).unwrap();
    goes_on(make, &flush, &flush);
}

#[test]
fn blk() {
    let image = tempfile::NamedTempFile::new().unwrap();
    image.as_file().set_len(1 << 20).unwrap();
    let config = DiskConfig {
        path: image.path().to_owned(),
        readonly: false,
        serial: None,
    };
    let mut write = vec![0; 16];
    write[0] = 1;
    write.extend([0x5a; 512]);
    let write = Exchange {
        queue: 0,
        readable: &write,
        writable: 1,
        answer: |status| assert_eq!(status, [0]),
    };
    let read = Exchange {
        queue: 0,
        readable: &[0; 16],
        writable: 513,
        answer: |data| assert!(data[..512] == [0x5a; 512] && data[512] == 0),
    };
    goes_on(|| Blk::new(&config).unwrap(), &write, &read);
}

#[test]
fn vsock() {
    let directory = tempfile::tempdir().unwrap();
    let config = VsockConfig {
        socket: directory.path().join("vsock"),
        guest_cid: 3,
        resumed: Vec::new(),
    };
    // struct virtio_vsock_hdr: a reset of a connection that there is not, which nobody answers.
    let mut reset = Vec::new();
    reset.extend(3u64.to_le_bytes());
    reset.extend(2u64.to_le_bytes());
    for word in [1000u32, 1, 0, 1 | 3 << 16, 0, 65536, 0] {
        reset.extend(word.to_le_bytes());
    }
    let reset = Exchange {
        queue: 1,
        readable: &reset,
        writable: 0,
        answer: |_| {},
    };
    let machine = goes_on(|| Vsock::new(&config).unwrap(), &reset, &reset);
    assert_eq!(machine.read(CONFIG), 3);
}

fn fuse(opcode: Opcode, body: &[u8]) -> Vec<u8> {
    let header = InHeader {
        len: u32::try_from(size_of::<InHeader>() + body.len()).unwrap(),
        opcode: opcode as u32,
        unique: 1,
        nodeid: ROOT_ID,
        ..InHeader::default()
    };
    [header.as_slice(), body].concat()
}

#[test]
fn fs() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("file"), "").unwrap();
    let config = FsConfig {
        tag: "test".to_owned(),
        source: FsSource::Directory(PathBuf::from(directory.path())),
        owner: Owner::default(),
    };
    let all = FsOptions::all().bits();
    let init = InitInCompat {
        major: 7,
        minor: 38,
        max_readahead: 1 << 17,
        flags: (all & 0xffff_ffff) as u32,
    };
    let more = InitInExt {
        flags2: (all >> 32) as u32,
        ..InitInExt::default()
    };
    let init = [init.as_slice(), more.as_slice()].concat();
    // struct fuse_out_header: le32 len, le32 error.
    let fine: fn(&[u8]) = |answer| assert_eq!(answer[4..8], [0; 4]);
    let init = Exchange {
        queue: 1,
        readable: &fuse(Opcode::Init, &init),
        writable: 1024,
        answer: fine,
    };
    let lookup = Exchange {
        queue: 1,
        readable: &fuse(Opcode::Lookup, b"file\0"),
        writable: 1024,
        answer: fine,
    };
    goes_on(|| Fs::new(&config).unwrap(), &init, &lookup);
}

#[test]
fn net() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let peer = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let config = NetConfig {
        backend: NetBackend::Stream(path),
        mac: Mac([2, 0, 0, 0, 0, 1]),
        mtu: None,
        finish_handshakes: false,
        rate: None,
    };
    let packet = Exchange {
        queue: 1,
        readable: &[7; 12 + 60],
        writable: 0,
        answer: |_| {},
    };
    let machine = goes_on(|| Net::new(&config).unwrap(), &packet, &packet);
    assert_eq!(machine.read(CONFIG), 2);
    // Each of the two machines sent it on a connection of its own.
    for _ in 0..2 {
        let (mut stream, _) = peer.accept().unwrap();
        let mut frame = [0; 4 + 60];
        std::io::Read::read_exact(&mut stream, &mut frame).unwrap();
        assert_eq!(frame[..5], [0, 0, 0, 60, 7]);
    }
}

#[test]
fn a_place_that_is_empty_says_so_and_takes_nothing() {
    let mut machine = Machine::new(Net::absent().unwrap());
    machine.negotiate(VERSION_1);
    machine.set_up_queue(0);
    machine.write(STATUS, READY);
    for (register, value) in [(MAGIC_VALUE, 0x7472_6976), (VERSION, 2), (DEVICE_ID, 0)] {
        assert_eq!(machine.read(register), value);
    }
    for register in [STATUS, DEVICE_FEATURES, QUEUE_SIZE_MAX, QUEUE_READY, CONFIG] {
        assert_eq!(machine.read(register), 0, "{register:#x}");
    }
    assert!(!machine.transport.is_active());
}

#[test]
fn what_was_taken_away_is_let_go_of_and_another_comes() {
    let net = Net::absent().unwrap();
    let port = net.port();
    let mut machine = Machine::new(net);
    let plug = |mac| Plug {
        backend: PlugBackend::Stream,
        mac: Mac([2, 0, 0, 0, 0, mac]),
        mtu: None,
        finish_handshakes: false,
    };
    let (near, _peer) = UnixStream::pair().unwrap();
    port.plug(&plug(1), near.into()).unwrap();
    machine.transport.show();
    assert_eq!(machine.read(DEVICE_ID), 1);
    machine.start_all();
    assert!(machine.transport.is_active());
    port.unplug().unwrap();
    machine.transport.show();
    assert_eq!((machine.read(DEVICE_ID), machine.read(STATUS)), (0, 0));
    // Its driver is still there, and may only go.
    machine.write(STATUS, STATUS_ACKNOWLEDGE);
    assert!(machine.transport.is_active());
    machine.write(STATUS, 0);
    assert!(!machine.transport.is_active());
    let (near, _peer) = UnixStream::pair().unwrap();
    port.plug(&plug(9), near.into()).unwrap();
    machine.transport.show();
    assert_eq!(machine.read(CONFIG + 4) >> 8 & 0xff, 9);
    machine.start_all();
    assert!(machine.transport.is_active());
}
