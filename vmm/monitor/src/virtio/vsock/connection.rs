// SPDX-License-Identifier: Apache-2.0
//! One stream between a port of the guest and a unix socket of the host: its state, and the credit
//! that either side has (virtio 1.3 §5.10.6.3).
//!
//! Packets of the guest come in by [`Connection::receive`], events of the socket by
//! [`Connection::socket_ready`]; what is to be sent to the guest is asked for, one packet at a time,
//! by [`Connection::next`], so that nothing piles up here when the guest takes nothing.

mod saved;

use std::io;
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use rustix::event::epoll::EventFlags;
use rustix::net::SendFlags;
use serde::{Deserialize, Serialize};

use super::credit::{BUF_ALLOC, Credit};
use super::outbox::Outbox;
use super::packet::{
    Header, Op, Packet, SHUTDOWN_BOTH, SHUTDOWN_RCV, SHUTDOWN_SEND, Slice, TYPE_STREAM,
};
use super::{HOST_CID, socket};

pub(super) use saved::ConnectionState;

/// What each socket is watched for. Edges, since a socket may stay readable for as long as the guest
/// has no room.
pub(super) const INTEREST: EventFlags = EventFlags::IN
    .union(EventFlags::RDHUP)
    .union(EventFlags::ET);

/// Most rx buffers for one read of a socket.
const MAX_BURST: usize = 32;

#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq, Hash)]
pub(super) struct Ports {
    pub guest: u32,
    pub host: u32,
}

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Stays,
    /// To be dropped: the guest knows.
    Ends,
    /// To be dropped: the guest is sent an `RST`.
    Resets,
}

/// What a connection has for the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    Packet(Header),
    /// The socket may have data: so many bytes may be sent, in so many buffers at best.
    Data {
        credit: usize,
        buffers: usize,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The host connected; the guest has not been asked.
    Unasked,
    /// The guest was sent a `REQUEST`.
    Asked,
    /// The guest connected; it has not been told that the host accepted.
    Unanswered,
    Established,
}

#[derive(Debug)]
pub(super) struct Connection {
    pub ports: Ports,
    guest_cid: u64,
    phase: Phase,
    /// Gone when the host can neither send nor receive any more.
    stream: Option<UnixStream>,
    /// Of a snapshot: whoever takes it up is still to come.
    awaited: bool,
    /// The socket may have data, or its end.
    readable: bool,
    /// It was closed, or both its sides were.
    host_gone: bool,
    /// What the guest said in `SHUTDOWN`: its own sides.
    guest_shutdown: u32,
    /// What the host's socket can do no more, and what of that the guest was told.
    host_shutdown: u32,
    told_shutdown: u32,
    outbox: Outbox,
    credit: Credit,
    /// Buffers to fill with the next read: grows while reads fill all they are given.
    burst: usize,
}

impl Connection {
    /// The host wants to connect to the guest.
    pub(super) fn outgoing(stream: UnixStream, ports: Ports, guest_cid: u64) -> Self {
        Self {
            ports,
            guest_cid,
            phase: Phase::Unasked,
            stream: Some(stream),
            awaited: false,
            readable: true,
            host_gone: false,
            guest_shutdown: 0,
            host_shutdown: 0,
            told_shutdown: 0,
            outbox: Outbox::default(),
            credit: Credit::default(),
            burst: 1,
        }
    }

    /// The host accepted what the guest asked for with `request`.
    pub(super) fn incoming(stream: UnixStream, request: &Header) -> Self {
        let ports = Ports {
            guest: request.src_port,
            host: request.dst_port,
        };
        let mut connection = Self::outgoing(stream, ports, request.src_cid);
        connection.phase = Phase::Unanswered;
        connection.credit.learn(request);
        connection
    }

    /// Takes a packet of the guest that is addressed to this connection.
    pub(super) fn receive(&mut self, packet: &Packet<'_>) -> Fate {
        self.credit.learn(&packet.header);
        if packet.header.op == Op::Rst {
            return Fate::Ends;
        }
        match (self.phase, packet.header.op) {
            (Phase::Asked, Op::Response) => self.establish(),
            (Phase::Established | Phase::Unanswered, op) => match op {
                Op::Rw if packet.truncated => Fate::Resets,
                Op::Rw => self.receive_data(&packet.data),
                Op::Shutdown => self.receive_shutdown(packet.header.flags),
                Op::CreditUpdate => Fate::Stays,
                Op::CreditRequest => {
                    self.credit.ask();
                    Fate::Stays
                }
                Op::Request | Op::Response | Op::Rst | Op::Unknown(_) => Fate::Resets,
            },
            _ => Fate::Resets,
        }
    }

    fn establish(&mut self) -> Fate {
        let Some(stream) = &self.stream else {
            return Fate::Resets;
        };
        // Nothing was ever sent on this socket, so that it takes such a line whole or not at all.
        let line = format!("OK {}\n", self.ports.host);
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        match rustix::net::send(stream, line.as_bytes(), flags) {
            Ok(len) if len == line.len() => {
                self.phase = Phase::Established;
                Fate::Stays
            }
            _ => Fate::Resets,
        }
    }

    fn receive_data(&mut self, data: &[Slice<'_>]) -> Fate {
        let len: usize = data.iter().map(Slice::len).sum();
        let waiting = self.outbox.len();
        if self.guest_shutdown & SHUTDOWN_SEND != 0 || waiting + len > BUF_ALLOC as usize {
            return Fate::Resets;
        }
        if self.awaited {
            self.outbox.keep(data, 0);
            return Fate::Stays;
        }
        let Some(stream) = &self.stream else {
            self.credit.forward(len);
            return Fate::Stays;
        };
        if self.host_shutdown & SHUTDOWN_RCV != 0 {
            self.credit.forward(len);
            return Fate::Stays;
        }
        match self.outbox.send(stream, data) {
            Ok(sent) => self.credit.forward(sent),
            Err(_) => {
                self.credit.forward(len);
                self.stop_sending();
            }
        }
        Fate::Stays
    }

    fn receive_shutdown(&mut self, flags: u32) -> Fate {
        self.guest_shutdown |= flags & SHUTDOWN_BOTH;
        if self.guest_shutdown & SHUTDOWN_RCV != 0 {
            self.readable = false;
            // What the host still writes meets EPIPE. Only a socket that is gone refuses this.
            if let Some(stream) = &self.stream {
                let _ = stream.shutdown(Shutdown::Read);
            }
        }
        self.pass_on_end()
    }

    /// Once everything the guest sent has gone out: tells the host of the guest's end.
    fn pass_on_end(&mut self) -> Fate {
        if self.awaited || !self.outbox.is_empty() || self.guest_shutdown & SHUTDOWN_SEND == 0 {
            return Fate::Stays;
        }
        if self.guest_shutdown == SHUTDOWN_BOTH {
            // §5.10.6.5: the answer to a shutdown of both sides is an RST.
            return Fate::Resets;
        }
        if let Some(stream) = &self.stream {
            let _ = stream.shutdown(Shutdown::Write);
        }
        Fate::Stays
    }

    /// The host will receive no more: the guest's bytes have nowhere to go.
    fn stop_sending(&mut self) {
        let dropped = self.outbox.clear();
        self.credit.forward(dropped);
        self.host_shutdown |= SHUTDOWN_RCV;
        self.drop_dead_stream();
    }

    /// The host will send no more.
    fn stop_reading(&mut self) {
        self.readable = false;
        self.host_shutdown |= SHUTDOWN_SEND;
        self.drop_dead_stream();
    }

    fn drop_dead_stream(&mut self) {
        if self.host_shutdown == SHUTDOWN_BOTH {
            self.stream = None;
        }
    }

    /// Takes the socket's events.
    pub(super) fn socket_ready(&mut self, events: EventFlags) -> Fate {
        if events.intersects(EventFlags::HUP | EventFlags::ERR) {
            if matches!(self.phase, Phase::Unasked | Phase::Asked) {
                // The guest's RESPONSE, if it comes, belongs to no connection and is answered so.
                return Fate::Ends;
            }
            self.host_gone = true;
            self.stop_sending();
            if self.guest_shutdown & SHUTDOWN_RCV != 0 {
                self.stop_reading();
            }
            self.readable = self.can_read();
            return self.pass_on_end();
        }
        if events.intersects(EventFlags::IN | EventFlags::RDHUP) {
            self.readable = self.can_read();
        }
        if events.contains(EventFlags::OUT) {
            return self.flush();
        }
        Fate::Stays
    }

    fn can_read(&self) -> bool {
        self.host_shutdown & SHUTDOWN_SEND == 0 && self.guest_shutdown & SHUTDOWN_RCV == 0
    }

    fn flush(&mut self) -> Fate {
        let Some(stream) = &self.stream else {
            return Fate::Stays;
        };
        match self.outbox.flush(stream) {
            Ok(sent) => self.credit.forward(sent),
            Err(_) => self.stop_sending(),
        }
        self.pass_on_end()
    }

    /// The next packet for the guest. What this returns is to be sent; it is not returned again.
    pub(super) fn next(&mut self) -> Option<Work> {
        match self.phase {
            Phase::Unasked => {
                self.phase = Phase::Asked;
                return Some(self.packet(Op::Request, 0));
            }
            Phase::Asked => return None,
            Phase::Unanswered => {
                self.phase = Phase::Established;
                return Some(self.packet(Op::Response, 0));
            }
            Phase::Established => {}
        }
        let credit = self.credit.of_guest();
        let data = self.readable && credit > 0;
        // What a host that is gone has left is little; its end then is one packet.
        if self.host_shutdown != self.told_shutdown && !(data && self.host_gone) {
            self.told_shutdown = self.host_shutdown;
            return Some(self.packet(Op::Shutdown, self.host_shutdown));
        }
        if data {
            let buffers = self.burst;
            return Some(Work::Data { credit, buffers });
        }
        self.credit
            .is_owed()
            .then(|| self.packet(Op::CreditUpdate, 0))
    }

    /// [`Connection::next`] has something, or seems to.
    pub(super) fn has_work(&self) -> bool {
        match self.phase {
            Phase::Unasked | Phase::Unanswered => true,
            Phase::Asked => false,
            Phase::Established => {
                self.host_shutdown != self.told_shutdown
                    || self.readable && self.credit.of_guest() > 0
                    || self.credit.is_owed()
            }
        }
    }

    /// Reads the socket into `slices`, no more than the credit: how many bytes. Zero means that there
    /// is no data now.
    pub(super) fn read(&mut self, slices: &[Slice<'_>]) -> usize {
        let Some(stream) = &self.stream else {
            self.readable = false;
            return 0;
        };
        match socket::receive(stream.as_fd(), slices) {
            Ok(0) => {
                self.stop_reading();
                0
            }
            Ok(len) => {
                let room: usize = slices.iter().map(Slice::len).sum();
                self.burst = if len == room {
                    (self.burst * 2).min(MAX_BURST)
                } else {
                    (self.burst / 2).max(1)
                };
                self.credit.spend(len);
                len
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.readable = false;
                0
            }
            Err(_) => {
                self.stop_reading();
                self.stop_sending();
                0
            }
        }
    }

    /// The header of a packet of this connection, which tells the guest our credit.
    pub(super) fn header(&mut self, op: Op, flags: u32, len: u32) -> Header {
        let fwd_cnt = self.credit.tell();
        Header {
            src_cid: HOST_CID,
            dst_cid: self.guest_cid,
            src_port: self.ports.host,
            dst_port: self.ports.guest,
            len,
            kind: TYPE_STREAM,
            op,
            flags,
            buf_alloc: BUF_ALLOC,
            fwd_cnt,
        }
    }

    fn packet(&mut self, op: Op, flags: u32) -> Work {
        Work::Packet(self.header(op, flags, 0))
    }

    /// What of the guest's is still to be sent when the guest has forgotten this connection.
    pub(super) fn into_rest(self) -> Option<(UnixStream, Outbox)> {
        let stream = self.stream?;
        (!self.outbox.is_empty()).then_some((stream, self.outbox))
    }

    /// What to watch the socket for: [`INTEREST`], and room for what waits.
    pub(super) fn interest(&self) -> EventFlags {
        match self.outbox.is_empty() {
            true => INTEREST,
            false => INTEREST | EventFlags::OUT,
        }
    }

    pub(super) fn stream(&self) -> Option<&UnixStream> {
        self.stream.as_ref()
    }
}

#[cfg(test)]
impl Connection {
    pub(super) fn waiting(&self) -> usize {
        self.outbox.len()
    }
}
