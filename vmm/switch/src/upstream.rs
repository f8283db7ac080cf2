// SPDX-License-Identifier: Apache-2.0
//! Names of others, for who asks by TCP: by TCP, too, over a connection of our own that goes out by the
//! container's uplink, from its address. The host's own resolver is reached by UDP alone (passt forwards
//! no more), and is asked for as much as goes into a packet.
//!
//! A passt knows a connection by its ports and the server's address. Ours have ports that Linux gives to
//! nobody, and what the container says on one of them is not passed on: a policy lets out what goes
//! on with a connection.

use std::collections::VecDeque;
use std::net::Ipv4Addr;

use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::State;
use smoltcp::time::{Duration, Instant};
use walnut_vmm_config::Mac;

use crate::link;
use crate::message;
use crate::packet::{self, End, Ipv4, What};
use crate::port::{DNS, GATEWAY_MAC};
use crate::stack::{self, Stack};
use crate::streams::{Number, PREFIX_LEN, with_length};

/// The host's resolver on its loopback, as a container's passt reaches it: no container has an address
/// like this.
pub const LINK_RESOLVER: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 53);

/// Above ip_local_port_range.
const FIRST_PORT: u16 = 61_000;
/// As resolv.conf(5) has it.
const MAX_SERVERS: usize = 3;
/// For the answer of one server.
const PATIENCE: Duration = Duration::from_secs(8);
/// Of an answer, what is on its way.
const RECEIVE_LEN: usize = 32 << 10;
/// Connections that are over, and the container's: the oldest is forgotten.
const MAX_KNOWN: usize = 64;

/// What is asked, and for whom.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Question {
    pub number: Number,
    pub id: u16,
    pub name: String,
    pub message: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Flow {
    port: u16,
    server: Ipv4Addr,
}

#[derive(Debug)]
enum How {
    Tcp {
        socket: SocketHandle,
        /// The question with its length, so much of it is sent.
        question: Vec<u8>,
        sent: usize,
        /// The answer with its length, so far.
        came: Vec<u8>,
    },
    Udp {
        /// As it was sent.
        question: Vec<u8>,
        /// EDNS is ours.
        added: bool,
    },
}

#[derive(Debug)]
struct Query {
    question: Question,
    /// Who has not been asked yet.
    servers: VecDeque<Ipv4Addr>,
    /// Where nobody has a better one.
    answer: Option<Vec<u8>>,
    under_way: Option<(Flow, How)>,
    until: Instant,
}

/// One container's.
#[derive(Debug)]
pub(crate) struct Upstream {
    own: End,
    stack: Option<Stack>,
    /// As many as there are questions by TCP.
    queries: Vec<Query>,
    ended: VecDeque<Flow>,
    /// The container's own, on ports like ours.
    others: VecDeque<Flow>,
    frames: Vec<u8>,
}

impl Upstream {
    pub fn new(mac: Mac, address: Ipv4Addr) -> Self {
        let port = DNS;
        Self {
            own: End { mac, address, port },
            stack: None,
            queries: Vec::new(),
            ended: VecDeque::new(),
            others: VecDeque::new(),
            frames: Vec::new(),
        }
    }

    pub fn ask(&mut self, question: Question, servers: &[Ipv4Addr], now: Instant) {
        let mut query = Query {
            question,
            servers: servers.iter().copied().take(MAX_SERVERS).collect(),
            answer: None,
            under_way: None,
            until: now,
        };
        self.ask_next(&mut query, now);
        self.queries.push(query);
        self.poll(now);
    }

    /// Asks the next server that can be asked.
    fn ask_next(&mut self, query: &mut Query, now: Instant) {
        query.until = now + PATIENCE;
        while let Some(server) = query.servers.pop_front() {
            let Some(port) = self.free_port() else {
                continue;
            };
            let flow = Flow { port, server };
            let how = match server {
                LINK_RESOLVER => Some(self.send(flow, &query.question.message)),
                _ => self.connect(flow, &query.question.message, now),
            };
            query.under_way = how.map(|how| (flow, how));
            if query.under_way.is_some() {
                return;
            }
        }
    }

    fn flows(&self) -> impl Iterator<Item = &Flow> {
        let all = self.queries.iter().filter_map(|one| one.under_way.as_ref());
        all.map(|(flow, _)| flow)
    }

    /// One that nobody can guess, and that neither a connection of ours nor one of the container's has
    /// or lately had.
    fn free_port(&self) -> Option<u16> {
        let span = u64::from(u16::MAX - FIRST_PORT) + 1;
        let start = stack::random()? % span;
        let all = (0..span).map(|n| (start + n) % span);
        let mut all = all.filter_map(|n| u16::try_from(u64::from(FIRST_PORT) + n).ok());
        all.find(|port| {
            let mut taken = self.flows().chain(&self.ended).chain(&self.others);
            !taken.any(|flow| flow.port == *port)
        })
    }

    fn send(&mut self, flow: Flow, message: &[u8]) -> How {
        let (question, added) = message::with_room(message);
        let from = End {
            port: flow.port,
            ..self.own
        };
        let to = End {
            mac: GATEWAY_MAC,
            address: flow.server,
            port: DNS,
        };
        let frame = packet::udp(&from, &to, &question);
        self.frames.extend(link::with_length(&frame));
        How::Udp { question, added }
    }

    fn connect(&mut self, flow: Flow, message: &[u8], now: Instant) -> Option<How> {
        let question = with_length(message)?;
        let stack = match &mut self.stack {
            Some(stack) => stack,
            none => none.insert(Stack::new(
                self.own.address,
                self.own.mac,
                GATEWAY_MAC,
                now,
            )?),
        };
        let socket = stack.add(RECEIVE_LEN, question.len());
        if !stack.connect(socket, (flow.server, DNS), flow.port) {
            stack.remove(socket);
            return None;
        }
        let (sent, came) = (0, Vec::new());
        Some(How::Tcp {
            socket,
            question,
            sent,
            came,
        })
    }

    /// Whether the container says it on a connection of ours. After its end the container can open one
    /// like it: then it is the container's.
    pub fn owns(&mut self, packet: &Ipv4) -> bool {
        let What::Tcp {
            source: port,
            target: DNS,
            opens,
        } = packet.what
        else {
            return false;
        };
        let flow = Flow {
            port,
            server: packet.target,
        };
        if self.has_connection(&flow) {
            return true;
        }
        if opens {
            self.ended.retain(|one| *one != flow);
        }
        let is_ours = self.ended.contains(&flow);
        if port >= FIRST_PORT && !is_ours {
            remember(&mut self.others, flow);
        }
        is_ours
    }

    fn has_connection(&self, flow: &Flow) -> bool {
        let is_it = |query: &Query| match &query.under_way {
            Some((one, How::Tcp { .. })) => one == flow,
            _ => false,
        };
        self.queries.iter().any(is_it)
    }

    /// Whether what came by the uplink is for us, and nobody else.
    pub fn hears(&mut self, frame: &[u8], packet: &Ipv4, now: Instant) -> bool {
        let server = packet.source;
        match packet.what {
            What::Tcp {
                source: DNS,
                target: port,
                ..
            } => {
                let flow = Flow { port, server };
                if !self.has_connection(&flow) {
                    return self.ended.contains(&flow);
                }
                if let Some(stack) = &mut self.stack {
                    stack.hear(frame);
                }
                self.poll(now);
                true
            }
            What::Udp {
                source: DNS,
                target: port,
            } => {
                let flow = Flow { port, server };
                packet::udp_payload(frame).is_some_and(|answer| self.hears_udp(flow, answer, now))
            }
            _ => false,
        }
    }

    fn hears_udp(&mut self, flow: Flow, answer: &[u8], now: Instant) -> bool {
        let is_it = |query: &mut Query| match &query.under_way {
            Some((asked, How::Udp { question, added })) if *asked == flow => {
                message::is_answer(answer, question).then_some(*added)
            }
            _ => None,
        };
        let mut all = self.queries.iter_mut().enumerate();
        let found = all.find_map(|(at, query)| Some((at, is_it(query)?)));
        let Some((at, added)) = found else {
            return false;
        };
        let answer = match added {
            true => message::without_edns(answer.to_vec()),
            false => Some(answer.to_vec()),
        };
        self.answered(at, answer, now);
        true
    }

    /// One server has said what it has to say, or nothing that makes sense.
    fn answered(&mut self, at: usize, answer: Option<Vec<u8>>, now: Instant) {
        let mut query = self.queries.swap_remove(at);
        self.end(&mut query, now);
        let is_good = answer.as_deref().is_some_and(|a| !message::is_failure(a));
        query.answer = answer.or(query.answer);
        if !is_good {
            self.ask_next(&mut query, now);
        }
        self.queries.push(query);
    }

    /// A connection ends by a reset: that passt forgets it at once, and nothing more can be said on it.
    fn end(&mut self, query: &mut Query, now: Instant) {
        let Some((flow, How::Tcp { socket, .. })) = query.under_way.take() else {
            return;
        };
        remember(&mut self.ended, flow);
        if let Some(stack) = &mut self.stack {
            stack.socket(socket).abort();
            stack.poll(now);
            stack.remove(socket);
        }
    }

    fn poll(&mut self, now: Instant) {
        let Some(stack) = &mut self.stack else { return };
        stack.poll(now);
        let mut ended = Vec::new();
        for (at, query) in self.queries.iter_mut().enumerate() {
            if let Some((_, how)) = &mut query.under_way
                && let Some(answer) = how.go_on(stack, &query.question.message)
            {
                ended.push((at, answer));
            }
        }
        stack.poll(now);
        // From the last on: each is put behind those that are left.
        for (at, answer) in ended.into_iter().rev() {
            self.answered(at, answer, now);
        }
        if let Some(stack) = &mut self.stack {
            stack.poll(now);
            self.frames.append(&mut stack.frames());
        }
    }

    /// What nobody waits for any more is not asked any longer.
    pub fn keep(&mut self, is_wanted: impl Fn(Number) -> bool, now: Instant) {
        let mut at = 0;
        while let Some(query) = self.queries.get(at) {
            if is_wanted(query.question.number) {
                at += 1;
                continue;
            }
            let mut query = self.queries.swap_remove(at);
            self.end(&mut query, now);
        }
    }

    /// What has been answered; `None` where nobody has one.
    pub fn answers(&mut self, now: Instant) -> Vec<(Question, Option<Vec<u8>>)> {
        let late = |query: &Query| query.under_way.is_some() && now >= query.until;
        while let Some(at) = self.queries.iter().position(late) {
            self.answered(at, None, now);
        }
        self.poll(now);
        let (over, rest) = std::mem::take(&mut self.queries)
            .into_iter()
            .partition(|query| query.under_way.is_none());
        self.queries = rest;
        if self.queries.is_empty() {
            self.stack = None;
        }
        let over: Vec<Query> = over;
        let both = over.into_iter().map(|query| (query.question, query.answer));
        both.collect()
    }

    /// When [`Self::answers`] is due, without anybody saying anything.
    pub fn deadline(&mut self, now: Instant) -> Option<Instant> {
        let stack = self.stack.as_mut().and_then(|stack| stack.poll_at(now));
        let all = self.queries.iter().map(|query| query.until);
        all.chain(stack).min()
    }

    /// What is for the uplink: frames with their lengths.
    pub fn frames(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.frames)
    }
}

fn remember(known: &mut VecDeque<Flow>, flow: Flow) {
    if known.contains(&flow) {
        return;
    }
    if known.len() == MAX_KNOWN {
        known.pop_front();
    }
    known.push_back(flow);
}

impl How {
    /// The server's answer, where it is there, or is known to be none.
    #[expect(clippy::option_option, reason = "it goes on, or has ended without one")]
    fn go_on(&mut self, stack: &mut Stack, asked: &[u8]) -> Option<Option<Vec<u8>>> {
        let Self::Tcp {
            socket,
            question,
            sent,
            came,
        } = self
        else {
            return None;
        };
        let socket = stack.socket(*socket);
        *sent += socket.send_slice(&question[*sent..]).unwrap_or(0);
        while socket.can_recv() && socket.may_send() {
            let all = |bytes: &mut [u8]| (bytes.len(), came.extend_from_slice(bytes));
            socket.recv(all).ok()?;
        }
        if let Some((length, rest)) = came.split_first_chunk::<PREFIX_LEN>()
            && let Some(answer) = rest.get(..u16::from_be_bytes(*length).into())
        {
            return Some(message::is_answer(answer, asked).then(|| answer.to_vec()));
        }
        let is_open = matches!(socket.state(), State::SynSent | State::Established);
        (!is_open).then_some(None)
    }
}

#[cfg(test)]
mod tests;
