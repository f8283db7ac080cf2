// SPDX-License-Identifier: Apache-2.0
//! The shared part with an agent that takes its time.

use std::io::{Read, Write};
use std::sync::mpsc;
use std::thread;

use super::*;
use crate::container::testing::container;
use crate::paths::Paths;
use crate::record::{Config, Registry};

/// Of a container that runs, and its agent's end.
pub(in crate::supervisor) fn running(temp: &std::path::Path) -> (Arc<Shared>, UnixStream) {
    let registry = Registry::new(&Paths::within(temp));
    let mut config = Config::new(container(&[]), "image", None, None);
    let state = State {
        status: Status::Running,
        ..State::default()
    };
    let (entry, _alive) = registry.create(&mut config, &state).unwrap();
    let shared = Shared::new(entry, &config.container, state).unwrap();
    let (ours, agents) = UnixStream::pair().unwrap();
    shared.begun(Client::new(ours).unwrap(), None, None);
    (Arc::new(shared), agents)
}

/// A call's header, as ttrpc has it: length, stream, type, flags. Its body is taken, too.
fn call(agent: &mut UnixStream) -> [u8; 10] {
    let mut header = [0; 10];
    agent.read_exact(&mut header).unwrap();
    let len = u32::from_be_bytes(header[..4].try_into().unwrap());
    agent.read_exact(&mut vec![0; len as usize]).unwrap();
    header
}

/// That all is well: nothing, in an answer's type.
fn answer(agent: &mut UnixStream, mut header: [u8; 10]) {
    header[..4].fill(0);
    header[8] = 2;
    agent.write_all(&header).unwrap();
}

/// What is to be done while the agent has been asked to pause, and has not answered.
fn pausing(meanwhile: impl FnOnce(&Shared) + Send + 'static) -> (Result<(), String>, Arc<Shared>) {
    let temp = tempfile::tempdir().unwrap();
    let (shared, mut agent) = running(temp.path());
    let pauser = Arc::clone(&shared);
    let pauser = thread::spawn(move || pauser.pause(true));
    let asked = call(&mut agent);
    let (tell, told) = mpsc::channel();
    let other = Arc::clone(&shared);
    thread::spawn(move || {
        meanwhile(&other);
        let _ = tell.send(());
    });
    // Less than the agent may take.
    told.recv_timeout(CALL_TIMEOUT / 2)
        .expect("nobody waits for the agent's answer but who asked");
    answer(&mut agent, asked);
    (pauser.join().unwrap(), shared)
}

#[test]
fn nobody_else_waits_for_a_pause() {
    let (done, shared) = pausing(|shared| assert_eq!(shared.state().status, Status::Running));
    done.unwrap();
    assert_eq!(shared.state().status, Status::Paused);
}

#[test]
fn a_container_that_ends_while_it_is_paused_has_ended() {
    let (done, shared) = pausing(|shared| {
        let end = |state: &mut State| state.status = Status::Exited;
        shared.update(false, end).unwrap();
    });
    assert!(done.unwrap_err().ends_with(" has ended"));
    assert_eq!(shared.state().status, Status::Exited);
}
