// SPDX-License-Identifier: Apache-2.0
//! A container's network for one life of its machine.

mod switched;

use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::net::sockopt::{set_socket_send_buffer_size, set_socket_send_buffer_size_force};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use serde::{Deserialize, Serialize};
use walnut_netlink::Cidr;
use walnut_protocol::agent::Interface;
use walnut_vmm_config::{MAX_MTU, Mac, NetBackend, NetConfig};

use super::bridge::{self, Port};
use super::passt::{self, Passt, Plan};
use super::{
    Bound, HOST_GATEWAY, Mode, NetworkError, PACKAGE, Protocol, Resolver, Tap, Wanted, mac_of,
    ports,
};
use crate::container::Container;
use crate::paths::Paths;

/// Of every container's one interface.
const INTERFACE: &str = "eth0";
const USER: &str = "user";

/// What the container has, as it is recorded while it runs.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(default)]
pub struct Attachment {
    /// Docker's name of the network; empty is none.
    pub network: String,
    pub mac: Option<Mac>,
    /// `10.0.2.100/24`.
    pub addresses: Vec<String>,
    pub gateways: Vec<IpAddr>,
    pub mtu: u32,
    /// Name servers for a container that asks for none of its own.
    pub resolvers: Vec<IpAddr>,
    /// Its names are the gateway's to answer for, whatever `--dns` says.
    pub asks_gateway: bool,
    /// What `host-gateway` stands for.
    pub host_gateway: Option<IpAddr>,
    pub ports: Vec<Bound>,
}

impl Attachment {
    /// The container's own address, without its prefix.
    pub fn address(&self) -> Option<IpAddr> {
        self.cidr().map(|cidr| cidr.address)
    }

    pub fn cidr(&self) -> Option<Cidr> {
        self.addresses.first()?.parse().ok()
    }

    /// The one of IPv6, where there is one.
    pub fn cidr_v6(&self) -> Option<Cidr> {
        let mut all = self.addresses.iter().filter_map(|text| text.parse().ok());
        all.find(|cidr: &Cidr| cidr.address.is_ipv6())
    }

    /// On a network of its own, with passt.
    fn user(mac: Mac, ipv6: bool) -> Self {
        let addresses = passt::addresses(ipv6);
        let gateways = [passt::GATEWAY.into(), passt::GATEWAY_V6.into()];
        Self {
            network: USER.to_owned(),
            mac: Some(mac),
            gateways: gateways[..addresses.len()].to_vec(),
            addresses: addresses.iter().map(ToString::to_string).collect(),
            mtu: MAX_MTU.into(),
            ..Self::default()
        }
    }

    /// passt sends to the address that it saw last: none, before the first frame. A bridge may
    /// remember who had the address before.
    pub fn must_announce(&self) -> bool {
        !self.ports.is_empty() || self.network.starts_with("tap:") || self.network == bridge::NAME
    }

    fn interfaces(&self) -> Vec<Interface> {
        let of = |mac: Mac| Interface {
            mac: mac.to_string(),
            name: INTERFACE.to_owned(),
            mtu: self.mtu,
            addresses: self.addresses.clone(),
            gateways: self.gateways.iter().map(ToString::to_string).collect(),
            announce: self.must_announce(),
            // IPv6 would have a lot to say as soon as it is up, and passt be started for that.
            quiet: self.ports.is_empty() && self.network == USER && !self.asks_gateway,
            ..Interface::default()
        };
        self.mac.map(of).into_iter().collect()
    }
}

/// The attachment with what keeps it up.
#[derive(Debug, Default)]
pub struct Session {
    pub attachment: Attachment,
    /// How the host looks names up.
    pub host: Resolver,
    config: Option<NetConfig>,
    /// The monitor's end of the network.
    socket: Option<OwnedFd>,
    passt: Option<Passt>,
    _bridge: Option<Port>,
    _lone: Option<Lone>,
    /// Holds the other end open, where nobody else does.
    _silent: Option<OwnedFd>,
}

/// What is left of a switch that has one container alone, when it is gone.
#[derive(Debug)]
struct Lone {
    lock: PathBuf,
}

impl Drop for Lone {
    fn drop(&mut self) {
        // Nobody else ever waits for it.
        let _ = std::fs::remove_file(&self.lock);
    }
}

/// Room for frames in a socket: what does not fit, passt drops, and the system's default holds three
/// of the longest.
const IN_FLIGHT: usize = 4 << 20;

fn pair() -> Result<(OwnedFd, OwnedFd), NetworkError> {
    let flags = SocketFlags::CLOEXEC;
    let pair = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)
        .map_err(|error| NetworkError::Socket(error.into()))?;
    for end in [&pair.0, &pair.1] {
        // As much as the system lets have who is not root.
        let set = set_socket_send_buffer_size_force(end, IN_FLIGHT)
            .or_else(|_| set_socket_send_buffer_size(end, IN_FLIGHT));
        set.map_err(|error| NetworkError::Socket(error.into()))?;
    }
    Ok(pair)
}

impl Session {
    /// Makes ready what the container asks for. The network comes up while the machine does:
    /// [`Self::settle`] says whether it has.
    ///
    /// # Errors
    /// A port is taken, or something that is needed is missing.
    pub fn prepare(container: &Container, paths: &Paths) -> Result<Self, NetworkError> {
        let host = Resolver::of_host();
        let wanted = &container.network;
        let session = match &wanted.mode {
            // Those in the machine of another one make nothing of their own.
            Mode::None | Mode::Container(_) => Self::default(),
            Mode::Default | Mode::User if !passt::installed() => Self::without_passt(wanted)?,
            Mode::Default | Mode::User if wanted.egress.is_some() => {
                Self::watched(container, paths)?
            }
            Mode::Default | Mode::User => Self::user(container, &host)?,
            Mode::Network(name) => Self::on_network(container, paths, name)?,
            Mode::Tap(tap) => Self::tap(container, tap, &host),
            Mode::Bridge => Self::bridge(container, paths)?,
        };
        Ok(Self { host, ..session })
    }

    /// A network that another one keeps up: there is nothing to be set up for it.
    pub fn shared(attachment: Attachment) -> Self {
        Self {
            attachment,
            host: Resolver::of_host(),
            ..Self::default()
        }
    }

    /// The interface of a container that asks for nothing, without anything behind it.
    ///
    /// # Errors
    /// There is no socket to be had.
    pub fn rehearsal() -> Result<Self, NetworkError> {
        let (near, far) = pair()?;
        let mac = mac_of(passt::ADDRESS);
        Ok(Self {
            attachment: Attachment::user(mac, passt::ipv6_interface().is_some()),
            config: Some(stream(&near, mac)),
            socket: Some(near),
            _silent: Some(far),
            ..Self::default()
        })
    }

    fn without_passt(wanted: &Wanted) -> Result<Self, NetworkError> {
        if wanted.mode == Mode::User || !wanted.all_published().is_empty() {
            return Err(NetworkError::NoPasst);
        }
        log::warn!(
            "the container has no network: there is no passt on the PATH; {PACKAGE}, or give \
             --network none to do without"
        );
        Ok(Self::default())
    }

    fn user(container: &Container, host: &Resolver) -> Result<Self, NetworkError> {
        let ports = ports::choose(&container.network.all_published())?;
        let forward_dns = host.is_local();
        let mut names = container.hosts.iter();
        let by_name = names.any(|(_, address)| address == HOST_GATEWAY);
        // This passt sends answers to UDP from the host's loopback by the same way as all else.
        let by_answer = |port: &Bound| port.protocol == Protocol::Udp && port.address.is_loopback();
        let host_loopback = by_name || ports.iter().any(by_answer);
        let mac = container.network.mac.unwrap_or(mac_of(passt::ADDRESS));
        let ipv6 = passt::ipv6_interface();
        let attachment = Attachment {
            resolvers: if forward_dns {
                vec![passt::RESOLVER.into()]
            } else {
                host.servers.clone()
            },
            host_gateway: by_name.then_some(passt::GATEWAY.into()),
            ports: ports.clone(),
            ..Attachment::user(mac, ipv6.is_some())
        };
        let (near, far) = pair()?;
        let plan = Plan {
            ports,
            ipv6,
            forward_dns,
            host_loopback,
            place: passt::Place::default(),
        };
        Ok(Self {
            config: Some(stream(&near, mac)),
            attachment,
            socket: Some(near),
            passt: Some(Passt::new(plan, far)?),
            ..Self::default()
        })
    }

    /// Whoever made the tap knows what is on it.
    fn tap(container: &Container, tap: &Tap, host: &Resolver) -> Self {
        let mac = container
            .network
            .mac
            .unwrap_or_else(|| of_id(container.id.as_str()));
        let config = NetConfig {
            backend: NetBackend::Tap(tap.name.clone()),
            mac,
            mtu: None,
            finish_handshakes: false,
            rate: None,
        };
        Self {
            attachment: Attachment {
                network: container.network.mode.name(),
                mac: Some(mac),
                addresses: tap.addresses.clone(),
                gateways: tap.gateways.clone(),
                resolvers: host.servers.clone(),
                ..Attachment::default()
            },
            config: Some(config),
            ..Self::default()
        }
    }

    fn bridge(container: &Container, paths: &Paths) -> Result<Self, NetworkError> {
        let wanted = &container.network;
        let ask = bridge::Ask {
            container: container.id.as_str(),
            address: wanted.address,
            mac: wanted.mac,
            ports: ports::choose(&wanted.all_published())?,
            egress: wanted.egress.clone(),
        };
        let mut port = Port::new(&paths.state, &ask)?;
        let tap = port.tap.take();
        let config = tap.as_ref().map(|tap| NetConfig {
            backend: NetBackend::TapFd(tap.as_raw_fd()),
            mac: port.mac,
            mtu: Some(bridge::MTU),
            finish_handshakes: false,
            rate: None,
        });
        Ok(Self {
            attachment: Attachment {
                network: bridge::NAME.to_owned(),
                mac: Some(port.mac),
                addresses: vec![port.address.to_string()],
                gateways: vec![port.gateway.into()],
                resolvers: Resolver::of_uplink().servers,
                host_gateway: Some(port.gateway.into()),
                ports: ask.ports,
                ..Attachment::default()
            },
            config,
            socket: tap,
            _bridge: Some(port),
            ..Self::default()
        })
    }

    /// For the machine's document.
    pub fn config(&self) -> Option<NetConfig> {
        self.config.clone()
    }

    /// For the monitor, which inherits it.
    pub fn take_socket(&mut self) -> Option<OwnedFd> {
        self.socket.take()
    }

    /// For the agent.
    pub fn interfaces(&self) -> Vec<Interface> {
        match self.config {
            Some(_) => self.attachment.interfaces(),
            None => Vec::new(),
        }
    }

    /// Waits until the published ports are listened on.
    ///
    /// # Errors
    /// Why they are not.
    pub fn settle(&mut self) -> Result<(), NetworkError> {
        self.passt.as_mut().map_or(Ok(()), Passt::settle)
    }

    /// Readable when [`Self::start`] is due.
    pub fn wanted(&self) -> Option<BorrowedFd<'_>> {
        self.passt.as_ref().and_then(Passt::wanted)
    }

    /// Starts what was put off until the container needs it.
    ///
    /// # Errors
    /// Why it has no network now.
    pub fn start(&mut self) -> Result<(), NetworkError> {
        let Some(passt) = &mut self.passt else {
            return Ok(());
        };
        passt.start()?;
        passt.settle()
    }
}

/// A device whose frames go through this socket to a passt.
fn stream(socket: &OwnedFd, mac: Mac) -> NetConfig {
    NetConfig {
        backend: NetBackend::StreamFd(socket.as_raw_fd()),
        mac,
        mtu: None,
        finish_handshakes: true,
        rate: None,
    }
}

/// Whether this is the one device that containers have unless they ask for another: templates have
/// it, too.
pub fn is_usual(devices: &[NetConfig]) -> bool {
    match devices {
        [device] => {
            matches!(device.backend, NetBackend::StreamFd(_))
                && device.mac == mac_of(passt::ADDRESS)
        }
        _ => false,
    }
}

/// Locally administered, and the first digits of the container's ID.
fn of_id(id: &str) -> Mac {
    let mut mac = [0x02, 0x42, 0, 0, 0, 0];
    for (byte, digits) in mac[2..].iter_mut().zip(id.as_bytes().chunks(2)) {
        let digits = std::str::from_utf8(digits).unwrap_or_default();
        *byte = u8::from_str_radix(digits, 16).unwrap_or(0);
    }
    Mac(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_interfaces() {
        assert_eq!(mac_of(passt::ADDRESS).to_string(), "02:42:0a:00:02:64");
        assert_eq!(of_id("0123456789ab").to_string(), "02:42:01:23:45:67");
    }
}
