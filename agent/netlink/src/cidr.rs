// SPDX-License-Identifier: Apache-2.0
//! An address and the length of its network's prefix: `10.0.0.2/24`, `fd00::2/64`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use thiserror::Error;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cidr {
    pub address: IpAddr,
    /// At most 32 or 128.
    pub prefix: u8,
}

#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("invalid CIDR address: {0}")]
pub struct CidrError(String);

impl Cidr {
    /// `None` for a prefix that is too long.
    #[must_use]
    pub fn new(address: IpAddr, prefix: u8) -> Option<Self> {
        let most = if address.is_ipv4() { 32 } else { 128 };
        (prefix <= most).then_some(Self { address, prefix })
    }

    /// The network's own address.
    #[must_use]
    pub fn network(self) -> Self {
        let address = match self.address {
            IpAddr::V4(address) => Ipv4Addr::from_bits(address.to_bits() & self.mask_v4()).into(),
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & self.mask_v6()).into(),
        };
        Self { address, ..self }
    }

    #[must_use]
    pub fn contains(self, address: IpAddr) -> bool {
        address.is_ipv4() == self.address.is_ipv4()
            && Self { address, ..self }.network() == self.network()
    }

    /// Whether any address is in both.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        self.contains(other.address) || other.contains(self.address)
    }

    /// IPv4's last address, where the network has one for that.
    #[must_use]
    pub fn broadcast(self) -> Option<Ipv4Addr> {
        match self.address {
            IpAddr::V4(address) if self.prefix < 31 => {
                Some(Ipv4Addr::from_bits(address.to_bits() | !self.mask_v4()))
            }
            _ => None,
        }
    }

    fn mask_v4(self) -> u32 {
        u32::MAX
            .checked_shl(32 - u32::from(self.prefix))
            .unwrap_or(0)
    }

    fn mask_v6(self) -> u128 {
        u128::MAX
            .checked_shl(128 - u32::from(self.prefix))
            .unwrap_or(0)
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let parse = || {
            let (address, prefix) = text.split_once('/')?;
            let is_number = prefix.bytes().all(|b| b.is_ascii_digit());
            let prefix = prefix.parse().ok().filter(|_| is_number)?;
            Self::new(address.parse().ok()?, prefix)
        };
        parse().ok_or_else(|| CidrError(text.chars().take(80).collect()))
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn networks() {
        assert_eq!(cidr("10.1.2.3/24").network(), cidr("10.1.2.0/24"));
        assert_eq!(cidr("10.1.2.3/0").network(), cidr("0.0.0.0/0"));
        assert_eq!(cidr("fd00::1:2/64").network(), cidr("fd00::/64"));
        assert_eq!(
            cidr("10.1.2.3/24").broadcast(),
            Some([10, 1, 2, 255].into())
        );
        assert_eq!(cidr("10.1.2.3/31").broadcast(), None);
        assert!(cidr("10.1.2.3/24").contains([10, 1, 2, 9].into()));
        assert!(!cidr("10.1.2.3/24").contains([10, 1, 3, 9].into()));
        assert!(!cidr("10.1.2.3/0").contains("::1".parse().unwrap()));
    }

    #[test]
    fn what_is_none() {
        for bad in [
            "",
            "10.0.0.1",
            "10.0.0.1/",
            "10.0.0.1/33",
            "::1/129",
            "10.0.0/8",
            "a/8",
            "10.0.0.1/+8",
        ] {
            assert!(bad.parse::<Cidr>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_text(text in ".*") {
            let _ = text.parse::<Cidr>();
        }

        #[test]
        fn there_and_back(bits: u32, prefix in 0..=32u8) {
            let one = Cidr::new(Ipv4Addr::from_bits(bits).into(), prefix).unwrap();
            prop_assert_eq!(one.to_string().parse(), Ok(one));
            prop_assert!(one.network().contains(one.address));
        }
    }
}
