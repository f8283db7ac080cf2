// SPDX-License-Identifier: Apache-2.0
//! Network interfaces, addresses and routes of the calling thread's network namespace: rtnetlink(7),
//! one request and its acknowledgement at a time. The agent sets up the guest's interfaces by it,
//! the engine the host's bridge.

#![deny(unsafe_code)]

mod cidr;

use std::net::IpAddr;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader,
    NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use rustix::io::Errno;
use thiserror::Error;

pub use cidr::{Cidr, CidrError};

#[derive(Debug, Error)]
pub enum NetlinkError {
    #[error("open a netlink socket")]
    Open(#[source] std::io::Error),
    #[error("{what}")]
    Exchange {
        what: String,
        source: std::io::Error,
    },
    #[error("{what}: {}", .errno)]
    Refused { what: String, errno: Errno },
}

impl NetlinkError {
    /// What the kernel said, if it said something.
    #[must_use]
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Refused { errno, .. } => Some(*errno),
            _ => None,
        }
    }
}

/// An interface, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link(u32);

/// What [`Netlink::set`] changes; what is `None` stays as it is.
#[derive(Clone, Debug, Default)]
pub struct Change<'a> {
    pub name: Option<&'a str>,
    pub mtu: Option<u32>,
    pub up: bool,
    pub down: bool,
    /// No address is resolved and no multicast group told of: frames go to whoever is on the other end.
    pub no_arp: Option<bool>,
    /// The bridge that it becomes a port of.
    pub bridge: Option<Link>,
    pub mac: Option<[u8; 6]>,
}

/// A connection to the kernel.
#[derive(Debug)]
pub struct Netlink {
    socket: netlink_sys::Socket,
    sequence: u32,
}

impl Netlink {
    /// # Errors
    /// The kernel has no netlink, or no socket for us.
    pub fn open() -> Result<Self, NetlinkError> {
        let open = || {
            let mut socket = netlink_sys::Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            Ok(socket)
        };
        Ok(Self {
            socket: open().map_err(NetlinkError::Open)?,
            sequence: 0,
        })
    }

    /// The interface of that name.
    ///
    /// # Errors
    /// There is none.
    pub fn link(&mut self, name: &str) -> Result<Link, NetlinkError> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.into()));
        let what = format!("find the network interface {name}");
        let answer = self.call(RouteNetlinkMessage::GetLink(message), 0, &what)?;
        match answer {
            Some(RouteNetlinkMessage::NewLink(link)) => Ok(Link(link.header.index)),
            _ => Err(NetlinkError::Refused {
                what,
                errno: Errno::NODEV,
            }),
        }
    }

    /// # Errors
    /// The kernel refuses the change.
    pub fn set(&mut self, link: Link, change: &Change<'_>) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message.header.index = link.0;
        let flags = [
            (
                (change.up || change.down).then_some(change.up),
                LinkFlags::Up,
            ),
            (change.no_arp, LinkFlags::Noarp),
        ];
        for (wanted, flag) in flags {
            let Some(wanted) = wanted else { continue };
            message.header.flags.set(flag, wanted);
            message.header.change_mask |= flag;
        }
        let name = change.name.map(|name| LinkAttribute::IfName(name.into()));
        let mac = change.mac.map(|mac| LinkAttribute::Address(mac.into()));
        let bridge = change.bridge.map(|link| LinkAttribute::Controller(link.0));
        let mtu = change.mtu.map(LinkAttribute::Mtu);
        message
            .attributes
            .extend([name, mac, bridge, mtu].into_iter().flatten());
        let what = format!("set up network interface {}", link.0);
        self.order(RouteNetlinkMessage::SetLink(message), 0, &what)
    }

    /// Makes a bridge.
    ///
    /// # Errors
    /// It is there already (`EEXIST`), or the caller may not.
    pub fn add_bridge(&mut self, name: &str) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.into()));
        let kind = LinkInfo::Kind(InfoKind::Bridge);
        message.attributes.push(LinkAttribute::LinkInfo(vec![kind]));
        let what = format!("create the bridge {name}");
        let flags = NLM_F_CREATE | NLM_F_EXCL;
        self.order(RouteNetlinkMessage::NewLink(message), flags, &what)
    }

    /// # Errors
    /// The caller may not.
    pub fn delete(&mut self, link: Link) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message.header.index = link.0;
        let what = format!("delete network interface {}", link.0);
        self.order(RouteNetlinkMessage::DelLink(message), 0, &what)
    }

    /// Gives the interface an address. One of IPv6 is in use at once only where the interface's
    /// `accept_dad` is 0, and announced if its `ndisc_notify` is 1.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn add_address(&mut self, link: Link, cidr: Cidr) -> Result<(), NetlinkError> {
        let mut message = AddressMessage::default();
        message.header.family = family(cidr.address);
        message.header.prefix_len = cidr.prefix;
        message.header.index = link.0;
        message.attributes = vec![
            AddressAttribute::Local(cidr.address),
            AddressAttribute::Address(cidr.address),
        ];
        if let Some(last) = cidr.broadcast() {
            message.attributes.push(AddressAttribute::Broadcast(last));
        }
        let what = format!("give network interface {} the address {cidr}", link.0);
        let flags = NLM_F_CREATE | NLM_F_REPLACE;
        self.order(RouteNetlinkMessage::NewAddress(message), flags, &what)
    }

    /// # Errors
    /// It has no such address.
    pub fn delete_address(&mut self, link: Link, cidr: Cidr) -> Result<(), NetlinkError> {
        let mut message = AddressMessage::default();
        message.header.family = family(cidr.address);
        message.header.prefix_len = cidr.prefix;
        message.header.index = link.0;
        message.attributes = vec![AddressAttribute::Local(cidr.address)];
        let what = format!("take the address {cidr} from network interface {}", link.0);
        self.order(RouteNetlinkMessage::DelAddress(message), 0, &what)
    }

    /// Routes whatever no other route is for over `gateway`.
    ///
    /// # Errors
    /// The gateway is on no network of the interface's.
    pub fn add_default_route(&mut self, link: Link, gateway: IpAddr) -> Result<(), NetlinkError> {
        let mut message = RouteMessage::default();
        message.header.address_family = family(gateway);
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.protocol = RouteProtocol::Static;
        message.header.scope = RouteScope::Universe;
        message.header.kind = RouteType::Unicast;
        let address = match gateway {
            IpAddr::V4(address) => RouteAddress::Inet(address),
            IpAddr::V6(address) => RouteAddress::Inet6(address),
        };
        message.attributes = vec![
            RouteAttribute::Gateway(address),
            RouteAttribute::Oif(link.0),
        ];
        let what = format!("route over {gateway}");
        let flags = NLM_F_CREATE | NLM_F_REPLACE;
        self.order(RouteNetlinkMessage::NewRoute(message), flags, &what)
    }

    /// The name of an interface.
    ///
    /// # Errors
    /// There is none any more.
    pub fn name(&mut self, link: Link) -> Result<String, NetlinkError> {
        let mut message = LinkMessage::default();
        message.header.index = link.0;
        let what = format!("find network interface {}", link.0);
        let answer = self.call(RouteNetlinkMessage::GetLink(message), 0, &what)?;
        let name = match answer {
            Some(RouteNetlinkMessage::NewLink(link)) => {
                let mut attributes = link.attributes.into_iter();
                attributes.find_map(|one| match one {
                    LinkAttribute::IfName(name) => Some(name),
                    _ => None,
                })
            }
            _ => None,
        };
        name.ok_or(NetlinkError::Refused {
            what,
            errno: Errno::NODEV,
        })
    }

    /// Where packets to IPv4 addresses go: by an interface, or to the host itself, in all tables. Not the
    /// default routes.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn routes_ipv4(&mut self) -> Result<Vec<(Cidr, Link)>, NetlinkError> {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        let all = self.dump(RouteNetlinkMessage::GetRoute(message), "list the routes")?;
        Ok(all.iter().filter_map(route).collect())
    }

    fn order(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
        what: &str,
    ) -> Result<(), NetlinkError> {
        self.call(message, flags | NLM_F_ACK, what).map(drop)
    }

    fn send(&mut self, message: RouteNetlinkMessage, flags: u16) -> std::io::Result<()> {
        self.sequence += 1;
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut request = NetlinkMessage::new(header, NetlinkPayload::from(message));
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.socket.send(&bytes, 0).map(drop)
    }

    /// All messages that answer a request: several come in one datagram.
    fn dump(
        &mut self,
        message: RouteNetlinkMessage,
        what: &str,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        const ALIGNMENT: usize = 4;
        let broken = |source| NetlinkError::Exchange {
            what: what.to_owned(),
            source,
        };
        self.send(message, NLM_F_DUMP).map_err(broken)?;
        let mut all = Vec::new();
        loop {
            let (datagram, _) = self.socket.recv_from_full().map_err(broken)?;
            let mut rest = datagram.as_slice();
            while !rest.is_empty() {
                let one = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                    .map_err(|error| broken(std::io::Error::other(error)))?;
                let len = (one.header.length as usize).next_multiple_of(ALIGNMENT);
                rest = rest.get(len.max(ALIGNMENT)..).unwrap_or_default();
                match one.payload {
                    _ if one.header.sequence_number != self.sequence => {}
                    NetlinkPayload::InnerMessage(message) => all.push(message),
                    NetlinkPayload::Done(_) => return Ok(all),
                    NetlinkPayload::Error(error) => {
                        return Err(NetlinkError::Refused {
                            what: what.to_owned(),
                            errno: Errno::from_raw_os_error(-error.code.map_or(0, i32::from)),
                        });
                    }
                    _ => {}
                }
            }
        }
    }

    /// Sends one request; the one message or acknowledgement that answers it.
    fn call(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
        what: &str,
    ) -> Result<Option<RouteNetlinkMessage>, NetlinkError> {
        let broken = |source| NetlinkError::Exchange {
            what: what.to_owned(),
            source,
        };
        self.send(message, flags).map_err(broken)?;
        loop {
            let (answer, _) = self.socket.recv_from_full().map_err(broken)?;
            let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer)
                .map_err(|error| broken(std::io::Error::other(error)))?;
            if answer.header.sequence_number != self.sequence {
                continue;
            }
            return match answer.payload {
                NetlinkPayload::InnerMessage(message) => Ok(Some(message)),
                NetlinkPayload::Error(error) => match error.code {
                    None => Ok(None),
                    Some(code) => Err(NetlinkError::Refused {
                        what: what.to_owned(),
                        errno: Errno::from_raw_os_error(-code.get()),
                    }),
                },
                _ => Ok(None),
            };
        }
    }
}

fn route(message: &RouteNetlinkMessage) -> Option<(Cidr, Link)> {
    let RouteNetlinkMessage::NewRoute(route) = message else {
        return None;
    };
    if !matches!(route.header.kind, RouteType::Unicast | RouteType::Local) {
        return None;
    }
    let (mut to, mut link) = (None, None);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => to = Some(*address),
            RouteAttribute::Oif(index) => link = Some(Link(*index)),
            _ => {}
        }
    }
    let to = Cidr {
        address: to?.into(),
        prefix: route.header.destination_prefix_length,
    };
    Some((to, link?))
}

fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

#[cfg(test)]
mod tests;
