// SPDX-License-Identifier: Apache-2.0
//! `walnut exec`: one more process in a running container. The container's supervisor has no part
//! in it: this process talks to the machine's agent, and the streams are its own.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use nix::sys::signal::Signal;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::Errno;
use walnut_protocol::CallError;
use walnut_protocol::agent::ExecRequest;

use super::{Known, VerbError, machine, refused};
use crate::cli::exec::ExecArgs;
use crate::container::env;
use crate::events::Event;
use crate::paths::Paths;
use crate::record::Status;
use crate::run::keys::{self, Keys, Typed};
use crate::run::signals::{self, Caught, Signals};
use crate::run::stdio::{self, Sink};
use crate::run::terminal::{self, RawTerminal};
use crate::run::{RunError, detach_keys};
use crate::spec::exec::ExecProcess;
use crate::supervisor::exec::{Exec, Handle};
use crate::supervisor::process::{Streams, exit_code};
use crate::times::Timestamp;
use crate::vm;

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
        known: &known,
        args,
        paths,
    };
    session.run(&command, &vsock, keys)
}

struct Session<'a> {
    known: &'a Known,
    args: &'a ExecArgs,
    paths: &'a Paths,
}

impl Session<'_> {
    fn run(&self, command: &[String], vsock: &Path, keys: Keys) -> Result<u8, VerbError> {
        let args = self.args;
        let container = &self.known.config.container;
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
            container_id: self.known.entry.id().to_owned(),
            process: process.generate(container)?,
            user: args.user.clone().unwrap_or_else(|| container.user.clone()),
            stdin: args.interactive && !args.detach,
            detached: args.detach,
            machine: args.vm,
            ..ExecRequest::default()
        };
        let begun = Timestamp::now();
        let (exec, streams) = Exec::begin(&vm::agent(vsock)?, vsock, request, args.tty)?;
        let line = command.join(" ");
        self.event(&exec, format!("exec_create: {line}"))
            .at(begun)
            .emit(self.paths);
        self.event(&exec, format!("exec_start: {line}"))
            .emit(self.paths);
        let Some(streams) = streams else { return Ok(0) };
        let ended = match signals {
            Some(signals) => on_a_terminal(&exec.handle, streams, &signals, keys)?,
            None => Ended::Exited(plain(&exec.handle, streams)?),
        };
        let (action, code) = match ended {
            Ended::Exited(code) => ("exec_die", code),
            Ended::Left(code) => ("exec_detach", code),
        };
        let event = self.event(&exec, action);
        match ended {
            Ended::Exited(code) => event.with("exitCode", code),
            Ended::Left(_) => event,
        }
        .emit(self.paths);
        Ok(code)
    }

    fn event(&self, exec: &Exec, action: impl Into<String>) -> Event {
        let event = Event::container(&self.known.entry, &self.known.config, action);
        event.with("execID", &exec.handle.exec_id)
    }
}

/// How this process's part of it ended, and its exit code.
#[derive(Clone, Copy)]
enum Ended {
    Exited(u8),
    /// The process goes on.
    Left(u8),
}

fn plain(process: &Handle, streams: Streams) -> Result<u8, VerbError> {
    let thread = |e| VerbError::Stdout(e);
    let mut outputs = vec![stdio::output(streams.stdout, Sink::Stdout).map_err(thread)?];
    if let Some(stderr) = streams.stderr {
        outputs.push(stdio::output(stderr, Sink::Stderr).map_err(thread)?);
    }
    if let Some(stdin) = streams.stdin {
        stdio::input(Arc::new(stdin)).map_err(VerbError::Stdin)?;
    }
    let code = wait(process)?;
    for output in outputs {
        // A thread that panicked has said so.
        let _ = output.join();
    }
    Ok(code)
}

fn on_a_terminal(
    process: &Handle,
    streams: Streams,
    signals: &Signals,
    keys: Keys,
) -> Result<Ended, VerbError> {
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
        let process = process.clone();
        let done = done.try_clone().map_err(VerbError::Stdin)?;
        thread::spawn(move || {
            let code = wait(&process);
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
            return Ok(Ended::Left(0));
        }
        while has_signal && let Some(caught) = signals.next()? {
            match caught {
                Caught::Resize => resize(process),
                Caught::Signal(Signal::SIGTSTP) => signals::stop()?,
                Caught::Signal(signal) => {
                    return Ok(Ended::Left(
                        u8::try_from(128 + signal as i32).unwrap_or(255),
                    ));
                }
            }
        }
    }
    let _ = output.join();
    drop(raw);
    Ok(Ended::Exited(waiter.join().unwrap_or(Ok(CONTAINER_ENDED))?))
}

fn resize(process: &Handle) {
    if let Some(size) = terminal::size()
        && let Err(e) = process.resize(size)
    {
        log::debug!("resize the terminal: {e}");
    }
}

fn wait(process: &Handle) -> Result<u8, VerbError> {
    match process.wait() {
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
