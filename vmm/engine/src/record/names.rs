// SPDX-License-Identifier: Apache-2.0
//! Names: a symbolic link each, to the ID. Making a link is exclusive, so a name is one
//! container's; a link to a container that is gone, or has another name by now, is free.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};

use super::{Config, RecordError, entry, lock};
use crate::paths::private_dir;

const DIR: &str = "names";
const RANDOM_TRIES: u32 = 64;

const QUALITIES: [&str; 32] = [
    "amber", "bold", "brisk", "calm", "clever", "crisp", "eager", "early", "fair", "fleet",
    "gentle", "glad", "golden", "hardy", "honest", "keen", "kind", "lively", "lucid", "merry",
    "mild", "neat", "nimble", "patient", "plain", "proud", "quick", "quiet", "robust", "sunny",
    "tidy", "warm",
];
const TREES: [&str; 32] = [
    "acacia", "alder", "almond", "apple", "ash", "aspen", "beech", "birch", "cedar", "cherry",
    "chestnut", "cypress", "elder", "elm", "fir", "ginkgo", "hazel", "hickory", "holly", "juniper",
    "larch", "laurel", "linden", "maple", "oak", "olive", "pecan", "pine", "poplar", "rowan",
    "spruce", "willow",
];

/// Takes `name` for `id`.
pub(super) fn take(containers: &Path, name: &str, id: &str) -> Result<(), RecordError> {
    let dir = containers.join(DIR);
    let path = dir.join(name);
    let failed = |source| RecordError::Create {
        path: path.clone(),
        source,
    };
    // Held once there is a link already: of two who find that it leads nowhere, one takes it.
    let mut alone = None;
    loop {
        match symlink(id, &path) {
            Ok(()) => return Ok(()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => private_dir(&dir)?,
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                if alone.is_none() {
                    let file = File::open(&dir).map_err(failed)?;
                    lock(&file, FlockOperation::LockExclusive, &dir)?;
                    alone = Some(file);
                }
                if let Some(owner) = owner(containers, name) {
                    return Err(RecordError::NameTaken {
                        name: name.to_owned(),
                        id: owner,
                    });
                }
                match fs::remove_file(&path) {
                    Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed(e)),
                    _ => {}
                }
            }
            Err(e) => return Err(failed(e)),
        }
    }
}

/// The ID that has this name.
pub(super) fn owner(containers: &Path, name: &str) -> Option<String> {
    let id = fs::read_link(containers.join(DIR).join(name)).ok()?;
    let id = id.to_str()?.to_owned();
    let dir = containers.join(&id);
    let lock = match Config::read(&dir) {
        Ok(Some(config)) if config.name() == name => return Some(id),
        // It may be about to get it.
        Ok(Some(_)) => dir.join(entry::LOCK),
        // It may be being made.
        Ok(None) => dir.clone(),
        // A record that can't be read keeps its name.
        Err(_) => return Some(id),
    };
    // Whoever held the lock has written the record before letting go of it.
    let has_it = || Config::read(&dir).map(|config| config.is_some_and(|c| c.name() == name));
    let is_its = is_locked(&lock) || has_it().unwrap_or(true);
    is_its.then_some(id)
}

fn is_locked(path: &Path) -> bool {
    let Ok(file) = File::open(path) else {
        return false;
    };
    flock(&file, FlockOperation::NonBlockingLockShared) == Err(Errno::WOULDBLOCK)
}

/// The name whose link leads to `id`, whatever its record says.
pub(super) fn of(containers: &Path, id: &str) -> Option<String> {
    let links = fs::read_dir(containers.join(DIR)).ok()?;
    links.flatten().find_map(|link| {
        let leads_there = fs::read_link(link.path()).is_ok_and(|to| to == Path::new(id));
        leads_there.then(|| link.file_name().into_string().ok())?
    })
}

/// Gives `name` back, if it is `id`'s.
pub(super) fn release(containers: &Path, name: &str, id: &str) {
    let path = containers.join(DIR).join(name);
    if !name.is_empty() && fs::read_link(&path).is_ok_and(|to| to == Path::new(id)) {
        // Whatever stays is free as soon as the container is gone.
        let _ = fs::remove_file(path);
    }
}

/// Takes a name that nobody has asked for.
pub(super) fn take_random(containers: &Path, id: &str) -> Result<String, RecordError> {
    let mut bytes = [0_u8; 3];
    for attempt in 0..RANDOM_TRIES {
        // Without random bytes, the ID's own are.
        if getrandom(&mut bytes, GetRandomFlags::empty()).is_err() {
            break;
        }
        let quality = QUALITIES[usize::from(bytes[0]) % QUALITIES.len()];
        let tree = TREES[usize::from(bytes[1]) % TREES.len()];
        let mut name = format!("{quality}_{tree}");
        if attempt > 0 {
            name.push_str(&bytes[2].to_string());
        }
        match take(containers, &name, id) {
            Err(RecordError::NameTaken { .. }) => {}
            taken => return taken.map(|()| name),
        }
    }
    let name = id.get(..12).unwrap_or(id).to_owned();
    take(containers, &name, id).map(|()| name)
}
