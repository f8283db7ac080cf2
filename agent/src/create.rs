// SPDX-License-Identifier: Apache-2.0
//! Makes a container, up to its first process's exec; makes one more process in a container.
//!
//! RPC threads prepare (mounts, files, user, spec, streams), the helper makes the process. What was
//! made before something failed is undone.

use std::fs;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use oci_spec::runtime::Process as SpecProcess;
use rustix::fs::{Mode, OFlags};
use walnut_protocol::agent::{CreateRequest, ExecRequest, FileJob, GuestFile};

use crate::agent::Agent;
use crate::cgroup::{Cgroup, CgroupError};
use crate::channel::{self, Channel, ChannelError};
use crate::clock;
use crate::container::{Base, Container, signal_number};
use crate::failure::{Failure, Stage, chain};
use crate::files;
use crate::helper::{self, CreateJob, EnterJob, FilesJob, Job, Report, Word, Work};
use crate::id::Id;
use crate::mounts::Mounts;
use crate::paths::{GuestPath, PathError, Rootfs};
use crate::process::Process;
use crate::security::Sets;
use crate::spec::{self, Spec, SpecError};
use crate::streams::{ChildEnds, Streams, StreamsError};
use crate::{lock, loopback, network, security, sysctl, user};

/// How long the making of a process may take; under emulation, with a cold image, it takes long.
const PATIENCE: Duration = Duration::from_secs(120);

/// Makes the container that `request` describes. `name` is the agent's own for it.
///
/// # Errors
/// The first step that failed, as the host will hear of it.
pub fn container(
    agent: &Agent,
    name: String,
    request: &CreateRequest,
) -> Result<Container, Failure> {
    let mut base = Base::new(name);
    let began = clock::boottime_us();
    bring_files(agent, request, &mut base)?;
    let mounted = clock::boottime_us();
    network::set_up(&request.interfaces)
        .map_err(|error| Failure::of(Stage::Network, error.errno(), &error))?;
    let mut spec = Spec::parse(&request.spec).map_err(|e| spec_failure(&e))?;
    spec.join(|id| first_process(agent, id))
        .map_err(|error| Failure::of(Stage::Namespaces, 0, &error))?;
    let own_network = spec.has_own_network();
    let in_rootfs = |error: PathError| Failure::of(Stage::Rootfs, error.errno(), &error);
    let rootfs = Rootfs::open(&spec.root).map_err(in_rootfs)?;
    set_user(
        &rootfs,
        &mut spec.process,
        &request.user,
        &request.group_add,
    )?;
    fill_volumes(request, &rootfs)?;
    make_cwd(&rootfs, &spec.process);
    spec.sysctls = sysctl::apply(&request.sysctls, spec.namespaces)
        .map_err(|error| Failure::of(Stage::Spec, error.errno(), &error))?;
    let (namespaces, stop_signal) = (spec.namespaces, signal_number(spec.stop_signal.as_deref()));
    let process = spec.process.clone();
    let profile = spec.take_seccomp();
    let device_rules = spec.device_rules().map_err(|e| spec_failure(&e))?;
    // The helper's to give up, not libcontainer's.
    let capabilities = process.capabilities().as_ref().map(Sets::from);
    spec.process.set_capabilities(None);
    let config = spec
        .into_json(&Cgroup::spec_path(&base.name))
        .map_err(|e| spec_failure(&e))?;
    let cgroup = Cgroup::create(&base.name).map_err(|e| cgroup_failure(&e))?;
    let cgroup = Arc::clone(base.cgroup.insert(Arc::new(cgroup)));
    cgroup
        .limit_devices(&device_rules)
        .map_err(|error| Failure::of(Stage::Cgroup, 0, &error))?;
    write_bundle(&base, &config)?;
    security::keep_filter(&base.bundle(), request, profile)?;

    let (streams, stdio) = make_streams(&process, request.stdin)?;
    let console = listen_for_terminal(&base, stdio.is_none())?;
    let prepared = clock::boottime_us();
    let job = Job::Create(CreateJob {
        name: base.name.clone(),
        bundle: base.bundle(),
        capabilities,
        stdio: if stdio.is_some() {
            helper::Stdio::Pipes
        } else {
            helper::Stdio::Terminal
        },
        init: request.init,
    });
    let init = make_process(agent, &job, stdio, Vec::new(), streams, &cgroup)
        .map_err(|failure| failure.in_cwd(process.cwd()))?;
    if own_network {
        bring_loopback_up(&init)?;
    }
    if let Some(console) = console {
        let (socket, _) = console
            .accept()
            .map_err(|e| Failure::of(Stage::Streams, 0, &e))?;
        take_terminal(&init, socket.as_fd(), &process)?;
    }
    log::debug!(
        "create {}: mounts {} us, preparation {} us, process {} us",
        base.name,
        mounted - began,
        prepared - mounted,
        clock::boottime_us() - prepared
    );
    Ok(Container::new(
        init,
        rootfs,
        namespaces,
        stop_signal,
        cgroup,
        base,
    ))
}

/// The container's mounts, those that were made for it before first, and its small files.
fn bring_files(agent: &Agent, request: &CreateRequest, base: &mut Base) -> Result<(), Failure> {
    base.mounts = lock(&agent.mounts).split(&request.takes);
    let made = Mounts::make(&request.mounts)
        .map_err(|error| Failure::of(Stage::Mounts, error.errno(), &error))?;
    base.mounts.append(made);
    for file in &request.files {
        base.files.push(write_file(file)?);
    }
    Ok(())
}

fn bring_loopback_up(init: &Process) -> Result<(), Failure> {
    loopback::up_in(init.pid).map_err(|error| {
        let errno = error.raw_os_error().unwrap_or(0);
        let message = format!("bring up the loopback: {error}");
        Failure::new(Stage::Network, errno, message)
    })
}

/// The first process of a container that runs.
fn first_process(agent: &Agent, id: &str) -> Option<i32> {
    let container = agent.container(&Id::try_from(id).ok()?).ok()?;
    let runs = container.init.is_started() && container.init.exit().is_none();
    runs.then_some(container.init.pid)
}

/// Makes the process that `request` describes.
///
/// # Errors
/// The first step that failed, as the host will hear of it.
pub fn exec(
    agent: &Agent,
    container: &Container,
    request: &ExecRequest,
) -> Result<Arc<Process>, Failure> {
    if let Some(job) = request.files.as_ref() {
        return file_job(agent, container, request, job);
    }
    let mut process = spec::parse_process(&request.process).map_err(|e| spec_failure(&e))?;
    if !request.machine {
        // As the container sees its passwd now: it may have changed since it was made.
        set_user(&container.rootfs, &mut process, &request.user, &[])?;
    }
    let (streams, stdio) = if request.detached {
        process.set_terminal(Some(false));
        let (streams, ends) = Streams::none().map_err(|e| Failure::of(Stage::Streams, 0, &e))?;
        (Arc::new(streams), Some(ends))
    } else {
        make_streams(&process, request.stdin)?
    };
    let console = match stdio {
        Some(_) => None,
        None => Some(Channel::pair().map_err(|e| Failure::of(Stage::Streams, 0, &e))?),
    };
    let (near, far) = console.unzip();
    let json =
        serde_json::to_string(&process).map_err(|error| Failure::of(Stage::Spec, 0, &error))?;
    let (namespaces, cgroup_procs, bundle) = match request.machine {
        // There is no filter where there is no bundle.
        true => (
            0,
            Cgroup::machine_procs_path(),
            Path::new(crate::STATE_DIR).into(),
        ),
        false => (
            container.namespaces,
            container.cgroup.procs_path(),
            container.bundle(),
        ),
    };
    let job = Job::Enter(EnterJob {
        init_pid: container.init.pid,
        namespaces,
        cgroup_procs,
        bundle,
        process: json,
        stdio: if stdio.is_some() {
            helper::Stdio::Pipes
        } else {
            helper::Stdio::Terminal
        },
    });
    let extra = far.into_iter().map(Channel::into_fd).collect();
    let made = make_process(agent, &job, stdio, extra, streams, &container.cgroup)?;
    wait_ready(&made)?;
    if let Some(near) = near {
        take_terminal(&made, near.into_fd().as_fd(), &process)?;
    }
    Ok(made)
}

/// Makes a process of the agent's own that works on the container's files.
fn file_job(
    agent: &Agent,
    container: &Container,
    request: &ExecRequest,
    job: &FileJob,
) -> Result<Arc<Process>, Failure> {
    let work = Work::from_protocol(job)
        .ok_or_else(|| Failure::new(Stage::Spec, 0, "a job without work"))?;
    let failed = |e: &dyn std::error::Error| Failure::of(Stage::Streams, 0, e);
    let (streams, stdio) = Streams::pipes(request.stdin, 0, 0).map_err(|e| failed(&e))?;
    let root = container
        .rootfs
        .open_in(Path::new("/"), OFlags::PATH)
        .map_err(|e| failed(&e))?;
    let job = Job::Files(FilesJob {
        init_pid: container.init.pid,
        work,
    });
    let streams = Arc::new(streams);
    let made = make_process(
        agent,
        &job,
        Some(stdio),
        vec![root],
        streams,
        &container.cgroup,
    )?;
    wait_ready(&made)?;
    Ok(made)
}

fn wait_ready(made: &Process) -> Result<(), Failure> {
    match made.lifeline.receive_within::<Word>(PATIENCE) {
        Ok(Some((Word::Failed(failure), _))) => Err(failure),
        Ok(Some((Word::Ready | Word::Start, _))) => Ok(()),
        // It was killed before it got there.
        Ok(None) => Err(Failure::new(Stage::Exec, 0, "the container has ended")),
        Err(error) => {
            let _ = made.kill(libc::SIGKILL.cast_unsigned());
            Err(Failure::of(Stage::Exec, 0, &error))
        }
    }
}

/// Hands the job to the helper and takes charge of the process that comes of it.
fn make_process(
    agent: &Agent,
    job: &Job,
    stdio: Option<ChildEnds>,
    extra: Vec<OwnedFd>,
    streams: Arc<Streams>,
    cgroup: &Arc<Cgroup>,
) -> Result<Arc<Process>, Failure> {
    let broken = |error: &ChannelError| Failure::of(Stage::Namespaces, 0, error);
    let (control, far_control) = Channel::pair().map_err(|e| broken(&e))?;
    let (lifeline, far_lifeline) = Channel::pair().map_err(|e| broken(&e))?;
    let mut ends: Vec<OwnedFd> = vec![far_control.into_fd(), far_lifeline.into_fd()];
    ends.extend(stdio.into_iter().flatten());
    ends.extend(extra);
    let fds: Vec<BorrowedFd<'_>> = ends.iter().map(AsFd::as_fd).collect();
    agent
        .helper
        .run(job, &fds)
        .map_err(|e| Failure::of(Stage::Namespaces, 0, &e))?;
    drop(ends);
    match control.receive_within::<Report>(PATIENCE) {
        Ok(Some((Report::Made { pid }, _))) => {
            let process = Arc::new(Process::new(pid, streams, lifeline, Arc::clone(cgroup)));
            // The job's process is its parent until it hears back: nobody has waited for it.
            agent.reaper.add(&process);
            let _ = control.send(&(), &[]);
            Ok(process)
        }
        Ok(Some((Report::Failed(failure), _))) => {
            // The process itself may have told it better.
            let now = Duration::ZERO;
            match lifeline.receive_within::<Word>(now) {
                Ok(Some((Word::Failed(better), _))) => Err(better),
                _ => Err(failure),
            }
        }
        Ok(None) => Err(Failure::new(
            Stage::Namespaces,
            0,
            "the helper died of this container",
        )),
        Err(error) => Err(broken(&error)),
    }
}

fn make_streams(
    process: &SpecProcess,
    stdin: bool,
) -> Result<(Arc<Streams>, Option<ChildEnds>), Failure> {
    let failed = |e: StreamsError| Failure::of(Stage::Streams, 0, &e);
    if process.terminal() == Some(true) {
        return Ok((Arc::new(Streams::terminal(stdin).map_err(failed)?), None));
    }
    let (uid, gid) = (process.user().uid(), process.user().gid());
    let (streams, ends) = Streams::pipes(stdin, uid, gid).map_err(failed)?;
    Ok((Arc::new(streams), Some(ends)))
}

fn listen_for_terminal(base: &Base, is_wanted: bool) -> Result<Option<UnixListener>, Failure> {
    let listen = || UnixListener::bind(base.bundle().join(helper::CONSOLE_SOCKET));
    let listening = is_wanted.then(listen).transpose();
    listening.map_err(|e| Failure::of(Stage::Streams, e.raw_os_error().unwrap_or(0), &e))
}

/// The terminal's master has been sent before the process was reported: it is there.
fn take_terminal(
    process: &Process,
    socket: BorrowedFd<'_>,
    spec: &SpecProcess,
) -> Result<(), Failure> {
    let failed = |why: String| Failure::new(Stage::Streams, 0, format!("take the terminal: {why}"));
    let received = channel::receive_from(socket).map_err(|errno| failed(errno.to_string()))?;
    let master = received
        .and_then(|(_, fds)| fds.into_iter().next())
        .ok_or_else(|| failed("none was sent".into()))?;
    process
        .streams
        .set_terminal(&master)
        .map_err(|e| failed(chain(&e)))?;
    process.set_terminal(master);
    if let Some(size) = spec.console_size() {
        let side = |side: u64| u16::try_from(side).unwrap_or(u16::MAX);
        process
            .resize(side(size.width()), side(size.height()))
            .map_err(|e| failed(chain(&e)))?;
    }
    Ok(())
}

/// Before anything of the container is mounted over it, the root file system is the image's.
fn fill_volumes(request: &CreateRequest, rootfs: &Rootfs) -> Result<(), Failure> {
    for volume in &request.volumes {
        let path = GuestPath::writable(&volume.path)
            .map_err(|error| Failure::of(Stage::Mounts, error.errno(), &error))?;
        files::fill_volume(
            path.as_path(),
            rootfs,
            Path::new(&volume.target),
            volume.copy,
        )
        .map_err(|error| Failure::of(Stage::Mounts, 0, &error))?;
    }
    Ok(())
}

fn set_user(
    rootfs: &Rootfs,
    process: &mut SpecProcess,
    wanted: &str,
    group_add: &[String],
) -> Result<(), Failure> {
    let user = user::resolve(rootfs, wanted, group_add)
        .map_err(|error| Failure::of(Stage::User, 0, &error))?;
    spec::set_user(process, &user).map_err(|e| spec_failure(&e))
}

/// As runc, the working directory is made where the image has none. Where that fails, the chdir
/// will tell.
fn make_cwd(rootfs: &Rootfs, process: &SpecProcess) {
    let cwd: &Path = process.cwd();
    if cwd.is_absolute()
        && let Err(error) = rootfs.make_dir(cwd)
    {
        log::debug!("make the working directory: {}", chain(&error));
    }
}

pub fn write_file(file: &GuestFile) -> Result<GuestPath, Failure> {
    let failed = |error: PathError| Failure::of(Stage::Mounts, error.errno(), &error);
    let path = GuestPath::writable(&file.path).map_err(failed)?;
    let (parent, name) = path.make_parent().map_err(failed)?;
    let flags =
        OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode(file.mode & 0o777);
    let made = rustix::fs::openat(&parent, name, flags, mode).and_then(|fd| {
        // Whatever the mask of the process.
        rustix::fs::fchmod(&fd, mode)?;
        Ok(fd)
    });
    let fd = made.map_err(|source| {
        failed(PathError::Create {
            path: path.as_path().into(),
            source,
        })
    })?;
    fs::File::from(fd)
        .write_all(&file.content)
        .map_err(|error| {
            let errno = error.raw_os_error().unwrap_or(0);
            Failure::new(
                Stage::Mounts,
                errno,
                format!("write {}: {error}", file.path),
            )
        })?;
    Ok(path)
}

fn write_bundle(base: &Base, config: &[u8]) -> Result<(), Failure> {
    let dir = base.bundle();
    fs::create_dir_all(&dir)
        .and_then(|()| fs::write(dir.join("config.json"), config))
        .map_err(|error| {
            let errno = error.raw_os_error().unwrap_or(0);
            Failure::new(
                Stage::Spec,
                errno,
                format!("write {}: {error}", dir.display()),
            )
        })
}

fn spec_failure(error: &SpecError) -> Failure {
    Failure::of(Stage::Spec, 0, error)
}

fn cgroup_failure(error: &CgroupError) -> Failure {
    Failure::of(Stage::Cgroup, 0, error)
}
