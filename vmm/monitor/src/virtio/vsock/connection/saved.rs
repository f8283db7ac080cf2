// SPDX-License-Identifier: Apache-2.0
//! A connection across a snapshot: its state, and the wait for whoever takes it up.

use std::os::unix::net::UnixStream;

use serde::{Deserialize, Serialize};

use super::{Connection, Fate, Phase, Ports};
use crate::virtio::vsock::credit::{BUF_ALLOC, Credit};
use crate::virtio::vsock::outbox::Outbox;
use crate::virtio::vsock::packet::SHUTDOWN_BOTH;

/// What of an established connection outlives the process.
#[derive(Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub(in crate::virtio::vsock) struct ConnectionState {
    pub ports: Ports,
    guest_shutdown: u32,
    host_shutdown: u32,
    told_shutdown: u32,
    credit: Credit,
    #[serde(with = "hex")]
    outbox: Vec<u8>,
}

impl Connection {
    /// Of a snapshot; `None` where the state makes no sense.
    pub(in crate::virtio::vsock) fn awaited(
        state: ConnectionState,
        guest_cid: u64,
    ) -> Option<Self> {
        if state.outbox.len() > BUF_ALLOC as usize {
            return None;
        }
        Some(Self {
            ports: state.ports,
            guest_cid,
            phase: Phase::Established,
            stream: None,
            awaited: true,
            readable: false,
            host_gone: false,
            guest_shutdown: state.guest_shutdown & SHUTDOWN_BOTH,
            host_shutdown: state.host_shutdown & SHUTDOWN_BOTH,
            told_shutdown: state.told_shutdown & SHUTDOWN_BOTH,
            outbox: Outbox::of(state.outbox),
            credit: state.credit,
            burst: 1,
        })
    }

    /// What a snapshot has of it; nothing of one that is not established, which is lost.
    pub(in crate::virtio::vsock) fn state(&self) -> Option<ConnectionState> {
        (self.phase == Phase::Established).then(|| ConnectionState {
            ports: self.ports,
            guest_shutdown: self.guest_shutdown,
            host_shutdown: self.host_shutdown,
            told_shutdown: self.told_shutdown,
            credit: self.credit.clone(),
            outbox: self.outbox.bytes(),
        })
    }

    /// The guest has heard of it.
    pub(in crate::virtio::vsock) fn is_known(&self) -> bool {
        self.phase != Phase::Unasked
    }

    pub(in crate::virtio::vsock) fn is_awaited(&self) -> bool {
        self.awaited
    }

    /// The host's end of one that was awaited.
    pub(in crate::virtio::vsock) fn take_up(&mut self, stream: UnixStream) -> Fate {
        self.awaited = false;
        self.stream = Some(stream);
        self.readable = self.can_read();
        match self.establish() {
            Fate::Stays => self.flush(),
            fate => fate,
        }
    }
}
