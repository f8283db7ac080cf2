// SPDX-License-Identifier: Apache-2.0
//! The agent's life as PID 1, in order.

use std::fs;
use std::sync::Arc;

use walnut_protocol::agent::Hello;
use walnut_protocol::hello::{HelloError, write_hello};
use walnut_protocol::{READY_PORT, RPC_PORT, STDIO_PORT};

use crate::agent::Agent;
use crate::boot::{BootError, boot};
use crate::failure::chain;
use crate::helper::{Helper, HelperError};
use crate::listen::{self, ListenError};
use crate::service::Service;
use crate::shutdown::Guest;
use crate::{STATE_DIR, clock, heap, jit, reaper};

/// On the command line of a machine that is to be snapshotted as soon as it is ready.
const TEMPLATE: &str = "walnut.template";

#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error("boot")]
    Boot(#[from] BootError),
    #[error("create {STATE_DIR}")]
    StateDir(#[source] std::io::Error),
    #[error(transparent)]
    Helper(#[from] HelperError),
    #[error("hold a BPF program")]
    Jit(#[source] std::io::Error),
    #[error("block SIGCHLD")]
    Signals(#[source] nix::Error),
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error(transparent)]
    Hello(#[from] HelloError),
}

/// What a container made of this program's own root prints: for trying a machine out.
#[must_use]
pub fn print_version() -> i32 {
    let line = concat!("walnut-agent ", env!("CARGO_PKG_VERSION"), "\n");
    match rustix::io::write(rustix::stdio::stdout(), line.as_bytes()) {
        Ok(_) => 0,
        Err(_) => 1,
    }
}

/// Runs the machine. Returns only where there is none to run: to anybody but PID 1, and when the
/// machine can't be brought up, which the kernel then calls a panic.
#[must_use]
pub fn main() -> i32 {
    if rustix::process::getpid() != rustix::process::Pid::INIT {
        // Descriptor 2 may be closed; there is nobody else to tell.
        let _ = rustix::io::write(
            rustix::stdio::stderr(),
            b"walnut-agent runs as a guest's PID 1\n",
        );
        return 2;
    }
    let started_us = clock::boottime_us();
    heap::keep_small();
    std::panic::set_hook(Box::new(|panic| log::error!("{panic}")));
    match start(started_us) {
        Ok(agent) => agent.reaper.run(),
        Err(error) => {
            log::error!("{}", chain(&error));
            1
        }
    }
}

fn start(started_us: u64) -> Result<Arc<Agent>, StartError> {
    let cmdline = boot()?;
    log::debug!("booted at {} us", clock::boottime_us());
    fs::create_dir_all(STATE_DIR).map_err(StartError::StateDir)?;
    let agent = Arc::new(Agent::new(Helper::spawn()?));
    log::debug!("helper at {} us", clock::boottime_us());
    reaper::ignore_sigpipe().map_err(StartError::Signals)?;
    reaper::block_sigchld().map_err(StartError::Signals)?;
    let rpc = listen::vsock_listener(RPC_PORT)?;
    let streams = listen::vsock_listener(STDIO_PORT)?;
    let service = Service {
        agent: Arc::clone(&agent),
        machine: Box::new(Guest),
    };
    let server = listen::serve(service, rpc, streams)?;
    // It serves for as long as the machine runs.
    std::mem::forget(server);
    let is_template = cmdline.split_whitespace().any(|word| word == TEMPLATE);
    if is_template {
        // Each clone has it, too.
        jit::hold().map(std::mem::forget).map_err(StartError::Jit)?;
    }
    let hello = Hello {
        version: env!("CARGO_PKG_VERSION").into(),
        started_us,
        ready_us: clock::boottime_us(),
        ..Hello::default()
    };
    match listen::vsock_connect(READY_PORT) {
        Ok(mut host) => {
            write_hello(&mut host, &hello)?;
            // Its end tells the host of ours. A template's ends at once: no clone has it.
            if !is_template {
                std::mem::forget(host);
            }
        }
        // Somebody who boots the machine by hand may not want to know.
        Err(error) => log::warn!("{}", chain(&error)),
    }
    log::debug!("ready at {} us", clock::boottime_us());
    Ok(agent)
}
