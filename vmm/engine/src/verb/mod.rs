// SPDX-License-Identifier: Apache-2.0
//! What commands do with containers that exist: a file for each verb.

pub mod checkpoint;
pub mod clone;
pub mod console;
pub mod cp;
mod df;
pub mod events;
pub mod exec;
pub mod files;
mod filter;
pub mod inspect;
pub mod life;
pub mod logs;
mod machine;
pub mod network;
pub mod ports;
pub mod ps;
pub mod remove;
pub mod start;
pub mod stats;
pub mod system;
pub mod template;
pub mod top;
pub mod update;
pub mod volume;

use std::io::{self, BufRead, IsTerminal, Write};
use std::path::PathBuf;

use thiserror::Error;
use walnut_archive::ArchiveError;
use walnut_protocol::{CallError, chain};

use crate::checkpoint::CheckpointError;
use crate::container::ContainerError;
use crate::container::env::EnvError;
use crate::container::signal::SignalError as SignalNameError;
use crate::events::{Event, EventsError};
use crate::files::FilesError;
use crate::format::FormatError;
use crate::log_file::FollowError;
use crate::logger;
use crate::paths::{PathError, Paths};
use crate::record::{Config, Entry, RecordError, Registry, State};
use crate::run::RunError;
use crate::run::attach::AttachError;
use crate::run::keys::KeysError;
use crate::run::signals::SignalError;
use crate::supervisor::SupervisorError;
use crate::supervisor::background::BackgroundError;
use crate::supervisor::client::ClientError;
use crate::supervisor::process::ProcessError;
use crate::template::TemplateError;
use crate::times::TimeError;
use crate::vm::VmError;
use crate::volumes::VolumesError;

#[derive(Debug, Error)]
pub enum VerbError {
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Background(#[from] BackgroundError),
    #[error(transparent)]
    Attach(#[from] AttachError),
    #[error(transparent)]
    Run(#[from] RunError),
    #[error(transparent)]
    Networks(#[from] crate::networks::NetworksError),
    #[error(transparent)]
    Volumes(#[from] VolumesError),
    #[error(transparent)]
    Container(#[from] ContainerError),
    #[error(transparent)]
    Env(#[from] EnvError),
    #[error(transparent)]
    SignalName(#[from] SignalNameError),
    #[error(transparent)]
    Signal(#[from] SignalError),
    #[error(transparent)]
    Keys(#[from] KeysError),
    #[error(transparent)]
    Format(#[from] FormatError),
    #[error(transparent)]
    Time(#[from] TimeError),
    #[error(transparent)]
    Log(#[from] FollowError),
    #[error(transparent)]
    Vm(#[from] VmError),
    #[error(transparent)]
    Template(#[from] TemplateError),
    #[error(transparent)]
    Kvm(#[from] walnut_vmm_host::KvmError),
    #[error(transparent)]
    Path(#[from] PathError),
    #[error(transparent)]
    Process(#[from] ProcessError),
    #[error(transparent)]
    Call(#[from] CallError),
    #[error(transparent)]
    Restart(#[from] crate::supervisor::restart::RestartError),
    #[error("write the runtime spec")]
    Spec(#[from] crate::spec::SpecError),
    #[error(transparent)]
    Events(#[from] EventsError),
    #[error(transparent)]
    Files(#[from] FilesError),
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error(transparent)]
    Supervisor(#[from] SupervisorError),
    #[error("write {path}")]
    Output { path: PathBuf, source: io::Error },
    #[error("create an ID")]
    Id(#[source] io::Error),
    #[error("write to stdout")]
    Stdout(#[source] io::Error),
    #[error("read from stdin")]
    Stdin(#[source] io::Error),
    /// In Docker's words.
    #[error("{0}")]
    Refused(String),
}

impl VerbError {
    /// Docker's exit codes.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Process(ProcessError::Failed { exit_code, .. }) => *exit_code,
            Self::Attach(AttachError::Refused { code, .. }) => *code,
            Self::Run(error) => error.exit_code(),
            _ => 1,
        }
    }
}

fn refused<T>(words: impl Into<String>) -> Result<T, VerbError> {
    Err(VerbError::Refused(words.into()))
}

/// Does it to each, says each name or what went wrong with it; the exit code.
fn each(
    names: &[String],
    paths: &Paths,
    act: impl Fn(&Entry) -> Result<(), VerbError>,
) -> Result<u8, VerbError> {
    let named = |name: &str, entry: &Entry| act(entry).map(|()| name.to_owned());
    each_says(names, paths, named, |_| true)
}

/// As [`each`], with something else to say of each, and errors that are told but are no failure.
fn each_says(
    names: &[String],
    paths: &Paths,
    act: impl Fn(&str, &Entry) -> Result<String, VerbError>,
    is_failure: impl Fn(&VerbError) -> bool,
) -> Result<u8, VerbError> {
    let registry = Registry::new(paths);
    let mut code = 0;
    for name in names {
        let done = registry
            .find(name)
            .map_err(VerbError::from)
            .and_then(|entry| act(name, &entry));
        match done {
            Ok(line) => say(&line)?,
            Err(error) => {
                code = code.max(u8::from(is_failure(&error)));
                complain(&error);
            }
        }
    }
    Ok(code)
}

/// One line on stdout.
fn say(line: &str) -> Result<(), VerbError> {
    io::stdout()
        .write_all(format!("{line}\n").as_bytes())
        .map_err(VerbError::Stdout)
}

/// What was pruned, if anything was.
fn say_gone(what: &str, lines: &[String]) -> Result<(), VerbError> {
    let text = gone(what, lines);
    io::stdout()
        .write_all(text.as_bytes())
        .map_err(VerbError::Stdout)
}

/// Docker's list of what was pruned, a blank line behind it.
pub(crate) fn gone(what: &str, lines: &[String]) -> String {
    match lines {
        [] => String::new(),
        lines => format!("Deleted {what}:\n{}\n\n", lines.join("\n")),
    }
}

fn confirmed(warning: &str) -> Result<bool, VerbError> {
    is_confirmed(warning).map_err(VerbError::Stdin)
}

/// Docker's question; anything but its yes is a no.
pub(crate) fn is_confirmed(warning: &str) -> io::Result<bool> {
    let mut out = io::stdout();
    let question = format!("{warning}\nAre you sure you want to continue? [y/N] ");
    out.write_all(question.as_bytes())?;
    out.flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    if !io::stdin().is_terminal() {
        out.write_all(b"\n")?;
    }
    Ok(answer.trim().eq_ignore_ascii_case("y"))
}

/// What went wrong with one of several.
fn complain(error: &VerbError) {
    logger::say(&chain(error));
}

/// What a command needs to know of a container.
#[derive(Debug)]
struct Known {
    entry: Entry,
    config: Config,
    state: State,
}

impl Known {
    fn find(name: &str, paths: &Paths) -> Result<Self, VerbError> {
        let entry = Registry::new(paths).find(name)?;
        // First the state: a container that was to go may be gone by that.
        let state = entry.state()?;
        Ok(Self {
            config: entry.config()?,
            state,
            entry,
        })
    }

    /// Docker's words for one that does not run.
    fn must_run(&self) -> Result<(), VerbError> {
        if self.state.is_up() {
            return Ok(());
        }
        refused(format!("container {} is not running", self.entry.id()))
    }
}

/// Writes down that a verb has done something to a container.
fn happened(entry: &Entry, paths: &Paths, action: &str) {
    if let Ok(config) = entry.config() {
        Event::container(entry, &config, action).emit(paths);
    }
}

/// The log that its supervisor would write, for who needs to know whether there is one.
fn has_log(config: &Config) -> bool {
    config.container.log.driver != "none"
}
