// SPDX-License-Identifier: Apache-2.0
//! A container's place on one network, for one life of its machine.

mod switched;

pub use switched::{names_of, renamed};

use std::os::fd::{AsRawFd, OwnedFd};

use rustix::net::sockopt::{set_socket_send_buffer_size, set_socket_send_buffer_size_force};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use walnut_vmm_config::{Mac, NetBackend, NetConfig};

use super::attachment::Attachment;
use super::bridge::{self, Port};
use super::member::Remains;
use super::passt::{self, Passt, Plan};
use super::ports::Claim;
use super::{
    Bound, HOST_GATEWAY, Mode, NetworkError, PACKAGE, Protocol, Resolver, Tap, Wanted, mac_of,
    ports,
};
use crate::container::Container;
use crate::paths::Paths;

/// An attachment to one network, with what keeps it up.
#[derive(Debug, Default)]
pub struct End {
    pub attachment: Attachment,
    pub(super) config: Option<NetConfig>,
    /// The monitor's end of the network.
    pub(super) socket: Option<OwnedFd>,
    pub(super) passt: Option<Passt>,
    /// Of the switch that it is on.
    pub(super) switch: Option<String>,
    _bridge: Option<Port>,
    /// Given up after all that listens.
    _claim: Option<Claim>,
    /// Of a switch that has this container alone: nobody else ever joins it.
    _remains: Option<Remains>,
    /// Holds the other end open, where nobody else does.
    _silent: Option<OwnedFd>,
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

impl End {
    /// On the one network that the container asks for first; none where that is none.
    ///
    /// # Errors
    /// A port is taken, or something that is needed is missing.
    pub(super) fn prepare(container: &Container, paths: &Paths) -> Result<Self, NetworkError> {
        let wanted = &container.network;
        match &wanted.mode {
            // Those in the machine of another one make nothing of their own.
            Mode::None | Mode::Container(_) => Ok(Self::default()),
            Mode::Default | Mode::User if !passt::installed() => Self::without_passt(wanted),
            Mode::Default | Mode::User if wanted.egress.is_some() => {
                Self::watched(container, paths)
            }
            Mode::Default | Mode::User => Self::user(container, paths, &Resolver::of_host()),
            Mode::Network(name) => Self::on_network(container, paths, name),
            Mode::Tap(tap) => Ok(Self::tap(container, tap, &Resolver::of_uplink())),
            Mode::Bridge => Self::bridge(container, paths),
        }
        .inspect(|end| end.warn_of_names(container))
    }

    /// Where the host resolves by its loopback and nobody knows who is behind that, an own address is no way
    /// to it.
    fn warn_of_names(&self, container: &Container) {
        let is_own = matches!(container.network.mode, Mode::Tap(_) | Mode::Bridge);
        let is_known = !container.dns.servers.is_empty() || !self.attachment.servers().is_empty();
        if is_own && !is_known && Resolver::of_host().is_local() {
            let network = container.network.mode.name();
            log::warn!(
                "the host's name server is on its loopback, where --network {network} does not reach: no names \
                 are found without --dns ADDRESS"
            );
        }
    }

    /// What another one keeps up.
    pub(super) fn shared(attachment: Attachment) -> Self {
        Self {
            attachment,
            ..Self::default()
        }
    }

    /// The interface of a container that asks for nothing, without anything behind it.
    ///
    /// # Errors
    /// There is no socket to be had.
    pub(super) fn rehearsal() -> Result<Self, NetworkError> {
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
        let asks = wanted.egress.is_some() || !wanted.all_published().is_empty();
        if wanted.mode == Mode::User || asks {
            return Err(NetworkError::NoPasst);
        }
        log::warn!(
            "the container has no network: there is no passt on the PATH; {PACKAGE}, or give \
             --network none to do without"
        );
        Ok(Self::default())
    }

    fn user(container: &Container, paths: &Paths, host: &Resolver) -> Result<Self, NetworkError> {
        let published = container.network.all_published();
        let ipv6 = passt::ipv6_interface();
        if let (None, Some(address)) = (&ipv6, ports::ipv6(&published)) {
            return Err(NetworkError::PublishIpv6(address));
        }
        let (ports, claim) = ports::choose(&published, paths)?;
        let forward_dns = host.is_local();
        let mut names = container.hosts.iter();
        let by_name = names.any(|(_, address)| address == HOST_GATEWAY);
        // This passt sends answers to UDP from the host's loopback by the same way as all else.
        let by_answer = |port: &Bound| port.protocol == Protocol::Udp && port.address.is_loopback();
        let host_loopback = by_name || ports.iter().any(by_answer);
        let mac = container.network.mac.unwrap_or(mac_of(passt::ADDRESS));
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
            _claim: claim,
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
        let published = wanted.all_published();
        let (ports, mut claim) = ports::choose(&published, paths)?;
        // Nobody connects to these: packets are translated before they get there.
        claim.iter_mut().try_for_each(|claim| claim.hold(&ports))?;
        let ask = bridge::Ask {
            container: container.id.as_str(),
            address: wanted.address,
            mac: wanted.mac,
            ports,
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
            _claim: claim,
            ..Self::default()
        })
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
