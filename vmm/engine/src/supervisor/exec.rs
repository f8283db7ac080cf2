// SPDX-License-Identifier: Apache-2.0
//! One more process in a container, by its machine's agent: made, connected, started, waited for,
//! forgotten.

use std::path::Path;
use std::time::Duration;

use walnut_protocol::agent::{
    DeleteRequest, ExecRequest, KillRequest, ResizePtyRequest, StartRequest, WaitRequest,
    WaitResponse,
};
use walnut_protocol::{CallError, Client};

use super::process::{ProcessError, Streams, created, started};
use super::shared::CALL_TIMEOUT;
use crate::container::ContainerId;

/// Time for the agent to make a process, and to let it run.
const MAKE_TIMEOUT: Duration = Duration::from_secs(60);

/// What a process is known by; from any thread.
#[derive(Clone)]
pub struct Handle {
    agent: Client,
    container_id: String,
    pub exec_id: String,
}

impl Handle {
    /// Until it has ended and its output has been passed on.
    pub fn wait(&self) -> Result<WaitResponse, CallError> {
        self.agent.wait(&WaitRequest {
            container_id: self.container_id.clone(),
            exec_id: self.exec_id.clone(),
            ..WaitRequest::default()
        })
    }

    pub fn kill(&self, signal: u32) -> Result<(), CallError> {
        let request = KillRequest {
            container_id: self.container_id.clone(),
            exec_id: self.exec_id.clone(),
            signal,
            ..KillRequest::default()
        };
        self.agent.within(CALL_TIMEOUT).kill(&request).map(drop)
    }

    pub fn resize(&self, (width, height): (u32, u32)) -> Result<(), CallError> {
        let request = ResizePtyRequest {
            container_id: self.container_id.clone(),
            exec_id: self.exec_id.clone(),
            width,
            height,
            ..ResizePtyRequest::default()
        };
        let agent = self.agent.within(CALL_TIMEOUT);
        agent.resize_pty(&request).map(drop)
    }
}

/// A process that was made. It is forgotten when this goes, if it has ended by then.
pub struct Exec {
    pub handle: Handle,
    detached: bool,
}

impl Exec {
    /// Makes what `request` describes, under an ID of its own, and starts it. A detached one has no
    /// streams.
    ///
    /// # Errors
    /// It could not be made or run.
    pub fn begin(
        agent: &Client,
        vsock: &Path,
        mut request: ExecRequest,
        tty: bool,
    ) -> Result<(Self, Option<Streams>), ProcessError> {
        let id = ContainerId::random().map_err(ProcessError::Id)?;
        request.exec_id = id.to_string();
        let maker = agent.within(MAKE_TIMEOUT);
        let token = created(maker.exec(&request)?)?;
        let exec = Self {
            handle: Handle {
                agent: agent.clone(),
                container_id: request.container_id.clone(),
                exec_id: request.exec_id.clone(),
            },
            detached: request.detached,
        };
        let streams = match request.detached {
            true => None,
            false => Some(Streams::connect(vsock, &token, request.stdin, tty)?),
        };
        let start = StartRequest {
            container_id: request.container_id,
            exec_id: request.exec_id,
            ..StartRequest::default()
        };
        started(maker.start(&start)?)?;
        Ok((exec, streams))
    }
}

impl Drop for Exec {
    fn drop(&mut self) {
        if self.detached {
            return;
        }
        let request = DeleteRequest {
            container_id: self.handle.container_id.clone(),
            exec_id: self.handle.exec_id.clone(),
            ..DeleteRequest::default()
        };
        if let Err(e) = self.handle.agent.within(CALL_TIMEOUT).delete(&request) {
            log::debug!("forget the process: {e}");
        }
    }
}
