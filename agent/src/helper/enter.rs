// SPDX-License-Identifier: Apache-2.0
//! A job's process that runs one more program in a container.
//!
//! libcontainer can do this too, but leaves the container's seccomp filter out of it, takes three
//! processes more, and tells no reason. The pieces here are libcontainer's own (users, limits,
//! terminal), in the order in which it applies them to a container's first process.

#![expect(
    unsafe_code,
    reason = "fork, and descriptors that libcontainer takes by number"
)]

use std::fs;
use std::os::fd::{AsFd, IntoRawFd, OwnedFd};
use std::path::Path;

use libcontainer::syscall::Syscall;
use libcontainer::syscall::syscall::create_syscall;
use libcontainer::tty;
use nix::unistd::{ForkResult, fork};
use oci_spec::runtime::Process;
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Pid, PidfdFlags};
use rustix::thread::ThreadNameSpaceType;

use super::{EnterJob, Report, Stdio, Word};
use crate::cgroup::Cgroup;
use crate::channel::Channel;
use crate::failure::{Failure, Stage, chain};
use crate::launcher::Program;
use crate::security::{Rights, Sets};

/// Does the job and reports; the agent's answer ends it.
pub(super) fn run(job: &EnterJob, fds: Vec<OwnedFd>) {
    let mut fds = fds.into_iter();
    let (Some(control), Some(lifeline)) = (fds.next(), fds.next()) else {
        return;
    };
    let control = Channel::from_fd(control);
    let lifeline = Channel::from_fd(lifeline);
    let report = match enter(job) {
        // SAFETY: a job's process has one thread.
        Ok(plan) => match unsafe { fork() } {
            Ok(ForkResult::Child) => {
                drop(control);
                become_program(&plan, &lifeline, fds);
                std::process::exit(255)
            }
            Ok(ForkResult::Parent { child }) => Report::Made {
                pid: child.as_raw(),
            },
            Err(error) => Report::Failed(Failure::new(
                Stage::Namespaces,
                error as i32,
                format!("fork in the container: {error}"),
            )),
        },
        Err(failure) => Report::Failed(failure),
    };
    drop(lifeline);
    let _ = control.send(&report, &[]);
    let _ = control.receive_bytes();
}

/// What the new process is to be.
struct Plan {
    process: Process,
    rights: Rights,
    stdio: Stdio,
}

/// Joins the container's control group and namespaces; a child of this process is in all of them.
fn enter(job: &EnterJob) -> Result<Plan, Failure> {
    let process: Process = serde_json::from_str(&job.process)
        .map_err(|error| Failure::new(Stage::Spec, 0, format!("the process: {error}")))?;
    let rights = Rights::new(process.capabilities().as_ref().map(Sets::from), &job.bundle)?;
    if let Some(adjustment) = process.oom_score_adj() {
        write(
            Stage::Security,
            Path::new("/proc/self/oom_score_adj"),
            &adjustment.to_string(),
        )?;
    }
    join_group(job)?;
    // Nothing in the container may look into this process while it has one foot outside.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|errno| failed(Stage::Security, "become undumpable", errno))?;
    let namespaces = |errno| failed(Stage::Namespaces, "enter the container's namespaces", errno);
    let init = Pid::from_raw(job.init_pid).ok_or_else(|| namespaces(Errno::SRCH))?;
    let init = rustix::process::pidfd_open(init, PidfdFlags::empty()).map_err(namespaces)?;
    let of_its_own = ThreadNameSpaceType::from_bits_retain(job.namespaces);
    // Those of a process of the machine's are the machine's.
    if of_its_own.is_empty() {
        return Ok(Plan {
            process,
            rights,
            stdio: job.stdio,
        });
    }
    rustix::thread::move_into_thread_name_spaces(init.as_fd(), of_its_own).map_err(namespaces)?;
    Ok(Plan {
        process,
        rights,
        stdio: job.stdio,
    })
}

/// A group with groups below it holds no process (cgroup-v2.rst, "No Internal Process Constraint"):
/// where the container has made some, its first process is in one of them.
fn join_group(job: &EnterJob) -> Result<(), Failure> {
    match write(Stage::Cgroup, &job.cgroup_procs, "0") {
        Err(failure) if failure.errno == Errno::BUSY.raw_os_error() => {
            let group = Cgroup::procs_path_of(job.init_pid).ok_or(failure)?;
            write(Stage::Cgroup, &group, "0")
        }
        joined => joined,
    }
}

fn become_program(plan: &Plan, lifeline: &Channel, stdio: impl Iterator<Item = OwnedFd>) {
    let find = || plan.rights.looking(|| Program::find(&plan.process));
    let failure = match prepare(plan, stdio).and_then(|()| find()) {
        Ok(program) => {
            let _ = lifeline.send(&Word::Ready, &[]);
            match lifeline.receive::<Word>() {
                Ok(Some((Word::Start, _))) => {}
                _ => return,
            }
            match plan.rights.apply() {
                Ok(()) => program.exec(),
                Err(failure) => failure,
            }
        }
        Err(failure) => failure,
    };
    let _ = lifeline.send(&Word::Failed(failure), &[]);
}

/// Everything between the fork and the exec, in libcontainer's order.
fn prepare(plan: &Plan, stdio: impl Iterator<Item = OwnedFd>) -> Result<(), Failure> {
    let syscall = create_syscall();
    let process = &plan.process;
    rustix::process::setsid().map_err(|errno| failed(Stage::Security, "setsid", errno))?;
    connect_stdio(plan.stdio, stdio, syscall.as_ref())?;
    for rlimit in process.rlimits().iter().flatten() {
        syscall
            .set_rlimit(rlimit)
            .map_err(|e| Failure::of(Stage::Security, 0, &e))?;
    }
    if process.no_new_privileges() == Some(true) {
        rustix::thread::set_no_new_privs(true)
            .map_err(|errno| failed(Stage::Security, "set no_new_privs", errno))?;
    }
    if let Some(umask) = process.user().umask() {
        rustix::process::umask(Mode::from_raw_mode(umask & 0o777));
    }
    let chdir = || {
        rustix::process::chdir(process.cwd()).map_err(|errno| {
            let cwd = process.cwd().display();
            failed(Stage::WorkingDir, &format!("chdir to cwd ({cwd:?})"), errno)
        })
    };
    // Before the user, who may not be allowed in; where root is not (a file system that squashes
    // it), after.
    let later = match chdir() {
        Err(failure) if failure.errno == libc::EPERM || failure.errno == libc::EACCES => true,
        Err(failure) => return Err(failure),
        Ok(()) => false,
    };
    let gids = process.user().additional_gids().clone().unwrap_or_default();
    let gids: Vec<_> = gids.into_iter().map(Into::into).collect();
    syscall
        .set_groups(&gids)
        .map_err(|e| Failure::of(Stage::User, 0, &e))?;
    let (uid, gid) = (process.user().uid(), process.user().gid());
    syscall
        .set_id(uid.into(), gid.into())
        .map_err(|e| Failure::of(Stage::User, 0, &e))?;
    syscall
        .close_range(0)
        .map_err(|e| Failure::of(Stage::Streams, 0, &e))?;
    if later {
        chdir()?;
    }
    Ok(())
}

fn connect_stdio(
    stdio: Stdio,
    mut fds: impl Iterator<Item = OwnedFd>,
    syscall: &dyn Syscall,
) -> Result<(), Failure> {
    let missing = || Failure::new(Stage::Streams, 0, "a stream's descriptor is missing");
    let failed = |errno| failed(Stage::Streams, "connect the streams", errno);
    match stdio {
        Stdio::Terminal => {
            let socket = fds.next().ok_or_else(missing)?;
            // It closes the descriptor itself.
            tty::setup_console(syscall, socket.into_raw_fd(), false)
                .map_err(|error| Failure::new(Stage::Streams, 0, chain(&error)))
        }
        Stdio::Pipes => {
            rustix::stdio::dup2_stdin(fds.next().ok_or_else(missing)?).map_err(failed)?;
            rustix::stdio::dup2_stdout(fds.next().ok_or_else(missing)?).map_err(failed)?;
            rustix::stdio::dup2_stderr(fds.next().ok_or_else(missing)?).map_err(failed)
        }
    }
}

fn write(stage: Stage, path: &Path, value: &str) -> Result<(), Failure> {
    fs::write(path, value).map_err(|error| {
        let errno = error.raw_os_error().unwrap_or(0);
        Failure::new(
            stage,
            errno,
            format!("write {value} to {}: {error}", path.display()),
        )
    })
}

fn failed(stage: Stage, what: &str, errno: Errno) -> Failure {
    Failure::new(stage, errno.raw_os_error(), format!("{what}: {errno}"))
}
