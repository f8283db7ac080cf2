// SPDX-License-Identifier: Apache-2.0
//! nf_tables: two tables of our own, replaced whole in one transaction by nft(8). Nobody else's rules
//! are touched, and theirs hold beside these.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Seek, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::fs::{MemfdFlags, memfd_create};
use walnut_netlink::Cidr;
use walnut_switch::{Policy, Target};

use super::lease::Terms;
use super::{BRIDGE, BridgeError};
use crate::network::passt::GROUP;
use crate::network::{Bound, program};

const PROGRAM: &str = "nft";
/// Of `ip`: address translation. Of `bridge`: who may say that he is who.
const REMOVE: &str = "table ip walnut\ndelete table ip walnut\n\
                      table bridge walnut\ndelete table bridge walnut\n";

pub(super) fn installed() -> bool {
    program::find(PROGRAM).is_some()
}

pub(super) fn apply(subnet: Cidr, all: &[Terms]) -> Result<(), BridgeError> {
    run(&script(subnet, all))
}

pub(super) fn remove() -> Result<(), BridgeError> {
    match run(REMOVE) {
        // Then there are no rules of ours.
        Err(BridgeError::NoNft) => Ok(()),
        done => done,
    }
}

fn run(script: &str) -> Result<(), BridgeError> {
    let program = program::find(PROGRAM).ok_or(BridgeError::NoNft)?;
    run_by(&program, script, program::TIMEOUT)
}

fn run_by(program: &Path, script: &str, timeout: Duration) -> Result<(), BridgeError> {
    let mut child = Command::new(program)
        .args(["-f", "-"])
        .stdin(file_of(script).map_err(BridgeError::Nft)?)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(BridgeError::Nft)?;
    let stderr = child.stderr.take();
    let stderr = stderr.ok_or_else(|| BridgeError::Nft(io::ErrorKind::BrokenPipe.into()))?;
    let done = program::outcome(&mut child, stderr, timeout).map_err(BridgeError::Nft)?;
    let (status, said) = done.ok_or(BridgeError::NftSilent(timeout))?;
    if !status.success() {
        log::debug!("nft does not take\n{script}");
        let said = String::from_utf8_lossy(&said);
        let lines: Vec<&str> = said.lines().map(str::trim).collect();
        return Err(BridgeError::Rules(
            lines.join("; ").chars().take(400).collect(),
        ));
    }
    Ok(())
}

/// Not a pipe: who writes to one waits for who reads.
fn file_of(script: &str) -> io::Result<File> {
    let mut file = File::from(memfd_create("walnut-rules", MemfdFlags::CLOEXEC)?);
    file.write_all(script.as_bytes())?;
    file.rewind()?;
    Ok(file)
}

fn script(subnet: Cidr, all: &[Terms]) -> String {
    let mut published = String::new();
    let mut sources = String::new();
    let mut policies = String::new();
    for terms in all {
        if let Some(policy) = &terms.egress {
            let _ = write!(policies, "{}", egress(terms, policy));
        }
        for port in &terms.ports {
            // A String takes everything.
            let _ = writeln!(published, "    {}", translation(terms, port));
        }
        let Terms {
            tap, mac, address, ..
        } = terms;
        for wrong in [
            format!("ether saddr != {mac}"),
            format!("ip saddr != {address}"),
            // 0.0.0.0 asks whether an address is taken.
            format!("arp saddr ip != {{ {address}, 0.0.0.0 }}"),
            "ether type != { ip, arp }".to_owned(),
        ] {
            let _ = writeln!(sources, "    iifname \"{tap}\" {wrong} drop");
        }
    }
    format!(
        "{REMOVE}\
table ip walnut {{
  chain before {{
    type filter hook prerouting priority raw; policy accept;
    iifname \"{BRIDGE}\" ip daddr 127.0.0.0/8 drop
  }}
  chain published {{
{published}  }}
  chain prerouting {{
    type nat hook prerouting priority dstnat; policy accept;
    jump published
  }}
  chain output {{
    type nat hook output priority -100; policy accept;
    jump published
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr {subnet} oifname != \"{BRIDGE}\" masquerade
    ip saddr {{ 127.0.0.0/8, {subnet} }} oifname \"{BRIDGE}\" ct status dnat masquerade
  }}
  chain others {{
    type filter hook output priority filter; policy accept;
    oifname \"{BRIDGE}\" ct status dnat accept
    oifname \"{BRIDGE}\" meta skgid {GROUP} ct state new reject with icmp type admin-prohibited
  }}
  chain leaving {{
{policies}  }}
  chain input {{
    type filter hook input priority filter; policy accept;
    iifname \"{BRIDGE}\" jump leaving
  }}
  chain forward {{
    type filter hook forward priority filter; policy accept;
    iifname \"{BRIDGE}\" oifname != \"{BRIDGE}\" jump leaving
    oifname \"{BRIDGE}\" ct status dnat accept
    oifname \"{BRIDGE}\" iifname != \"{BRIDGE}\" ct state new drop
  }}
}}
table bridge walnut {{
  chain sources {{
    type filter hook prerouting priority filter; policy accept;
{sources}  }}
}}
"
    )
}

/// What may leave the container for elsewhere than its neighbours.
fn egress(terms: &Terms, policy: &Policy) -> String {
    let from = format!("    ip saddr {}", terms.address);
    let mut text = format!("{from} ct state established,related return\n");
    for rule in &policy.0 {
        let Target::Network(cidr) = &rule.target else {
            continue;
        };
        let port = rule.port.map(|port| format!(" th dport {port}"));
        let protocol = if port.is_some() {
            " meta l4proto { tcp, udp }"
        } else {
            ""
        };
        let port = port.unwrap_or_default();
        let _ = writeln!(text, "{from} ip daddr {cidr}{protocol}{port} return");
    }
    let _ = writeln!(text, "{from} reject with icmp type admin-prohibited");
    text
}

/// A port of the host's to one of the container's.
fn translation(terms: &Terms, port: &Bound) -> String {
    let place = if port.address.is_unspecified() {
        "fib daddr type local".to_owned()
    } else {
        format!("ip daddr {}", port.address)
    };
    format!(
        "{place} {protocol} dport {host} dnat to {address}:{container}",
        protocol = port.protocol,
        host = port.host,
        address = terms.address,
        container = port.container,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::Protocol;

    #[test]
    fn the_rules_are_read_whole_and_not_waited_for_for_ever() {
        // More than a pipe holds.
        let long = "#".repeat(1 << 20);
        let run = |program: &str, ms| run_by(Path::new(program), &long, Duration::from_millis(ms));
        run("/bin/true", 10_000).unwrap();
        let refused = run("/bin/false", 10_000).unwrap_err();
        assert!(matches!(refused, BridgeError::Rules(_)), "{refused}");
        // It has the same options, and waits for more.
        let hangs = run("/usr/bin/tail", 50).unwrap_err();
        assert_eq!(hangs.to_string(), "nft did not set the rules within 50 ms");
    }

    #[test]
    fn what_nft_is_told() {
        let terms = Terms {
            container: "0123".into(),
            address: [10, 86, 0, 2].into(),
            subnet: "10.86.0.0/24".into(),
            mac: "02:42:0a:56:00:02".parse().unwrap(),
            tap: "wn0123".into(),
            ports: vec![Bound {
                address: [127, 0, 0, 1].into(),
                host: 8080,
                container: 80,
                protocol: Protocol::Tcp,
            }],
            egress: Some(Policy::parse(&["192.0.2.0/24:443".to_owned()]).unwrap()),
        };
        let text = script("10.86.0.0/24".parse().unwrap(), &[terms]);
        assert!(text.contains("ip daddr 127.0.0.1 tcp dport 8080 dnat to 10.86.0.2:80\n"));
        assert!(text.contains("iifname \"wn0123\" ip saddr != 10.86.0.2 drop\n"));
        let allowed = "ip saddr 10.86.0.2 ip daddr 192.0.2.0/24 meta l4proto { tcp, udp } th dport 443 return\n    \
                       ip saddr 10.86.0.2 reject with icmp type admin-prohibited\n";
        assert!(text.contains(allowed), "{text}");
        // What passt says for containers on other networks.
        assert!(text.contains("oifname \"walnut0\" meta skgid 2002873454 ct state new reject"));
        // With br_netfilter, frames from neighbour to neighbour come by here, too.
        assert!(
            text.contains("iifname \"walnut0\" oifname != \"walnut0\" jump leaving\n    oifname")
        );
        assert!(text.starts_with("table ip walnut\ndelete table ip walnut\n"));
    }
}
