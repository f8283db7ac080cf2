// SPDX-License-Identifier: Apache-2.0
//! A tap device of the host (kernel: Documentation/networking/tuntap.rst). It speaks our header, so
//! that checksums and segmentation are the host kernel's, or that of whoever gets the packet.

use std::io::{Error, Result};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use walnut_vmm_host::{check_interface_name, open_tap};

use super::backend::Backend;
use super::chain::{self, Slice};
use super::vectors::{self, Vectors};
use super::{
    F_CSUM, F_GUEST_CSUM, F_GUEST_ECN, F_GUEST_TSO4, F_GUEST_TSO6, F_GUEST_USO4, F_GUEST_USO6,
    F_HOST_ECN, F_HOST_TSO4, F_HOST_TSO6, F_HOST_USO, HEADER_LEN, MAX_FRAME, NetError,
};

// linux/if_tun.h.
const TUNSETOFFLOAD: u64 = 0x4004_54d0;
const TUNSETVNETHDRSZ: u64 = 0x4004_54d8;
const TUN_F_CSUM: u32 = 0x01;
const TUN_F_TSO4: u32 = 0x02;
const TUN_F_TSO6: u32 = 0x04;
const TUN_F_TSO_ECN: u32 = 0x08;
const TUN_F_USO4: u32 = 0x20;
const TUN_F_USO6: u32 = 0x40;

/// What the thread that activates the device must be allowed to ask for.
pub const ACTIVATE_IOCTLS: &[u64] = &[TUNSETOFFLOAD];

/// And the one that makes a tap a device's.
pub const SET_UP_IOCTLS: &[u64] = &[TUNSETOFFLOAD, TUNSETVNETHDRSZ];

pub(super) const OFFLOADS: u64 = F_CSUM
    | F_GUEST_CSUM
    | F_GUEST_TSO4
    | F_GUEST_TSO6
    | F_GUEST_ECN
    | F_HOST_TSO4
    | F_HOST_TSO6
    | F_HOST_ECN;
/// Since Linux 6.2.
pub(super) const USO: u64 = F_GUEST_USO4 | F_GUEST_USO6 | F_HOST_USO;

/// Bytes that a packet has at most.
const MOST: usize = HEADER_LEN + MAX_FRAME;
/// Behind such a packet there are others like it, as a rule: to copy one costs less than to gather the
/// buffers that hold the largest.
const SMALL: usize = 4096;

pub(super) struct Tap {
    fd: OwnedFd,
    mtu: u16,
    offloads: u64,
    /// Bytes of the packet before the next one.
    last_len: usize,
    /// Its first bytes are a packet that is the guest's next.
    fetched: Vec<u8>,
    fetched_len: Option<usize>,
}

impl Tap {
    /// One that is there already: making one is not for the monitor to do.
    pub(super) fn open(name: &str) -> std::result::Result<Self, NetError> {
        check_interface_name(name)?;
        let mtu = mtu_of(name)?;
        Self::new(open_tap(name)?, mtu)
    }

    /// One that is attached to.
    pub(super) fn new(fd: OwnedFd, mtu: u16) -> std::result::Result<Self, NetError> {
        let mut header_len = libc::c_int::try_from(HEADER_LEN).expect("a small number");
        #[expect(unsafe_code, reason = "an ioctl that no crate wraps")]
        // SAFETY: TUNSETVNETHDRSZ reads the number, and keeps no reference to it.
        let done = unsafe { libc::ioctl(fd.as_raw_fd(), TUNSETVNETHDRSZ, &raw mut header_len) };
        checked(done).map_err(NetError::SetUpTap)?;
        let mut tap = Self {
            fd,
            mtu,
            offloads: OFFLOADS | USO,
            last_len: 0,
            fetched: vec![0; MOST],
            fetched_len: None,
        };
        if tap.set_offloads(tap.offloads).is_err() {
            tap.offloads = OFFLOADS;
        }
        tap.set_offloads(0).map_err(NetError::SetUpTap)?;
        Ok(tap)
    }

    pub(super) fn mtu(&self) -> u16 {
        self.mtu
    }

    fn set_offloads(&self, features: u64) -> Result<()> {
        let map = [
            (F_GUEST_CSUM, TUN_F_CSUM),
            (F_GUEST_TSO4, TUN_F_TSO4),
            (F_GUEST_TSO6, TUN_F_TSO6),
            (F_GUEST_ECN, TUN_F_TSO_ECN),
            (F_GUEST_USO4, TUN_F_USO4),
            (F_GUEST_USO6, TUN_F_USO6),
        ];
        let flags = map
            .iter()
            .filter(|(feature, _)| features & feature != 0)
            .fold(0, |flags, (_, flag)| flags | flag);
        #[expect(unsafe_code, reason = "an ioctl that no crate wraps")]
        // SAFETY: TUNSETOFFLOAD takes its argument by value.
        let done = unsafe { libc::ioctl(self.fd.as_raw_fd(), TUNSETOFFLOAD, u64::from(flags)) };
        checked(done)
    }

    /// The packet that is next, into our own memory.
    fn read(&mut self) -> Result<Option<usize>> {
        loop {
            match rustix::io::read(&self.fd, &mut *self.fetched) {
                Ok(len) => return Ok(Some(len)),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Backend for Tap {
    fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    fn offloads(&self) -> u64 {
        self.offloads
    }

    fn negotiated(&mut self, features: u64) -> Result<()> {
        self.set_offloads(features)
    }

    fn most(&mut self) -> Result<Option<usize>> {
        if self.last_len <= SMALL {
            return self.fetch();
        }
        Ok(Some(self.fetched_len.unwrap_or(MOST)))
    }

    fn fetch(&mut self) -> Result<Option<usize>> {
        if self.fetched_len.is_none() {
            self.fetched_len = self.read()?;
        }
        Ok(self.fetched_len)
    }

    fn receive(&mut self, slices: &[Slice<'_>]) -> Result<Option<usize>> {
        let len = match self.fetched_len.take() {
            Some(len) => Some(chain::write(slices, 0, &self.fetched[..len])),
            None => vectors::read(self.fd(), slices)?,
        };
        self.last_len = len.unwrap_or(self.last_len);
        Ok(len)
    }

    fn discard(&mut self) {
        self.fetched_len = None;
    }

    fn send(&mut self, packets: &[Vec<Slice<'_>>]) -> Result<usize> {
        for (sent, packet) in packets.iter().enumerate() {
            if packet.is_empty() {
                continue;
            }
            let mut all = Vectors::default();
            for slice in packet {
                all.push(slice);
            }
            match all.write(self.fd()) {
                Ok(Some(_)) => {}
                Ok(None) => return Ok(sent),
                // The header or the frame makes no sense to the kernel, or the interface is down.
                Err(error) if is_refusal(&error) => log::debug!("net: a packet: {error}"),
                Err(error) => return Err(error),
            }
        }
        Ok(packets.len())
    }
}

fn is_refusal(error: &Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::EINVAL | libc::EIO | libc::EFAULT | libc::EMSGSIZE | libc::ENOBUFS | libc::ENOMEM
        )
    )
}

fn mtu_of(name: &str) -> std::result::Result<u16, NetError> {
    let path = Path::new("/sys/class/net").join(name).join("mtu");
    let text = std::fs::read_to_string(path).map_err(|_| NetError::NoTap(name.to_owned()))?;
    let mtu: u32 = text
        .trim()
        .parse()
        .map_err(|_| NetError::NoTap(name.to_owned()))?;
    Ok(u16::try_from(mtu)
        .unwrap_or(u16::MAX)
        .min(walnut_vmm_config::MAX_MTU))
}

fn checked(done: libc::c_int) -> Result<()> {
    if done < 0 {
        return Err(Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use vm_memory::{GuestAddress, GuestMemory as _};
    use walnut_vmm_config::MAX_MTU;

    use super::*;
    use crate::memory::allocate;

    /// Keeps the bounds of packets, as a tap does.
    fn tap() -> (Tap, UnixDatagram) {
        let (ours, far) = UnixDatagram::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let tap = Tap {
            fd: ours.into(),
            mtu: MAX_MTU,
            offloads: OFFLOADS,
            last_len: 0,
            fetched: vec![0; MOST],
            fetched_len: None,
        };
        (tap, far)
    }

    #[test]
    fn small_ones_are_known_before_there_is_room() {
        let (mut tap, far) = tap();
        let memory = allocate(&[(GuestAddress(0), 1 << 20)]).unwrap();
        let slices: Vec<_> = memory
            .get_slices(GuestAddress(0), MOST)
            .map(|slice| slice.unwrap())
            .collect();
        assert_eq!(tap.most().unwrap(), None);
        for (len, most, next) in [
            (60, 60, None),
            (SMALL + 1, SMALL + 1, Some(MOST)),
            (70, MOST, None),
        ] {
            far.send(&vec![7; len]).unwrap();
            assert_eq!(tap.most().unwrap(), Some(most), "{len} bytes");
            assert_eq!(tap.receive(&slices).unwrap(), Some(len));
            // Behind a large one it may be another: there is one more system call otherwise.
            assert_eq!(tap.most().unwrap(), next, "after {len} bytes");
            assert_eq!(tap.receive(&slices).unwrap(), None);
        }
    }
}
