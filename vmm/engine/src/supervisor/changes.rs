// SPDX-License-Identifier: Apache-2.0
//! What is written down of a container at the turns of its life.

use walnut_protocol::chain;

use super::life::Ended;
use super::{MACHINE_ENDED, SupervisorError};
use crate::network::Attachment;
use crate::record::{State, Status};
use crate::times::Timestamp;

pub(super) fn running(state: &mut State, network: &Attachment) {
    state.network = network.clone();
    state.status = Status::Running;
    state.starting = false;
    state.started = Some(Timestamp::now());
    state.finished = None;
    state.exit_code = 0;
    state.oom_killed = false;
    state.error.clear();
    state.pid = std::process::id();
    state.manually_stopped = false;
    state.health = None;
}

pub(super) fn has_ended(state: &mut State, ended: Ended) {
    // As Docker has it of one that nobody asks any more.
    if let Some(health) = &mut state.health {
        "unhealthy".clone_into(&mut health.status);
    }
    exited(state, i32::from(ended.code));
    state.oom_killed = ended.oom_killed;
}

pub(super) fn machine_ended(state: &mut State, error: &SupervisorError) {
    exited(state, MACHINE_ENDED);
    state.error = chain(error);
}

fn exited(state: &mut State, code: i32) {
    state.status = Status::Exited;
    state.starting = false;
    state.exit_code = code;
    state.network = Attachment::default();
    state.finished = Some(Timestamp::now());
    state.pid = 0;
}

pub(super) fn never_ran(state: &mut State, error: &SupervisorError) {
    state.starting = false;
    state.exit_code = i32::from(error.exit_code());
    state.error = chain(error);
    state.pid = 0;
}
