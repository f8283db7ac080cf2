// SPDX-License-Identifier: Apache-2.0
//! `--network bridge`: a bridge of the host with a tap for each container, which has an address that
//! the host reaches, and the way out by the host's NAT. It needs root.
//!
//! ```text
//! STATE/bridge/
//!   lock              held while bridge, rules or leases change; there while a container is
//!   made              the bridge that is there is ours
//!   ADDRESS           one container's lease: locked by its supervisor as long as that lives
//! ```
//!
//! A tap goes with its last descriptor, the monitor's. Bridge and rules are made anew of the leases
//! whenever one comes or goes; a lease that nobody has locked is a killed supervisor's, and the next
//! command that looks at its container takes it away.
//!
//! - `lease.rs`: the leases
//! - `host.rs`: the bridge itself, and what is set in the kernel for it
//! - `rules.rs`: nf_tables; `conntrack.rs`: flows that were there before them

mod conntrack;
mod host;
mod lease;
mod rules;

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;
use walnut_netlink::{Cidr, NetlinkError};
use walnut_switch::{Policy, Target};
use walnut_vmm_config::Mac;
use walnut_vmm_host::TapError;

use self::lease::{Lease, Leases};
use super::Bound;
use crate::record::RecordError;

/// As Docker calls it.
pub(super) const NAME: &str = "bridge";
/// The host's end.
const BRIDGE: &str = "walnut0";
const SUBNET: &str = "10.86.0.0/24";
const SUBNET_VAR: &str = "WALNUT_BRIDGE_SUBNET";
pub(super) const MTU: u16 = 1500;

#[derive(Debug, Error)]
pub enum BridgeError {
    #[error(
        "--network bridge needs root, since it sets up the host's network; --network user and \
         networks of your own (walnut network create) do without"
    )]
    NotRoot,
    #[error(
        "there is no nft on the PATH, which --network bridge needs: install the package nftables"
    )]
    NoNft,
    #[error("{SUBNET_VAR}={0} is no IPv4 network with room for containers")]
    Subnet(String),
    #[error(
        "no address is left on the bridge's network {0}: each container that runs there has one; {SUBNET_VAR}=CIDR names a larger one, when none runs"
    )]
    Exhausted(Cidr),
    #[error("Address already in use: {0}")]
    InUse(Ipv4Addr),
    #[error("MAC address {0} is already in use on the bridge")]
    MacInUse(Mac),
    #[error("{address} is no address for a container on the bridge's network {subnet}")]
    Outside { address: Ipv4Addr, subnet: Cidr },
    #[error("{BRIDGE} is on {was}; {SUBNET_VAR} can change when no container runs there")]
    OtherSubnet { was: Cidr },
    #[error(
        "the bridge's network {subnet} overlaps {route} of the interface {interface}, which is there \
         already: {SUBNET_VAR}=CIDR names another one"
    )]
    Overlap {
        subnet: Cidr,
        route: Cidr,
        interface: String,
    },
    #[error("{BRIDGE} is there already, and no bridge of this --state")]
    Foreign,
    #[error("--network bridge publishes on IPv4 addresses of the host only, not on {0}")]
    PublishIpv6(IpAddr),
    #[error(
        "--egress {0} on --network bridge: names are looked at on --network user and networks of \
         your own only"
    )]
    EgressName(String),
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error("look at {path}")]
    Look { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Tap(#[from] TapError),
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    #[error("set {path}")]
    Parameter { path: PathBuf, source: io::Error },
    #[error("run nft")]
    Nft(#[source] io::Error),
    #[error("nft did not set the rules within {} ms", .0.as_millis())]
    NftSilent(Duration),
    #[error("nft refuses the rules: {0}")]
    Rules(String),
}

/// What a container asks of it.
#[derive(Debug)]
pub(super) struct Ask<'a> {
    pub container: &'a str,
    pub address: Option<Ipv4Addr>,
    pub mac: Option<Mac>,
    pub ports: Vec<Bound>,
    pub egress: Option<Policy>,
}

/// A container's place on the bridge; it goes when dropped.
#[derive(Debug)]
pub(super) struct Port {
    pub address: Cidr,
    pub gateway: Ipv4Addr,
    pub mac: Mac,
    lease: Option<Lease>,
    leases: Leases,
    /// For the monitor.
    pub tap: Option<OwnedFd>,
}

impl Port {
    pub fn new(state: &Path, ask: &Ask<'_>) -> Result<Self, BridgeError> {
        if !rustix::process::geteuid().is_root() {
            return Err(BridgeError::NotRoot);
        }
        let mut rules = ask.egress.iter().flat_map(|policy| &policy.0);
        if let Some(rule) = rules.find(|rule| matches!(rule.target, Target::Name(_))) {
            return Err(BridgeError::EgressName(rule.to_string()));
        }
        let subnet = subnet()?;
        let mut addresses = ask.ports.iter().map(|port| port.address);
        if let Some(address) = addresses.find(IpAddr::is_ipv6) {
            return Err(BridgeError::PublishIpv6(address));
        }
        let leases = Leases::new(state)?;
        let lock = leases.lock()?;
        let mut all = leases.sweep(&lock)?;
        if let Some(other) = all.iter().find(|lease| lease.subnet != subnet.to_string()) {
            let was = other.subnet.parse().unwrap_or(subnet);
            return Err(BridgeError::OtherSubnet { was });
        }
        let free = match all.is_empty() {
            true => host::check_free(subnet),
            false => Ok(()),
        };
        let lease = match free.and_then(|()| leases.take(&lock, subnet, &all, ask)) {
            Ok(lease) => lease,
            Err(error) => {
                // The first error is the one to tell.
                let _ = settle(&leases, lock);
                return Err(error);
            }
        };
        all.push(lease.terms.clone());
        let gateway = lease::gateway(subnet);
        let made = host::bring_up(&leases, gateway)
            .and_then(|()| rules::apply(subnet, &all))
            .and_then(|()| host::tap(&lease.terms.tap));
        forget_flows(&lease.terms.ports);
        match made {
            Ok(tap) => Ok(Self {
                address: Cidr {
                    address: lease.terms.address.into(),
                    ..gateway
                },
                gateway: lease::ipv4(gateway),
                mac: lease.terms.mac,
                lease: Some(lease),
                leases,
                tap: Some(tap),
            }),
            Err(error) => {
                drop(lease);
                let _ = settle(&leases, lock);
                Err(error)
            }
        }
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        // Its lock goes with it, so that it is nobody's.
        let lease = self.lease.take();
        let ports = lease.map(|lease| lease.terms.ports.clone());
        let done = self
            .leases
            .lock()
            .and_then(|lock| settle(&self.leases, lock));
        if let Err(error) = done {
            log::warn!("{}", walnut_protocol::chain(&error));
        }
        forget_flows(&ports.unwrap_or_default());
    }
}

/// Once the rules are as they are to be.
fn forget_flows(ports: &[Bound]) {
    if let Err(error) = conntrack::forget(ports) {
        log::warn!("forget who sends datagrams to published ports: {error}");
    }
}

/// Whether there is what sets rules.
pub fn installed() -> bool {
    rules::installed()
}

/// Takes away what killed supervisors left.
pub fn tidy(state: &Path) {
    let done = Leases::find(state).map_or(Ok(()), |leases| {
        leases.lock().and_then(|lock| settle(&leases, lock))
    });
    if let Err(error) = done {
        log::warn!("{}", walnut_protocol::chain(&error));
    }
}

/// Has bridge and rules be as the leases that hold say; with the last one, they go.
fn settle(leases: &Leases, lock: lease::Lock) -> Result<(), BridgeError> {
    let all = leases.sweep(&lock)?;
    match all.first().and_then(|lease| lease.subnet.parse().ok()) {
        Some(subnet) => rules::apply(subnet, &all),
        None => {
            rules::remove()?;
            host::take_down(leases)?;
            lock.remove();
            Ok(())
        }
    }
}

/// Its network and its own address, as the next container has them if none is there.
///
/// # Errors
/// The variable makes no sense.
pub(super) fn range() -> Result<(Cidr, IpAddr), BridgeError> {
    let subnet = subnet()?;
    Ok((subnet, lease::gateway(subnet).address))
}

fn subnet() -> Result<Cidr, BridgeError> {
    let text = std::env::var(SUBNET_VAR).unwrap_or_else(|_| SUBNET.to_owned());
    let parsed = text.parse::<Cidr>().ok().map(Cidr::network);
    // Itself, the bridge, the last one: what is between is the containers'.
    let fits = |cidr: &Cidr| cidr.address.is_ipv4() && (8..=30).contains(&cidr.prefix);
    parsed.filter(fits).ok_or(BridgeError::Subnet(text))
}
