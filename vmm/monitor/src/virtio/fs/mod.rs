// SPDX-License-Identifier: Apache-2.0
//! virtio-fs (virtio 1.3 §5.11): a directory of the host for the guest. The guest's kernel sends
//! FUSE requests over a high-priority queue (forgets, mostly) and one request queue; virtiofsd's
//! server answers them in this process. Served by a worker thread of its own, since it blocks on
//! files.
//!
//! - `mod.rs`: the device and its configuration
//! - [`volumes`]: several directories and files of the host under one root, before any of this
//! - `session.rs`: one FUSE session with virtiofsd, from activation to reset
//! - `confined.rs`: the file system that the session serves
//! - `handler.rs`: requests from the queues to the session
//! - `rights.rs`: the system calls and capabilities of the worker

mod confined;
mod handler;
mod rights;
mod session;
#[cfg(test)]
mod tests;
pub mod volumes;

use std::fs::File;
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags};
use thiserror::Error;
use walnut_vmm_config::{FsConfig, FsSource};

use self::handler::FsHandler;
use self::session::Source;
use super::{ActivateError, Activation, QueueHandler, VirtioDevice};

pub use self::rights::{WORKER_CAPABILITIES, WORKER_SYSCALLS};

/// §5.11.
const TYPE: u32 = 26;

/// hiprio, then the request queue. A request of 1 MiB, virtiofsd's largest, is 256 pages and a few
/// descriptors more.
const QUEUE_SIZES: &[u16] = &[128, 512];

/// §5.11.4: struct virtio_fs_config { char tag[36]; le32 num_request_queues; }
const TAG_LEN: usize = 36;
const CONFIG_LEN: usize = TAG_LEN + 4;

#[derive(Debug, Error)]
pub enum FsError {
    #[error("the tag {tag:?} of a shared directory must have 1 to {TAG_LEN} bytes")]
    Tag { tag: String },
    #[error("cannot open the shared directory {path}")]
    Open {
        path: PathBuf,
        source: rustix::io::Errno,
    },
    #[error("the volumes of {tag:?} were not prepared")]
    Unprepared { tag: String },
    #[error("cannot open /proc/self/fd")]
    Proc(#[source] rustix::io::Errno),
    #[error("cannot ask for the limit of open files")]
    Limit(#[source] std::io::Error),
}

pub struct Fs {
    config: [u8; CONFIG_LEN],
    source: Source,
}

impl Fs {
    /// Opens what is to be shown. [`volumes::prepare`] must have seen the configuration before.
    pub fn new(config: &FsConfig) -> Result<Self, FsError> {
        let tag = &config.tag;
        if tag.is_empty() || tag.len() > TAG_LEN {
            return Err(FsError::Tag { tag: tag.clone() });
        }
        let FsSource::Directory(path) = &config.source else {
            return Err(FsError::Unprepared { tag: tag.clone() });
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty()).map_err(|source| {
            let path = path.clone();
            FsError::Open { path, source }
        })?;
        let proc_self_fd =
            rustix::fs::open("/proc/self/fd", flags, Mode::empty()).map_err(FsError::Proc)?;
        let mut bytes = [0; CONFIG_LEN];
        bytes[..tag.len()].copy_from_slice(tag.as_bytes());
        bytes[TAG_LEN..].copy_from_slice(&1u32.to_le_bytes());
        Ok(Self {
            config: bytes,
            source: Source::new(config, root, File::from(proc_self_fd)),
        })
    }
}

impl VirtioDevice for Fs {
    fn device_type(&self) -> u32 {
        TYPE
    }

    fn queue_sizes(&self) -> &[u16] {
        QUEUE_SIZES
    }

    fn config(&self) -> Vec<u8> {
        self.config.to_vec()
    }

    /// virtiofsd works from its thread's own directory.
    fn is_saved_where_served(&self) -> bool {
        true
    }

    fn activate(&mut self, activation: Activation) -> Result<Box<dyn QueueHandler>, ActivateError> {
        let source = self.source.try_clone().map_err(ActivateError::Event)?;
        Ok(Box::new(FsHandler::new(activation.queues, source)))
    }
}
