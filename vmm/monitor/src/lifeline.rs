// SPDX-License-Identifier: Apache-2.0
//! The parent's end is the monitor's. The event loop sees it by a pipe; that alone does not end a monitor
//! that is stopped, or writes a snapshot to a disk that hangs, so the kernel sees to it as well.

use std::os::fd::BorrowedFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Signal, set_parent_process_death_signal};

/// From here on the kernel kills this process when the thread ends that started it. Whoever gives a
/// lifeline promises that the two have one end; started by hand, a monitor may outlive its shell.
///
/// A user namespace would undo this, since it gives rights; what the jail takes away does not
/// (`PR_SET_PDEATHSIG(2const)`; the kernel's `commit_creds`).
///
/// False where the parent has ended before.
pub(crate) fn hold(lifeline: BorrowedFd<'_>) -> rustix::io::Result<bool> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    is_whole(lifeline)
}

fn is_whole(lifeline: BorrowedFd<'_>) -> rustix::io::Result<bool> {
    let mut fds = [PollFd::from_borrowed_fd(lifeline, PollFlags::IN)];
    loop {
        match poll(&mut fds, Some(&Timespec::default())) {
            Err(Errno::INTR) => {}
            polled => return polled.map(|ready| ready == 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Read};
    use std::os::fd::AsFd;
    use std::process::{Command, Stdio};

    use rustix::pipe::pipe;
    use rustix::process::{Pid, kill_process};

    use super::*;
    use crate::jail::{self, Thread};

    /// Which of the two processes below this is; its absence makes that test a no-op in ordinary runs.
    const ROLE: &str = "WALNUT_LIFELINE_TEST";

    fn role(name: &str) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "lifeline::tests::child", "--test-threads=1"]);
        command.env(ROLE, name).stdout(Stdio::null());
        command
    }

    #[test]
    fn child() {
        match std::env::var(ROLE).as_deref() {
            Ok("parent") => drop(role("monitor").status()),
            Ok("monitor") => {
                let (lifeline, _held) = pipe().unwrap();
                assert!(hold(lifeline.as_fd()).unwrap());
                jail::enter(&[]).unwrap();
                jail::confine(Thread::EventLoop).unwrap();
                let said = format!("held {}\n", std::process::id());
                rustix::io::write(rustix::stdio::stderr(), said.as_bytes()).unwrap();
                // Nobody writes to it.
                let _ = rustix::io::read(&lifeline, &mut [0]);
            }
            _ => {}
        }
    }

    #[test]
    fn a_stopped_one_goes_with_its_parent() {
        let mut parent = role("parent").stderr(Stdio::piped()).spawn().unwrap();
        let mut said = BufReader::new(parent.stderr.take().unwrap());
        let mut line = String::new();
        while !line.starts_with("held ") {
            line.clear();
            assert!(said.read_line(&mut line).unwrap() > 0, "it has ended");
        }
        let pid = line.trim_start_matches("held ").trim().parse().unwrap();
        let monitor = Pid::from_raw(pid).unwrap();
        kill_process(monitor, Signal::STOP).unwrap();
        parent.kill().unwrap();
        parent.wait().unwrap();
        // It has the other end as long as it is there.
        let limit = Timespec {
            tv_sec: 30,
            tv_nsec: 0,
        };
        let pipe = said.get_ref().as_fd();
        let ended = poll(
            &mut [PollFd::from_borrowed_fd(pipe, PollFlags::IN)],
            Some(&limit),
        );
        if ended.unwrap() == 0 {
            kill_process(monitor, Signal::KILL).unwrap();
            panic!("it has outlived its parent");
        }
        assert_eq!(said.read(&mut [0]).unwrap(), 0);
    }

    #[test]
    fn the_parents_end_is_seen() {
        let (lifeline, held) = pipe().unwrap();
        assert!(is_whole(lifeline.as_fd()).unwrap());
        drop(held);
        assert!(!is_whole(lifeline.as_fd()).unwrap());
    }
}
