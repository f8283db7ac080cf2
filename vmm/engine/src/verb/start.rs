// SPDX-License-Identifier: Apache-2.0
//! `walnut start`: brings a container up again, in the background or with its user before it.

use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use super::life::{SeatArgs, attached};
use super::{VerbError, each, refused};
use crate::checkpoint::Checkpoints;
use crate::cli::life::StartArgs;
use crate::paths::{Artifacts, Paths};
use crate::record::{Config, Entry, RecordError, Registry, Status};
use crate::run::signals::Signals;
use crate::run::{RunError, detach_keys, started, terminal};
use crate::supervisor::background::{First, gave_up, spawn};
use crate::supervisor::wire::Wanted;

pub fn start(args: &StartArgs, paths: &Paths) -> Result<u8, VerbError> {
    walnut_vmm_host::check().map_err(RunError::from)?;
    Artifacts::find().map_err(RunError::from)?;
    if let Some(name) = &args.checkpoint
        && args.names.len() > 1
    {
        return refused(format!("checkpoint {name} is of one container only"));
    }
    let checkpoint = args.checkpoint.as_deref();
    if !args.attach && !args.interactive {
        return each(&args.names, paths, |entry| {
            start_from(entry, paths, checkpoint)
        });
    }
    let [name] = args.names.as_slice() else {
        return refused("you cannot start and attach multiple containers at once");
    };
    let entry = Registry::new(paths).find(name)?;
    let config = entry.config()?;
    let container = &config.container;
    if container.tty && args.interactive && !terminal::stdin_is_terminal() {
        return Err(RunError::NotATty.into());
    }
    let stdin = args.interactive && container.interactive;
    let wanted = Wanted {
        stdin,
        stdout: true,
        stderr: true,
        stdin_once: true,
    };
    let keys = detach_keys(args.detach_keys.as_deref())?;
    let signals = Signals::take_over()?;
    let first = First {
        wanted: Some(wanted),
        checkpoint: checkpoint.map(|name| find(&entry, name)).transpose()?,
        ..First::default()
    };
    let stream = match launch(&entry, &config, paths, first)? {
        Some(stream) => stream,
        None if checkpoint.is_some() => return refused(runs_already(&entry)),
        None => {
            let wanted = Wanted {
                stdin_once: false,
                ..wanted
            };
            attached(&entry, wanted, paths)?
        }
    };
    let seat = SeatArgs {
        stdin,
        keys,
        sig_proxy: args.sig_proxy,
    };
    seat.take(stream, container.tty, &entry, paths, &signals)
}

/// One that runs is started already.
pub(super) fn start_one(entry: &Entry, paths: &Paths) -> Result<(), VerbError> {
    start_from(entry, paths, None)
}

fn start_from(entry: &Entry, paths: &Paths, checkpoint: Option<&str>) -> Result<(), VerbError> {
    let config = entry.config()?;
    let first = First {
        checkpoint: checkpoint.map(|name| find(entry, name)).transpose()?,
        ..First::default()
    };
    match launch(entry, &config, paths, first)? {
        None if checkpoint.is_some() => refused(runs_already(entry)),
        None => Ok(()),
        // Until then nobody else changes it: the supervisor has the right to run it.
        Some(mut stream) => Ok(started(&mut stream)?),
    }
}

fn runs_already(entry: &Entry) -> String {
    format!("container {} is running already", entry.short())
}

fn find(entry: &Entry, name: &str) -> Result<PathBuf, VerbError> {
    Ok(Checkpoints::of(entry).find(name)?)
}

/// Starts a supervisor; nothing where one is there.
fn launch(
    entry: &Entry,
    config: &Config,
    paths: &Paths,
    first: First,
) -> Result<Option<UnixStream>, VerbError> {
    let change = entry.change()?;
    let mut state = entry.correct(&change)?;
    if state.status == Status::Paused {
        return refused("cannot start a paused container, try unpause instead");
    }
    let alive = match entry.claim(&change) {
        Err(RecordError::Running(_)) => return Ok(None),
        claimed => claimed?,
    };
    state.starting = true;
    state.restart_count = 0;
    entry.write_state(&state, false)?;
    let tty = config.container.tty;
    let first = First {
        tty_size: terminal::size().filter(|_| tty && first.wanted.is_some()),
        ..first
    };
    match spawn(paths, entry, &alive, first) {
        Ok(stream) => Ok(Some(stream)),
        Err(error) => {
            // What was there before stays, whatever the flags say.
            gave_up(entry, false, paths, &error);
            Err(error.into())
        }
    }
}
