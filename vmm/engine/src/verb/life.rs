// SPDX-License-Identifier: Apache-2.0
//! `stop`, `kill`, `restart`, `pause`, `unpause`, `wait`, `rename`, `attach`: asked of the
//! container's supervisor.

use std::os::unix::net::UnixStream;

use walnut_protocol::chain;

use super::{Known, VerbError, each, each_says, happened, refused};
use crate::cli::life::{
    AttachArgs, KillArgs, NamesArgs, RenameArgs, StopArgs, WaitArgs, WaitCondition,
};
use crate::container::{check_name, signal};
use crate::events::Event;
use crate::network::renamed;
use crate::paths::Paths;
use crate::record::{Entry, RecordError, Registry};
use crate::run::attach::{Seat, SendSignal, attach as sit_down};
use crate::run::keys::Keys;
use crate::run::signals::Signals;
use crate::run::{ByRequest, RunError, detach_keys, exit_code, terminal};
use crate::supervisor::client::{self, ClientError};
use crate::supervisor::stop::SIGKILL;
use crate::supervisor::wire::{Condition, Request, Wanted, WireError};

pub fn stop(args: &StopArgs, paths: &Paths) -> Result<u8, VerbError> {
    let signal = args.signal.as_deref().map(signal::parse).transpose()?;
    each(&args.names, paths, |entry| {
        stop_one(entry, paths, signal, args.time)
    })
}

/// One that does not run is stopped already.
fn stop_one(
    entry: &Entry,
    paths: &Paths,
    signal: Option<u32>,
    timeout_s: Option<i32>,
) -> Result<(), VerbError> {
    let running = entry.state()?.is_up().then(|| entry.config()).transpose()?;
    let event = |action| {
        running
            .as_ref()
            .map(|config| Event::container(entry, config, action))
    };
    if let (Some(event), Some(config)) = (event("kill"), &running) {
        let first = signal.unwrap_or(config.container.stop_signal);
        event.with("signal", first).emit(paths);
    }
    let asked = client::request(paths, entry, Request::Stop { signal, timeout_s });
    match asked {
        // It has ended meanwhile, in one way or the other.
        Ok(_)
        | Err(ClientError::NotRunning(_))
        | Err(ClientError::Wire(WireError::Gone | WireError::Read(_))) => settled(entry)?,
        Err(e) => return Err(e.into()),
    }
    if let Some(event) = event("stop") {
        event.emit(paths);
    }
    Ok(())
}

/// Makes sure that what is on disk is the truth.
fn settled(entry: &Entry) -> Result<(), VerbError> {
    match entry.state() {
        Ok(_) | Err(RecordError::NotFound(_)) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

pub fn restart(args: &StopArgs, paths: &Paths) -> Result<u8, VerbError> {
    let signal = args.signal.as_deref().map(signal::parse).transpose()?;
    each(&args.names, paths, |entry| {
        stop_one(entry, paths, signal, args.time)?;
        super::start::start_one(entry, paths)?;
        happened(entry, paths, "restart");
        Ok(())
    })
}

pub fn kill(args: &KillArgs, paths: &Paths) -> Result<u8, VerbError> {
    let signal = signal::parse(&args.signal)?;
    each(&args.names, paths, |entry| {
        if entry.state()?.is_up() {
            let event = Event::container(entry, &entry.config()?, "kill");
            event.with("signal", signal).emit(paths);
        }
        match client::request(paths, entry, Request::Kill { signal }) {
            Ok(_) => Ok(()),
            Err(ClientError::Wire(WireError::Gone)) if signal == SIGKILL => Ok(()),
            Err(ClientError::NotRunning(_)) => refused(format!(
                "cannot kill container: {}: container {} is not running",
                entry.short(),
                entry.id()
            )),
            Err(e) => Err(e.into()),
        }
    })
}

pub fn pause(args: &NamesArgs, paths: &Paths, pause: bool) -> Result<u8, VerbError> {
    each(&args.names, paths, |entry| {
        entry.state()?;
        let request = if pause {
            Request::Pause
        } else {
            Request::Unpause
        };
        match client::request(paths, entry, request) {
            Ok(_) => {
                happened(entry, paths, if pause { "pause" } else { "unpause" });
                Ok(())
            }
            Err(ClientError::NotRunning(_)) => {
                refused(format!("container {} is not running", entry.id()))
            }
            Err(e) => Err(e.into()),
        }
    })
}

pub fn wait(args: &WaitArgs, paths: &Paths) -> Result<u8, VerbError> {
    let code = |_: &str, entry: &Entry| {
        let code = wait_one(entry, paths, args.condition)?;
        Ok(code.to_string())
    };
    each_says(&args.names, paths, code, |_| true)
}

fn wait_one(entry: &Entry, paths: &Paths, condition: WaitCondition) -> Result<i32, VerbError> {
    let condition = match condition {
        WaitCondition::NotRunning => Condition::NotRunning,
        WaitCondition::NextExit => Condition::NextExit,
        WaitCondition::Removed => Condition::Removed,
    };
    match client::request(paths, entry, Request::Wait { condition }) {
        Ok(reply) => Ok(reply.exit_code.unwrap_or(0)),
        Err(ClientError::NotRunning(_) | ClientError::Wire(_)) => Ok(entry.state()?.exit_code),
        Err(e) => Err(e.into()),
    }
}

pub fn rename(args: &RenameArgs, paths: &Paths) -> Result<u8, VerbError> {
    let registry = Registry::new(paths);
    let entry = registry.find(&args.name)?;
    let new = args.new_name.strip_prefix('/').unwrap_or(&args.new_name);
    if new.is_empty() {
        return refused("Neither old nor new names may be empty");
    }
    check_name(new)?;
    let before = entry.config()?;
    if before.name() == new {
        return refused("Renaming a container with the same name as its current name");
    }
    registry.rename(&entry, new)?;
    let config = entry.config()?;
    if entry.state()?.is_up() {
        for (network, error) in renamed(&config.container, paths) {
            log::warn!(
                "on the network {network} the container keeps its old name until it is restarted: {}",
                chain(&error)
            );
        }
    }
    let event = Event::container(&entry, &config, "rename");
    event
        .with("oldName", format!("/{}", before.name()))
        .emit(paths);
    Ok(0)
}

pub fn attach(args: &AttachArgs, paths: &Paths) -> Result<u8, VerbError> {
    let known = Known::find(&args.name, paths)?;
    if !known.state.is_live() {
        return refused("cannot attach to a stopped container, start it first");
    }
    if known.state.status == crate::record::Status::Paused {
        return refused("cannot attach to a paused container, unpause it first");
    }
    let container = &known.config.container;
    let seat = SeatArgs {
        stdin: container.interactive && !args.no_stdin,
        keys: detach_keys(args.detach_keys.as_deref())?,
        sig_proxy: args.sig_proxy,
    };
    if container.tty && seat.stdin && !terminal::stdin_is_terminal() {
        return Err(RunError::NotATty.into());
    }
    let signals = Signals::take_over()?;
    let wanted = Wanted {
        stdin: seat.stdin,
        stdout: true,
        stderr: true,
        stdin_once: false,
    };
    let stream = attached(&known.entry, wanted, paths)?;
    seat.take(stream, container.tty, &known.entry, paths, &signals)
}

/// A connection to the streams of one that runs.
pub(super) fn attached(
    entry: &Entry,
    wanted: Wanted,
    paths: &Paths,
) -> Result<UnixStream, VerbError> {
    let mut stream = client::connect(paths, entry)?;
    client::ask(&mut stream, Request::Attach(wanted))?;
    Ok(stream)
}

/// How a user sits in front of a container that runs elsewhere.
pub(super) struct SeatArgs {
    pub stdin: bool,
    pub keys: Keys,
    pub sig_proxy: bool,
}

impl SeatArgs {
    pub fn take(
        self,
        stream: UnixStream,
        tty: bool,
        entry: &Entry,
        paths: &Paths,
        signals: &Signals,
    ) -> Result<u8, VerbError> {
        let by_request = ByRequest { paths, entry };
        let seat = Seat {
            tty,
            stdin: self.stdin,
            detach_keys: if tty { self.keys } else { Keys::default() },
            signal: (!tty && self.sig_proxy).then_some(&by_request as &dyn SendSignal),
        };
        Ok(exit_code(sit_down(stream, signals, &seat, || ())?))
    }
}
