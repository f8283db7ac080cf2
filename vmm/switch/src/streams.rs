// SPDX-License-Identifier: Apache-2.0
//! The gateway's side of DNS by TCP (RFC 7766): a container's connections, each message behind its
//! length. One question of a connection is answered after the other.
//!
//! All of it is bounded, and a container pays for its own: some connections, of each a question in its
//! buffer and an answer; who does nothing in time is left.

use std::net::Ipv4Addr;

use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::{Socket, State};
use smoltcp::time::{Duration, Instant};
use walnut_vmm_config::Mac;

use crate::names::MAX_QUESTION;
use crate::port::{DNS, GATEWAY_MAC};
use crate::stack::Stack;

/// One more is one that waits for its next question less, or is reset.
const MAX_CONNECTIONS: usize = 8;
/// A question and its length.
const RECEIVE_LEN: usize = PREFIX_LEN + MAX_QUESTION;
/// Of an answer, what is on its way.
const SEND_LEN: usize = 16 << 10;
pub(crate) const PREFIX_LEN: usize = 2;
/// Without a byte more of a question, or a byte taken of an answer.
const IDLE: Duration = Duration::from_secs(10);
/// For an answer: longer than all servers are asked.
const PATIENCE: Duration = Duration::from_secs(30);

/// Which question of all that came by TCP.
pub(crate) type Number = u64;

#[derive(Debug)]
enum Doing {
    /// A question comes.
    Reads,
    /// Its answer is looked for.
    Waits(Number),
    /// With its length, so much of it is sent.
    Answers(Vec<u8>, usize),
    /// All is said.
    Ends,
}

#[derive(Debug)]
struct Connection {
    socket: SocketHandle,
    /// The container's port.
    peer: u16,
    doing: Doing,
    until: Instant,
    /// Bytes that wait here, to be read and to be taken, and those that are said: it does something
    /// where they change.
    seen: (usize, usize, usize),
}

#[derive(Debug, Default)]
pub(crate) struct Streams {
    /// While there are connections.
    stack: Option<Stack>,
    connections: Vec<Connection>,
    next: Number,
    frames: Vec<u8>,
}

impl Streams {
    /// A segment for the gateway's port, of a container that has one address.
    pub fn hear(&mut self, frame: &[u8], segment: &Segment, now: Instant) {
        if self.stack.is_none() {
            self.stack = Stack::new(segment.gateway, GATEWAY_MAC, segment.from, now);
        }
        let known = self.connections.iter().any(|c| c.peer == segment.port);
        if segment.opens && !known && self.make_room(now) {
            self.listen(segment.port, now);
        }
        if let Some(stack) = &mut self.stack {
            stack.hear(frame);
        }
        self.poll(now);
    }

    /// Whether there is room for one more.
    fn make_room(&mut self, now: Instant) -> bool {
        if self.connections.len() < MAX_CONNECTIONS {
            return true;
        }
        let waits = self.connections.iter().enumerate();
        let waits = waits.filter(|(_, one)| matches!(one.doing, Doing::Reads));
        let Some((at, _)) = waits.min_by_key(|(_, one)| one.until) else {
            return false;
        };
        if let Some(stack) = &mut self.stack {
            stack.socket(self.connections[at].socket).abort();
        }
        self.poll(now);
        self.connections.len() < MAX_CONNECTIONS
    }

    fn listen(&mut self, peer: u16, now: Instant) {
        let Some(stack) = &mut self.stack else { return };
        let socket = stack.add(RECEIVE_LEN, SEND_LEN);
        // It fails for port 0 alone.
        let _ = stack.socket(socket).listen(DNS);
        self.connections.push(Connection {
            socket,
            peer,
            doing: Doing::Reads,
            until: now + IDLE,
            seen: (0, 0, 0),
        });
    }

    /// Questions that have come whole.
    pub fn questions(&mut self, now: Instant) -> Vec<(Number, Vec<u8>)> {
        let mut all = Vec::new();
        let Some(stack) = &mut self.stack else {
            return all;
        };
        for one in &mut self.connections {
            let socket = stack.socket(one.socket);
            one.send(socket);
            if let Some(question) = one.question(socket) {
                all.push((self.next, question));
                one.doing = Doing::Waits(self.next);
                one.until = now + PATIENCE;
                self.next += 1;
            }
            one.keep_time(socket, now);
        }
        self.poll(now);
        all
    }

    /// Whether somebody still waits for that answer.
    pub fn waits(&self, number: Number) -> bool {
        self.connections.iter().any(|one| one.waits_for(number))
    }

    /// An answer; none ends the connection. What is too long for one is none.
    pub fn answer(&mut self, number: Number, message: Option<&[u8]>, now: Instant) {
        let mut all = self.connections.iter_mut();
        let Some(one) = all.find(|one| one.waits_for(number)) else {
            return;
        };
        one.until = now + IDLE;
        match message.and_then(with_length) {
            Some(bytes) => one.doing = Doing::Answers(bytes, 0),
            None => {
                one.doing = Doing::Ends;
                if let Some(stack) = &mut self.stack {
                    stack.socket(one.socket).abort();
                }
            }
        }
    }

    fn poll(&mut self, now: Instant) {
        let Some(stack) = &mut self.stack else { return };
        stack.poll(now);
        self.connections.retain(|one| {
            // One that listens still has not been asked for: that was no segment.
            let is_there = !matches!(
                stack.socket(one.socket).state(),
                State::Closed | State::TimeWait | State::Listen
            );
            if !is_there {
                stack.remove(one.socket);
            }
            is_there
        });
        self.frames.append(&mut stack.frames());
        if self.connections.is_empty() {
            self.stack = None;
        }
    }

    /// When [`Self::questions`] is due, without anybody saying anything.
    pub fn deadline(&mut self, now: Instant) -> Option<Instant> {
        let own = self.stack.as_mut()?.poll_at(now);
        let all = self.connections.iter().map(|one| one.until);
        all.chain(own).min()
    }

    /// What is for the container: frames with their lengths.
    pub fn frames(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.frames)
    }
}

/// What of a segment is looked at here.
pub(crate) struct Segment {
    pub gateway: Ipv4Addr,
    /// Whose it is.
    pub from: Mac,
    pub port: u16,
    pub opens: bool,
}

/// As TCP has it (RFC 1035 §4.2.2).
pub(crate) fn with_length(message: &[u8]) -> Option<Vec<u8>> {
    let len = u16::try_from(message.len()).ok()?;
    Some([&len.to_be_bytes()[..], message].concat())
}

impl Connection {
    fn waits_for(&self, number: Number) -> bool {
        matches!(self.doing, Doing::Waits(this) if this == number)
    }

    fn send(&mut self, socket: &mut Socket<'_>) {
        if let Doing::Answers(bytes, sent) = &mut self.doing {
            *sent += socket.send_slice(&bytes[*sent..]).unwrap_or(0);
            if *sent == bytes.len() {
                self.doing = Doing::Reads;
            }
        }
    }

    /// The next one, if it is whole. Nothing more is read of who has no honest one.
    fn question(&mut self, socket: &mut Socket<'_>) -> Option<Vec<u8>> {
        let is_open = matches!(socket.state(), State::Established | State::CloseWait);
        if !is_open || !matches!(self.doing, Doing::Reads) {
            return None;
        }
        let mut prefix = [0; PREFIX_LEN];
        let is_there = socket.peek_slice(&mut prefix) == Ok(PREFIX_LEN);
        let len = usize::from(u16::from_be_bytes(prefix));
        if is_there && len > MAX_QUESTION {
            self.doing = Doing::Ends;
            socket.abort();
            return None;
        }
        if is_there && socket.recv_queue() >= PREFIX_LEN + len {
            let mut bytes = vec![0; PREFIX_LEN + len];
            socket.recv_slice(&mut bytes).ok()?;
            bytes.drain(..PREFIX_LEN);
            return Some(bytes);
        }
        // The rest never comes.
        if socket.state() == State::CloseWait {
            self.doing = Doing::Ends;
            socket.close();
        }
        None
    }

    /// Who is idle is told so; who says nothing to that either is left.
    fn keep_time(&mut self, socket: &mut Socket<'_>, now: Instant) {
        let said = match &self.doing {
            Doing::Answers(_, said) => *said,
            _ => 0,
        };
        let seen = (socket.recv_queue(), socket.send_queue(), said);
        if seen != self.seen && !matches!(self.doing, Doing::Waits(_) | Doing::Ends) {
            self.until = now + IDLE;
        }
        self.seen = seen;
        if now < self.until {
            return;
        }
        if matches!(self.doing, Doing::Reads) && socket.may_send() {
            self.doing = Doing::Ends;
            self.until = now + IDLE;
            socket.close();
        } else {
            socket.abort();
        }
    }
}

#[cfg(test)]
mod tests;
