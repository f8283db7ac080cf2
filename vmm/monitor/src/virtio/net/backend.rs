// SPDX-License-Identifier: Apache-2.0
//! What the frames of a guest come from and go to: something with a descriptor, which never blocks.

use std::io::Result;
use std::os::fd::BorrowedFd;

use super::chain::Slice;

/// Packets have the header of §5.1.6 before the Ethernet header, in both directions. An error says
/// that the backend is gone for good.
pub(super) trait Backend: Send {
    fn fd(&self) -> BorrowedFd<'_>;

    /// The feature bits that it has something behind: checksums and segmentation.
    fn offloads(&self) -> u64;

    /// The features that the driver agreed to.
    fn negotiated(&mut self, features: u64) -> Result<()>;

    /// Bytes that hold the next packet in any case; `None` where there is none.
    fn most(&mut self) -> Result<Option<usize>>;

    /// Takes the next packet in, so that [`Backend::most`] is exact.
    fn fetch(&mut self) -> Result<Option<usize>>;

    /// Moves the next packet into `slices`, which hold [`Backend::most`] bytes: its length.
    fn receive(&mut self, slices: &[Slice<'_>]) -> Result<Option<usize>>;

    /// Drops the packet that was fetched.
    fn discard(&mut self);

    /// Takes packets, in their order: how many. Fewer than there are, and it will be writable when
    /// it takes more. One without a byte is to be passed over.
    fn send(&mut self, packets: &[Vec<Slice<'_>>]) -> Result<usize>;

    /// Whether there is a packet that no event tells of: what was sent was answered here.
    fn has_own(&self) -> bool {
        false
    }

    /// It is writable, perhaps: passes on what is left of a packet that was taken; whether nothing
    /// is left now.
    fn flush(&mut self) -> Result<bool> {
        Ok(true)
    }
}
