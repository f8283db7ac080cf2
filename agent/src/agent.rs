// SPDX-License-Identifier: Apache-2.0
//! What the agent knows: its containers, its processes and the tokens that open their streams.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use walnut_protocol::stream::{StreamHeader, Token};

use crate::container::Container;
use crate::helper::Helper;
use crate::id::Id;
use crate::lock;
use crate::mounts::Mounts;
use crate::reaper::Reaper;
use crate::streams::{Streams, StreamsError};

/// More containers than one machine is for.
const MAX_CONTAINERS: usize = 1024;

#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error("container {id} exists already")]
    Exists { id: Id },
    #[error("{MAX_CONTAINERS} containers are enough")]
    TooMany,
    #[error("no container {id}")]
    NoContainer { id: Id },
    #[error("container {id} has no process {exec_id}")]
    NoProcess { id: Id, exec_id: String },
}

#[derive(Debug)]
pub struct Agent {
    pub helper: Helper,
    pub reaper: Reaper,
    /// Mounts that belong to no container.
    pub mounts: Mutex<Mounts>,
    containers: Mutex<HashMap<Id, Option<Arc<Container>>>>,
    streams: Mutex<HashMap<Token, Arc<Streams>>>,
    made: AtomicU64,
}

impl Agent {
    #[must_use]
    pub fn new(helper: Helper) -> Self {
        Self {
            helper,
            reaper: Reaper::default(),
            mounts: Mutex::default(),
            containers: Mutex::default(),
            streams: Mutex::default(),
            made: AtomicU64::new(0),
        }
    }

    /// Takes an id for a container that is being made, and gives it the agent's own name for it:
    /// short enough for a socket's path, and no name of a file in a control group.
    ///
    /// # Errors
    /// The id is taken, or there are too many.
    pub fn reserve(&self, id: &Id) -> Result<String, StateError> {
        let mut containers = lock(&self.containers);
        if containers.contains_key(id) {
            return Err(StateError::Exists { id: id.clone() });
        }
        if containers.len() >= MAX_CONTAINERS {
            return Err(StateError::TooMany);
        }
        containers.insert(id.clone(), None);
        Ok(format!("c{}", self.made.fetch_add(1, Ordering::Relaxed)))
    }

    /// Gives a reserved id its container, or back.
    pub fn settle(&self, id: &Id, container: Option<Arc<Container>>) {
        let mut containers = lock(&self.containers);
        match container {
            Some(container) => containers.insert(id.clone(), Some(container)),
            None => containers.remove(id),
        };
    }

    /// # Errors
    /// There is none, or it is still being made.
    pub fn container(&self, id: &Id) -> Result<Arc<Container>, StateError> {
        let container = lock(&self.containers).get(id).cloned().flatten();
        container.ok_or_else(|| StateError::NoContainer { id: id.clone() })
    }

    /// From now on a container goes by another id.
    ///
    /// # Errors
    /// There is no such container, or the other id is taken.
    pub fn rename(&self, id: &Id, new: &Id) -> Result<(), StateError> {
        let mut containers = lock(&self.containers);
        if id == new && containers.contains_key(id) {
            return Ok(());
        }
        if containers.contains_key(new) {
            return Err(StateError::Exists { id: new.clone() });
        }
        let none = || StateError::NoContainer { id: id.clone() };
        let container = containers.remove(id).ok_or_else(none)?;
        containers.insert(new.clone(), container);
        Ok(())
    }

    /// Forgets a container; what was made for it goes when its last user lets go.
    pub fn remove(&self, id: &Id) -> Option<Arc<Container>> {
        lock(&self.containers).remove(id).flatten()
    }

    /// As [`Self::remove`], by the container itself.
    pub fn forget(&self, container: &Arc<Container>) {
        lock(&self.containers).retain(|_, other| {
            !other
                .as_ref()
                .is_some_and(|other| Arc::ptr_eq(other, container))
        });
    }

    #[must_use]
    pub fn all_containers(&self) -> Vec<Arc<Container>> {
        lock(&self.containers).values().flatten().cloned().collect()
    }

    /// A token that opens `streams`, each of them once.
    ///
    /// # Errors
    /// The kernel has no random bytes.
    pub fn issue_token(&self, streams: &Arc<Streams>) -> rustix::io::Result<Token> {
        let mut bytes = [0; walnut_protocol::TOKEN_LEN];
        let got = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
        if got < bytes.len() {
            return Err(rustix::io::Errno::AGAIN);
        }
        let token = Token::new(bytes);
        let mut all = lock(&self.streams);
        all.retain(|_, streams| !streams.all_attached());
        if !streams.all_attached() {
            all.insert(token, Arc::clone(streams));
        }
        Ok(token)
    }

    /// Connects a stream to the process whose token it brings.
    ///
    /// # Errors
    /// The token is unknown or used up.
    pub fn attach(
        &self,
        header: StreamHeader,
        host: std::os::fd::OwnedFd,
    ) -> Result<(), StreamsError> {
        let not_wanted = || StreamsError::NotWanted { fd: header.fd };
        let streams = lock(&self.streams)
            .get(&header.token)
            .cloned()
            .ok_or_else(not_wanted)?;
        streams.attach(header.fd, host)?;
        if streams.all_attached() {
            lock(&self.streams).remove(&header.token);
        }
        Ok(())
    }
}
