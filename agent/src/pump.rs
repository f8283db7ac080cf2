// SPDX-License-Identifier: Apache-2.0
//! Moves one stream's bytes, one thread a stream: from the host's connection into a pipe or
//! terminal, or out of one to the host.
//!
//! Both ends are non-blocking. The loop reads and writes for as long as there is something, and
//! sleeps in poll(2) when there isn't: a full destination holds the source back, nothing is
//! dropped, and an end or a closed peer on one side is passed on to the other by the caller, who
//! closes what it gave.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU8, Ordering};

use rustix::buffer::spare_capacity;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::Errno;
use rustix::pipe::fcntl_getpipe_size;

/// More than a vsock packet (64 KiB) and a good part of a pipe.
const BUFFER: usize = 128 << 10;
/// As much as either holds at most.
const SOCKET_OR_TERMINAL: usize = 256 << 10;

/// Why a pump ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The source has no more: end of file, a terminal without users, or drained as asked.
    Source,
    /// Nobody reads the destination any more.
    Destination,
    /// It was told to finish.
    Told,
}

/// How another thread ends a pump.
#[derive(Debug)]
pub struct Stop {
    wake: OwnedFd,
    wish: AtomicU8,
}

const RUN: u8 = 0;
const DRAIN: u8 = 1;
const FINISH: u8 = 2;

impl Stop {
    /// # Errors
    /// No descriptors are left.
    pub fn new() -> rustix::io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self {
            wake,
            wish: AtomicU8::new(RUN),
        })
    }

    /// Move what is in the source now, then end.
    pub fn drain(&self) {
        self.wish(DRAIN);
    }

    /// End now.
    pub fn finish(&self) {
        self.wish(FINISH);
    }

    fn wish(&self, wish: u8) {
        self.wish.fetch_max(wish, Ordering::SeqCst);
        // It fails only where the counter is full, and then the pump is awake.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    fn current(&self) -> u8 {
        self.wish.load(Ordering::SeqCst)
    }

    /// Takes the wake-up, so that the next sleep is one.
    fn heard(&self) {
        let _ = rustix::io::read(&self.wake, &mut [0; 8]);
    }
}

/// Pumps until one side ends or `stop` says so. After [`Stop::drain`] no more is moved than the source
/// holds: what comes beyond it was written later.
///
/// # Errors
/// The source or poll fails in a way that is no end.
pub fn pump(
    source: BorrowedFd<'_>,
    destination: BorrowedFd<'_>,
    stop: &Stop,
) -> Result<Ended, Errno> {
    // Not filled beforehand: what the stream never needs stays the host's.
    let mut buffer = Vec::with_capacity(BUFFER);
    let mut left = None;
    loop {
        // Looked at before the read: what a process writes last is there when draining is wished for,
        // and may not have been when we read before.
        let wish = stop.current();
        if wish == FINISH {
            return Ok(Ended::Told);
        }
        if wish == DRAIN && *left.get_or_insert_with(|| capacity(source)) == 0 {
            return Ok(Ended::Source);
        }
        buffer.clear();
        match rustix::io::read(source, spare_capacity(&mut buffer)) {
            // A terminal whose last user is gone reads as EIO, a reset connection is an end too.
            Ok(0) | Err(Errno::IO | Errno::CONNRESET) => return Ok(Ended::Source),
            Ok(len) => {
                left = left.map(|left| left.saturating_sub(len));
                if let Some(ended) = write_all(destination, &buffer, stop)? {
                    return Ok(ended);
                }
            }
            Err(Errno::AGAIN) if wish == DRAIN => return Ok(Ended::Source),
            Err(Errno::AGAIN) => {
                if wait(source, PollFlags::IN, destination, stop)? {
                    return Ok(Ended::Destination);
                }
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Of a pipe as it is now: its writer may have made it larger.
fn capacity(source: BorrowedFd<'_>) -> usize {
    fcntl_getpipe_size(source).unwrap_or(SOCKET_OR_TERMINAL)
}

fn write_all(to: BorrowedFd<'_>, mut bytes: &[u8], stop: &Stop) -> Result<Option<Ended>, Errno> {
    while !bytes.is_empty() {
        match rustix::io::write(to, bytes) {
            Ok(len) => bytes = &bytes[len..],
            Err(Errno::AGAIN) => {
                if stop.current() == FINISH {
                    return Ok(Some(Ended::Told));
                }
                sleep(&mut [PollFd::from_borrowed_fd(to, PollFlags::OUT)], stop)?;
            }
            Err(Errno::INTR) => {}
            // EIO: the other side of a terminal is gone.
            Err(Errno::PIPE | Errno::CONNRESET | Errno::IO | Errno::NOTCONN) => {
                return Ok(Some(Ended::Destination));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// Sleeps until the source has something or `stop` something to say; true when the destination's
/// reader is gone instead.
fn wait(
    source: BorrowedFd<'_>,
    events: PollFlags,
    destination: BorrowedFd<'_>,
    stop: &Stop,
) -> Result<bool, Errno> {
    let mut fds = [
        PollFd::from_borrowed_fd(source, events),
        // Nothing is asked for: errors and hang-ups come unasked.
        PollFd::from_borrowed_fd(destination, PollFlags::empty()),
    ];
    sleep(&mut fds, stop)?;
    let gone = fds[1].revents().intersects(PollFlags::ERR | PollFlags::HUP);
    Ok(gone && fds[0].revents().is_empty())
}

fn sleep<'a>(fds: &mut [PollFd<'a>], stop: &'a Stop) -> Result<(), Errno> {
    let mut all: Vec<PollFd<'a>> = fds.to_vec();
    all.push(PollFd::from_borrowed_fd(stop.wake.as_fd(), PollFlags::IN));
    match poll(&mut all, None) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(error) => return Err(error),
    }
    if all.pop().is_some_and(|wake| !wake.revents().is_empty()) {
        stop.heard();
    }
    fds.clone_from_slice(&all);
    Ok(())
}

#[cfg(test)]
mod tests;
