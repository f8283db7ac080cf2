// SPDX-License-Identifier: Apache-2.0
//! PID 1 of the emulated host: brings the machine up, runs one command, reports its end.
//!
//! Runs single-threaded until the command is started, then with one thread for each stream.
//! A panic here ends the kernel, and with it QEMU; the outside shows the console.

mod command;
mod heartbeat;
mod mounts;
mod ports;
mod processes;

use std::fs;
use std::io::{self, BufReader};
use std::path::Path;
use std::process::Command;
use std::thread;

use rustix::process::getpid;
use walnut_protocol::chain;

use super::wire::{self, ToInside, ToOutside};
use command::Running;
use ports::Ports;

#[derive(Debug, thiserror::Error)]
pub(super) enum InsideError {
    #[error("can't load the module {name}")]
    Module { name: String, source: io::Error },
    #[error("can't mount {what}")]
    Mount { what: String, source: io::Error },
    #[error("can't open the virtio-serial ports")]
    Ports(#[source] io::Error),
    #[error("can't have the clock's interrupts")]
    Clock(#[source] io::Error),
    #[error("can't talk to the outside")]
    Wire(#[source] io::Error),
    #[error("{program}: {source}")]
    Spawn { program: String, source: io::Error },
    #[error("can't wait for the command")]
    Wait(#[source] io::Error),
    #[error("no request came")]
    NoRequest,
}

impl InsideError {
    fn status(&self) -> u8 {
        match self {
            Self::Spawn { source, .. } if source.kind() == io::ErrorKind::NotFound => 127,
            Self::Spawn { .. } => 126,
            _ => 125,
        }
    }
}

/// Whether this process is the emulated host's PID 1.
#[must_use]
pub fn is_init() -> bool {
    getpid().is_init() && Path::new("/modules").is_dir()
}

/// Never returns: PID 1 must not end. The outside kills the machine when it has heard enough.
pub fn init() -> ! {
    let words = match bring_up() {
        Ok(mut ports) => {
            let message = serve(&mut ports).unwrap_or_else(|error| ToOutside::Failed {
                status: error.status(),
                message: chain(&error),
            });
            wire::send(&ports.control, &message).map_err(InsideError::Wire)
        }
        Err(error) => Err(error),
    };
    if let Err(error) = words {
        panic!("the emulated host can't come up: {}", chain(&error));
    }
    loop {
        thread::park();
    }
}

/// Everything up to the point where the outside can be heard.
fn bring_up() -> Result<Ports, InsideError> {
    mounts::early()?;
    load_modules()?;
    Ports::open().map_err(InsideError::Ports)
}

fn load_modules() -> Result<(), InsideError> {
    let failed = |name: &str, source| InsideError::Module {
        name: name.into(),
        source,
    };
    let entries = fs::read_dir("/modules").map_err(|error| failed("directory", error))?;
    let mut paths: Vec<_> = entries
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .collect();
    paths.sort();
    for path in paths {
        let name = path.display().to_string();
        let file = fs::File::open(&path).map_err(|error| failed(&name, error))?;
        rustix::system::finit_module(&file, c"", 0).map_err(|error| failed(&name, error.into()))?;
    }
    Ok(())
}

fn serve(ports: &mut Ports) -> Result<ToOutside, InsideError> {
    let control = ports.control.try_clone().map_err(InsideError::Wire)?;
    let mut control = BufReader::new(control);
    let request = wire::receive::<ToInside>(&mut control).map_err(InsideError::Wire)?;
    let Some(ToInside::Run(request)) = request else {
        return Err(InsideError::NoRequest);
    };
    mounts::all(&request)?;
    let _heartbeat = heartbeat::start().map_err(InsideError::Clock)?;
    settle();
    let mut running = Running::start(&request, ports)?;
    wire::send(&ports.control, &ToOutside::Started).map_err(InsideError::Wire)?;
    running.follow(control);
    let status = running.wait().map_err(InsideError::Wait)?;
    processes::kill_all();
    let [stdout, stderr] = running.drain();
    rustix::fs::sync();
    Ok(ToOutside::Exited {
        status,
        stdout,
        stderr,
    })
}

/// Small things that a host has; none of them is worth failing for, and a test that needs one says so.
fn settle() {
    let name = b"emulated-host";
    let _ = rustix::system::sethostname(name);
    let _ = Command::new("busybox")
        .args(["ip", "link", "set", "lo", "up"])
        .status();
    // cgroup v2: what a container engine may hand on to its children.
    for controller in ["cpuset", "cpu", "io", "memory", "pids"] {
        let _ = fs::write(
            "/sys/fs/cgroup/cgroup.subtree_control",
            format!("+{controller}"),
        );
    }
    let _ = fs::write("/proc/sys/net/ipv4/ping_group_range", "0 2147483647");
    let _ = mounts::kvm_device();
}

/// The bytes of a request as the strings that they are.
fn os(bytes: &[u8]) -> &std::ffi::OsStr {
    std::os::unix::ffi::OsStrExt::from_bytes(bytes)
}
