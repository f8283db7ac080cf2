// SPDX-License-Identifier: Apache-2.0
//! Networks that users make: `walnut network`. What is on disk is what a network is to be; it comes up
//! with its first container ([`crate::network`]).
//!
//! ```text
//! ROOT/networks/
//!   lock         held while a network is made or removed
//!   NAME.json    what it is
//! ```

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use walnut_netlink::Cidr;

use crate::container::ContainerId;
use crate::events::Event;
use crate::network::host_routes::{self, is_in_the_way};
use crate::network::{self, Mode, member};
use crate::paths::{PathError, Paths, private_dir};
use crate::record::{self, Config, Entry, RecordError, Registry, State};
use crate::times::Timestamp;

#[derive(Debug, Error)]
pub enum NetworksError {
    #[error(transparent)]
    Path(#[from] PathError),
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error("network {0} not found")]
    NotFound(String),
    #[error("network {0} is ambiguous ({1} matches found on name or ID)")]
    Ambiguous(String, usize),
    #[error("network with name {0} already exists")]
    Exists(String),
    #[error(
        "invalid network name {0:?}: only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed, up to {MAX_NAME}"
    )]
    Name(String),
    #[error("operation is not permitted on predefined {0} network")]
    Predefined(String),
    #[error("{0} is a pre-defined network and cannot be removed")]
    Permanent(String),
    #[error(
        "invalid subnet {0}: expected an IPv4 network with room for containers, as 10.7.0.0/24"
    )]
    Subnet(String),
    #[error("invalid subnet {given}: it should be {subnet}")]
    HostBits { given: Cidr, subnet: Cidr },
    #[error(
        "invalid subnet {subnet}: {range} is {what}, and no container's; give private addresses, as 10.7.0.0/24"
    )]
    Useless {
        subnet: Cidr,
        range: Cidr,
        what: &'static str,
    },
    #[error("invalid gateway address {gateway}: it is no address of {subnet}")]
    Gateway { gateway: String, subnet: Cidr },
    #[error("gateway without a subnet: give --subnet, too")]
    GatewayAlone,
    #[error(
        "invalid pool request: Pool overlaps with other one on this address space: {subnet} and network {other}"
    )]
    Overlaps { subnet: Cidr, other: String },
    #[error("could not find an available subnet: give one by --subnet")]
    Exhausted,
    #[error("error while removing network: network {name} has active endpoints ({endpoints})")]
    InUse { name: String, endpoints: String },
    #[error("read {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("remove {path}")]
    Remove { path: PathBuf, source: io::Error },
    #[error("create an ID")]
    Random(#[source] io::Error),
}

const VERSION: u32 = 1;
const LOCK: &str = "lock";
const MAX_NAME: usize = 64;
/// No packet is routed to these (RFC 6890): address, prefix, what it is for.
const USELESS: &[([u8; 4], u8, &str)] = &[
    ([0, 0, 0, 0], 8, "this network itself"),
    ([127, 0, 0, 0], 8, "loopback"),
    ([169, 254, 0, 0], 16, "link-local"),
    ([224, 0, 0, 0], 4, "multicast"),
    ([240, 0, 0, 0], 4, "reserved"),
];
/// What is there without being made.
pub const PREDEFINED: &[&str] = &["bridge", "none", "user"];
/// These, too, are no user's.
const RESERVED: &[&str] = &["default", "host", "container", "tap"];

/// `NAME.json`.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Network {
    version: u32,
    pub id: String,
    pub name: String,
    pub created: Timestamp,
    pub labels: BTreeMap<String, String>,
    /// `10.89.0.0/24`
    subnet: String,
    pub gateway: Ipv4Addr,
    /// Without a way out.
    pub internal: bool,
}

impl Network {
    /// The gateway's address, and the network's prefix.
    pub fn gateway_cidr(&self) -> Cidr {
        let prefix = self.subnet.parse().map_or(24, |cidr: Cidr| cidr.prefix);
        Cidr {
            address: self.gateway.into(),
            prefix,
        }
    }

    /// What it is known by while it is up.
    pub fn key(&self) -> &str {
        self.id.get(..12).unwrap_or(&self.id)
    }

    pub fn subnet(&self) -> Cidr {
        self.gateway_cidr().network()
    }
}

/// What a network is to be.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub subnet: Option<String>,
    pub gateway: Option<String>,
    pub internal: bool,
}

/// A container that is on a network now.
pub type Member = (Entry, Config, State);

/// All networks of one `--root`.
#[derive(Clone, Debug)]
pub struct Networks<'a> {
    paths: &'a Paths,
    dir: PathBuf,
}

impl<'a> Networks<'a> {
    pub fn new(paths: &'a Paths) -> Self {
        Self {
            paths,
            dir: paths.root.join("networks"),
        }
    }

    pub fn create(&self, wanted: &Wanted) -> Result<Network, NetworksError> {
        self.create_beside(wanted, &host_routes::known())
    }

    /// `routes` are the host's, to which containers would have no way then.
    fn create_beside(&self, wanted: &Wanted, routes: &[Cidr]) -> Result<Network, NetworksError> {
        let name = wanted.name.as_str();
        check_name(name)?;
        if PREDEFINED.contains(&name) || RESERVED.contains(&name) {
            return Err(NetworksError::Predefined(name.to_owned()));
        }
        let _lock = self.lock()?;
        let others = self.list()?;
        if others.iter().any(|other| other.name == name) {
            return Err(NetworksError::Exists(name.to_owned()));
        }
        let subnet = choose_subnet(wanted, &others, routes)?;
        let gateway = choose_gateway(wanted, subnet)?;
        let id = ContainerId::random().map_err(NetworksError::Random)?;
        let network = Network {
            version: VERSION,
            id: id.to_string(),
            name: name.to_owned(),
            created: Timestamp::now(),
            labels: wanted.labels.clone(),
            subnet: subnet.to_string(),
            gateway,
            internal: wanted.internal,
        };
        record::write(&self.dir, &file(name), &network, true)?;
        Event::network(&network.id, name, "create").emit(self.paths);
        Ok(network)
    }

    /// As long as this is there, no network comes or goes. Before a container's own lock, not after it.
    pub fn lock(&self) -> Result<File, NetworksError> {
        private_dir(&self.dir)?;
        let path = self.dir.join(LOCK);
        Ok(record::lock_file(&path, FlockOperation::LockExclusive)?)
    }

    /// By name, by ID, by the beginning of an ID, in this order.
    pub fn find(&self, text: &str) -> Result<Network, NetworksError> {
        let not_found = || NetworksError::NotFound(text.chars().take(80).collect());
        check_name(text).map_err(|_| not_found())?;
        let all = self.list()?;
        let is = |network: &&Network| network.name == text || network.id == text;
        if let Some(network) = all.iter().find(is) {
            return Ok(network.clone());
        }
        let mut matching: Vec<_> = all
            .into_iter()
            .filter(|network| network.id.starts_with(text))
            .collect();
        match (matching.pop(), matching.len()) {
            (Some(network), 0) => Ok(network),
            (Some(_), others) => Err(NetworksError::Ambiguous(text.to_owned(), others + 1)),
            (None, _) => Err(not_found()),
        }
    }

    /// All, by name.
    pub fn list(&self) -> Result<Vec<Network>, NetworksError> {
        let entries = match fs::read_dir(&self.dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => {
                let path = self.dir.clone();
                return Err(NetworksError::Read { path, source });
            }
            Ok(entries) => entries.flatten(),
        };
        let mut all = Vec::new();
        for path in entries.map(|entry| entry.path()) {
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            // Gone in the meantime.
            let Some(bytes) = record::read(&path)? else {
                continue;
            };
            match serde_json::from_slice::<Network>(&bytes) {
                Ok(network) => all.push(network),
                Err(e) => log::warn!("make sense of {}: {e}", path.display()),
            }
        }
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }

    /// Where containers on a predefined one have addresses, and the gateways there.
    pub fn ranges(&self, name: &str) -> Vec<(Cidr, IpAddr)> {
        let there = match name == Mode::Bridge.name() {
            true => self.range_there(name),
            false => None,
        };
        there.map_or_else(|| network::ranges(name), |range| vec![range])
    }

    /// As it is for a container on it: a bridge may have been made with another subnet than is asked
    /// for now.
    fn range_there(&self, name: &str) -> Option<(Cidr, IpAddr)> {
        let members = self.members(name);
        let mut places = members.iter().flat_map(|(_, _, state)| state.network.all());
        let place = places.find(|place| place.network == name)?;
        Some((place.cidr()?.network(), *place.gateways.first()?))
    }

    /// The containers that are on it now; on a predefined one, too.
    pub fn members(&self, name: &str) -> Vec<Member> {
        let all = Registry::new(self.paths).list();
        all.into_iter()
            .filter(|(_, config, state)| {
                let is_it = |mode: &Mode| mode.network() == name;
                let is_on = config.container.network.modes().any(is_it);
                (state.is_live() || state.starting) && is_on
            })
            .collect()
    }

    /// # Errors
    /// [`NetworksError::InUse`] where a container that runs is on it.
    pub fn remove(&self, text: &str) -> Result<Network, NetworksError> {
        if PREDEFINED.contains(&text) {
            return Err(NetworksError::Permanent(text.to_owned()));
        }
        self.find(text)?;
        let _lock = self.lock()?;
        // Another one may be called so by now.
        let network = self.find(text)?;
        let members = self.members(&network.name);
        if !members.is_empty() {
            let endpoint = |(entry, config, _): &Member| {
                format!("name:{:?} id:{:?}", config.name(), entry.short())
            };
            let all: Vec<_> = members.iter().map(endpoint).collect();
            return Err(NetworksError::InUse {
                name: network.name,
                endpoints: all.join(", "),
            });
        }
        let path = self.dir.join(file(&network.name));
        match fs::remove_file(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                Err(NetworksError::NotFound(text.to_owned()))
            }
            Err(source) => Err(NetworksError::Remove { path, source }),
            Ok(()) => {
                member::forget(self.paths, network.key());
                Event::network(&network.id, &network.name, "destroy").emit(self.paths);
                Ok(network)
            }
        }
    }
}

fn file(name: &str) -> String {
    format!("{name}.json")
}

/// # Errors
/// It is no name that a network can have.
pub fn check_name(name: &str) -> Result<(), NetworksError> {
    let mut bytes = name.bytes();
    let first = bytes.next().is_some_and(|b| b.is_ascii_alphanumeric());
    let plain = bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
    match first && plain && name.len() <= MAX_NAME {
        true => Ok(()),
        false => Err(NetworksError::Name(name.chars().take(80).collect())),
    }
}

fn choose_subnet(
    wanted: &Wanted,
    others: &[Network],
    routes: &[Cidr],
) -> Result<Cidr, NetworksError> {
    let overlapping = |subnet: Cidr| {
        let mut others = others.iter();
        others.find(|other| other.subnet().overlaps(subnet))
    };
    let Some(text) = &wanted.subnet else {
        if wanted.gateway.is_some() {
            return Err(NetworksError::GatewayAlone);
        }
        let mut candidates = (0..=u8::MAX).map(|n| Cidr {
            address: [10, 89, n, 0].into(),
            prefix: 24,
        });
        let routed = |subnet: Cidr| {
            let mut routes = routes.iter();
            routes.any(|route| is_in_the_way(*route, subnet))
        };
        let is_free = |subnet: &Cidr| overlapping(*subnet).is_none() && !routed(*subnet);
        let free = candidates.find(is_free);
        return free.ok_or(NetworksError::Exhausted);
    };
    let invalid = || NetworksError::Subnet(text.chars().take(80).collect());
    let given: Cidr = text.parse().map_err(|_| invalid())?;
    if !given.address.is_ipv4() || !(8..=30).contains(&given.prefix) {
        return Err(invalid());
    }
    let subnet = given.network();
    if given != subnet {
        return Err(NetworksError::HostBits { given, subnet });
    }
    for (address, prefix, what) in USELESS {
        let range = Cidr {
            address: (*address).into(),
            prefix: *prefix,
        };
        if range.overlaps(subnet) {
            return Err(NetworksError::Useless {
                subnet,
                range,
                what,
            });
        }
    }
    match overlapping(subnet) {
        Some(other) => Err(NetworksError::Overlaps {
            subnet,
            other: other.name.clone(),
        }),
        None => Ok(subnet),
    }
}

/// The first address, unless given.
fn choose_gateway(wanted: &Wanted, subnet: Cidr) -> Result<Ipv4Addr, NetworksError> {
    let IpAddr::V4(network) = subnet.address else {
        return Err(NetworksError::Subnet(subnet.to_string()));
    };
    let Some(text) = &wanted.gateway else {
        return Ok(Ipv4Addr::from_bits(network.to_bits() + 1));
    };
    let outside = || NetworksError::Gateway {
        gateway: text.chars().take(40).collect(),
        subnet,
    };
    let gateway: Ipv4Addr = text.parse().map_err(|_| outside())?;
    let is_end = gateway == network || Some(gateway) == subnet.broadcast();
    match subnet.contains(gateway.into()) && !is_end {
        true => Ok(gateway),
        false => Err(outside()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn wanted(name: &str, subnet: Option<&str>, gateway: Option<&str>) -> Wanted {
        Wanted {
            name: name.to_owned(),
            subnet: subnet.map(str::to_owned),
            gateway: gateway.map(str::to_owned),
            ..Wanted::default()
        }
    }

    /// On a host that is on no network.
    fn create(networks: &Networks<'_>, wanted: &Wanted) -> Result<Network, NetworksError> {
        networks.create_beside(wanted, &[])
    }

    /// As long as there are some, and beside those that the host has a way to.
    #[test]
    fn ranges_for_many() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::within(dir.path());
        let networks = Networks::new(&paths);
        let routes: Vec<Cidr> = ["0.0.0.0/0", "128.0.0.0/1", "10.89.1.0/24", "10.89.128.0/17"]
            .map(|route| route.parse().unwrap())
            .into();
        let create =
            |n: u32| networks.create_beside(&wanted(&format!("n{n}"), None, None), &routes);
        let first = create(0).unwrap();
        let second = create(1).unwrap();
        assert_eq!(first.subnet().to_string(), "10.89.0.0/24");
        assert_eq!(second.subnet().to_string(), "10.89.2.0/24");
        let rest: Vec<_> = (2..127).map(|n| create(n).unwrap()).collect();
        assert_eq!(rest[124].subnet().to_string(), "10.89.127.0/24");
        assert!(matches!(create(127), Err(NetworksError::Exhausted)));
        // What is asked for is given; and what has become free is taken again.
        let asked = wanted("asked", Some("10.89.1.0/24"), None);
        networks.create_beside(&asked, &routes).unwrap();
        networks.remove("n1").unwrap();
        assert_eq!(create(127).unwrap().subnet(), second.subnet());
    }

    #[test]
    fn networks_come_and_go() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::resolve(Some(dir.path().join("r")), Some(dir.path().join("s"))).unwrap();
        let networks = Networks::new(&paths);
        assert!(networks.list().unwrap().is_empty());
        let one = create(&networks, &wanted("one", None, None)).unwrap();
        assert_eq!(one.gateway_cidr().to_string(), "10.89.0.1/24");
        let two = wanted("two", Some("10.7.0.0/16"), Some("10.7.0.9"));
        let two = create(&networks, &two).unwrap();
        assert_eq!(two.subnet().to_string(), "10.7.0.0/16");
        assert_eq!(networks.find(&two.id[..12]).unwrap().name, "two");
        let three = create(&networks, &wanted("three", None, None)).unwrap();
        assert_eq!(three.subnet().to_string(), "10.89.1.0/24");
        for (bad, said) in [
            (
                wanted("one", None, None),
                "network with name one already exists",
            ),
            (wanted("bridge", None, None), "predefined bridge network"),
            (wanted("-x", None, None), "invalid network name"),
            (wanted("../x", None, None), "invalid network name"),
            (wanted("x", Some("10.7.9.0/24"), None), "Pool overlaps"),
            (wanted("x", Some("10.9.0.0"), None), "invalid subnet"),
            (wanted("x", Some("10.9.0.0/31"), None), "invalid subnet"),
            (wanted("x", Some("fd00::/64"), None), "invalid subnet"),
            (
                wanted("x", Some("10.9.0.5/24"), None),
                "invalid subnet 10.9.0.5/24: it should be 10.9.0.0/24",
            ),
            (
                wanted("x", Some("0.0.0.0/24"), None),
                "0.0.0.0/8 is this network itself",
            ),
            (
                wanted("x", Some("127.9.0.0/24"), None),
                "127.0.0.0/8 is loopback",
            ),
            (
                wanted("x", Some("169.0.0.0/8"), None),
                "169.254.0.0/16 is link-local",
            ),
            (
                wanted("x", Some("239.1.0.0/16"), None),
                "224.0.0.0/4 is multicast",
            ),
            (
                wanted("x", Some("255.255.255.0/24"), None),
                "240.0.0.0/4 is reserved",
            ),
            (
                wanted("x", Some("10.9.0.0/24"), Some("10.8.0.1")),
                "invalid gateway",
            ),
            (
                wanted("x", Some("10.9.0.0/24"), Some("10.9.0.0")),
                "invalid gateway",
            ),
            (wanted("x", None, Some("10.9.0.1")), "without a subnet"),
        ] {
            let error = create(&networks, &bad).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
        networks.remove("one").unwrap();
        assert!(matches!(
            networks.find("one"),
            Err(NetworksError::NotFound(_))
        ));
        assert!(matches!(
            networks.remove("user"),
            Err(NetworksError::Permanent(_))
        ));
    }

    /// It is another one's by the time that its turn has come.
    #[test]
    fn one_of_that_name_is_removed_whole() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::within(dir.path());
        let networks = Networks::new(&paths);
        let old = create(&networks, &wanted("one", None, None)).unwrap();
        let held = networks.lock().unwrap();
        let number = held.metadata().unwrap().ino().to_string();
        // proc_locks(5): `1: -> FLOCK ADVISORY WRITE 77 00:2f:1234 0 EOF` of one that waits.
        let waits = || {
            let locks = fs::read_to_string("/proc/locks").unwrap();
            let waiting = locks.lines().filter(|line| line.contains("->"));
            waiting.into_iter().any(|line| {
                let mut places = line.split(' ').filter(|word| word.contains(':'));
                places.any(|place| place.rsplit(':').next() == Some(&number))
            })
        };
        std::thread::scope(|scope| {
            let removed = scope.spawn(|| networks.remove("one").unwrap());
            while !waits() {
                std::thread::yield_now();
            }
            let new = Network {
                id: ContainerId::random().unwrap().to_string(),
                ..old.clone()
            };
            record::write(&networks.dir, &file("one"), &new, true).unwrap();
            drop(held);
            assert_eq!(removed.join().unwrap().id, new.id);
        });
        assert!(networks.list().unwrap().is_empty());
    }
}
