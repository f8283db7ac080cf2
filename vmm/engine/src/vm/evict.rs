// SPDX-License-Identifier: Apache-2.0
//! The end of a container whose machine goes on without it.

use std::time::Duration;

use walnut_protocol::agent::{DeleteRequest, KillRequest, WaitRequest};
use walnut_protocol::{CallError, Client};

const SIGKILL: u32 = 9;
/// Time for each of the agent's answers: nothing in it has to be worked for.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Kills what runs of it, and has the agent forget it: the names and the memory that it had.
///
/// # Errors
/// The machine is gone, and the container with it.
pub fn evict(agent: &Client, id: &str) -> Result<(), CallError> {
    let agent = agent.within(TIMEOUT);
    let kill = KillRequest {
        container_id: id.to_owned(),
        signal: SIGKILL,
        all: true,
        ..KillRequest::default()
    };
    let wait = WaitRequest {
        container_id: id.to_owned(),
        ..WaitRequest::default()
    };
    // One that has ended takes no signals.
    if let Err(e) = agent.kill(&kill) {
        log::debug!("kill: {e}");
    }
    agent.wait(&wait)?;
    agent.delete(&DeleteRequest {
        container_id: id.to_owned(),
        ..DeleteRequest::default()
    })?;
    Ok(())
}
