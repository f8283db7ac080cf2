// SPDX-License-Identifier: Apache-2.0
//! Somebody else's TCP, for the tests of those who speak by it.

use super::*;
use crate::link;

/// One end of a connection.
pub(crate) struct Peer {
    stack: Stack,
    socket: SocketHandle,
}

pub(crate) fn frames(bytes: &[u8]) -> Vec<Vec<u8>> {
    let (mut all, mut from) = (Vec::new(), 0);
    while let Some(range) = link::next_frame(bytes, from).unwrap() {
        from = range.end;
        all.push(bytes[range].to_vec());
    }
    assert_eq!(from, bytes.len(), "whole frames");
    all
}

impl Peer {
    fn new(address: Ipv4Addr, now: Instant) -> Self {
        let mac = |last| Mac([2, 0, 0, 0, 0, last]);
        let mut stack = Stack::new(address, mac(1), mac(2), now).unwrap();
        let socket = stack.add(4096, 8192);
        Self { stack, socket }
    }

    pub fn client(address: Ipv4Addr, port: u16, to: (Ipv4Addr, u16), now: Instant) -> Self {
        let mut peer = Self::new(address, now);
        assert!(peer.stack.connect(peer.socket, to, port));
        peer
    }

    pub fn server(address: Ipv4Addr, port: u16, now: Instant) -> Self {
        let mut peer = Self::new(address, now);
        peer.socket().listen(port).unwrap();
        peer
    }

    pub fn with_macs(mut self, from: Mac, to: Mac) -> Self {
        self.stack.wire = Wire::new(from, to);
        self
    }

    pub fn socket(&mut self) -> &mut Socket<'static> {
        self.stack.socket(self.socket)
    }

    pub fn hear(&mut self, frame: &[u8]) {
        self.stack.hear(frame);
    }

    /// What it says now.
    pub fn frames(&mut self, now: Instant) -> Vec<Vec<u8>> {
        self.stack.poll(now);
        frames(&self.stack.frames())
    }

    pub fn say(&mut self, bytes: &[u8]) {
        assert_eq!(self.socket().send_slice(bytes), Ok(bytes.len()));
    }

    /// What it was told and has not read yet.
    pub fn read(&mut self) -> Vec<u8> {
        let mut bytes = vec![0; self.socket().recv_queue()];
        let _ = self.socket().recv_slice(&mut bytes);
        bytes
    }
}

#[test]
fn two_of_them() {
    let (one, other) = ([10, 89, 0, 2].into(), [10, 89, 0, 1].into());
    let now = now();
    let mut server = Peer::server(other, 53, now);
    let mut client = Peer::client(one, 4000, (other, 53), now);
    let exchange = |server: &mut Peer, client: &mut Peer| {
        loop {
            let said = client.frames(now);
            let answered = server.frames(now);
            if said.is_empty() && answered.is_empty() {
                break;
            }
            said.iter().for_each(|frame| server.hear(frame));
            answered.iter().for_each(|frame| client.hear(frame));
        }
    };
    exchange(&mut server, &mut client);
    client.say(b"question");
    exchange(&mut server, &mut client);
    assert_eq!(server.read(), b"question");
}

#[test]
fn nobody_is_at_such_an_address() {
    for address in [[0, 0, 0, 0], [224, 0, 0, 1], [255; 4]] {
        let mac = Mac([2, 0, 0, 0, 0, 1]);
        assert!(Stack::new(address.into(), mac, mac, now()).is_none());
    }
}
