// SPDX-License-Identifier: Apache-2.0
//! TCP of our own at one address (smoltcp): packets in, frames out, no device. It is there only while
//! somebody speaks by it. The time is the caller's.

use std::collections::VecDeque;
use std::fmt;
use std::net::Ipv4Addr;

use rustix::rand::{GetRandomFlags, getrandom};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{Socket, SocketBuffer};
use smoltcp::time::Instant;
use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr, HardwareAddress, Ipv4Cidr,
};
use walnut_vmm_config::{MAX_MTU, Mac};

use crate::link::ETHERNET_LEN;

/// Of one that does not go back.
pub(crate) fn now() -> Instant {
    std::time::Instant::now().into()
}

pub(crate) fn random() -> Option<u64> {
    let mut bytes = [0; 8];
    let got = getrandom(&mut bytes[..], GetRandomFlags::empty());
    (got == Ok(bytes.len())).then_some(u64::from_ne_bytes(bytes))
}

pub(crate) struct Stack {
    interface: Interface,
    sockets: SocketSet<'static>,
    wire: Wire,
}

impl fmt::Debug for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stack").finish_non_exhaustive()
    }
}

impl Stack {
    /// At `address`, which has the Ethernet address `from`; all that it says goes to `to`. `None`
    /// where nobody can be at that address, or the kernel has no random number.
    pub fn new(address: Ipv4Addr, from: Mac, to: Mac, now: Instant) -> Option<Self> {
        let is_somebody = !address.is_unspecified() && !address.is_multicast();
        if !is_somebody || address.is_broadcast() {
            return None;
        }
        let mut config = Config::new(HardwareAddress::Ip);
        // Sequence numbers come of it: who sees those of one must not know another's.
        config.random_seed = random()?;
        let mut wire = Wire::new(from, to);
        let mut interface = Interface::new(config, &mut wire, now);
        // Without a prefix: all others are neighbours on this wire.
        let everywhere = Ipv4Cidr::new(address, 0);
        interface.update_ip_addrs(|all| {
            let _ = all.push(everywhere.into());
        });
        Some(Self {
            interface,
            sockets: SocketSet::new(Vec::new()),
            wire,
        })
    }

    /// A frame for it, whole, with an IPv4 packet in it.
    pub fn hear(&mut self, frame: &[u8]) {
        let packet = frame.get(ETHERNET_LEN..).unwrap_or_default();
        self.wire.inbox.push_back(packet.to_vec());
    }

    pub fn add(&mut self, receive: usize, send: usize) -> SocketHandle {
        let buffer = |len| SocketBuffer::new(vec![0; len]);
        let mut socket = Socket::new(buffer(receive), buffer(send));
        // Whole messages are said at once, and nobody waits for more.
        socket.set_nagle_enabled(false);
        socket.set_ack_delay(None);
        self.sockets.add(socket)
    }

    /// One that [`Self::add`] has made, and that was not removed since.
    pub fn socket(&mut self, handle: SocketHandle) -> &mut Socket<'static> {
        self.sockets.get_mut(handle)
    }

    pub fn remove(&mut self, handle: SocketHandle) {
        self.sockets.remove(handle);
    }

    /// Whether it is on its way.
    pub fn connect(&mut self, handle: SocketHandle, to: (Ipv4Addr, u16), from: u16) -> bool {
        let socket = self.sockets.get_mut::<Socket<'_>>(handle);
        socket.connect(self.interface.context(), to, from).is_ok()
    }

    /// Takes in what it has heard, and says what there is to say.
    pub fn poll(&mut self, now: Instant) {
        self.interface.poll(now, &mut self.wire, &mut self.sockets);
    }

    /// When [`Self::poll`] is due, without anybody saying anything.
    pub fn poll_at(&mut self, now: Instant) -> Option<Instant> {
        self.interface.poll_at(now, &self.sockets)
    }

    /// What it has said: frames with their lengths.
    pub fn frames(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.wire.outbox)
    }
}

/// The device's place.
struct Wire {
    header: [u8; ETHERNET_LEN],
    inbox: VecDeque<Vec<u8>>,
    outbox: Vec<u8>,
}

impl Wire {
    fn new(from: Mac, to: Mac) -> Self {
        let mut header = [0; ETHERNET_LEN];
        EthernetRepr {
            src_addr: EthernetAddress(from.0),
            dst_addr: EthernetAddress(to.0),
            ethertype: EthernetProtocol::Ipv4,
        }
        .emit(&mut EthernetFrame::new_unchecked(&mut header[..]));
        Self {
            header,
            inbox: VecDeque::new(),
            outbox: Vec::new(),
        }
    }

    fn said(&mut self) -> Said<'_> {
        Said {
            header: &self.header,
            outbox: &mut self.outbox,
        }
    }
}

impl Device for Wire {
    type RxToken<'a> = Heard;
    type TxToken<'a> = Said<'a>;

    fn receive(&mut self, _now: Instant) -> Option<(Heard, Said<'_>)> {
        let heard = Heard(self.inbox.pop_front()?);
        Some((heard, self.said()))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Said<'_>> {
        Some(self.said())
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut all = DeviceCapabilities::default();
        all.medium = Medium::Ip;
        all.max_transmission_unit = MAX_MTU.into();
        all
    }
}

struct Heard(Vec<u8>);

impl RxToken for Heard {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

struct Said<'a> {
    header: &'a [u8; ETHERNET_LEN],
    outbox: &'a mut Vec<u8>,
}

impl TxToken for Said<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let frame = u32::try_from(ETHERNET_LEN + len).unwrap_or(0);
        self.outbox.extend_from_slice(&frame.to_be_bytes());
        self.outbox.extend_from_slice(self.header);
        let start = self.outbox.len();
        self.outbox.resize(start + len, 0);
        f(&mut self.outbox[start..])
    }
}

#[cfg(test)]
pub(crate) mod tests;
