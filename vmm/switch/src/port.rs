// SPDX-License-Identifier: Apache-2.0
//! One container's place, and what becomes of what comes from it and by its uplink.

use std::collections::VecDeque;
use std::net::Ipv4Addr;

use simple_dns::RCODE;
use walnut_vmm_config::Mac;
use walnut_vmm_host::handshake::Handshakes;

use crate::link::Link;
use crate::names::{self, Answer, Directory};
use crate::packet::{self, End, Ipv4, Packet, Refusal, What};
use crate::peer::{Peers, Said};
use crate::policy::Gate;
use crate::switch::Network;

/// The other side's, on each network.
pub const GATEWAY_MAC: Mac = Mac([0x02, 0x42, 0x0a, 0, 2, 2]);
const DNS: u16 = 53;
/// Questions under way; the oldest is forgotten.
const MAX_QUERIES: usize = 256;

/// Where a frame goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// To who has that address.
    To(Mac),
    /// To all others.
    All,
    Uplink,
    /// Another frame, in its stead, to the uplink.
    UplinkThis(Vec<u8>),
    /// One of the gateway's, to the machine that it came from, or is for.
    MachineThis(Vec<u8>),
    /// As it is, to the machine.
    Machine,
    Nowhere,
}

/// A question that was passed on.
#[derive(Debug, PartialEq, Eq)]
struct Query {
    port: u16,
    id: u16,
    name: String,
    server: usize,
}

#[derive(Debug)]
pub(crate) struct Port {
    pub mac: Mac,
    pub address: Ipv4Addr,
    pub container: String,
    pub names: Vec<String>,
    pub machine: Link,
    pub uplink: Option<Link>,
    /// The gateway's address is the host's loopback.
    pub host: bool,
    /// Who answers for names of others.
    pub resolvers: Vec<Ipv4Addr>,
    pub gate: Gate,
    /// With who is behind the uplink.
    pub handshakes: Handshakes,
    queries: VecDeque<Query>,
    /// The other networks that the container is on.
    pub peers: Peers,
}

impl Port {
    pub fn new(machine: Link, uplink: Option<Link>, mac: Mac, address: Ipv4Addr) -> Self {
        Self {
            mac,
            address,
            container: String::new(),
            names: Vec::new(),
            machine,
            uplink,
            host: false,
            resolvers: Vec::new(),
            gate: Gate::default(),
            handshakes: Handshakes::default(),
            queries: VecDeque::new(),
            peers: Peers::default(),
        }
    }

    fn end(&self, port: u16) -> End {
        End {
            mac: self.mac,
            address: self.address,
            port,
        }
    }

    /// A frame of the machine's, whose sender was checked.
    pub fn machine_says(
        &mut self,
        frame: &[u8],
        network: &Network,
        directory: &dyn Directory,
    ) -> Way {
        let target = packet::destination(frame);
        match Packet::of(frame) {
            Packet::Nonsense => Way::Nowhere,
            Packet::Arp(arp) if arp.is_request && arp.target == network.gateway => {
                let asker = packet::source(frame);
                let reply = packet::arp_reply(GATEWAY_MAC, network.gateway, asker, arp.sender);
                Way::MachineThis(reply)
            }
            Packet::Ipv4(packet) if target == GATEWAY_MAC => {
                self.gateway_hears(frame, &packet, network, directory)
            }
            _ if target == GATEWAY_MAC => Way::Nowhere,
            _ if target.is_multicast() => Way::All,
            _ => Way::To(target),
        }
    }

    fn gateway_hears(
        &mut self,
        frame: &[u8],
        packet: &Ipv4,
        network: &Network,
        directory: &dyn Directory,
    ) -> Way {
        if packet.target == network.gateway {
            let gateway = End {
                mac: GATEWAY_MAC,
                address: network.gateway,
                port: DNS,
            };
            match packet.what {
                What::Udp {
                    source,
                    target: DNS,
                } => return self.question(frame, source, network, directory),
                What::Icmp => {
                    let reply = packet::echo_reply(frame, &gateway, &self.end(0));
                    return reply.map_or(Way::Nowhere, Way::MachineThis);
                }
                _ if !self.host && !self.gate.answers(packet) => {
                    return self.refuse(frame, Refusal::Port, network);
                }
                _ => {}
            }
        } else if network.contains(packet.target) {
            return Way::Nowhere;
        }
        if packet.source != self.address {
            return Way::Nowhere;
        }
        if self.uplink.is_none() {
            return self.refuse(frame, Refusal::Network, network);
        }
        match self.gate.allows(packet) {
            true => Way::Uplink,
            false => self.refuse(frame, Refusal::Prohibited, network),
        }
    }

    /// The sender is told at once.
    fn refuse(&self, frame: &[u8], why: Refusal, network: &Network) -> Way {
        let gateway = End {
            mac: GATEWAY_MAC,
            address: network.gateway,
            port: 0,
        };
        let told = packet::refusal(frame, why, &gateway, &self.end(0));
        told.map_or(Way::Nowhere, Way::MachineThis)
    }

    fn question(
        &mut self,
        frame: &[u8],
        from: u16,
        network: &Network,
        directory: &dyn Directory,
    ) -> Way {
        let Some(message) = packet::udp_payload(frame) else {
            return Way::Nowhere;
        };
        match names::answer(message, directory) {
            Answer::Elsewhere { .. } if self.peers.ask(from, message, 0) => Way::Nowhere,
            Answer::Elsewhere { id, name } => self.elsewhere(message, from, id, name, network),
            Answer::Reply(bytes) => self.reply(&bytes, from, network),
            Answer::None => Way::Nowhere,
        }
    }

    /// Of what no network of the container's knows: it is asked outside, if the policy allows it.
    fn elsewhere(
        &mut self,
        message: &[u8],
        from: u16,
        id: u16,
        name: String,
        network: &Network,
    ) -> Way {
        let refused = if !self.gate.resolves(&name) {
            Some(RCODE::Refused)
        } else if self.uplink.is_none() || self.resolvers.is_empty() {
            Some(RCODE::ServerFailure)
        } else {
            None
        };
        if let Some(code) = refused {
            return match names::refuse(message, code) {
                Answer::Reply(bytes) => self.reply(&bytes, from, network),
                _ => Way::Nowhere,
            };
        }
        let server = self.ask(from, id, name, self.resolvers.len());
        let server = End {
            mac: GATEWAY_MAC,
            address: self.resolvers[server],
            port: DNS,
        };
        Way::UplinkThis(packet::udp(&self.end(from), &server, message))
    }

    /// An answer to the machine's question.
    fn reply(&self, message: &[u8], to: u16, network: &Network) -> Way {
        let gateway = End {
            mac: GATEWAY_MAC,
            address: network.gateway,
            port: DNS,
        };
        Way::MachineThis(packet::udp(&gateway, &self.end(to), message))
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
                if !message.is_empty() {
                    return self.reply(&message, asked.from, network);
                }
                if self.peers.ask(asked.from, &asked.message, at + 1) {
                    return Way::Nowhere;
                }
                match names::answer(&asked.message, directory) {
                    Answer::Elsewhere { id, name } => {
                        self.elsewhere(&asked.message, asked.from, id, name, network)
                    }
                    Answer::Reply(bytes) => self.reply(&bytes, asked.from, network),
                    Answer::None => Way::Nowhere,
                }
            }
        }
    }

    /// Remembers a question; which server is to be asked. One that is asked again had no answer.
    fn ask(&mut self, port: u16, id: u16, name: String, servers: usize) -> usize {
        let again = |query: &Query| (query.port, query.id, &query.name) == (port, id, &name);
        let before = self.queries.iter().position(again);
        let server = match before.and_then(|at| self.queries.remove(at)) {
            Some(query) => (query.server + 1) % servers,
            None => 0,
        };
        if self.queries.len() == MAX_QUERIES {
            self.queries.pop_front();
        }
        self.queries.push_back(Query {
            port,
            id,
            name,
            server,
        });
        server
    }

    /// A frame that came by the uplink.
    pub fn uplink_says(&mut self, frame: &[u8], network: &Network) -> Way {
        let Packet::Ipv4(packet) = Packet::of(frame) else {
            // ARP is answered here.
            return Way::Nowhere;
        };
        if packet.target != self.address {
            return Way::Nowhere;
        }
        if let What::Udp {
            source: DNS,
            target,
        } = packet.what
            && self.resolvers.contains(&packet.source)
            && let Some(way) = self.answer(frame, target, network)
        {
            return way;
        }
        self.gate.came(&packet, packet.source == network.gateway);
        Way::Machine
    }

    /// An answer to a question that was passed on.
    fn answer(&mut self, frame: &[u8], port: u16, network: &Network) -> Option<Way> {
        let message = packet::udp_payload(frame)?;
        let id = u16::from_be_bytes(*message.first_chunk()?);
        let is_one = |query: &Query| (query.port, query.id) == (port, id);
        let at = self.queries.iter().position(is_one)?;
        let query = self.queries.remove(at)?;
        let addresses = names::learn(message, id, &query.name);
        self.gate.learn(&query.name, &addresses);
        Some(self.reply(message, port, network))
    }
}
