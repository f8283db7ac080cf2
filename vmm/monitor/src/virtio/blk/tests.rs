// SPDX-License-Identifier: Apache-2.0
//! The device against a real file.

use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;

use proptest::prelude::*;
use tempfile::NamedTempFile;
use walnut_vmm_config::DiskConfig;

use super::*;
use crate::virtio::test_driver::{Driver, Reply};

const LEN: usize = 1 << 20;
const MIB: u64 = LEN as u64;
const ALL: u64 = F_FLUSH;

const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;

const OK: u8 = 0;
const IOERR: u8 = 1;
const UNSUPP: u8 = 2;

struct Machine {
    driver: Driver,
    image: NamedTempFile,
}

fn image(len: u64) -> NamedTempFile {
    let image = NamedTempFile::new().unwrap();
    image.as_file().set_len(len).unwrap();
    image
}

fn config(image: &NamedTempFile, readonly: bool) -> DiskConfig {
    DiskConfig {
        path: image.path().to_owned(),
        readonly,
        serial: Some("walnut-0".to_owned()),
    }
}

fn machine(readonly: bool, features: u64) -> Machine {
    let image = image(MIB);
    let mut device = Blk::new(&config(&image, readonly)).unwrap();
    let mut driver = Driver::new(QUEUE_SIZES);
    driver.activate(&mut device, features);
    Machine { driver, image }
}

fn header(kind: u32, sector: u64) -> [u8; 16] {
    let mut header = [0; 16];
    header[..4].copy_from_slice(&kind.to_le_bytes());
    header[8..].copy_from_slice(&sector.to_le_bytes());
    header
}

fn range(sector: u64, count: u32, flags: u32) -> [u8; 16] {
    let mut range = [0; 16];
    range[..8].copy_from_slice(&sector.to_le_bytes());
    range[8..12].copy_from_slice(&count.to_le_bytes());
    range[12..].copy_from_slice(&flags.to_le_bytes());
    range
}

impl Machine {
    fn send(&mut self, kind: u32, sector: u64, data: &[u8]) -> u8 {
        let reply = self.driver.request(0, &[&header(kind, sector), data], &[1]);
        status(&reply)
    }

    fn fetch(&mut self, kind: u32, sector: u64, len: u32) -> (u8, Vec<u8>) {
        let mut reply = self.driver.request(0, &[&header(kind, sector)], &[len, 1]);
        let status = status(&reply);
        assert_eq!(reply.len, if status == OK { len + 1 } else { 0 });
        reply.written.truncate(len as usize);
        (status, reply.written)
    }

    fn content(&self) -> Vec<u8> {
        std::fs::read(self.image.path()).unwrap()
    }

    fn fill(&mut self) {
        let mut file = self.image.as_file();
        file.write_all(&vec![0x5a; LEN]).unwrap();
        file.sync_all().unwrap();
    }

    fn blocks(&self) -> u64 {
        self.image.as_file().metadata().unwrap().blocks()
    }
}

fn status(reply: &Reply) -> u8 {
    *reply.written.last().unwrap()
}

#[test]
fn what_was_written_is_read() {
    for features in [ALL, 0] {
        let mut machine = machine(false, features);
        let data: Vec<u8> = (0..2048u32).map(|n| (n % 251) as u8).collect();
        assert_eq!(machine.send(OUT, 7, &data), OK);
        assert_eq!(machine.content()[7 * 512..7 * 512 + 2048], data);
        assert_eq!(machine.fetch(IN, 7, 2048), (OK, data.clone()));
        assert_eq!(machine.fetch(IN, 8, 512), (OK, data[512..1024].to_vec()));
        assert_eq!(machine.send(FLUSH, 0, &[]), OK);
        let (status, last) = machine.fetch(IN, MIB / 512 - 1, 512);
        assert_eq!((status, last), (OK, vec![0; 512]));
    }
}

#[test]
fn a_request_may_be_split_anywhere() {
    let mut machine = machine(false, ALL);
    let (header, data) = (header(OUT, 1), vec![9; 1024]);
    let whole = [&header[..], &data].concat();
    for cuts in [[1, 2], [15, 17], [16, 16], [3, 800]] {
        let parts = [
            &whole[..cuts[0]],
            &whole[cuts[0]..cuts[1]],
            &whole[cuts[1]..],
        ];
        let reply = machine.driver.request(0, &parts, &[1]);
        assert_eq!((status(&reply), reply.len), (OK, 1));
    }
    assert_eq!(machine.content()[512..1536], data);
    // The status is the last byte, whichever buffer that is in.
    let read = self::header(IN, 1);
    for room in [&[1025][..], &[1, 1024], &[512, 511, 2], &[0, 1024, 0, 1, 0]] {
        let reply = machine.driver.request(0, &[&read], room);
        assert_eq!((status(&reply), reply.len), (OK, 1025));
        assert_eq!(reply.written[..1024], data);
    }
}

#[test]
fn what_is_outside_of_the_disk_is_an_error() {
    let mut machine = machine(false, ALL);
    let end = MIB / 512;
    for sector in [end, end - 1, u64::MAX, u64::MAX / 512, u64::MAX - 1] {
        assert_eq!(machine.send(OUT, sector, &[1; 1024]), IOERR);
        assert_eq!(machine.fetch(IN, sector, 1024).0, IOERR);
        for kind in [DISCARD, WRITE_ZEROES] {
            assert_eq!(machine.send(kind, 0, &range(sector, 2, 0)), IOERR);
        }
    }
    assert_eq!(machine.content(), vec![0; LEN]);
    assert_eq!(machine.content().len() as u64, MIB);
}

#[test]
fn odd_requests_are_errors() {
    let mut machine = machine(false, ALL);
    assert_eq!(machine.send(OUT, 0, &[1; 511]), IOERR);
    assert_eq!(machine.fetch(IN, 0, 513).0, IOERR);
    assert_eq!(machine.fetch(GET_ID, 0, 19).0, IOERR);
    assert_eq!(machine.send(77, 0, &[]), UNSUPP);
    assert_eq!(machine.send(DISCARD, 0, &[]), IOERR);
    assert_eq!(machine.send(DISCARD, 0, &[0; 15]), IOERR);
    let many = range(0, 1, 0).repeat(MAX_RANGES as usize + 1);
    assert_eq!(machine.send(DISCARD, 0, &many), IOERR);
    assert_eq!(machine.send(DISCARD, 0, &range(0, 1, 1)), UNSUPP);
    assert_eq!(machine.send(WRITE_ZEROES, 0, &range(0, 1, 2)), UNSUPP);
    let short = machine.driver.request(0, &[&[0; 15]], &[1]);
    assert_eq!(status(&short), IOERR);
    let no_status = machine.driver.request(0, &[&header(OUT, 0)], &[]);
    assert_eq!(no_status.len, 0);
    let most = vec![512; SEG_MAX as usize];
    let rooms = [&most[..], &[1]].concat();
    let reply = machine.driver.request(0, &[&header(IN, 0)], &rooms);
    assert_eq!(status(&reply), OK);
    let outside = [(Driver::buffers(), 16, 0), (1 << 40, 513, 2)];
    assert_eq!(machine.driver.chain(0, &outside), Some(0));
}

#[test]
fn the_id_is_the_serial() {
    let mut machine = machine(false, ALL);
    let (status, id) = machine.fetch(GET_ID, 0, 20);
    assert_eq!(
        (status, &id[..]),
        (OK, &b"walnut-0\0\0\0\0\0\0\0\0\0\0\0\0"[..])
    );
}

#[test]
fn a_discard_gives_space_back() {
    let mut machine = machine(false, ALL);
    machine.fill();
    let before = machine.blocks();
    let ranges = [range(0, 1024, 0), range(1536, 8, 0)].concat();
    assert_eq!(machine.send(DISCARD, 0, &ranges), OK);
    assert!(machine.blocks() <= before - 1024, "{}", machine.blocks());
    let content = machine.content();
    assert_eq!(content.len() as u64, MIB);
    assert!(content[..1024 * 512].iter().all(|&byte| byte == 0));
    assert!(
        content[1024 * 512..1536 * 512]
            .iter()
            .all(|&byte| byte == 0x5a)
    );
    assert!(
        content[1536 * 512..1544 * 512]
            .iter()
            .all(|&byte| byte == 0)
    );
    assert_eq!(machine.send(DISCARD, 0, &range(5, 0, 0)), OK);
}

#[test]
fn zeroes_keep_their_space_unless_it_is_given_up() {
    let mut machine = machine(false, ALL);
    machine.fill();
    let before = machine.blocks();
    // From the middle of a page to the middle of another.
    assert_eq!(machine.send(WRITE_ZEROES, 0, &range(3, 1001, 0)), OK);
    assert!(machine.blocks() >= before);
    let content = machine.content();
    assert!(content[..3 * 512].iter().all(|&byte| byte == 0x5a));
    assert!(content[3 * 512..1004 * 512].iter().all(|&byte| byte == 0));
    assert!(content[1004 * 512..].iter().all(|&byte| byte == 0x5a));
    assert_eq!(machine.send(WRITE_ZEROES, 0, &range(0, 1024, 1)), OK);
    assert!(machine.blocks() <= before - 1024);
    assert!(
        machine.content()[..1024 * 512]
            .iter()
            .all(|&byte| byte == 0)
    );
}

#[test]
fn a_read_only_disk_refuses_writes() {
    let mut machine = machine(true, ALL);
    assert_eq!(machine.send(OUT, 0, &[1; 512]), IOERR);
    assert_eq!(machine.send(DISCARD, 0, &range(0, 8, 0)), IOERR);
    assert_eq!(machine.send(WRITE_ZEROES, 0, &range(0, 8, 0)), IOERR);
    assert_eq!(machine.fetch(IN, 0, 512), (OK, vec![0; 512]));
    assert_eq!(machine.send(FLUSH, 0, &[]), OK);
    assert_eq!(machine.content(), vec![0; LEN]);
}

#[test]
fn a_file_that_became_shorter_is_an_error() {
    let mut machine = machine(false, ALL);
    machine.image.as_file().set_len(MIB / 2).unwrap();
    assert_eq!(machine.fetch(IN, MIB / 512 - 8, 4096).0, IOERR);
    assert_eq!(machine.fetch(IN, MIB / 1024 - 4, 4096).0, IOERR);
    assert_eq!(machine.fetch(IN, 0, 512).0, OK);
}

#[test]
fn an_image_has_one_writer_or_several_readers() {
    let image = image(MIB);
    let open = |readonly| Blk::new(&config(&image, readonly));
    let writer = open(false).unwrap();
    for readonly in [true, false] {
        assert!(matches!(open(readonly), Err(BlkError::InUse { .. })));
    }
    drop(writer);
    let (_one, _two) = (open(true).unwrap(), open(true).unwrap());
    assert!(matches!(open(false), Err(BlkError::InUse { .. })));
}

#[test]
fn bad_configurations_are_named() {
    for len in [0, 511, 513] {
        let image = image(len);
        assert!(matches!(
            Blk::new(&config(&image, false)),
            Err(BlkError::Length { .. })
        ));
    }
    let image = image(512);
    let mut named = config(&image, false);
    named.serial = Some("x".repeat(21));
    assert!(matches!(Blk::new(&named), Err(BlkError::Serial { .. })));
    named.path = "/nonexistent/disk".into();
    named.serial = None;
    let error = Blk::new(&named).err().unwrap();
    assert!(error.to_string().contains("/nonexistent/disk"));
}

#[test]
fn features_and_config_space() {
    let image = image(MIB);
    let device = Blk::new(&config(&image, true)).unwrap();
    assert_eq!(
        device.features() & (F_RO | F_DISCARD | F_FLUSH),
        F_RO | F_FLUSH
    );
    drop(device);
    let device = Blk::new(&config(&image, false)).unwrap();
    assert_eq!(device.features() & (F_RO | F_DISCARD), F_DISCARD);
    let bytes = device.config();
    assert_eq!(bytes[..8], (MIB / 512).to_le_bytes());
    assert_eq!(bytes[12..16], 254u32.to_le_bytes());
    assert_eq!(bytes[20..24], 512u32.to_le_bytes());
    assert_eq!(bytes[56..], [1, 0, 0, 0]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_request_gets_out_of_hand(
        kind in 0..16u32,
        sector in prop_oneof![0..4096u64, any::<u64>()],
        out in prop::collection::vec(
            prop_oneof![Just(vec![1; 512]), prop::collection::vec(any::<u8>(), 0..600)],
            0..4,
        ),
        room in prop::collection::vec(prop_oneof![Just(1), Just(512), 0..1200u32], 0..4),
    ) {
        let mut machine = machine(false, ALL);
        let header = header(kind, sector);
        let readable: Vec<&[u8]> =
            [&header[..]].into_iter().chain(out.iter().map(Vec::as_slice)).collect();
        let reply = machine.driver.request(0, &readable, &room);
        prop_assert!(reply.len as usize <= reply.written.len());
        prop_assert_eq!(machine.image.as_file().seek(SeekFrom::End(0)).unwrap(), MIB);
        prop_assert_eq!(machine.fetch(IN, 0, 512).0, OK);
    }

    #[test]
    fn no_chain_gets_out_of_hand(
        chain in prop::collection::vec((any::<u64>(), any::<u32>(), 0..4u32), 1..8),
    ) {
        let mut machine = machine(false, ALL);
        let chain: Vec<_> = chain
            .into_iter()
            .map(|(addr, len, kind)| match kind {
                0 => (addr, len, 0),
                1 => (Driver::buffers() + addr % 0xf0_0000, len % 0x10000, 0),
                2 => (addr, len, 2),
                _ => (Driver::buffers() + addr % 0xf0_0000, len % 0x10000, 2),
            })
            .collect();
        machine.driver.chain(0, &chain);
    }
}
