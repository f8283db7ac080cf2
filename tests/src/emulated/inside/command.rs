// SPDX-License-Identifier: Apache-2.0
//! The one command, and the threads that carry its streams.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, Stdio};
use std::thread::{self, JoinHandle};

use rustix::process::Pid;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use super::ports::Ports;
use super::{InsideError, os, processes};
use crate::emulated::wire::{self, Request, Size, ToInside};

/// A started command.
pub(super) struct Running {
    pid: Pid,
    terminal: Option<File>,
    /// Threads that return how many bytes they carried: stdout, stderr.
    carriers: [Option<JoinHandle<u64>>; 2],
}

impl Running {
    pub(super) fn start(request: &Request, ports: &Ports) -> Result<Self, InsideError> {
        let argv: Vec<_> = request.argv.iter().map(|word| os(word)).collect();
        let program = argv
            .first()
            .map_or_else(String::new, |word| word.to_string_lossy().into());
        let failed = |source| InsideError::Spawn {
            program: program.clone(),
            source,
        };
        let [stdin, stdout, stderr] =
            [&ports.stdin, &ports.stdout, &ports.stderr].map(|port| port.try_clone());
        let streams = (
            stdin.map_err(failed)?,
            stdout.map_err(failed)?,
            stderr.map_err(failed)?,
        );
        match request.terminal {
            None => plain(request, &argv, streams).map_err(failed),
            Some(size) => on_terminal(request, &argv, size, streams).map_err(failed),
        }
    }

    /// Obeys the outside from now on.
    pub(super) fn follow(&self, mut control: BufReader<File>) {
        let Some(terminal) = self
            .terminal
            .as_ref()
            .and_then(|file| file.try_clone().ok())
        else {
            return;
        };
        thread::spawn(move || {
            while let Ok(Some(ToInside::Resize(size))) = wire::receive(&mut control) {
                // It fails when the command is gone, and then nobody minds.
                let _ = tcsetwinsize(&terminal, winsize(size));
            }
        });
    }

    pub(super) fn wait(&self) -> io::Result<u8> {
        processes::wait_for(self.pid)
    }

    /// What was written to stdout and stderr in all, once both have ended.
    pub(super) fn drain(&mut self) -> [u64; 2] {
        self.carriers.each_mut().map(|carrier| {
            carrier
                .take()
                .map_or(0, |thread| thread.join().expect("carriers don't panic"))
        })
    }
}

type Streams = (File, File, File);

fn command(argv: &[&std::ffi::OsStr], request: &Request) -> Command {
    let (program, arguments) = argv
        .split_first()
        .map_or_else(Default::default, |(a, b)| (*a, b));
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .current_dir(os(&request.cwd));
    for (name, value) in &request.env {
        command.env(os(name), os(value));
    }
    command.env("WALNUT_EMULATED_HOST", "1");
    command
}

fn plain(request: &Request, argv: &[&std::ffi::OsStr], streams: Streams) -> io::Result<Running> {
    let mut child = command(argv, request)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let (from_outside, stdout, stderr) = streams;
    if let Some(stdin) = child.stdin.take() {
        let to = File::from(OwnedFd::from(stdin));
        thread::spawn(move || carry(from_outside, to));
    }
    let stdout = child
        .stdout
        .take()
        .map(|from| thread::spawn(move || carry(from, stdout)));
    let stderr = child
        .stderr
        .take()
        .map(|from| thread::spawn(move || carry(from, stderr)));
    Ok(Running {
        pid: Pid::from_child(&child),
        terminal: None,
        carriers: [stdout, stderr],
    })
}

fn on_terminal(
    request: &Request,
    argv: &[&std::ffi::OsStr],
    size: Size,
    streams: Streams,
) -> io::Result<Running> {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let name = ptsname(&master, Vec::new())?;
    let path = os(name.as_bytes());
    let slave: OwnedFd = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .map(Into::into)?;
    tcsetwinsize(slave.as_fd(), winsize(size))?;
    let master = File::from(master);
    // setsid -c makes stdin its controlling terminal.
    let mut whole: Vec<&std::ffi::OsStr> = vec!["setsid".as_ref(), "-c".as_ref(), "--".as_ref()];
    whole.extend(argv);
    let child = command(&whole, request)
        .stdin(slave.try_clone()?)
        .stdout(slave.try_clone()?)
        .stderr(slave)
        .spawn()?;
    let (from_outside, to_outside, _) = streams;
    let (to, from) = (master.try_clone()?, master.try_clone()?);
    thread::spawn(move || carry(from_outside, to));
    let stdout = thread::spawn(move || carry(from, to_outside));
    Ok(Running {
        pid: Pid::from_child(&child),
        terminal: Some(master),
        carriers: [Some(stdout), None],
    })
}

fn winsize(size: Size) -> Winsize {
    Winsize {
        ws_row: size.rows,
        ws_col: size.columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

/// Copies until either side ends (a terminal's end is EIO) and says how much arrived.
fn carry(mut from: impl Read, mut to: impl Write) -> u64 {
    let mut buffer = vec![0; 32 << 10];
    let mut carried = 0;
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        if to.write_all(buffer.get(..n).unwrap_or_default()).is_err() {
            break;
        }
        carried += n as u64;
    }
    carried
}
