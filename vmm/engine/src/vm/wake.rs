// SPDX-License-Identifier: Apache-2.0
//! The first call to an agent that came with a template.

use rustix::rand::{GetRandomFlags, getrandom};
use walnut_protocol::agent::WakeRequest;
use walnut_protocol::{CallError, Client};

use crate::times::Timestamp;

/// As many random bytes as the guest's kernel makes keys of, twice.
const SEED: usize = 64;

/// Makes the clone a machine of its own: nothing may be asked of it before.
pub fn wake(agent: &Client) -> Result<(), CallError> {
    let mut seed = vec![0; SEED];
    let mut filled = 0;
    while filled < SEED {
        // Short reads and interruptions only: the pool is as large as it gets.
        filled += getrandom(&mut seed[filled..], GetRandomFlags::empty()).unwrap_or(0);
    }
    agent.wake(&WakeRequest {
        seed,
        realtime_ns: Timestamp::now().nanos(),
        ..WakeRequest::default()
    })?;
    Ok(())
}
