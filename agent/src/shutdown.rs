// SPDX-License-Identifier: Apache-2.0
//! The end: of a container's processes, of all containers, of the machine.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{SendFlags, Shutdown};
use rustix::time::Timespec;
use walnut_protocol::protobuf::Message;
use walnut_protocol::ttrpc::proto::MESSAGE_HEADER_LENGTH;
use walnut_protocol::ttrpc::{self, MessageHeader, TtrpcContext};

use crate::agent::Agent;
use crate::cgroup::CgroupError;
use crate::container::Container;
use crate::failure::chain;
use crate::lock;

/// How long processes may take to die of SIGKILL.
const KILL_PATIENCE: Duration = Duration::from_secs(10);
/// How long the host may take to take the last answer.
const ANSWER_PATIENCE: Timespec = Timespec {
    tv_sec: 1,
    tv_nsec: 0,
};

/// What a shutdown ends with.
pub trait Machine: Send + Sync {
    /// Answers the call that `context` is of, and ends the machine.
    fn reset(&self, context: &TtrpcContext);
}

/// The machine that PID 1 is responsible for.
pub struct Guest;

impl Machine for Guest {
    fn reset(&self, context: &TtrpcContext) {
        answer(context);
        // The kernel has `reboot=k`: the reset goes to the keyboard controller, and the monitor
        // ends.
        let error = rustix::system::reboot(rustix::system::RebootCommand::Restart);
        log::error!("reset: {error:?}");
    }
}

/// Sends `signal` to every process of a container; SIGKILL reaches those too that are made
/// meanwhile.
///
/// # Errors
/// The control group can't be read or written.
pub fn signal_all(container: &Container, signal: u32) -> Result<(), CgroupError> {
    if signal == libc::SIGKILL.cast_unsigned() {
        return container.kill_all();
    }
    let Some(signal) = i32::try_from(signal)
        .ok()
        .and_then(|number| nix::sys::signal::Signal::try_from(number).ok())
    else {
        return Ok(());
    };
    for pid in container.cgroup.pids()? {
        // Those that have ended since need no signal.
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.cast_signed()), signal);
    }
    Ok(())
}

/// Each container's stop signal to its first process, SIGKILL to all after `grace`, then every
/// file system written back and unmounted.
pub fn end_containers(agent: &Agent, grace: Duration) {
    let containers = agent.all_containers();
    for container in &containers {
        if container.init.exit().is_none() {
            let _ = container.cgroup.freeze(false);
            let _ = container.init.kill(container.stop_signal);
        }
    }
    let deadline = Instant::now() + grace;
    for container in &containers {
        if !container.init.wait_ended(deadline) {
            log::warn!("a container did not stop within {} ms", grace.as_millis());
        }
    }
    let deadline = Instant::now() + KILL_PATIENCE;
    for container in &containers {
        if let Err(error) = container.kill_all() {
            log::warn!("{}", chain(&error));
        }
        if !container.init.wait_ended(deadline) {
            log::error!("a container did not die of SIGKILL");
        }
    }
    rustix::fs::sync();
    for container in containers {
        agent.forget(&container);
    }
    lock(&agent.mounts).undo();
    rustix::fs::sync();
}

/// Sends the empty answer from here: when the server did it there would be no knowing whether it
/// has left before the reset. The host takes it, sees the end behind it and closes.
fn answer(context: &TtrpcContext) {
    let Ok(connection) = borrow(context) else {
        return;
    };
    let response = ttrpc::Response {
        status: Some(ttrpc::get_status(ttrpc::Code::OK, "")).into(),
        ..ttrpc::Response::default()
    };
    let Ok(body) = response.write_to_bytes() else {
        return;
    };
    let Ok(len) = u32::try_from(body.len()) else {
        return;
    };
    let mut frame: Vec<u8> = MessageHeader::new_response(context.mh.stream_id, len).into();
    debug_assert_eq!(frame.len(), MESSAGE_HEADER_LENGTH);
    frame.extend_from_slice(&body);
    let _ = rustix::net::send(&connection, &frame, SendFlags::NOSIGNAL);
    let _ = rustix::net::shutdown(&connection, Shutdown::Write);
    let mut closed = [PollFd::new(&connection, PollFlags::empty())];
    let _ = poll(&mut closed, Some(&ANSWER_PATIENCE));
}

/// A descriptor of our own for the call's connection.
#[expect(unsafe_code, reason = "the server names its connection by a number")]
fn borrow(context: &TtrpcContext) -> std::io::Result<std::os::fd::OwnedFd> {
    // SAFETY: the server keeps the connection open for as long as it waits for this call's answer.
    let connection = unsafe { BorrowedFd::borrow_raw(context.fd) };
    connection.as_fd().try_clone_to_owned()
}
