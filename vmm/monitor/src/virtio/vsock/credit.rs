// SPDX-License-Identifier: Apache-2.0
//! The two windows of a connection (virtio 1.3 §5.10.6.3): what the guest may still send, and what
//! may still be sent to it. All counters wrap.

use serde::{Deserialize, Serialize};

use super::packet::Header;

/// Bytes the guest may send ahead of what the host's socket took: what the guest's kernel uses for
/// its own side, and four of its largest packets.
pub(super) const BUF_ALLOC: u32 = 256 * 1024;

/// The guest is told of that much room in a packet of its own, of less in any other packet.
const STEP: u32 = BUF_ALLOC / 2;

#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub(super) struct Credit {
    /// Bytes of the guest that need no room any more: our `fwd_cnt`, and what of it was told.
    forwarded: u32,
    told: u32,
    /// The guest asked for it.
    asked: bool,
    /// Bytes sent to the guest, and its `buf_alloc` and `fwd_cnt`.
    sent: u32,
    peer_alloc: u32,
    peer_forwarded: u32,
}

impl Credit {
    /// Takes what every packet of the guest says of its side.
    pub(super) fn learn(&mut self, header: &Header) {
        self.peer_alloc = header.buf_alloc;
        self.peer_forwarded = header.fwd_cnt;
    }

    /// Bytes the guest has room for. No more is asked for when there are none: the guest tells of
    /// its room by itself, and an answer in between would be a window of a few bytes.
    pub(super) fn of_guest(&self) -> usize {
        let in_flight = self.sent.wrapping_sub(self.peer_forwarded);
        self.peer_alloc.saturating_sub(in_flight) as usize
    }

    /// `len` bytes, no more than [`Credit::of_guest`], went to the guest.
    pub(super) fn spend(&mut self, len: usize) {
        self.sent = self.sent.wrapping_add(counted(len));
    }

    /// `len` bytes of the guest, no more than [`BUF_ALLOC`], need no room any more.
    pub(super) fn forward(&mut self, len: usize) {
        self.forwarded = self.forwarded.wrapping_add(counted(len));
    }

    /// The guest wants to be told.
    pub(super) fn ask(&mut self) {
        self.asked = true;
    }

    /// The guest should be told, even if there is nothing else to say.
    pub(super) fn is_owed(&self) -> bool {
        self.asked || self.forwarded.wrapping_sub(self.told) >= STEP
    }

    /// Our `fwd_cnt` for a packet that is about to be sent.
    pub(super) fn tell(&mut self) -> u32 {
        self.told = self.forwarded;
        self.asked = false;
        self.forwarded
    }
}

fn counted(len: usize) -> u32 {
    u32::try_from(len).expect("both windows are at most a u32")
}
