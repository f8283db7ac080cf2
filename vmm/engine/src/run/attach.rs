// SPDX-License-Identifier: Apache-2.0
//! A user in front of a container that another process runs: what is typed goes there, what it
//! writes comes here, until it ends or the user leaves it.
//!
//! The main thread reads the connection and signals; standard input has a thread of its own, so
//! that a container which doesn't read can still be seen.

use std::io;
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use nix::sys::signal::Signal;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use thiserror::Error;

use super::keys::{self, Keys, Typed};
use super::signals::{self, Caught, SignalError, Signals};
use super::stdio::Sink;
use super::terminal::{self, RawTerminal};
use crate::supervisor::wire::{Frame, Reply, WireError};

const BUFFER: usize = 64 << 10;
/// Time for the supervisor's process to be gone after its last word.
const GONE_TIMEOUT: Timespec = Timespec {
    tv_sec: 5,
    tv_nsec: 0,
};

#[derive(Debug, Error)]
pub enum AttachError {
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error(transparent)]
    Signal(#[from] SignalError),
    #[error("set the terminal up")]
    Terminal(#[source] io::Error),
    #[error("wait for the container")]
    Poll(#[source] Errno),
    #[error("start a thread")]
    Thread(#[source] io::Error),
    #[error("{message}")]
    Refused { message: String, code: u8 },
}

/// What the user has in front of them.
#[derive(Debug)]
pub struct Seat<'a> {
    pub tty: bool,
    pub stdin: bool,
    /// What leaves the container running; none without a terminal.
    pub detach_keys: Keys,
    /// Passes a signal on, if signals are the container's.
    pub signal: Option<&'a dyn SendSignal>,
}

pub trait SendSignal: std::fmt::Debug {
    fn send(&self, signal: u32);
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Exited(i32),
    /// The user left.
    Detached,
    /// A signal ended this process's part.
    Signaled(i32),
}

struct Session<'a> {
    connection: UnixStream,
    writer: Arc<Mutex<UnixStream>>,
    left: Arc<AtomicBool>,
    signals: &'a Signals,
    seat: &'a Seat<'a>,
}

/// `started` is called once the container runs, if that is still to come.
pub fn attach(
    connection: UnixStream,
    signals: &Signals,
    seat: &Seat<'_>,
    started: impl FnOnce(),
) -> Result<End, AttachError> {
    let writer = connection.try_clone().map_err(WireError::Read)?;
    let session = Session {
        connection,
        writer: Arc::new(Mutex::new(writer)),
        left: Arc::default(),
        signals,
        seat,
    };
    let raw = if seat.tty && seat.stdin {
        RawTerminal::enter().map_err(AttachError::Terminal)?
    } else {
        None
    };
    if seat.stdin {
        session.read_input()?;
    }
    let end = session.converse(started);
    drop(raw);
    end
}

impl Session<'_> {
    fn send(&self, frame: &Frame) -> Result<(), WireError> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        frame.write(&mut *writer)
    }

    fn converse(&self, started: impl FnOnce()) -> Result<End, AttachError> {
        let mut started = Some(started);
        self.tell_size();
        loop {
            let mut fds = [
                PollFd::new(&self.connection, PollFlags::IN),
                PollFd::from_borrowed_fd(self.signals.as_fd(), PollFlags::IN),
            ];
            match poll(&mut fds, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(e) => return Err(AttachError::Poll(e)),
            }
            let [has_frame, has_signal] = fds.map(|fd| !fd.revents().is_empty());
            if has_signal && let Some(end) = self.take_signals()? {
                return Ok(end);
            }
            if !has_frame {
                continue;
            }
            match Frame::read(&mut &self.connection)? {
                Some(Frame::Reply(Reply { refused: None, .. })) => {
                    started.take().into_iter().for_each(|started| started());
                }
                Some(Frame::Reply(Reply {
                    refused: Some(refusal),
                    ..
                })) => {
                    self.wait_gone();
                    return Err(AttachError::Refused {
                        message: refusal.message,
                        code: refusal.code,
                    });
                }
                Some(Frame::Stdout(bytes)) => show(Sink::Stdout, &bytes),
                Some(Frame::Stderr(bytes)) => show(Sink::Stderr, &bytes),
                Some(Frame::Exit { code }) => {
                    self.wait_gone();
                    return Ok(End::Exited(code));
                }
                Some(other) => return Err(other.unexpected().into()),
                None if self.left.load(Ordering::SeqCst) => return Ok(End::Detached),
                None => return Err(WireError::Gone.into()),
            }
        }
    }

    /// The container's end is told before its supervisor's process is gone.
    fn wait_gone(&self) {
        let mut fds = [PollFd::new(&self.connection, PollFlags::IN)];
        let _ = poll(&mut fds, Some(&GONE_TIMEOUT));
    }

    fn tell_size(&self) {
        if !self.seat.tty {
            return;
        }
        if let Some((width, height)) = terminal::size() {
            let _ = self.send(&Frame::Resize { width, height });
        }
    }

    fn take_signals(&self) -> Result<Option<End>, AttachError> {
        while let Some(caught) = self.signals.next()? {
            match (caught, self.seat.signal) {
                (Caught::Resize, _) => self.tell_size(),
                (Caught::Signal(signal), Some(container)) => container.send(signal as u32),
                (Caught::Signal(signal), None) if ends(signal) => {
                    return Ok(Some(End::Signaled(signal as i32)));
                }
                (Caught::Signal(Signal::SIGTSTP), None) => signals::stop()?,
                (Caught::Signal(_), None) => {}
            }
        }
        Ok(None)
    }

    /// Sends what is typed. The thread ends with the process: nobody waits for input that may never
    /// come.
    fn read_input(&self) -> Result<(), AttachError> {
        let writer = Arc::clone(&self.writer);
        let left = Arc::clone(&self.left);
        let keys = self.seat.detach_keys.clone();
        let run = move || {
            let send = |bytes: Vec<u8>| {
                let mut writer = writer.lock().unwrap_or_else(PoisonError::into_inner);
                Frame::Stdin(bytes).write(&mut *writer)
            };
            match keys::read_stdin(keys, BUFFER, send) {
                // An empty one is the end.
                Typed::End => drop(send(Vec::new())),
                Typed::Left => {
                    left.store(true, Ordering::SeqCst);
                    let writer = writer.lock().unwrap_or_else(PoisonError::into_inner);
                    let _ = writer.shutdown(Shutdown::Both);
                }
                Typed::Refused => {}
            }
        };
        let thread = thread::Builder::new().name("stdin".into()).spawn(run);
        thread.map(drop).map_err(AttachError::Thread)
    }
}

fn ends(signal: Signal) -> bool {
    matches!(
        signal,
        Signal::SIGINT | Signal::SIGTERM | Signal::SIGHUP | Signal::SIGQUIT
    )
}

fn show(sink: Sink, bytes: &[u8]) {
    // The container goes on, whether somebody looks or not.
    if let Err(e) = sink.write(bytes) {
        log::debug!("{sink:?}: {e}");
    }
}
