// SPDX-License-Identifier: Apache-2.0
//! Messages that no kernel would send.

use proptest::prelude::*;

use super::*;

/// Everything that is an operation, and a few numbers that are none.
const OPCODES: u32 = 60;

impl Client {
    fn alive(&mut self) {
        self.call(Opcode::Getattr, ROOT_ID, &[0; 16], 256).unwrap();
    }
}

#[test]
fn a_message_without_room_for_a_reply_is_no_harm() {
    let root = directory();
    let mut client = Client::new(root.path());
    for opcode in 0..OPCODES {
        for room in [&[][..], &[1], &[15], &[3, 4, 5]] {
            let header = client.header(opcode, ROOT_ID, 64);
            let readable: [&[u8]; 2] = [header.as_slice(), &[0; 64]];
            assert_eq!(client.driver.request(REQUESTS, &readable, room).len, 0);
        }
    }
    client.init();
    client.alive();
}

#[test]
fn a_malformed_message_is_answered_with_an_error() {
    let root = directory();
    let mut client = Client::new(root.path());
    // A name without its NUL.
    assert_eq!(
        client.call(Opcode::Lookup, ROOT_ID, b"name", 256),
        Err(libc::EIO)
    );
    // A header that is cut short is not even that.
    assert_eq!(client.driver.request(REQUESTS, &[&[0; 39]], &[64]).len, 0);
    client.alive();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn no_message_ends_the_session(
        messages in prop::collection::vec(
            (
                0..OPCODES,
                prop_oneof![Just(ROOT_ID), 0..5u64, any::<u64>()],
                prop::collection::vec(any::<u8>(), 0..120),
                prop_oneof![4 => Just(0i32), 1 => -60..60i32],
                prop::collection::vec(0..200u32, 0..4),
            ),
            1..20,
        )
    ) {
        let root = directory();
        fs::write(root.path().join("file"), "content").unwrap();
        let mut client = Client::new(root.path());
        for (opcode, nodeid, body, lie, room) in messages {
            let mut header = client.header(opcode, nodeid, body.len());
            header.len = header.len.saturating_add_signed(lie);
            client.driver.request(REQUESTS, &[header.as_slice(), &body], &room);
        }
        client.init();
        client.lookup(ROOT_ID, c"file").ok();
        client.alive();
    }

    #[test]
    fn no_chain_ends_the_session(
        chains in prop::collection::vec(
            prop::collection::vec((any::<u64>(), any::<u32>(), 0..3u32), 1..6),
            1..10,
        )
    ) {
        let root = directory();
        let mut client = Client::new(root.path());
        for chain in chains {
            let chain: Vec<_> = chain
                .into_iter()
                .map(|(addr, len, kind)| match kind {
                    0 => (addr, len, 0),
                    // Mostly within memory.
                    1 => (Driver::buffers() + addr % 0xf0_0000, len % 0x10000, 0),
                    _ => (Driver::buffers() + addr % 0xf0_0000, len % 0x10000, 2),
                })
                .collect();
            client.driver.chain(REQUESTS, &chain);
            client.reset();
        }
        client.init();
        client.alive();
    }
}
