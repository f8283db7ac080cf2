// SPDX-License-Identifier: Apache-2.0
//! `walnut run`: from flags to an exit code.
//!
//! In the order of the data path: flags and image become a container on disk ([`create`]), which a
//! supervisor runs: this process, in the foreground; one of its own, in the background or where
//! the user may leave it (a terminal's detach keys) and it goes on.

pub mod attach;
pub mod calls;
pub mod create;
pub mod in_vm;
pub mod keys;
pub mod signals;
pub mod stdio;
pub mod terminal;
pub mod timings;

use std::io::{self, Write};
use std::path::PathBuf;

use thiserror::Error;
use walnut_vmm_host::KvmError;

use crate::cli::run::{CreateArgs, RunArgs};
use crate::container::ContainerError;
use crate::events::Event;
use crate::image::{ImageError, PlatformError, ReferenceError};
use crate::paths::{Artifacts, PathError, Paths};
use crate::record::{Entry, RecordError};
use crate::supervisor::background::{self, BackgroundError, First, gave_up};
use crate::supervisor::client::{self, ClientError};
use crate::supervisor::restart::Policy;
use crate::supervisor::wire::{Reply, Request, Wanted};
use crate::supervisor::{Supervisor, SupervisorError};
use crate::volumes::VolumesError;
use attach::{AttachError, End, Seat, SendSignal};
use create::{Made, create};
use keys::{Keys, KeysError};
use signals::Signals;
use timings::Timings;

#[derive(Debug, Error)]
pub enum RunError {
    #[error("the input device is not a TTY")]
    NotATty,
    #[error("Conflicting options: --attach and --detach")]
    AttachAndDetach,
    #[error(
        "invalid argument \"{0}\" for \"-a, --attach\" flag: valid streams are STDIN, STDOUT and STDERR"
    )]
    Stream(String),
    #[error(transparent)]
    Keys(#[from] KeysError),
    #[error(transparent)]
    Container(#[from] ContainerError),
    #[error(transparent)]
    Pull(#[from] Box<crate::image_verbs::VerbError>),
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    #[error(transparent)]
    Platform(#[from] PlatformError),
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error(transparent)]
    Kvm(#[from] KvmError),
    #[error(transparent)]
    Path(#[from] PathError),
    #[error(transparent)]
    Networks(#[from] crate::networks::NetworksError),
    #[error(transparent)]
    Volumes(#[from] VolumesError),
    #[error(transparent)]
    InVm(#[from] in_vm::InVmError),
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error(transparent)]
    Supervisor(#[from] SupervisorError),
    #[error(transparent)]
    Background(#[from] BackgroundError),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Attach(#[from] AttachError),
    #[error("find the working directory")]
    WorkingDir(#[source] io::Error),
    #[error("open rootfs {path}")]
    Rootfs { path: PathBuf, source: io::Error },
    #[error("rootfs {0} is not a directory")]
    RootfsKind(PathBuf),
    #[error("container ID file found, make sure the other container isn't running or delete {0}")]
    CidfileExists(PathBuf),
    #[error("write the container ID file {path}")]
    Cidfile { path: PathBuf, source: io::Error },
    #[error("write to stdout")]
    Stdout(#[source] io::Error),
}

impl RunError {
    /// Docker's exit codes.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NotATty => 1,
            Self::Supervisor(error) => error.exit_code(),
            Self::Attach(AttachError::Refused { code, .. }) => *code,
            _ => 125,
        }
    }

    /// Who presses ^C knows what happened.
    pub fn is_silent(&self) -> bool {
        matches!(self, Self::Supervisor(error) if error.is_silent())
    }
}

/// `begin_us` is when `main` was entered.
///
/// # Errors
/// Why there is no exit code of the container's; [`RunError::exit_code`] is ours.
pub fn run(args: &RunArgs, paths: &Paths, begin_us: u64) -> Result<u8, RunError> {
    let mut timings = Timings::new(begin_us);
    let (tty, interactive) = (args.container.tty, args.container.interactive);
    let streams = streams(args)?;
    if interactive && tty && !args.detach && !terminal::stdin_is_terminal() {
        return Err(RunError::NotATty);
    }
    let keys = detach_keys(args.detach_keys.as_deref())?;
    walnut_vmm_host::check()?;
    let artifacts = Artifacts::find()?;
    let made = create(&args.container, paths, true)?;
    timings.mark("image");
    let stays = tty
        || made.config.container.restart != Policy::No
        || !args.attach.is_empty()
        // What is not passed on ends this process, and the container outlives it.
        || !args.sig_proxy;
    if args.detach || stays {
        // Not before the image is found: until then, ^C is for this process.
        let signals = Signals::take_over().map_err(SupervisorError::from)?;
        return in_background(made, paths, streams, keys, args, &signals);
    }
    let result = in_foreground(made, paths, &artifacts, &mut timings);
    if let Some(format) = args.timings {
        timings.print(format);
    }
    result
}

/// `walnut create`: prints the ID.
pub fn create_only(args: &CreateArgs, paths: &Paths) -> Result<u8, RunError> {
    let made = create(&args.container, paths, false)?;
    Event::container(&made.entry, &made.config, "create").emit(paths);
    say_id(&made.entry)?;
    Ok(0)
}

fn in_foreground(
    made: Made,
    paths: &Paths,
    artifacts: &Artifacts,
    timings: &mut Timings,
) -> Result<u8, RunError> {
    let (entry, remove) = (made.entry.clone(), made.config.container.remove);
    let supervisor = Supervisor {
        checkpoint: None,
        paths,
        artifacts,
        config: made.config,
        entry: made.entry,
        alive: made.alive,
        image: made.image,
        own_streams: true,
        tty_size: None,
    };
    let result = supervisor.run(timings, |_| Ok(()), |_| ());
    if let Err(error) = &result {
        gave_up(&entry, remove, paths, error);
    }
    Ok(result?)
}

fn in_background(
    made: Made,
    paths: &Paths,
    streams: Wanted,
    keys: Keys,
    args: &RunArgs,
    signals: &Signals,
) -> Result<u8, RunError> {
    Event::container(&made.entry, &made.config, "create").emit(paths);
    let tty = made.config.container.tty;
    let first = First {
        checkpoint: None,
        wanted: (!args.detach).then_some(streams),
        tty_size: terminal::size().filter(|_| tty),
    };
    let spawned = background::spawn(paths, &made.entry, &made.alive, first);
    let mut connection = match spawned {
        Ok(connection) => connection,
        Err(error) => {
            gave_up(&made.entry, made.config.container.remove, paths, &error);
            return Err(error.into());
        }
    };
    // From here on it is the supervisor's.
    drop(made.alive);
    if args.detach {
        started(&mut connection)?;
        say_id(&made.entry)?;
        return Ok(0);
    }
    let by_request = ByRequest {
        paths,
        entry: &made.entry,
    };
    let seat = Seat {
        tty,
        stdin: streams.stdin,
        detach_keys: if tty { keys } else { Keys::default() },
        signal: (!tty && args.sig_proxy).then_some(&by_request as &dyn SendSignal),
    };
    Ok(exit_code(attach::attach(
        connection,
        signals,
        &seat,
        || (),
    )?))
}

/// The supervisor's first word.
pub fn started(connection: &mut std::os::unix::net::UnixStream) -> Result<(), AttachError> {
    use crate::supervisor::wire::{Frame, WireError};
    match Frame::read(connection)? {
        Some(Frame::Reply(Reply {
            refused: Some(refusal),
            ..
        })) => Err(AttachError::Refused {
            message: refusal.message,
            code: refusal.code,
        }),
        Some(Frame::Reply(_)) => Ok(()),
        Some(other) => Err(other.unexpected().into()),
        None => Err(WireError::Gone.into()),
    }
}

pub fn exit_code(end: End) -> u8 {
    match end {
        End::Exited(code) => u8::try_from(code).unwrap_or(255),
        End::Detached => 0,
        End::Signaled(signal) => u8::try_from(128 + signal).unwrap_or(255),
    }
}

/// Signals for a container that another process runs.
#[derive(Debug)]
pub struct ByRequest<'a> {
    pub paths: &'a Paths,
    pub entry: &'a Entry,
}

impl SendSignal for ByRequest<'_> {
    fn send(&self, signal: u32) {
        if let Err(e) = client::request(self.paths, self.entry, Request::Kill { signal }) {
            log::debug!("pass signal {signal} on: {e}");
        }
    }
}

pub fn detach_keys(given: Option<&str>) -> Result<Keys, KeysError> {
    given.map_or_else(|| Ok(Keys::docker()), Keys::parse)
}

fn streams(args: &RunArgs) -> Result<Wanted, RunError> {
    if args.attach.is_empty() {
        return Ok(Wanted {
            stdin: args.container.interactive,
            stdout: true,
            stderr: true,
            stdin_once: true,
        });
    }
    if args.detach {
        return Err(RunError::AttachAndDetach);
    }
    let mut wanted = Wanted {
        stdin_once: true,
        ..Wanted::default()
    };
    for stream in &args.attach {
        match stream.to_ascii_lowercase().as_str() {
            "stdin" => wanted.stdin = true,
            "stdout" => wanted.stdout = true,
            "stderr" => wanted.stderr = true,
            _ => return Err(RunError::Stream(stream.clone())),
        }
    }
    Ok(wanted)
}

fn say_id(entry: &Entry) -> Result<(), RunError> {
    let line = format!("{}\n", entry.id());
    io::stdout()
        .write_all(line.as_bytes())
        .map_err(RunError::Stdout)
}
