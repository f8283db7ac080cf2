// SPDX-License-Identifier: Apache-2.0
//! A container's supervisor: launches its machine, holds its streams, writes its log, restarts it
//! by its policy, records its end, answers whoever asks for it on a control socket.
//!
//! It is this very process for a `run` in the foreground, and one of its own ([`background`]) for
//! all others. Its life is the container's: the monitor hangs on a pipe of it, and the lock on the
//! container's directory says whether it lives.

mod adjust;
mod alone;
pub mod background;
mod changes;
mod checkpoint;
pub mod client;
pub mod control;
mod error;
pub mod exec;
mod ground;
mod health;
mod hub;
mod life;
mod networking;
mod origin;
pub mod output;
mod passing;
pub mod process;
pub mod restart;
pub mod shared;
pub mod stop;
mod tenant;
mod trim;
mod turn;
pub mod visit;
pub mod wire;

use std::borrow::Cow;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use walnut_protocol::chain;

use crate::checkpoint::{Checkpoint, put_back};
use crate::container::Container;
use crate::events::Event;
use crate::image::{Image, Platform, Quiet, Reference, Store};
use crate::log_file::LogWriter;
use crate::network::{Attachment, Session};
use crate::paths::{Artifacts, Paths};
use crate::record::{Alive, Config, Entry, Registry, State, Status};
use crate::run::signals::Signals;
use crate::run::timings::Timings;
use crate::storage::disk;
use crate::storage::{Layout, Source};
use crate::template::image_room;
use crate::vm::rundir::RunDir;
use crate::vm::{Machine, Origin, Vm};
use crate::volumes::{self, Claim};
use changes::{has_ended, machine_ended, never_ran, running};
pub use error::SupervisorError;
use ground::{Ground, Site};
use life::{Ended, Life};
use networking::Networking;
use origin::Start;
use output::Outputs;
use restart::BackOff;
use shared::Shared;
use turn::Turn;

/// Time for a guest to come up, on the slowest host that anybody waits for.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
const READY_TIMEOUT_VAR: &str = "WALNUT_READY_TIMEOUT_S";
/// Time to send the last answers.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Of a container whose machine ended under it: as if it had been killed.
pub(super) const MACHINE_ENDED: i32 = 137;
/// Everything a container needs to be run.
pub struct Supervisor<'a> {
    pub paths: &'a Paths,
    pub artifacts: &'a Artifacts,
    pub config: Config,
    pub entry: Entry,
    /// Held while the container runs, so that nobody else runs it.
    pub alive: Alive,
    /// Held while the container runs, so that nobody removes it.
    pub image: Option<Image>,
    /// This process's own streams are the container's.
    pub own_streams: bool,
    pub tty_size: Option<(u32, u32)>,
    /// Where its first life goes on from.
    pub checkpoint: Option<Checkpoint>,
}

impl Supervisor<'_> {
    /// Runs the container until no policy brings it up again; its last exit code. `ready` sees the
    /// shared part before anything runs, `told` hears that the container runs, or why it won't.
    pub fn run(
        self,
        timings: &mut Timings,
        ready: impl FnOnce(&Arc<Shared>) -> io::Result<()>,
        told: impl FnOnce(Result<(), &SupervisorError>),
    ) -> Result<u8, SupervisorError> {
        let signals = Signals::take_over()?;
        let container = &self.config.container;
        let (dir, dead) = RunDir::create(self.paths, self.entry.short())?;
        let dir = Arc::new(dir);
        let shared = Shared::new(self.entry.clone(), container, self.entry.raw_state()?)
            .map_err(SupervisorError::Streams)?;
        let shared = Arc::new(shared);
        let listening = control::serve(&dir.control(), &shared);
        listening
            .and_then(|()| ready(&shared))
            .map_err(|source| SupervisorError::Control {
                path: dir.control(),
                source,
            })?;
        Registry::new(self.paths).correct(&dead);
        let outputs = Outputs {
            own: self.own_streams,
            log: self.open_log()?,
            shared: Arc::clone(&shared),
        };
        let result = self.lives(&dir, &outputs, &signals, timings, told);
        if container.remove {
            self.entry.remove()?;
            self.event("destroy").emit(self.paths);
            volumes::remove_anonymous(self.paths, &container.volumes);
        }
        shared.ended(true);
        let code = result
            .as_ref()
            .map_or_else(SupervisorError::exit_code, |code| *code);
        shared.hub.end(i32::from(code), true);
        shared.wait_answered(ANSWER_TIMEOUT);
        result
    }

    /// One machine after the other.
    fn lives(
        &self,
        dir: &Arc<RunDir>,
        outputs: &Outputs,
        signals: &Signals,
        timings: &mut Timings,
        told: impl FnOnce(Result<(), &SupervisorError>),
    ) -> Result<u8, SupervisorError> {
        let shared = &outputs.shared;
        let mut back_off = BackOff::default();
        let mut told = Some(told);
        let mut checkpoint = self.checkpoint.as_ref();
        loop {
            let since = Instant::now();
            let tell = |network: &Attachment| {
                if let Err(e) = shared.update(false, |state| running(state, network)) {
                    log::warn!("{}", chain(&e));
                }
                self.tell_of_creation();
                // Before whoever started it goes on, and has more to tell.
                self.event("start").emit(self.paths);
                self.mounted("mount");
                told.take().into_iter().for_each(|told| told(Ok(())));
                self.watch_health(shared);
            };
            let site = (dir, checkpoint.take());
            let result = self.live(site, outputs, signals, timings, tell);
            let ended = match (result, told.take()) {
                // It never ran: who asked for it is told, and it is as it was before.
                (Err(e), Some(told)) => {
                    self.tell_of_creation();
                    shared.update(!self.config.container.remove, |state| never_ran(state, &e))?;
                    told(Err(&e));
                    return Err(e);
                }
                (Err(_), None) if shared.is_ended_here() => Ok(Ended::HERE),
                (Err(e), None) => {
                    shared.update(false, |state| machine_ended(state, &e))?;
                    Err(e)
                }
                (ended, _) => ended,
            };
            let code = ended.as_ref().map_or(MACHINE_ENDED, |e| i32::from(e.code));
            if ended.as_ref().is_ok_and(|ended| ended.oom_killed) {
                self.event("oom").emit(self.paths);
            }
            let died = self.event("die").with("exitCode", code);
            died.with("execDuration", since.elapsed().as_secs())
                .emit(self.paths);
            // Without its machine there is no place for it.
            let homeless = ended.is_err() && self.config.container.in_vm.is_some();
            let wants = || self.wants_another(&shared.state(), code);
            let again = !shared.is_stopping() && !homeless && wants();
            self.mounted("unmount");
            // What goes with its end needs no protection from a power failure.
            let durable = !self.config.container.remove;
            shared.update(durable && !again, |state| {
                if let Ok(ended) = &ended {
                    has_ended(state, *ended);
                }
                if again {
                    state.status = Status::Restarting;
                    state.restart_count += 1;
                }
            })?;
            if !again {
                return ended.map(|ended| ended.code);
            }
            shared.ended(false);
            shared.hub.end(code, false);
            if shared.wait_for_stop(back_off.next(since.elapsed())) {
                shared.update(true, |state| state.status = Status::Exited)?;
                return Ok(u8::try_from(code).unwrap_or(255));
            }
        }
    }

    /// In the foreground nothing waits for it: the container runs by then.
    fn tell_of_creation(&self) {
        if self.own_streams {
            let created = self.event("create").at(self.config.created);
            created.emit(self.paths);
        }
    }

    fn watch_health(&self, shared: &Arc<Shared>) {
        if let Err(e) = health::watch(&self.config, shared, self.paths) {
            log::warn!("look after the container's health: {e}");
        }
    }

    fn event(&self, action: &str) -> Event {
        // It may have been renamed.
        let config = match self.own_streams {
            true => None,
            false => self.entry.config().ok(),
        };
        let config = config.as_ref().unwrap_or(&self.config);
        Event::container(&self.entry, config, action)
    }

    /// What happens to each of its volumes.
    fn mounted(&self, action: &str) {
        for volume in &self.config.container.volumes {
            let Some(name) = &volume.name else { continue };
            let event = Event::volume(name, action).with("container", self.entry.id());
            let event = match action {
                "mount" => event
                    .with("destination", volume.target.display())
                    .with("read/write", !volume.readonly),
                _ => event,
            };
            event.emit(self.paths);
        }
    }

    /// By the policy as it is now: `update` may have changed it.
    fn wants_another(&self, state: &State, code: i32) -> bool {
        let policy = match self.entry.config() {
            Ok(config) => config.container.restart,
            Err(_) => self.config.container.restart,
        };
        policy.wants_another(code, state.restart_count)
    }

    /// With the networks and the name that it has come to have in its runs so far.
    fn container_now(&self, runs: u64) -> Cow<'_, Container> {
        let container = &self.config.container;
        let config = match runs {
            0 => return Cow::Borrowed(container),
            _ => self.entry.config(),
        };
        match config {
            Ok(config) => Cow::Owned(Container {
                name: config.container.name,
                network: config.container.network,
                ..container.clone()
            }),
            Err(_) => Cow::Borrowed(container),
        }
    }

    fn live(
        &self,
        (dir, checkpoint): (&Arc<RunDir>, Option<&Checkpoint>),
        outputs: &Outputs,
        signals: &Signals,
        timings: &mut Timings,
        begun: impl FnOnce(&Attachment),
    ) -> Result<Ended, SupervisorError> {
        let container = &self.container_now(outputs.shared.runs());
        if let Some(place) = &container.in_vm {
            return self.live_in(place, outputs, signals, timings, begun);
        }
        let mut network = match checkpoint {
            None => Session::prepare(container, self.paths)?,
            Some(checkpoint) => {
                let was = &checkpoint.record.network;
                Session::prepare(&checkpoint.with_addresses(container), self.paths)?.as_it_was(was)
            }
        };
        let (mut machine, layout, claims) = self.machine(&mut network)?;
        let network = Networking::new(network, self.paths).map_err(SupervisorError::Streams)?;
        let written = written(container, &claims);
        let start = match checkpoint {
            None => Start::choose(self, &machine)?,
            Some(checkpoint) => {
                checkpoint.check_volumes(&written)?;
                Start::from_checkpoint(self.paths, checkpoint)
            }
        };
        let restored = checkpoint.map(|checkpoint| checkpoint.restore_disk(&self.entry.disk()));
        let mut restored = restored.transpose()?.flatten();
        let mut origin = start.origin();
        let turn = Turn::wait(self.paths, &[signals.as_fd(), outputs.shared.stop_fd()]);
        loop {
            let vm = Vm::start(self.artifacts, &machine, &origin, Arc::clone(dir))?;
            timings.mark("cli");
            let site = Site {
                ground: Ground::Own(vm),
                vsock: dir.vsock(),
            };
            let place = (site, Arc::clone(&network));
            let mut life = Life::new(container, &layout, place, outputs, signals, self.tty_size)?;
            life.from(checkpoint.map(|checkpoint| &checkpoint.record));
            life.writes_to(written.clone());
            match life.wait_ready(ready_timeout(), timings) {
                Err(error) if start.gives_up(&origin, &error) => origin = Origin::Boot,
                ready => {
                    ready?;
                    // From here on it is the monitor's alone: the network goes with it, and no other
                    // program that is started holds what is the machine's.
                    machine.inherited.clear();
                    if let Some(restored) = restored.take() {
                        restored.keep();
                    }
                    return life.run(timings, |network| {
                        drop(turn);
                        begun(network);
                        start.afterwards(&origin);
                    });
                }
            }
        }
    }

    /// The claims hold as long as the machine is to live.
    fn machine(
        &self,
        network: &mut Session,
    ) -> Result<(Machine, Layout, Vec<Claim>), SupervisorError> {
        let container = &self.config.container;
        let source = self.source();
        let disk = self.writable_disk(&source)?;
        let mut layout = Layout::new(container, &source, disk.as_deref());
        let claims = volumes::claim(self.paths, self.entry.id(), &container.volumes)?;
        layout.add_named(container, &claims);
        let (net, late_net) = network.configs();
        let mut inherited: Vec<OwnedFd> = network.take_sockets();
        for claim in &claims {
            inherited.push(claim.shared().map_err(SupervisorError::Claim)?);
        }
        let machine = Machine {
            cpus: container.limits.machine_cpus(),
            memory_mib: container.limits.machine_memory_mib(),
            disks: layout.disks.clone(),
            image: layout.image.clone(),
            image_room: image_room(layout.image.as_ref()),
            fs: layout.fs.clone(),
            net,
            late_net,
            inherited,
        };
        Ok((machine, layout, claims))
    }

    fn source(&self) -> Source {
        match (&self.image, &self.config.rootfs) {
            (Some(image), _) => Source::Image(image.erofs.clone()),
            (None, Some(dir)) => Source::Directory(dir.clone()),
            (None, None) => Source::Directory(PathBuf::new()),
        }
    }

    /// What a container writes over its image is kept as long as it is.
    fn writable_disk(&self, source: &Source) -> Result<Option<PathBuf>, SupervisorError> {
        let container = &self.config.container;
        let on_image = matches!(source, Source::Image(_));
        if !on_image || container.remove || container.read_only {
            return Ok(None);
        }
        let path = self.entry.disk();
        put_back(&path);
        if !path.exists() {
            let size = container.storage_size.unwrap_or(disk::DEFAULT_SIZE);
            disk::create(&self.paths.containers(), size, &path)?;
        }
        Ok(Some(path))
    }

    fn open_log(&self) -> Result<Option<Arc<Mutex<LogWriter>>>, SupervisorError> {
        let container = &self.config.container;
        // In the foreground with --rm, the log would go with the only one who could have read it.
        if container.log.driver == "none" || (self.own_streams && container.remove) {
            return Ok(None);
        }
        let path = self.entry.log();
        match LogWriter::open(&path, &container.log) {
            Ok(log) => Ok(Some(Arc::new(Mutex::new(log)))),
            Err(source) => Err(SupervisorError::Log { path, source }),
        }
    }
}

/// The named volumes that are not read-only, and their files.
fn written(container: &Container, claims: &[Claim]) -> Vec<(String, PathBuf)> {
    let written = claims.iter().filter(|claim| !claim.readonly);
    written
        .filter_map(|claim| {
            let name = container.volumes.get(claim.index)?.name.clone()?;
            Some((name, claim.path.clone()))
        })
        .collect()
}

/// The image that a container was made of.
pub fn image_of(config: &Config, paths: &Paths) -> Result<Option<Image>, SupervisorError> {
    let Some(id) = &config.image_id else {
        return Ok(None);
    };
    let reference: Reference = id
        .to_string()
        .parse()
        .map_err(|e| SupervisorError::Reference(config.image.clone(), e))?;
    let store = Store::open(&paths.root)?;
    let image = store.resolve(&reference, &Platform::guest(), &mut Quiet)?;
    Ok(Some(image))
}

fn ready_timeout() -> Duration {
    std::env::var(READY_TIMEOUT_VAR)
        .ok()
        .and_then(|seconds| seconds.parse().ok())
        .map_or(READY_TIMEOUT, Duration::from_secs)
}
