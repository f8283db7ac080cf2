// SPDX-License-Identifier: Apache-2.0
//! All connections of one device, and what of them wants to go to the guest next.
//!
//! Nothing here grows with what the guest sends: connections are at most [`MAX_SOCKETS`], each is
//! waiting for the rx queue at most once, and the tx queue is not read while [`MAX_RESETS`] answers
//! wait.

mod saved;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::time::Timespec;

use super::HOST_CID;
use super::backend::{Backend, LISTENER};
use super::connection::{self, Connection, Fate, Ports, Work};
use super::greeting::{self, Greeting};
use super::outbox::Outbox;
use super::packet::{Header, Op, Packet, Slice, TYPE_STREAM};

pub(super) use saved::MuxerState;

/// Sockets that may be open; the host's further connections wait in the listener's backlog, the
/// guest's are refused. Half of the file descriptors that a process commonly may have.
const MAX_SOCKETS: usize = 512;

/// Answers to packets that belong to no connection.
const MAX_RESETS: usize = 256;

/// Events taken from the sockets in one go.
const EVENTS: usize = 64;

/// Host ports of connections that the host opens.
const FIRST_HOST_PORT: u32 = 1 << 30;
const LAST_HOST_PORT: u32 = (1 << 31) - 1;

/// What a socket is to us.
#[derive(Debug)]
enum Entry {
    /// Has not said yet which port it wants.
    Greeting(UnixStream),
    Stream {
        connection: Box<Connection>,
        /// What its socket is watched for.
        watched: EventFlags,
        /// It is in the list of those that have something for the guest.
        queued: bool,
    },
    /// The guest is gone; the host shall have what was sent all the same.
    Rest(UnixStream, Outbox),
}

/// What goes into the next rx buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    Packet(Header),
    Data {
        token: u64,
        credit: usize,
        buffers: usize,
    },
}

pub(super) struct Muxer {
    backend: Arc<Backend>,
    guest_cid: u64,
    entries: HashMap<u64, Entry>,
    tokens: HashMap<Ports, u64>,
    ready: VecDeque<u64>,
    resets: VecDeque<Header>,
    next_token: u64,
    next_port: u32,
    /// Connections may wait in the listener's backlog for room here.
    accept_again: bool,
}

impl Drop for Muxer {
    fn drop(&mut self) {
        if let Err(error) = epoll::delete(&self.backend.epoll, &self.backend.listener) {
            log::warn!("vsock: cannot stop listening: {error}");
        }
    }
}

impl Muxer {
    pub(super) fn new(backend: Arc<Backend>, guest_cid: u64) -> io::Result<Self> {
        let flags = EventFlags::IN | EventFlags::ET;
        let data = EventData::new_u64(LISTENER);
        epoll::add(&backend.epoll, &backend.listener, data, flags)?;
        Ok(Self {
            backend,
            guest_cid,
            entries: HashMap::new(),
            tokens: HashMap::new(),
            ready: VecDeque::new(),
            resets: VecDeque::new(),
            next_token: LISTENER + 1,
            next_port: FIRST_HOST_PORT,
            accept_again: false,
        })
    }

    /// A further packet of the guest can be taken.
    pub(super) fn has_room(&self) -> bool {
        self.resets.len() < MAX_RESETS
    }

    /// There may be something for the guest.
    pub(super) fn has_work(&self) -> bool {
        !self.resets.is_empty() || !self.ready.is_empty()
    }

    /// Takes a packet of the guest.
    pub(super) fn receive(&mut self, packet: &Packet<'_>) {
        let header = &packet.header;
        if header.src_cid != self.guest_cid {
            log::debug!("vsock: a packet from CID {}", header.src_cid);
            return;
        }
        if header.dst_cid != HOST_CID || header.kind != TYPE_STREAM {
            return self.refuse(header);
        }
        let ports = Ports {
            guest: header.src_port,
            host: header.dst_port,
        };
        match self.tokens.get(&ports) {
            Some(&token) => {
                self.with(token, |connection| connection.receive(packet));
            }
            None if header.op == Op::Request => self.connect(header),
            None => self.refuse(header),
        }
    }

    fn refuse(&mut self, header: &Header) {
        if header.op != Op::Rst {
            self.resets.push_back(header.reset_reply());
        }
    }

    /// The guest wants to connect to the host.
    fn connect(&mut self, request: &Header) {
        if self.entries.len() >= MAX_SOCKETS {
            log::debug!("vsock: too many connections");
            return self.refuse(request);
        }
        let token = self.new_token();
        let watched = self
            .backend
            .connect(request.dst_port)
            .and_then(|stream| self.watch(&stream, token).map(|()| stream));
        match watched {
            Ok(stream) => self.insert(token, Connection::incoming(stream, request)),
            Err(error) => {
                log::debug!("vsock: no connection to port {}: {error}", request.dst_port);
                self.refuse(request);
            }
        }
    }

    fn insert(&mut self, token: u64, connection: Connection) {
        self.tokens.insert(connection.ports, token);
        let entry = Entry::Stream {
            watched: connection::INTEREST,
            connection: Box::new(connection),
            queued: false,
        };
        self.entries.insert(token, entry);
        self.with(token, |_| Fate::Stays);
    }

    fn new_token(&mut self) -> u64 {
        self.next_token += 1;
        self.next_token
    }

    /// What the socket has by now is an event as well.
    fn watch(&self, stream: &UnixStream, token: u64) -> io::Result<()> {
        let data = EventData::new_u64(token);
        epoll::add(&self.backend.epoll, stream, data, connection::INTEREST)?;
        Ok(())
    }

    /// Lets a connection do something, and sees to what has changed by it.
    fn with(&mut self, token: u64, act: impl FnOnce(&mut Connection) -> Fate) {
        let Some(Entry::Stream {
            connection,
            watched,
            queued,
        }) = self.entries.get_mut(&token)
        else {
            return;
        };
        match act(connection) {
            Fate::Stays => {
                let interest = connection.interest();
                if let Some(stream) = connection.stream()
                    && *watched != interest
                {
                    let data = EventData::new_u64(token);
                    match epoll::modify(&self.backend.epoll, stream, data, interest) {
                        Ok(()) => *watched = interest,
                        Err(error) => log::warn!("vsock: cannot watch a socket: {error}"),
                    }
                }
                if !*queued && connection.has_work() {
                    *queued = true;
                    self.ready.push_back(token);
                }
            }
            Fate::Ends => self.remove(token),
            Fate::Resets => {
                let reset = connection.header(Op::Rst, 0, 0);
                self.resets.push_back(reset);
                self.remove(token);
            }
        }
    }

    fn remove(&mut self, token: u64) {
        let Some(entry) = self.entries.remove(&token) else {
            return;
        };
        if let Entry::Stream {
            connection, queued, ..
        } = entry
        {
            self.tokens.remove(&connection.ports);
            if queued {
                self.ready.retain(|&other| other != token);
            }
            if let Some((stream, outbox)) = connection.into_rest() {
                self.entries.insert(token, Entry::Rest(stream, outbox));
                return;
            }
        }
        if self.accept_again {
            self.accept();
        }
    }

    /// Takes what happened on the sockets, without waiting.
    pub(super) fn poll(&mut self) -> io::Result<()> {
        let mut events = [MaybeUninit::uninit(); EVENTS];
        let (events, _) =
            match epoll::wait(&self.backend.epoll, &mut events, Some(&Timespec::default())) {
                Err(Errno::INTR) => return Ok(()),
                events => events?,
            };
        for event in events {
            let (token, flags) = (event.data.u64(), event.flags);
            match token {
                LISTENER => self.accept(),
                token => self.socket_ready(token, flags),
            }
        }
        Ok(())
    }

    fn socket_ready(&mut self, token: u64, events: EventFlags) {
        match self.entries.get_mut(&token) {
            Some(Entry::Greeting(_)) if events.intersects(EventFlags::HUP | EventFlags::ERR) => {
                self.remove(token);
            }
            Some(Entry::Greeting(stream)) => match greeting::read(stream) {
                Greeting::Waits => {}
                Greeting::Connect(port) => self.greeted(token, port),
                Greeting::Resume(port) => self.resumed(token, port),
                Greeting::Bad => self.remove(token),
            },
            Some(Entry::Stream { .. }) => {
                self.with(token, |connection| connection.socket_ready(events));
            }
            Some(Entry::Rest(stream, outbox)) => {
                let done = outbox.flush(stream).is_err() || outbox.is_empty();
                if done {
                    self.remove(token);
                }
            }
            None => {}
        }
    }

    /// The host said which port it wants.
    fn greeted(&mut self, token: u64, guest: u32) {
        let Some(host) = self.free_port(guest) else {
            return self.remove(token);
        };
        let Some(Entry::Greeting(stream)) = self.entries.remove(&token) else {
            return;
        };
        let ports = Ports { guest, host };
        self.insert(token, Connection::outgoing(stream, ports, self.guest_cid));
    }

    fn free_port(&mut self, guest: u32) -> Option<u32> {
        // One more than can be taken.
        for _ in 0..=MAX_SOCKETS {
            let host = self.next_port;
            self.next_port = match host {
                LAST_HOST_PORT => FIRST_HOST_PORT,
                _ => host + 1,
            };
            if !self.tokens.contains_key(&Ports { guest, host }) {
                return Some(host);
            }
        }
        None
    }

    fn accept(&mut self) {
        while self.entries.len() < MAX_SOCKETS {
            match self.backend.listener.accept() {
                Ok((stream, _)) => self.accepted(stream),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.accept_again = false;
                    return;
                }
                Err(error) => {
                    log::warn!("vsock: cannot accept a connection: {error}");
                    break;
                }
            }
        }
        self.accept_again = true;
    }

    fn accepted(&mut self, stream: UnixStream) {
        let token = self.new_token();
        match self.watch(&stream, token) {
            Ok(()) => {
                self.entries.insert(token, Entry::Greeting(stream));
            }
            Err(error) => log::warn!("vsock: cannot watch a connection: {error}"),
        }
    }

    /// What goes into an rx buffer that is at hand.
    pub(super) fn next(&mut self) -> Option<Next> {
        if let Some(reset) = self.resets.pop_front() {
            return Some(Next::Packet(reset));
        }
        while let Some(token) = self.ready.pop_front() {
            let Some(Entry::Stream {
                connection, queued, ..
            }) = self.entries.get_mut(&token)
            else {
                continue;
            };
            *queued = false;
            match connection.next() {
                None => {}
                Some(Work::Packet(header)) => {
                    self.with(token, |_| Fate::Stays);
                    return Some(Next::Packet(header));
                }
                Some(Work::Data { credit, buffers }) => {
                    return Some(Next::Data {
                        token,
                        credit,
                        buffers,
                    });
                }
            }
        }
        None
    }

    /// Reads a connection's socket into rx buffers; `slices` hold no more than its credit.
    pub(super) fn read(&mut self, token: u64, slices: &[Slice<'_>]) -> usize {
        let mut len = 0;
        self.with(token, |connection| {
            len = connection.read(slices);
            Fate::Stays
        });
        len
    }

    /// The header of a data packet of `len` bytes.
    pub(super) fn data_header(&mut self, token: u64, len: u32) -> Option<Header> {
        match self.entries.get_mut(&token) {
            Some(Entry::Stream { connection, .. }) => Some(connection.header(Op::Rw, 0, len)),
            _ => None,
        }
    }
}

#[cfg(test)]
impl Muxer {
    /// What must hold whatever the guest does; how many sockets are open.
    pub(super) fn check(&self) -> usize {
        use std::collections::HashSet;

        use super::credit::BUF_ALLOC;

        assert!(self.entries.len() <= MAX_SOCKETS);
        assert!(self.resets.len() <= MAX_RESETS + MAX_SOCKETS);
        let once: HashSet<_> = self.ready.iter().collect();
        assert_eq!(once.len(), self.ready.len());
        assert!(once.iter().all(|token| self.entries.contains_key(token)));
        let mut streams = 0;
        for (token, entry) in &self.entries {
            let queued = once.contains(token);
            match entry {
                Entry::Stream {
                    connection,
                    queued: said,
                    ..
                } => {
                    streams += 1;
                    assert_eq!(*said, queued);
                    assert!(
                        queued || !connection.has_work(),
                        "forgotten: {connection:?}"
                    );
                    assert!(connection.waiting() <= BUF_ALLOC as usize);
                    assert_eq!(self.tokens.get(&connection.ports), Some(token));
                }
                Entry::Greeting(_) | Entry::Rest(..) => assert!(!queued),
            }
        }
        assert_eq!(streams, self.tokens.len());
        self.entries.len()
    }
}
