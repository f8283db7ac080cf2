// SPDX-License-Identifier: Apache-2.0
//! `walnut port`, and what `ps` and `inspect` say about a container's network.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};

use serde_json::{Value, json};

use super::{Known, VerbError, network, refused};
use crate::cli::look::PortArgs;
use crate::container::Container;
use crate::network::{Attachment, Bound, Mode, Protocol, Publish, Wanted, names_of};
use crate::networks::Networks;
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

/// `ps`'s column: what is published, and of a container that runs, what is exposed only.
pub fn listed(container: &Container, network: &Attachment) -> String {
    let bound = network.bound().map(|bound| Listed {
        port: bound.container,
        address: Some(bound.address),
        host: bound.host,
        protocol: bound.protocol,
    });
    let is_published = |port: &(u16, Protocol)| {
        let mut bound = network.bound();
        bound.any(|bound| (bound.container, bound.protocol) == *port)
    };
    let exposed = container.network.exposed.iter();
    let exposed = exposed.filter(|port| !is_published(port));
    let exposed = exposed.map(|&(port, protocol)| Listed {
        port,
        address: None,
        host: port,
        protocol,
    });
    let is_up = network.all().next().is_some();
    fold(bound.chain(exposed.filter(|_| is_up)).collect())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Listed {
    port: u16,
    /// None where it is exposed only.
    address: Option<IpAddr>,
    host: u16,
    protocol: Protocol,
}

/// As Docker does: neighbours that have the same number on the host are one entry, those that have
/// another number are one each, at the end.
fn fold(mut all: Vec<Listed>) -> String {
    all.sort_unstable();
    let mut done: Vec<String> = Vec::new();
    let mut open: Vec<(Listed, u16)> = Vec::new();
    let mut others = Vec::new();
    for one in all {
        if let Some(address) = one.address.filter(|_| one.host != one.port) {
            let place = SocketAddr::new(address, one.host);
            others.push(format!("{place}->{}/{}", one.port, one.protocol));
            continue;
        }
        let kind = |other: &Listed| (other.address, other.protocol);
        match open.iter_mut().find(|(first, _)| kind(first) == kind(&one)) {
            None => open.push((one, one.port)),
            Some((_, last)) if last.checked_add(1) == Some(one.port) => *last = one.port,
            Some(run) => {
                done.push(run_of(*run));
                *run = (one, one.port);
            }
        }
    }
    done.extend(open.into_iter().map(run_of));
    done.extend(others);
    done.join(", ")
}

/// `127.0.0.1:8000-8010->8000-8010/tcp`
fn run_of((first, last): (Listed, u16)) -> String {
    let ports = match first.port == last {
        true => last.to_string(),
        false => format!("{}-{last}", first.port),
    };
    let way = match first.address {
        None => String::new(),
        Some(IpAddr::V6(address)) => format!("[{address}]:{ports}->"),
        Some(address) => format!("{address}:{ports}->"),
    };
    format!("{way}{ports}/{}", first.protocol)
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

/// `NetworkSettings`: what it has while it runs; otherwise, what it will be on.
pub(super) fn settings(known: &Known, paths: &Paths) -> Value {
    let attachment = &known.state.network;
    let container = &known.config.container;
    let mut ports: BTreeMap<String, Value> = BTreeMap::new();
    for bound in attachment.bound() {
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
    let is_up = known.state.is_up();
    for (port, protocol) in container.network.exposed.iter().filter(|_| is_up) {
        let name = format!("{port}/{protocol}");
        ports.entry(name).or_insert(Value::Null);
    }
    let mut settings = place(attachment);
    for empty in ["Bridge", "SandboxID", "SandboxKey"] {
        settings[empty] = "".into();
    }
    settings["Ports"] = json!(ports);
    settings["Networks"] = json!(endpoints(known, paths));
    settings
}

fn endpoints(known: &Known, paths: &Paths) -> serde_json::Map<String, Value> {
    let container = &known.config.container;
    let networks = Networks::new(paths);
    let is_up = known.state.is_up();
    let endpoint = |attachment: &Attachment, wanted: Option<&Wanted>| {
        let mut place = place(attachment);
        let aliases = wanted.map(|wanted| wanted.aliases.as_slice());
        place["Aliases"] = json!(aliases.unwrap_or_default());
        place["NetworkID"] = network::id_of(&attachment.network, &networks).into();
        place["EndpointID"] = if is_up { known.entry.id() } else { "" }.into();
        // Found by these on a network of the user's own alone.
        place["DNSNames"] = match wanted {
            Some(wanted) if matches!(wanted.mode, Mode::Network(_)) => {
                let container = Container {
                    network: wanted.clone(),
                    ..container.clone()
                };
                json!(names_of(&container))
            }
            _ => Value::Null,
        };
        for empty in ["IPAMConfig", "Links", "DriverOpts"] {
            place[empty] = Value::Null;
        }
        (attachment.network.clone(), place)
    };
    let wanted = container.network.each();
    if is_up {
        let all = known.state.network.all();
        let of = |one: &Attachment| wanted.iter().find(|w| w.mode.network() == one.network);
        return all.map(|one| endpoint(one, of(one))).collect();
    }
    let wanted = wanted.iter();
    let own = wanted.filter(|one| !matches!(one.mode, Mode::None | Mode::Container(_)));
    let idle = own.map(|one| {
        let attachment = Attachment {
            network: one.mode.network(),
            ..Attachment::default()
        };
        endpoint(&attachment, Some(one))
    });
    idle.collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_one_entry() {
        let one = |port, address: Option<&str>, host, protocol| Listed {
            port,
            address: address.map(|address| address.parse().unwrap()),
            host,
            protocol,
        };
        let (local, tcp, udp) = (Some("127.0.0.1"), Protocol::Tcp, Protocol::Udp);
        let mut all: Vec<_> = (8000..=8100).map(|n| one(n, local, n, tcp)).collect();
        assert_eq!(fold(all.clone()), "127.0.0.1:8000-8100->8000-8100/tcp");
        all.extend([
            one(90, local, 9090, tcp),
            one(91, local, 9091, tcp),
            one(53, None, 53, udp),
            one(54, None, 54, udp),
            one(56, None, 56, udp),
            one(8101, Some("::1"), 8101, tcp),
            one(8101, local, 8101, udp),
        ]);
        assert_eq!(
            fold(all),
            "53-54/udp, 56/udp, 127.0.0.1:8000-8100->8000-8100/tcp, 127.0.0.1:8101->8101/udp, \
             [::1]:8101->8101/tcp, 127.0.0.1:9090->90/tcp, 127.0.0.1:9091->91/tcp"
        );
        assert_eq!(fold(Vec::new()), "");
    }
}
