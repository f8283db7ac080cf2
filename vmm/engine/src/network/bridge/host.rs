// SPDX-License-Identifier: Apache-2.0
//! The bridge and its taps, in the network namespace of this process.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use walnut_netlink::{Change, Cidr, Netlink, NetlinkError};
use walnut_vmm_config::Mac;
use walnut_vmm_host::open_tap;

use super::lease::Leases;
use super::{BRIDGE, BridgeError, MTU};
use crate::network::host_routes::is_in_the_way;

const PARAMETERS: &str = "/proc/sys/net";
const FORWARDING: &str = "ipv4/ip_forward";
/// Of the bridge: locally administered, the same on each host, so that a neighbour's cache is right
/// when the bridge was away.
pub(super) const MAC: Mac = Mac([0x02, 0x42, 0x0a, 0x56, 0, 1]);

/// # Errors
/// [`BridgeError::Overlap`] where the host has addresses or routes of its own there.
pub(super) fn check_free(subnet: Cidr) -> Result<(), BridgeError> {
    let mut netlink = Netlink::open()?;
    for (route, link) in netlink.routes_ipv4()? {
        if !is_in_the_way(route, subnet) {
            continue;
        }
        match netlink.name(link) {
            Ok(name) if name == BRIDGE => {}
            Ok(interface) => {
                return Err(BridgeError::Overlap {
                    subnet,
                    route,
                    interface,
                });
            }
            Err(error) if is_missing(&error) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Makes it, where it is not there; what was left half made is finished. What fails leaves it to the
/// leases whether it stays.
pub(super) fn bring_up(leases: &Leases, gateway: Cidr) -> Result<(), BridgeError> {
    let mut netlink = Netlink::open()?;
    // What has no mark is somebody else's.
    let (mark, is_ours) = (leases.mark(), leases.mark().exists());
    fs::write(&mark, "").map_err(|source| BridgeError::Parameter {
        path: mark.clone(),
        source,
    })?;
    match netlink.add_bridge(BRIDGE) {
        Ok(()) => {}
        Err(error) if error.errno() == Some(Errno::EXIST) && is_ours => {}
        Err(error) => {
            if !is_ours {
                let _ = fs::remove_file(mark);
            }
            return Err(match error.errno() {
                Some(Errno::EXIST) => BridgeError::Foreign,
                _ => error.into(),
            });
        }
    }
    let link = netlink.link(BRIDGE)?;
    // Containers are neighbours that the host must not take a router's word of; and what is published
    // on the loopback comes from there.
    set(&format!("ipv6/conf/{BRIDGE}/disable_ipv6"), "1")?;
    set(&format!("ipv4/conf/{BRIDGE}/route_localnet"), "1")?;
    netlink.add_address(link, gateway)?;
    let up = Change {
        up: true,
        mtu: Some(MTU.into()),
        mac: Some(MAC.0),
        ..Change::default()
    };
    netlink.set(link, &up)?;
    // It stays so: nobody can tell who came later and relies on it.
    match read(FORWARDING).as_deref() {
        Some("1") => Ok(()),
        _ => set(FORWARDING, "1"),
    }
}

/// A new tap, which goes with the descriptor.
pub(super) fn tap(name: &str) -> Result<OwnedFd, BridgeError> {
    let tap = open_tap(name)?;
    let mut netlink = Netlink::open()?;
    let bridge = netlink.link(BRIDGE)?;
    let link = netlink.link(name)?;
    // It is no interface of the host's own.
    set(&format!("ipv6/conf/{name}/disable_ipv6"), "1")?;
    let change = Change {
        mtu: Some(MTU.into()),
        up: true,
        bridge: Some(bridge),
        ..Change::default()
    };
    netlink.set(link, &change)?;
    Ok(tap)
}

/// The bridge, and what is the kernel's for it.
pub(super) fn take_down(leases: &Leases) -> Result<(), BridgeError> {
    if !leases.mark().exists() {
        return Ok(());
    }
    let mut netlink = Netlink::open()?;
    match netlink.link(BRIDGE).and_then(|link| netlink.delete(link)) {
        Ok(()) => {}
        Err(error) if is_missing(&error) => {}
        Err(error) => return Err(error.into()),
    }
    // What can't be removed is looked at again by the next one.
    let _ = fs::remove_file(leases.mark());
    Ok(())
}

fn is_missing(error: &NetlinkError) -> bool {
    error.errno() == Some(Errno::NODEV)
}

fn parameter(name: &str) -> PathBuf {
    Path::new(PARAMETERS).join(name)
}

fn read(name: &str) -> Option<String> {
    let text = fs::read_to_string(parameter(name)).ok()?;
    Some(text.trim().to_owned())
}

/// A kernel without IPv6 has none of its parameters.
fn set(name: &str, value: &str) -> Result<(), BridgeError> {
    let path = parameter(name);
    match fs::write(&path, value) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && name.starts_with("ipv6") => {
            Ok(())
        }
        written => written.map_err(|source| BridgeError::Parameter { path, source }),
    }
}
