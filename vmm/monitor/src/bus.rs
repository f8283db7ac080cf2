// SPDX-License-Identifier: Apache-2.0
//! What lies at which address and port. The vCPU threads come here with what KVM could not do alone.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use vm_superio::I8042Device;

use crate::arch::x86_64::layout::{I8042_PORT, MMIO_START, SERIAL_PORT, SLOTS};
use crate::console::SharedSerial;
use crate::ending::Ender;
use crate::virtio::mmio::MmioTransport;
use crate::virtio::registers::MMIO_LEN;
use walnut_vmm_config::Ending;

const SERIAL_PORTS: u16 = 8;
const I8042_PORTS: u16 = 5;

pub struct Bus {
    /// In the order of their addresses, from [`MMIO_START`], [`MMIO_LEN`] apart; behind them, the places
    /// for those that come while the machine runs.
    devices: [OnceLock<Mutex<MmioTransport>>; SLOTS as usize],
    serial: SharedSerial,
    i8042: Mutex<I8042Device<ResetLine>>,
}

impl Bus {
    pub fn new(devices: Vec<MmioTransport>, serial: SharedSerial, ender: Ender) -> Arc<Self> {
        let mut devices = devices.into_iter();
        let devices = std::array::from_fn(|_| match devices.next() {
            Some(device) => OnceLock::from(Mutex::new(device)),
            None => OnceLock::new(),
        });
        let i8042 = Mutex::new(I8042Device::new(ResetLine(ender)));
        Arc::new(Self {
            devices,
            serial,
            i8042,
        })
    }

    pub fn mmio_write(&self, address: u64, data: &[u8]) {
        if let Some((mut device, offset)) = self.device(address) {
            device.write(offset, data);
        }
    }

    /// All devices, for who saves them while no vCPU runs.
    pub fn devices(&self) -> Vec<MutexGuard<'_, MmioTransport>> {
        let there = self.devices.iter().map_while(OnceLock::get);
        there.map(lock).collect()
    }

    /// The first place that has never had a device.
    pub fn vacancy(&self) -> Option<u32> {
        let found = self
            .devices
            .iter()
            .position(|place| place.get().is_none())?;
        u32::try_from(found).ok()
    }

    /// Puts a device where [`Self::vacancy`] was; one thread does so.
    pub fn add(&self, slot: u32, device: MmioTransport) {
        if let Some(place) = self.devices.get(slot as usize) {
            // Nobody else has put one there.
            let _ = place.set(Mutex::new(device));
        }
    }

    pub fn slot(&self, slot: u32) -> Option<MutexGuard<'_, MmioTransport>> {
        self.devices.get(slot as usize)?.get().map(lock)
    }

    pub fn serial(&self) -> &SharedSerial {
        &self.serial
    }

    /// A port that nobody answers on reads as ones, as on a real bus.
    pub fn port_read(&self, port: u16, data: &mut [u8]) {
        data.fill(0xff);
        let Some(byte) = data.first_mut() else { return };
        if let Some(offset) = offset(port, SERIAL_PORT, SERIAL_PORTS) {
            *byte = lock(&self.serial).read(offset);
        } else if let Some(offset) = offset(port, I8042_PORT, I8042_PORTS) {
            *byte = lock(&self.i8042).read(offset);
        }
    }

    pub fn port_write(&self, port: u16, data: &[u8]) {
        let &[byte] = data else { return };
        if let Some(offset) = offset(port, SERIAL_PORT, SERIAL_PORTS) {
            if let Err(error) = lock(&self.serial).write(offset, byte) {
                log::debug!("serial: {error:?}");
            }
        } else if let Some(offset) = offset(port, I8042_PORT, I8042_PORTS) {
            // ResetLine cannot fail.
            let _ = lock(&self.i8042).write(offset, byte);
        }
    }

    fn device(&self, address: u64) -> Option<(MutexGuard<'_, MmioTransport>, u64)> {
        let offset = address.checked_sub(MMIO_START)?;
        let index = usize::try_from(offset / MMIO_LEN).ok()?;
        let device = self.devices.get(index)?.get()?;
        Some((lock(device), offset % MMIO_LEN))
    }
}

fn offset(port: u16, base: u16, len: u16) -> Option<u8> {
    let offset = port.checked_sub(base).filter(|&offset| offset < len)?;
    u8::try_from(offset).ok()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The keyboard controller's reset output (command 0xfe): how Linux restarts without ACPI.
struct ResetLine(Ender);

impl vm_superio::Trigger for ResetLine {
    type E = std::convert::Infallible;

    fn trigger(&self) -> Result<(), Self::E> {
        self.0.end(Ending::GuestReset);
        Ok(())
    }
}
