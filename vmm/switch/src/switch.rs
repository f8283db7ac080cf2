// SPDX-License-Identifier: Apache-2.0
//! All ports of one network, and the loop that serves them.

mod serve;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};
use smoltcp::time::Instant;
use thiserror::Error;
use walnut_netlink::Cidr;
use walnut_vmm_config::Mac;

use crate::control::{Join, Joined};
use crate::link::{self, ETHERNET_LEN, LENGTH_LEN, Link};
use crate::names::Directory;
use crate::packet::{self, Packet};
use crate::policy::Gate;
use crate::port::{GATEWAY_MAC, Port, Way};

pub use serve::serve;

/// Ethernet addresses of one machine besides its own, of bridges inside of it.
const MAX_LEARNT: usize = 128;

/// What a network is.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// Names can be followed by it: `db.backend`.
    pub name: String,
    pub gateway: Ipv4Addr,
    pub prefix: u8,
}

impl Network {
    pub fn subnet(&self) -> Cidr {
        Cidr {
            address: self.gateway.into(),
            prefix: self.prefix.min(32),
        }
    }

    pub(crate) fn contains(&self, address: Ipv4Addr) -> bool {
        self.subnet().contains(address.into())
    }

    /// The first and the last that a container can have, the gateway's perhaps among them.
    fn room(&self) -> std::ops::Range<u32> {
        let first = match self.subnet().network().address {
            std::net::IpAddr::V4(address) => address.to_bits() + 1,
            std::net::IpAddr::V6(_) => 0,
        };
        let last = self.subnet().broadcast().map_or(first, Ipv4Addr::to_bits);
        first..last
    }
}

#[derive(Debug, Error)]
pub enum SwitchError {
    #[error("wait for frames")]
    Events(#[source] io::Error),
    #[error("wait for the network's lock")]
    Lock(#[source] io::Error),
}

/// Which of a port's two links.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Machine,
    Uplink,
}

#[derive(Debug)]
struct Switch {
    network: Network,
    ports: Vec<Option<Port>>,
    /// Who has sent from where, besides the ports' own.
    learnt: HashMap<Mac, usize>,
}

/// For a port that is being looked at, the others.
struct Others<'a> {
    network: &'a Network,
    ports: &'a [Option<Port>],
    /// It is not among them now.
    own: (&'a [String], Ipv4Addr),
}

impl Directory for Others<'_> {
    fn addresses(&self, name: &str) -> Vec<Ipv4Addr> {
        let bare = name.strip_suffix(self.network.name.as_str());
        let bare = bare.and_then(|name| name.strip_suffix('.'));
        let is = |names: &[String]| {
            names
                .iter()
                .any(|one| one == name || Some(one.as_str()) == bare)
        };
        let others = self.ports.iter().flatten();
        let all = others.map(|port| (port.names.as_slice(), port.address));
        all.chain([self.own])
            .filter(|(names, _)| is(names))
            .map(|(_, address)| address)
            .collect()
    }

    fn name(&self, address: Ipv4Addr) -> Option<String> {
        if !self.network.contains(address) {
            return None;
        }
        let others = self.ports.iter().flatten();
        let mut all = others.map(|port| (port.names.as_slice(), port.address));
        let found = all.find(|(_, known)| *known == address);
        let names = match found {
            Some((names, _)) => names,
            None if self.own.1 == address => self.own.0,
            None => &[],
        };
        let name = names
            .first()
            .map(|name| format!("{name}.{}", self.network.name));
        Some(name.unwrap_or_default())
    }
}

/// Docker's for an address; the one that is the gateway's, on each network, is not to be had.
fn mac_of(address: Ipv4Addr) -> Mac {
    let [a, b, c, d] = address.octets();
    match Mac([0x02, 0x42, a, b, c, d]) {
        GATEWAY_MAC => Mac([0x06, 0x42, a, b, c, d]),
        mac => mac,
    }
}

fn lower(names: &[String]) -> Vec<String> {
    let all = names.iter().map(|name| name.to_ascii_lowercase());
    all.collect()
}

impl Switch {
    fn new(mut network: Network) -> Self {
        // As all names here.
        network.name.make_ascii_lowercase();
        Self {
            network,
            ports: Vec::new(),
            learnt: HashMap::new(),
        }
    }

    fn is_empty(&self) -> bool {
        self.ports.iter().all(Option::is_none)
    }

    /// The number of the new port.
    fn join(&mut self, join: Join, fds: Vec<OwnedFd>) -> Result<(usize, Joined), String> {
        let mut fds = fds.into_iter();
        let link = |fd| Link::new(fd).map_err(|error| error.to_string());
        let machine = link(fds.next().ok_or("there is no machine")?)?;
        let uplink = fds.next().map(link).transpose()?;
        // Its last machine has ended, also where nobody has seen that here.
        let own = |port: &Option<Port>| {
            let port = port.as_ref();
            port.is_some_and(|port| !port.container.is_empty() && port.container == join.container)
        };
        if let Some(last) = self.ports.iter().position(own) {
            self.leave(last);
        }
        let address = self.choose(join.address)?;
        let mac = join.mac.unwrap_or_else(|| mac_of(address));
        if mac == GATEWAY_MAC || self.ports.iter().flatten().any(|port| port.mac == mac) {
            return Err(format!(
                "MAC address {mac} is already in use on the network {}",
                self.network.name
            ));
        }
        let mut port = Port::new(machine, uplink, mac, address);
        port.names = lower(&join.names);
        port.container = join.container;
        port.host = join.host;
        port.resolvers = join.resolvers;
        port.gate = Gate::new(join.egress);
        let free = self.ports.iter().position(Option::is_none);
        let at = free.unwrap_or_else(|| {
            self.ports.push(None);
            self.ports.len() - 1
        });
        self.ports[at] = Some(port);
        Ok((at, Joined { address, mac }))
    }

    fn choose(&self, wanted: Option<Ipv4Addr>) -> Result<Ipv4Addr, String> {
        let network = &self.network;
        let is_free = |address: &Ipv4Addr| {
            let mut all = self.ports.iter().flatten();
            *address != network.gateway && !all.any(|port| port.address == *address)
        };
        match wanted {
            Some(address) if !network.room().contains(&address.to_bits()) => Err(format!(
                "{address} is no address of the network {}, which is {}",
                network.name,
                network.subnet().network()
            )),
            Some(address) if is_free(&address) => Ok(address),
            Some(address) => Err(format!(
                "Address already in use: {address} on the network {}",
                network.name
            )),
            None => {
                let mut all = network.room().map(Ipv4Addr::from_bits);
                all.find(is_free).ok_or_else(|| {
                    format!(
                        "no address is left on the network {}, which is {}",
                        network.name,
                        network.subnet().network()
                    )
                })
            }
        }
    }

    fn leave(&mut self, at: usize) {
        if let Some(port) = self.ports[at].take() {
            let lost = port.machine.dropped + port.uplink.map_or(0, |uplink| uplink.dropped);
            log::info!("{} has left; {lost} times it was too slow", port.address);
        }
        self.learnt.retain(|_, port| *port != at);
    }

    /// Receives from one side, and sends each frame on its way.
    ///
    /// # Errors
    /// That side is gone.
    fn receive(&mut self, at: usize, side: Side) -> io::Result<()> {
        let Some(mut port) = self.ports[at].take() else {
            return Ok(());
        };
        let result = self.receive_of(at, &mut port, side);
        self.ports[at] = Some(port);
        result
    }

    fn receive_of(&mut self, at: usize, port: &mut Port, side: Side) -> io::Result<()> {
        let link = match (side, &mut port.uplink) {
            (Side::Machine, _) => &mut port.machine,
            (Side::Uplink, Some(uplink)) => uplink,
            (Side::Uplink, None) => return Ok(()),
        };
        let (mut inbox, len) = link.receive()?;
        // Neighbours that go the same way are sent at once.
        let mut run = (Way::Nowhere, 0..0);
        let mut from = 0;
        let result = loop {
            let range = match link::next_frame(&inbox[..len], from) {
                Ok(Some(range)) => range,
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            };
            let with_length = range.start - LENGTH_LEN..range.end;
            from = range.end;
            let way = match side {
                Side::Machine => {
                    let way = self.way(at, port, &inbox[range.clone()]);
                    if way == Way::Uplink
                        && let Some(step) = port.handshakes.guest_says(&inbox[range])
                    {
                        self.send(port, &Way::MachineThis(step), &[]);
                    }
                    way
                }
                Side::Uplink => {
                    port.handshakes.passt_says(&mut inbox[range.clone()]);
                    let frame = &inbox[range.clone()];
                    let way = self.directed(port, |port, network, directory| {
                        port.uplink_says(frame, network, directory)
                    });
                    if way == Way::Machine {
                        inbox[range.start..range.start + 6].copy_from_slice(&port.mac.0);
                    }
                    way
                }
            };
            if way == run.0 && run.1.end == with_length.start {
                run.1.end = with_length.end;
                continue;
            }
            self.send(port, &run.0, &inbox[run.1.clone()]);
            run = (way, with_length);
        };
        self.send(port, &run.0, &inbox[run.1]);
        let link = match (side, &mut port.uplink) {
            (Side::Uplink, Some(uplink)) => uplink,
            _ => &mut port.machine,
        };
        link.put_back(inbox, from..len);
        result
    }

    /// Where a machine's frame goes.
    fn way(&mut self, at: usize, port: &mut Port, frame: &[u8]) -> Way {
        if frame.len() < ETHERNET_LEN || !self.is_own(at, port, frame) {
            return Way::Nowhere;
        }
        self.directed(port, |port, network, directory| {
            port.machine_says(frame, network, directory)
        })
    }

    /// What a port says to something, with who else is there.
    fn directed<T>(
        &self,
        port: &mut Port,
        say: impl FnOnce(&mut Port, &Network, &Others<'_>) -> T,
    ) -> T {
        let names = std::mem::take(&mut port.names);
        let others = Others {
            network: &self.network,
            ports: &self.ports,
            own: (&names, port.address),
        };
        let said = say(port, &self.network, &others);
        port.names = names;
        said
    }

    fn port_of(&mut self, container: &str) -> Result<(usize, &mut Port), String> {
        let is_it = |port: &Port| !container.is_empty() && port.container == container;
        let mut ports = self.ports.iter_mut().enumerate();
        let found = ports.find_map(|(at, port)| {
            let port = port.as_mut().filter(|port| is_it(port))?;
            Some((at, port))
        });
        found.ok_or_else(|| "the container is not on the network".to_owned())
    }

    fn rename(&mut self, container: &str, names: &[String]) -> Result<(), String> {
        let (_, port) = self.port_of(container)?;
        port.names = lower(names);
        Ok(())
    }

    /// The port of a container that is on another network, too, and which of its peers that is.
    fn introduce(&mut self, container: &str, fds: Vec<OwnedFd>) -> Result<(usize, usize), String> {
        let (at, port) = self.port_of(container)?;
        let socket = fds.into_iter().next().ok_or("there is no other network")?;
        Ok((at, port.peers.add(socket)?))
    }

    /// Something from another network of a container's.
    fn hear(&mut self, at: usize, peer: usize) {
        let Some(mut port) = self.ports.get_mut(at).and_then(Option::take) else {
            return;
        };
        match port.peers.receive(peer) {
            Ok(None) => {}
            Ok(Some(said)) => {
                let way = self.directed(&mut port, |port, network, directory| {
                    port.peer_says(peer, said, network, directory)
                });
                self.send(&mut port, &way, &[]);
            }
            Err(_) => port.peers.remove(peer),
        }
        self.ports[at] = Some(port);
    }

    /// When [`Self::go_on`] is due, without anybody saying anything.
    fn deadline(&mut self, now: Instant) -> Option<Instant> {
        let ports = self.ports.iter_mut().flatten();
        ports.filter_map(|port| port.deadline(now)).min()
    }

    /// What is due by now.
    fn go_on(&mut self, now: Instant) {
        for at in 0..self.ports.len() {
            let is_due = |port: &mut Port| port.deadline(now).is_some_and(|due| due <= now);
            let Some(mut port) = self.ports[at].take_if(is_due) else {
                continue;
            };
            self.directed(&mut port, |port, network, directory| {
                port.serve_streams(now, network, directory);
            });
            self.ports[at] = Some(port);
        }
    }

    /// Whether it says to be from nobody else, by any address.
    fn is_own(&mut self, at: usize, port: &Port, frame: &[u8]) -> bool {
        let source = packet::source(frame);
        if source != port.mac {
            let taken = self.ports.iter().flatten().any(|other| other.mac == source);
            if taken || source == GATEWAY_MAC || source.is_multicast() || source.is_zero() {
                return false;
            }
            if !self.learn(source, at) {
                return false;
            }
        }
        let address = match Packet::of(frame) {
            Packet::Arp(arp) => arp.sender,
            Packet::Ipv4(packet) => packet.source,
            Packet::Nonsense => return false,
            Packet::Other => return true,
        };
        let mut others = self.ports.iter().flatten();
        address != self.network.gateway && !others.any(|other| other.address == address)
    }

    /// Remembers who has sent from there, as far as there is room; whether it was nobody else.
    fn learn(&mut self, source: Mac, at: usize) -> bool {
        if let Some(known) = self.learnt.get(&source) {
            return *known == at;
        }
        let of_it = self.learnt.values().filter(|port| **port == at);
        if of_it.count() < MAX_LEARNT {
            self.learnt.insert(source, at);
        }
        true
    }

    fn send(&mut self, port: &mut Port, way: &Way, frames: &[u8]) {
        // Who is gone is found out when its own turn comes.
        let _ = match way {
            Way::Nowhere => Ok(()),
            Way::Machine => port.machine.send(frames),
            Way::MachineThis(frame) => port.machine.send(&link::with_length(frame)),
            Way::Uplink => port.uplink.as_mut().map_or(Ok(()), |up| up.send(frames)),
            Way::UplinkThis(frame) => {
                let frame = link::with_length(frame);
                port.uplink.as_mut().map_or(Ok(()), |up| up.send(&frame))
            }
            Way::All => {
                for other in self.ports.iter_mut().flatten() {
                    let _ = other.machine.send_of_neighbour(frames);
                }
                Ok(())
            }
            Way::To(mac) => {
                let own = |other: &Option<Port>| other.as_ref().is_some_and(|o| o.mac == *mac);
                let at = self.ports.iter().position(own);
                let at = at.or_else(|| self.learnt.get(mac).copied());
                match at.and_then(|at| self.ports.get_mut(at)?.as_mut()) {
                    Some(other) => other.machine.send_of_neighbour(frames),
                    None => Ok(()),
                }
            }
        };
    }
}
