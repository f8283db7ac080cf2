// SPDX-License-Identifier: Apache-2.0
//! A network interface of the guest, and what is behind it.

use std::fmt;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// What IPv4 asks of a link (RFC 791).
pub const MIN_MTU: u16 = 68;
/// passt's: an Ethernet frame of 65,534 bytes, rounded to whole words.
pub const MAX_MTU: u16 = 65_520;

#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct NetConfig {
    pub backend: NetBackend,
    pub mac: Mac,
    /// The backend's own unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
    /// The guest is told that a connection from outside is there when it asks a second time: a passt of
    /// 2023 does not tell.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub finish_handshakes: bool,
    /// As fast as it goes unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<NetRate>,
}

/// How fast frames may come and go, each way by itself.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(default, deny_unknown_fields)]
pub struct NetRate {
    /// To the guest.
    pub rx: Rate,
    /// From the guest.
    pub tx: Rate,
}

/// What is not given is not bounded.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(default, deny_unknown_fields)]
pub struct Rate {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<Bucket>,
    /// Frames.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operations: Option<Bucket>,
}

/// A bucket of tokens, full at first: what goes takes them out, time puts them back. None of its
/// numbers is 0.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Bucket {
    /// What it holds: what may go at once after a pause.
    pub size: u64,
    /// The time in which an empty one is filled.
    pub refill_ms: u64,
}

impl Bucket {
    #[must_use]
    pub fn per_second(size: u64) -> Self {
        Self {
            size,
            refill_ms: 1000,
        }
    }
}

/// Where the guest's frames go.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum NetBackend {
    /// A tap of the host, which is there already.
    Tap(String),
    /// One that is attached to already, and inherited. Its MTU is to be given.
    TapFd(RawFd),
    /// A unix stream socket that takes frames as passt(1) does: each preceded by its length, four
    /// bytes, big-endian.
    Stream(PathBuf),
    /// The same, connected and inherited.
    StreamFd(RawFd),
    /// None: the place is an empty one, for a device that comes later.
    Absent,
}

/// An Ethernet address.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[serde(try_from = "String", into = "String")]
pub struct Mac(pub [u8; 6]);

#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{0} is not a valid mac address")]
pub struct MacError(String);

impl Mac {
    #[must_use]
    pub fn is_multicast(self) -> bool {
        self.0[0] & 1 != 0
    }

    #[must_use]
    pub fn is_zero(self) -> bool {
        self.0 == [0; 6]
    }
}

impl FromStr for Mac {
    type Err = MacError;

    fn from_str(text: &str) -> Result<Self, MacError> {
        let error = || MacError(text.chars().take(40).collect());
        let mut mac = [0; 6];
        let mut parts = text.split([':', '-']);
        for byte in &mut mac {
            let part = parts.next().ok_or_else(error)?;
            let is_hex = part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
            *byte = u8::from_str_radix(part, 16)
                .ok()
                .filter(|_| is_hex)
                .ok_or_else(error)?;
        }
        match parts.next() {
            None => Ok(Self(mac)),
            Some(_) => Err(error()),
        }
    }
}

impl TryFrom<String> for Mac {
    type Error = MacError;

    fn try_from(text: String) -> Result<Self, MacError> {
        text.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::Mac;

    #[test]
    fn addresses() {
        let mac: Mac = "02:42:ac:11:00:0A".parse().unwrap();
        assert_eq!(mac.to_string(), "02:42:ac:11:00:0a");
        assert!(!mac.is_multicast() && !mac.is_zero());
        assert_eq!("02-42-ac-11-00-0a".parse(), Ok(mac));
        for bad in [
            "",
            "02",
            "02:42:ac:11:00",
            "02:42:ac:11:00:0a:0b",
            "0g:42:ac:11:00:0a",
            "2:42:ac:11:0:a",
            "+2:42:ac:11:00:0a",
        ] {
            assert!(bad.parse::<Mac>().is_err(), "{bad}");
        }
    }
}
