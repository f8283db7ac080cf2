// SPDX-License-Identifier: Apache-2.0
//! `walnut rm` and `walnut container prune`.

use super::filter::Filter;
use super::{VerbError, confirmed, each_says, refused, say, say_gone};
use crate::cli::life::RmArgs;
use crate::cli::shared::PruneArgs;
use crate::events::Event;
use crate::paths::Paths;
use crate::record::{Entry, RecordError, Registry, State, Status};
use crate::storage::disk;
use crate::supervisor::client::{self, ClientError};
use crate::supervisor::stop::SIGKILL;
use crate::supervisor::wire::{Condition, Request};
use crate::units::decimal_size;
use crate::volumes;

/// With force, what is gone already is no failure.
pub fn rm(args: &RmArgs, paths: &Paths) -> Result<u8, VerbError> {
    let force = args.force;
    let removed = |name: &str, entry: &Entry| {
        let volumes = args.volumes.then(|| entry.config()).transpose();
        remove(entry, paths, force)?;
        if let Ok(Some(config)) = volumes {
            volumes::remove_anonymous(paths, &config.container.volumes);
        }
        Ok(name.to_owned())
    };
    let is_failure =
        |error: &VerbError| !force || !matches!(error, VerbError::Record(RecordError::NotFound(_)));
    each_says(&args.names, paths, removed, is_failure)
}

fn remove(entry: &Entry, paths: &Paths, force: bool) -> Result<(), VerbError> {
    if !force {
        // One that can't be read may be a newer version's.
        entry.config()?;
    }
    let state = match entry.state() {
        // Whatever it was: that nobody runs it is made sure of below.
        Err(e) if force && e.is_unreadable() => State::default(),
        state => state?,
    };
    if state.is_claimed() {
        if !force {
            return refused(words(entry, &state)?);
        }
        end(entry, paths)?;
    }
    let change = match entry.change() {
        // It went with its end, or somebody else was faster.
        Err(RecordError::NotFound(_)) if force => return Ok(()),
        change => change?,
    };
    let claimed = match entry.claim(&change) {
        // Brought up again meanwhile, or without room to write that it ended.
        Err(RecordError::Running(_)) if force => {
            end(entry, paths)?;
            entry.claim_ended(&change)
        }
        claimed => claimed,
    };
    match claimed {
        Err(RecordError::NotFound(_)) if force => Ok(()),
        Err(RecordError::Running(_)) => refused(words(entry, &entry.raw_state()?)?),
        Err(e) => Err(e.into()),
        // Nobody runs it, and nobody can before it is gone.
        Ok(_alive) => {
            let config = entry.config();
            entry.remove()?;
            if let Ok(config) = config {
                Event::container(entry, &config, "destroy").emit(paths);
            }
            Ok(())
        }
    }
}

/// Docker's, which tell what to do.
fn words(entry: &Entry, state: &State) -> Result<String, VerbError> {
    let name = entry.config()?.name().to_owned();
    let short = entry.id();
    let what = match state.status {
        Status::Paused => "is paused and must be unpaused first",
        Status::Restarting => "is restarting",
        _ => "is running",
    };
    Ok(format!(
        "cannot remove container \"/{name}\": container {short} {what}: stop the container before \
         removing or force remove"
    ))
}

/// SIGKILL, and the wait for what comes of it.
fn end(entry: &Entry, paths: &Paths) -> Result<(), VerbError> {
    let ask = |request| match client::request(paths, entry, request) {
        // It has ended meanwhile.
        Ok(_) | Err(ClientError::NotRunning(_) | ClientError::Wire(_)) => Ok(()),
        Err(e) => Err(e),
    };
    ask(Request::Stop {
        signal: Some(SIGKILL),
        timeout_s: None,
    })?;
    ask(Request::Wait {
        condition: Condition::NotRunning,
    })?;
    Ok(())
}

pub fn prune(args: &PruneArgs, paths: &Paths) -> Result<u8, VerbError> {
    let warning = "WARNING! This will remove all stopped containers.";
    if !args.force && !confirmed(warning)? {
        return Ok(0);
    }
    let (removed, freed) = prune_stopped(&args.filter, paths)?;
    say_gone("Containers", &removed)?;
    say(&format!("Total reclaimed space: {}", decimal_size(freed)))?;
    Ok(0)
}

/// Removes what does not run; the IDs, and how much room that made.
pub(super) fn prune_stopped(
    filters: &[String],
    paths: &Paths,
) -> Result<(Vec<String>, u64), VerbError> {
    let registry = Registry::new(paths);
    let filter = Filter::parse(filters, &registry)?;
    let mut removed = Vec::new();
    let mut freed = 0;
    for (entry, config, state) in registry.list() {
        let idle = !state.is_claimed();
        if !idle || !filter.matches(&entry, &config, &state) {
            continue;
        }
        let size = size_of(&entry);
        match remove(&entry, paths, false) {
            Ok(()) => {
                freed += size;
                removed.push(entry.id().to_owned());
            }
            Err(VerbError::Record(RecordError::InUse(_))) => {}
            Err(error) => super::complain(&error),
        }
    }
    Ok((removed, freed))
}

/// Bytes that a container takes on the host.
pub fn size_of(entry: &Entry) -> u64 {
    disk::taken_in(entry.dir())
}
