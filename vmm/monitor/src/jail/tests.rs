// SPDX-License-Identifier: Apache-2.0
//! Each kind of thread, confined for real in a process of its own, makes a call that it must not.

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};

use rustix::net::{AddressFamily, SocketType};

use super::{Thread, confine, enter};

/// What the child below is to do; its absence makes that test a no-op in ordinary runs.
const ROLE: &str = "WALNUT_JAIL_TEST";

/// Runs [`child`] in a process of its own.
fn run(role: &str) -> ExitStatus {
    Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "jail::tests::child",
            "--test-threads=1",
            "--quiet",
        ])
        .env(ROLE, role)
        .output()
        .unwrap()
        .status
}

#[test]
fn child() {
    let Ok(role) = std::env::var(ROLE) else {
        return;
    };
    let (thread, call) = role.split_once(' ').unwrap();
    let thread = match thread {
        "event-loop" => Some(Thread::EventLoop),
        "vcpu" => Some(Thread::Vcpu),
        "blk" => Some(Thread::Blk),
        "fs" => Some(Thread::Fs),
        _ => None,
    };
    enter(&[]).unwrap();
    if let Some(thread) = thread {
        confine(thread).unwrap();
    }
    match call {
        "nothing" => {}
        "open" => drop(std::fs::File::open("/dev/null")),
        "inet-socket" => drop(rustix::net::socket(
            AddressFamily::INET,
            SocketType::STREAM,
            None,
        )),
        "unix-socket" => drop(rustix::net::socket(
            AddressFamily::UNIX,
            SocketType::STREAM,
            None,
        )),
        "exec" => drop(Command::new("/bin/true").status()),
        // Not KVM_RUN, nor anything else that a vCPU thread asks for.
        "ioctl" => drop(rustix::termios::tcgetwinsize(rustix::stdio::stdin())),
        other => panic!("no call {other}"),
    }
    // What the test harness does to end may be forbidden as well.
    std::process::exit(0);
}

#[test]
fn a_forbidden_call_kills() {
    let forbidden = [
        "event-loop open",
        "event-loop inet-socket",
        "event-loop exec",
        "event-loop ioctl",
        "vcpu open",
        "vcpu unix-socket",
        "vcpu ioctl",
        "blk open",
        "blk unix-socket",
        "fs unix-socket",
        "fs exec",
    ];
    for role in forbidden {
        assert_eq!(run(role).signal(), Some(libc::SIGSYS), "{role}");
    }
}

#[test]
fn an_allowed_call_does_not() {
    let allowed = [
        "free open",
        "free exec",
        "event-loop nothing",
        "event-loop unix-socket",
        "vcpu nothing",
        "blk nothing",
        "fs open",
    ];
    for role in allowed {
        assert_eq!(run(role).code(), Some(0), "{role}");
    }
}

#[test]
fn no_capability_is_left() {
    let status = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "jail::tests::capabilities_child",
            "--test-threads=1",
        ])
        .env(ROLE, "capabilities")
        .output()
        .unwrap()
        .status;
    assert_eq!(status.code(), Some(0));
}

#[test]
fn capabilities_child() {
    if std::env::var(ROLE).as_deref() != Ok("capabilities") {
        return;
    }
    enter(&[]).unwrap();
    let left = rustix::thread::capabilities(None).unwrap();
    assert!(left.effective.is_empty() && left.permitted.is_empty() && left.inheritable.is_empty());
    assert!(rustix::thread::no_new_privs().unwrap());
}
