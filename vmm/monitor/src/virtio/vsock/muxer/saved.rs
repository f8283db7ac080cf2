// SPDX-License-Identifier: Apache-2.0
//! All connections across a snapshot.

use rustix::event::epoll::{self, EventData};
use serde::{Deserialize, Serialize};

use super::{Entry, FIRST_HOST_PORT, LAST_HOST_PORT, MAX_RESETS, MAX_SOCKETS, Muxer};
use crate::virtio::vsock::connection::{self, Connection, ConnectionState, Ports};
use crate::virtio::vsock::packet::Header;

/// What of all connections outlives the process.
#[derive(Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(default, deny_unknown_fields)]
pub(in crate::virtio::vsock) struct MuxerState {
    next_port: u32,
    connections: Vec<ConnectionState>,
    /// Those that the guest knows of, and we do not any more.
    lost: Vec<Ports>,
}

impl Muxer {
    pub(in crate::virtio::vsock) fn save(&self) -> MuxerState {
        let mut state = MuxerState {
            next_port: self.next_port,
            connections: Vec::new(),
            lost: Vec::new(),
        };
        for entry in self.entries.values() {
            let Entry::Stream { connection, .. } = entry else {
                continue;
            };
            match connection.state() {
                Some(saved) => state.connections.push(saved),
                None if connection.is_known() => state.lost.push(connection.ports),
                None => {}
            }
        }
        state.lost.extend(self.resets.iter().map(|reset| Ports {
            guest: reset.dst_port,
            host: reset.src_port,
        }));
        state
    }

    /// Goes on with those connections whose host ports are `resumed`; the guest hears that the others
    /// are gone.
    pub(in crate::virtio::vsock) fn restore(&mut self, state: MuxerState, resumed: &[u32]) {
        if (FIRST_HOST_PORT..=LAST_HOST_PORT).contains(&state.next_port) {
            self.next_port = state.next_port;
        }
        let mut lost = state.lost;
        for saved in state.connections.into_iter().take(MAX_SOCKETS) {
            let ports = saved.ports;
            let wanted = resumed.contains(&ports.host) && !self.tokens.contains_key(&ports);
            match Connection::awaited(saved, self.guest_cid).filter(|_| wanted) {
                Some(connection) => {
                    let token = self.new_token();
                    self.insert(token, connection);
                }
                None => lost.push(ports),
            }
        }
        let resets = lost.iter().take(MAX_RESETS + MAX_SOCKETS);
        self.resets
            .extend(resets.map(|ports| Header::reset(self.guest_cid, ports.guest, ports.host)));
    }

    /// The host takes a connection of the snapshot up.
    pub(super) fn resumed(&mut self, token: u64, host: u32) {
        let mut entries = self.entries.iter();
        let awaited = entries.find_map(|(&token, entry)| match entry {
            Entry::Stream { connection, .. }
                if connection.is_awaited() && connection.ports.host == host =>
            {
                Some(token)
            }
            _ => None,
        });
        let Some(awaited) = awaited else {
            return self.remove(token);
        };
        let Some(Entry::Greeting(stream)) = self.entries.remove(&token) else {
            return;
        };
        let data = EventData::new_u64(awaited);
        if let Err(error) = epoll::modify(&self.backend.epoll, &stream, data, connection::INTEREST)
        {
            log::warn!("vsock: cannot watch a socket: {error}");
        }
        self.with(awaited, |connection| connection.take_up(stream));
    }
}
