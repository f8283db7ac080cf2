// SPDX-License-Identifier: Apache-2.0
//! `--init`: process 1 of a container that is no program of it. It reaps whatever dies and passes
//! each signal on to the program, its child, whose end is its own.
//!
//! It is the very process that would have become the program, with the same rights; nothing is
//! executed for it, and nothing of it is in the container's files.

#![expect(unsafe_code, reason = "fork, and close_range")]

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, setpgid};

use crate::failure::{Failure, Stage};

/// What a shell says of a signal's victim.
const SIGNALED: i32 = 128;

/// Returns in the child, which is to become the program; never in the parent.
///
/// # Errors
/// There is no second process.
pub fn split() -> Result<(), Failure> {
    // Before the child is there: nothing is missed. What it inherits is undone below.
    let all = SigSet::all();
    let mut before = SigSet::empty();
    let failed = |errno: Errno| Failure::new(Stage::Exec, errno as i32, format!("fork: {errno}"));
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&all), Some(&mut before)).map_err(failed)?;
    // SAFETY: a container's first process has one thread.
    match unsafe { fork() }.map_err(failed)? {
        ForkResult::Child => {
            lead();
            sigprocmask(SigmaskHow::SIG_SETMASK, Some(&before), None).map_err(failed)
        }
        ForkResult::Parent { child } => {
            let_go();
            let _ = rustix::thread::set_name(c"walnut-init");
            std::process::exit(look_after(child, &all))
        }
    }
}

/// What closes when the program runs is the program's to hold.
fn let_go() {
    // SAFETY: this process goes on with its three standard streams alone, and returns to nobody who
    // owns any other descriptor.
    unsafe { libc::close_range(3, libc::c_uint::MAX, 0) };
}

/// A terminal's signals are for the program, not for both. Where there is no terminal, there is no
/// group to be in front either.
fn lead() {
    let own = Pid::from_raw(0);
    if setpgid(own, own).is_ok()
        && let Some(group) = rustix::process::getpgid(None).ok()
    {
        // SIGTTOU is blocked.
        let _ = rustix::termios::tcsetpgrp(rustix::stdio::stdin(), group);
    }
}

fn look_after(child: Pid, all: &SigSet) -> i32 {
    loop {
        let signal = match all.wait() {
            Ok(signal) => signal,
            Err(Errno::EINTR) => continue,
            // The filter forbids it: the program is all there is to wait for.
            Err(_) => return wait_for(child),
        };
        if signal != Signal::SIGCHLD {
            // It may have ended.
            let _ = kill(child, signal);
            continue;
        }
        if let Some(code) = reap(child) {
            return code;
        }
    }
}

/// Takes all that is dead off the kernel's list; the program's code if it is among them.
fn reap(child: Pid) -> Option<i32> {
    let mut code = None;
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, status)) if pid == child => code = Some(status),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == child => {
                code = Some(SIGNALED + signal as i32);
            }
            Ok(WaitStatus::StillAlive) | Err(_) => return code,
            Ok(_) => {}
        }
    }
}

fn wait_for(child: Pid) -> i32 {
    loop {
        match waitpid(child, None) {
            Ok(WaitStatus::Exited(_, status)) => return status,
            Ok(WaitStatus::Signaled(_, signal, _)) => return SIGNALED + signal as i32,
            Err(Errno::EINTR) | Ok(_) => {}
            Err(_) => return 1,
        }
    }
}
