// SPDX-License-Identifier: Apache-2.0
//! The life of a monitor: open, build, jail, run, wind up.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};

use event_manager::{EventManager, EventOps, EventSet, Events, MutEventSubscriber, SubscriberOps};
use kvm_ioctls::VcpuFd;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use thiserror::Error;
use vm_superio::SerialState;
use walnut_vmm_config::{Console as ConsoleConfig, Ending, MAX_CPUS, MIN_MEMORY_MIB, VmConfig};
use walnut_vmm_host::{CpuInfo, NO_VIRTUALIZATION};

use crate::bus::Bus;
use crate::console::{Console, ConsoleError, ConsoleInput, ConsoleOutput, Tail};
use crate::control::{Anatomy, Control};
use crate::devices::Served;
use crate::ending::Ender;
use crate::hotplug::Hotplug;
use crate::jail::{self, JailError, Thread};
use crate::janitor::Janitor;
use crate::lifeline;
use crate::machine::{Machine, MachineError};
use crate::pause::{self, PauseError, Vcpus};
use crate::report::Reporter;
use crate::snapshot::memory::{Pagemap, SnapshotMemoryError};
use crate::snapshot::{Snapshot, SnapshotError};
use crate::vcpu::Vcpu;
use crate::virtio::events::DeviceEvents;
use crate::virtio::fs::volumes;

#[derive(Debug, Error)]
pub enum RunError {
    #[error("a machine has 1 to {MAX_CPUS} CPUs, not {0}")]
    Cpus(u8),
    #[error("{0} MiB of memory are too little: the guest needs {MIN_MEMORY_MIB} MiB")]
    Memory(u32),
    #[error(transparent)]
    Console(#[from] ConsoleError),
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error(transparent)]
    Pagemap(#[from] SnapshotMemoryError),
    #[error(transparent)]
    Pause(#[from] PauseError),
    #[error(transparent)]
    Machine(#[from] MachineError),
    #[error(transparent)]
    Volumes(#[from] volumes::VolumesError),
    #[error(transparent)]
    Jail(#[from] JailError),
    #[error("cannot {what}")]
    Event {
        what: &'static str,
        source: std::io::Error,
    },
    #[error("the event loop failed: {0:?}")]
    Loop(event_manager::Error),
}

fn event(what: &'static str) -> impl Fn(std::io::Error) -> RunError {
    move |source| RunError::Event { what, source }
}

type Loop = EventManager<Box<dyn MutEventSubscriber>>;

/// Runs the machine to its end. To be called from a process with one thread only.
pub fn run(mut config: VmConfig, reporter: &mut Reporter) -> Result<Ending, RunError> {
    if config.cpus == 0 || config.cpus > MAX_CPUS {
        return Err(RunError::Cpus(config.cpus));
    }
    if config.memory_mib < MIN_MEMORY_MIB {
        return Err(RunError::Memory(config.memory_mib));
    }
    let signals = block_signals().map_err(event("watch for signals"))?;
    let mut janitor = Janitor::start(&config).map_err(event("start the janitor"))?;
    volumes::prepare(&mut config.fs)?;
    // Behind the user namespace that volumes may need.
    let lifeline = config.lifeline_fd.map(inherited);
    if let Some(lifeline) = &lifeline
        && !lifeline::hold(lifeline.as_fd()).map_err(|e| event("hold the lifeline")(e.into()))?
    {
        return Ok(Ending::Stopped);
    }
    let ender = Ender::new().map_err(event("make an event"))?;
    let (output, interactive) = match &config.console {
        ConsoleConfig::Stdio => (ConsoleOutput::stdout(), true),
        ConsoleConfig::File(path) => (ConsoleOutput::file(path)?, false),
    };
    let tail = output.tail();
    let snapshot = match &config.restore {
        Some(files) => Some(Snapshot::open(files, config.memory_mib, config.cpus)?),
        None => None,
    };
    let power_on = SerialState::default();
    let serial = snapshot.as_ref().map_or(&power_on, |s| &s.state.serial);
    let console = Console::new(output, serial).map_err(event("make the console's events"))?;
    let machine = Machine::build(&config, snapshot, &console, &ender)?;
    let cpuinfo = CpuInfo::open();
    let pagemap = config.control_fd.map(|_| prepare_control()).transpose()?;
    if let Some(janitor) = &mut janitor {
        janitor.arm().map_err(event("arm the janitor"))?;
    }

    let mut event_loop = Loop::new().map_err(RunError::Loop)?;
    event_loop.add_subscriber(Box::new(Ends::new(ender.clone(), signals, lifeline)));
    if interactive {
        let input = ConsoleInput::new(console.serial.clone(), console.room);
        event_loop.add_subscriber(Box::new(input));
    }
    for events in machine.events {
        event_loop.add_subscriber(Box::new(events));
    }
    jail::enter(
        &machine
            .workers
            .iter()
            .map(|&(served, _)| served)
            .collect::<Vec<_>>(),
    )?;
    for (served, events) in machine.workers {
        spawn_worker(served, events, &ender)?;
    }
    reporter.running();
    let vcpus = start_vcpus(machine.vcpus, &machine.bus, &ender)?;
    let (newcomers, arrivals) = mpsc::channel();
    if let (Some(fd), Some(pagemap)) = (config.control_fd, pagemap) {
        let anatomy = Anatomy {
            board: machine.board,
            memory_mib: config.memory_mib,
            mapped: machine.mapped,
            bus: machine.bus,
            msrs: machine.msrs.into(),
            pagemap,
        };
        let hotplug = Hotplug::new(machine.nets, newcomers);
        let control = Control::new(inherited(fd), anatomy, vcpus, hotplug);
        event_loop.add_subscriber(Box::new(control));
    }
    jail::confine(Thread::EventLoop)?;
    loop {
        event_loop.run().map_err(RunError::Loop)?;
        for device in arrivals.try_iter() {
            event_loop.add_subscriber(Box::new(device));
        }
        if let Some(ending) = ender.ending() {
            return Ok(explain(ending, &tail, cpuinfo));
        }
    }
}

/// What a machine that takes commands needs besides the socket.
fn prepare_control() -> Result<Pagemap, RunError> {
    pause::prepare()?;
    Ok(Pagemap::open()?)
}

fn start_vcpus(fds: Vec<VcpuFd>, bus: &Arc<Bus>, ender: &Ender) -> Result<Vcpus, RunError> {
    let mut vcpus = Vcpus::default();
    for (id, fd) in (0..).zip(fds) {
        let (orders, theirs) = pause::orders();
        let vcpu = Vcpu::new(id, fd, Arc::clone(bus), ender.clone(), theirs);
        let name = format!("vcpu{id}");
        let thread = spawn(name, Thread::Vcpu, ender.clone(), move || vcpu.run())?;
        vcpus.add(orders, thread);
    }
    Ok(vcpus)
}

/// What the thread that saw the end could not know. A panicking guest resets itself; its console says
/// which of the two it was. A KVM without the processor's help gives up at what others do.
fn explain(ending: Ending, tail: &Tail, cpuinfo: CpuInfo) -> Ending {
    match (ending, tail.panic_line()) {
        (Ending::GuestReset | Ending::TripleFault, Some(message)) => Ending::GuestPanic { message },
        (Ending::KvmError { message }, _) if !cpuinfo.has_virtualization() => Ending::KvmError {
            message: format!("{message}; {NO_VIRTUALIZATION}"),
        },
        (ending, _) => ending,
    }
}

fn spawn_worker(served: Served, events: DeviceEvents, ender: &Ender) -> Result<(), RunError> {
    let kind = match served {
        Served::BlkWorker => Thread::Blk,
        Served::FsWorker | Served::EventLoop => Thread::Fs,
    };
    let name = events.name().to_owned();
    let body = move || {
        if let Err(error) = work(events) {
            log::error!("a worker's event loop failed: {error:?}");
        }
    };
    spawn(name, kind, ender.clone(), body).map(drop)
}

fn work(events: DeviceEvents) -> Result<(), event_manager::Error> {
    let mut event_loop = EventManager::<DeviceEvents>::new()?;
    event_loop.add_subscriber(events);
    loop {
        event_loop.run()?;
    }
}

/// Starts a thread that first confines itself; if it can't, or returns, the machine ends.
fn spawn(
    name: String,
    kind: Thread,
    ender: Ender,
    body: impl FnOnce() + Send + 'static,
) -> Result<JoinHandle<()>, RunError> {
    let confined = move || {
        match jail::confine(kind) {
            Ok(()) => body(),
            Err(error) => ender.end(Ending::Failed {
                message: error.to_string(),
            }),
        }
        ender.end(Ending::Failed {
            message: "a thread of the monitor ended".to_owned(),
        });
    };
    let spawned = thread::Builder::new()
        .name(name)
        .stack_size(STACK)
        .spawn(confined);
    spawned.map_err(event("start a thread"))
}

/// Threads of the monitor are shallow.
const STACK: usize = 256 << 10;

/// SIGINT, SIGTERM and SIGHUP become events of the loop, in all threads.
fn block_signals() -> std::io::Result<SignalFd> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    signals.thread_block()?;
    Ok(SignalFd::with_flags(
        &signals,
        SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC,
    )?)
}

/// Takes a descriptor that the parent passed by number.
pub fn inherited(fd: RawFd) -> OwnedFd {
    #[expect(
        unsafe_code,
        reason = "an inherited descriptor is only known by its number"
    )]
    // SAFETY: the parent says that this number is ours alone; a wrong one fails at its first use.
    unsafe {
        OwnedFd::from_raw_fd(fd)
    }
}

/// Opens the report descriptor's file.
pub fn report_file(config: &VmConfig) -> Option<File> {
    config.report_fd.map(|fd| File::from(inherited(fd)))
}

/// Everything that ends the machine from outside of it.
struct Ends {
    ender: Ender,
    signals: SignalFd,
    lifeline: Option<OwnedFd>,
}

impl Ends {
    fn new(ender: Ender, signals: SignalFd, lifeline: Option<OwnedFd>) -> Self {
        Self {
            ender,
            signals,
            lifeline,
        }
    }
}

impl MutEventSubscriber for Ends {
    fn process(&mut self, events: Events, _ops: &mut EventOps) {
        // The ender's own event only wakes the loop.
        if events.fd() != self.ender.as_raw_fd() {
            self.ender.end(Ending::Stopped);
        }
    }

    fn init(&mut self, ops: &mut EventOps) {
        let lifeline = self.lifeline.as_ref().map(AsRawFd::as_raw_fd);
        let fds = [self.ender.as_raw_fd(), self.signals.as_raw_fd()];
        for fd in fds.into_iter().chain(lifeline) {
            if let Err(error) = ops.add(Events::new_raw(fd, EventSet::IN)) {
                self.ender.end(Ending::Failed {
                    message: format!("cannot watch {fd}: {error:?}"),
                });
            }
        }
    }
}
