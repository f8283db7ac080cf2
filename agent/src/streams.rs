// SPDX-License-Identifier: Apache-2.0
//! One process's standard streams: pipes or a terminal on the container's side, the host's
//! connections on the other, a pump between each two.
//!
//! Made with the process, before any connection: the pipes are there, their other ends wait for
//! [`Streams::attach`]. Pipes, because a program may open `/dev/stdout` again, which sockets refuse.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::Shutdown;
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
use walnut_protocol::stream::Stdio;

use crate::lock;
use crate::pump::{Ended, Stop, pump};

/// Room in a pipe; Linux's default of 64 KiB means four times the wake-ups.
const PIPE_SIZE: usize = 256 << 10;

#[derive(Debug, thiserror::Error)]
pub enum StreamsError {
    #[error("make a pipe")]
    Pipe(#[source] Errno),
    #[error("the process has no {fd:?} stream that waits to be connected")]
    NotWanted { fd: Stdio },
    #[error("set up the {fd:?} stream")]
    SetUp { fd: Stdio, source: Errno },
    #[error("make a thread for the {fd:?} stream")]
    Thread { fd: Stdio, source: std::io::Error },
}

/// The container's ends of a process's pipes: descriptors 0, 1 and 2.
pub type ChildEnds = [OwnedFd; 3];

#[derive(Debug)]
pub struct Streams {
    state: Mutex<[State; 3]>,
    changed: Condvar,
    stops: [Stop; 3],
}

/// Where one stream is in its life.
#[derive(Debug)]
enum State {
    /// The process has no such stream.
    None,
    /// A terminal that is not there yet.
    Unmade,
    /// The agent's end; the host is to connect.
    Waiting(OwnedFd),
    /// A pump runs between the two; this is the host's connection.
    Pumping(Arc<OwnedFd>),
    Ended,
}

impl Streams {
    /// Pipes for a process of user `uid`, `gid`, and their other ends. Without `stdin` the process
    /// reads `/dev/null`.
    ///
    /// # Errors
    /// No descriptors are left.
    pub fn pipes(stdin: bool, uid: u32, gid: u32) -> Result<(Self, ChildEnds), StreamsError> {
        let (in_state, in_end) = if stdin {
            let (read, write) = make_pipe(uid, gid)?;
            (State::Waiting(write), read)
        } else {
            (State::None, null()?)
        };
        let (out_read, out_end) = make_pipe(uid, gid)?;
        let (err_read, err_end) = make_pipe(uid, gid)?;
        let states = [in_state, State::Waiting(out_read), State::Waiting(err_read)];
        Ok((Self::new(states)?, [in_end, out_end, err_end]))
    }

    /// `/dev/null` for all of a process's streams.
    ///
    /// # Errors
    /// No descriptors are left.
    pub fn none() -> Result<(Self, ChildEnds), StreamsError> {
        let states = [State::None, State::None, State::None];
        Ok((Self::new(states)?, [null()?, null()?, null()?]))
    }

    /// A terminal's streams; [`Self::set_terminal`] follows.
    ///
    /// # Errors
    /// No descriptors are left.
    pub fn terminal(stdin: bool) -> Result<Self, StreamsError> {
        let in_state = if stdin { State::Unmade } else { State::None };
        Self::new([in_state, State::Unmade, State::None])
    }

    fn new(states: [State; 3]) -> Result<Self, StreamsError> {
        let stop = || Stop::new().map_err(StreamsError::Pipe);
        Ok(Self {
            state: Mutex::new(states),
            changed: Condvar::new(),
            stops: [stop()?, stop()?, stop()?],
        })
    }

    /// Gives the terminal's master side.
    ///
    /// # Errors
    /// No descriptors are left.
    pub fn set_terminal(&self, master: &OwnedFd) -> Result<(), StreamsError> {
        for state in lock(&self.state).iter_mut() {
            if matches!(state, State::Unmade) {
                let end = master.try_clone().map_err(|e| {
                    StreamsError::Pipe(Errno::from_io_error(&e).unwrap_or(Errno::IO))
                })?;
                *state = State::Waiting(end);
            }
        }
        Ok(())
    }

    /// Connects the host to one stream and starts its pump.
    ///
    /// # Errors
    /// There is no such stream, or it is connected already.
    pub fn attach(self: &Arc<Self>, fd: Stdio, host: OwnedFd) -> Result<(), StreamsError> {
        let set_up = |source| StreamsError::SetUp { fd, source };
        let host = Arc::new(host);
        rustix::io::ioctl_fionbio(&host, true).map_err(set_up)?;
        let mut states = lock(&self.state);
        let state = &mut states[fd as usize];
        let end = match std::mem::replace(state, State::Ended) {
            State::Waiting(end) => end,
            other => {
                *state = other;
                return Err(StreamsError::NotWanted { fd });
            }
        };
        rustix::io::ioctl_fionbio(&end, true).map_err(set_up)?;
        *state = State::Pumping(Arc::clone(&host));
        let streams = Arc::clone(self);
        let pumping = thread::Builder::new()
            .name(format!("stream-{}", fd as u8))
            .stack_size(64 << 10)
            .spawn(move || streams.run(fd, end, &host));
        if let Err(source) = pumping {
            states[fd as usize] = State::Ended;
            return Err(StreamsError::Thread { fd, source });
        }
        self.changed.notify_all();
        Ok(())
    }

    /// One pump's thread.
    fn run(&self, fd: Stdio, end: OwnedFd, host: &OwnedFd) {
        let stop = &self.stops[fd as usize];
        let ended = if fd == Stdio::Stdin {
            pump(host.as_fd(), end.as_fd(), stop)
        } else {
            pump(end.as_fd(), host.as_fd(), stop)
        };
        // The container sees the end of its input, or that nobody takes its output.
        drop(end);
        match ended {
            Ok(Ended::Source) if fd != Stdio::Stdin => {
                let _ = rustix::net::shutdown(host, Shutdown::Write);
            }
            Ok(_) => {
                let _ = rustix::net::shutdown(host, Shutdown::Both);
            }
            Err(error) => {
                log::warn!("stream {}: {error}", fd as u8);
                let _ = rustix::net::shutdown(host, Shutdown::Both);
            }
        }
        lock(&self.state)[fd as usize] = State::Ended;
        self.changed.notify_all();
    }

    /// Waits until the host has connected every stream; false when it did not in time.
    pub fn wait_attached(&self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        let mut states = lock(&self.state);
        while states
            .iter()
            .any(|state| matches!(state, State::Waiting(_) | State::Unmade))
        {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            states = match self.changed.wait_timeout(states, left) {
                Ok((states, _)) => states,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
        true
    }

    /// Whether a token still opens something here.
    pub fn all_attached(&self) -> bool {
        !lock(&self.state)
            .iter()
            .any(|state| matches!(state, State::Waiting(_) | State::Unmade))
    }

    /// Ends the process's stdin, once what has come for it is delivered.
    pub fn close_stdin(&self) {
        let mut states = lock(&self.state);
        if matches!(states[0], State::Waiting(_) | State::Unmade) {
            states[0] = State::Ended;
        }
        self.stops[0].drain();
        self.changed.notify_all();
    }

    /// The process is gone: what it wrote is passed on, what comes for it is not.
    pub fn process_ended(&self) {
        for state in lock(&self.state).iter_mut() {
            if matches!(state, State::Waiting(_) | State::Unmade) {
                *state = State::Ended;
            }
        }
        self.stops[0].finish();
        self.stops[1].drain();
        self.stops[2].drain();
        self.changed.notify_all();
    }

    /// Waits until the output of an ended process has been passed on, or its host is gone.
    pub fn wait_drained(&self) {
        let mut states = lock(&self.state);
        while states[1..]
            .iter()
            .any(|state| !matches!(state, State::None | State::Ended))
        {
            states = match self.changed.wait(states) {
                Ok(states) => states,
                Err(poisoned) => poisoned.into_inner(),
            };
        }
    }

    /// Drops what has not been passed on.
    pub fn abandon(&self) {
        for (state, stop) in lock(&self.state).iter_mut().zip(&self.stops) {
            match state {
                State::Pumping(host) => {
                    let _ = rustix::net::shutdown(&**host, Shutdown::Both);
                }
                State::Waiting(_) | State::Unmade => *state = State::Ended,
                State::None | State::Ended => {}
            }
            stop.finish();
        }
        self.changed.notify_all();
    }
}

fn null() -> Result<OwnedFd, StreamsError> {
    let null = File::options().read(true).write(true).open("/dev/null");
    null.map(Into::into)
        .map_err(|e| StreamsError::Pipe(Errno::from_io_error(&e).unwrap_or(Errno::IO)))
}

/// A pipe that the process's user may open again by its name in `/proc`.
fn make_pipe(uid: u32, gid: u32) -> Result<(OwnedFd, OwnedFd), StreamsError> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC).map_err(StreamsError::Pipe)?;
    // Where the kernel's limit for pipes is reached the default size will do.
    let _ = fcntl_setpipe_size(&write, PIPE_SIZE);
    if uid != 0 || gid != 0 {
        let owner = rustix::fs::Uid::from_raw(uid);
        let group = rustix::fs::Gid::from_raw(gid);
        rustix::fs::fchown(&write, Some(owner), Some(group)).map_err(StreamsError::Pipe)?;
    }
    Ok((read, write))
}
