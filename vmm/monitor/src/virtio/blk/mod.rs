// SPDX-License-Identifier: Apache-2.0
//! virtio-blk (virtio 1.3 §5.2): a raw image file as a disk. One request queue, served by a worker
//! thread of its own, since it blocks on the file.
//!
//! - `mod.rs`: the device and its configuration
//! - `request.rs`: a guest's chain to a typed request
//! - `handler.rs`: requests carried out
//! - `transfer.rs`: bytes between the file and guest memory
//!
//! Nothing but the queue is to be saved: no request is in flight between two visits to it.

mod handler;
mod request;
#[cfg(test)]
mod tests;
mod transfer;

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::{FlockOperation, Mode, OFlags, SeekFrom};
use thiserror::Error;
use walnut_vmm_config::DiskConfig;

use self::handler::BlkHandler;
use super::{ActivateError, Activation, QueueHandler, VirtioDevice};

pub use self::handler::WORKER_SYSCALLS;

/// §5.2.
const TYPE: u32 = 2;

const QUEUE_SIZE: u16 = 256;
const QUEUE_SIZES: &[u16] = &[QUEUE_SIZE];

// Feature bits, §5.2.3.
const F_SEG_MAX: u64 = 1 << 2;
const F_RO: u64 = 1 << 5;
const F_BLK_SIZE: u64 = 1 << 6;
const F_FLUSH: u64 = 1 << 9;
const F_DISCARD: u64 = 1 << 13;
const F_WRITE_ZEROES: u64 = 1 << 14;

/// The unit of all positions and lengths, whatever the block size (§5.2.4).
const SECTOR: u64 = 512;

/// Data buffers in one request: what a queue of direct descriptors leaves beside header and status.
const SEG_MAX: u32 = QUEUE_SIZE as u32 - 2;

/// Ranges in one discard or write-zeroes request, and sectors in each of them: 4 GiB.
const MAX_RANGES: u32 = 64;
const MAX_RANGE_SECTORS: u32 = 1 << 23;

/// What discarding in smaller steps would not give back: a page of the host's file system.
const DISCARD_ALIGNMENT: u32 = 8;

/// §5.2.6: the answer to VIRTIO_BLK_T_GET_ID.
const ID_LEN: usize = 20;

#[derive(Debug, Error)]
pub enum BlkError {
    #[error("cannot open disk {path}")]
    Open {
        path: PathBuf,
        source: rustix::io::Errno,
    },
    #[error("disk {path} is in use by another machine")]
    InUse { path: PathBuf },
    #[error("cannot lock disk {path}")]
    Lock {
        path: PathBuf,
        source: rustix::io::Errno,
    },
    #[error("disk {path} is {len} bytes long, which is not a multiple of {SECTOR} above zero")]
    Length { path: PathBuf, len: u64 },
    #[error("the serial {serial:?} of disk {path} has more than {ID_LEN} bytes")]
    Serial { path: PathBuf, serial: String },
}

/// An image, open and locked.
struct Disk {
    file: File,
    /// For log lines.
    path: PathBuf,
    sectors: u64,
    read_only: bool,
    id: [u8; ID_LEN],
}

pub struct Blk {
    disk: Arc<Disk>,
    config: [u8; CONFIG_LEN],
}

impl Blk {
    /// Opens and locks the image: one machine may write it, or several read it.
    pub fn new(config: &DiskConfig) -> Result<Self, BlkError> {
        let path = || config.path.clone();
        let mut id = [0; ID_LEN];
        if let Some(serial) = &config.serial {
            id.get_mut(..serial.len())
                .ok_or_else(|| BlkError::Serial {
                    path: path(),
                    serial: serial.clone(),
                })?
                .copy_from_slice(serial.as_bytes());
        }
        let (access, lock) = match config.readonly {
            true => (OFlags::RDONLY, FlockOperation::NonBlockingLockShared),
            false => (OFlags::RDWR, FlockOperation::NonBlockingLockExclusive),
        };
        let opened = |source| BlkError::Open {
            path: path(),
            source,
        };
        let flags = access | OFlags::CLOEXEC;
        let file = rustix::fs::open(&config.path, flags, Mode::empty()).map_err(opened)?;
        rustix::fs::flock(&file, lock).map_err(|source| match source {
            rustix::io::Errno::WOULDBLOCK => BlkError::InUse { path: path() },
            source => BlkError::Lock {
                path: path(),
                source,
            },
        })?;
        // Unlike stat(2), this also knows how long a block device is.
        let len = rustix::fs::seek(&file, SeekFrom::End(0)).map_err(opened)?;
        if len == 0 || !len.is_multiple_of(SECTOR) {
            return Err(BlkError::Length { path: path(), len });
        }
        let disk = Disk {
            file: file.into(),
            path: path(),
            sectors: len / SECTOR,
            read_only: config.readonly,
            id,
        };
        Ok(Self {
            config: config_space(&disk),
            disk: Arc::new(disk),
        })
    }
}

/// §5.2.4: struct virtio_blk_config, up to and with write_zeroes_may_unmap and its padding.
const CONFIG_LEN: usize = 60;

fn config_space(disk: &Disk) -> [u8; CONFIG_LEN] {
    let mut config = [0; CONFIG_LEN];
    let mut put = |offset: usize, value: u32| {
        config[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
    };
    put(12, SEG_MAX);
    put(20, 512); // blk_size
    put(36, MAX_RANGE_SECTORS); // max_discard_sectors
    put(40, MAX_RANGES); // max_discard_seg
    put(44, DISCARD_ALIGNMENT);
    put(48, MAX_RANGE_SECTORS); // max_write_zeroes_sectors
    put(52, MAX_RANGES); // max_write_zeroes_seg
    put(56, 1); // write_zeroes_may_unmap
    config[..8].copy_from_slice(&disk.sectors.to_le_bytes());
    config
}

impl VirtioDevice for Blk {
    fn device_type(&self) -> u32 {
        TYPE
    }

    fn queue_sizes(&self) -> &[u16] {
        QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        let writing = match self.disk.read_only {
            true => F_RO,
            false => F_DISCARD | F_WRITE_ZEROES,
        };
        F_SEG_MAX | F_BLK_SIZE | F_FLUSH | writing
    }

    fn config(&self) -> Vec<u8> {
        self.config.to_vec()
    }

    fn activate(&mut self, activation: Activation) -> Result<Box<dyn QueueHandler>, ActivateError> {
        // §5.2.6.2: a driver that cannot flush is told that a write is done when it is.
        let write_through = activation.features & F_FLUSH == 0;
        let disk = Arc::clone(&self.disk);
        Ok(Box::new(BlkHandler::new(
            activation.queues,
            disk,
            write_through,
        )))
    }
}
