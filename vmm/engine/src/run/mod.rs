// SPDX-License-Identifier: Apache-2.0
//! `walnut run`: from flags to an exit code, in the foreground.
//!
//! In the order of the data path: flags and image become a [`Container`], its [`Layout`] becomes a
//! machine, and while that boots the OCI spec is made; then [`session`] drives the agent.

mod calls;
mod session;
mod signals;
mod stdio;
mod terminal;
pub mod timings;

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;
use walnut_protocol::CallError;
use walnut_vmm_host::KvmError;

use crate::cli::run::RunArgs;
use crate::container::{Container, ContainerError, ImageDefaults};
use crate::image::{
    Image, ImageError, Platform, PlatformError, Progress, Quiet, Reference, ReferenceError, Store,
    Terminal,
};
use crate::kept::{Kept, KeptError};
use crate::paths::{Artifacts, PathError, Paths};
use crate::spec::SpecError;
use crate::storage::disk::{self, DiskError};
use crate::storage::{Layout, Source};
use crate::vm::rundir::{RunDir, RunDirError};
use crate::vm::{Machine, Vm, VmError};
use session::Session;
use signals::Signals;
use timings::Timings;

#[derive(Debug, Error)]
pub enum RunError {
    #[error("the input device is not a TTY")]
    NotATty,
    #[error(transparent)]
    Container(#[from] ContainerError),
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
    RunDir(#[from] RunDirError),
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error(transparent)]
    Kept(#[from] KeptError),
    #[error(transparent)]
    Spec(#[from] SpecError),
    #[error(transparent)]
    Vm(#[from] VmError),
    #[error(transparent)]
    Signal(#[from] signals::SignalError),
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("find the working directory")]
    WorkingDir(#[source] io::Error),
    #[error("open rootfs {path}")]
    Rootfs { path: PathBuf, source: io::Error },
    #[error("rootfs {0} is not a directory")]
    RootfsKind(PathBuf),
    #[error("set the terminal up")]
    Terminal(#[source] io::Error),
    #[error("connect the container's streams")]
    Streams(#[source] io::Error),
    #[error("the agent's answer to {0} says nothing")]
    EmptyAnswer(&'static str),
    /// The container's process never ran; the agent says why.
    #[error("{message}")]
    Failed { message: String, exit_code: u8 },
    /// A signal ended the run before the container could be told of it.
    #[error("interrupted by signal {0}")]
    Interrupted(i32),
}

impl RunError {
    /// Docker's exit codes.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NotATty => 1,
            Self::Failed { exit_code, .. } => *exit_code,
            Self::Interrupted(signal) => u8::try_from(128 + signal).unwrap_or(125),
            _ => 125,
        }
    }

    /// Who presses ^C knows what happened.
    pub fn is_silent(&self) -> bool {
        matches!(self, Self::Interrupted(_))
    }
}

/// Time for a guest to come up, on the slowest host that anybody waits for.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
const READY_TIMEOUT_VAR: &str = "WALNUT_READY_TIMEOUT_S";

/// `begin_us` is when `main` was entered.
///
/// # Errors
/// Why there is no exit code of the container's; [`RunError::exit_code`] is ours.
pub fn run(args: &RunArgs, paths: &Paths, begin_us: u64) -> Result<u8, RunError> {
    let mut timings = Timings::new(begin_us);
    if args.interactive && args.tty && !terminal::stdin_is_terminal() {
        return Err(RunError::NotATty);
    }
    let here = std::env::current_dir().map_err(RunError::WorkingDir)?;
    let mut container = Container::from_flags(args, &here)?;
    walnut_vmm_host::check()?;
    let artifacts = Artifacts::find()?;
    let root = Root::find(args, paths)?;
    container.apply_image(args.entrypoint.as_deref(), root.command, &root.defaults)?;
    timings.mark("image");

    let result = start(&container, &root, paths, &artifacts, &mut timings);
    if let Some(format) = args.timings {
        timings.print(format);
    }
    result
}

fn start(
    container: &Container,
    root: &Root<'_>,
    paths: &Paths,
    artifacts: &Artifacts,
    timings: &mut Timings,
) -> Result<u8, RunError> {
    let mut kept = keep(container, root, paths)?;
    let disk = match &kept {
        Some(kept) => writable_disk(container, root, paths, kept)?,
        None => None,
    };
    let layout = Layout::new(container, &root.source, disk.as_deref());
    let machine = Machine {
        cpus: container.limits.machine_cpus(),
        memory_mib: container.limits.machine_memory_mib(),
        disks: layout.disks.clone(),
        pmem: layout.pmem.clone(),
        fs: layout.fs.clone(),
    };
    let signals = Signals::take_over()?;
    let dir = RunDir::create(paths, container.id.short())?;
    let vm = Vm::start(artifacts, &machine, dir)?;
    timings.mark("cli");
    let mut session = Session::new(container, &layout, vm, signals)?;
    session.wait_ready(ready_timeout(), timings)?;
    let begun = || {
        if let Some(Err(e)) = kept.as_mut().map(Kept::keep) {
            log::warn!("{e}");
        }
    };
    let code = session.run(timings, begun)?;
    if let Some(kept) = &mut kept {
        kept.finish(code)?;
    }
    Ok(code)
}

/// A directory for a container that has a name or outlives its run.
fn keep(container: &Container, root: &Root<'_>, paths: &Paths) -> Result<Option<Kept>, RunError> {
    if container.remove && container.name.is_none() {
        return Ok(None);
    }
    Ok(Some(Kept::create(paths, container, root.name)?))
}

/// What a container writes over its image is kept as long as it is.
fn writable_disk(
    container: &Container,
    root: &Root<'_>,
    paths: &Paths,
    kept: &Kept,
) -> Result<Option<PathBuf>, RunError> {
    let on_image = matches!(root.source, Source::Image(_));
    if !on_image || container.remove || container.read_only {
        return Ok(None);
    }
    let size = container.storage_size.unwrap_or(disk::DEFAULT_SIZE);
    let path = kept.disk();
    disk::create(&paths.containers(), size, &path)?;
    Ok(Some(path))
}

fn ready_timeout() -> Duration {
    std::env::var(READY_TIMEOUT_VAR)
        .ok()
        .and_then(|seconds| seconds.parse().ok())
        .map_or(READY_TIMEOUT, Duration::from_secs)
}

/// Where the container's files come from, and what its image says.
struct Root<'a> {
    /// As the user gave it.
    name: &'a str,
    source: Source,
    defaults: ImageDefaults,
    command: &'a [String],
    /// Held while the container runs, so that nobody removes the image.
    _image: Option<Image>,
}

impl<'a> Root<'a> {
    fn find(args: &'a RunArgs, paths: &Paths) -> Result<Self, RunError> {
        if let Some(dir) = &args.rootfs {
            return Ok(Self {
                name: "",
                source: Source::Directory(directory(dir)?),
                defaults: ImageDefaults::default(),
                command: &args.args,
                _image: None,
            });
        }
        let (name, command) = args.args.split_first().ok_or(ContainerError::NoCommand)?;
        let image = find_image(name, args.platform.as_deref(), paths)?;
        Ok(Self {
            name,
            source: Source::Image(image.erofs.clone()),
            defaults: ImageDefaults::from(&image.config),
            command,
            _image: Some(image),
        })
    }
}

fn directory(path: &std::path::Path) -> Result<PathBuf, RunError> {
    let fail = |source| RunError::Rootfs {
        path: path.to_owned(),
        source,
    };
    let path = std::fs::canonicalize(path).map_err(fail)?;
    let is_dir = std::fs::metadata(&path).map_err(fail)?.is_dir();
    if is_dir {
        Ok(path)
    } else {
        Err(RunError::RootfsKind(path))
    }
}

/// From the store, or out of an archive into the store, which shows its progress on a terminal.
fn find_image(name: &str, platform: Option<&str>, paths: &Paths) -> Result<Image, RunError> {
    let reference: Reference = name.parse()?;
    let platform = match platform {
        Some(text) => text.parse()?,
        None => Platform::guest(),
    };
    let store = Store::open(&paths.root)?;
    // Elsewhere stderr is the container's.
    let mut progress: Box<dyn Progress> = if io::stderr().is_terminal() {
        Box::new(Terminal::stderr())
    } else {
        Box::new(Quiet)
    };
    Ok(store.resolve(&reference, &platform, &mut *progress)?)
}
