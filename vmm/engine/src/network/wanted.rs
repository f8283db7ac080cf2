// SPDX-License-Identifier: Apache-2.0
//! What the flags say about a container's network.

use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use walnut_netlink::Cidr;
use walnut_switch::{Policy, PolicyError};
use walnut_vmm_config::{Mac, MacError};

use super::{Protocol, Publish, PublishError};
use crate::cli::run::ContainerArgs;
use crate::container::in_vm;
use crate::networks::check_name;

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
    #[error(
        "conflicting options: --network {0} and --network {1}: a container is on one network at a time"
    )]
    Several(String, String),
    #[error(
        "invalid --network {0}: expected tap:NAME, and perhaps ,ip=ADDRESS/PREFIX and ,gateway=ADDRESS, each of them once or for IPv4 and IPv6"
    )]
    Tap(String),
    #[error("conflicting options: port publishing and --network {0}")]
    PublishNothing(String),
    #[error("conflicting options: mac-address and the network mode")]
    MacNothing,
    #[error("network-scoped alias is supported only for containers in user defined networks")]
    Alias,
    #[error(transparent)]
    Egress(#[from] PolicyError),
    #[error(
        "conflicting options: --egress and --network {0}, whose frames are not ours to look at"
    )]
    EgressNothing(String),
    #[error("invalid IPv4 address: {0}")]
    InvalidAddress(String),
    #[error("user specified IP address is supported on user defined networks only")]
    Address,
}

/// `--network`.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// User, where passt is installed.
    #[default]
    Default,
    None,
    User,
    Tap(Tap),
    /// That of a container in the same machine.
    Container(String),
    Bridge,
    /// One that the user made.
    Network(String),
}

/// A tap that is there already; what is on it is its owner's business.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Tap {
    pub name: String,
    /// `10.9.0.2/24`, `fd09::2/64`; the container may ask for one itself.
    pub addresses: Vec<String>,
    pub gateways: Vec<IpAddr>,
}

impl Tap {
    /// `NAME[,ip=ADDRESS/PREFIX]…[,gateway=ADDRESS]…`
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(',');
        let mut tap = Self {
            name: parts.next().filter(|name| !name.is_empty())?.to_owned(),
            addresses: Vec::new(),
            gateways: Vec::new(),
        };
        for part in parts {
            match part.split_once('=')? {
                ("ip", address) => tap
                    .addresses
                    .push(address.parse::<Cidr>().ok()?.to_string()),
                ("gateway", address) => tap.gateways.push(address.parse().ok()?),
                _ => return None,
            }
        }
        Some(tap)
    }
}

impl Mode {
    /// As `inspect` shows it.
    pub fn name(&self) -> String {
        match self {
            Self::Default => "default".to_owned(),
            Self::None => "none".to_owned(),
            Self::User => "user".to_owned(),
            Self::Tap(tap) => format!("tap:{}", tap.name),
            Self::Container(container) => in_vm::mode(container),
            Self::Bridge => "bridge".to_owned(),
            Self::Network(name) => name.clone(),
        }
    }

    fn parse(text: &str) -> Result<Self, WantedError> {
        match text {
            "default" => Ok(Self::Default),
            "none" => Ok(Self::None),
            "user" => Ok(Self::User),
            other if in_vm::named(Some(other)).is_some() => Ok(Self::Container(
                in_vm::named(Some(other)).unwrap_or_default().to_owned(),
            )),
            "bridge" => Ok(Self::Bridge),
            "host" => Err(WantedError::Host),
            other => match other.strip_prefix("tap:") {
                Some(tap) => Tap::parse(tap)
                    .map(Self::Tap)
                    .ok_or_else(|| WantedError::Tap(other.to_owned())),
                None if check_name(other).is_ok() => Ok(Self::Network(other.to_owned())),
                None => Err(WantedError::Unknown(other.chars().take(80).collect())),
            },
        }
    }
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
}

impl Wanted {
    /// # Errors
    /// What makes no sense, in Docker's words.
    pub fn from_flags(args: &ContainerArgs) -> Result<Self, WantedError> {
        let mode = match args.network.as_slice() {
            [] => Mode::Default,
            [one] => Mode::parse(one)?,
            [one, other, ..] => return Err(WantedError::Several(one.clone(), other.clone())),
        };
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
        let mac: Option<Mac> = args.mac_address.as_deref().map(str::parse).transpose()?;
        if let Some(mac) = mac.filter(|mac| mac.is_multicast() || mac.is_zero()) {
            return Err(WantedError::MulticastMac(mac));
        }
        if mac.is_some() && mode == Mode::None {
            return Err(WantedError::MacNothing);
        }
        let address = args.ip.as_deref().map(Self::parse_address).transpose()?;
        if address.is_some() && !matches!(mode, Mode::Bridge | Mode::Network(_)) {
            return Err(WantedError::Address);
        }
        if !args.network_alias.is_empty() && !matches!(mode, Mode::Network(_)) {
            return Err(WantedError::Alias);
        }
        let egress = match args.egress.as_slice() {
            [] => None,
            _ if matches!(mode, Mode::None | Mode::Tap(_) | Mode::Container(_)) => {
                return Err(WantedError::EgressNothing(mode.name()));
            }
            texts => Some(Policy::parse(texts)?),
        };
        let mut wanted = Self {
            mode,
            publish,
            publish_all: args.publish_all,
            exposed: Vec::new(),
            mac,
            address,
            aliases: args.network_alias.clone(),
            egress,
        };
        wanted.expose(exposed);
        Ok(wanted)
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
    fn modes() {
        assert_eq!(Mode::parse("none").unwrap(), Mode::None);
        let plain = Mode::parse("tap:t0").unwrap();
        assert_eq!(plain.name(), "tap:t0");
        let both = "tap:t0,ip=10.9.0.2/24,gateway=10.9.0.1,ip=fd09::2/64,gateway=fd09::1";
        let Mode::Tap(tap) = Mode::parse(both).unwrap() else {
            panic!("no tap")
        };
        assert_eq!(tap.addresses, ["10.9.0.2/24", "fd09::2/64"]);
        assert_eq!(
            tap.gateways,
            [[10, 9, 0, 1].into(), "fd09::1".parse::<IpAddr>().unwrap()]
        );
        for bad in ["tap:", "tap:t0,ip=10.9.0.2", "tap:t0,x=1", "tap:t0,"] {
            assert!(
                matches!(Mode::parse(bad), Err(WantedError::Tap(_))),
                "{bad}"
            );
        }
        assert_eq!(Mode::parse("own").unwrap(), Mode::Network("own".into()));
        for bad in ["", "a/b"] {
            let error = Mode::parse(bad).unwrap_err().to_string();
            assert_eq!(error, format!("network {bad} not found"));
        }
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
