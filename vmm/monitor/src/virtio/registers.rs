// SPDX-License-Identifier: Apache-2.0
//! The registers of the MMIO transport (virtio 1.3 §4.2.2) as a driver reads them: memory, which the
//! guest has mapped and cannot write to. Reading one is a load and no exit; writing one comes to the
//! transport, which shows here what has become of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use vm_memory::VolatileMemory;
use vm_memory::mmap::{MmapRegion, MmapRegionError};

/// Bytes of address space each device occupies.
pub const MMIO_LEN: u64 = PLACE as u64;
const PLACE: usize = 0x1000;

pub const MAGIC_VALUE: u64 = 0x00;
pub const VERSION: u64 = 0x04;
pub const DEVICE_ID: u64 = 0x08;
pub const VENDOR_ID: u64 = 0x0c;
pub const DEVICE_FEATURES: u64 = 0x10;
pub const DEVICE_FEATURES_SEL: u64 = 0x14;
pub const DRIVER_FEATURES: u64 = 0x20;
pub const DRIVER_FEATURES_SEL: u64 = 0x24;
pub const QUEUE_SEL: u64 = 0x30;
pub const QUEUE_SIZE_MAX: u64 = 0x34;
pub const QUEUE_SIZE: u64 = 0x38;
pub const QUEUE_READY: u64 = 0x44;
pub const QUEUE_NOTIFY: u64 = 0x50;
pub const INTERRUPT_STATUS: u64 = 0x60;
pub const INTERRUPT_ACK: u64 = 0x64;
pub const STATUS: u64 = 0x70;
pub const QUEUE_DESC_LOW: u64 = 0x80;
pub const QUEUE_DESC_HIGH: u64 = 0x84;
pub const QUEUE_DRIVER_LOW: u64 = 0x90;
pub const QUEUE_DRIVER_HIGH: u64 = 0x94;
pub const QUEUE_DEVICE_LOW: u64 = 0xa0;
pub const QUEUE_DEVICE_HIGH: u64 = 0xa4;
pub const SHM_LEN_LOW: u64 = 0xb0;
pub const SHM_LEN_HIGH: u64 = 0xb4;
pub const SHM_BASE_LOW: u64 = 0xb8;
pub const SHM_BASE_HIGH: u64 = 0xbc;
pub const CONFIG_GENERATION: u64 = 0xfc;
pub const CONFIG: u64 = 0x100;

// Device status bits, virtio 1.3 §2.1.
pub const STATUS_ACKNOWLEDGE: u32 = 1;
pub const STATUS_DRIVER: u32 = 2;
pub const STATUS_DRIVER_OK: u32 = 4;
pub const STATUS_FEATURES_OK: u32 = 8;
pub const STATUS_NEEDS_RESET: u32 = 0x40;
pub const STATUS_FAILED: u32 = 0x80;

const MAGIC: u32 = u32::from_le_bytes(*b"virt");
const THIS_VERSION: u32 = 2;
const VENDOR: u32 = u32::from_le_bytes(*b"wlnt");

/// The pages of all places, one behind the other.
#[derive(Clone)]
pub struct RegisterPages(Arc<MmapRegion>);

impl RegisterPages {
    pub fn new(places: u32) -> Result<Self, MmapRegionError> {
        Ok(Self(Arc::new(MmapRegion::new(places as usize * PLACE)?)))
    }

    /// Where this process has them.
    pub fn host_address(&self) -> u64 {
        self.0.as_ptr().expose_provenance() as u64
    }

    pub fn bytes(&self) -> u64 {
        self.0.size() as u64
    }

    /// Those of one place, which there is.
    pub fn place(&self, place: u32) -> Registers {
        let start = place as usize * PLACE;
        assert!(start < self.0.size(), "there is no place {place}");
        Registers {
            pages: self.clone(),
            start,
        }
    }
}

/// One device's.
#[derive(Clone)]
pub struct Registers {
    pages: RegisterPages,
    start: usize,
}

impl Registers {
    /// Of a device that no guest has.
    #[cfg(test)]
    pub fn alone() -> Self {
        RegisterPages::new(1).unwrap().place(0)
    }

    /// One that changes by itself.
    pub fn word(&self, register: u64) -> &AtomicU32 {
        let offset = usize::try_from(register).unwrap_or(usize::MAX);
        debug_assert!(offset < PLACE, "there is no register {register:#x}");
        let pages = &self.pages.0;
        pages
            .get_atomic_ref(self.start.saturating_add(offset))
            .expect("a place has all its registers")
    }

    pub fn get(&self, register: u64) -> u32 {
        u32::from_le(self.word(register).load(Ordering::SeqCst))
    }

    pub fn set(&self, register: u64, value: u32) {
        self.word(register).store(value.to_le(), Ordering::SeqCst);
    }

    pub fn add(&self, register: u64, bits: u32) {
        self.word(register).fetch_or(bits.to_le(), Ordering::SeqCst);
    }

    pub fn clear(&self, register: u64, bits: u32) {
        self.word(register)
            .fetch_and(!bits.to_le(), Ordering::SeqCst);
    }

    /// As of a place that nobody has used yet.
    pub fn wipe(&self) {
        for register in (0..MMIO_LEN).step_by(4) {
            self.set(register, 0);
        }
    }

    /// A place without a device has the ID 0 (§4.2.2.2), which a driver passes over in silence.
    pub fn show_empty(&self) {
        self.show(0);
    }

    /// What never changes of a device.
    pub fn show(&self, device_id: u32) {
        self.set(MAGIC_VALUE, MAGIC);
        self.set(VERSION, THIS_VERSION);
        self.set(DEVICE_ID, device_id);
        self.set(VENDOR_ID, VENDOR);
        // §4.2.2: a region that does not exist has length and base of all ones.
        for register in [SHM_LEN_LOW, SHM_LEN_HIGH, SHM_BASE_LOW, SHM_BASE_HIGH] {
            self.set(register, u32::MAX);
        }
    }

    /// The configuration space.
    pub fn set_config(&self, config: &[u8]) {
        let room = (CONFIG..MMIO_LEN).step_by(4);
        for (register, bytes) in room.zip(config.chunks(4)) {
            let mut word = [0; 4];
            word[..bytes.len()].copy_from_slice(bytes);
            self.set(register, u32::from_le_bytes(word));
        }
    }
}
