// SPDX-License-Identifier: Apache-2.0
//! A job's process that makes a container: libcontainer, but for the last step, which is ours:
//! rights and exec.

use std::os::fd::OwnedFd;
use std::rc::Rc;

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::error::LibcontainerError;
use libcontainer::process::channel::ChannelError as StepError;
use libcontainer::process::container_main_process::ProcessError;
use libcontainer::syscall::syscall::SyscallType;
use libcontainer::workload::{
    Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError,
};
use oci_spec::runtime::{Process, Spec};
use rustix::io::Errno;

use super::capture::Account;
use super::{CONSOLE_SOCKET, CreateJob, Report, Stdio, Word};
use crate::channel::Channel;
use crate::failure::{Failure, Stage, chain};
use crate::init;
use crate::launcher::Program;
use crate::security::Rights;
use crate::sysctl::SysctlError;

/// libcontainer's listening socket below [`crate::STATE_DIR`] and the container's name: a
/// connection to it lets the container's first process exec.
pub const NOTIFY_SOCKET: &str = libcontainer::notify_socket::NOTIFY_FILE;

/// Does the job and reports; the agent's answer ends it.
pub(super) fn run(job: &CreateJob, fds: Vec<OwnedFd>) {
    let mut fds = fds.into_iter();
    let (Some(control), Some(lifeline)) = (fds.next(), fds.next()) else {
        return;
    };
    let control = Channel::from_fd(control);
    let report = match make(job, Channel::from_fd(lifeline), fds) {
        Ok(pid) => Report::Made { pid },
        Err(failure) => Report::Failed(failure),
    };
    // Without the agent there is nobody to tell, and nothing to wait for.
    let _ = control.send(&report, &[]);
    let _ = control.receive_bytes();
}

fn make(
    job: &CreateJob,
    lifeline: Channel,
    stdio: impl Iterator<Item = OwnedFd>,
) -> Result<i32, Failure> {
    let mut account = Account::start().map_err(|error| Failure::of(Stage::Spec, 0, &error))?;
    let rights = Rights::new(job.capabilities, &job.bundle)?;
    let launch = Launch {
        lifeline: Rc::new(lifeline),
        rights: Rc::new(rights),
        init: job.init,
    };
    build(job, launch, stdio).map_err(|error| failure(&error, &account.lines()))
}

fn build(
    job: &CreateJob,
    launch: Launch,
    mut stdio: impl Iterator<Item = OwnedFd>,
) -> Result<i32, LibcontainerError> {
    let mut builder = ContainerBuilder::new(job.name.clone(), SyscallType::default())
        .with_root_path(crate::STATE_DIR)?
        .with_executor(launch);
    match job.stdio {
        Stdio::Terminal => {
            builder = builder.with_console_socket(Some(job.bundle.join(CONSOLE_SOCKET)));
        }
        Stdio::Pipes => {
            builder.stdin = stdio.next();
            builder.stdout = stdio.next();
            builder.stderr = stdio.next();
        }
    }
    let container = builder
        .as_init(&job.bundle)
        .with_systemd(false)
        .with_detach(true)
        .build()?;
    container
        .pid()
        .map(nix_pid)
        .ok_or_else(|| LibcontainerError::Other("the container has no process".into()))
}

/// libcontainer's pid type is of a nix of its own.
fn nix_pid(pid: impl std::fmt::Display) -> i32 {
    pid.to_string().parse().unwrap_or(-1)
}

/// Our last step in libcontainer's order: after root and user.
#[derive(Clone)]
struct Launch {
    lifeline: Rc<Channel>,
    rights: Rc<Rights>,
    init: bool,
}

impl Launch {
    fn find(&self, spec: &Spec) -> Result<Program, Failure> {
        let missing = || Failure::new(Stage::Spec, 0, "no command specified");
        let process: &Process = spec.process().as_ref().ok_or_else(missing)?;
        self.rights.looking(|| {
            let program = Program::find(process)?;
            if !self.init {
                program.check_first()?;
            }
            Ok(program)
        })
    }

    fn tell(&self, failure: Failure) -> String {
        let message = failure.message.clone();
        let _ = self.lifeline.send(&Word::Failed(failure), &[]);
        message
    }
}

impl Executor for Launch {
    /// Before the container counts as made: a program that isn't there fails here.
    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        self.find(spec)
            .map(drop)
            .map_err(|failure| ExecutorValidationError::ArgValidationError(self.tell(failure)))
    }

    /// The environment goes with execve: this process needs none.
    fn setup_envs(
        &self,
        _: std::collections::HashMap<String, String>,
    ) -> Result<(), ExecutorSetEnvsError> {
        Ok(())
    }

    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let ready = self.find(spec).and_then(|program| {
            self.rights.apply()?;
            if self.init {
                init::split()?;
            }
            Ok(program)
        });
        let failure = match ready {
            Ok(program) => program.exec(),
            Err(failure) => failure,
        };
        Err(ExecutorError::Other(self.tell(failure)))
    }
}

/// libcontainer's error and account as one failure. `lines` is innermost first.
fn failure(error: &LibcontainerError, lines: &[String]) -> Failure {
    let innermost = lines.first().map_or("", String::as_str);
    if let Some(failure) = refused_sysctl(innermost) {
        return failure;
    }
    let summary = summary(error);
    let message = if innermost.is_empty() || summary.contains(innermost) {
        summary.clone()
    } else {
        format!("{summary}: {innermost}")
    };
    let said = format!("{message} {}", lines.join(" ")).to_lowercase();
    Failure {
        stage: stage(error, &said),
        errno: errno(&message),
        message,
    }
}

/// `failed to set sysctl NAME=VALUE: … (os error N)`, in the words that the machine's have.
fn refused_sysctl(line: &str) -> Option<Failure> {
    let (name, rest) = line
        .strip_prefix("failed to set sysctl ")?
        .split_once('=')?;
    let (_, number) = rest.rsplit_once("(os error ")?;
    let errno = Errno::from_raw_os_error(number.strip_suffix(')')?.parse().ok()?);
    let error = SysctlError::refused(name, errno);
    Some(Failure::of(Stage::Spec, error.errno(), &error))
}

/// The step's own words, out of their wrapping.
fn summary(error: &LibcontainerError) -> String {
    let text = chain(error);
    let wrapping = [
        "failed to create container: ",
        "exec process failed with error ",
        "intermediate process error ",
    ];
    wrapping
        .iter()
        .fold(text.as_str(), |text, prefix| {
            text.strip_prefix(prefix).unwrap_or(text)
        })
        .into()
}

fn stage(error: &LibcontainerError, said: &str) -> Stage {
    match error {
        LibcontainerError::MissingSpec(_)
        | LibcontainerError::InvalidSpec(_)
        | LibcontainerError::InvalidInput(_)
        | LibcontainerError::Spec(_) => return Stage::Spec,
        LibcontainerError::MainProcess(ProcessError::Channel(StepError::OtherError(_))) => {
            return if said.contains("cgroup") {
                Stage::Cgroup
            } else {
                Stage::Namespaces
            };
        }
        _ => {}
    }
    let by_word = [
        ("chdir", Stage::WorkingDir),
        ("cwd", Stage::WorkingDir),
        ("seccomp", Stage::Security),
        ("capabilit", Stage::Security),
        ("privileges", Stage::Security),
        ("uid and gid", Stage::User),
        ("supplementary", Stage::User),
        ("rootfs", Stage::Rootfs),
        ("mount", Stage::Rootfs),
        ("pivot", Stage::Rootfs),
        ("root", Stage::Rootfs),
        ("tty", Stage::Streams),
        ("namespace", Stage::Namespaces),
        ("hostname", Stage::Namespaces),
        ("cgroup", Stage::Cgroup),
    ];
    by_word
        .iter()
        .find(|(word, _)| said.contains(word))
        .map_or(Stage::Spec, |(_, stage)| *stage)
}

/// The error number that the text names, as nix (`ENOENT`) or std (`code: 2`) print it.
fn errno(text: &str) -> i32 {
    let words = || text.split(|c: char| !c.is_ascii_alphanumeric());
    let after_code = words()
        .skip_while(|word| *word != "code")
        .filter(|word| !word.is_empty())
        .nth(1);
    if let Some(number) = after_code.and_then(|word| word.parse().ok()) {
        return number;
    }
    let name = words()
        .find(|word| word.len() > 2 && word.starts_with('E') && *word == word.to_uppercase());
    let Some(name) = name else { return 0 };
    (1..134)
        .find(|number| format!("{:?}", nix::errno::Errno::from_raw(*number)) == name)
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_numbers_in_text() {
        assert_eq!(errno("failed to mount err=Nix(ENOENT)"), libc::ENOENT);
        assert_eq!(
            errno(r#"failed err=Io(Os { code: 30, kind: ReadOnly, message: "x" })"#),
            30
        );
        assert_eq!(errno("Every word"), 0);
        assert_eq!(errno("EXTRAORDINARY"), 0);
    }

    #[test]
    fn stages() {
        let init = |text: &str| {
            LibcontainerError::MainProcess(ProcessError::Channel(StepError::ExecError(text.into())))
        };
        let made = failure(
            &init("failed to unix syscall"),
            &["failed to chdir e=ENOENT".into()],
        );
        assert_eq!(made.stage, Stage::WorkingDir);
        assert_eq!(made.errno, libc::ENOENT);
        assert_eq!(
            made.message,
            "failed to unix syscall: failed to chdir e=ENOENT"
        );
        let line = "failed to set sysctl kernel.sem=a=b: Invalid argument (os error 22)";
        let made = failure(&init("failed to set sysctl"), &[line.into()]);
        assert_eq!(made.message, "write /proc/sys/kernel/sem: invalid argument");
        assert_eq!((made.stage, made.errno), (Stage::Spec, libc::EINVAL));
        let intermediate = LibcontainerError::MainProcess(ProcessError::Channel(
            StepError::OtherError("cgroup error: x".into()),
        ));
        assert_eq!(failure(&intermediate, &[]).stage, Stage::Cgroup);
    }
}
