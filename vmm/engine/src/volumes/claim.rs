// SPDX-License-Identifier: Apache-2.0
//! The right to have a volume in a machine: the lock on its directory.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::{Errno, FdFlags, fcntl_setfd};

use super::{Volumes, VolumesError};
use crate::container::Volume;
use crate::paths::Paths;
use crate::record::{RecordError, Registry};

/// A volume that is this process's as long as this lives.
#[derive(Debug)]
pub struct Claim {
    /// Where in the container's list of volumes it stands.
    pub index: usize,
    pub path: PathBuf,
    /// Nobody writes to it: neither the container nor its kernel.
    pub readonly: bool,
    /// Held for its lock.
    _dir: File,
}

/// Claims all named ones of a container's volumes.
///
/// # Errors
/// One is gone, or in use.
pub fn claim(paths: &Paths, id: &str, all: &[Volume]) -> Result<Vec<Claim>, VolumesError> {
    let volumes = Volumes::new(paths);
    let mut claims: Vec<Claim> = Vec::new();
    for (index, volume) in all.iter().enumerate() {
        let Some(name) = &volume.name else { continue };
        volumes.find(name)?;
        let taken = || VolumesError::Taken {
            name: name.clone(),
            by: by(paths, id, name),
        };
        claims.push(one(&volumes, index, volume.readonly, name)?.ok_or_else(taken)?);
    }
    Ok(claims)
}

/// `None` where another one has it.
fn one(
    volumes: &Volumes<'_>,
    index: usize,
    readonly: bool,
    name: &str,
) -> Result<Option<Claim>, VolumesError> {
    let dir = volumes.dir(name);
    let path = volumes.data(name);
    let open = |path: &Path| {
        File::open(path).map_err(|source| VolumesError::Open {
            path: path.to_owned(),
            source,
        })
    };
    let lock = open(&dir)?;
    // The monitor inherits it: should this process be killed, the lock is held until the last
    // write to the disk is done.
    fcntl_setfd(&lock, FdFlags::empty()).map_err(|source| RecordError::Lock {
        path: dir.clone(),
        source,
    })?;
    if readonly {
        if !try_lock(&lock, FlockOperation::NonBlockingLockShared, &dir)? {
            return Ok(None);
        }
        let clean = is_clean(&open(&path)?).map_err(|source| VolumesError::Open {
            path: path.clone(),
            source,
        })?;
        if clean {
            return Ok(Some(Claim {
                index,
                path,
                readonly: true,
                _dir: lock,
            }));
        }
    }
    // Its kernel writes to it, if the container does not: the journal, the first directory.
    if !try_lock(&lock, FlockOperation::NonBlockingLockExclusive, &dir)? {
        return Ok(None);
    }
    Ok(Some(Claim {
        index,
        path,
        readonly: false,
        _dir: lock,
    }))
}

fn try_lock(file: &File, operation: FlockOperation, path: &Path) -> Result<bool, VolumesError> {
    match flock(file, operation) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(source) => Err(RecordError::Lock {
            path: path.to_owned(),
            source,
        }
        .into()),
    }
}

/// Whether an ext4 was mounted before, and needs no recovery (`s_mnt_count`, `s_feature_incompat`
/// of the superblock at 1024; Documentation/filesystems/ext4/super.rst).
fn is_clean(file: &File) -> io::Result<bool> {
    const SUPERBLOCK: u64 = 1024;
    const MOUNT_COUNT: u64 = 0x34;
    const INCOMPAT: u64 = 0x60;
    const RECOVER: u32 = 0x4;
    let mut count = [0; 2];
    file.read_exact_at(&mut count, SUPERBLOCK + MOUNT_COUNT)?;
    let mut features = [0; 4];
    file.read_exact_at(&mut features, SUPERBLOCK + INCOMPAT)?;
    Ok(u16::from_le_bytes(count) > 0 && u32::from_le_bytes(features) & RECOVER == 0)
}

/// Who has it, in words, if that can be told.
fn by(paths: &Paths, id: &str, name: &str) -> String {
    let all = Registry::new(paths).list();
    let user = all.iter().find(|(entry, config, state)| {
        entry.id() != id
            && (state.is_live() || state.starting)
            && config
                .container
                .volumes
                .iter()
                .any(|volume| volume.name.as_deref() == Some(name))
    });
    user.map_or_else(String::new, |(_, config, _)| {
        format!(" by container {}", config.name())
    })
}
