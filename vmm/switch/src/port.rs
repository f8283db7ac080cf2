// SPDX-License-Identifier: Apache-2.0
//! One container's place, and what becomes of what comes from it and by its uplink.

mod dns;

use std::net::Ipv4Addr;

use walnut_vmm_config::Mac;
use walnut_vmm_host::handshake::Handshakes;

use crate::link::Link;
use crate::names::Directory;
use crate::packet::{self, End, Ipv4, Packet, Refusal, What};
use crate::peer::Peers;
use crate::policy::Gate;
use crate::streams::{Segment, Streams};
use crate::switch::Network;
use crate::upstream::Upstream;
use dns::Queries;

pub(crate) use dns::Asker;

/// The other side's, on each network.
pub const GATEWAY_MAC: Mac = Mac([0x02, 0x42, 0x0a, 0, 2, 2]);
pub(crate) const DNS: u16 = 53;

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
    /// The other networks that the container is on.
    pub peers: Peers,
    /// Questions by UDP that were passed on.
    queries: Queries,
    /// Who asks by TCP, and what of it was passed on.
    streams: Streams,
    upstream: Upstream,
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
            peers: Peers::default(),
            queries: Queries::default(),
            streams: Streams::default(),
            upstream: Upstream::new(mac, address),
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
            match packet.what {
                What::Udp {
                    source,
                    target: DNS,
                } => {
                    let message = packet::udp_payload(frame).unwrap_or_default();
                    return self.question(message, Asker::Udp(source), network, directory);
                }
                What::Tcp {
                    source: port,
                    target: DNS,
                    opens,
                } if packet.source == self.address => {
                    let (gateway, from) = (network.gateway, self.mac);
                    let segment = Segment {
                        gateway,
                        from,
                        port,
                        opens,
                    };
                    return self.stream_says(frame, &segment, network, directory);
                }
                What::Icmp => {
                    let gateway = gateway(network, 0);
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
        if self.upstream.owns(packet) {
            return Way::Nowhere;
        }
        match self.gate.allows(packet) {
            true => Way::Uplink,
            false => self.refuse(frame, Refusal::Prohibited, network),
        }
    }

    /// The sender is told at once.
    fn refuse(&self, frame: &[u8], why: Refusal, network: &Network) -> Way {
        let told = packet::refusal(frame, why, &gateway(network, 0), &self.end(0));
        told.map_or(Way::Nowhere, Way::MachineThis)
    }

    /// A frame that came by the uplink.
    pub fn uplink_says(
        &mut self,
        frame: &[u8],
        network: &Network,
        directory: &dyn Directory,
    ) -> Way {
        let Packet::Ipv4(packet) = Packet::of(frame) else {
            // ARP is answered here.
            return Way::Nowhere;
        };
        if packet.target != self.address {
            return Way::Nowhere;
        }
        if self.resolvers.contains(&packet.source)
            && let Some(way) = self.resolver_says(frame, &packet, network, directory)
        {
            return way;
        }
        if self.is_unasked(&packet) {
            return Way::Nowhere;
        }
        self.gate.came(&packet, packet.source == network.gateway);
        Way::Machine
    }

    /// Whether a resolver says it that the container may not ask itself: another answer to the same
    /// question, perhaps. What it could answer to that would be a question that nobody has looked at.
    fn is_unasked(&self, packet: &Ipv4) -> bool {
        let What::Udp {
            source: DNS,
            target,
        } = packet.what
        else {
            return false;
        };
        let back = Ipv4 {
            source: packet.target,
            target: packet.source,
            what: What::Udp {
                source: target,
                target: DNS,
            },
        };
        self.resolvers.contains(&packet.source) && !self.gate.allows(&back)
    }
}

fn gateway(network: &Network, port: u16) -> End {
    End {
        mac: GATEWAY_MAC,
        address: network.gateway,
        port,
    }
}
