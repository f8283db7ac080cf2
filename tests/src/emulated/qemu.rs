// SPDX-License-Identifier: Apache-2.0
//! QEMU: its command line, and the sockets that it inherits.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::io::FdFlags;

use super::tail::Tail;
use super::wire::Port;

const QEMU: &str = "qemu-system-x86_64";

#[derive(Debug, thiserror::Error)]
pub enum QemuError {
    #[error("can't make a socket pair for QEMU")]
    Socket(#[source] io::Error),
    #[error("can't start {QEMU} (by setpriv)")]
    Spawn(#[source] io::Error),
}

/// What to boot.
pub(super) struct Machine<'a> {
    pub(super) kernel: &'a Path,
    pub(super) initramfs: &'a Path,
    pub(super) memory_mib: u32,
    /// A directory to share read-write.
    pub(super) output: Option<&'a PathBuf>,
}

/// A running QEMU; killed when dropped.
pub(super) struct Qemu {
    child: Child,
    ports: Vec<(Port, UnixStream)>,
    console: Option<Tail>,
    stderr: Option<Tail>,
}

impl Qemu {
    /// Starts QEMU. It dies with the thread that calls this: call it from the main thread, or from
    /// one that lives as long as the machine.
    pub(super) fn start(machine: &Machine) -> Result<Self, QemuError> {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", QEMU]);
        base_arguments(&mut command, machine);
        let mut theirs = Vec::new();
        let mut ports = Vec::new();
        for port in Port::ALL {
            let name = format!("port{}", port.number());
            ports.push((port, socket(&mut command, &name, &mut theirs)?));
            let device = format!(
                "virtserialport,bus=serial.0,chardev={name},nr={}",
                port.number()
            );
            command.args(["-device", &device]);
        }
        let console = socket(&mut command, "console", &mut theirs)?;
        command.args(["-serial", "chardev:console"]);
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(QemuError::Spawn)?;
        let stderr = child.stderr.take().map(Tail::follow);
        Ok(Self {
            child,
            ports,
            console: Some(Tail::follow(console)),
            stderr,
        })
    }

    /// One end of a port. Each can be taken once.
    pub(super) fn take(&mut self, wanted: Port) -> UnixStream {
        let at = self.ports.iter().position(|(port, _)| *port == wanted);
        self.ports
            .swap_remove(at.expect("every port is taken once"))
            .1
    }

    /// Kills QEMU and returns the last lines of the console and of what QEMU itself said.
    pub(super) fn end(mut self, lines: usize) -> LastWords {
        self.kill();
        let last = |tail: Option<Tail>| tail.map_or_else(Vec::new, |tail| tail.into_lines(lines));
        let mut qemu = last(self.stderr.take());
        // One such line for each processor feature that TCG lacks.
        qemu.retain(|line| !line.contains("TCG doesn't support requested feature"));
        let console = last(self.console.take());
        LastWords { qemu, console }
    }

    fn kill(&mut self) {
        // It may have ended by itself already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What was said last.
pub(super) struct LastWords {
    qemu: Vec<String>,
    pub(super) console: Vec<String>,
}

impl LastWords {
    pub(super) fn all(self) -> Vec<String> {
        let mut lines = self.qemu;
        lines.extend(self.console);
        lines
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        self.kill();
    }
}

fn base_arguments(command: &mut Command, machine: &Machine) {
    command
        .args([
            "-M",
            "q35,hpet=off",
            "-accel",
            "tcg",
            "-cpu",
            "EPYC,+svm,+npt",
        ])
        // Debian's kernel dies on multi-threaded TCG: an int3 of a patched static branch gets lost.
        .args(["-smp", "1", "-m", &machine.memory_mib.to_string()])
        .args([
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
        ])
        .arg("-kernel")
        .arg(machine.kernel)
        .arg("-initrd")
        .arg(machine.initramfs)
        .args([
            "-append",
            "console=ttyS0 loglevel=4 panic=-1 mitigations=off",
        ])
        .args([
            "-virtfs",
            "local,path=/,mount_tag=root,security_model=none,readonly=on,multidevs=remap",
        ])
        .args(["-device", "virtio-serial-pci,id=serial,max_ports=8"]);
    if let Some(directory) = machine.output {
        // A comma in an option's value is written twice.
        let path = directory.to_string_lossy().replace(',', ",,");
        let share =
            format!("local,path={path},mount_tag=output,security_model=none,multidevs=remap");
        command.args(["-virtfs", &share]);
    }
}

/// Adds a character device on a socket that QEMU inherits, and returns our end.
fn socket(
    command: &mut Command,
    name: &str,
    theirs: &mut Vec<OwnedFd>,
) -> Result<UnixStream, QemuError> {
    let (ours, other) = UnixStream::pair().map_err(QemuError::Socket)?;
    rustix::io::fcntl_setfd(other.as_fd(), FdFlags::empty())
        .map_err(|error| QemuError::Socket(error.into()))?;
    command.args([
        "-chardev",
        &format!("socket,id={name},fd={}", other.as_raw_fd()),
    ]);
    theirs.push(other.into());
    Ok(ours)
}
