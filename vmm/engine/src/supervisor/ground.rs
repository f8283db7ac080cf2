// SPDX-License-Identifier: Apache-2.0
//! What a run stands on: a machine of its own, or a place in another container's.

use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use walnut_protocol::{CallError, Client};

use super::SupervisorError;
use crate::vm::{During, Vm, VmError, evict};

#[derive(Debug)]
pub(super) enum Ground {
    Own(Vm),
    Shared {
        agent: Client,
        /// The container whose machine it is, for people.
        host: String,
        /// What is to be forgotten at the end.
        container_id: String,
    },
}

impl Ground {
    pub fn agent(&self) -> Result<Client, VmError> {
        match self {
            Self::Own(vm) => vm.agent(),
            Self::Shared { agent, .. } => Ok(agent.clone()),
        }
    }

    /// Polls `fds` for as long as the machine lives; which of them are ready. The end of another
    /// one's is seen by the calls to its agent.
    pub fn poll(&mut self, fds: &[BorrowedFd<'_>]) -> Result<Vec<bool>, SupervisorError> {
        let Self::Own(vm) = self else {
            let fds = fds.iter();
            let mut set: Vec<PollFd<'_>> = fds
                .map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN))
                .collect();
            return match poll(&mut set, None) {
                Ok(_) => Ok(set.iter().map(|fd| !fd.revents().is_empty()).collect()),
                Err(Errno::INTR) => Ok(vec![false; set.len()]),
                Err(e) => Err(VmError::Poll(e).into()),
            };
        };
        let events = vm.poll(fds)?;
        // The answer may have come just before the end.
        if events.dead && events.ready.first() != Some(&true) {
            return Err(vm.ended(During::Run).into());
        }
        Ok(events.ready)
    }

    /// A connection that broke is a machine that ended: says why, not what was noticed first.
    pub fn explain(&mut self, error: SupervisorError) -> SupervisorError {
        let lost = matches!(
            error,
            SupervisorError::Call(CallError::Closed { .. } | CallError::Send { .. })
        );
        let unreachable = matches!(error, SupervisorError::Vm(VmError::Connect { .. }));
        match self {
            Self::Own(vm) if lost => vm.ended(During::Run).into(),
            Self::Own(vm) if unreachable => match vm.wait_end(Duration::ZERO) {
                true => vm.ended(During::Making).into(),
                false => error,
            },
            Self::Shared { host, .. } if lost || unreachable => {
                SupervisorError::HostEnded(host.clone())
            }
            _ => error,
        }
    }

    /// What another one's machine is to forget.
    pub fn leave(&self) {
        if let Self::Shared {
            agent,
            container_id,
            ..
        } = self
            && let Err(e) = evict(agent, container_id)
        {
            log::debug!("leave the machine: {e}");
        }
    }
}

/// Where a guest's ports are, and the machine that they are of.
#[derive(Debug)]
pub(super) struct Site {
    pub ground: Ground,
    pub vsock: PathBuf,
}
