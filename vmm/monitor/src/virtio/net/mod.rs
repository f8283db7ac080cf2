// SPDX-License-Identifier: Apache-2.0
//! virtio-net (virtio 1.3 §5.1): one pair of queues between the guest's driver and a [`Backend`].
//! Served by the monitor's event loop.
//!
//! - `mod.rs`: the device and its configuration
//! - `chain.rs`: a guest's chain to the guest memory of a packet
//! - `handler.rs`: packets moved between queues and backend
//! - `limit.rs`: how fast packets may go, where that is bounded
//! - `backend.rs`: what a backend is; `tap.rs`, `stream.rs`: the two there are; `nobody.rs`: that of a
//!   device which is not there
//!
//! Nothing but the queues is to be saved: a packet on its way may be lost.

mod backend;
mod chain;
mod handler;
mod limit;
mod nobody;
mod stream;
mod tap;
#[cfg(test)]
mod tests;
mod vectors;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use event_manager::EventSet;
use rustix::event::epoll;
use thiserror::Error;
use walnut_vmm_config::{MAX_MTU, MIN_MTU, Mac, NetBackend, NetConfig, NetRate, Plug, PlugBackend};

use self::backend::Backend;
use self::handler::NetHandler;
use self::limit::Limits;
use self::nobody::Nobody;
use self::stream::Stream;
use self::tap::Tap;
use super::{ActivateError, Activation, QueueHandler, VirtioDevice};

pub use self::tap::{ACTIVATE_IOCTLS, SET_UP_IOCTLS};

/// §5.1.
const TYPE: u32 = 1;

// Queues, §5.1.2.
const RX: usize = 0;
const TX: usize = 1;

const QUEUE_SIZES: &[u16] = &[256, 256];

// Feature bits, §5.1.3.
const F_CSUM: u64 = 1 << 0;
const F_GUEST_CSUM: u64 = 1 << 1;
const F_MTU: u64 = 1 << 3;
const F_MAC: u64 = 1 << 5;
const F_GUEST_TSO4: u64 = 1 << 7;
const F_GUEST_TSO6: u64 = 1 << 8;
const F_GUEST_ECN: u64 = 1 << 9;
const F_HOST_TSO4: u64 = 1 << 11;
const F_HOST_TSO6: u64 = 1 << 12;
const F_HOST_ECN: u64 = 1 << 13;
const F_MRG_RXBUF: u64 = 1 << 15;
const F_STATUS: u64 = 1 << 16;
const F_GUEST_USO4: u64 = 1 << 54;
const F_GUEST_USO6: u64 = 1 << 55;
const F_HOST_USO: u64 = 1 << 56;

/// `struct virtio_net_hdr` (§5.1.6), with `num_buffers`, as it always is for VERSION_1.
const HEADER_LEN: usize = 12;
/// Where `num_buffers` is in it.
const NUM_BUFFERS: usize = 10;

/// Destination, source, type.
const ETHERNET_HEADER_LEN: usize = 14;

/// Of a device that is not there.
const UNKNOWN: Mac = Mac([2, 0, 0, 0, 0, 0]);

/// Of an Ethernet that says nothing else.
const DEFAULT_MTU: u16 = 1500;

/// A packet that is to be segmented, or was merged of several, and its Ethernet header (§5.1.6.3.1).
const MAX_FRAME: usize = 65_535 + ETHERNET_HEADER_LEN;

/// The one bit of `status` (§5.1.4).
const S_LINK_UP: u16 = 1;

#[derive(Debug, Error)]
pub enum NetError {
    #[error("an MTU is {MIN_MTU} to {MAX_MTU} bytes, not {0}")]
    Mtu(u16),
    #[error("{0} is no address that an interface can have")]
    Mac(Mac),
    #[error("a rate's bucket holds something, and is full again within a day")]
    Rate,
    #[error(
        "there is no network interface {0}; as root, `ip tuntap add {0} mode tap vnet_hdr user USER` makes one"
    )]
    NoTap(String),
    #[error(transparent)]
    Tap(#[from] walnut_vmm_host::TapError),
    #[error("cannot set up the tap")]
    SetUpTap(#[source] std::io::Error),
    #[error("cannot connect to {path}")]
    Connect {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("cannot use the socket of the network")]
    Socket(#[source] std::io::Error),
    #[error("cannot wait for the network")]
    Events(#[source] std::io::Error),
}

/// What the driver is told of the device.
#[derive(Clone, Copy)]
struct Identity {
    mac: Mac,
    mtu: u16,
    /// Of the backend.
    offloads: u64,
    /// Without a backend, the place is an empty one.
    present: bool,
}

/// What device and handler share.
struct Link {
    identity: Mutex<Identity>,
    backend: Mutex<Box<dyn Backend>>,
    limits: Mutex<Limits>,
    /// The backend's descriptor and the limits' timer are in it while a handler lives.
    epoll: OwnedFd,
    up: AtomicBool,
}

impl Link {
    /// §5.1.4: mac, status, max_virtqueue_pairs, mtu.
    fn config(&self) -> Vec<u8> {
        let identity = *hold(&self.identity);
        let up = self.up.load(Ordering::SeqCst);
        let status = if up { S_LINK_UP } else { 0 };
        let mut config = identity.mac.0.to_vec();
        config.extend(status.to_le_bytes());
        config.extend([0; 2]);
        config.extend(identity.mtu.to_le_bytes());
        config
    }
}

pub struct Net {
    link: Arc<Link>,
}

impl Net {
    pub fn new(config: &NetConfig) -> Result<Self, NetError> {
        check_mac(config.mac)?;
        let (backend, mtu): (Box<dyn Backend>, u16) = match &config.backend {
            NetBackend::Absent => return Self::absent(),
            NetBackend::Tap(name) => {
                let tap = Tap::open(name)?;
                let mtu = tap.mtu();
                (Box::new(tap), mtu)
            }
            NetBackend::TapFd(fd) => tap(crate::run::inherited(*fd))?,
            NetBackend::Stream(path) => stream(Stream::connect(path)?, config.finish_handshakes),
            NetBackend::StreamFd(fd) => {
                let socket = Stream::new(crate::run::inherited(*fd))?;
                stream(socket, config.finish_handshakes)
            }
        };
        let mtu = config.mtu.unwrap_or(mtu);
        Self::over(backend, config.mac, mtu, config.rate.as_ref())
    }

    /// One that is to come.
    pub fn absent() -> Result<Self, NetError> {
        let net = Self::over(Box::new(Nobody::new()?), UNKNOWN, DEFAULT_MTU, None)?;
        hold(&net.link.identity).present = false;
        net.link.up.store(false, Ordering::SeqCst);
        Ok(net)
    }

    /// For whoever takes it away, or brings it.
    pub fn port(&self) -> NetPort {
        NetPort(Arc::clone(&self.link))
    }

    fn over(
        backend: Box<dyn Backend>,
        mac: Mac,
        mtu: u16,
        rate: Option<&NetRate>,
    ) -> Result<Self, NetError> {
        if !rate.is_none_or(limit::is_valid) {
            return Err(NetError::Rate);
        }
        let identity = Identity::new(&*backend, mac, mtu)?;
        let limits = rate.map_or(Ok(Limits::default()), Limits::new);
        let limits = limits.map_err(NetError::Events)?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)
            .map_err(|error| NetError::Events(error.into()))?;
        Ok(Self {
            link: Arc::new(Link {
                identity: Mutex::new(identity),
                backend: Mutex::new(backend),
                limits: Mutex::new(limits),
                epoll,
                up: AtomicBool::new(true),
            }),
        })
    }
}

fn tap(fd: OwnedFd) -> Result<(Box<dyn Backend>, u16), NetError> {
    Ok((Box::new(Tap::new(fd, DEFAULT_MTU)?), DEFAULT_MTU))
}

fn stream(socket: Stream, finish_handshakes: bool) -> (Box<dyn Backend>, u16) {
    (Box::new(socket.finishing(finish_handshakes)), MAX_MTU)
}

fn check_mac(mac: Mac) -> Result<(), NetError> {
    match mac.is_multicast() || mac.is_zero() {
        true => Err(NetError::Mac(mac)),
        false => Ok(()),
    }
}

impl Identity {
    fn new(backend: &dyn Backend, mac: Mac, mtu: u16) -> Result<Self, NetError> {
        check_mac(mac)?;
        if !(MIN_MTU..=MAX_MTU).contains(&mtu) {
            return Err(NetError::Mtu(mtu));
        }
        Ok(Self {
            mac,
            mtu,
            offloads: backend.offloads(),
            present: true,
        })
    }
}

/// A device's other side, for the thread that serves it.
pub struct NetPort(Arc<Link>);

impl NetPort {
    pub fn is_present(&self) -> bool {
        hold(&self.0.identity).present
    }

    pub fn mac(&self) -> Mac {
        hold(&self.0.identity).mac
    }

    /// To be called where there is none, and no driver.
    pub fn plug(&self, plug: &Plug, fd: OwnedFd) -> Result<(), NetError> {
        let (backend, mtu) = match plug.backend {
            PlugBackend::Tap => tap(fd)?,
            PlugBackend::Stream => stream(Stream::new(fd)?, plug.finish_handshakes),
        };
        let identity = Identity::new(&*backend, plug.mac, plug.mtu.unwrap_or(mtu))?;
        *hold(&self.0.limits) = Limits::default();
        *hold(&self.0.backend) = backend;
        self.0.up.store(true, Ordering::SeqCst);
        *hold(&self.0.identity) = identity;
        Ok(())
    }

    /// A driver that has not let go of it goes on without a link.
    pub fn unplug(&self) -> Result<(), NetError> {
        let nobody = Box::new(Nobody::new()?);
        hold(&self.0.identity).present = false;
        self.0.up.store(false, Ordering::SeqCst);
        *hold(&self.0.backend) = nobody;
        Ok(())
    }
}

fn hold<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    // A poisoned lock means that a handler panicked; release builds abort there.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl VirtioDevice for Net {
    fn device_type(&self) -> u32 {
        TYPE
    }

    fn queue_sizes(&self) -> &[u16] {
        QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        F_MAC | F_MTU | F_STATUS | F_MRG_RXBUF | hold(&self.link.identity).offloads
    }

    fn config(&self) -> Vec<u8> {
        self.link.config()
    }

    fn is_present(&self) -> bool {
        hold(&self.link.identity).present
    }

    fn event_fd(&self) -> Option<(BorrowedFd<'_>, EventSet)> {
        // An edge of what is in it is one of its own: it need not be asked what there is.
        let edge = EventSet::IN | EventSet::EDGE_TRIGGERED;
        Some((self.link.epoll.as_fd(), edge))
    }

    fn activate(&mut self, activation: Activation) -> Result<Box<dyn QueueHandler>, ActivateError> {
        let handler = NetHandler::new(activation, Arc::clone(&self.link));
        Ok(Box::new(handler.map_err(ActivateError::Event)?))
    }
}
