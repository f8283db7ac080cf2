// SPDX-License-Identifier: Apache-2.0
//! What the flags say about a container's network.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use walnut_switch::{Policy, PolicyError};
use walnut_vmm_config::{Mac, MacError};

use super::mode::{MAX_NETWORKS, Mode, Other, check_others};
use super::{Protocol, Publish, PublishError};
use crate::cli::run::ContainerArgs;

/// What stands for the host's loopback in `--add-host NAME:host-gateway`.
pub const HOST_GATEWAY: &str = "host-gateway";

#[derive(Debug, Error)]
pub enum WantedError {
    #[error("invalid argument \"{text}\" for \"-p, --publish\" flag: {why}")]
    Publish { text: String, why: PublishError },
    #[error("invalid range format for --expose: {text}, error: {why}")]
    Expose { text: String, why: PublishError },
    #[error(transparent)]
    Mac(#[from] MacError),
    #[error("{0} is not a valid mac address")]
    MulticastMac(Mac),
    #[error("network {0} not found")]
    Unknown(String),
    #[error(
        "network host: a machine is not the host; publish ports with -p, reach the host's by --add-host NAME:host-gateway"
    )]
    Host,
    #[error("conflicting options: --network {0} goes with no other network")]
    Alone(String),
    #[error("network {0} is given twice")]
    Twice(String),
    #[error("a container is on {MAX_NETWORKS} networks at most")]
    TooMany,
    #[error(
        "invalid --network {0}: expected name=NETWORK, and perhaps ,alias=NAME and ,ip=ADDRESS"
    )]
    Fields(String),
    #[error("invalid container format container:<name|id>")]
    Container,
    #[error(
        "invalid --network {0}: expected tap:NAME, and perhaps ,ip=ADDRESS/PREFIX and ,gateway=ADDRESS within that network, each of them once or for IPv4 and IPv6"
    )]
    Tap(String),
    #[error("conflicting options: port publishing and --network {0}")]
    PublishNothing(String),
    #[error("conflicting options: {0} and the network mode")]
    OfContainer(&'static str),
    #[error("conflicting options: mac-address and the network mode")]
    MacNothing,
    #[error("network-scoped alias is supported only for containers in user defined networks")]
    Alias,
    #[error(transparent)]
    Egress(#[from] PolicyError),
    #[error(
        "conflicting options: --egress and --network {0}, whose frames are not ours to look at"
    )]
    EgressFrames(String),
    #[error("conflicting options: --egress and --network none: there is no network to be limited")]
    EgressNothing,
    #[error(
        "conflicting options: --egress and --network container:{0}, whose network it has: say there what may leave"
    )]
    EgressContainer(String),
    #[error(
        "conflicting options: cannot specify both --ip and per-network IPv4 address ({0} and {1})"
    )]
    TwoAddresses(Ipv4Addr, Ipv4Addr),
    #[error("invalid IPv4 address: {0}")]
    InvalidAddress(String),
    #[error("user specified IP address is supported on user defined networks only")]
    Address,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(default)]
pub struct Wanted {
    pub mode: Mode,
    pub publish: Vec<Publish>,
    /// Every exposed port goes to some port of the host.
    pub publish_all: bool,
    pub exposed: Vec<(u16, Protocol)>,
    pub mac: Option<Mac>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<Ipv4Addr>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// All may leave, unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress: Option<Policy>,
    /// After the first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<Other>,
}

impl Wanted {
    /// # Errors
    /// What makes no sense, in Docker's words.
    pub fn from_flags(args: &ContainerArgs) -> Result<Self, WantedError> {
        // To Docker, what is empty is not given.
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let all = args.network.iter().filter(|text| !text.is_empty());
        let all = all.map(|text| Other::parse(text));
        let mut all = all.collect::<Result<Vec<_>, _>>()?.into_iter();
        let first = all.next().unwrap_or_default();
        let others: Vec<_> = all.collect();
        check_others(&first.mode, &others)?;
        let mode = first.mode;
        if matches!(mode, Mode::Container(_)) {
            not_of_container(args)?;
        }
        let mut publish = Vec::new();
        for text in &args.publish {
            let parsed = Publish::parse(text).map_err(|why| WantedError::Publish {
                text: text.clone(),
                why,
            })?;
            publish.extend(parsed);
        }
        if matches!(mode, Mode::Tap(_)) && !publish.is_empty() {
            return Err(WantedError::PublishNothing(mode.name()));
        }
        let mut exposed = Vec::new();
        for text in &args.expose {
            exposed.extend(expose(text)?);
        }
        let mac = given(&args.mac_address);
        let mac: Option<Mac> = mac.map(|text| text.parse()).transpose()?;
        if let Some(mac) = mac.filter(|mac| mac.is_multicast() || mac.is_zero()) {
            return Err(WantedError::MulticastMac(mac));
        }
        if mac.is_some() && mode == Mode::None {
            return Err(WantedError::MacNothing);
        }
        let address = given(&args.ip);
        let address = address.as_deref().map(Self::parse_address).transpose()?;
        if let (Some(one), Some(other)) = (address, first.address) {
            return Err(WantedError::TwoAddresses(one, other));
        }
        let first = Other {
            mode,
            address: address.or(first.address),
            mac,
            aliases: [first.aliases, args.network_alias.clone()].concat(),
        };
        first.check()?;
        let mode = first.mode;
        let egress = egress(&args.egress, &mode)?;
        let mut wanted = Self {
            mode,
            publish,
            publish_all: args.publish_all,
            exposed: Vec::new(),
            mac,
            address: first.address,
            aliases: first.aliases,
            egress,
            others,
        };
        wanted.expose(exposed);
        Ok(wanted)
    }

    /// Each network as if it were the only one, without what is published.
    pub fn each(&self) -> Vec<Self> {
        let first = Self {
            publish: Vec::new(),
            publish_all: false,
            others: Vec::new(),
            ..self.clone()
        };
        let others = self.others.iter().map(|other| first.with(other));
        let others: Vec<_> = others.collect();
        [vec![first], others].concat()
    }

    /// As if `other` were the only network, without what is published.
    #[must_use]
    pub fn with(&self, other: &Other) -> Self {
        Self {
            mode: other.mode.clone(),
            address: other.address,
            mac: other.mac,
            aliases: other.aliases.clone(),
            egress: self.egress.clone(),
            ..Self::default()
        }
    }

    /// One network more.
    ///
    /// # Errors
    /// It does not go with the others.
    pub fn connect(&mut self, new: Other) -> Result<(), WantedError> {
        new.check()?;
        if self.mode == Mode::None {
            self.mode = new.mode;
            (self.address, self.aliases) = (new.address, new.aliases);
            return Ok(());
        }
        self.others.push(new);
        let checked = check_others(&self.mode, &self.others);
        if checked.is_err() {
            self.others.pop();
        }
        checked
    }

    /// One network less; whether it was on it.
    pub fn disconnect(&mut self, mode: &Mode) -> bool {
        if *mode == Mode::None {
            return false;
        }
        if let Some(at) = self.others.iter().position(|one| one.mode.is_same(mode)) {
            self.others.remove(at);
            return true;
        }
        if !self.mode.is_same(mode) {
            return false;
        }
        let next = match self.others.is_empty() {
            true => Other {
                mode: Mode::None,
                ..Other::default()
            },
            false => self.others.remove(0),
        };
        self.mode = next.mode;
        (self.address, self.mac, self.aliases) = (next.address, next.mac, next.aliases);
        true
    }

    /// Of all its networks, in their order.
    pub fn modes(&self) -> impl Iterator<Item = &Mode> {
        [&self.mode]
            .into_iter()
            .chain(self.others.iter().map(|other| &other.mode))
    }

    /// # Errors
    /// It is no address of IPv4.
    pub fn parse_address(text: &str) -> Result<Ipv4Addr, WantedError> {
        text.parse()
            .map_err(|_| WantedError::InvalidAddress(text.chars().take(40).collect()))
    }

    /// What the image exposes; one that makes no sense is passed over.
    pub fn apply_image(&mut self, exposed: &[String]) {
        let ports = exposed.iter().filter_map(|text| expose(text).ok());
        self.expose(ports.flatten());
    }

    fn expose(&mut self, ports: impl IntoIterator<Item = (u16, Protocol)>) {
        self.exposed.extend(ports);
        self.exposed.sort_unstable();
        self.exposed.dedup();
    }

    /// The ports to be published, those of `-P` last.
    pub fn all_published(&self) -> Vec<Publish> {
        let mut all = self.publish.clone();
        if self.publish_all {
            let named =
                |port: &(u16, Protocol)| all.iter().any(|p| (p.container, p.protocol) == *port);
            let rest: Vec<_> = self.exposed.iter().filter(|port| !named(port)).collect();
            all.extend(rest.into_iter().map(|&(container, protocol)| Publish {
                address: super::publish::DEFAULT_ADDRESS,
                host: None,
                container,
                protocol,
            }));
        }
        all
    }
}

fn egress(texts: &[String], mode: &Mode) -> Result<Option<Policy>, WantedError> {
    match mode {
        _ if texts.is_empty() => Ok(None),
        Mode::None => Err(WantedError::EgressNothing),
        Mode::Tap(_) => Err(WantedError::EgressFrames(mode.name())),
        Mode::Container(name) => Err(WantedError::EgressContainer(name.clone())),
        _ => Ok(Some(Policy::parse(texts)?)),
    }
}

/// The files in /etc that say such things are those of the container whose network it is.
fn not_of_container(args: &ContainerArgs) -> Result<(), WantedError> {
    let dns = [&args.dns, &args.dns_search, &args.dns_option];
    let given = [
        ("dns", dns.iter().any(|all| !all.is_empty())),
        ("custom host-to-IP mapping", !args.add_host.is_empty()),
        ("port exposing", !args.expose.is_empty()),
    ];
    match given.into_iter().find(|(_, is_given)| *is_given) {
        Some((what, _)) => Err(WantedError::OfContainer(what)),
        None => Ok(()),
    }
}

fn expose(text: &str) -> Result<Vec<(u16, Protocol)>, WantedError> {
    Publish::parse_exposed(text).map_err(|why| WantedError::Expose {
        text: text.to_owned(),
        why,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_come_and_go() {
        let on = |name: &str| Other::parse(name).unwrap();
        let names = |wanted: &Wanted| -> Vec<String> { wanted.modes().map(Mode::name).collect() };
        let mut wanted = Wanted::default();
        wanted
            .connect(on("name=a,alias=x,alias=y,ip=10.7.0.2"))
            .unwrap();
        assert_eq!(names(&wanted), ["default", "a"]);
        assert_eq!(wanted.each()[1].aliases, ["x", "y"]);
        for (twice, said) in [
            ("a", "network a is given twice"),
            ("user", "network user is given twice"),
            ("none", "goes with no other"),
        ] {
            let error = wanted.connect(on(twice)).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
            assert_eq!(wanted.others.len(), 1);
        }
        assert!(!wanted.disconnect(&Mode::Bridge));
        assert!(wanted.disconnect(&Mode::User));
        assert_eq!(names(&wanted), ["a"]);
        assert_eq!(wanted.address, Some([10, 7, 0, 2].into()));
        assert!(wanted.disconnect(&on("a").mode) && !wanted.disconnect(&Mode::None));
        assert_eq!(
            (names(&wanted), wanted.address),
            (vec!["none".to_owned()], None)
        );
        for n in 0..MAX_NETWORKS {
            wanted.connect(on(&format!("n{n}"))).unwrap();
        }
        assert!(matches!(
            wanted.connect(on("more")),
            Err(WantedError::TooMany)
        ));
        assert_eq!(on("alias=x,name=a"), on("name=a,alias=x"));
        assert_eq!(on("ip=10.7.0.2,name=a"), on("name=a,ip=10.7.0.2"));
        for bad in [
            "name=a,b",
            "name=a,mac=x",
            "name=a,alias=",
            "alias=x",
            "name=",
            "name=a,name=b",
            "name=a,ip=10.7.0.2,ip=10.7.0.3",
        ] {
            assert!(
                matches!(Other::parse(bad), Err(WantedError::Fields(_))),
                "{bad}"
            );
        }
        assert!(matches!(
            on("name=user,ip=10.0.2.9").check(),
            Err(WantedError::Address)
        ));
        assert!(matches!(
            on("name=bridge,alias=x").check(),
            Err(WantedError::Alias)
        ));
    }

    #[test]
    fn exposed_ports_are_published_once() {
        let mut wanted = Wanted {
            publish: Publish::parse("8080:80").unwrap(),
            publish_all: true,
            ..Wanted::default()
        };
        wanted.apply_image(&["80/tcp".into(), "53/udp".into(), "nonsense".into()]);
        let all: Vec<_> = wanted
            .all_published()
            .iter()
            .map(|p| (p.host, p.container, p.protocol))
            .collect();
        assert_eq!(
            all,
            [
                (Some((8080, 8080)), 80, Protocol::Tcp),
                (None, 53, Protocol::Udp)
            ]
        );
    }
}
