// SPDX-License-Identifier: Apache-2.0
//! The other side of a device that is not there, or not any more.

use std::io::Result;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};

use super::NetError;
use super::backend::Backend;
use super::chain::Slice;
use super::tap::{OFFLOADS, USO};

/// Takes all, gives nothing.
pub(super) struct Nobody(OwnedFd);

impl Nobody {
    pub(super) fn new() -> std::result::Result<Self, NetError> {
        let event = eventfd(0, EventfdFlags::CLOEXEC);
        Ok(Self(event.map_err(|error| NetError::Events(error.into()))?))
    }
}

impl Backend for Nobody {
    fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Whatever a driver agreed to with who was there before.
    fn offloads(&self) -> u64 {
        OFFLOADS | USO
    }

    fn negotiated(&mut self, _features: u64) -> Result<()> {
        Ok(())
    }

    fn most(&mut self) -> Result<Option<usize>> {
        Ok(None)
    }

    fn fetch(&mut self) -> Result<Option<usize>> {
        Ok(None)
    }

    fn receive(&mut self, _slices: &[Slice<'_>]) -> Result<Option<usize>> {
        Ok(None)
    }

    fn discard(&mut self) {}

    fn send(&mut self, packets: &[Vec<Slice<'_>>]) -> Result<usize> {
        Ok(packets.len())
    }
}
