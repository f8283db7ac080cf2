// SPDX-License-Identifier: Apache-2.0
//! A supervisor in a process of its own: `walnut supervise ID`, which no user types.
//!
//! Whoever starts it gives it two descriptors: the right to run the container, and a connection on
//! which it says whether the container runs (one reply), and which can go on as an attached client.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::str::FromStr;

use rustix::io::{FdFlags, fcntl_setfd};
use thiserror::Error;
use walnut_protocol::chain;
use walnut_vmm_host::KvmError;

use super::control::attach_first;
use super::wire::{Frame, Reply, Wanted};
use super::{Supervisor, SupervisorError, trim};
use crate::checkpoint::Checkpoint;
use crate::paths::{Artifacts, PathError, Paths};
use crate::record::{Alive, Config, Entry, RecordError, Registry};
use crate::run::timings::Timings;
use crate::volumes;

#[derive(Debug, Error)]
pub enum BackgroundError {
    #[error("find this program")]
    Program(#[source] io::Error),
    #[error("start the container's supervisor")]
    Spawn(#[source] io::Error),
    #[error(transparent)]
    Supervisor(#[from] SupervisorError),
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error(transparent)]
    Kvm(#[from] KvmError),
    #[error(transparent)]
    Path(#[from] PathError),
    #[error("{0} is no terminal's size")]
    Size(String),
}

/// What its first client wants of it.
#[derive(Clone, Debug, Default)]
pub struct First {
    pub wanted: Option<Wanted>,
    pub tty_size: Option<(u32, u32)>,
    /// The directory of the checkpoint that it goes on from.
    pub checkpoint: Option<PathBuf>,
}

/// Starts one. The connection brings its reply, then what was wanted.
pub fn spawn(
    paths: &Paths,
    entry: &Entry,
    alive: &Alive,
    first: First,
) -> Result<UnixStream, BackgroundError> {
    let spawn_error = BackgroundError::Spawn;
    let program = std::env::current_exe().map_err(BackgroundError::Program)?;
    let (ours, theirs) = UnixStream::pair().map_err(spawn_error)?;
    // For what goes wrong when nobody listens any more.
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(entry.dir().join("supervisor.log"))
        .map_err(spawn_error)?;
    let mut command = Command::new(program);
    command.arg("--root").arg(&paths.root);
    command.arg("--state").arg(&paths.state);
    command.args(["supervise", entry.id()]);
    command.args(["--greeting", &theirs.as_raw_fd().to_string()]);
    command.args(["--alive", &alive.as_fd().as_raw_fd().to_string()]);
    if let Some(wanted) = first.wanted {
        command.args(["--attach", &letters(wanted)]);
    }
    if let Some((width, height)) = first.tty_size {
        command.args(["--tty-size", &format!("{width}x{height}")]);
    }
    if let Some(checkpoint) = &first.checkpoint {
        command.arg("--checkpoint").arg(checkpoint);
    }
    // It inherits these two. No other thread starts a program meanwhile.
    let inherited: [BorrowedFd<'_>; 2] = [theirs.as_fd(), alive.as_fd()];
    let set = |flags| -> io::Result<()> {
        for fd in inherited {
            fcntl_setfd(fd, flags)?;
        }
        Ok(())
    };
    set(FdFlags::empty()).map_err(spawn_error)?;
    let spawned = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .current_dir("/")
        // Before it makes a session of its own, a ^C must not reach it.
        .process_group(0)
        .spawn();
    set(FdFlags::CLOEXEC).map_err(spawn_error)?;
    // It outlives this process: init waits for it.
    spawned.map(drop).map_err(spawn_error)?;
    Ok(ours)
}

fn letters(wanted: Wanted) -> String {
    let all = [
        (wanted.stdin, 'i'),
        (wanted.stdout, 'o'),
        (wanted.stderr, 'e'),
        (wanted.stdin_once, '1'),
    ];
    let chosen = all.iter().filter(|(wanted, _)| *wanted);
    chosen.map(|(_, letter)| *letter).collect()
}

/// `walnut supervise`'s arguments.
#[derive(Debug)]
pub struct Task {
    pub id: String,
    pub greeting: RawFd,
    pub alive: RawFd,
    pub attach: Option<String>,
    pub tty_size: Option<Size>,
    pub checkpoint: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug)]
pub struct Size(u32, u32);

impl FromStr for Size {
    type Err = BackgroundError;

    fn from_str(text: &str) -> Result<Self, BackgroundError> {
        let parse = || {
            let (width, height) = text.split_once('x')?;
            Some(Self(width.parse().ok()?, height.parse().ok()?))
        };
        parse().ok_or_else(|| BackgroundError::Size(text.to_owned()))
    }
}

/// Runs the container; the process ends with it.
pub fn supervise(task: &Task, paths: &Paths) -> Result<u8, BackgroundError> {
    let mut greeting = Some(UnixStream::from(inherited(task.greeting)));
    let alive = Alive::from_fd(inherited(task.alive));
    // A new session: no terminal's signals, no shell that waits. It fails for a leader alone.
    let _ = rustix::process::setsid();
    let entry = Registry::new(paths).find(&task.id)?;
    let config = entry.config()?;
    let remove = config.container.remove;
    let result = run(task, paths, &entry, config, alive, &mut greeting);
    if let Err(error) = &result {
        gave_up(&entry, remove, paths, error);
        let code = exit_code(error);
        tell(&mut greeting, Reply::refused(chain(error), code));
    }
    result
}

fn run(
    task: &Task,
    paths: &Paths,
    entry: &Entry,
    config: Config,
    alive: Alive,
    greeting: &mut Option<UnixStream>,
) -> Result<u8, BackgroundError> {
    walnut_vmm_host::check()?;
    let artifacts = Artifacts::find()?;
    let image = super::image_of(&config, paths)?;
    let checkpoint = task.checkpoint.as_deref();
    let checkpoint = checkpoint.map(|dir| Checkpoint::open(dir, &artifacts));
    let supervisor = Supervisor {
        checkpoint: checkpoint.transpose().map_err(SupervisorError::from)?,
        paths,
        artifacts: &artifacts,
        config,
        entry: entry.clone(),
        alive,
        image,
        own_streams: false,
        tty_size: task.tty_size.map(|Size(width, height)| (width, height)),
    };
    let wanted = task.attach.as_deref().map(wanted);
    let first = greeting.as_ref().map(UnixStream::try_clone);
    let first = first.transpose().map_err(BackgroundError::Spawn)?;
    let ready = |shared: &_| match (wanted, &first) {
        (Some(wanted), Some(stream)) => attach_first(stream, wanted, shared),
        _ => Ok(()),
    };
    let told = |result: Result<(), &SupervisorError>| {
        let reply = match result {
            Ok(()) => {
                trim::forget_code();
                Reply::default()
            }
            Err(e) => Reply::refused(chain(e), e.exit_code()),
        };
        tell(greeting, reply);
    };
    let mut timings = Timings::new(0);
    Ok(supervisor.run(&mut timings, ready, told)?)
}

fn wanted(letters: &str) -> Wanted {
    Wanted {
        stdin: letters.contains('i'),
        stdout: letters.contains('o'),
        stderr: letters.contains('e'),
        stdin_once: letters.contains('1'),
    }
}

fn tell(greeting: &mut Option<UnixStream>, reply: Reply) {
    if let Some(mut stream) = greeting.take() {
        // Whoever started this may be gone.
        let _ = Frame::Reply(reply).write(&mut stream);
    }
}

fn exit_code(error: &BackgroundError) -> u8 {
    match error {
        BackgroundError::Supervisor(error) => error.exit_code(),
        _ => 125,
    }
}

/// A container that could not be brought up is as it was before, or gone if it was to go.
pub fn gave_up(
    entry: &Entry,
    remove: bool,
    paths: &Paths,
    error: &(dyn std::error::Error + 'static),
) {
    let Ok(mut state) = entry.raw_state() else {
        return;
    };
    if !state.starting {
        return;
    }
    state.starting = false;
    state.error = chain(error);
    let done = if remove {
        let config = entry.config();
        entry.remove().inspect(|()| {
            let volumes = config.map(|config| config.container.volumes);
            volumes::remove_anonymous(paths, &volumes.unwrap_or_default());
        })
    } else {
        entry.write_state(&state, false)
    };
    if let Err(e) = done {
        log::warn!("{}", chain(&e));
    }
}

#[expect(
    unsafe_code,
    reason = "an inherited descriptor is only known by its number"
)]
fn inherited(fd: RawFd) -> OwnedFd {
    // SAFETY: whoever started this says that the number is ours alone; a wrong one fails at its
    // first use.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // The monitor must not inherit it in turn.
    let _ = fcntl_setfd(&fd, FdFlags::CLOEXEC);
    fd
}
