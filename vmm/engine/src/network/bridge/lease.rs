// SPDX-License-Identifier: Apache-2.0
//! Who has which address on the bridge.

use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use walnut_netlink::Cidr;
use walnut_switch::Policy;
use walnut_vmm_config::Mac;

use super::{Ask, BridgeError, host};
use crate::image::is_at;
use crate::network::Bound;
use crate::paths::private_dir;
use crate::record;

const LOCK: &str = "lock";
const MARK: &str = "made";

/// One line of JSON in a file that is called as the address.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub(super) struct Terms {
    pub container: String,
    pub address: Ipv4Addr,
    pub subnet: String,
    pub mac: Mac,
    pub tap: String,
    pub ports: Vec<Bound>,
    #[serde(default)]
    pub egress: Option<Policy>,
}

/// One that holds: as long as its file is locked.
#[derive(Debug)]
pub(super) struct Lease {
    pub terms: Terms,
    path: PathBuf,
    _file: File,
}

impl Drop for Lease {
    fn drop(&mut self) {
        // What is left of it is swept.
        let _ = fs::remove_file(&self.path);
    }
}

/// The right to change leases, bridge and rules.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
    path: PathBuf,
}

impl Lock {
    /// The right ends with it: where nobody has a lease, the file need not be there.
    pub fn remove(self) {
        let _ = fs::remove_file(&self.path);
    }
}

#[derive(Clone, Debug)]
pub(super) struct Leases {
    dir: PathBuf,
}

impl Leases {
    pub fn new(state: &Path) -> Result<Self, BridgeError> {
        let dir = state.join("bridge");
        private_dir(&dir).map_err(record::RecordError::from)?;
        Ok(Self { dir })
    }

    /// `None` where there never was a bridge.
    pub fn find(state: &Path) -> Option<Self> {
        let dir = state.join("bridge");
        dir.is_dir().then_some(Self { dir })
    }

    pub fn lock(&self) -> Result<Lock, BridgeError> {
        let path = self.dir.join(LOCK);
        loop {
            let file = record::lock_file(&path, FlockOperation::LockExclusive)?;
            // Whoever had it may have removed it: then it says nothing to those who come later.
            match is_at(&file, &path) {
                Ok(true) => return Ok(Lock { _file: file, path }),
                Ok(false) => {}
                Err(source) => return Err(BridgeError::Look { path, source }),
            }
        }
    }

    /// There while there is a bridge of ours.
    pub fn mark(&self) -> PathBuf {
        self.dir.join(MARK)
    }

    /// Those that hold; the others' files are removed.
    pub fn sweep(&self, _lock: &Lock) -> Result<Vec<Terms>, BridgeError> {
        let look = |source| BridgeError::Look {
            path: self.dir.clone(),
            source,
        };
        let mut all = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(look)? {
            let entry = entry.map_err(look)?;
            let name = entry.file_name();
            let is_lease = name.to_str().is_some_and(|n| n.parse::<Ipv4Addr>().is_ok());
            if !is_lease {
                continue;
            }
            let path = entry.path();
            let Ok(file) = File::open(&path) else {
                continue;
            };
            if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
                log::info!("{} is nobody's", path.display());
                fs::remove_file(&path).map_err(look)?;
                continue;
            }
            let bytes = record::read(&path)?.unwrap_or_default();
            match serde_json::from_slice(&bytes) {
                Ok(terms) => all.push(terms),
                Err(error) => log::warn!("{}: {error}", path.display()),
            }
        }
        Ok(all)
    }

    /// The address that is asked for, or the first that is free.
    pub fn take(
        &self,
        _lock: &Lock,
        subnet: Cidr,
        all: &[Terms],
        ask: &Ask<'_>,
    ) -> Result<Lease, BridgeError> {
        let address = choose(subnet, all, ask.address)?;
        let mac = ask.mac.unwrap_or_else(|| super::super::mac_of(address));
        if mac == host::MAC || all.iter().any(|one| one.mac == mac) {
            return Err(BridgeError::MacInUse(mac));
        }
        let terms = Terms {
            container: ask.container.to_owned(),
            address,
            subnet: subnet.to_string(),
            mac,
            tap: tap_name(ask.container),
            ports: ask.ports.clone(),
            egress: ask.egress.clone(),
        };
        let path = self.dir.join(address.to_string());
        let write = || -> io::Result<File> {
            let mut file = File::create(&path)?;
            flock(&file, FlockOperation::NonBlockingLockExclusive)?;
            serde_json::to_writer(&mut file, &terms)?;
            Ok(file)
        };
        match write() {
            Ok(file) => Ok(Lease {
                terms,
                path,
                _file: file,
            }),
            Err(source) => Err(record::RecordError::Write { path, source }.into()),
        }
    }
}

/// Fifteen bytes at most.
fn tap_name(container: &str) -> String {
    format!("wn{}", container.get(..12).unwrap_or(container))
}

/// The bridge's own address: the first.
pub(super) fn gateway(subnet: Cidr) -> Cidr {
    let first = Ipv4Addr::from_bits(ipv4(subnet).to_bits() + 1);
    Cidr {
        address: first.into(),
        ..subnet
    }
}

pub(super) fn ipv4(cidr: Cidr) -> Ipv4Addr {
    match cidr.address {
        IpAddr::V4(address) => address,
        IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
    }
}

fn choose(subnet: Cidr, all: &[Terms], wanted: Option<Ipv4Addr>) -> Result<Ipv4Addr, BridgeError> {
    let first = ipv4(subnet).to_bits() + 2;
    let last = subnet.broadcast().map_or(first, Ipv4Addr::to_bits);
    let is_free = |address: &Ipv4Addr| !all.iter().any(|terms| terms.address == *address);
    if let Some(address) = wanted {
        return match address {
            _ if !(first..last).contains(&address.to_bits()) => {
                Err(BridgeError::Outside { address, subnet })
            }
            _ if is_free(&address) => Ok(address),
            _ => Err(BridgeError::InUse(address)),
        };
    }
    let mut candidates = (first..last).map(Ipv4Addr::from_bits);
    candidates
        .find(is_free)
        .ok_or(BridgeError::Exhausted(subnet))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(address: Option<[u8; 4]>) -> Ask<'static> {
        Ask {
            container: "0123456789abcdef",
            address: address.map(Ipv4Addr::from),
            mac: None,
            ports: Vec::new(),
            egress: None,
        }
    }

    #[test]
    fn addresses_are_taken_once_and_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let leases = Leases::new(dir.path()).unwrap();
        let lock = leases.lock().unwrap();
        let subnet: Cidr = "192.0.2.0/29".parse().unwrap();
        let take = |address| {
            let all = leases.sweep(&lock).unwrap();
            leases.take(&lock, subnet, &all, &ask(address))
        };
        let first = take(None).unwrap();
        assert_eq!(first.terms.address, Ipv4Addr::new(192, 0, 2, 2));
        assert_eq!(first.terms.tap, "wn0123456789ab");
        let fifth = take(Some([192, 0, 2, 5])).unwrap();
        let again = take(Some([192, 0, 2, 5])).unwrap_err();
        assert!(matches!(again, BridgeError::InUse(_)), "{again}");
        for outside in [[192, 0, 2, 1], [192, 0, 2, 7], [192, 0, 3, 2], [0; 4]] {
            let refused = take(Some(outside)).unwrap_err();
            assert!(matches!(refused, BridgeError::Outside { .. }), "{refused}");
        }
        let rest: Vec<_> = (0..3).map(|_| take(None).unwrap()).collect();
        let none = take(None).unwrap_err();
        assert!(matches!(none, BridgeError::Exhausted(_)), "{none}");
        drop(fifth);
        assert_eq!(
            take(None).unwrap().terms.address,
            Ipv4Addr::new(192, 0, 2, 5)
        );
        drop(rest);
    }

    #[test]
    fn one_lock_also_where_it_goes_and_comes() {
        const THREADS: usize = 4;
        let dir = tempfile::tempdir().unwrap();
        let leases = Leases::new(dir.path()).unwrap();
        let inside = std::sync::Mutex::new(());
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    for _ in 0..500 {
                        let lock = leases.lock().unwrap();
                        let alone = inside.try_lock().unwrap();
                        std::thread::yield_now();
                        drop(alone);
                        lock.remove();
                    }
                });
            }
        });
        assert_eq!(fs::read_dir(&leases.dir).unwrap().count(), 0);
    }

    #[test]
    fn a_lease_that_nobody_holds_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let leases = Leases::new(dir.path()).unwrap();
        let lock = leases.lock().unwrap();
        let subnet: Cidr = "192.0.2.0/24".parse().unwrap();
        let held = leases.take(&lock, subnet, &[], &ask(None)).unwrap();
        let dead = leases.dir.join("192.0.2.9");
        fs::copy(&held.path, &dead).unwrap();
        assert_eq!(
            leases.sweep(&lock).unwrap(),
            std::slice::from_ref(&held.terms)
        );
        assert!(!dead.exists() && held.path.exists());
    }
}
