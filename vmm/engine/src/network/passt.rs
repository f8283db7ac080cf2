// SPDX-License-Identifier: Apache-2.0
//! passt(1), one for each container: its frames become sockets of an ordinary process of the host.
//!
//! It gets one end of a socket pair, the monitor the other; it ends when that one is closed, so it
//! never outlives the machine, whatever happens to whom. It puts itself into a sandbox of its own.
//!
//! It takes some time to start and 20 MiB while it lives. So it is started when it is needed: at
//! once where ports are published, otherwise when the guest has sent its first frame.

mod listening;

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::io::{FdFlags, fcntl_setfd};
use walnut_netlink::Cidr;
use walnut_vmm_config::Mac;

use super::{Bound, NetworkError, program};

const PROGRAM: &str = "passt";

const GOOD: &str = "passt is there: containers have a network without root";
const OLD: &str = "passt is there, an old one: a container that ends its half of a connection first may lose the answer; \
                   that of August 2024 and later is better (docs/networking.md)";
const MISSING: &str = "there is no passt: containers have no network unless it is --network tap:NAME; install the package passt";

/// An option since then. Its version is not to be relied on: Debian 12's knows none of itself.
const SINCE_AUGUST_2024: &str = "--map-host-loopback";

/// Of every container on a network of its own; rarely anybody's LAN.
pub(super) const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 100);
pub(super) const PREFIX: u8 = 24;
pub(super) const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
/// The same by IPv6, of our own part of fd00::/8 (RFC 4193).
const ADDRESS_V6: Ipv6Addr = Ipv6Addr::new(0xfd57, 0x616c, 0x6e75, 0x7400, 0, 0, 0, 0x64);
const PREFIX_V6: u8 = 64;
pub(super) const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfd57, 0x616c, 0x6e75, 0x7400, 0, 0, 0, 2);
/// Passed on to the host's own resolver, where that listens on the loopback.
pub(super) const RESOLVER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);
/// The same, of a passt behind a switch.
pub(super) const LINK_RESOLVER: Ipv4Addr = walnut_switch::LINK_RESOLVER;
/// The other side's, on each of those networks. With an address and a link named, passt asks for no
/// route of the host's: it starts on a host that is offline, and goes on when that changes.
const GATEWAY_MAC: Mac = walnut_switch::GATEWAY_MAC;
const LOOPBACK: &str = "lo";
/// Of each passt that root starts, so that the host's packets filter knows its sockets: nobody has it
/// (between what systemd gives away and what a signed number holds).
pub(super) const GROUP: u32 = 2_002_873_454;
const NOBODY: u32 = 65534;
/// user_namespaces(7): where nobody has mapped anything.
const INITIAL_MAP: [&str; 3] = ["0", "0", "4294967295"];

/// What it is to do.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub ports: Vec<Bound>,
    /// The interface of the host's that IPv6 is possible by.
    pub ipv6: Option<String>,
    /// Queries to the place's resolver go to the host's.
    pub forward_dns: bool,
    /// The gateway's address is the host's loopback.
    pub host_loopback: bool,
    pub place: Place,
}

/// Whom it serves.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub address: Ipv4Addr,
    pub prefix: u8,
    pub gateway: Ipv4Addr,
    pub resolver: Ipv4Addr,
}

impl Default for Place {
    fn default() -> Self {
        Self {
            address: ADDRESS,
            prefix: PREFIX,
            gateway: GATEWAY,
            resolver: RESOLVER,
        }
    }
}

/// What `inspect` says of that network: where containers have addresses, and the gateways.
pub(super) fn ranges() -> Vec<(Cidr, IpAddr)> {
    let gateways = [GATEWAY.into(), GATEWAY_V6.into()];
    let all = addresses(ipv6_interface().is_some()).into_iter();
    all.map(Cidr::network).zip(gateways).collect()
}

impl Plan {
    fn arguments(&self, fd: i32) -> Vec<OsString> {
        let mut all: Vec<OsString> = Vec::new();
        let mut add = |words: &[&str]| all.extend(words.iter().map(OsString::from));
        add(&["--quiet", "--fd", &fd.to_string()]);
        if is_root() {
            add(&["--runas", &format!("{NOBODY}:{GROUP}")]);
        }
        let interface = self.ipv6.as_deref().unwrap_or(LOOPBACK);
        add(&[
            "--interface",
            interface,
            "--mac-addr",
            &GATEWAY_MAC.to_string(),
        ]);
        add(&["--address", &self.place.address.to_string()]);
        add(&["--netmask", &self.place.prefix.to_string()]);
        add(&["--gateway", &self.place.gateway.to_string()]);
        add(&["--no-dhcp", "--no-dhcpv6", "--no-ra"]);
        if self.ipv6.is_some() {
            add(&["--address", &ADDRESS_V6.to_string()]);
            add(&["--gateway", &GATEWAY_V6.to_string()]);
        } else {
            add(&["--ipv4-only", "--no-ndp"]);
        }
        if self.forward_dns {
            add(&["--dns-forward", &self.place.resolver.to_string()]);
        }
        if !self.host_loopback {
            add(&["--no-map-gw"]);
        }
        all.extend(
            listening::arguments(&self.ports)
                .into_iter()
                .map(OsString::from),
        );
        all
    }
}

/// A passt that is on its way, or may be needed later.
#[derive(Debug)]
pub(super) enum Passt {
    /// Its end of the socket pair: readable when the guest has something to say.
    Later {
        plan: Plan,
        socket: OwnedFd,
    },
    Starting {
        child: Child,
        stderr: File,
        ports: Vec<Bound>,
    },
    Running,
}

impl Passt {
    pub(super) fn new(plan: Plan, socket: OwnedFd) -> Result<Self, NetworkError> {
        if plan.ports.is_empty() {
            return Ok(Self::Later { plan, socket });
        }
        start(&plan, socket)
    }

    /// Readable when it is time to call [`Self::start`].
    pub(super) fn wanted(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Later { socket, .. } => Some(socket.as_fd()),
            _ => None,
        }
    }

    /// Starts one that was put off.
    pub(super) fn start(&mut self) -> Result<(), NetworkError> {
        if let Self::Later { plan, socket } = std::mem::replace(self, Self::Running) {
            *self = start(&plan, socket)?;
        }
        Ok(())
    }

    /// Waits until it listens: it goes into the background then.
    pub(super) fn settle(&mut self) -> Result<(), NetworkError> {
        self.settle_within(program::TIMEOUT)
    }

    fn settle_within(&mut self, timeout: Duration) -> Result<(), NetworkError> {
        if let Self::Starting {
            child,
            stderr,
            ports,
        } = self
        {
            // It closes its end when it goes into the background, or ends.
            let done = program::outcome(child, &*stderr, timeout).map_err(NetworkError::Spawn);
            let ports = std::mem::take(ports);
            *self = Self::Running;
            let (status, said) = done?.ok_or(NetworkError::PasstSilent(timeout))?;
            if !status.success() {
                let said = reason(&String::from_utf8_lossy(&said));
                let about_ports = listening::failure(&said, &ports);
                return Err(about_ports.unwrap_or(NetworkError::Passt(said)));
            }
        }
        Ok(())
    }
}

fn start(plan: &Plan, socket: OwnedFd) -> Result<Passt, NetworkError> {
    let program = find().ok_or(NetworkError::NoPasst)?;
    fcntl_setfd(&socket, FdFlags::empty()).map_err(|e| NetworkError::Socket(e.into()))?;
    let mut child = Command::new(program)
        .args(plan.arguments(socket.as_raw_fd()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(NetworkError::Spawn)?;
    drop(socket);
    let stderr = child.stderr.take().map(OwnedFd::from).map(File::from);
    let stderr = stderr.ok_or_else(|| NetworkError::Spawn(io::ErrorKind::BrokenPipe.into()))?;
    Ok(Passt::Starting {
        child,
        stderr,
        ports: plan.ports.clone(),
    })
}

/// Whether it would be nobody by itself.
fn is_root() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    rustix::process::geteuid().is_root() && map.split_whitespace().eq(INITIAL_MAP)
}

/// What is about the failure, of all that it says.
fn reason(said: &str) -> String {
    let about_itself = |line: &&str| {
        !line.is_empty() && !line.contains("to syslog") && !line.starts_with("Don't run as root")
    };
    let lines: Vec<&str> = said.lines().map(str::trim).filter(about_itself).collect();
    lines.join("; ").chars().take(400).collect()
}

/// Whether there is one.
pub fn installed() -> bool {
    find().is_some()
}

/// Whether it is as it should be, and words for the user.
pub fn diagnosis() -> (bool, &'static str) {
    match find().map(|program| Command::new(program).arg("--help").output()) {
        None => (false, MISSING),
        Some(Ok(help)) if !is_recent(&[&help.stdout[..], &help.stderr].concat()) => (false, OLD),
        Some(_) => (true, GOOD),
    }
}

fn is_recent(help: &[u8]) -> bool {
    String::from_utf8_lossy(help).contains(SINCE_AUGUST_2024)
}

fn find() -> Option<PathBuf> {
    program::find(PROGRAM)
}

/// Every container's are the same: each is on a network of its own.
pub(super) fn addresses(ipv6: bool) -> Vec<Cidr> {
    let v4 = Cidr {
        address: IpAddr::V4(ADDRESS),
        prefix: PREFIX,
    };
    let v6 = Cidr {
        address: IpAddr::V6(ADDRESS_V6),
        prefix: PREFIX_V6,
    };
    [Some(v4), ipv6.then_some(v6)]
        .into_iter()
        .flatten()
        .collect()
}

/// An interface with a link-local address of IPv6, which passt must have to do IPv6 at all.
pub(super) fn ipv6_interface() -> Option<String> {
    parse_addresses(&std::fs::read_to_string("/proc/net/if_inet6").ok()?)
}

/// `address index prefix scope flags name`, in hexadecimal digits: one line an address.
fn parse_addresses(table: &str) -> Option<String> {
    const LINK: &str = "20";
    let of = |line: &str| {
        let mut words = line.split_ascii_whitespace().skip(3);
        let is_link_local = words.next()? == LINK;
        words.nth(1).filter(|_| is_link_local).map(str::to_owned)
    };
    table.lines().find_map(of)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::Protocol;

    #[test]
    fn what_passt_is_told() {
        let mut plan = Plan {
            ports: vec![Bound {
                address: [127, 0, 0, 1].into(),
                host: 5353,
                container: 53,
                protocol: Protocol::Udp,
            }],
            ipv6: None,
            forward_dns: true,
            host_loopback: false,
            place: Place::default(),
        };
        let line = plan.arguments(7).join(" ".as_ref()).into_string().unwrap();
        assert!(line.contains("--ipv4-only ") && line.contains("--interface lo "));
        assert!(line.contains("--fd 7 ") && line.contains("--no-map-gw"));
        assert!(line.contains("--dns-forward 10.0.2.3 "));
        assert!(line.ends_with("--udp-ports 127.0.0.1/5353:53"));
        plan.ipv6 = Some("wlan0".into());
        let line = plan.arguments(7).join(" ".as_ref()).into_string().unwrap();
        assert!(!line.contains("--ipv4-only") && line.contains("--interface wlan0 "));
        assert!(line.contains("--address fd57:616c:6e75:7400::64 "));
    }

    #[test]
    fn what_an_old_one_says_of_itself() {
        let new = "  --map-host-loopback ADDR\tTranslate ADDR to refer to host\n";
        assert!(is_recent(new.as_bytes()));
        assert!(
            !is_recent(b"  --no-map-gw\t\tDon't map gateway address to host\n") && !is_recent(b"")
        );
    }

    #[test]
    fn where_ipv6_is_possible() {
        let table = "00000000000000000000000000000001 01 80 10 80       lo\n\
                     fd000000000000000000000000000002 04 40 00 82     eth0\n\
                     fe8000000000000000fc00fffe000001 04 40 20 80     eth0\n";
        assert_eq!(parse_addresses(table).as_deref(), Some("eth0"));
        for none in ["", "\n", "1 2 3", "x x x 20", &table[..110]] {
            assert_eq!(parse_addresses(none), None, "{none}");
        }
    }

    #[test]
    fn one_that_does_not_come_up_is_given_up() {
        let mut command = Command::new("sleep");
        let mut child = command.arg("1000").stderr(Stdio::piped()).spawn().unwrap();
        let stderr = OwnedFd::from(child.stderr.take().unwrap());
        let mut passt = Passt::Starting {
            child,
            stderr: stderr.into(),
            ports: Vec::new(),
        };
        let given_up = passt.settle_within(Duration::from_millis(50)).unwrap_err();
        assert_eq!(
            given_up.to_string(),
            "passt was started, but was not ready within 50 ms"
        );
        assert!(passt.settle().is_ok());
    }

    #[test]
    fn what_it_says_is_cleared_up() {
        let said = "Failed to send 47 bytes to syslog\nDon't run as root. Changing to nobody...\n\
                    \nFailed to send 1 bytes to syslog\nFailed to bind any port for '-t x', exiting\n";
        assert_eq!(reason(said), "Failed to bind any port for '-t x', exiting");
    }
}
