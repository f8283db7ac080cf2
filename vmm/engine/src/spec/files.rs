// SPDX-License-Identifier: Apache-2.0
//! /etc/hosts, /etc/hostname and /etc/resolv.conf, as the engine writes them for each container.

use std::fmt::Write;
use std::net::IpAddr;

use crate::container::{Container, Dns};

pub const HOSTS: &str = "/run/walnut/files/hosts";
pub const HOSTNAME: &str = "/run/walnut/files/hostname";
pub const RESOLV_CONF: &str = "/run/walnut/files/resolv.conf";

/// Where the agent writes each, and where the container sees it.
pub(super) const GENERATED: &[(&str, &str)] = &[
    (HOSTS, "/etc/hosts"),
    (HOSTNAME, "/etc/hostname"),
    (RESOLV_CONF, "/etc/resolv.conf"),
];

/// Where the host keeps its own.
const HOST_RESOLV_CONF: &str = "/etc/resolv.conf";
/// More than any honest one has.
const MAX_RESOLV_CONF: usize = 64 << 10;

pub fn all(container: &Container) -> [(&'static str, String); 3] {
    let host = std::fs::read_to_string(HOST_RESOLV_CONF).unwrap_or_default();
    [
        (HOSTS, hosts(&container.hostname, &container.hosts)),
        (HOSTNAME, format!("{}\n", container.hostname)),
        (RESOLV_CONF, resolv_conf(&container.dns, &host)),
    ]
}

/// Docker's, and the container's own name: without an interface it is the loopback's second
/// address, as Debian has it.
fn hosts(hostname: &str, extra: &[(String, String)]) -> String {
    let mut text = String::from(
        "127.0.0.1\tlocalhost\n\
         ::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::\tip6-localnet\n\
         ff00::\tip6-mcastprefix\n\
         ff02::1\tip6-allnodes\n\
         ff02::2\tip6-allrouters\n",
    );
    for (name, address) in extra {
        let _ = writeln!(text, "{address}\t{name}");
    }
    let _ = writeln!(text, "127.0.1.1\t{hostname}");
    text
}

/// The host's, less name servers on its loopback, which a machine of its own can't reach; what the
/// flags say goes before it.
fn resolv_conf(dns: &Dns, host: &str) -> String {
    let host = if host.len() > MAX_RESOLV_CONF {
        ""
    } else {
        host
    };
    let lines = || {
        host.lines()
            .filter_map(|line| line.trim().split_once(char::is_whitespace))
    };
    let of = |keyword: &'static str| {
        lines()
            .filter(move |(key, _)| *key == keyword)
            .map(|(_, rest)| rest.trim().to_owned())
    };
    let mut text = String::new();
    let servers: Vec<String> = if dns.servers.is_empty() {
        of("nameserver")
            .filter(|server| !is_loopback(server))
            .collect()
    } else {
        dns.servers.clone()
    };
    for server in servers {
        let _ = writeln!(text, "nameserver {server}");
    }
    // `--dns-search .` asks for none at all.
    let search = match dns.search.as_slice() {
        [] => of("search")
            .next_back()
            .or_else(|| of("domain").next_back()),
        [dot] if dot == "." => None,
        domains => Some(domains.join(" ")),
    };
    if let Some(search) = search {
        let _ = writeln!(text, "search {search}");
    }
    let options = match dns.options.as_slice() {
        [] => of("options").next_back(),
        options => Some(options.join(" ")),
    };
    if let Some(options) = options {
        let _ = writeln!(text, "options {options}");
    }
    text
}

/// `fe80::1%eth0` has no meaning in another machine, either.
fn is_loopback(server: &str) -> bool {
    server.contains('%')
        || server
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_know_the_container() {
        let text = hosts("box", &[("db".into(), "10.0.0.2".into())]);
        assert!(text.starts_with("127.0.0.1\tlocalhost\n"));
        assert!(text.ends_with("10.0.0.2\tdb\n127.0.1.1\tbox\n"));
    }

    #[test]
    fn the_hosts_servers_but_its_own() {
        let host = "# c\nnameserver 127.0.0.53\nnameserver  9.9.9.9\nsearch a b\noptions edns0\n";
        assert_eq!(
            resolv_conf(&Dns::default(), host),
            "nameserver 9.9.9.9\nsearch a b\noptions edns0\n"
        );
        let dns = Dns {
            servers: vec!["1.1.1.1".into()],
            search: vec![".".into()],
            options: vec!["ndots:2".into()],
        };
        assert_eq!(
            resolv_conf(&dns, host),
            "nameserver 1.1.1.1\noptions ndots:2\n"
        );
        assert_eq!(resolv_conf(&Dns::default(), ""), "");
    }
}
