// SPDX-License-Identifier: Apache-2.0
//! `--egress`: what may leave a container, decided outside of its guest.
//!
//! Looked at is what begins a conversation. What goes on with one that came from outside, or was
//! let out, passes: a passt opens a connection for a SYN alone, so other segments lead nowhere new.

use std::collections::VecDeque;
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use walnut_netlink::Cidr;

use crate::packet::{Ipv4, What};

/// Addresses that allowed names stood for, and peers that spoke first: the oldest goes.
const MAX_KNOWN: usize = 1024;

/// All of it; no name.
const DENY: &str = "deny";

/// What is allowed; nothing else is.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub struct Policy(pub Vec<Rule>);

#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(try_from = "String", into = "String")]
pub struct Rule {
    pub target: Target,
    pub port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Network(Cidr),
    /// In lower case; `*.example.org` is all below it.
    Name(String),
}

#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error(
    "invalid --egress {0:?}: expected deny alone, or ADDRESS[/PREFIX][:PORT], NAME[:PORT], separated by commas; IPv4 only"
)]
pub struct PolicyError(String);

impl Policy {
    /// All that the flag was given.
    ///
    /// # Errors
    /// It makes no sense, or denies all and something else.
    pub fn parse(texts: &[String]) -> Result<Self, PolicyError> {
        let words: Vec<&str> = texts.iter().flat_map(|text| text.split(',')).collect();
        if matches!(words[..], [word] if word.eq_ignore_ascii_case(DENY)) {
            return Ok(Self::default());
        }
        let rules: Result<_, _> = words.iter().map(|word| word.parse()).collect();
        Ok(Self(rules?))
    }
}

impl FromStr for Rule {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        let error = || PolicyError(text.chars().take(80).collect());
        let (target, port) = match text.rsplit_once(':') {
            Some((target, port)) => {
                let number = port.parse().ok().filter(|port| *port > 0);
                (target, Some(number.ok_or_else(error)?))
            }
            None => (text, None),
        };
        let target = if let Ok(address) = target.parse::<Ipv4Addr>() {
            Cidr::new(address.into(), 32).map(Target::Network)
        } else if let Ok(cidr) = target.parse::<Cidr>() {
            let network = Target::Network(cidr.network());
            cidr.address.is_ipv4().then_some(network)
        } else {
            name(target)
        };
        Ok(Self {
            target: target.ok_or_else(error)?,
            port,
        })
    }
}

fn name(text: &str) -> Option<Target> {
    let text = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let label = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(plain);
    let bare = text.strip_prefix("*.").unwrap_or(&text);
    // `10.0.0` is no name, and `deny` beside others no host.
    let is_number = bare
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.');
    let fits = text.len() <= 253 && bare.split('.').all(label) && !is_number && bare != DENY;
    fits.then_some(Target::Name(text))
}

impl TryFrom<String> for Rule {
    type Error = PolicyError;

    fn try_from(text: String) -> Result<Self, PolicyError> {
        text.parse()
    }
}

impl From<Rule> for String {
    fn from(rule: Rule) -> Self {
        rule.to_string()
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.target {
            Target::Network(cidr) => write!(f, "{cidr}")?,
            Target::Name(name) => f.write_str(name)?,
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

/// A policy at work.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    /// All may leave, where there is none.
    policy: Option<Policy>,
    /// What allowed names stand for.
    resolved: VecDeque<(Ipv4Addr, Option<u16>)>,
    /// Who sent UDP from outside: address, port, and the container's port.
    callers: VecDeque<(Ipv4Addr, u16, u16)>,
}

impl Gate {
    pub fn new(policy: Option<Policy>) -> Self {
        Self {
            policy,
            ..Self::default()
        }
    }

    pub fn allows(&self, packet: &Ipv4) -> bool {
        if self.policy.is_none() {
            return true;
        }
        match packet.what {
            _ if self.answers(packet) => true,
            What::Tcp { target, .. } | What::Udp { target, .. } => {
                self.reaches(packet.target, Some(target))
            }
            What::Icmp | What::Fragment | What::Other => self.reaches(packet.target, None),
        }
    }

    /// Whether it goes on with what somebody else began.
    pub fn answers(&self, packet: &Ipv4) -> bool {
        match packet.what {
            What::Tcp { opens, .. } => !opens,
            What::Udp { source, target } => {
                let caller = (packet.target, target, source);
                self.callers.iter().rev().any(|known| *known == caller)
            }
            What::Icmp | What::Fragment | What::Other => false,
        }
    }

    fn reaches(&self, address: Ipv4Addr, port: Option<u16>) -> bool {
        let fits = |wanted: Option<u16>| wanted.is_none() || wanted == port;
        let rules = self.policy.iter().flat_map(|policy| &policy.0);
        let mut networks = rules.filter_map(|rule| match &rule.target {
            Target::Network(cidr) => Some((cidr, rule.port)),
            Target::Name(_) => None,
        });
        networks.any(|(cidr, port)| cidr.contains(address.into()) && fits(port))
            || self
                .resolved
                .iter()
                .any(|(known, port)| *known == address && fits(*port))
    }

    /// Whether a name may be looked up outside: a question can carry words, too.
    pub fn resolves(&self, name: &str) -> bool {
        self.policy.is_none() || self.ports_of(name).next().is_some()
    }

    fn ports_of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = Option<u16>> + 'a {
        let rules = self.policy.iter().flat_map(|policy| &policy.0);
        rules.filter_map(move |rule| match &rule.target {
            Target::Name(pattern) if is_named(name, pattern) => Some(rule.port),
            _ => None,
        })
    }

    /// An allowed name stands for these.
    pub fn learn(&mut self, name: &str, addresses: &[Ipv4Addr]) {
        let ports: Vec<_> = self.ports_of(name).collect();
        for address in addresses {
            for port in &ports {
                remember(&mut self.resolved, (*address, *port));
            }
        }
    }

    /// What came in by the uplink; from the host itself, the gateway's is its address.
    pub fn came(&mut self, packet: &Ipv4, from_host: bool) {
        if (self.policy.is_some() || from_host)
            && let What::Udp { source, target } = packet.what
        {
            remember(&mut self.callers, (packet.source, source, target));
        }
    }
}

fn is_named(name: &str, pattern: &str) -> bool {
    match pattern.strip_prefix('*') {
        Some(suffix) => name.len() > suffix.len() && name.ends_with(suffix),
        None => name == pattern,
    }
}

fn remember<T: PartialEq>(known: &mut VecDeque<T>, one: T) {
    if known.iter().rev().any(|known| *known == one) {
        return;
    }
    if known.len() == MAX_KNOWN {
        known.pop_front();
    }
    known.push_back(one);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn gate(text: &str) -> Gate {
        Gate::new(Some(Policy::parse(&[text.to_owned()]).unwrap()))
    }

    fn tcp(target: [u8; 4], port: u16, opens: bool) -> Ipv4 {
        Ipv4 {
            source: [10, 89, 0, 2].into(),
            target: target.into(),
            what: What::Tcp {
                source: 4000,
                target: port,
                opens,
            },
        }
    }

    fn udp(target: [u8; 4], port: u16) -> Ipv4 {
        let what = What::Udp {
            source: 53,
            target: port,
        };
        Ipv4 {
            what,
            ..tcp(target, port, true)
        }
    }

    #[test]
    fn addresses_and_ports() {
        let gate = gate("192.0.2.0/24:443,198.51.100.7");
        assert!(gate.allows(&tcp([192, 0, 2, 9], 443, true)));
        assert!(!gate.allows(&tcp([192, 0, 2, 9], 80, true)));
        assert!(!gate.allows(&tcp([192, 0, 3, 9], 443, true)));
        assert!(gate.allows(&tcp([198, 51, 100, 7], 22, true)));
        // What goes on with a connection from outside.
        assert!(gate.allows(&tcp([203, 0, 113, 1], 80, false)));
        let icmp = |target: [u8; 4]| Ipv4 {
            what: What::Icmp,
            ..tcp(target, 0, true)
        };
        assert!(gate.allows(&icmp([198, 51, 100, 7])));
        assert!(!gate.allows(&icmp([192, 0, 2, 9])));
        assert!(!gate.resolves("example.org"));
    }

    #[test]
    fn deny_denies_all_but_answers() {
        let mut gate = gate("deny");
        assert!(!gate.allows(&tcp([192, 0, 2, 9], 443, true)));
        assert!(!gate.allows(&udp([192, 0, 2, 9], 1000)));
        let came = Ipv4 {
            source: [192, 0, 2, 9].into(),
            target: [10, 89, 0, 2].into(),
            what: What::Udp {
                source: 1000,
                target: 53,
            },
        };
        gate.came(&came, false);
        assert!(gate.allows(&udp([192, 0, 2, 9], 1000)));
        assert!(!gate.allows(&udp([192, 0, 2, 9], 1001)));
        assert!(Gate::new(None).allows(&tcp([192, 0, 2, 9], 443, true)));
    }

    #[test]
    fn names_open_what_they_stand_for() {
        let mut gate = gate("Example.org:443,*.test");
        assert!(gate.resolves("example.org") && gate.resolves("a.b.test"));
        assert!(!gate.resolves("www.example.org") && !gate.resolves("test"));
        assert!(!gate.allows(&tcp([192, 0, 2, 1], 443, true)));
        gate.learn("example.org", &[[192, 0, 2, 1].into()]);
        gate.learn("elsewhere.org", &[[192, 0, 2, 2].into()]);
        assert!(gate.allows(&tcp([192, 0, 2, 1], 443, true)));
        assert!(!gate.allows(&tcp([192, 0, 2, 1], 80, true)));
        assert!(!gate.allows(&tcp([192, 0, 2, 2], 443, true)));
        for n in 0..=u16::MAX {
            let [high, low] = n.to_be_bytes();
            gate.learn("a.test", &[[10, 0, high, low].into()]);
        }
        assert_eq!(gate.resolved.len(), MAX_KNOWN);
    }

    #[test]
    fn what_is_none() {
        for bad in [
            "", "a,,b", "deny,a", "10.0.0", "::1", "fd00::/8", "a:0", "a:x", "-/8", "a b", "*",
            "*.", "Deny:80", "DENY,a", "deny.",
        ] {
            assert!(Policy::parse(&[bad.to_owned()]).is_err(), "{bad}");
        }
    }

    #[test]
    fn deny_in_any_case() {
        for text in ["deny", "DENY", "Deny"] {
            let policy = Policy::parse(&[text.to_owned()]);
            assert_eq!(policy, Ok(Policy::default()), "{text}");
        }
    }

    fn rules() -> impl Strategy<Value = String> {
        let name = r"(\*\.)?([a-zA-Z0-9_-]{1,5}|[dD][eE][nN][yY])(\.[A-Za-z0-9]{1,3}){0,3}\.?";
        let host = prop_oneof![name, r"[0-9]{1,3}(\.[0-9]{1,3}){3}(/[0-9]{1,2})?"];
        prop_oneof![
            "[a-zA-Z0-9*./:_-]{0,20}",
            (host, "(:[0-9]{1,5})?").prop_map(|(host, port)| host + &port),
        ]
    }

    proptest! {
        #[test]
        fn there_and_back(text in rules()) {
            if let Ok(rule) = text.parse::<Rule>() {
                prop_assert_eq!(rule.to_string().parse(), Ok(rule));
            }
        }
    }
}
