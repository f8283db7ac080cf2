// SPDX-License-Identifier: Apache-2.0
//! /etc/hosts, /etc/hostname and /etc/resolv.conf, as the engine writes them for each container.

use std::fmt::Write;
use std::net::IpAddr;

use crate::container::{Container, Dns};
use crate::network::{Attachment, HOST_GATEWAY, Resolver, Session};

pub const HOSTS: &str = "hosts";
pub const HOSTNAME: &str = "hostname";
pub const RESOLV_CONF: &str = "resolv.conf";

/// What is written for each container, and where it sees that.
pub(super) const GENERATED: &[(&str, &str)] = &[
    (HOSTS, "/etc/hosts"),
    (HOSTNAME, "/etc/hostname"),
    (RESOLV_CONF, "/etc/resolv.conf"),
];

pub fn all(container: &Container, session: &Session) -> [(&'static str, String); 3] {
    let (network, host) = (&session.attachment(), &session.host);
    [
        (
            HOSTS,
            hosts(&own_names(container), &container.hosts, network),
        ),
        (HOSTNAME, format!("{}\n", container.hostname)),
        (RESOLV_CONF, resolv_conf(&container.dns, host, network)),
    ]
}

/// The whole name, and what is before its first dot.
fn own_names(container: &Container) -> String {
    let mut whole = container.hostname.clone();
    if !container.domainname.is_empty() {
        whole = format!("{whole}.{}", container.domainname);
    }
    match whole.split_once('.') {
        Some((first, _)) => format!("{whole} {first}"),
        None => whole,
    }
}

/// Docker's, and the container's own names: without an address it is the loopback's second one, as
/// Debian has it.
fn hosts(own_names: &str, extra: &[(String, String)], network: &Attachment) -> String {
    let mut text = String::from(
        "127.0.0.1\tlocalhost\n\
         ::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::\tip6-localnet\n\
         ff00::\tip6-mcastprefix\n\
         ff02::1\tip6-allnodes\n\
         ff02::2\tip6-allrouters\n",
    );
    for (name, address) in extra {
        match network.all().find_map(|one| one.host_gateway) {
            Some(gateway) if address == HOST_GATEWAY => {
                let _ = writeln!(text, "{gateway}\t{name}");
            }
            // There is no way to the host.
            None if address == HOST_GATEWAY => {}
            _ => {
                let _ = writeln!(text, "{address}\t{name}");
            }
        }
    }
    let mut own: Vec<IpAddr> = Vec::new();
    for one in network.all() {
        own.extend(one.address());
        let v6 = one.cidr_v6().map(|cidr| cidr.address);
        own.extend(v6.filter(|v6| !own.contains(v6)));
    }
    if own.is_empty() {
        own.push([127, 0, 1, 1].into());
    }
    for address in own {
        let _ = writeln!(text, "{address}\t{own_names}");
    }
    text
}

/// The host's, with servers that the container can reach; what the flags say goes before it.
fn resolv_conf(dns: &Dns, host: &Resolver, network: &Attachment) -> String {
    let mut text = String::new();
    let asks_gateway = network.all().any(|one| one.asks_gateway);
    let servers: Vec<String> = if dns.servers.is_empty() || asks_gateway {
        let known = network.servers().into_iter();
        let reached = known.filter(|server| !server.is_loopback());
        reached.map(|server| server.to_string()).collect()
    } else {
        dns.servers.clone()
    };
    for server in servers {
        let _ = writeln!(text, "nameserver {server}");
    }
    // `--dns-search .` asks for none at all.
    let search = match dns.search.as_slice() {
        [] => host.search.clone(),
        [dot] if dot == "." => None,
        domains => Some(domains.join(" ")),
    };
    if let Some(search) = search {
        let _ = writeln!(text, "search {search}");
    }
    let options = match dns.options.as_slice() {
        [] => host.options.clone(),
        options => Some(options.join(" ")),
    };
    if let Some(options) = options {
        let _ = writeln!(text, "options {options}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network() -> Attachment {
        Attachment {
            network: "user".into(),
            addresses: vec!["10.0.2.100/24".into()],
            resolvers: vec![[127, 0, 0, 1].into(), [9, 9, 9, 9].into()],
            host_gateway: Some([10, 0, 2, 2].into()),
            ..Attachment::default()
        }
    }

    #[test]
    fn hosts_know_the_container() {
        let extra = [
            ("db".into(), "10.0.0.2".into()),
            ("host".into(), HOST_GATEWAY.into()),
        ];
        let text = hosts("box", &extra, &Attachment::default());
        assert!(text.starts_with("127.0.0.1\tlocalhost\n"));
        assert!(text.ends_with("10.0.0.2\tdb\n127.0.1.1\tbox\n"));
        let text = hosts("box", &extra, &network());
        assert!(text.ends_with("10.0.0.2\tdb\n10.0.2.2\thost\n10.0.2.100\tbox\n"));
        let mut two = network();
        two.others.push(Attachment {
            network: "back".into(),
            addresses: vec!["10.89.0.2/24".into()],
            ..Attachment::default()
        });
        let text = hosts("box", &[], &two);
        assert!(text.ends_with("10.0.2.100\tbox\n10.89.0.2\tbox\n"));
    }

    #[test]
    fn names_of_its_own() {
        for (flags, names) in [
            (&["-h", "box"][..], "box"),
            (
                &["-h", "box", "--domainname", "corp.test"],
                "box.corp.test box",
            ),
            (&["-h", "x.example.org"], "x.example.org x"),
        ] {
            assert_eq!(
                own_names(&crate::container::testing::container(flags)),
                names
            );
        }
    }

    #[test]
    fn servers_that_can_be_reached() {
        let host = Resolver::parse("nameserver 127.0.0.53\nsearch a b\noptions edns0\n");
        assert_eq!(
            resolv_conf(&Dns::default(), &host, &network()),
            "nameserver 9.9.9.9\nsearch a b\noptions edns0\n"
        );
        let dns = Dns {
            servers: vec!["1.1.1.1".into()],
            search: vec![".".into()],
            options: vec!["ndots:2".into()],
        };
        assert_eq!(
            resolv_conf(&dns, &host, &network()),
            "nameserver 1.1.1.1\noptions ndots:2\n"
        );
        let none = Attachment::default();
        assert_eq!(
            resolv_conf(&Dns::default(), &Resolver::default(), &none),
            ""
        );
    }
}
