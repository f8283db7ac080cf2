// SPDX-License-Identifier: Apache-2.0
//! `walnut exec`: one more process in a running container. The container's supervisor has no part
//! in it: this process talks to the machine's agent, and the streams are its own.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::Errno;
use walnut_protocol::agent::{
    DeleteRequest, ExecRequest, ResizePtyRequest, StartRequest, WaitRequest,
};
use walnut_protocol::{CallError, Client};

use super::{Known, VerbError, machine, refused};
use crate::cli::exec::ExecArgs;
use crate::container::{ContainerId, env};
use crate::paths::Paths;
use crate::record::Status;
use crate::run::keys::{self, Keys, Typed};
use crate::run::signals::{Caught, Signals};
use crate::run::stdio::{self, Sink};
use crate::run::terminal::{self, RawTerminal};
use crate::run::{RunError, detach_keys};
use crate::spec::exec::ExecProcess;
use crate::supervisor::process::{Streams, created, exit_code, started};
use crate::supervisor::shared::CALL_TIMEOUT;
use crate::vm;

/// Time for the agent to make a process, and to let it run.
const MAKE_TIMEOUT: Duration = Duration::from_secs(60);
/// A terminal's input comes a key at a time.
const BUFFER: usize = 4096;
/// Of a process whose container went away under it.
const CONTAINER_ENDED: u8 = 137;

pub fn exec(args: &ExecArgs, paths: &Paths) -> Result<u8, VerbError> {
    let Some((name, command)) = args.args.split_first() else {
        return refused("\"walnut exec\" requires at least 2 arguments");
    };
    if command.is_empty() && !args.vm {
        return refused("\"walnut exec\" requires at least 2 arguments");
    }
    if args.tty && args.interactive && !args.detach && !terminal::stdin_is_terminal() {
        return Err(RunError::NotATty.into());
    }
    let keys = detach_keys(args.detach_keys.as_deref())?;
    let known = Known::find(name, paths)?;
    known.must_run()?;
    if known.state.status == Status::Paused {
        return refused(format!(
            "Container {} is paused, unpause the container before exec",
            known.entry.id()
        ));
    }
    let vsock = known.config.container.vsock(paths);
    let command = match args.vm {
        true => machine::prepare(&known, paths, command)?,
        false => command.to_vec(),
    };
    let session = Session {
        agent: vm::agent(&vsock)?,
        container_id: known.entry.id().to_owned(),
        exec_id: ContainerId::random()
            .map_err(crate::container::ContainerError::Id)?
            .to_string(),
        args,
    };
    session.run(&known, &command, &vsock, keys)
}

struct Session<'a> {
    agent: Client,
    container_id: String,
    exec_id: String,
    args: &'a ExecArgs,
}

impl Session<'_> {
    fn run(
        &self,
        known: &Known,
        command: &[String],
        vsock: &Path,
        keys: Keys,
    ) -> Result<u8, VerbError> {
        let args = self.args;
        let container = &known.config.container;
        // Before any thread is made.
        let signals = if args.tty && !args.detach {
            Some(Signals::take_over()?)
        } else {
            None
        };
        let mut process = ExecProcess {
            args: command.to_vec(),
            env: env::requested(&args.env_file, &args.env)?,
            cwd: args.workdir.clone(),
            tty: args.tty,
            tty_size: terminal::size().filter(|_| args.tty),
            privileged: args.privileged || args.vm,
        };
        if args.vm {
            process.env.extend(machine::ENV.map(str::to_owned));
            process.cwd.get_or_insert_with(|| "/".to_owned());
        }
        let request = ExecRequest {
            container_id: self.container_id.clone(),
            exec_id: self.exec_id.clone(),
            process: process.generate(container)?,
            user: args.user.clone().unwrap_or_else(|| container.user.clone()),
            stdin: args.interactive && !args.detach,
            detached: args.detach,
            machine: args.vm,
            ..ExecRequest::default()
        };
        let token = created(self.agent.within(MAKE_TIMEOUT).exec(&request)?)?;
        let streams = if args.detach {
            None
        } else {
            Some(Streams::connect(vsock, &token, args.interactive, args.tty)?)
        };
        let start = StartRequest {
            container_id: self.container_id.clone(),
            exec_id: self.exec_id.clone(),
            ..StartRequest::default()
        };
        started(self.agent.within(MAKE_TIMEOUT).start(&start)?)?;
        let Some(streams) = streams else { return Ok(0) };
        match signals {
            Some(signals) => self.on_a_terminal(streams, &signals, keys),
            None => self.plain(streams),
        }
    }

    fn plain(&self, streams: Streams) -> Result<u8, VerbError> {
        let thread = |e| VerbError::Stdout(e);
        let mut outputs = vec![stdio::output(streams.stdout, Sink::Stdout).map_err(thread)?];
        if let Some(stderr) = streams.stderr {
            outputs.push(stdio::output(stderr, Sink::Stderr).map_err(thread)?);
        }
        if let Some(stdin) = streams.stdin {
            stdio::input(Arc::new(stdin)).map_err(VerbError::Stdin)?;
        }
        let code = wait(&self.agent, &self.container_id, &self.exec_id)?;
        for output in outputs {
            // A thread that panicked has said so.
            let _ = output.join();
        }
        self.delete();
        Ok(code)
    }

    fn on_a_terminal(
        &self,
        streams: Streams,
        signals: &Signals,
        keys: Keys,
    ) -> Result<u8, VerbError> {
        let raw = match streams.stdin {
            Some(_) => RawTerminal::enter().map_err(VerbError::Stdin)?,
            None => None,
        };
        let event = || eventfd(0, EventfdFlags::CLOEXEC).map_err(|e| VerbError::Stdin(e.into()));
        let (done, left) = (event()?, event()?);
        let output = stdio::output(streams.stdout, Sink::Stdout).map_err(VerbError::Stdout)?;
        if let Some(stdin) = streams.stdin {
            let left = left.try_clone().map_err(VerbError::Stdin)?;
            thread::spawn(move || type_in(&stdin, keys, &left));
        }
        let waiter = {
            let (agent, container_id) = (self.agent.clone(), self.container_id.clone());
            let exec_id = self.exec_id.clone();
            let done = done.try_clone().map_err(VerbError::Stdin)?;
            thread::spawn(move || {
                let code = wait(&agent, &container_id, &exec_id);
                tell(&done);
                code
            })
        };
        loop {
            let mut fds = [
                PollFd::new(&done, PollFlags::IN),
                PollFd::new(&left, PollFlags::IN),
                PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN),
            ];
            match poll(&mut fds, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(e) => return Err(VerbError::Stdin(e.into())),
            }
            let [is_done, has_left, has_signal] = fds.map(|fd| !fd.revents().is_empty());
            if is_done {
                break;
            }
            if has_left {
                return Ok(0);
            }
            while has_signal && let Some(caught) = signals.next()? {
                match caught {
                    Caught::Resize => self.resize(),
                    Caught::Signal(signal) => {
                        return Ok(u8::try_from(128 + signal as i32).unwrap_or(255));
                    }
                }
            }
        }
        let _ = output.join();
        drop(raw);
        let code = waiter.join().unwrap_or(Ok(CONTAINER_ENDED));
        self.delete();
        code
    }

    fn resize(&self) {
        let Some((width, height)) = terminal::size() else {
            return;
        };
        let request = ResizePtyRequest {
            container_id: self.container_id.clone(),
            exec_id: self.exec_id.clone(),
            width,
            height,
            ..ResizePtyRequest::default()
        };
        if let Err(e) = self.agent.within(CALL_TIMEOUT).resize_pty(&request) {
            log::debug!("resize the terminal: {e}");
        }
    }

    fn delete(&self) {
        let request = DeleteRequest {
            container_id: self.container_id.clone(),
            exec_id: self.exec_id.clone(),
            ..DeleteRequest::default()
        };
        if let Err(e) = self.agent.within(CALL_TIMEOUT).delete(&request) {
            log::debug!("forget the process: {e}");
        }
    }
}

fn wait(agent: &Client, container_id: &str, exec_id: &str) -> Result<u8, VerbError> {
    let request = WaitRequest {
        container_id: container_id.to_owned(),
        exec_id: exec_id.to_owned(),
        ..WaitRequest::default()
    };
    match agent.wait(&request) {
        Ok(ended) => Ok(exit_code(&ended)),
        // The machine went: so did the process.
        Err(CallError::Closed { .. } | CallError::Send { .. }) => Ok(CONTAINER_ENDED),
        Err(e) => Err(e.into()),
    }
}

/// A terminal's input, until the user leaves.
fn type_in(to: &UnixStream, keys: Keys, left: &impl AsFd) {
    match keys::read_stdin(keys, BUFFER, |bytes| {
        io::Write::write_all(&mut &*to, &bytes)
    }) {
        Typed::End => drop(to.shutdown(std::net::Shutdown::Write)),
        Typed::Left => tell(left),
        Typed::Refused => {}
    }
}

fn tell(event: &impl AsFd) {
    // It fails only where the counter is full: it is readable then, too.
    let _ = rustix::io::write(event, &1_u64.to_ne_bytes());
}
