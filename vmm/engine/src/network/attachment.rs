// SPDX-License-Identifier: Apache-2.0
//! What a container has of its networks while it runs, as it is recorded.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use walnut_netlink::Cidr;
use walnut_protocol::agent::Interface;
use walnut_vmm_config::{MAX_MTU, Mac};

use super::{Bound, bridge, passt};

/// The network that a container has for itself.
pub(super) const USER: &str = "user";

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
    /// Of its interface: 0 is `eth0`.
    #[serde(skip_serializing_if = "is_zero")]
    pub index: u8,
    /// Of the machine's network devices, by their places.
    #[serde(skip_serializing_if = "is_zero")]
    pub device: u8,
    /// How many places of network devices there are, and how many of them the machine came up with:
    /// said of the first alone.
    #[serde(skip_serializing_if = "is_zero")]
    pub devices: u8,
    #[serde(skip_serializing_if = "is_zero")]
    pub at_boot: u8,
    /// What it has of other networks; those have no others.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<Attachment>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(number: &u8) -> bool {
    *number == 0
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
    pub(super) fn user(mac: Mac, ipv6: bool) -> Self {
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

    /// One by one, the first first; none of no network.
    pub fn all(&self) -> impl Iterator<Item = &Self> + Clone {
        let first = Some(self).filter(|first| !first.network.is_empty());
        first.into_iter().chain(&self.others)
    }

    /// The ports of all.
    pub fn bound(&self) -> impl Iterator<Item = &Bound> + Clone {
        self.all().flat_map(|one| &one.ports)
    }

    /// Where names are asked for: of a network's own gateway, if there is one that has a way out or
    /// knows somebody who has. The others' names come to it by their switches.
    pub fn servers(&self) -> Vec<IpAddr> {
        let asks: Vec<_> = self.all().filter(|one| one.asks_gateway).collect();
        let way_out = asks.iter().find(|one| !one.gateways.is_empty());
        let others = self.all().filter(|one| !one.asks_gateway);
        match (way_out, asks.first()) {
            (Some(one), _) => one.resolvers.clone(),
            (None, Some(inside)) => {
                let others = others.flat_map(|one| &one.resolvers);
                inside.resolvers.iter().chain(others).copied().collect()
            }
            (None, None) => others
                .take(1)
                .flat_map(|one| &one.resolvers)
                .copied()
                .collect(),
        }
    }

    /// `default` where everything goes that is for no network that the container is on.
    pub(super) fn interface(&self, default: bool) -> Option<Interface> {
        let gateways = self.gateways.iter().filter(|_| default);
        let of = |mac: Mac| Interface {
            mac: mac.to_string(),
            name: format!("eth{}", self.index),
            mtu: self.mtu,
            addresses: self.addresses.clone(),
            gateways: gateways.map(ToString::to_string).collect(),
            announce: self.must_announce(),
            // IPv6 would have a lot to say as soon as it is up, and passt be started for that.
            quiet: self.ports.is_empty() && self.network == USER && !self.asks_gateway,
            ..Interface::default()
        };
        self.mac.map(of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(network: &str, server: [u8; 4], asks_gateway: bool, way_out: bool) -> Attachment {
        Attachment {
            network: network.to_owned(),
            resolvers: vec![server.into()],
            asks_gateway,
            gateways: way_out.then_some(server.into()).into_iter().collect(),
            ..Attachment::default()
        }
    }

    #[test]
    fn who_is_asked_for_names() {
        let (a, b, c) = ([10, 89, 0, 1], [10, 89, 1, 1], [192, 0, 2, 53]);
        let with = |mut first: Attachment, others: Vec<Attachment>| {
            first.others = others;
            first.servers()
        };
        let user = || on("user", c, false, true);
        assert!(Attachment::default().servers().is_empty());
        assert_eq!(with(user(), vec![]), [IpAddr::from(c)]);
        assert_eq!(
            with(user(), vec![on("b", b, true, true)]),
            [IpAddr::from(b)]
        );
        let both = [IpAddr::from(b), c.into()];
        assert_eq!(with(user(), vec![on("b", b, true, false)]), both);
        let inside = on("a", a, true, false);
        assert_eq!(
            with(inside.clone(), vec![on("b", b, true, true)]),
            [IpAddr::from(b)]
        );
        assert_eq!(
            with(inside, vec![on("b", b, true, false)]),
            [IpAddr::from(a)]
        );
    }
}
