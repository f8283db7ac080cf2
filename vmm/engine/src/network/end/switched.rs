// SPDX-License-Identifier: Apache-2.0
//! A container behind a switch: on a network of the user's own, or alone, where what leaves it is
//! looked at (`--egress`).

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, AsRawFd};

use walnut_netlink::Cidr;
use walnut_switch::{Join, Network as Switched};
use walnut_vmm_config::{MAX_MTU, NetBackend, NetConfig};

use super::{End, pair};
use crate::container::{Container, ContainerId};
use crate::network::attachment::{Attachment, USER};
use crate::network::member::{self, Remains};
use crate::network::passt::{self, Passt, Plan};
use crate::network::{
    Bound, HOST_GATEWAY, Mode, NetworkError, Protocol, Publish, Resolver, Wanted, ports,
};
use crate::networks::Networks;
use crate::paths::Paths;

/// What the switch needs to know, and its key.
struct Place {
    key: String,
    name: String,
    gateway: Cidr,
    internal: bool,
    address: Option<Ipv4Addr>,
}

impl Place {
    /// Before anything is made.
    fn check(&self, wanted: &Wanted, published: &[Publish]) -> Result<(), NetworkError> {
        if self.internal && !published.is_empty() {
            return Err(NetworkError::Internal(self.name.clone()));
        }
        if !self.internal && !passt::installed() {
            return Err(NetworkError::NoPasstOn(self.name.clone()));
        }
        let Some(address) = ports::ipv6(published) else {
            return Ok(());
        };
        let network = match wanted.mode {
            Mode::Network(_) => format!("the network {}", self.name),
            _ => "--network user with --egress".to_owned(),
        };
        Err(NetworkError::SwitchedIpv6 { network, address })
    }

    /// Whether the host is looked for there by a name; inside, nobody is at the gateway's address.
    fn knows_host(&self, container: &Container) -> bool {
        let mut names = container.hosts.iter();
        !self.internal && names.any(|(_, address)| address == HOST_GATEWAY)
    }

    /// What all containers have there.
    fn attachment(&self, gateway: IpAddr) -> Attachment {
        Attachment {
            network: self.name.clone(),
            gateways: (!self.internal).then_some(gateway).into_iter().collect(),
            mtu: MAX_MTU.into(),
            resolvers: vec![gateway],
            asks_gateway: true,
            ..Attachment::default()
        }
    }
}

impl End {
    /// On the network that the user made.
    pub(super) fn on_network(
        container: &Container,
        paths: &Paths,
        name: &str,
    ) -> Result<Self, NetworkError> {
        let network = Networks::new(paths).find(name)?;
        let place = Place {
            key: network.key().to_owned(),
            gateway: network.gateway_cidr(),
            internal: network.internal,
            address: container.network.address,
            name: network.name,
        };
        Self::switched(container, paths, place)
    }

    /// As without a switch, but for what may leave.
    pub(super) fn watched(container: &Container, paths: &Paths) -> Result<Self, NetworkError> {
        // Another one for each life: the last one's may be about to end.
        let key = ContainerId::random().map_err(NetworkError::Key)?;
        let place = Place {
            key: key.short().to_owned(),
            name: USER.to_owned(),
            gateway: Cidr {
                address: passt::GATEWAY.into(),
                prefix: passt::PREFIX,
            },
            internal: false,
            address: Some(passt::ADDRESS),
        };
        let remains = Remains::of(paths, &place.key);
        let mut session = Self::switched(container, paths, place)?;
        session._remains = Some(remains);
        Ok(session)
    }

    fn switched(container: &Container, paths: &Paths, place: Place) -> Result<Self, NetworkError> {
        let wanted = &container.network;
        let published = wanted.all_published();
        place.check(wanted, &published)?;
        let (ports, claim) = ports::choose(&published, paths)?;
        let by_name = place.knows_host(container);
        let host = Resolver::of_host();
        let IpAddr::V4(gateway) = place.gateway.address else {
            return Err(NetworkError::Internal(place.name));
        };
        let (near, machine) = pair()?;
        let (uplink, outside) = match place.internal {
            true => (None, None),
            false => pair().map(|(near, far)| (Some(near), Some(far)))?,
        };
        let join = Join {
            container: container.id.to_string(),
            names: names_of(container),
            address: place.address,
            mac: wanted.mac,
            host: by_name,
            resolvers: resolvers(container, &host),
            egress: wanted.egress.clone(),
        };
        let network = Switched {
            name: place.name.clone(),
            gateway,
            prefix: place.gateway.prefix,
        };
        let uplink = uplink.as_ref().map(AsFd::as_fd);
        let joined = member::join(paths, &place.key, &network, &join, machine.as_fd(), uplink)?;
        let by_answer = |port: &Bound| port.protocol == Protocol::Udp && port.address.is_loopback();
        let plan = Plan {
            host_loopback: by_name || ports.iter().any(by_answer),
            ports: ports.clone(),
            ipv6: None,
            forward_dns: host.is_local(),
            place: passt::Place {
                address: joined.address,
                prefix: place.gateway.prefix,
                gateway,
                resolver: passt::LINK_RESOLVER,
            },
        };
        let passt = outside.map(|far| Passt::new(plan, far)).transpose()?;
        let address = Cidr {
            address: joined.address.into(),
            ..place.gateway
        };
        Ok(Self {
            attachment: Attachment {
                mac: Some(joined.mac),
                addresses: vec![address.to_string()],
                host_gateway: by_name.then_some(gateway.into()),
                ports,
                ..place.attachment(gateway.into())
            },
            config: Some(NetConfig {
                backend: NetBackend::StreamFd(near.as_raw_fd()),
                mac: joined.mac,
                mtu: None,
                finish_handshakes: false,
                rate: None,
            }),
            socket: Some(near),
            passt,
            _claim: claim,
            switch: Some(place.key),
            ..Self::default()
        })
    }
}

/// Tells the switches of a container that runs its name as it is now; of the networks where that fails,
/// why.
pub fn renamed(container: &Container, paths: &Paths) -> Vec<(String, NetworkError)> {
    let mut failed = Vec::new();
    for one in container.network.each() {
        let Mode::Network(name) = one.mode.clone() else {
            continue;
        };
        let mut container = container.clone();
        container.network = one;
        let names = names_of(&container);
        let told = Networks::new(paths)
            .find(&name)
            .map_err(NetworkError::from)
            .and_then(|network| {
                let told = member::rename(paths, network.key(), container.id.as_str(), names);
                Ok(told?)
            });
        if let Err(error) = told {
            failed.push((name, error));
        }
    }
    failed
}

/// By which others find it on a network of its own.
pub fn names_of(container: &Container) -> Vec<String> {
    let own = container.name.clone().into_iter();
    let mut all: Vec<String> = own
        .chain(container.network.aliases.iter().cloned())
        .chain([container.id.short().to_owned(), container.hostname.clone()])
        .collect();
    let mut seen = std::collections::HashSet::new();
    all.retain(|name| seen.insert(name.clone()));
    all
}

/// Who answers for all other names: what the flags say, else the host's.
fn resolvers(container: &Container, host: &Resolver) -> Vec<Ipv4Addr> {
    let ipv4 = |address: IpAddr| match address {
        IpAddr::V4(address) if !address.is_loopback() => Some(address),
        _ => None,
    };
    let given = container
        .dns
        .servers
        .iter()
        .filter_map(|text| text.parse().ok());
    let given: Vec<_> = given.filter_map(ipv4).collect();
    match given.is_empty() {
        false => given,
        true if host.is_local() => vec![passt::LINK_RESOLVER],
        true => host.servers.iter().copied().filter_map(ipv4).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::testing;

    #[test]
    fn where_the_host_is() {
        let place = |internal| Place {
            key: String::new(),
            name: "net".to_owned(),
            gateway: "10.89.0.1/24".parse().unwrap(),
            internal,
            address: None,
        };
        let asks = testing::container(&["--add-host", "host:host-gateway"]);
        let asks_not = testing::container(&["--add-host", "host:10.0.0.1"]);
        assert!(place(false).knows_host(&asks) && !place(false).knows_host(&asks_not));
        assert!(!place(true).knows_host(&asks));
    }
}
