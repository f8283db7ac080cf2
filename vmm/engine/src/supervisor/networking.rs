// SPDX-License-Identifier: Apache-2.0
//! The networks of the container that this process runs: what keeps them up, and how they come and go
//! while it does. The main thread waits for what they want; each change is a control connection's.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, eventfd};
use walnut_protocol::agent::InterfacesRequest;
use walnut_protocol::chain;
use walnut_vmm_config::{Command, Mac};

use super::checkpoint::OwnMachine;
use super::shared::Shared;
use crate::container::Container;
use crate::network::{Mode, Other, Session};
use crate::paths::Paths;
use crate::spec;

/// Of one life of a machine.
#[derive(Debug)]
pub struct Networking {
    /// Never held for as long as a guest takes to answer.
    session: Mutex<Session>,
    /// Readable when there is something else to wait for.
    changed: OwnedFd,
    paths: Paths,
}

impl Networking {
    pub fn new(session: Session, paths: &Paths) -> std::io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            session: Mutex::new(session),
            changed: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            paths: paths.clone(),
        }))
    }

    pub fn hold(&self) -> MutexGuard<'_, Session> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Readable when [`Session::wanted`] is to be asked again.
    pub fn changed(&self) -> BorrowedFd<'_> {
        self.changed.as_fd()
    }

    pub fn seen(&self) {
        // Nobody has written to it otherwise.
        let _ = rustix::io::read(&self.changed, &mut [0; 8]);
    }

    fn tell(&self) {
        // It is full only where it has been told.
        let _ = rustix::io::write(&self.changed, &1_u64.to_ne_bytes());
    }

    /// What the agent is to make true now.
    fn request(&self, container: &Container) -> InterfacesRequest {
        let session = self.hold();
        let files = spec::generated(container, &session);
        InterfacesRequest {
            interfaces: session.interfaces(),
            files,
            ..InterfacesRequest::default()
        }
    }
}

impl Shared {
    /// One network more, at once.
    pub fn connect(&self, other: &Other) -> Result<(), String> {
        // The machine is asked for one thing at a time.
        let _alone = self.checkpointing();
        let (machine, container) = self.with_machine()?;
        let network = &machine.network;
        let joined = network.hold().join(&container, other, &network.paths);
        let (plug, backend) = joined.map_err(|e| chain(&e))?;
        network.tell();
        let mac = plug.mac;
        let plugged = machine.vm.control.plug(plug, backend.as_fd());
        drop(backend);
        let done = plugged.map_err(|e| chain(&e)).and_then(|device| {
            network.hold().is_device(mac, device);
            self.tell_agent(&network.request(&container))
        });
        if done.is_err() {
            let left = network.hold().leave(&other.mode);
            network.tell();
            self.take_away(&machine, &container, mac);
            drop(left);
        }
        done?;
        self.record(&machine)
    }

    /// One network less, at once.
    pub fn disconnect(&self, mode: &Mode) -> Result<(), String> {
        let _alone = self.checkpointing();
        let (machine, container) = self.with_machine()?;
        let network = &machine.network;
        let left = network.hold().leave(mode);
        let Some(left) = left else {
            return Err(format!("the container is not on network {}", mode.name()));
        };
        network.tell();
        if let Some(mac) = left.attachment.mac {
            self.take_away(&machine, &container, mac);
        }
        drop(left);
        self.record(&machine)
    }

    fn with_machine(&self) -> Result<(Arc<OwnMachine>, Container), String> {
        let short = self.entry.short();
        let config = self.entry.config().map_err(|e| chain(&e))?;
        if config.container.in_vm.is_some() {
            return Err(format!(
                "container {short} is in the machine of another one, whose networks it has"
            ));
        }
        let machine = self.machine();
        let machine = machine.ok_or_else(|| format!("container {short} is not running"))?;
        Ok((machine, config.container))
    }

    /// Whatever the guest says: what is behind the device is gone afterwards.
    fn take_away(&self, machine: &OwnMachine, container: &Container, mac: Mac) {
        if let Err(error) = self.tell_agent(&machine.network.request(container)) {
            log::warn!("the guest does not let go of {mac}: {error}");
        }
        if let Err(error) = machine.vm.control.tell(&Command::Unplug(mac), &[]) {
            log::warn!("take {mac} away: {}", chain(&error));
        }
    }

    fn tell_agent(&self, request: &InterfacesRequest) -> Result<(), String> {
        let done = self.agent()?.interfaces(request);
        done.map(drop).map_err(|e| chain(&e))
    }

    fn record(&self, machine: &OwnMachine) -> Result<(), String> {
        let network = machine.network.hold().attachment();
        let written = self.update(false, |state| state.network = network);
        written.map_err(|e| chain(&e))
    }
}
