// SPDX-License-Identifier: Apache-2.0
//! virtio-vsock (virtio 1.3 §5.10): stream connections between guest and host. The host's side is
//! unix sockets, as [`walnut_vmm_config::VsockConfig`] says. Served by the monitor's event loop.
//!
//! Data goes straight between the host's sockets and the guest's buffers. Only what a socket does
//! not take at once is kept, up to the credit that the guest was given; what the guest has no
//! buffer or no credit for stays in the host's socket.

mod backend;
mod connection;
mod credit;
mod greeting;
mod handler;
mod muxer;
mod outbox;
mod packet;
mod socket;
#[cfg(test)]
mod tests;

use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::Arc;

use event_manager::EventSet;
use thiserror::Error;
use walnut_vmm_config::VsockConfig;

use super::{ActivateError, Activation, QueueHandler, VirtioDevice};
use backend::Backend;
use handler::VsockHandler;
use muxer::Muxer;

/// §5.10.
const TYPE: u32 = 19;

// Queues, §5.10.2.
const RX: usize = 0;
const TX: usize = 1;
const EVENT: usize = 2;

/// The kernel's driver fills the whole rx queue with 4 KiB buffers, and keeps 8 on the event queue.
const QUEUE_SIZES: &[u16] = &[128, 128, 8];

/// §5.10.4: `VMADDR_CID_HOST`, and the first that a guest may have.
const HOST_CID: u64 = 2;
const FIRST_GUEST_CID: u32 = 3;

#[derive(Debug, Error)]
pub enum VsockError {
    #[error("a guest cannot have CID {0}: 3 to 4294967294 are free")]
    GuestCid(u32),
    #[error("the socket path {path:?} is longer than {most} bytes")]
    LongPath { path: PathBuf, most: usize },
    #[error("cannot listen on the socket {path:?}")]
    Bind {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("cannot wait for several sockets")]
    Events(#[source] std::io::Error),
}

pub struct Vsock {
    guest_cid: u64,
    resumed: Vec<u32>,
    backend: Arc<Backend>,
}

impl Vsock {
    /// Listens from now on; connections wait until the driver is ready.
    pub fn new(config: &VsockConfig) -> Result<Self, VsockError> {
        let cid = config.guest_cid;
        if !(FIRST_GUEST_CID..u32::MAX).contains(&cid) {
            return Err(VsockError::GuestCid(cid));
        }
        Ok(Self {
            guest_cid: cid.into(),
            resumed: config.resumed.clone(),
            backend: Arc::new(Backend::new(&config.socket)?),
        })
    }

    fn handler(&self, activation: Activation) -> Result<VsockHandler, ActivateError> {
        let backend = Arc::clone(&self.backend);
        let muxer = Muxer::new(backend, self.guest_cid).map_err(ActivateError::Event)?;
        let resumed = self.resumed.clone();
        Ok(VsockHandler::new(
            activation.queues,
            muxer,
            self.guest_cid,
            resumed,
        ))
    }
}

impl VirtioDevice for Vsock {
    fn device_type(&self) -> u32 {
        TYPE
    }

    fn queue_sizes(&self) -> &[u16] {
        QUEUE_SIZES
    }

    fn config(&self) -> Vec<u8> {
        self.guest_cid.to_le_bytes().to_vec()
    }

    fn event_fd(&self) -> Option<(BorrowedFd<'_>, EventSet)> {
        Some((self.backend.epoll.as_fd(), EventSet::IN))
    }

    fn activate(&mut self, activation: Activation) -> Result<Box<dyn QueueHandler>, ActivateError> {
        Ok(Box::new(self.handler(activation)?))
    }
}
