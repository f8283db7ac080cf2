// SPDX-License-Identifier: Apache-2.0
//! resolv.conf(5) of the host.

use std::fs;
use std::net::IpAddr;

const PATH: &str = "/etc/resolv.conf";
/// What systemd-resolved asks itself.
const UPLINK: &str = "/run/systemd/resolve/resolv.conf";
/// More than any honest one has.
const MAX_LEN: u64 = 64 << 10;

/// What it says; empty where there is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolver {
    pub servers: Vec<IpAddr>,
    pub search: Option<String>,
    pub options: Option<String>,
}

impl Resolver {
    pub fn of_host() -> Self {
        Self::of_file(PATH)
    }

    fn of_file(path: &str) -> Self {
        let fits = fs::metadata(path).is_ok_and(|meta| meta.len() <= MAX_LEN);
        let text = if fits {
            fs::read_to_string(path).unwrap_or_default()
        } else {
            String::new()
        };
        Self::parse(&text)
    }

    /// Where the host's own servers can't be reached by others, those behind them, if they are known.
    pub fn of_uplink() -> Self {
        let host = Self::of_host();
        match host.is_local() {
            true => Self::of_file(UPLINK),
            false => host,
        }
    }

    pub fn parse(text: &str) -> Self {
        let mut all = Self::default();
        for line in text.lines() {
            let Some((key, value)) = line.trim().split_once(char::is_whitespace) else {
                continue;
            };
            let value = value.trim();
            match key {
                // `fe80::1%eth0` has no meaning in another machine.
                "nameserver" => all.servers.extend(value.parse::<IpAddr>()),
                "search" | "domain" => all.search = Some(value.to_owned()),
                "options" => all.options = Some(value.to_owned()),
                _ => {}
            }
        }
        all
    }

    /// Its servers can be reached from another machine only by way of this one.
    pub fn is_local(&self) -> bool {
        self.servers.iter().all(IpAddr::is_loopback) && !self.servers.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_own() {
        let text = "# c\nnameserver 127.0.0.53\nnameserver  fe80::1%eth0\ndomain x\nsearch a b\n\
                    options edns0\nnonsense\n";
        let resolver = Resolver::parse(text);
        assert_eq!(resolver.servers, [IpAddr::from([127, 0, 0, 53])]);
        assert_eq!(resolver.search.as_deref(), Some("a b"));
        assert_eq!(resolver.options.as_deref(), Some("edns0"));
        assert!(resolver.is_local());
        assert!(!Resolver::parse("nameserver 127.0.0.1\nnameserver 9.9.9.9").is_local());
        assert!(!Resolver::default().is_local());
    }
}
