// SPDX-License-Identifier: Apache-2.0
//! A virtual machine's life, seen from the engine: start its monitor, wait until the guest's agent
//! says hello, connect to it, end it.
//!
//! Everything is waited for with poll(2): the agent's connection, the monitor's reports, its death,
//! a signal to this process, a deadline. One machine belongs to one process; its monitor holds the
//! read end of a pipe and ends when this process does, however that happens.

mod connect;
mod control;
mod evict;
mod machine;
mod report;
pub mod rundir;
mod wake;
mod words;

use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::{Errno, FdFlags, fcntl_setfd};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use thiserror::Error;
use walnut_protocol::agent::Hello;
use walnut_protocol::hello::{HelloError, read_hello};
use walnut_protocol::{Client, READY_PORT};
use walnut_vmm_config::Ending;

pub use connect::{agent, connect, dial, resume};
pub use control::{Control, ControlError};
pub use evict::evict;
use machine::Inherited;
pub use machine::{Machine, Origin, template_cmdline};
pub use report::Reports;
use rundir::RunDir;
pub use wake::wake;
pub use words::During;

use crate::checkpoint::Hardware;
use crate::paths::Artifacts;

#[derive(Debug, Error)]
pub enum VmError {
    #[error("write the machine's configuration")]
    Config(#[source] io::Error),
    #[error("listen for the agent")]
    Listen(#[source] io::Error),
    #[error("start {path}")]
    Spawn {
        path: std::path::PathBuf,
        source: io::Error,
    },
    #[error("wait for the machine")]
    Poll(#[source] Errno),
    #[error("take the agent's call")]
    Accept(#[source] io::Error),
    #[error(transparent)]
    Hello(#[from] HelloError),
    #[error("{}", words::ended(&.ending.as_ref(), *.during, .log))]
    Ended {
        ending: Option<Ending>,
        during: During,
        /// The end of the console, or of what the monitor said.
        log: String,
    },
    #[error("{}", words::not_ready(.after, .console))]
    NotReady { after: Duration, console: String },
    #[error("connect to the guest's port {port}")]
    Connect { port: u32, source: io::Error },
}

/// How the wait for the agent ended, if not in an error.
#[derive(Debug)]
pub enum Ready {
    Hello(Hello),
    /// The agent of a template listens: there is no hello.
    Restored,
    /// One of the interrupts became readable.
    Interrupted,
}

/// Time for a connected peer to say one short thing.
const PEER_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for the monitor to end by itself, after the guest's reset or its last report.
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// A machine; killed and cleared away when dropped.
#[derive(Debug)]
pub struct Vm {
    child: Child,
    pidfd: OwnedFd,
    started: Instant,
    reports: Reports,
    /// For the agent's first connection; not of one that came with a template.
    listener: Option<UnixListener>,
    control: Arc<Control>,
    hardware: Hardware,
    /// The agent's first connection; it stays open as long as the agent lives.
    hello: Option<UnixStream>,
    /// Closing it ends the monitor.
    _lifeline: OwnedFd,
    dir: Arc<RunDir>,
}

impl Vm {
    /// Starts a monitor. The guest is on its way when this returns, no more.
    pub fn start(
        artifacts: &Artifacts,
        machine: &Machine,
        origin: &Origin,
        dir: Arc<RunDir>,
    ) -> Result<Self, VmError> {
        dir.clear_sockets().map_err(VmError::Listen)?;
        // Before the guest can call.
        let listener = match origin.snapshot() {
            Some(_) => None,
            None => Some(UnixListener::bind(dir.vsock_port(READY_PORT)).map_err(VmError::Listen)?),
        };
        let (control, theirs) = Control::pair().map_err(VmError::Config)?;
        let config_error = |e: Errno| VmError::Config(e.into());
        let (lifeline_read, lifeline) = pipe_with(PipeFlags::CLOEXEC).map_err(config_error)?;
        let (report_read, report) = pipe_with(PipeFlags::CLOEXEC).map_err(config_error)?;
        let inherited = Inherited {
            lifeline: lifeline_read.as_raw_fd(),
            report: report.as_raw_fd(),
            control: theirs.as_raw_fd(),
        };
        let document = machine.config(artifacts, &dir, origin, inherited);
        log::debug!("machine: {document:?}");
        let config = config_file(&document).map_err(VmError::Config)?;
        let log = File::create(dir.monitor_log()).map_err(VmError::Config)?;
        // The monitor inherits these. No other thread starts a program meanwhile.
        let network = machine.inherited.iter().map(AsFd::as_fd);
        let fds = [
            config.as_fd(),
            lifeline_read.as_fd(),
            report.as_fd(),
            theirs.as_fd(),
        ];
        for fd in fds.into_iter().chain(network) {
            fcntl_setfd(fd, FdFlags::empty()).map_err(config_error)?;
        }
        let child = Command::new(&artifacts.monitor)
            .args(["--config-fd", &config.as_raw_fd().to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            // A terminal's ^C is for the container; the monitor ends with its lifeline.
            .process_group(0)
            .spawn()
            .map_err(|source| VmError::Spawn {
                path: artifacts.monitor.clone(),
                source,
            })?;
        let pidfd = pid_of(&child)
            .ok_or(Errno::SRCH)
            .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()))
            .map_err(VmError::Poll)?;
        let reports = Reports::new(report_read).map_err(VmError::Config)?;
        Ok(Self {
            child,
            pidfd,
            started: Instant::now(),
            reports,
            listener,
            control: Arc::new(control),
            hardware: Hardware {
                cpus: document.cpus,
                memory_mib: document.memory_mib,
                // Behind the guest's own root.
                image: document.pmem.into_iter().nth(1),
            },
            hello: None,
            _lifeline: lifeline,
            dir,
        })
    }

    /// Waits for the agent's hello, the monitor's end, any of `interrupts`, or until `timeout` after
    /// the start.
    pub fn wait_ready(
        &mut self,
        timeout: Duration,
        interrupts: &[BorrowedFd<'_>],
    ) -> Result<Ready, VmError> {
        let deadline = self.started + timeout;
        loop {
            let mut fds: Vec<_> = interrupts.iter().map(|fd| (*fd, POLLIN)).collect();
            fds.extend(self.listener.as_ref().map(|fd| (fd.as_fd(), POLLIN)));
            let left = deadline.saturating_duration_since(Instant::now());
            let events = self.poll_with(&fds, left)?;
            self.reports.drain();
            let (interrupts, hello) = events.ready.split_at(interrupts.len());
            if interrupts.contains(&true) {
                return Ok(Ready::Interrupted);
            }
            match (&self.listener, hello) {
                (Some(listener), [true]) => {
                    let (stream, hello) = greet(listener)?;
                    self.hello = Some(stream);
                    return Ok(Ready::Hello(hello));
                }
                // A dead one has run, too.
                (None, _) if self.reports.running_us.is_some() && !events.dead => {
                    return Ok(Ready::Restored);
                }
                _ => {}
            }
            if events.dead {
                return Err(self.ended(During::Start));
            }
            // Not where nothing is ready: reports may come without end.
            if left.is_zero() {
                return Err(VmError::NotReady {
                    after: timeout,
                    console: self.console_tail(),
                });
            }
        }
    }

    /// Polls `fds` and, beside them, the monitor's reports and death.
    fn poll_with(
        &self,
        fds: &[(BorrowedFd<'_>, PollFlags)],
        timeout: Duration,
    ) -> Result<Events, VmError> {
        let mut set: Vec<PollFd<'_>> = Vec::with_capacity(fds.len() + 2);
        set.extend(
            fds.iter()
                .map(|(fd, flags)| PollFd::from_borrowed_fd(*fd, *flags)),
        );
        set.push(PollFd::new(&self.pidfd, POLLIN));
        set.extend(
            self.reports
                .fd()
                .map(|fd| PollFd::from_borrowed_fd(fd, POLLIN)),
        );
        let timeout = Timespec::try_from(timeout).ok();
        match poll(&mut set, timeout.as_ref()) {
            Err(Errno::INTR) => {}
            polled => drop(polled.map_err(VmError::Poll)?),
        }
        let is_ready = |at: usize| !set[at].revents().is_empty();
        Ok(Events {
            ready: (0..fds.len()).map(is_ready).collect(),
            dead: is_ready(fds.len()),
        })
    }

    /// Polls `fds` for as long as the monitor lives; which of them are ready.
    pub fn poll(&mut self, fds: &[BorrowedFd<'_>]) -> Result<Events, VmError> {
        let fds: Vec<_> = fds.iter().map(|fd| (*fd, POLLIN)).collect();
        let events = self.poll_with(&fds, Duration::MAX)?;
        self.reports.drain();
        Ok(events)
    }

    /// A stream to the guest's listener on `port`.
    pub fn connect(&self, port: u32) -> Result<UnixStream, VmError> {
        connect(&self.dir.vsock(), port)
    }

    pub fn agent(&self) -> Result<Client, VmError> {
        agent(&self.dir.vsock())
    }

    /// For a machine that is to become a template: waits until its agent has hung up.
    pub fn wait_silent(&mut self) -> io::Result<()> {
        match &mut self.hello {
            Some(stream) => io::copy(stream, &mut io::sink()).map(drop),
            None => Ok(()),
        }
    }

    pub fn control(&self) -> &Control {
        &self.control
    }

    /// For whoever makes checkpoints of it, on any thread.
    pub fn handle(&self) -> io::Result<Handle> {
        Ok(Handle {
            control: Arc::clone(&self.control),
            monitor: self.pidfd.try_clone()?,
            hardware: self.hardware.clone(),
        })
    }

    pub fn reports(&self) -> &Reports {
        &self.reports
    }

    /// Why the monitor ended, for somebody who found it dead or a connection to it closed.
    pub fn ended(&mut self, during: During) -> VmError {
        self.wait_end(END_TIMEOUT);
        self.reports.drain();
        let log = match self.reports.ending {
            Some(Ending::GuestPanic { .. }) => self.console_tail(),
            _ => tail(&self.dir.monitor_log()),
        };
        VmError::Ended {
            ending: self.reports.ending.clone(),
            during,
            log,
        }
    }

    /// Waits until the monitor has ended, at most `timeout`; whether it has.
    pub fn wait_end(&mut self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.poll_with(&[], left) {
                Ok(events) if events.dead => return true,
                Ok(_) if left.is_zero() => return false,
                // A report, or a signal.
                Ok(_) => self.reports.drain(),
                Err(_) => return false,
            }
        }
    }

    pub fn console_tail(&self) -> String {
        tail(&self.dir.console())
    }
}

/// A machine, seen from another thread.
#[derive(Debug)]
pub struct Handle {
    pub control: Arc<Control>,
    monitor: OwnedFd,
    pub hardware: Hardware,
}

impl Handle {
    /// Ends the machine where it is; returns when nothing of it writes any more.
    pub fn kill(&self) -> rustix::io::Result<()> {
        match pidfd_send_signal(&self.monitor, Signal::KILL) {
            // It has ended by itself.
            Err(Errno::SRCH) => {}
            sent => sent?,
        }
        let mut fds = [PollFd::new(&self.monitor, POLLIN)];
        loop {
            match poll(&mut fds, None) {
                Err(Errno::INTR) => {}
                polled => return polled.map(drop),
            }
        }
    }
}

fn greet(listener: &UnixListener) -> Result<(UnixStream, Hello), VmError> {
    let (mut stream, _) = listener.accept().map_err(VmError::Accept)?;
    stream
        .set_read_timeout(Some(PEER_TIMEOUT))
        .map_err(VmError::Accept)?;
    let hello = read_hello(&mut stream)?;
    Ok((stream, hello))
}

impl Drop for Vm {
    fn drop(&mut self) {
        // Fails only for one that has ended by itself.
        let _ = self.child.kill();
        if let Err(e) = self.child.wait() {
            log::warn!("wait for the monitor: {e}");
        }
    }
}

/// What [`Vm::poll`] woke up for.
#[derive(Debug)]
pub struct Events {
    /// In the order of the descriptors given.
    pub ready: Vec<bool>,
    /// The monitor has ended.
    pub dead: bool,
}

const POLLIN: PollFlags = PollFlags::IN;

fn pid_of(child: &Child) -> Option<Pid> {
    Pid::from_raw(i32::try_from(child.id()).ok()?)
}

fn config_file(document: &walnut_vmm_config::VmConfig) -> io::Result<File> {
    let mut file = File::from(memfd_create("walnut-machine", MemfdFlags::CLOEXEC)?);
    // Whole, not token by token: each write is a system call.
    file.write_all(&serde_json::to_vec(document)?)?;
    file.rewind()?;
    Ok(file)
}

/// The last lines of a small log, indented for an error message.
fn tail(path: &std::path::Path) -> String {
    const LINES: usize = 12;
    let text = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim_end)
        .filter(|l| !l.is_empty())
        .collect();
    let last = &lines[lines.len().saturating_sub(LINES)..];
    // The console is the guest's: it must not drive the user's terminal.
    last.iter()
        .map(|line| {
            format!(
                "\n  {}",
                line.replace(|c: char| c.is_control() && c != '\t', "?")
            )
        })
        .collect()
}

#[cfg(test)]
mod tests;
