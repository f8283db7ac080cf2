// SPDX-License-Identifier: Apache-2.0
//! `walnut port`, and what `ps` and `inspect` say about a container's network.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::SocketAddr;

use serde_json::{Value, json};

use super::{Known, VerbError, refused};
use crate::cli::look::PortArgs;
use crate::container::Container;
use crate::network::{Attachment, Bound, Publish};
use crate::paths::Paths;

/// Where the ports of a container are, a line each.
pub fn port(args: &PortArgs, paths: &Paths) -> Result<u8, VerbError> {
    let known = Known::find(&args.name, paths)?;
    let ports: Vec<_> = known.state.network.bound().collect();
    let mut out = io::stdout().lock();
    let mut say = |line: String| out.write_all(line.as_bytes()).map_err(VerbError::Stdout);
    let Some(wanted) = &args.port else {
        for bound in ports {
            say(format!("{} -> {}\n", inside(bound), outside(bound)))?;
        }
        return Ok(0);
    };
    let whole = match wanted.contains('/') {
        true => wanted.to_ascii_lowercase(),
        false => format!("{wanted}/tcp"),
    };
    let mut found = ports
        .iter()
        .filter(|bound| inside(bound) == whole)
        .peekable();
    if found.peek().is_none() {
        return refused(format!(
            "no public port '{wanted}' published for {}",
            args.name
        ));
    }
    for bound in found {
        say(format!("{}\n", outside(bound)))?;
    }
    Ok(0)
}

/// `ps`'s column: what is published, then what is exposed only.
pub fn listed(container: &Container, network: &Attachment) -> String {
    let published = network.bound().map(way);
    let exposed = container
        .network
        .exposed
        .iter()
        .filter(|&&(port, protocol)| {
            !network
                .bound()
                .any(|bound| (bound.container, bound.protocol) == (port, protocol))
        });
    let exposed = exposed.map(|(port, protocol)| format!("{port}/{protocol}"));
    let is_up = network.all().next().is_some();
    published
        .chain(exposed.filter(|_| is_up))
        .collect::<Vec<_>>()
        .join(", ")
}

/// `HostConfig.PortBindings`: what was asked for.
pub fn bindings(publish: &[Publish]) -> Value {
    let mut all: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for one in publish {
        let host = match one.host {
            None => String::new(),
            Some((first, last)) if first == last => first.to_string(),
            Some((first, last)) => format!("{first}-{last}"),
        };
        all.entry(format!("{}/{}", one.container, one.protocol))
            .or_default()
            .push(json!({ "HostIp": one.address.to_string(), "HostPort": host }));
    }
    json!(all)
}

/// `NetworkSettings`: what it has while it runs.
pub(super) fn settings(known: &Known) -> Value {
    let network = &known.state.network;
    let mut ports: BTreeMap<String, Value> = BTreeMap::new();
    for bound in network.bound() {
        let place = json!({
            "HostIp": bound.address.to_string(),
            "HostPort": bound.host.to_string(),
        });
        let places = ports.entry(inside(bound)).or_insert_with(|| json!([]));
        places
            .as_array_mut()
            .into_iter()
            .for_each(|all| all.push(place.clone()));
    }
    for (port, protocol) in &known.config.container.network.exposed {
        let name = format!("{port}/{protocol}");
        ports.entry(name).or_insert(Value::Null);
    }
    let wanted = &known.config.container.network;
    let aliases = |name: &str| -> Vec<String> {
        let all = wanted.each();
        let one = all.into_iter().find(|one| one.mode.name() == name);
        one.map(|one| one.aliases).unwrap_or_default()
    };
    let networks = network.all().map(|one| {
        let mut place = place(one);
        place["Aliases"] = json!(aliases(&one.network));
        place["EndpointID"] = known.entry.id().into();
        for empty in ["IPAMConfig", "Links", "DriverOpts"] {
            place[empty] = Value::Null;
        }
        (one.network.clone(), place)
    });
    let networks: serde_json::Map<String, Value> = networks.collect();
    let mut settings = place(network);
    for empty in ["Bridge", "SandboxID", "SandboxKey"] {
        settings[empty] = "".into();
    }
    settings["Ports"] = json!(ports);
    settings["Networks"] = json!(networks);
    settings
}

/// An endpoint, as `inspect` shows it.
fn place(network: &Attachment) -> Value {
    let address = network.address().map(|a| a.to_string()).unwrap_or_default();
    let gateway = |is_one: fn(&std::net::IpAddr) -> bool| {
        let found = network.gateways.iter().find(|gateway| is_one(gateway));
        found.map(ToString::to_string).unwrap_or_default()
    };
    let v6 = network.cidr_v6();
    json!({
        "IPAddress": address,
        "IPPrefixLen": network.cidr().map_or(0, |cidr| cidr.prefix),
        "Gateway": gateway(std::net::IpAddr::is_ipv4),
        "GlobalIPv6Address": v6.map(|cidr| cidr.address.to_string()).unwrap_or_default(),
        "GlobalIPv6PrefixLen": v6.map_or(0, |cidr| cidr.prefix),
        "IPv6Gateway": gateway(std::net::IpAddr::is_ipv6),
        "MacAddress": network.mac.map(|mac| mac.to_string()).unwrap_or_default(),
    })
}

/// `127.0.0.1:8080->80/tcp`
pub(super) fn way(bound: &Bound) -> String {
    format!("{}->{}", outside(bound), inside(bound))
}

fn inside(bound: &Bound) -> String {
    format!("{}/{}", bound.container, bound.protocol)
}

fn outside(bound: &Bound) -> String {
    SocketAddr::new(bound.address, bound.host).to_string()
}
