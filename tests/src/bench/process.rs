// SPDX-License-Identifier: Apache-2.0
//! One child: started, timed to its first output, and never waited for beyond its deadline.

use std::fmt::{self, Debug, Formatter};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::interrupt::Guarded;

#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    #[error("can't start {name}")]
    Spawn { name: String, source: io::Error },
    #[error("can't read what {name} says")]
    Read { name: String, source: io::Error },
    #[error("can't wait for {name}")]
    Wait { name: String, source: io::Error },
    #[error("{name} ended before it said what it was to say{said}")]
    Silent { name: String, said: String },
    #[error("{name} was not done after {} s{said}", limit.as_secs())]
    Deadline {
        name: String,
        limit: Duration,
        said: String,
    },
    #[error("{name} failed ({status}){said}")]
    Failed {
        name: String,
        status: ExitStatus,
        said: String,
    },
}

/// A running child, killed and reaped when dropped. Its stdout is a pipe, its stderr a file.
pub struct Process {
    name: String,
    child: Child,
    stdout: ChildStdout,
    stderr: File,
    pub started: Instant,
    limit: Duration,
    _guarded: Guarded,
}

impl Debug for Process {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Process {
    /// Starts `command` with an empty stdin, or with a pipe for [`Self::stdin`].
    ///
    /// # Errors
    /// [`ProcessError::Spawn`].
    pub fn spawn(
        name: &str,
        command: &mut Command,
        stdin: Stdio,
        limit: Duration,
    ) -> Result<Self, ProcessError> {
        let failed = |source| ProcessError::Spawn {
            name: name.into(),
            source,
        };
        let stderr = tempfile::tempfile().map_err(failed)?;
        command
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(stderr.try_clone().map_err(failed)?);
        let started = Instant::now();
        let mut child = command.spawn().map_err(failed)?;
        let Some(stdout) = child.stdout.take() else {
            return Err(failed(io::ErrorKind::BrokenPipe.into()));
        };
        let guarded = Guarded::new(child.id());
        Ok(Self {
            name: name.into(),
            _guarded: guarded,
            child,
            stdout,
            stderr,
            started,
            limit,
        })
    }

    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its stdout, to wait for.
    #[must_use]
    pub fn stdout(&self) -> BorrowedFd<'_> {
        self.stdout.as_fd()
    }

    /// The writing end of its stdin; there once, if it was made a pipe.
    pub fn stdin(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    /// Reads until `marker` has come (any byte, where it is empty): how long that took from the
    /// start. What came along with it is dropped.
    ///
    /// # Errors
    /// It ended, or the deadline passed, before.
    pub fn wait_for(&mut self, marker: &[u8]) -> Result<Duration, ProcessError> {
        let mut seen = Vec::new();
        let mut chunk = [0; 4096];
        loop {
            let n = self.read(&mut chunk)?;
            let now = self.started.elapsed();
            if n == 0 {
                let said = self.said(&seen);
                return Err(ProcessError::Silent {
                    name: self.name.clone(),
                    said,
                });
            }
            seen.extend_from_slice(chunk.get(..n).unwrap_or_default());
            if marker.is_empty() || seen.windows(marker.len()).any(|window| window == marker) {
                return Ok(now);
            }
        }
    }

    /// Reads some of its stdout; 0 is the end.
    ///
    /// # Errors
    /// The deadline passed, or reading failed.
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<usize, ProcessError> {
        let ready =
            wait_readable(self.stdout.as_fd(), self.started + self.limit).map_err(|source| {
                ProcessError::Read {
                    name: self.name.clone(),
                    source,
                }
            })?;
        if !ready {
            return Err(self.late());
        }
        self.stdout
            .read(buffer)
            .map_err(|source| ProcessError::Read {
                name: self.name.clone(),
                source,
            })
    }

    /// Reads the rest of its stdout and waits for its end, which must be a success.
    ///
    /// # Errors
    /// It failed, or the deadline passed.
    pub fn finish(mut self) -> Result<Finished, ProcessError> {
        let mut stdout = Vec::new();
        let mut chunk = vec![0; 1 << 16];
        loop {
            match self.read(&mut chunk)? {
                0 => break,
                n => stdout.extend_from_slice(chunk.get(..n).unwrap_or_default()),
            }
        }
        let failed = |source| ProcessError::Wait {
            name: self.name.clone(),
            source,
        };
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let pidfd = pid
            .ok_or(Errno::SRCH)
            .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()))
            .map_err(|errno| failed(errno.into()))?;
        let ended = wait_readable(pidfd.as_fd(), self.started + self.limit).map_err(failed)?;
        if !ended {
            return Err(self.late());
        }
        let status = self.child.wait().map_err(failed)?;
        let took = self.started.elapsed();
        if !status.success() {
            let said = self.said(&stdout);
            return Err(ProcessError::Failed {
                name: self.name.clone(),
                status,
                said,
            });
        }
        let stderr = self.stderr_text();
        Ok(Finished {
            stdout,
            stderr,
            took,
        })
    }

    fn late(&mut self) -> ProcessError {
        let said = self.said(&[]);
        ProcessError::Deadline {
            name: self.name.clone(),
            limit: self.limit,
            said,
        }
    }

    fn stderr_text(&mut self) -> String {
        let mut bytes = Vec::new();
        // What it said on stderr only explains; a failure to read it must not hide the reason.
        if self.stderr.seek(SeekFrom::Start(0)).is_ok() {
            let _ = self.stderr.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The end of what it said, as an error's tail.
    pub fn said(&mut self, stdout: &[u8]) -> String {
        let mut text = String::from_utf8_lossy(stdout).into_owned();
        text.push_str(&self.stderr_text());
        let lines: Vec<&str> = text
            .lines()
            .filter(|line| !line.trim().is_empty())
            .collect();
        let tail = lines
            .get(lines.len().saturating_sub(8)..)
            .unwrap_or_default();
        if tail.is_empty() {
            String::new()
        } else {
            format!(": {}", tail.join("; "))
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only where there is nothing left to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A child that succeeded.
#[derive(Debug)]
pub struct Finished {
    pub stdout: Vec<u8>,
    pub stderr: String,
    /// From its start to its end.
    pub took: Duration,
}

/// Runs `command` to its end, which must be a success.
///
/// # Errors
/// It failed, or was not done within `limit`.
pub fn run(name: &str, command: &mut Command, limit: Duration) -> Result<Finished, ProcessError> {
    Process::spawn(name, command, Stdio::null(), limit)?.finish()
}

/// Whether `fd` became readable before the deadline.
///
/// # Errors
/// What poll(2) said.
pub fn wait_readable(fd: BorrowedFd<'_>, deadline: Instant) -> io::Result<bool> {
    wait_any(&[fd], deadline).map(|ready| ready.is_some())
}

/// The first of `fds` that is readable, or at its end; `None` when the deadline has passed.
///
/// # Errors
/// What poll(2) said.
pub fn wait_any(fds: &[BorrowedFd<'_>], deadline: Instant) -> io::Result<Option<usize>> {
    let mut set: Vec<_> = fds
        .iter()
        .map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN))
        .collect();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).ok();
        match poll(&mut set, timeout.as_ref()) {
            Ok(_) => return Ok(set.iter().position(|fd| !fd.revents().is_empty())),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    fn spawn(script: &str, limit: Duration) -> Process {
        Process::spawn("sh", &mut shell(script), Stdio::piped(), limit).unwrap()
    }

    #[test]
    fn the_marker_may_come_in_pieces() {
        let mut process = spawn("printf 'noise mar'; read go; echo ker; cat", LIMIT);
        let mut stdin = process.stdin().unwrap();
        io::Write::write_all(&mut stdin, b"go\n").unwrap();
        process.wait_for(b"marker").unwrap();
        io::Write::write_all(&mut stdin, b"rest").unwrap();
        drop(stdin);
        assert!(process.finish().unwrap().stdout.ends_with(b"rest"));
    }

    #[test]
    fn an_early_end_tells_what_was_said() {
        let error = spawn("echo one; echo two >&2", LIMIT)
            .wait_for(b"three")
            .unwrap_err();
        assert!(matches!(error, ProcessError::Silent { .. }));
        assert!(error.to_string().ends_with(": one; two"), "{error}");
    }

    #[test]
    fn the_deadline_ends_the_wait() {
        let limit = Duration::from_millis(50);
        let error = spawn("read forever", limit).wait_for(b"x").unwrap_err();
        assert!(matches!(error, ProcessError::Deadline { .. }), "{error}");
        // Stdout is closed, the process lives on.
        let error = spawn("exec >&-; read forever", limit).finish().unwrap_err();
        assert!(matches!(error, ProcessError::Deadline { .. }), "{error}");
    }

    #[test]
    fn a_failure_carries_status_and_stderr() {
        let error = run("sh", &mut shell("echo why >&2; exit 3"), LIMIT).unwrap_err();
        assert!(matches!(error, ProcessError::Failed { .. }));
        assert!(
            error.to_string().contains('3') && error.to_string().contains("why"),
            "{error}"
        );
    }
}
