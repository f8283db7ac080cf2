// SPDX-License-Identifier: Apache-2.0
//! Making a template: boot a machine, stop it when its agent is ready, and try a clone.

use std::fs::{self, File};
use std::io::{self, Read};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command as Process, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use clap::Parser;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use walnut_protocol::agent::{DeleteRequest, StartRequest, WaitRequest};
use walnut_protocol::{Client, RPC_PORT};
use walnut_vmm_config::{Command, SnapshotFiles};

use super::{Id, Key, Record, Size, TemplateError, Templates};
use crate::cli::{Cli, Command as CliCommand};
use crate::container::{Container, ContainerError, ImageDefaults};
use crate::image::{Digest, Hashing};
use crate::network::Session;
use crate::paths::{Artifacts, Paths, private_dir};
use crate::spec;
use crate::storage::{Layout, Source};
use crate::supervisor::process::{Streams, created, started};
use crate::times::Timestamp;
use crate::vm::rundir::RunDir;
use crate::vm::{Machine, Origin, Ready, Vm, connect, wake};

/// It may run beside everything else that the host does.
const PATIENCE: Duration = Duration::from_secs(300);

/// Makes the template of a machine of this size, and removes those that became useless.
pub fn make(paths: &Paths, artifacts: &Artifacts, size: Size) -> Result<Id, TemplateError> {
    let key = Key::new(artifacts, size)?;
    let templates = Templates::new(paths);
    let id = key.id();
    private_dir(&templates.dir)?;
    let part = Part::create(&templates, id.clone())?;
    // Nobody is on the other end.
    let mut network = match size.network {
        true => Session::rehearsal()?,
        false => Session::default(),
    };
    let machine = Machine {
        cpus: size.cpus,
        memory_mib: size.memory_mib,
        disks: Vec::new(),
        image: None,
        image_room: size.image_room,
        fs: Vec::new(),
        net: network.configs().0,
        late_net: Vec::new(),
        inherited: network.take_sockets(),
    };
    let files = part.files();
    let (dir, _) = RunDir::create(paths, &format!("t-{id}"))?;
    let dir = Arc::new(dir);
    snapshot(artifacts, (&machine, &network), &files, &dir)?;
    try_clone(artifacts, &files, (&machine, &network), &dir)?;
    part.publish(key, &templates)?;
    templates.prune(artifacts, false)?;
    Ok(id)
}

fn snapshot(
    artifacts: &Artifacts,
    (machine, network): (&Machine, &Session),
    files: &SnapshotFiles,
    dir: &Arc<RunDir>,
) -> Result<(), TemplateError> {
    let mut vm = Vm::start(artifacts, machine, &Origin::BootTemplate, Arc::clone(dir))?;
    match vm.wait_ready(PATIENCE, &[])? {
        Ready::Hello(_) => {}
        Ready::Restored | Ready::Interrupted => return Err(TemplateError::Interrupted),
    }
    vm.wait_silent().map_err(TemplateError::Hello)?;
    rehearse(artifacts, network, dir)?;
    let memory = create(&files.memory)?;
    let state = create(&files.state)?;
    let files = [memory.as_fd(), state.as_fd()];
    Ok(vm.control().tell(&Command::Snapshot, &files)?)
}

/// What can't be started is not published. A container of the guest's own root shows which pages a
/// start needs.
fn try_clone(
    artifacts: &Artifacts,
    files: &SnapshotFiles,
    (machine, network): (&Machine, &Session),
    dir: &Arc<RunDir>,
) -> Result<(), TemplateError> {
    let origin = Origin::TryTemplate(files.clone());
    let mut vm = Vm::start(artifacts, machine, &origin, Arc::clone(dir))?;
    match vm.wait_ready(PATIENCE, &[])? {
        Ready::Restored => {}
        Ready::Hello(_) | Ready::Interrupted => return Err(TemplateError::Interrupted),
    }
    let agent = vm.agent()?.within(PATIENCE);
    wake(&agent).map_err(TemplateError::Try)?;
    run_trial(artifacts, &agent, network, dir)?;
    let Some(path) = &files.working_set else {
        return Ok(());
    };
    let to = create(path)?;
    Ok(vm.control().tell(&Command::WorkingSet, &[to.as_fd()])?)
}

/// One container from its beginning to its end, before the snapshot: what the kernel and the agent
/// do for their first one is done for all clones.
fn rehearse(artifacts: &Artifacts, network: &Session, dir: &RunDir) -> Result<(), TemplateError> {
    let mut stream = connect(&dir.vsock(), RPC_PORT)?;
    let agent = stream.try_clone().and_then(Client::new);
    let agent = agent.map_err(TemplateError::Hello)?.within(PATIENCE);
    let container_id = run_trial(artifacts, &agent, network, dir)?;
    let wait = WaitRequest {
        container_id: container_id.clone(),
        ..WaitRequest::default()
    };
    agent.wait(&wait).map_err(TemplateError::Try)?;
    let delete = DeleteRequest {
        container_id,
        ..DeleteRequest::default()
    };
    agent.delete(&delete).map_err(TemplateError::Try)?;
    // Until the guest has hung up as well: a clone would be told of a connection that is lost, and
    // lose its own.
    stream
        .shutdown(Shutdown::Write)
        .and_then(|()| stream.set_read_timeout(Some(PATIENCE)))
        .and_then(|()| io::copy(&mut stream, &mut io::sink()))
        .map_err(TemplateError::Hello)?;
    Ok(())
}

/// The ID of a container that has said what it is to say. Its image is the guest's own root, which
/// a machine without an image has in its place.
fn run_trial(
    artifacts: &Artifacts,
    agent: &Client,
    network: &Session,
    dir: &RunDir,
) -> Result<String, TemplateError> {
    let container = trial()?;
    let source = Source::Image(artifacts.guest.clone());
    let layout = Layout::new(&container, &source, None);
    let request = spec::request(&container, &layout, network, None)?;
    let token = created(agent.create(&request).map_err(TemplateError::Try)?)?;
    let mut streams = Streams::connect(&dir.vsock(), &token, false, false)?;
    let start = StartRequest {
        container_id: request.container_id.clone(),
        ..StartRequest::default()
    };
    started(agent.start(&start).map_err(TemplateError::Try)?)?;
    let mut said = String::new();
    streams
        .stdout
        .set_read_timeout(Some(PATIENCE))
        .and_then(|()| streams.stdout.read_to_string(&mut said))
        .map_err(TemplateError::Hello)?;
    match said.is_empty() {
        true => Err(TemplateError::Silent),
        false => Ok(request.container_id),
    }
}

/// As plain as `walnut run --rm` makes one.
fn trial() -> Result<Container, ContainerError> {
    let line = [
        "walnut",
        "run",
        "--rm",
        "--rootfs",
        "/",
        "/init",
        "--version",
    ];
    let cli = Cli::try_parse_from(line).expect("the line is always the same");
    let CliCommand::Run(args) = cli.command else {
        unreachable!("the verb is run");
    };
    let args = &args.container;
    let mut container = Container::from_flags(args, Path::new("/"))?;
    container.apply_image(None, &args.args, &ImageDefaults::default())?;
    Ok(container)
}

fn create(path: &Path) -> Result<File, TemplateError> {
    File::create_new(path).map_err(|source| TemplateError::Write {
        path: path.to_owned(),
        source,
    })
}

/// A template that is being made; gone when dropped.
struct Part {
    path: PathBuf,
    id: Id,
    /// Held for its lock.
    _lock: File,
}

impl Part {
    fn create(templates: &Templates, id: Id) -> Result<Self, TemplateError> {
        let path = templates.dir.join(format!("{id}.part"));
        let failed = |source| TemplateError::Write {
            path: path.clone(),
            source,
        };
        private_dir(&path)?;
        let lock = File::open(&path).map_err(failed)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => return Err(TemplateError::Busy(id)),
            locked => locked.map_err(|errno| failed(errno.into()))?,
        }
        // What a killed maker left.
        for entry in fs::read_dir(&path).map_err(failed)? {
            let left = entry.map_err(failed)?.path();
            fs::remove_file(&left).map_err(failed)?;
        }
        Ok(Self {
            path,
            id,
            _lock: lock,
        })
    }

    fn files(&self) -> SnapshotFiles {
        SnapshotFiles {
            memory: self.path.join("memory"),
            state: self.path.join("state"),
            working_set: Some(self.path.join("working-set")),
        }
    }

    fn publish(&self, key: Key, templates: &Templates) -> Result<(), TemplateError> {
        let files = self.files();
        let publish = || {
            let record = Record {
                key,
                created: Timestamp::now(),
                digest: seal(&files.memory)?,
            };
            seal(&files.state)?;
            if let Some(path) = &files.working_set {
                seal(path)?;
            }
            let path = self.path.join("template.json");
            fs::write(&path, serde_json::to_vec(&record)?)?;
            seal(&path)?;
            let to = templates.path(&self.id);
            if to.exists() {
                fs::remove_dir_all(&to)?;
            }
            fs::rename(&self.path, &to)?;
            File::open(&templates.dir)?.sync_all()
        };
        publish().map_err(|source| TemplateError::Write {
            path: self.path.clone(),
            source,
        })
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        match fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                log::warn!("remove {}: {error}", self.path.display());
            }
            _ => {}
        }
    }
}

/// Read-only from now on, on disk, and with this SHA-256.
fn seal(path: &Path) -> io::Result<Digest> {
    let file = File::open(path)?;
    file.set_permissions(fs::Permissions::from_mode(0o400))?;
    file.sync_all()?;
    Ok(Hashing::new(file).finish()?.0)
}

/// Has another process make it, when the host has nothing else to do. Nothing waits for it, and
/// where it fails nobody is worse off.
pub fn make_in_background(paths: &Paths, size: Size) {
    let paths = paths.clone();
    let spawned = thread::Builder::new()
        .name("template".into())
        .spawn(move || {
            // The process inherits this thread's place behind all others.
            step_back();
            if let Err(error) = spawn(&paths, size) {
                log::info!("make a template: {error}");
            }
        });
    if let Err(error) = spawned {
        log::info!("make a template: {error}");
    }
}

fn spawn(paths: &Paths, size: Size) -> io::Result<()> {
    Process::new(std::env::current_exe()?)
        .arg("--root")
        .arg(&paths.root)
        .arg("--state")
        .arg(&paths.state)
        .args(["template", "create", "--machine"])
        .arg(size.cpus.to_string())
        .arg(size.memory_mib.to_string())
        .arg(size.image_room.to_string())
        .arg(u8::from(size.network).to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .current_dir("/")
        .process_group(0)
        .spawn()
        .map(drop)
}

/// This thread, and what it starts, runs when nothing else wants to (sched(7), `SCHED_IDLE`).
pub fn step_back() {
    let lowest = libc::sched_param { sched_priority: 0 };
    #[expect(unsafe_code, reason = "no crate here wraps it")]
    // SAFETY: the call reads the structure and keeps nothing.
    let set = unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const lowest) };
    if set < 0 {
        log::debug!("SCHED_IDLE: {}", io::Error::last_os_error());
    }
}
