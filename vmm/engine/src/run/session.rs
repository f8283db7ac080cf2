// SPDX-License-Identifier: Apache-2.0
//! One container in one machine: create, start, pass bytes and signals on, wait, end.
//!
//! The main thread sleeps in poll(2) on signals, on the monitor's death and on the container's end.
//! Calls to the agent that may take long are other threads': a guest that hangs must not keep ^C
//! from working.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::signal::Signal;
use walnut_protocol::agent::{
    CreateRequest, CreateResponse, Empty, Failed, GuestFile, ResizePtyRequest, ShutdownRequest,
    Stage, StartRequest, WaitResponse, create_response, start_response, wait_response,
};
use walnut_protocol::stream::{Stdio, StreamHeader, Token};
use walnut_protocol::{CallError, Client, STDIO_PORT};

use super::calls::{Command, Commander, wait_in_background};
use super::signals::{Caught, Signals};
use super::stdio::{self, FIRST_BYTE_US, Sink};
use super::terminal::{self, RawTerminal};
use super::timings::{Timings, now_us};
use super::{RunError, signals};
use crate::container::Container;
use crate::spec;
use crate::storage::Layout;
use crate::vm::{Ready, Vm, VmError};

/// Time for the agent to make a container: image and disk are mounted meanwhile.
const CREATE_TIMEOUT: Duration = Duration::from_secs(60);
/// Time for the agent to answer what it need not work for.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for file systems to be written back.
const SYNC_TIMEOUT: Duration = Duration::from_secs(60);
/// As many ^C as end a container that ignores them (Docker's number).
const MAX_INTERRUPTS: u32 = 3;

pub(super) struct Session<'a> {
    container: &'a Container,
    create: CreateRequest,
    /// The guest may hold writes to the host's files. The shared directories' own never wait: they
    /// are written through, and mapped pages when the mapping goes. But who may mount can have put
    /// another file system on one of their files.
    must_sync: bool,
    has_disk: bool,
    vm: Vm,
    signals: Signals,
}

impl<'a> Session<'a> {
    /// Prepares the container while its machine boots.
    pub(super) fn new(
        container: &'a Container,
        layout: &Layout,
        vm: Vm,
        signals: Signals,
    ) -> Result<Self, RunError> {
        let files = spec::files::all(container).map(|(path, content)| GuestFile {
            path: path.to_owned(),
            mode: 0o644,
            content: content.into_bytes(),
            ..GuestFile::default()
        });
        let (seccomp_filter, seccomp_flags) = spec::seccomp_filter(container)?;
        let create = CreateRequest {
            container_id: container.id.to_string(),
            mounts: layout.mounts.clone(),
            files: files.to_vec(),
            spec: spec::generate(container, layout)?,
            user: container.user.clone(),
            group_add: container.group_add.clone(),
            stdin: container.interactive,
            seccomp_filter,
            seccomp_flags,
            sysctls: container.sysctls.clone(),
            ..CreateRequest::default()
        };
        let may_mount = container.security.capabilities.contains("CAP_SYS_ADMIN");
        Ok(Self {
            container,
            create,
            must_sync: may_mount && !layout.fs.is_empty(),
            has_disk: !layout.disks.is_empty(),
            vm,
            signals,
        })
    }

    pub(super) fn wait_ready(
        &mut self,
        timeout: Duration,
        timings: &mut Timings,
    ) -> Result<(), RunError> {
        loop {
            match self.vm.wait_ready(timeout, self.signals.as_fd())? {
                Ready::Interrupted => {
                    if let Some(signal) = self.ending_signal()? {
                        return Err(RunError::Interrupted(signal as i32));
                    }
                }
                Ready::Hello(hello) => {
                    let ready = now_us();
                    if hello.version != env!("CARGO_PKG_VERSION") {
                        log::warn!("the agent is of version {}, this is not", hello.version);
                    }
                    let reports = self.vm.reports();
                    let known = [
                        ("monitor exec", reports.started_us),
                        ("monitor", reports.running_us),
                    ];
                    for (phase, at) in known {
                        at.into_iter().for_each(|at| timings.mark_at(phase, at));
                    }
                    let agent = hello.ready_us.saturating_sub(hello.started_us);
                    timings.mark_at("kernel", ready.saturating_sub(agent));
                    timings.mark_at("agent", ready);
                    return Ok(());
                }
            }
        }
    }

    /// While there is no container yet, a signal is for this process.
    fn ending_signal(&self) -> Result<Option<Signal>, signals::SignalError> {
        let ends = |signal: &Signal| {
            matches!(
                signal,
                Signal::SIGINT | Signal::SIGTERM | Signal::SIGHUP | Signal::SIGQUIT
            )
        };
        while let Some(caught) = self.signals.next()? {
            if let Caught::Signal(signal) = caught
                && ends(&signal)
            {
                return Ok(Some(signal));
            }
        }
        Ok(None)
    }

    /// Creates, starts and sees the container through; its exit code.
    /// `begun` is told when it runs.
    pub(super) fn run(
        mut self,
        timings: &mut Timings,
        begun: impl FnOnce(),
    ) -> Result<u8, RunError> {
        let result = self.run_container(timings, begun);
        if result.is_err() {
            log::debug!("the end of the console:{}", self.vm.console_tail());
        }
        // A connection that broke is a machine that ended: say why, not what was noticed first.
        match result {
            Err(RunError::Call(CallError::Closed { .. } | CallError::Send { .. })) => {
                Err(self.vm.ended("its container ran").into())
            }
            Err(RunError::Vm(VmError::Connect { .. })) if self.vm.wait_end(Duration::ZERO) => {
                Err(self.vm.ended("its container was made").into())
            }
            other => other,
        }
    }

    fn run_container(
        &mut self,
        timings: &mut Timings,
        begun: impl FnOnce(),
    ) -> Result<u8, RunError> {
        let agent = self.vm.agent()?;
        let token = created(agent.within(CREATE_TIMEOUT).create(&self.create)?)?;
        timings.mark("create");
        let streams = self.connect_streams(&token)?;
        // Without its input, a terminal's ^C is still a signal for this process.
        let raw = if self.container.tty && self.container.interactive {
            RawTerminal::enter().map_err(RunError::Terminal)?
        } else {
            None
        };
        if self.container.tty {
            self.resize(&agent.within(CALL_TIMEOUT));
        }
        let start = StartRequest {
            container_id: self.container.id.to_string(),
            ..StartRequest::default()
        };
        started(agent.within(CREATE_TIMEOUT).start(&start)?)?;
        timings.mark("start");
        let outputs = streams.pump().map_err(RunError::Streams)?;
        begun();
        let ended = self.wait(&agent)?;
        for output in outputs {
            // A thread that panicked has said so.
            let _ = output.join();
        }
        drop(raw);
        if let Some(first) = FIRST_BYTE_US.get() {
            timings.mark_at("first byte", *first);
        }
        timings.mark("exit");
        self.finish(&agent)?;
        timings.mark("end");
        Ok(self.exit_code(&ended))
    }

    /// All of a process's streams must be there before it starts.
    fn connect_streams(&self, token: &Token) -> Result<Streams, RunError> {
        let connect = |fd| -> Result<UnixStream, RunError> {
            let mut stream = self.vm.connect(STDIO_PORT)?;
            StreamHeader { token: *token, fd }
                .write(&mut stream)
                .map_err(|e| RunError::Streams(std::io::Error::other(e)))?;
            Ok(stream)
        };
        let stdin = self
            .container
            .interactive
            .then(|| connect(Stdio::Stdin))
            .transpose()?;
        let stdout = connect(Stdio::Stdout)?;
        let stderr = (!self.container.tty)
            .then(|| connect(Stdio::Stderr))
            .transpose()?;
        Ok(Streams {
            stdin,
            stdout,
            stderr,
        })
    }

    fn resize(&self, agent: &Client) {
        let Some((width, height)) = terminal::size() else {
            return;
        };
        let request = ResizePtyRequest {
            container_id: self.container.id.to_string(),
            width,
            height,
            ..ResizePtyRequest::default()
        };
        if let Err(e) = agent.resize_pty(&request) {
            log::debug!("resize the terminal: {e}");
        }
    }

    /// Until the container's first process has ended.
    fn wait(&mut self, agent: &Client) -> Result<WaitResponse, RunError> {
        let (done, waiter) = wait_in_background(agent.clone(), self.container.id.to_string())
            .map_err(RunError::Streams)?;
        let mut interrupts = 0;
        let mut commander =
            Commander::new(agent.within(CALL_TIMEOUT), self.container.id.to_string());
        loop {
            let events = self.vm.poll(&[done.as_fd(), self.signals.as_fd()])?;
            if events.ready[0] {
                return match waiter.recv() {
                    Ok(answer) => Ok(answer?),
                    Err(_) => Err(RunError::EmptyAnswer("Wait")),
                };
            }
            if events.dead {
                return Err(self.vm.ended("its container ran").into());
            }
            while let Some(caught) = self.signals.next()? {
                self.pass_on(caught, &mut interrupts, &mut commander)?;
            }
        }
    }

    /// With a terminal, ^C comes as a byte, and a signal means this process: its container goes too.
    fn pass_on(
        &self,
        caught: Caught,
        interrupts: &mut u32,
        commander: &mut Commander,
    ) -> Result<(), RunError> {
        let command = match caught {
            Caught::Resize if self.container.tty => match terminal::size() {
                Some((width, height)) => Command::Resize(width, height),
                None => return Ok(()),
            },
            Caught::Resize => return Ok(()),
            Caught::Signal(signal) if self.container.tty => {
                return Err(RunError::Interrupted(signal as i32));
            }
            Caught::Signal(signal) => {
                if matches!(signal, Signal::SIGINT | Signal::SIGTERM) {
                    *interrupts += 1;
                }
                if *interrupts >= MAX_INTERRUPTS {
                    return Err(RunError::Interrupted(signal as i32));
                }
                Command::Kill(signal as u32)
            }
        };
        commander.tell(command);
        Ok(())
    }

    /// What outlives the machine is written back; the rest of it just goes.
    fn finish(&mut self, agent: &Client) -> Result<(), RunError> {
        let agent = agent.within(SYNC_TIMEOUT);
        if self.has_disk {
            agent.shutdown(&ShutdownRequest::default())?;
            self.vm.wait_end(SYNC_TIMEOUT);
        } else if self.must_sync {
            agent.sync(&Empty::default())?;
        }
        Ok(())
    }

    fn exit_code(&self, ended: &WaitResponse) -> u8 {
        if ended.oom_killed {
            let limit = self.container.limits.memory.map_or_else(
                || {
                    format!(
                        "{} MiB of its machine",
                        self.container.limits.machine_memory_mib()
                    )
                },
                |limit| format!("--memory {}", crate::units::human_size(limit)),
            );
            log::warn!("the container ran out of memory ({limit}): a process was killed");
        }
        match ended.how {
            Some(wait_response::How::Exited(code)) => u8::try_from(code).unwrap_or(255),
            Some(wait_response::How::Signaled(signal)) => {
                u8::try_from(128 + signal.min(127)).unwrap_or(255)
            }
            _ => 255,
        }
    }
}

struct Streams {
    stdin: Option<UnixStream>,
    stdout: UnixStream,
    stderr: Option<UnixStream>,
}

impl Streams {
    /// The threads to wait for: output's.
    fn pump(self) -> std::io::Result<Vec<JoinHandle<()>>> {
        let mut outputs = vec![stdio::output(self.stdout, Sink::Stdout)?];
        if let Some(stderr) = self.stderr {
            outputs.push(stdio::output(stderr, Sink::Stderr)?);
        }
        if let Some(stdin) = self.stdin {
            stdio::input(stdin)?;
        }
        Ok(outputs)
    }
}

fn created(response: CreateResponse) -> Result<Token, RunError> {
    match response.result {
        Some(create_response::Result::Token(token)) => Token::try_from(token.as_slice())
            .map_err(|e| RunError::Streams(std::io::Error::other(e))),
        Some(create_response::Result::Failed(failed)) => Err(failure(&failed)),
        _ => Err(RunError::EmptyAnswer("Create")),
    }
}

fn started(response: walnut_protocol::agent::StartResponse) -> Result<(), RunError> {
    match response.result {
        Some(start_response::Result::Pid(_)) => Ok(()),
        Some(start_response::Result::Failed(failed)) => Err(failure(&failed)),
        _ => Err(RunError::EmptyAnswer("Start")),
    }
}

/// Docker's codes for a command that can't be found (127) or not be invoked (126).
fn failure(failed: &Failed) -> RunError {
    const ENOENT: i32 = 2;
    let exit_code = match (failed.stage.enum_value(), failed.errno) {
        (Ok(Stage::EXEC), ENOENT) => 127,
        (Ok(Stage::EXEC), _) => 126,
        _ => 125,
    };
    RunError::Failed {
        message: failed.message.clone(),
        exit_code,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_of_a_command_that_never_ran() {
        let code = |stage: Stage, errno| {
            let failed = Failed {
                stage: stage.into(),
                errno,
                ..Failed::default()
            };
            failure(&failed).exit_code()
        };
        assert_eq!(code(Stage::EXEC, 2), 127);
        assert_eq!(code(Stage::EXEC, 13), 126);
        assert_eq!(code(Stage::EXEC, 8), 126);
        assert_eq!(code(Stage::ROOTFS, 2), 125);
    }
}
