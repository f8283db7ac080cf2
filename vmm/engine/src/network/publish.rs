// SPDX-License-Identifier: Apache-2.0
//! `-p [ip:][host:]container[/protocol]`, with ranges: Docker's grammar and words.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};
use thiserror::Error;

#[derive(
    Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, Hash, PartialOrd, Ord,
)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    #[default]
    Tcp,
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// One port of the container, and where it shall be on the host.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Publish {
    pub address: IpAddr,
    /// The first that is free of them; any that is free where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<(u16, u16)>,
    pub container: u16,
    #[serde(default)]
    pub protocol: Protocol,
}

/// Not all interfaces, as Docker has it: what is to be seen by others must say so.
pub const DEFAULT_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum PublishError {
    #[error("no port specified: {0}<empty>")]
    Empty(String),
    #[error("invalid containerPort: {0}")]
    ContainerPort(String),
    #[error("invalid hostPort: {0}")]
    HostPort(String),
    #[error("invalid ranges specified for container and host Ports: {container} and {host}")]
    Ranges { container: String, host: String },
    #[error("invalid IP address: {0}")]
    Address(String),
    #[error("invalid proto: {0}")]
    Protocol(String),
}

impl Publish {
    /// All that one `-p` asks for.
    ///
    /// # Errors
    /// What is wrong with it, in Docker's words.
    pub fn parse(text: &str) -> Result<Vec<Self>, PublishError> {
        let (rest, container) = match text.rsplit_once(':') {
            Some((rest, container)) => (Some(rest), container),
            None => (None, text),
        };
        let (address, host) = match rest {
            None => ("", ""),
            // A host part alone has no colon; an address before it may have some.
            Some(rest) => rest.rsplit_once(':').unwrap_or(("", rest)),
        };
        let (container, protocol) = match container.split_once('/') {
            Some((container, protocol)) => (container, parse_protocol(protocol)?),
            None => (container, Protocol::Tcp),
        };
        if container.is_empty() {
            return Err(PublishError::Empty(cut(text)));
        }
        let address = parse_address(address)?;
        let (first, last) = range(container)
            .filter(|(first, _)| *first > 0)
            .ok_or_else(|| PublishError::ContainerPort(cut(container)))?;
        let all = first..=last;
        let one = |container, host| Self {
            address,
            host,
            container,
            protocol,
        };
        // As to Docker, no port and port 0 are any.
        if matches!(host, "" | "0") {
            return Ok(all.map(|port| one(port, None)).collect());
        }
        let hosts = range(host)
            .filter(|(first, _)| *first > 0)
            .ok_or_else(|| PublishError::HostPort(cut(host)))?;
        if first == last {
            return Ok(vec![one(first, Some(hosts))]);
        }
        if hosts.1 - hosts.0 != last - first {
            return Err(PublishError::Ranges {
                container: cut(container),
                host: cut(host),
            });
        }
        Ok(all
            .zip(hosts.0..=hosts.1)
            .map(|(container, host)| one(container, Some((host, host))))
            .collect())
    }

    /// `80`, `80/udp`, `8000-8010`: an image's `EXPOSE`, or `--expose`.
    ///
    /// # Errors
    /// It is no port.
    pub fn parse_exposed(text: &str) -> Result<Vec<(u16, Protocol)>, PublishError> {
        let (port, protocol) = match text.split_once('/') {
            Some((port, protocol)) => (port, parse_protocol(protocol)?),
            None => (text, Protocol::Tcp),
        };
        let (first, last) = range(port)
            .filter(|(first, _)| *first > 0)
            .ok_or_else(|| PublishError::ContainerPort(cut(port)))?;
        Ok((first..=last).map(|port| (port, protocol)).collect())
    }
}

fn parse_protocol(text: &str) -> Result<Protocol, PublishError> {
    match text.to_ascii_lowercase().as_str() {
        // To Docker, what is empty is not given.
        "tcp" | "" => Ok(Protocol::Tcp),
        "udp" => Ok(Protocol::Udp),
        _ => Err(PublishError::Protocol(cut(text))),
    }
}

fn parse_address(text: &str) -> Result<IpAddr, PublishError> {
    if text.is_empty() {
        return Ok(DEFAULT_ADDRESS);
    }
    let bare = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'))
        .unwrap_or(text);
    bare.parse().map_err(|_| PublishError::Address(cut(text)))
}

/// `first-last`, or one for both.
fn range(text: &str) -> Option<(u16, u16)> {
    let port = |text: &str| -> Option<u16> {
        let is_number = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        text.parse().ok().filter(|_| is_number)
    };
    match text.split_once('-') {
        None => port(text).map(|port| (port, port)),
        Some((first, last)) => {
            let range = (port(first)?, port(last)?);
            (range.0 <= range.1).then_some(range)
        }
    }
}

fn cut(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn one(text: &str) -> Publish {
        let mut all = Publish::parse(text).unwrap();
        assert_eq!(all.len(), 1, "{text}");
        all.remove(0)
    }

    #[test]
    fn forms() {
        let plain = one("8080:80");
        assert_eq!(plain.address, DEFAULT_ADDRESS);
        assert_eq!((plain.host, plain.container), (Some((8080, 8080)), 80));
        assert_eq!(plain.protocol, Protocol::Tcp);
        assert_eq!(one("80").host, None);
        assert_eq!(one("0:80").host, None);
        assert_eq!(one("127.0.0.2::80/udp").host, None);
        assert_eq!(one("127.0.0.2::80/UDP").protocol, Protocol::Udp);
        assert_eq!(one("80/"), one("80/tcp"));
        assert_eq!(one("0.0.0.0:1:2").address, IpAddr::from([0, 0, 0, 0]));
        assert_eq!(
            one("[::1]:8080:80").address,
            "::1".parse::<IpAddr>().unwrap()
        );
        assert_eq!(one("8000-8010:80").host, Some((8000, 8010)));
        let range = Publish::parse("8000-8002:80-82").unwrap();
        let pairs: Vec<_> = range.iter().map(|p| (p.host, p.container)).collect();
        assert_eq!(
            pairs,
            [
                (Some((8000, 8000)), 80),
                (Some((8001, 8001)), 81),
                (Some((8002, 8002)), 82)
            ]
        );
        assert_eq!(Publish::parse("80-81").unwrap().len(), 2);
        assert_eq!(
            Publish::parse_exposed("53/udp").unwrap(),
            [(53, Protocol::Udp)]
        );
    }

    #[test]
    fn mistakes() {
        for (text, said) in [
            ("", "no port specified: <empty>"),
            ("8080:", "no port specified: 8080:<empty>"),
            ("/", "no port specified: /<empty>"),
            ("8080:http", "invalid containerPort: http"),
            ("80:0", "invalid containerPort: 0"),
            ("80:65536", "invalid containerPort: 65536"),
            ("x:80", "invalid hostPort: x"),
            ("70000:80", "invalid hostPort: 70000"),
            ("81-80:80", "invalid hostPort: 81-80"),
            (
                "80-82:80-81",
                "invalid ranges specified for container and host Ports: 80-81 and 80-82",
            ),
            ("localhost:80:80", "invalid IP address: localhost"),
            ("80:80/icmp", "invalid proto: icmp"),
        ] {
            assert_eq!(
                Publish::parse(text).unwrap_err().to_string(),
                said,
                "{text}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_text(text in "[0-9a-z:/.\\-\\[\\]]{0,24}") {
            for publish in Publish::parse(&text).into_iter().flatten() {
                prop_assert!(publish.container > 0);
                prop_assert!(publish.host.is_none_or(|(first, last)| 0 < first && first <= last));
            }
        }
    }
}
