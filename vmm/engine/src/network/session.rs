// SPDX-License-Identifier: Apache-2.0
//! All networks of a container, for one life of its machine.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use walnut_protocol::agent::Interface;
use walnut_protocol::chain;
use walnut_vmm_config::{Mac, NetBackend, NetConfig, Plug, PlugBackend};

use super::attachment::Attachment;
use super::end::End;
use super::passt::{self, Passt};
use super::{Mode, NetworkError, Other, Resolver, mac_of, member};
use crate::container::Container;
use crate::networks::Networks;
use crate::paths::Paths;

/// What stands for a device that is not there.
const ABSENT: NetConfig = NetConfig {
    backend: NetBackend::Absent,
    mac: Mac([0x02, 0, 0, 0, 0, 0]),
    mtu: None,
    finish_handshakes: false,
    rate: None,
};

/// The container's places, and what keeps them up.
#[derive(Debug, Default)]
pub struct Session {
    ends: Vec<End>,
    /// Places of network devices in the machine, some of them empty, perhaps.
    devices: u8,
    /// Of those, the ones that it comes up with.
    at_boot: u8,
    /// How the host looks names up.
    pub host: Resolver,
}

impl Session {
    /// Makes ready what the container asks for. The networks come up while the machine does:
    /// [`Self::settle`] says whether they have.
    ///
    /// # Errors
    /// A port is taken, or something that is needed is missing.
    pub fn prepare(container: &Container, paths: &Paths) -> Result<Self, NetworkError> {
        let mut session = Self {
            host: Resolver::of_host(),
            ..Self::default()
        };
        let wanted = &container.network;
        if wanted.others.is_empty() {
            session.ends.push(End::prepare(container, paths)?);
            session.number();
            return Ok(session);
        }
        let publisher = publisher(container, paths)?;
        for (at, mut one) in wanted.each().into_iter().enumerate() {
            if at == publisher {
                one.publish.clone_from(&wanted.publish);
                one.publish_all = wanted.publish_all;
            }
            let mut container = container.clone();
            container.network = one;
            session.add(
                End::prepare(&container, paths)?,
                container.id.as_str(),
                paths,
            )?;
        }
        session.number();
        Ok(session)
    }

    /// The first has its device from the start, the others theirs behind all other devices.
    fn number(&mut self) {
        let with_device = |end: &&mut End| end.config.is_some();
        for (device, end) in (0..).zip(self.ends.iter_mut().filter(with_device)) {
            end.attachment.device = device;
            self.devices = device + 1;
        }
        let first = self.ends.first();
        self.at_boot = u8::from(first.is_some_and(|first| first.config.is_some()));
    }

    /// For a machine that goes on: each device in the place that it had.
    #[must_use]
    pub fn as_it_was(mut self, was: &Attachment) -> Self {
        self.devices = was.devices;
        self.at_boot = was.at_boot;
        for end in self.ends.iter_mut().filter(|end| end.config.is_some()) {
            let attachment = &mut end.attachment;
            let mut all = was.all();
            match all.find(|one| one.network == attachment.network) {
                Some(one) => (attachment.device, attachment.index) = (one.device, one.index),
                None => {
                    attachment.device = self.devices;
                    self.devices += 1;
                }
            }
        }
        self
    }

    /// One network more while the machine runs: the device to be plugged in, and its backend.
    ///
    /// # Errors
    /// It can't be joined.
    pub fn join(
        &mut self,
        container: &Container,
        other: &Other,
        paths: &Paths,
    ) -> Result<(Plug, OwnedFd), NetworkError> {
        let mut container = container.clone();
        container.network = container.network.with(other);
        let mut end = End::prepare(&container, paths)?;
        let nothing = || NetworkError::Socket(io::ErrorKind::NotFound.into());
        let config = end.config.clone().ok_or_else(nothing)?;
        let backend = end.socket.take().ok_or_else(nothing)?;
        self.add(end, container.id.as_str(), paths)?;
        let plug = Plug {
            backend: match config.backend {
                NetBackend::TapFd(_) | NetBackend::Tap(_) => PlugBackend::Tap,
                _ => PlugBackend::Stream,
            },
            mac: config.mac,
            mtu: config.mtu,
            finish_handshakes: config.finish_handshakes,
        };
        Ok((plug, backend))
    }

    /// Which of the machine's devices has that address.
    pub fn is_device(&mut self, mac: Mac, device: u8) {
        self.devices = self.devices.max(device + 1);
        for end in &mut self.ends {
            if end.attachment.mac == Some(mac) {
                end.attachment.device = device;
            }
        }
    }

    /// One network less, and what has kept it up.
    pub fn leave(&mut self, mode: &Mode) -> Option<End> {
        let name = mode.network();
        let mut all = self.ends.iter();
        let at = all.position(|end| end.attachment.network == name)?;
        Some(self.ends.remove(at))
    }

    /// A network that another one keeps up: there is nothing to be set up for it.
    pub fn shared(attachment: Attachment) -> Self {
        Self {
            ends: vec![End::shared(attachment)],
            host: Resolver::of_host(),
            ..Self::default()
        }
    }

    /// The interface of a container that asks for nothing, without anything behind it.
    ///
    /// # Errors
    /// There is no socket to be had.
    pub fn rehearsal() -> Result<Self, NetworkError> {
        let mut session = Self {
            ends: vec![End::rehearsal()?],
            ..Self::default()
        };
        session.number();
        Ok(session)
    }

    /// One more network: those that it is on know each other's names from now on.
    fn add(&mut self, mut end: End, container: &str, paths: &Paths) -> Result<(), NetworkError> {
        let taken = |index: &u8| self.ends.iter().any(|one| one.attachment.index == *index);
        end.attachment.index = (0..=u8::MAX)
            .find(|index| !taken(index))
            .unwrap_or_default();
        self.check(&end.attachment)?;
        if let Some(key) = &end.switch {
            for other in self.ends.iter().filter_map(|one| one.switch.as_ref()) {
                let (near, far) = questions()?;
                let introduced = member::introduce(paths, key, container, near.as_fd())
                    .and_then(|()| member::introduce(paths, other, container, far.as_fd()));
                // One that was killed is no reason not to be on another.
                if let Err(error) = introduced {
                    log::warn!("names of a container's other network: {}", chain(&error));
                }
            }
        }
        self.ends.push(end);
        Ok(())
    }

    /// # Errors
    /// It can't be told from one that is there.
    fn check(&self, new: &Attachment) -> Result<(), NetworkError> {
        for one in self.ends.iter().map(|end| &end.attachment) {
            if let (Some(a), Some(b)) = (one.cidr(), new.cidr())
                && a.overlaps(b)
            {
                let (one, other) = (one.network.clone(), new.network.clone());
                return Err(NetworkError::Overlap { one, other });
            }
            if one.mac.is_some() && one.mac == new.mac {
                return Err(NetworkError::Mac(one.network.clone()));
            }
        }
        Ok(())
    }

    /// As it is recorded.
    pub fn attachment(&self) -> Attachment {
        let mut all = self.ends.iter().map(|end| end.attachment.clone());
        let mut whole = all.next().unwrap_or_default();
        whole.others.extend(all);
        (whole.devices, whole.at_boot) = (self.devices, self.at_boot);
        whole
    }

    /// For the machine's document: the devices that it comes up with, and those behind all others.
    pub fn configs(&self) -> (Vec<NetConfig>, Vec<NetConfig>) {
        let mut all = vec![ABSENT; self.devices.into()];
        for end in &self.ends {
            let place = all.get_mut(usize::from(end.attachment.device));
            if let (Some(config), Some(place)) = (&end.config, place) {
                place.clone_from(config);
            }
        }
        let late = all.split_off(all.len().min(self.at_boot.into()));
        (all, late)
    }

    /// For the monitor, which inherits them.
    pub fn take_sockets(&mut self) -> Vec<OwnedFd> {
        self.ends
            .iter_mut()
            .filter_map(|end| end.socket.take())
            .collect()
    }

    /// For the agent.
    pub fn interfaces(&self) -> Vec<Interface> {
        let ends = self.ends.iter().filter(|end| end.config.is_some());
        let mut default = true;
        let interface = |end: &End| {
            let is_default = default && !end.attachment.gateways.is_empty();
            default &= !is_default;
            end.attachment.interface(is_default)
        };
        ends.filter_map(interface).collect()
    }

    /// Waits until the published ports are listened on.
    ///
    /// # Errors
    /// Why they are not.
    pub fn settle(&mut self) -> Result<(), NetworkError> {
        let mut passts = self.ends.iter_mut().filter_map(|end| end.passt.as_mut());
        passts.try_for_each(Passt::settle)
    }

    /// Readable where [`Self::start`] is due.
    ///
    /// # Errors
    /// There are no descriptors left.
    pub fn wanted(&self) -> io::Result<Vec<OwnedFd>> {
        let passts = self.ends.iter().filter_map(|end| end.passt.as_ref());
        let wanted = passts.filter_map(Passt::wanted);
        wanted.map(|fd| fd.try_clone_to_owned()).collect()
    }

    /// Starts what was put off until the container needs it: of those that [`Self::wanted`] told of,
    /// the ones that are `due`.
    ///
    /// # Errors
    /// Why it has no way out now.
    pub fn start(&mut self, due: &[bool]) -> Result<(), NetworkError> {
        let passts = self.ends.iter_mut().filter_map(|end| end.passt.as_mut());
        let later = passts.filter(|passt| passt.wanted().is_some());
        for (passt, _) in later.zip(due).filter(|(_, due)| **due) {
            passt.start()?;
            passt.settle()?;
        }
        Ok(())
    }
}

/// Which of its networks a container's ports are published by: the first that has a way in.
fn publisher(container: &Container, paths: &Paths) -> Result<usize, NetworkError> {
    for (at, one) in container.network.each().iter().enumerate() {
        match &one.mode {
            Mode::Network(name) if Networks::new(paths).find(name)?.internal => {}
            _ => return Ok(at),
        }
    }
    Ok(0)
}

/// For questions from one switch to another.
fn questions() -> Result<(OwnedFd, OwnedFd), NetworkError> {
    let flags = SocketFlags::CLOEXEC;
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
        .map_err(|error| NetworkError::Socket(error.into()))
}

/// Whether this is the one device that containers have unless they ask for another: templates have
/// it, too.
pub fn is_usual(devices: &[NetConfig]) -> bool {
    match devices {
        [device] => {
            matches!(device.backend, NetBackend::StreamFd(_))
                && device.mac == mac_of(passt::ADDRESS)
        }
        _ => false,
    }
}
