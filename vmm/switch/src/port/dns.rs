// SPDX-License-Identifier: Apache-2.0
//! A container's questions of DNS, by UDP and TCP: to the network itself, to the container's other
//! networks, to servers outside, in that order; and the way of the answer back to who asked.

use std::collections::VecDeque;

use simple_dns::RCODE;
use smoltcp::time::Instant;

use super::{DNS, GATEWAY_MAC, Port, Way, gateway};
use crate::link;
use crate::names::{self, Answer, Directory};
use crate::packet::{self, End, Ipv4, What};
use crate::peer::{Pending, Said};
use crate::stack;
use crate::streams::{Number, Segment};
use crate::switch::Network;
use crate::upstream::Question;

/// Questions under way; the oldest is forgotten.
const MAX_QUERIES: usize = 256;

/// Where an answer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asker {
    /// To the container's port.
    Udp(u16),
    /// Over a connection, of the questions there to this one.
    Tcp(Number),
}

/// A question that was passed on.
#[derive(Debug, PartialEq, Eq)]
struct Query {
    port: u16,
    id: u16,
    name: String,
    server: usize,
}

#[derive(Debug, Default)]
pub(super) struct Queries(VecDeque<Query>);

impl Queries {
    /// Remembers a question; which server is to be asked. One that is asked again had no answer.
    fn ask(&mut self, port: u16, id: u16, name: String, servers: usize) -> usize {
        let again = |query: &Query| (query.port, query.id, &query.name) == (port, id, &name);
        let before = self.0.iter().position(again);
        let server = match before.and_then(|at| self.0.remove(at)) {
            Some(query) => (query.server + 1) % servers,
            None => 0,
        };
        if self.0.len() == MAX_QUERIES {
            self.0.pop_front();
        }
        self.0.push_back(Query {
            port,
            id,
            name,
            server,
        });
        server
    }

    /// What an answer is about.
    fn take(&mut self, port: u16, id: u16) -> Option<Query> {
        let is_one = |query: &Query| (query.port, query.id) == (port, id);
        let at = self.0.iter().position(is_one)?;
        self.0.remove(at)
    }
}

impl Port {
    pub(super) fn question(
        &mut self,
        message: &[u8],
        from: Asker,
        network: &Network,
        directory: &dyn Directory,
    ) -> Way {
        match names::answer(message, directory) {
            Answer::Elsewhere { .. } if self.peers.ask(from, message, 0) => Way::Nowhere,
            Answer::Elsewhere { id, name } => self.elsewhere(message, from, id, name, network),
            Answer::Reply(bytes) => self.reply(Some(&bytes), from, network),
            Answer::None => self.reply(None, from, network),
        }
    }

    /// Of what no network of the container's knows: it is asked outside, if the policy allows it.
    fn elsewhere(
        &mut self,
        message: &[u8],
        from: Asker,
        id: u16,
        name: String,
        network: &Network,
    ) -> Way {
        if !self.gate.resolves(&name) {
            return self.refuse_question(message, RCODE::Refused, from, network);
        }
        if self.uplink.is_none() || self.resolvers.is_empty() {
            return self.refuse_question(message, RCODE::ServerFailure, from, network);
        }
        match from {
            Asker::Udp(port) => {
                let server = self.queries.ask(port, id, name, self.resolvers.len());
                let server = End {
                    mac: GATEWAY_MAC,
                    address: self.resolvers[server],
                    port: DNS,
                };
                Way::UplinkThis(packet::udp(&self.end(port), &server, message))
            }
            Asker::Tcp(number) => {
                let message = message.to_vec();
                let question = Question {
                    number,
                    id,
                    name,
                    message,
                };
                self.upstream.ask(question, &self.resolvers, stack::now());
                Way::Nowhere
            }
        }
    }

    fn refuse_question(
        &mut self,
        message: &[u8],
        code: RCODE,
        from: Asker,
        network: &Network,
    ) -> Way {
        match names::refuse(message, code) {
            Answer::Reply(bytes) => self.reply(Some(&bytes), from, network),
            _ => self.reply(None, from, network),
        }
    }

    /// An answer to the machine's question, or that there is none.
    fn reply(&mut self, message: Option<&[u8]>, to: Asker, network: &Network) -> Way {
        match (to, message) {
            (Asker::Udp(port), Some(message)) => {
                let gateway = gateway(network, DNS);
                Way::MachineThis(packet::udp(&gateway, &self.end(port), message))
            }
            (Asker::Udp(_), None) => Way::Nowhere,
            (Asker::Tcp(number), _) => {
                self.streams.answer(number, message, stack::now());
                Way::Nowhere
            }
        }
    }

    /// What another network of the container's wants to know, or answers.
    pub fn peer_says(
        &mut self,
        at: usize,
        said: Said,
        network: &Network,
        directory: &dyn Directory,
    ) -> Way {
        match said {
            Said::Question { number, message } => {
                let message = match names::answer(&message, directory) {
                    Answer::Reply(bytes) => bytes,
                    _ => Vec::new(),
                };
                self.peers.say(at, &Said::Answer { number, message });
                Way::Nowhere
            }
            Said::Answer { number, message } => {
                let Some(asked) = self.peers.take(at, number) else {
                    return Way::Nowhere;
                };
                let way = self.peer_answers(at, &asked, &message, network, directory);
                self.serve_streams(stack::now(), network, directory);
                way
            }
        }
    }

    fn peer_answers(
        &mut self,
        at: usize,
        asked: &Pending,
        message: &[u8],
        network: &Network,
        directory: &dyn Directory,
    ) -> Way {
        if !message.is_empty() {
            return self.reply(Some(message), asked.from, network);
        }
        if self.peers.ask(asked.from, &asked.message, at + 1) {
            return Way::Nowhere;
        }
        match names::answer(&asked.message, directory) {
            Answer::Elsewhere { id, name } => {
                self.elsewhere(&asked.message, asked.from, id, name, network)
            }
            Answer::Reply(bytes) => self.reply(Some(&bytes), asked.from, network),
            Answer::None => self.reply(None, asked.from, network),
        }
    }

    /// A frame of somebody's who is asked for names: `None` where it is about something else.
    pub(super) fn resolver_says(
        &mut self,
        frame: &[u8],
        packet: &Ipv4,
        network: &Network,
        directory: &dyn Directory,
    ) -> Option<Way> {
        let now = stack::now();
        if self.upstream.hears(frame, packet, now) {
            self.serve_streams(now, network, directory);
            return Some(Way::Nowhere);
        }
        let What::Udp {
            source: DNS,
            target: port,
        } = packet.what
        else {
            return None;
        };
        let message = packet::udp_payload(frame)?;
        let id = u16::from_be_bytes(*message.first_chunk()?);
        let query = self.queries.take(port, id)?;
        self.learn(message, id, &query.name);
        Some(self.reply(Some(message), Asker::Udp(port), network))
    }

    fn learn(&mut self, message: &[u8], id: u16, name: &str) {
        let addresses = names::learn(message, id, name);
        self.gate.learn(name, &addresses);
    }

    /// A segment for the gateway's port.
    pub(super) fn stream_says(
        &mut self,
        frame: &[u8],
        segment: &Segment,
        network: &Network,
        directory: &dyn Directory,
    ) -> Way {
        let now = stack::now();
        self.streams.hear(frame, segment, now);
        self.serve_streams(now, network, directory);
        Way::Nowhere
    }

    /// Goes on with what is asked by TCP, as far as it goes now; what comes of it is sent.
    pub fn serve_streams(&mut self, now: Instant, network: &Network, directory: &dyn Directory) {
        loop {
            let questions = self.streams.questions(now);
            for (number, message) in &questions {
                // By TCP, what becomes of it is no frame.
                self.question(message, Asker::Tcp(*number), network, directory);
            }
            let streams = &self.streams;
            self.upstream.keep(|number| streams.waits(number), now);
            let answers = self.upstream.answers(now);
            if questions.is_empty() && answers.is_empty() {
                break;
            }
            for (asked, answer) in answers {
                let to = Asker::Tcp(asked.number);
                match answer {
                    Some(message) => {
                        self.learn(&message, asked.id, &asked.name);
                        self.reply(Some(&message), to, network)
                    }
                    None => self.refuse_question(&asked.message, RCODE::ServerFailure, to, network),
                };
            }
        }
        let (machine, uplink) = (self.streams.frames(), self.upstream.frames());
        // A server may be refused to us as others are to the container: with something missing.
        let mut from = 0;
        while let Ok(Some(range)) = link::next_frame(&uplink, from) {
            from = range.end;
            self.handshakes.guest_says(&uplink[range]);
        }
        // Who is gone is found out when its own turn comes.
        if !machine.is_empty() {
            let _ = self.machine.send(&machine);
        }
        if let Some(link) = self.uplink.as_mut().filter(|_| !uplink.is_empty()) {
            let _ = link.send(&uplink);
        }
    }

    /// When [`Self::serve_streams`] is due, without anybody saying anything.
    pub fn deadline(&mut self, now: Instant) -> Option<Instant> {
        let both = [self.streams.deadline(now), self.upstream.deadline(now)];
        both.into_iter().flatten().min()
    }
}
