// SPDX-License-Identifier: Apache-2.0
//! The machine's network interfaces, set up as the host says: name, MTU, addresses, default routes.
//! Nothing is asked of the network itself, so nothing is waited for.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use walnut_netlink::{Change, Cidr, CidrError, Netlink, NetlinkError};
use walnut_protocol::agent::Interface;

use crate::wake::{self, WakeError};

const CLASS: &str = "/sys/class/net";
const PARAMETERS: &str = "/proc/sys/net";

#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    #[error("read {CLASS}")]
    List(#[source] io::Error),
    #[error("there is no network interface with the address {mac:?}")]
    NoInterface { mac: String },
    #[error("{0:?} is no name for a network interface")]
    Name(String),
    #[error(transparent)]
    Cidr(#[from] CidrError),
    #[error("{0:?} is no IP address")]
    Gateway(String),
    #[error("set {parameter} of {interface}")]
    Parameter {
        parameter: &'static str,
        interface: String,
        source: io::Error,
    },
    #[error("let go of {interface}")]
    LetGo {
        interface: String,
        source: io::Error,
    },
    #[error(transparent)]
    Probe(#[from] WakeError),
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}

impl NetworkError {
    #[must_use]
    pub fn errno(&self) -> i32 {
        match self {
            Self::List(error)
            | Self::LetGo { source: error, .. }
            | Self::Parameter { source: error, .. } => error.raw_os_error().unwrap_or(0),
            Self::NoInterface { .. } | Self::Probe(_) => libc::ENODEV,
            Self::Name(_) | Self::Cidr(_) | Self::Gateway(_) => libc::EINVAL,
            Self::Netlink(error) => error.errno().map_or(0, rustix::io::Errno::raw_os_error),
        }
    }
}

/// An interface as it shall be, checked.
#[derive(Debug, PartialEq, Eq)]
struct Wanted<'a> {
    mac: &'a str,
    name: &'a str,
    mtu: Option<u32>,
    addresses: Vec<Cidr>,
    gateways: Vec<IpAddr>,
    announce: bool,
    quiet: bool,
}

impl<'a> Wanted<'a> {
    fn parse(interface: &'a Interface) -> Result<Self, NetworkError> {
        let name = interface.name.as_str();
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        if !(1..libc::IFNAMSIZ).contains(&name.len()) || !name.bytes().all(plain) {
            return Err(NetworkError::Name(name.chars().take(40).collect()));
        }
        let gateway = |text: &String| {
            let error = || NetworkError::Gateway(text.chars().take(80).collect());
            text.parse().map_err(|_| error())
        };
        Ok(Self {
            mac: &interface.mac,
            name,
            mtu: Some(interface.mtu).filter(|mtu| *mtu > 0),
            addresses: interface
                .addresses
                .iter()
                .map(|text| text.parse())
                .collect::<Result<_, _>>()?,
            gateways: interface
                .gateways
                .iter()
                .map(gateway)
                .collect::<Result<_, _>>()?,
            announce: interface.announce,
            quiet: interface.quiet,
        })
    }

    fn has_ipv6(&self) -> bool {
        self.addresses.iter().any(|cidr| cidr.address.is_ipv6())
    }
}

/// As they are set up; a template's come along with it.
static SET_UP: Mutex<Vec<Interface>> = Mutex::new(Vec::new());

/// Sets up all of them, in order. What is so already stays untouched.
///
/// # Errors
/// One that makes no sense, that is not there, or that the kernel refuses.
pub fn set_up(interfaces: &[Interface]) -> Result<(), NetworkError> {
    // Who panicked here left nothing half changed that the next one does not set anew.
    let mut set_up = SET_UP.lock().unwrap_or_else(PoisonError::into_inner);
    if interfaces.is_empty() || *set_up == interfaces {
        return Ok(());
    }
    replace(&mut set_up, interfaces)
}

fn replace(set_up: &mut Vec<Interface>, interfaces: &[Interface]) -> Result<(), NetworkError> {
    let mut netlink = Netlink::open()?;
    for interface in set_up.drain(..) {
        take_down(&mut netlink, &Wanted::parse(&interface)?)?;
    }
    for interface in interfaces {
        one(&mut netlink, &Wanted::parse(interface)?)?;
    }
    set_up.extend_from_slice(interfaces);
    Ok(())
}

/// Sets up all of them anew, so that they are announced to whoever is on the other side now.
///
/// # Errors
/// As [`set_up`].
pub fn set_up_again(interfaces: &[Interface]) -> Result<(), NetworkError> {
    let mut set_up = SET_UP.lock().unwrap_or_else(PoisonError::into_inner);
    replace(&mut set_up, interfaces)
}

/// Sets up what has come, lets go of what goes, and leaves the others as they are.
///
/// # Errors
/// As [`set_up`].
pub fn change(interfaces: &[Interface]) -> Result<(), NetworkError> {
    let mut set_up = SET_UP.lock().unwrap_or_else(PoisonError::into_inner);
    let mut netlink = Netlink::open()?;
    let same_device = |a: &Interface, b: &Interface| a.mac.eq_ignore_ascii_case(&b.mac);
    let (stay, go): (Vec<_>, Vec<_>) = set_up
        .drain(..)
        .partition(|was| interfaces.iter().any(|one| same_device(one, was)));
    *set_up = stay;
    for was in &go {
        let_go(Path::new(CLASS), &was.mac)?;
    }
    let is_new = |one: &&Interface| !set_up.iter().any(|was| same_device(one, was));
    if interfaces.iter().any(|one| is_new(&one)) {
        wake::probe_all()?;
    }
    for interface in interfaces {
        let wanted = Wanted::parse(interface)?;
        let Some(at) = set_up.iter().position(|was| same_device(was, interface)) else {
            one(&mut netlink, &wanted)?;
            set_up.push(interface.clone());
            continue;
        };
        if set_up[at] == *interface {
            continue;
        }
        let with_ways = Interface {
            gateways: interface.gateways.clone(),
            ..set_up[at].clone()
        };
        if with_ways == *interface && set_up[at].gateways.is_empty() {
            // From now on, it is the way out.
            let link = netlink.link(wanted.name)?;
            for gateway in &wanted.gateways {
                netlink.add_default_route(link, *gateway)?;
            }
        } else {
            take_down(&mut netlink, &Wanted::parse(&set_up[at])?)?;
            one(&mut netlink, &wanted)?;
        }
        set_up[at] = interface.clone();
    }
    Ok(())
}

/// Of the device with this address; one that somebody has moved or renumbered stays where it is.
fn let_go(class: &Path, mac: &str) -> Result<(), NetworkError> {
    let Ok(name) = find(class, mac) else {
        return Ok(());
    };
    let device = fs::canonicalize(class.join(&name).join("device")).map_err(NetworkError::List)?;
    let mut parts = device.iter().filter_map(std::ffi::OsStr::to_str);
    let Some(place) = parts.find(|part| part.starts_with(wake::PLACE)) else {
        return Ok(());
    };
    wake::let_go(place).map_err(|source| NetworkError::LetGo {
        interface: name,
        source,
    })
}

/// Its routes and addresses of IPv6 go when it is down.
fn take_down(netlink: &mut Netlink, was: &Wanted<'_>) -> Result<(), NetworkError> {
    let link = netlink.link(was.name)?;
    let down = Change {
        down: true,
        ..Change::default()
    };
    netlink.set(link, &down)?;
    for cidr in was.addresses.iter().filter(|cidr| cidr.address.is_ipv4()) {
        netlink.delete_address(link, *cidr)?;
    }
    Ok(())
}

fn one(netlink: &mut Netlink, wanted: &Wanted<'_>) -> Result<(), NetworkError> {
    let found = find(Path::new(CLASS), wanted.mac)?;
    let link = netlink.link(&found)?;
    let change = Change {
        name: Some(wanted.name).filter(|name| *name != found),
        mtu: wanted.mtu,
        no_arp: Some(wanted.quiet),
        ..Change::default()
    };
    netlink.set(link, &change)?;
    parameters(wanted)?;
    // Announced is what it has when it goes up.
    for cidr in &wanted.addresses {
        netlink.add_address(link, *cidr)?;
    }
    // The kernel makes it only when it has seen the carrier, up to a second later, and whoever is
    // on the other side has heard nothing of it until then.
    if let Some(link_local) = link_local(wanted.mac).filter(|_| wanted.has_ipv6()) {
        netlink.add_address(link, link_local)?;
    }
    let up = Change {
        up: true,
        ..Change::default()
    };
    netlink.set(link, &up)?;
    for gateway in &wanted.gateways {
        netlink.add_default_route(link, *gateway)?;
    }
    Ok(())
}

/// The address that the kernel gives an interface of this MAC by itself (RFC 4291, appendix A).
fn link_local(mac: &str) -> Option<Cidr> {
    let mut bytes = mac.split(':').map(|byte| u8::from_str_radix(byte, 16).ok());
    let mut next = || bytes.next()?;
    let [a, b, c, d, e, f] = [next()?, next()?, next()?, next()?, next()?, next()?];
    let id = [a ^ 2, b, c, 0xff, 0xfe, d, e, f];
    let address = u128::from(0xfe80_u16) << 112 | u128::from(u64::from_be_bytes(id));
    Some(Cidr {
        address: IpAddr::V6(address.into()),
        prefix: 64,
    })
}

/// Before it goes up: no duplicate address is looked for, and no router's word is taken.
fn parameters(wanted: &Wanted<'_>) -> Result<(), NetworkError> {
    let mut all: Vec<(&str, &'static str, &str)> = Vec::new();
    if wanted.announce {
        all.push(("ipv4", "arp_notify", "1"));
    }
    if wanted.has_ipv6() {
        all.extend([
            ("ipv6", "disable_ipv6", "0"),
            ("ipv6", "accept_dad", "0"),
            ("ipv6", "accept_ra", "0"),
        ]);
        if wanted.announce {
            all.push(("ipv6", "ndisc_notify", "1"));
        }
    } else if !wanted.addresses.is_empty() {
        all.push(("ipv6", "disable_ipv6", "1"));
    }
    for (family, parameter, value) in all {
        let dir = Path::new(PARAMETERS).join(family).join("conf");
        match fs::write(dir.join(wanted.name).join(parameter), value) {
            // A kernel without IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            written => written.map_err(|source| NetworkError::Parameter {
                parameter,
                interface: wanted.name.into(),
                source,
            })?,
        }
    }
    Ok(())
}

/// The name of the interface with this address.
fn find(class: &Path, mac: &str) -> Result<String, NetworkError> {
    for entry in fs::read_dir(class).map_err(NetworkError::List)? {
        let entry = entry.map_err(NetworkError::List)?;
        let address = fs::read_to_string(entry.path().join("address")).unwrap_or_default();
        if address.trim_end().eq_ignore_ascii_case(mac) {
            return Ok(entry.file_name().to_string_lossy().into_owned());
        }
    }
    Err(NetworkError::NoInterface {
        mac: mac.chars().take(40).collect(),
    })
}

/// Bytes that the network namespace of a process has received and sent, the loopback's left out.
#[must_use]
pub fn traffic(pid: i32) -> (u64, u64) {
    // A process that is gone has none.
    let table = fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap_or_default();
    sum_of_traffic(&table)
}

/// proc_pid_net(5): two lines of headings, then a name with a colon, eight numbers of what was
/// received, eight of what was sent; bytes come first.
fn sum_of_traffic(table: &str) -> (u64, u64) {
    const SENT: usize = 8;
    let mut sum = (0_u64, 0_u64);
    for line in table.lines() {
        let Some((name, numbers)) = line.split_once(':') else {
            continue;
        };
        if name.trim() == "lo" {
            continue;
        }
        let numbers: Vec<u64> = numbers
            .split_whitespace()
            .map_while(|number| number.parse().ok())
            .collect();
        let at = |index: usize| numbers.get(index).copied().unwrap_or(0);
        sum.0 = sum.0.saturating_add(at(0));
        sum.1 = sum.1.saturating_add(at(SENT));
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_local_address_is_made_of_the_mac() {
        let cidr = link_local("02:42:0a:00:02:64").unwrap();
        assert_eq!(cidr.to_string(), "fe80::42:aff:fe00:264/64");
        assert_eq!(link_local("02:42:0a:00:02"), None);
        assert_eq!(link_local("02:42:0a:00:02:xx"), None);
    }

    #[test]
    fn traffic_of_all_but_the_loopback() {
        let table = "Inter-|   Receive  |  Transmit\n face |bytes packets|bytes packets\n    \
                     lo: 5 1 0 0 0 0 0 0 5 1 0 0 0 0 0 0\n  eth0: 100 2 0 0 0 0 0 0 7 1 0 0 0 0 0 0\n  \
                     eth1:1 1 0 0 0 0 0 0 2 1 0 0 0 0 0 0\n";
        assert_eq!(sum_of_traffic(table), (101, 9));
        assert_eq!(sum_of_traffic("nonsense: a b\n"), (0, 0));
        assert_eq!(traffic(-1), (0, 0));
    }

    fn interface() -> Interface {
        Interface {
            mac: "02:00:00:00:00:01".into(),
            name: "eth0".into(),
            mtu: 65520,
            addresses: vec!["10.0.2.100/24".into()],
            gateways: vec!["10.0.2.2".into()],
            ..Interface::default()
        }
    }

    #[test]
    fn what_the_host_says_is_checked() {
        let interface = interface();
        let wanted = Wanted::parse(&interface).unwrap();
        assert!(!wanted.has_ipv6());
        assert_eq!(wanted.gateways, [IpAddr::from([10, 0, 2, 2])]);
        let refused = |change: fn(&mut Interface)| {
            let mut bad = interface.clone();
            change(&mut bad);
            Wanted::parse(&bad).unwrap_err().to_string()
        };
        assert!(refused(|i| i.name = "../x".into()).contains("no name"));
        assert!(refused(|i| i.name = "x".repeat(16)).contains("no name"));
        assert!(refused(|i| i.addresses = vec!["10.0.2.100".into()]).contains("CIDR"));
        assert!(refused(|i| i.gateways = vec!["x".into()]).contains("no IP address"));
    }

    #[test]
    fn found_by_its_address() {
        let class = tempfile::tempdir().unwrap();
        for (name, mac) in [("lo", "00:00:00:00:00:00"), ("eth7", "02:00:00:00:00:0a")] {
            fs::create_dir(class.path().join(name)).unwrap();
            fs::write(class.path().join(name).join("address"), format!("{mac}\n")).unwrap();
        }
        assert_eq!(find(class.path(), "02:00:00:00:00:0A").unwrap(), "eth7");
        assert!(find(class.path(), "02:00:00:00:00:0b").is_err());
    }
}
