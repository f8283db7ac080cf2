// SPDX-License-Identifier: Apache-2.0
//! A network as `network inspect` and `ls` show it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::{Value, json};
use walnut_netlink::Cidr;

use crate::image::Digest;
use crate::network::{self, Mode};
use crate::networks::{Member, Network, Networks, NetworksError, PREDEFINED};
use crate::times::or_never;
use crate::verb::VerbError;

pub(super) const DRIVER: &str = "switch";

/// As a document for `inspect` and for rows.
#[derive(Clone)]
pub(super) struct Shown {
    pub id: String,
    pub name: String,
    pub driver: &'static str,
    pub network: Option<Network>,
}

impl Shown {
    pub(super) fn all(networks: &Networks<'_>) -> Result<Vec<Self>, VerbError> {
        let own = networks.list()?.into_iter().map(Self::of);
        let mut all: Vec<_> = PREDEFINED
            .iter()
            .map(|name| Self::predefined(name))
            .collect();
        all.extend(own);
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }

    pub(super) fn of(network: Network) -> Self {
        Self {
            id: network.id.clone(),
            name: network.name.clone(),
            driver: DRIVER,
            network: Some(network),
        }
    }

    /// Always there, under the same ID everywhere.
    fn predefined(name: &str) -> Self {
        let digest = Digest::of(format!("walnut network {name}").as_bytes()).to_string();
        Self {
            id: digest.rsplit(':').next().unwrap_or_default().to_owned(),
            name: name.to_owned(),
            driver: match name {
                "bridge" => "bridge",
                "none" => "null",
                _ => "passt",
            },
            network: None,
        }
    }

    pub(super) fn find(name: &str, networks: &Networks<'_>) -> Result<Self, NetworksError> {
        match PREDEFINED.contains(&name) {
            true => Ok(Self::predefined(name)),
            false => networks.find(name).map(Self::of),
        }
    }

    pub(super) fn labels(&self) -> BTreeMap<String, String> {
        let network = self.network.as_ref();
        network
            .map(|network| network.labels.clone())
            .unwrap_or_default()
    }

    pub(super) fn internal(&self) -> bool {
        self.network
            .as_ref()
            .is_some_and(|network| network.internal)
    }

    pub(super) fn has_ipv6(&self) -> bool {
        let name = self.network.is_none().then_some(self.name.as_str());
        name.is_some_and(|name| has_ipv6(&network::ranges(name)))
    }

    fn ranges(&self, networks: &Networks<'_>) -> Vec<(Cidr, IpAddr)> {
        match &self.network {
            Some(network) => vec![(network.subnet(), network.gateway.into())],
            None => networks.ranges(&self.name),
        }
    }

    pub(super) fn document(&self, networks: &Networks<'_>) -> Value {
        let ranges = self.ranges(networks);
        let range = |(subnet, gateway): &(Cidr, IpAddr)| {
            let (subnet, gateway) = (subnet.to_string(), gateway.to_string());
            json!({ "Subnet": subnet, "Gateway": gateway })
        };
        let config: Vec<Value> = ranges.iter().map(range).collect();
        let members = networks.members(&self.name);
        let containers: serde_json::Map<String, Value> = members
            .iter()
            .filter_map(|one| member(one, &self.name))
            .collect();
        let created = self.network.as_ref().map(|network| network.created);
        json!({
            "Name": self.name,
            "Id": self.id,
            "Created": or_never(created),
            "Scope": "local",
            "Driver": self.driver,
            "EnableIPv4": true,
            "EnableIPv6": has_ipv6(&ranges),
            "IPAM": { "Driver": "default", "Options": {}, "Config": config },
            "Internal": self.internal(),
            "Attachable": false,
            "Ingress": false,
            "ConfigFrom": { "Network": "" },
            "ConfigOnly": false,
            "Containers": containers,
            "Options": {},
            "Labels": self.labels(),
        })
    }
}

fn has_ipv6(ranges: &[(Cidr, IpAddr)]) -> bool {
    ranges.iter().any(|(_, gateway)| gateway.is_ipv6())
}

/// None of who asked for it, and has it not: without passt, there is no `user`.
fn member((entry, config, state): &Member, network: &str) -> Option<(String, Value)> {
    let mut all = state.network.all();
    let place = all.find(|one| one.network == network);
    if place.is_none() && network == Mode::User.name() {
        return None;
    }
    let address = place.and_then(|place| Some(place.cidr()?.to_string()));
    let v6 = place.and_then(|place| Some(place.cidr_v6()?.to_string()));
    let mac = place.and_then(|place| Some(place.mac?.to_string()));
    let document = json!({
        "Name": config.name(),
        "EndpointID": entry.id(),
        "MacAddress": mac.unwrap_or_default(),
        "IPv4Address": address.unwrap_or_default(),
        "IPv6Address": v6.unwrap_or_default(),
    });
    Some((entry.id().to_owned(), document))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::testing::container;
    use crate::network::Attachment;
    use crate::paths::Paths;
    use crate::record::{Config, Registry, State, Status};

    fn on(network: &str, addresses: &[&str], gateway: &str) -> State {
        State {
            status: Status::Running,
            network: Attachment {
                network: network.to_owned(),
                addresses: addresses.iter().map(ToString::to_string).collect(),
                gateways: vec![gateway.parse().unwrap()],
                ..Attachment::default()
            },
            ..State::default()
        }
    }

    #[test]
    fn predefined_ones_say_who_is_there() {
        let temp = tempfile::tempdir().unwrap();
        let paths = Paths::within(temp.path());
        let (networks, registry) = (Networks::new(&paths), Registry::new(&paths));
        let document = |name| Shown::predefined(name).document(&networks);
        assert_eq!(
            document("user")["IPAM"]["Config"][0]["Subnet"],
            "10.0.2.0/24"
        );
        assert_eq!(document("none")["IPAM"]["Config"], json!([]));
        assert_eq!(document("bridge")["Containers"], json!({}));
        let mut held = Vec::new();
        for (flags, state) in [
            (
                &["--name", "plain"][..],
                on("user", &["10.0.2.100/24", "fd57::64/64"], "10.0.2.2"),
            ),
            (&["--name", "off"], on("", &[], "10.0.2.2")),
            (
                &["--name", "low", "--network", "bridge"],
                on("bridge", &["192.0.2.2/28"], "192.0.2.1"),
            ),
        ] {
            let mut config = Config::new(container(flags), "image", None, None);
            held.push(registry.create(&mut config, &state).unwrap());
        }
        let of = |name| {
            let document = document(name);
            let all = document["Containers"].as_object().unwrap().clone();
            (
                all.into_iter().map(|(_, one)| one).collect::<Vec<_>>(),
                document,
            )
        };
        let (there, _) = of("user");
        assert_eq!(there.len(), 1);
        assert_eq!(
            (&there[0]["Name"], &there[0]["IPv6Address"]),
            (&json!("plain"), &json!("fd57::64/64"))
        );
        let (there, bridge) = of("bridge");
        assert_eq!(there[0]["IPv4Address"], "192.0.2.2/28");
        let config = json!([{ "Subnet": "192.0.2.0/28", "Gateway": "192.0.2.1" }]);
        assert_eq!(bridge["IPAM"]["Config"], config);
        assert_eq!(bridge["EnableIPv6"], false);
    }
}
