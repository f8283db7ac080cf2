// SPDX-License-Identifier: Apache-2.0
//! One machine without its engine: booted, watched up to a moment, looked at, ended.

use std::fs::{self, File};
use std::io::{self, Seek};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::pipe::{PipeFlags, pipe_with};
use walnut_protocol::READY_PORT;
use walnut_protocol::hello::{HelloError, read_hello};
use walnut_vmm_config::{Console, VmConfig, VsockConfig};

use super::kvm_stat::{self, Counters};
use super::process::{Process, ProcessError, wait_any};
use super::rows::LIMIT;
use super::smaps::{self, Footprint, Mapping};
use super::stage::{Stage, StageError};

#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    #[error(transparent)]
    Stage(#[from] StageError),
    #[error(transparent)]
    Process(#[from] ProcessError),
    #[error("can't give the monitor its configuration")]
    Config(#[source] io::Error),
    #[error("can't listen for the agent on {}", path.display())]
    Listen { path: PathBuf, source: io::Error },
    #[error("the monitor ended before the agent was ready: {console}")]
    Ended { console: String },
    #[error("the agent was not ready after {} s: {console}", LIMIT.as_secs())]
    NotReady { console: String },
    #[error(transparent)]
    Hello(#[from] HelloError),
    #[error(
        "can't read KVM's counters in {}; they need root and debugfs",
        kvm_stat::DIRECTORY
    )]
    Counters(#[source] io::Error),
    #[error("can't read the monitor's memory map")]
    Memory(#[source] io::Error),
}

/// A machine at one moment of its life.
#[derive(Debug)]
pub struct Observed {
    pub counters: Counters,
    mappings: Vec<Mapping>,
    /// The process's page tables, in KiB.
    pub page_tables_kib: u64,
    /// What the kernel's secondary page tables (KVM's, for the guest's memory) grew by, in KiB;
    /// the whole host's, so other machines count as well.
    pub nested_tables_kib: u64,
}

impl Observed {
    /// The monitor's memory, apart from the guest's.
    #[must_use]
    pub fn footprint(&self, memory_mib: u32, images: &[String]) -> Option<Footprint> {
        smaps::split(&self.mappings, u64::from(memory_mib), images)
    }
}

/// What the host has before a machine starts, to tell the machine's own from it.
struct Before {
    machines: std::collections::BTreeSet<kvm_stat::Machine>,
    nested_tables_kib: u64,
}

impl Before {
    fn look() -> Result<Self, MachineError> {
        Ok(Self {
            machines: kvm_stat::machines().map_err(MachineError::Counters)?,
            nested_tables_kib: nested_tables_kib(),
        })
    }

    fn observe(&self) -> Result<Observed, MachineError> {
        let machine = kvm_stat::newcomer(&self.machines).map_err(MachineError::Counters)?;
        let counters = machine.counters().map_err(MachineError::Counters)?;
        Ok(Observed {
            counters,
            mappings: smaps::read(machine.pid).map_err(MachineError::Memory)?,
            page_tables_kib: smaps::status_kib(machine.pid, "VmPTE")
                .map_err(MachineError::Memory)?,
            nested_tables_kib: nested_tables_kib().saturating_sub(self.nested_tables_kib),
        })
    }
}

/// `SecPageTables` of /proc/meminfo (kernel: Documentation/filesystems/proc.rst), since Linux 6.1.
fn nested_tables_kib() -> u64 {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    smaps::kib_field(&meminfo, "SecPageTables").unwrap_or(0)
}

/// Starts `command`, which starts a machine, and looks at that when `marker` comes on stdout.
///
/// # Errors
/// It doesn't come that far, or the host doesn't let itself be looked at.
pub fn until_said(
    name: &str,
    command: &mut Command,
    marker: &[u8],
) -> Result<Observed, MachineError> {
    let before = Before::look()?;
    // Stdin stays open until the end: a container that reads it lives as long.
    let mut process = Process::spawn(name, command, Stdio::piped(), LIMIT)?;
    let stdin = process.stdin();
    process.wait_for(marker)?;
    let observed = before.observe();
    drop(stdin);
    observed
}

/// Boots the machine with the monitor alone and looks at it when the guest's agent says hello.
///
/// # Errors
/// It doesn't come that far, or the host doesn't let itself be looked at.
pub fn until_ready(
    stage: &Stage,
    monitor: &Path,
    machine: &VmConfig,
) -> Result<Observed, MachineError> {
    let directory = stage.directory("vm")?;
    let socket = directory.join("v");
    let ready = directory.join(format!("v_{READY_PORT}"));
    let console = directory.join("console");
    for old in [&socket, &ready, &console] {
        let _ = fs::remove_file(old);
    }
    let listener = UnixListener::bind(&ready).map_err(|source| MachineError::Listen {
        path: ready.clone(),
        source,
    })?;
    let guest_cid = machine.vsock.as_ref().map_or(3, |vsock| vsock.guest_cid);
    // The monitor inherits the pipe's reading end and ends when this process does.
    let (lifeline, alive) = pipe_with(PipeFlags::empty()).map_err(|e| config_error(e.into()))?;
    rustix::io::fcntl_setfd(&alive, rustix::io::FdFlags::CLOEXEC)
        .map_err(|e| config_error(e.into()))?;
    let machine = VmConfig {
        console: Console::File(console.clone()),
        vsock: Some(VsockConfig {
            socket,
            guest_cid,
            resumed: Vec::new(),
        }),
        lifeline_fd: Some(lifeline.as_raw_fd()),
        report_fd: None,
        ..machine.clone()
    };
    let document = document(&machine).map_err(MachineError::Config)?;
    let mut command = Command::new(monitor);
    command.args(["--config-fd", &document.as_raw_fd().to_string()]);

    let before = Before::look()?;
    let mut process = Process::spawn("walnut-vmm", &mut command, Stdio::null(), LIMIT)?;
    drop(lifeline);
    let deadline = Instant::now() + LIMIT;
    let event = wait_any(&[listener.as_fd(), process.stdout()], deadline);
    let console = || tail(&console);
    match event.map_err(config_error)? {
        Some(0) => {}
        // Nothing but its end comes on stdout, since the console is a file.
        Some(_) => {
            let said = process.said(&[]);
            return Err(MachineError::Ended {
                console: said + &console(),
            });
        }
        None => return Err(MachineError::NotReady { console: console() }),
    }
    let (mut agent, _) = listener.accept().map_err(config_error)?;
    agent.set_read_timeout(Some(LIMIT)).map_err(config_error)?;
    read_hello(&mut agent)?;
    let observed = before.observe();
    drop(alive);
    observed
}

fn config_error(source: io::Error) -> MachineError {
    MachineError::Config(source)
}

fn document(machine: &VmConfig) -> io::Result<File> {
    let mut file = File::from(memfd_create("machine", MemfdFlags::empty())?);
    serde_json::to_writer(&file, machine)?;
    file.rewind()?;
    Ok(file)
}

fn tail(path: &Path) -> String {
    let bytes = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    lines
        .get(lines.len().saturating_sub(8)..)
        .unwrap_or_default()
        .join("; ")
}
