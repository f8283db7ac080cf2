// SPDX-License-Identifier: Apache-2.0
//! The right to have a volume in a machine: the lock on its directory.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

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
    dir: File,
}

impl Claim {
    /// For the monitor to inherit: should this process be killed, the lock is held until the last
    /// write to the disk is done.
    pub fn shared(&self) -> io::Result<OwnedFd> {
        Ok(self.dir.try_clone()?.into())
    }
}

/// Claims all named ones of a container's volumes, each once.
///
/// # Errors
/// One is gone, or in use.
pub fn claim(paths: &Paths, id: &str, all: &[Volume]) -> Result<Vec<Claim>, VolumesError> {
    claim_by(paths, all, |name, claim_again| match by(paths, id, name) {
        // A monitor whose supervisor was killed has it, and is about to go.
        None => claim_again(),
        Some(user) => Err(taken(name, &user)),
    })
}

type Again<'a> = &'a dyn Fn() -> Result<Claim, VolumesError>;

/// Where one is in use, `in_use` decides; it can wait for it.
pub(super) fn claim_by(
    paths: &Paths,
    all: &[Volume],
    in_use: impl Fn(&str, Again<'_>) -> Result<Claim, VolumesError>,
) -> Result<Vec<Claim>, VolumesError> {
    let volumes = Volumes::new(paths);
    let mut claims: Vec<Claim> = Vec::new();
    for (index, volume) in all.iter().enumerate() {
        let Some(name) = &volume.name else { continue };
        let same = |other: &&Volume| other.name.as_ref() == Some(name);
        if all[..index].iter().any(|other| same(&other)) {
            continue;
        }
        let readonly = all.iter().filter(same).all(|volume| volume.readonly);
        volumes.find(name)?;
        let one = |wait| one(&volumes, index, readonly, name, wait);
        let again = || one(true)?.ok_or_else(|| taken(name, ""));
        claims.push(match one(false)? {
            Some(claim) => claim,
            None => in_use(name, &again)?,
        });
    }
    Ok(claims)
}

pub(super) fn taken(name: &str, user: &str) -> VolumesError {
    let by = match user {
        "" => String::new(),
        user => format!(" by container {user}"),
    };
    VolumesError::Taken {
        name: name.to_owned(),
        by,
    }
}

/// `None` where another one has it; with `wait`, not before that one lets go.
fn one(
    volumes: &Volumes<'_>,
    index: usize,
    readonly: bool,
    name: &str,
    wait: bool,
) -> Result<Option<Claim>, VolumesError> {
    let dir = volumes.dir(name);
    let path = volumes.data(name);
    let open = |path: &Path| {
        File::open(path).map_err(|source| VolumesError::Open {
            path: path.to_owned(),
            source,
        })
    };
    let file = open(&dir)?;
    if readonly {
        if !lock(&file, false, wait, &dir)? {
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
                dir: file,
            }));
        }
    }
    // Its kernel writes to it, if the container does not: the journal, the first directory.
    if !lock(&file, true, wait, &dir)? {
        return Ok(None);
    }
    Ok(Some(Claim {
        index,
        path,
        readonly: false,
        dir: file,
    }))
}

/// Whether a machine has the volume, whatever the records say.
pub(super) fn is_claimed(dir: &Path) -> Result<bool, VolumesError> {
    let file = File::open(dir).map_err(|source| VolumesError::Open {
        path: dir.to_owned(),
        source,
    })?;
    Ok(!lock(&file, true, false, dir)?)
}

fn lock(file: &File, alone: bool, wait: bool, path: &Path) -> Result<bool, VolumesError> {
    let operation = match (alone, wait) {
        (false, false) => FlockOperation::NonBlockingLockShared,
        (true, false) => FlockOperation::NonBlockingLockExclusive,
        (false, true) => FlockOperation::LockShared,
        (true, true) => FlockOperation::LockExclusive,
    };
    loop {
        match flock(file, operation) {
            Ok(()) => return Ok(true),
            Err(Errno::INTR) => {}
            Err(Errno::WOULDBLOCK) => return Ok(false),
            Err(source) => {
                let path = path.to_owned();
                return Err(RecordError::Lock { path, source }.into());
            }
        }
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

/// The container that has it, by name.
fn by(paths: &Paths, id: &str, name: &str) -> Option<String> {
    let all = Registry::new(paths).list();
    let user = all.iter().find(|(entry, config, state)| {
        entry.id() != id && state.is_claimed() && config.container.has_volume(name)
    });
    user.map(|(_, config, _)| config.name().to_owned())
}
