// SPDX-License-Identifier: Apache-2.0
//! A machine in two files: memory, which is mapped, and everything else, in postcard's encoding:
//! most of it is KVM's bytes, which a start has no time to spell out. A checksum (CRC-32, little
//! endian) comes last: a register that a disk got wrong is a guest that goes wrong, somewhere.

pub mod memory;
pub mod working_set;

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use vm_superio::SerialState;
use walnut_vmm_config::SnapshotFiles;

use crate::arch::x86_64::state::{VcpuState, VmState};
use crate::virtio::mmio::TransportState;
use memory::Extent;
use working_set::Run;

/// A snapshot is for the version that wrote it.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Some 50 KiB for each of 32 vCPUs, the extents, and what guests make the server of their shared
/// directories remember.
const STATE_MAX: u64 = 64 << 20;

#[derive(Debug, Error)]
pub enum SnapshotError {
    #[error("cannot open the snapshot's {path}")]
    Open { path: PathBuf, source: io::Error },
    #[error("cannot read the snapshot's {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} is no snapshot of this version of walnut-vmm")]
    Parse {
        path: PathBuf,
        source: postcard::Error,
    },
    #[error("{path} is damaged: its checksum is not its content's")]
    Damaged { path: PathBuf },
    #[error("the snapshot is of a machine with {what}")]
    Machine { what: String },
    #[error("cannot write the machine's state")]
    Write(#[source] io::Error),
}

/// Everything but the bytes of memory.
#[derive(Deserialize, Serialize)]
pub struct State {
    /// [`VERSION`], of whoever wrote it.
    pub version: String,
    pub memory_mib: u32,
    pub extents: Vec<Extent>,
    pub vm: VmState,
    pub vcpus: Vec<VcpuState>,
    /// In the order of their places.
    pub devices: Vec<TransportState>,
    #[serde(with = "Serial")]
    pub serial: SerialState,
}

impl State {
    pub fn write(&self, to: &File) -> Result<(), SnapshotError> {
        encode(self, to).map_err(SnapshotError::Write)
    }
}

/// A snapshot that a machine is to be made of.
pub struct Snapshot {
    pub memory: File,
    pub state: State,
    pub working_set: Vec<Run>,
}

impl Snapshot {
    pub fn open(files: &SnapshotFiles, memory_mib: u32, cpus: u8) -> Result<Self, SnapshotError> {
        let snapshot = Self {
            memory: open(&files.memory)?,
            state: read(&files.state)?,
            working_set: match &files.working_set {
                Some(path) => read(path)?,
                None => Vec::new(),
            },
        };
        let state = &snapshot.state;
        let differs = |what| Err(SnapshotError::Machine { what });
        if state.version != VERSION {
            return differs(format!("walnut {}", state.version));
        }
        if state.memory_mib != memory_mib {
            return differs(format!("{} MiB of memory", state.memory_mib));
        }
        if state.vcpus.len() != usize::from(cpus) {
            return differs(format!("{} CPUs", state.vcpus.len()));
        }
        Ok(snapshot)
    }
}

/// One document into one file.
fn encode<T: Serialize>(document: &T, mut to: &File) -> io::Result<()> {
    let mut bytes = postcard::to_stdvec(document).map_err(io::Error::other)?;
    bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
    if bytes.len() as u64 > STATE_MAX {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    to.write_all(&bytes)
}

fn open(path: &Path) -> Result<File, SnapshotError> {
    File::open(path).map_err(|source| SnapshotError::Open {
        path: path.to_owned(),
        source,
    })
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<T, SnapshotError> {
    let mut bytes = Vec::new();
    open(path)?
        .take(STATE_MAX)
        .read_to_end(&mut bytes)
        .map_err(|source| SnapshotError::Read {
            path: path.to_owned(),
            source,
        })?;
    let document = match bytes.split_last_chunk::<4>() {
        Some((document, sum)) if crc32fast::hash(document) == u32::from_le_bytes(*sum) => document,
        _ => {
            return Err(SnapshotError::Damaged {
                path: path.to_owned(),
            });
        }
    };
    postcard::from_bytes(document).map_err(|source| SnapshotError::Parse {
        path: path.to_owned(),
        source,
    })
}

/// [`SerialState`] for serde.
#[derive(Deserialize, Serialize)]
#[serde(remote = "SerialState")]
struct Serial {
    baud_divisor_low: u8,
    baud_divisor_high: u8,
    interrupt_enable: u8,
    interrupt_identification: u8,
    line_control: u8,
    line_status: u8,
    modem_control: u8,
    modem_status: u8,
    scratch: u8,
    in_buffer: Vec<u8>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_that_was_changed_is_none() {
        let file = tempfile::NamedTempFile::new().unwrap();
        encode(&vec![7u64, 8, 9], file.as_file()).unwrap();
        assert_eq!(read::<Vec<u64>>(file.path()).unwrap(), [7, 8, 9]);
        let whole = std::fs::read(file.path()).unwrap();
        let refused = |bytes: &[u8]| {
            std::fs::write(file.path(), bytes).unwrap();
            let damaged = read::<Vec<u64>>(file.path());
            assert!(matches!(damaged, Err(SnapshotError::Damaged { .. })));
        };
        for bit in 0..whole.len() * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            refused(&flipped);
        }
        for len in 0..whole.len() {
            refused(&whole[..len]);
        }
    }
}
