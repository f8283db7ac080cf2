// SPDX-License-Identifier: Apache-2.0
//! The loop: epoll over ports, joining containers, and the network's end.

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};

use super::{Link, Network, Side, Switch, SwitchError};
use crate::control::{self, Reply, Request};
use crate::peer::MAX_PEERS;
use crate::stack;

/// What an event is about, in its 64 bits.
const LISTENER: u64 = u64::MAX;
const LOCKED: u64 = u64::MAX - 1;
/// From here on: connections of containers that are about to join.
const JOINING: u64 = 1 << 32;
/// From here on: other networks of the ports' containers, [`MAX_PEERS`] for each port.
const PEER: u64 = 1 << 40;
const EVENTS: usize = 64;

/// Serves a network until its last container has left: then, under the lock that whoever wants to
/// join holds, the directory is removed.
///
/// # Errors
/// The kernel refuses to wait.
pub fn serve(
    network: Network,
    listener: OwnedFd,
    dir: &Path,
    lock: &Path,
) -> Result<(), SwitchError> {
    let mut server = Server::new(network, listener)?;
    server.begin(lock)?;
    let mut events = Vec::with_capacity(EVENTS);
    loop {
        events.clear();
        let patience = server.patience();
        let room = rustix::buffer::spare_capacity(&mut events);
        match epoll::wait(&server.poll, room, patience.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(SwitchError::Events(error.into())),
        }
        for event in &events {
            if let Some(held) = server.handle(event.data.u64(), event.flags, lock)? {
                // Nobody can have come, nor comes to this one any more: whoever wants to waits for the lock.
                let _ = std::fs::remove_dir_all(dir);
                drop((server, held));
                return Ok(());
            }
        }
        if patience.is_some() {
            server.switch.go_on(stack::now());
            server.interests();
        }
    }
}

struct Server {
    switch: Switch,
    poll: OwnedFd,
    listener: OwnedFd,
    /// Somebody who waits for the lock has it.
    locked: Arc<OwnedFd>,
    joining: Vec<Option<OwnedFd>>,
    /// A thread that waits for the lock, while there is no port.
    lock: Option<std::thread::JoinHandle<io::Result<Held>>>,
    /// There were no descriptors for who wants to join; it is tried again when somebody has left.
    deaf: bool,
}

/// The lock of the network; nothing where that is no more, and nobody can want to join.
type Held = Option<File>;

impl Server {
    fn new(network: Network, listener: OwnedFd) -> Result<Self, SwitchError> {
        let poll = epoll::create(epoll::CreateFlags::CLOEXEC)
            .map_err(|error| SwitchError::Events(error.into()))?;
        let locked = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|error| SwitchError::Events(error.into()))?;
        Ok(Self {
            switch: Switch::new(network),
            poll,
            listener,
            locked: Arc::new(locked),
            joining: Vec::new(),
            lock: None,
            deaf: false,
        })
    }

    fn begin(&mut self, lock: &Path) -> Result<(), SwitchError> {
        rustix::io::ioctl_fionbio(&self.listener, true)
            .map_err(io::Error::from)
            .and_then(|()| self.watch(self.listener.as_fd(), LISTENER))
            .and_then(|()| self.watch(self.locked.as_fd(), LOCKED))
            .map_err(SwitchError::Events)?;
        self.want_lock(lock)
    }

    /// How long nothing has to be done: for ever, unless somebody asks for names by TCP.
    fn patience(&mut self) -> Option<Timespec> {
        let now = stack::now();
        let due = self.switch.deadline(now)?;
        // At least until the clock has moved.
        let left = (due.total_micros() - now.total_micros()).max(1000);
        Timespec::try_from(Duration::from_micros(left.unsigned_abs())).ok()
    }

    fn watch(&self, fd: impl AsFd, about: u64) -> io::Result<()> {
        epoll::add(&self.poll, fd, EventData::new_u64(about), EventFlags::IN)?;
        Ok(())
    }

    /// The lock, where it is over.
    fn handle(
        &mut self,
        about: u64,
        flags: EventFlags,
        lock: &Path,
    ) -> Result<Option<Held>, SwitchError> {
        match about {
            LISTENER => {
                if let Err(error) = self.accept() {
                    log::warn!("somebody who wants to join: {error}");
                    self.listen(false);
                }
            }
            LOCKED => return self.is_over(lock),
            PEER.. => {
                let number = usize::try_from(about - PEER).unwrap_or(usize::MAX);
                self.switch.hear(number / MAX_PEERS, number % MAX_PEERS);
                self.interests();
            }
            JOINING.. => {
                let at = usize::try_from(about - JOINING).unwrap_or(usize::MAX);
                self.join(at);
                if self.switch.is_empty() {
                    self.want_lock(lock)?;
                }
            }
            port => {
                let at = usize::try_from(port >> 1).unwrap_or(usize::MAX);
                let side = match port & 1 {
                    0 => Side::Machine,
                    _ => Side::Uplink,
                };
                self.port(at, side, flags);
                if self.switch.is_empty() {
                    self.want_lock(lock)?;
                }
            }
        }
        Ok(None)
    }

    fn listen(&mut self, listens: bool) {
        self.deaf = !listens;
        let mut flags = EventFlags::empty();
        flags.set(EventFlags::IN, listens);
        // It is watched, so that can't fail.
        let _ = epoll::modify(
            &self.poll,
            &self.listener,
            EventData::new_u64(LISTENER),
            flags,
        );
    }

    fn accept(&mut self) -> io::Result<()> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let connection = accept_with(&self.listener, flags)?;
        let at = self.joining.iter().position(Option::is_none);
        let at = at.unwrap_or(self.joining.len());
        self.watch(connection.as_fd(), JOINING + at as u64)?;
        if at == self.joining.len() {
            self.joining.push(None);
        }
        self.joining[at] = Some(connection);
        Ok(())
    }

    fn join(&mut self, at: usize) {
        let Some(connection) = self.joining.get_mut(at).and_then(Option::take) else {
            return;
        };
        let reply = match control::receive_request(&connection) {
            Ok((Request::Join(join), fds)) => match self.admit(join, fds) {
                Ok(joined) => Reply::Joined(joined),
                Err(words) => Reply::Refused(words),
            },
            Ok((Request::Introduce { container }, fds)) => match self.introduce(&container, fds) {
                Ok(()) => Reply::Introduced,
                Err(words) => Reply::Refused(words),
            },
            Ok((Request::Rename { container, names }, _)) => {
                match self.switch.rename(&container, &names) {
                    Ok(()) => Reply::Renamed,
                    Err(words) => Reply::Refused(words),
                }
            }
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return,
            Err(error) => Reply::Refused(error.to_string()),
        };
        // Who is gone needs none: its machine's socket says so, too.
        let _ = control::reply(&connection, &reply);
        drop(connection);
        self.hear_again();
    }

    fn admit(&mut self, join: control::Join, fds: Vec<OwnedFd>) -> Result<control::Joined, String> {
        let (at, joined) = self.switch.join(join, fds)?;
        let about = (at as u64) << 1;
        let mut watched = Ok(());
        if let Some(port) = &self.switch.ports[at] {
            watched = self.watch(port.machine.fd(), about);
            if let (Ok(()), Some(uplink)) = (&watched, &port.uplink) {
                watched = self.watch(uplink.fd(), about | 1);
            }
        }
        if let Err(error) = watched {
            self.switch.leave(at);
            return Err(error.to_string());
        }
        Ok(joined)
    }

    fn introduce(&mut self, container: &str, fds: Vec<OwnedFd>) -> Result<(), String> {
        let (at, peer) = self.switch.introduce(container, fds)?;
        let port = self.switch.ports[at].as_ref();
        let about = PEER + (at * MAX_PEERS + peer) as u64;
        match port.and_then(|port| port.peers.fd(peer)) {
            Some(fd) => self.watch(fd, about).map_err(|error| error.to_string()),
            None => Ok(()),
        }
    }

    fn port(&mut self, at: usize, side: Side, flags: EventFlags) {
        let Some(Some(port)) = self.switch.ports.get_mut(at) else {
            return;
        };
        let link = match (side, &mut port.uplink) {
            (Side::Uplink, Some(uplink)) => uplink,
            (Side::Uplink, None) => return,
            (Side::Machine, _) => &mut port.machine,
        };
        let mut result = Ok(());
        if flags.contains(EventFlags::OUT) {
            result = link.flush();
        }
        if result.is_ok() && flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
            result = self.switch.receive(at, side);
        }
        if let Err(error) = result {
            self.gone(at, side, &error);
        }
        self.interests();
    }

    fn gone(&mut self, at: usize, side: Side, error: &io::Error) {
        match side {
            Side::Machine => self.switch.leave(at),
            Side::Uplink => {
                if let Some(Some(port)) = self.switch.ports.get_mut(at) {
                    log::warn!("{} has no way out any more: {error}", port.address);
                    port.uplink = None;
                }
            }
        }
        self.hear_again();
    }

    /// A descriptor is free again.
    fn hear_again(&mut self) {
        if self.deaf {
            self.listen(true);
        }
    }

    /// What is waited for: room, where something waits; what an uplink brings, where its machine
    /// keeps up; and what a machine sends, where its uplink does.
    fn interests(&mut self) {
        for (at, port) in self.switch.ports.iter_mut().enumerate() {
            let Some(port) = port else { continue };
            let slow_uplink = port.uplink.as_ref().is_some_and(Link::is_slow);
            let about = (at as u64) << 1;
            interest(&self.poll, &mut port.machine, about, !slow_uplink);
            if let Some(uplink) = &mut port.uplink {
                interest(&self.poll, uplink, about | 1, !port.machine.is_slow());
            }
        }
    }

    /// Without a port: has the lock taken by a thread, which can wait for it.
    fn want_lock(&mut self, lock: &Path) -> Result<(), SwitchError> {
        if self.lock.is_some() {
            return Ok(());
        }
        let path = lock.to_owned();
        let locked = Arc::clone(&self.locked);
        let wait = move || {
            let file = match File::open(path) {
                // Then nobody else wants to join any more.
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                opened => opened.and_then(|file| {
                    flock(&file, FlockOperation::LockExclusive)?;
                    Ok(Some(file))
                }),
            };
            rustix::io::write(&*locked, &1_u64.to_ne_bytes())?;
            file
        };
        let thread = std::thread::Builder::new().name("lock".into()).spawn(wait);
        self.lock = Some(thread.map_err(SwitchError::Lock)?);
        Ok(())
    }

    /// With the lock: nobody is about to join. It is over if nobody has.
    fn is_over(&mut self, lock: &Path) -> Result<Option<Held>, SwitchError> {
        let mut count = [0; 8];
        let _ = rustix::io::read(&*self.locked, &mut count);
        let Some(thread) = self.lock.take() else {
            return Ok(None);
        };
        let held = thread
            .join()
            .unwrap_or_else(|_| Err(io::ErrorKind::Other.into()));
        let held = held.map_err(SwitchError::Lock)?;
        if !self.switch.is_empty() {
            return Ok(None);
        }
        if self.joining.iter().all(Option::is_none) {
            return Ok(Some(held));
        }
        self.want_lock(lock)?;
        Ok(None)
    }
}

/// Tells the kernel where something else is waited for than before.
fn interest(poll: &OwnedFd, link: &mut Link, about: u64, wants_more: bool) {
    let mut flags = EventFlags::empty();
    flags.set(EventFlags::IN, wants_more);
    flags.set(EventFlags::OUT, link.waiting() > 0);
    if link.interest != flags {
        link.interest = flags;
        // It fails for what is not watched: nothing here.
        let _ = epoll::modify(poll, link.fd(), EventData::new_u64(about), flags);
    }
}
