// SPDX-License-Identifier: Apache-2.0
//! One run of a container in one machine: create, start, see it through, end.
//!
//! The main thread sleeps in poll(2) on signals, on the monitor's death and on the container's end.
//! Calls to the agent that may take long are other threads': a guest that hangs must not keep ^C
//! from working.

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;
use walnut_protocol::agent::{
    AdoptRequest, CreateRequest, Empty, ShutdownRequest, StartRequest, WaitResponse,
};
use walnut_protocol::{Client, chain};

use super::SupervisorError;
use super::checkpoint::OwnMachine;
use super::ground::{Ground, Site};
use super::networking::Networking;
use super::output::Outputs;
use super::process::{Streams, created, exit_code, started};
use super::shared::CALL_TIMEOUT;
use crate::checkpoint::Record;
use crate::container::Container;
use crate::log_file::Stream;
use crate::network::Attachment;
use crate::run::calls::{Command, Commander, wait_in_background};
use crate::run::signals::{Caught, SignalError, Signals};
use crate::run::stdio;
use crate::run::timings::{Timings, now_us};
use crate::spec;
use crate::storage::Layout;
use crate::vm::{Ready, Vm, wake};

/// Time for the agent to make a container: image and disk are mounted meanwhile.
pub(super) const CREATE_TIMEOUT: Duration = Duration::from_secs(60);
/// Time for file systems to be written back.
pub(super) const SYNC_TIMEOUT: Duration = Duration::from_secs(60);
/// As many ^C as end a container that ignores them (Docker's number).
const MAX_INTERRUPTS: u32 = 3;

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ended {
    pub code: u8,
    pub oom_killed: bool,
}

impl Ended {
    /// Of one whose machine this process has ended: Docker's of one that was killed.
    pub const HERE: Self = Self {
        code: 137,
        oom_killed: false,
    };
}

pub(super) struct Life<'a> {
    container: &'a Container,
    outputs: &'a Outputs,
    create: CreateRequest,
    /// The guest may hold writes to the host's files. The shared directories' own never wait: they
    /// are written through, and mapped pages when the mapping goes. But who may mount can have put
    /// another file system on one of their files.
    must_sync: bool,
    has_disk: bool,
    site: Site,
    /// Of a machine that was restored: it has been woken.
    agent: Option<Client>,
    /// The container is in the machine already.
    from: Option<&'a Record>,
    /// For checkpoints: named volumes that are written to, and their files.
    volumes: Vec<(String, PathBuf)>,
    network: Arc<Networking>,
    signals: &'a Signals,
}

impl<'a> Life<'a> {
    /// Prepares the container while its machine boots.
    pub fn new(
        container: &'a Container,
        layout: &Layout,
        (site, network): (Site, Arc<Networking>),
        outputs: &'a Outputs,
        signals: &'a Signals,
        tty_size: Option<(u32, u32)>,
    ) -> Result<Self, SupervisorError> {
        let create = spec::request(container, layout, &network.hold(), tty_size)?;
        let may_mount = container.security.capabilities.contains("CAP_SYS_ADMIN");
        Ok(Self {
            container,
            outputs,
            create,
            must_sync: may_mount && !layout.fs.is_empty(),
            has_disk: !layout.disks.is_empty(),
            site,
            agent: None,
            from: None,
            volumes: Vec::new(),
            network,
            signals,
        })
    }

    /// The machine goes on from a checkpoint.
    pub fn from(&mut self, record: Option<&'a Record>) {
        self.from = record;
    }

    pub fn writes_to(&mut self, volumes: Vec<(String, PathBuf)>) {
        self.volumes = volumes;
    }

    pub fn wait_ready(
        &mut self,
        timeout: Duration,
        timings: &mut Timings,
    ) -> Result<(), SupervisorError> {
        let Ground::Own(vm) = &mut self.site.ground else {
            return Ok(());
        };
        loop {
            let interrupts = [self.signals.as_fd(), self.outputs.shared.stop_fd()];
            match vm.wait_ready(timeout, &interrupts)? {
                Ready::Interrupted => {
                    if let Some(signal) = ending_signal(self.signals)? {
                        return Err(SupervisorError::Interrupted(signal as i32));
                    }
                    if self.outputs.shared.is_stopping() {
                        return Err(SupervisorError::Interrupted(Signal::SIGKILL as i32));
                    }
                }
                Ready::Restored => {
                    mark_monitor(vm, timings);
                    let agent = vm.agent()?;
                    timings.mark("agent");
                    wake(&agent.within(CREATE_TIMEOUT))?;
                    timings.mark("wake");
                    self.agent = Some(agent);
                    return Ok(());
                }
                Ready::Hello(hello) => {
                    let ready = now_us();
                    if hello.version != env!("CARGO_PKG_VERSION") {
                        log::warn!("the agent is of version {}, this is not", hello.version);
                    }
                    mark_monitor(vm, timings);
                    let agent = hello.ready_us.saturating_sub(hello.started_us);
                    timings.mark_at("kernel", ready.saturating_sub(agent));
                    timings.mark_at("agent", ready);
                    return Ok(());
                }
            }
        }
    }

    /// Creates, starts and sees the container through. `begun` is told when it runs.
    pub fn run(
        mut self,
        timings: &mut Timings,
        begun: impl FnOnce(&Attachment),
    ) -> Result<Ended, SupervisorError> {
        let result = self.run_container(timings, begun);
        self.outputs.shared.machine_ends();
        self.site.ground.leave();
        if result.is_err()
            && let Ground::Own(vm) = &self.site.ground
        {
            log::debug!("the end of the console:{}", vm.console_tail());
        }
        result.map_err(|error| self.site.ground.explain(error))
    }

    fn run_container(
        &mut self,
        timings: &mut Timings,
        begun: impl FnOnce(&Attachment),
    ) -> Result<Ended, SupervisorError> {
        // Before the container can do anything, its ports are listened on.
        self.network.hold().settle()?;
        let agent = match self.agent.take() {
            Some(agent) => agent,
            None => self.site.ground.agent()?,
        };
        let streams = match self.from {
            None => self.start(&agent, timings)?,
            Some(record) => self.go_on(&agent, record)?,
        };
        self.pump(streams, &agent)
            .map_err(SupervisorError::Streams)?;
        let attachment = self.network.hold().attachment();
        begun(&attachment);
        let ended = self.wait(&agent);
        let shared = &self.outputs.shared;
        shared.process_ended();
        shared.see_out(ended.is_ok() || shared.is_ended_here());
        let ended = ended?;
        if let Some(first) = stdio::FIRST_BYTE_US.get() {
            timings.mark_at("first byte", *first);
        }
        timings.mark("exit");
        if let Err(error) = self.finish(&agent) {
            let error = self.site.ground.explain(error);
            log::warn!(
                "not all that the container wrote is on disk: {}",
                chain(&error)
            );
        }
        timings.mark("end");
        self.warn_of_oom(&ended);
        Ok(Ended {
            code: exit_code(&ended),
            oom_killed: ended.oom_killed,
        })
    }

    fn start(&self, agent: &Client, timings: &mut Timings) -> Result<Streams, SupervisorError> {
        let agent = agent.within(CREATE_TIMEOUT);
        let token = created(agent.create(&self.create)?)?;
        timings.mark("create");
        let container = self.container;
        let (stdin, tty) = (container.interactive, container.tty);
        let streams = Streams::connect(&self.site.vsock, &token, stdin, tty)?;
        let start = StartRequest {
            container_id: container.id.to_string(),
            ..StartRequest::default()
        };
        started(agent.start(&start)?)?;
        timings.mark("start");
        Ok(streams)
    }

    /// The container runs already: it is this one from now on.
    fn go_on(&self, agent: &Client, record: &Record) -> Result<Streams, SupervisorError> {
        let network = self.network.hold().attachment();
        let addresses = |all: &Attachment| -> Vec<Vec<String>> {
            all.all().map(|one| one.addresses.clone()).collect()
        };
        let changed = addresses(&network) != addresses(&record.network);
        let announces = network.all().any(Attachment::must_announce);
        agent.within(CREATE_TIMEOUT).adopt(&AdoptRequest {
            container_id: record.container_id.clone(),
            new_container_id: self.container.id.to_string(),
            interfaces: match changed || announces {
                true => self.network.hold().interfaces(),
                false => Vec::new(),
            },
            ..AdoptRequest::default()
        })?;
        Ok(Streams::resume(&self.site.vsock, record.streams)?)
    }

    /// Passes on what comes and goes, each in a thread.
    fn pump(&mut self, streams: Streams, agent: &Client) -> std::io::Result<()> {
        let machine = match &self.site.ground {
            Ground::Own(vm) => Some(OwnMachine {
                vm: vm.handle()?,
                streams: streams.ports,
                volumes: std::mem::take(&mut self.volumes),
                network: Arc::clone(&self.network),
            }),
            Ground::Shared { .. } => None,
        };
        self.outputs.copy(streams.stdout, Stream::Stdout)?;
        if let Some(stderr) = streams.stderr {
            self.outputs.copy(stderr, Stream::Stderr)?;
        }
        let stdin = streams.stdin.map(Arc::new);
        let shared = &self.outputs.shared;
        shared.begun(agent.clone(), stdin.clone(), machine);
        if let Some(stdin) = stdin.filter(|_| self.outputs.own) {
            stdio::input(stdin)?;
        }
        Ok(())
    }

    /// Until the container's first process has ended.
    fn wait(&mut self, agent: &Client) -> Result<WaitResponse, SupervisorError> {
        let (done, waiter) = wait_in_background(agent.clone(), self.container.id.to_string())
            .map_err(SupervisorError::Streams)?;
        let mut interrupts = 0;
        let mut commander =
            Commander::new(agent.within(CALL_TIMEOUT), self.container.id.to_string());
        loop {
            let wanted = self.network.hold().wanted();
            let wanted = wanted.map_err(SupervisorError::Streams)?;
            let mut fds = vec![done.as_fd(), self.signals.as_fd(), self.network.changed()];
            fds.extend(wanted.iter().map(AsFd::as_fd));
            let ready = self.site.ground.poll(&fds)?;
            if ready[0] {
                return match waiter.recv() {
                    Ok(answer) => Ok(answer?),
                    Err(_) => Err(SupervisorError::NoAnswer),
                };
            }
            while let Some(caught) = self.signals.next()? {
                self.pass_on(caught, &mut interrupts, &mut commander)?;
            }
            if ready[2] {
                // What is wanted now may be something else.
                self.network.seen();
            } else if let Err(e) = self.network.hold().start(&ready[3..]) {
                log::warn!("the container has no network: {}", chain(&e));
            }
        }
    }

    /// In the foreground, signals are the container's. In the background, they are for this
    /// process, which then stops it.
    fn pass_on(
        &self,
        caught: Caught,
        interrupts: &mut u32,
        commander: &mut Commander,
    ) -> Result<(), SupervisorError> {
        let Caught::Signal(signal) = caught else {
            return Ok(());
        };
        let ends = matches!(signal, Signal::SIGINT | Signal::SIGTERM);
        if !self.outputs.own {
            if ends {
                self.stop_in_background();
            }
            return Ok(());
        }
        *interrupts += u32::from(ends);
        if *interrupts >= MAX_INTERRUPTS {
            return Err(SupervisorError::Interrupted(signal as i32));
        }
        commander.tell(Command::Kill(signal as u32));
        Ok(())
    }

    fn stop_in_background(&self) {
        let shared = Arc::clone(&self.outputs.shared);
        std::thread::spawn(move || {
            if let Err(e) = shared.stop(None, None) {
                log::warn!("stop the container: {e}");
            }
        });
    }

    /// What outlives the machine is written back; the rest of it just goes.
    fn finish(&mut self, agent: &Client) -> Result<(), SupervisorError> {
        let agent = agent.within(SYNC_TIMEOUT);
        if self.has_disk {
            agent.shutdown(&ShutdownRequest::default())?;
            if let Ground::Own(vm) = &mut self.site.ground {
                vm.wait_end(SYNC_TIMEOUT);
            }
        } else if self.must_sync {
            agent.sync(&Empty::default())?;
        }
        Ok(())
    }

    fn warn_of_oom(&self, ended: &WaitResponse) {
        if !ended.oom_killed {
            return;
        }
        let limits = &self.container.limits;
        let limit = limits.memory.map_or_else(
            || format!("{} MiB of its machine", self.container.machine_memory_mib()),
            |limit| format!("--memory {}", crate::units::human_size(limit)),
        );
        log::warn!("the container ran out of memory ({limit}): a process was killed");
    }
}

fn mark_monitor(vm: &Vm, timings: &mut Timings) {
    let reports = vm.reports();
    let known = [
        ("monitor exec", reports.started_us),
        ("monitor", reports.running_us),
    ];
    for (phase, at) in known {
        at.into_iter().for_each(|at| timings.mark_at(phase, at));
    }
}

/// While there is no container yet, a signal is for this process.
fn ending_signal(signals: &Signals) -> Result<Option<Signal>, SignalError> {
    let ends = |signal: &Signal| {
        matches!(
            signal,
            Signal::SIGINT | Signal::SIGTERM | Signal::SIGHUP | Signal::SIGQUIT
        )
    };
    while let Some(caught) = signals.next()? {
        if let Caught::Signal(signal) = caught
            && ends(&signal)
        {
            return Ok(Some(signal));
        }
    }
    Ok(None)
}
