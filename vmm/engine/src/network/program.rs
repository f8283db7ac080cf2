// SPDX-License-Identifier: Apache-2.0
//! Programs of the host's on the PATH, and how one ends that is not to be waited for for ever.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Access, access};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// Each is a matter of milliseconds: one that takes so long is stopped, or hangs.
pub(super) const TIMEOUT: Duration = Duration::from_secs(60);
/// For a killed one to be gone. In the kernel it may stay: then it is waited for no longer.
const GONE_TIMEOUT: Duration = Duration::from_secs(1);
/// Of what one says; more is not kept.
const MAX_SAID: usize = 64 << 10;

pub(super) fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .filter(|dir| dir.is_absolute())
        .map(|dir| dir.join(name))
        .find(|program| access(program, Access::EXEC_OK).is_ok())
}

/// How it ended, and what it said until then by this end of its pipe; nothing where that took
/// longer than `timeout`: it is killed then.
///
/// # Errors
/// The kernel refuses to wait; it is killed, too.
pub(super) fn outcome(
    child: &mut Child,
    said: impl Read + AsFd,
    timeout: Duration,
) -> io::Result<Option<(ExitStatus, Vec<u8>)>> {
    let heard = hear(child, said, Instant::now() + timeout);
    match heard {
        Ok(Some(words)) => Ok(Some((child.wait()?, words))),
        given_up => {
            // It fails only for one that has ended by itself.
            let _ = child.kill();
            if let Ok(true) = has_ended(child, Instant::now() + GONE_TIMEOUT) {
                child.wait()?;
            }
            given_up.map(|_| None)
        }
    }
}

/// What it says until it closes its end and has ended.
fn hear(
    child: &Child,
    mut said: impl Read + AsFd,
    deadline: Instant,
) -> io::Result<Option<Vec<u8>>> {
    let (mut words, mut chunk) = (Vec::new(), [0; 4096]);
    loop {
        if !is_readable(said.as_fd(), deadline)? {
            return Ok(None);
        }
        match said.read(&mut chunk) {
            Ok(0) => break,
            Ok(len) => words.extend_from_slice(&chunk[..len.min(MAX_SAID - words.len())]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(has_ended(child, deadline)?.then_some(words))
}

fn has_ended(child: &Child, deadline: Instant) -> io::Result<bool> {
    let pidfd = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    is_readable(pidfd.as_fd(), deadline)
}

fn is_readable(fd: BorrowedFd<'_>, deadline: Instant) -> io::Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).ok();
        match poll(
            &mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)],
            timeout.as_ref(),
        ) {
            Err(Errno::INTR) => {}
            polled => return Ok(polled? > 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    fn run(script: &str, timeout: Duration) -> (Option<(ExitStatus, Vec<u8>)>, Child) {
        let mut command = Command::new("sh");
        command.args(["-c", script]).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let said = child.stderr.take().unwrap();
        (outcome(&mut child, said, timeout).unwrap(), child)
    }

    #[test]
    fn what_it_said_and_how_it_ended() {
        let (done, _) = run("echo no >&2; exit 3", TIMEOUT);
        let (status, said) = done.unwrap();
        assert_eq!((status.code(), &said[..]), (Some(3), &b"no\n"[..]));
        let (done, _) = run("head -c 200000 /dev/zero >&2", TIMEOUT);
        assert_eq!(done.unwrap().1.len(), MAX_SAID);
    }

    #[test]
    fn one_that_says_nothing_is_killed() {
        // The second closes its end, and goes on.
        for script in ["exec sleep 1000", "exec sleep 1000 2>&-"] {
            let (done, mut child) = run(script, Duration::from_millis(50));
            assert_eq!(done, None, "{script}");
            assert!(child.try_wait().unwrap().is_some(), "{script}");
        }
    }
}
