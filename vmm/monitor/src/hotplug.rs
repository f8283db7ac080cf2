// SPDX-License-Identifier: Apache-2.0
//! Network devices that come and go while the machine runs. A place that was left is the next one's:
//! its events, its interrupt and its queues' notifications stay as they are. Run by the event loop.

use std::os::fd::OwnedFd;
use std::sync::mpsc::Sender;

use thiserror::Error;
use walnut_vmm_config::{Mac, Plug};

use crate::board::Board;
use crate::bus::Bus;
use crate::machine::MachineError;
use crate::virtio::events::DeviceEvents;
use crate::virtio::net::{Net, NetError, NetPort};

#[derive(Debug, Error)]
pub enum HotplugError {
    #[error(transparent)]
    Net(#[from] NetError),
    #[error("no place is left in the machine for another device")]
    NoPlace,
    #[error("the machine has a device with the address {0} already")]
    Twice(Mac),
    #[error("the machine has no device with the address {0}")]
    Unknown(Mac),
    #[error("cannot make the events of a device")]
    Events(#[source] std::io::Error),
    #[error(transparent)]
    Machine(#[from] MachineError),
    #[error("the event loop is gone")]
    Gone,
}

/// All network devices and their places, in their order.
#[derive(Default)]
pub struct Nets(Vec<(u32, NetPort)>);

impl Nets {
    pub fn add(&mut self, slot: u32, port: NetPort) {
        self.0.push((slot, port));
    }
}

/// What it takes to put a device in.
pub struct Hotplug {
    nets: Nets,
    /// To the event loop, which serves what comes.
    newcomers: Sender<DeviceEvents>,
}

impl Hotplug {
    pub fn new(nets: Nets, newcomers: Sender<DeviceEvents>) -> Self {
        Self { nets, newcomers }
    }

    /// The number of the new device.
    pub fn plug(
        &mut self,
        plug: &Plug,
        fd: OwnedFd,
        (board, bus): (&Board, &Bus),
    ) -> Result<u8, HotplugError> {
        if self.find(plug.mac).is_some() {
            return Err(HotplugError::Twice(plug.mac));
        }
        let is_free = |(slot, port): &(u32, NetPort)| {
            !port.is_present() && bus.slot(*slot).is_some_and(|device| !device.is_active())
        };
        if let Some(free) = self.nets.0.iter().position(is_free) {
            let (slot, port) = &self.nets.0[free];
            port.plug(plug, fd)?;
            show(bus, *slot);
            return Ok(number(free));
        }
        let slot = bus.vacancy().ok_or(HotplugError::NoPlace)?;
        let net = Net::absent()?;
        let port = net.port();
        let index = self.nets.0.len();
        let transport = board.put(slot, &format!("net{index}"), Box::new(net))?;
        let events = transport.events().map_err(HotplugError::Events)?;
        port.plug(plug, fd)?;
        self.newcomers
            .send(events)
            .map_err(|_| HotplugError::Gone)?;
        bus.add(slot, transport);
        show(bus, slot);
        self.nets.add(slot, port);
        Ok(number(index))
    }

    pub fn unplug(&mut self, mac: Mac, bus: &Bus) -> Result<(), HotplugError> {
        let (slot, port) = self.find(mac).ok_or(HotplugError::Unknown(mac))?;
        port.unplug()?;
        show(bus, *slot);
        Ok(())
    }

    fn find(&self, mac: Mac) -> Option<&(u32, NetPort)> {
        let is_it = |(_, port): &&(u32, NetPort)| port.is_present() && port.mac() == mac;
        self.nets.0.iter().find(is_it)
    }
}

/// What the guest sees of the place is what is there now.
fn show(bus: &Bus, slot: u32) {
    if let Some(device) = bus.slot(slot) {
        device.show();
    }
}

/// There are fewer places than that.
fn number(index: usize) -> u8 {
    u8::try_from(index).unwrap_or(u8::MAX)
}
