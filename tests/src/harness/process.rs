// SPDX-License-Identifier: Apache-2.0
//! Processes: this test's children, and by pidfd those that are not.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

/// Enough for any end that comes.
const DEADLINE: Timespec = Timespec {
    tv_sec: 30,
    tv_nsec: 0,
};

/// A number as text has it.
///
/// # Panics
/// It is none.
#[must_use]
pub fn pid(text: &str) -> Pid {
    let number = text.trim().parse().expect("a process's number");
    Pid::from_raw(number).expect("a process's number is not 0")
}

/// SIGKILL. One that has ended by itself is no failure.
pub fn kill(pid: Pid) {
    let _ = kill_process(pid, Signal::KILL);
}

/// Sends SIGKILL and waits for the end.
///
/// # Panics
/// It does not end.
pub fn kill_and_wait(pid: Pid) {
    // Before the end: afterwards the number may be another one's.
    let Ok(fd) = pidfd_open(pid, PidfdFlags::empty()) else {
        return;
    };
    kill(pid);
    let mut fds = [PollFd::new(&fd, PollFlags::IN)];
    let ended = poll(&mut fds, Some(&DEADLINE));
    assert_eq!(ended, Ok(1), "process {pid:?} goes on");
}

/// Starts a program without input, and waits until it has said `line`.
///
/// # Panics
/// It says something else first, or nothing.
#[must_use]
pub fn spawn_saying(mut command: Command, line: &str) -> (Child, BufReader<ChildStdout>) {
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("the program is there");
    let mut stdout = BufReader::new(child.stdout.take().expect("it is a pipe"));
    let mut said = String::new();
    stdout.read_line(&mut said).expect("it says text");
    assert_eq!(said, format!("{line}\n"), "{command:?}");
    (child, stdout)
}

/// Whether a process ends before long.
#[must_use]
pub fn ends(pid: Pid) -> bool {
    let Ok(fd) = pidfd_open(pid, PidfdFlags::empty()) else {
        return true;
    };
    let mut fds = [PollFd::new(&fd, PollFlags::IN)];
    poll(&mut fds, Some(&DEADLINE)) == Ok(1)
}

/// All of this machine.
pub fn all() -> impl Iterator<Item = Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?))
}

/// A process's arguments; none of one that is gone.
#[must_use]
pub fn command_line(pid: Pid) -> String {
    let line = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
    String::from_utf8_lossy(&line).replace('\0', " ")
}

/// Those that `parent` has started and that have not ended.
pub fn children(parent: Pid) -> impl Iterator<Item = Pid> {
    all().filter(move |pid| parent_of(*pid) == Some(parent))
}

fn parent_of(pid: Pid) -> Option<Pid> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_pid())).ok()?;
    // proc_pid_stat(5): a name in brackets, which may hold any character, the state, the parent.
    let (_, rest) = stat.rsplit_once(')')?;
    Pid::from_raw(rest.split_whitespace().nth(1)?.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_and_its_end() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let own = Pid::from_child(&child);
        assert!(children(rustix::process::getpid()).any(|pid| pid == own));
        kill_and_wait(own);
        child.wait().unwrap();
        assert!(ends(own));
    }
}
