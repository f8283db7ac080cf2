// SPDX-License-Identifier: Apache-2.0
//! `--network`: which networks there are, and which of them go together.

use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};
use walnut_netlink::Cidr;
use walnut_vmm_config::Mac;

use super::{Wanted, WantedError};
use crate::container::in_vm;
use crate::networks::check_name;

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
        let mut networks: Vec<Cidr> = Vec::new();
        let mut tap = Self {
            name: parts.next().filter(|name| !name.is_empty())?.to_owned(),
            addresses: Vec::new(),
            gateways: Vec::new(),
        };
        for part in parts {
            match part.split_once('=')? {
                ("ip", address) => networks.push(address.parse().ok()?),
                ("gateway", address) => tap.gateways.push(address.parse().ok()?),
                _ => return None,
            }
        }
        tap.addresses = networks.iter().map(ToString::to_string).collect();
        let is_v4 = |address: IpAddr| address.is_ipv4();
        let is_link_local = |address: IpAddr| match address {
            IpAddr::V4(_) => false,
            IpAddr::V6(address) => address.is_unicast_link_local(),
        };
        let reached = |gateway: &IpAddr| {
            let mut own = networks
                .iter()
                .filter(|cidr| is_v4(cidr.address) == is_v4(*gateway));
            own.any(|cidr| cidr.contains(*gateway) || is_link_local(*gateway))
        };
        let once = |addresses: &[IpAddr]| {
            let v4 = addresses.iter().filter(|address| is_v4(**address)).count();
            v4 <= 1 && addresses.len() - v4 <= 1
        };
        let own: Vec<_> = networks.iter().map(|cidr| cidr.address).collect();
        let fits = once(&own) && once(&tap.gateways) && tap.gateways.iter().all(reached);
        fits.then_some(tap)
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

    /// Where the one is, the other is, too.
    pub fn is_same(&self, other: &Self) -> bool {
        let user = |mode: &Self| matches!(mode, Self::Default | Self::User);
        self == other || (user(self) && user(other))
    }

    /// As lists show it: what a container is on, where it did not ask for any.
    pub fn network(&self) -> String {
        match self {
            Self::Default => Self::User.name(),
            other => other.name(),
        }
    }

    fn parse(text: &str) -> Result<Self, WantedError> {
        if let Some(container) = in_vm::named(Some(text)) {
            return Ok(Self::Container(container.to_owned()));
        }
        match text {
            "default" => Ok(Self::Default),
            "none" => Ok(Self::None),
            "user" => Ok(Self::User),
            "bridge" => Ok(Self::Bridge),
            "host" => Err(WantedError::Host),
            "container:" => Err(WantedError::Container),
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

/// Most networks that a container is on at a time.
pub const MAX_NETWORKS: u8 = 8;

/// A network besides the first.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(default)]
pub struct Other {
    pub mode: Mode,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<Ipv4Addr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<Mac>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
}

impl Other {
    /// `NETWORK`, or `name=NETWORK[,alias=NAME]…[,ip=ADDRESS]`, in any order.
    pub(super) fn parse(text: &str) -> Result<Self, WantedError> {
        if text.starts_with("tap:") || !text.contains('=') {
            return Ok(Self {
                mode: Mode::parse(text)?,
                ..Self::default()
            });
        }
        let invalid = || WantedError::Fields(text.chars().take(80).collect());
        let mut mode = None;
        let mut one = Self::default();
        for field in text.split(',') {
            match field.split_once('=') {
                Some(("name", name)) if mode.is_none() && !name.is_empty() => {
                    mode = Some(Mode::parse(name)?);
                }
                Some(("alias", alias)) if !alias.is_empty() => one.aliases.push(alias.to_owned()),
                Some(("ip", address)) if one.address.is_none() => {
                    one.address = Some(Wanted::parse_address(address)?);
                }
                _ => return Err(invalid()),
            }
        }
        one.mode = mode.ok_or_else(invalid)?;
        Ok(one)
    }

    pub(super) fn check(&self) -> Result<(), WantedError> {
        let takes_address = matches!(self.mode, Mode::Bridge | Mode::Network(_));
        if self.address.is_some() && !takes_address {
            return Err(WantedError::Address);
        }
        match self.mode {
            Mode::Network(_) => Ok(()),
            _ if self.aliases.is_empty() => Ok(()),
            _ => Err(WantedError::Alias),
        }
    }
}

/// # Errors
/// They can't go together.
pub fn check_others(first: &Mode, others: &[Other]) -> Result<(), WantedError> {
    if others.is_empty() {
        return Ok(());
    }
    let modes: Vec<&Mode> = [first]
        .into_iter()
        .chain(others.iter().map(|other| &other.mode))
        .collect();
    if modes.len() > usize::from(MAX_NETWORKS) {
        return Err(WantedError::TooMany);
    }
    for (at, mode) in modes.iter().enumerate() {
        if matches!(mode, Mode::None | Mode::Tap(_) | Mode::Container(_)) {
            return Err(WantedError::Alone(mode.name()));
        }
        if modes[..at].iter().any(|other| other.is_same(mode)) {
            return Err(WantedError::Twice(mode.name()));
        }
    }
    others.iter().try_for_each(Other::check)
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
        for good in [
            "tap:t0,gateway=10.9.0.1,ip=10.9.0.2/24",
            "tap:t0,ip=fd09::2/64,gateway=fe80::1",
        ] {
            assert!(Mode::parse(good).is_ok(), "{good}");
        }
        for bad in [
            "tap:",
            "tap:t0,ip=10.9.0.2",
            "tap:t0,x=1",
            "tap:t0,",
            "tap:t0,gateway=10.9.0.1",
            "tap:t0,ip=10.9.0.2/24,gateway=fd09::1",
            "tap:t0,ip=10.9.0.2/24,gateway=10.9.1.1",
            "tap:t0,ip=10.9.0.2/24,ip=10.9.0.3/24",
            "tap:t0,ip=fd09::2/64,ip=fd09::3/64",
            "tap:t0,ip=10.9.0.2/24,gateway=10.9.0.1,gateway=10.9.0.3",
        ] {
            assert!(
                matches!(Mode::parse(bad), Err(WantedError::Tap(_))),
                "{bad}"
            );
        }
        assert_eq!(Mode::parse("own").unwrap(), Mode::Network("own".into()));
        assert!(matches!(
            Mode::parse("container:"),
            Err(WantedError::Container)
        ));
        for bad in ["", "a/b"] {
            let error = Mode::parse(bad).unwrap_err().to_string();
            assert_eq!(error, format!("network {bad} not found"));
        }
    }
}
