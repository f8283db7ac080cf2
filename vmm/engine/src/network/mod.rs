// SPDX-License-Identifier: Apache-2.0
//! A container's network: what was asked for ([`Wanted`]), and what it has while it runs
//! ([`Attachment`]), from the flags to the processes behind it.
//!
//! - `wanted.rs`: the flags, checked; `mode.rs`: `--network`
//! - `publish.rs`: `-p`
//! - `ports.rs`: ports of the host, taken before anything is started
//! - `passt.rs`: a network without root: passt(1)
//! - `bridge/`: a network with root: a bridge, taps, nf_tables
//! - `member.rs`: a place on a network of the user's own
//! - `end.rs`: one run's place on one network
//! - `session.rs`: all of one run's places
//! - `attachment.rs`: what is recorded of them
//! - `resolver.rs`: how the host looks names up; `host_routes.rs`: which addresses it has a way to

mod attachment;
pub mod bridge;
mod end;
pub mod host_routes;
pub mod member;
mod mode;
mod passt;
mod ports;
mod program;
mod publish;
mod resolver;
mod session;
mod wanted;

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;
use walnut_netlink::Cidr;
use walnut_vmm_config::Mac;

pub use attachment::Attachment;
pub use end::{names_of, renamed};
pub use mode::{MAX_NETWORKS, Mode, Other, Tap, check_others};
pub use passt::{diagnosis, installed};
pub use ports::Bound;
pub use publish::{Protocol, Publish, PublishError};
pub use resolver::Resolver;
pub use session::{Session, is_usual};
pub use wanted::{HOST_GATEWAY, Wanted, WantedError};

use crate::paths::PathError;

/// How the package is called, for messages.
pub const PACKAGE: &str = "install the package passt (Debian, Ubuntu, Fedora: passt)";

#[derive(Debug, Error)]
pub enum NetworkError {
    #[error(
        "there is no passt on the PATH, which --network user needs: {PACKAGE}, or give --network none"
    )]
    NoPasst,
    #[error(
        "there is no passt on the PATH, which the network {0} needs for its way out: {PACKAGE}, or give one that was made with --internal"
    )]
    NoPasstOn(String),
    #[error("Bind for {address}:{port} failed: {why}")]
    Bind {
        address: IpAddr,
        port: u16,
        why: String,
    },
    #[error("Bind for {address}:{port} failed: port is already published by this container")]
    Twice { address: IpAddr, port: u16 },
    #[error(
        "{wanted} ports are too many for passt, which may have {possible} at most: publish fewer, or \
         raise the limit of open files (ulimit -Hn)"
    )]
    TooManyPorts { wanted: usize, possible: u64 },
    #[error(
        "--network user publishes on IPv4 addresses of the host only, not on {0}: no interface of the \
         host has a link-local address of IPv6, which passt needs for it"
    )]
    PublishIpv6(IpAddr),
    #[error("{network} publishes on IPv4 addresses of the host only, not on {address}")]
    SwitchedIpv6 { network: String, address: IpAddr },
    #[error(transparent)]
    Path(#[from] PathError),
    #[error("lock ports in {path}")]
    Claim { path: PathBuf, source: io::Error },
    #[error("start passt")]
    Spawn(#[source] io::Error),
    #[error("passt failed{}", said(.0))]
    Passt(String),
    #[error("passt was started, but was not ready within {} ms", .0.as_millis())]
    PasstSilent(Duration),
    #[error(transparent)]
    Networks(#[from] crate::networks::NetworksError),
    #[error(transparent)]
    Member(#[from] member::MemberError),
    #[error("conflicting options: port publishing and the network {0}, which is internal")]
    Internal(String),
    #[error(
        "networks {one} and {other} have the same addresses: a container can be on one of them"
    )]
    Overlap { one: String, other: String },
    #[error("MAC address is already in use by this container, on the network {0}")]
    Mac(String),
    #[error(transparent)]
    Bridge(#[from] bridge::BridgeError),
    #[error("create a name for the network's switch")]
    Key(#[source] io::Error),
    #[error("make a socket for the network")]
    Socket(#[source] io::Error),
}

/// Where containers on a predefined network have addresses, and the gateways there.
pub fn ranges(name: &str) -> Vec<(Cidr, IpAddr)> {
    match name {
        attachment::USER => passt::ranges(),
        bridge::NAME => bridge::range().into_iter().collect(),
        _ => Vec::new(),
    }
}

/// As Docker makes them: locally administered, and the address.
fn mac_of(address: Ipv4Addr) -> Mac {
    let [a, b, c, d] = address.octets();
    Mac([0x02, 0x42, a, b, c, d])
}

fn said(text: &str) -> String {
    if text.is_empty() {
        String::new()
    } else {
        format!(": {text}")
    }
}
