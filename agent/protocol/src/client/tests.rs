// SPDX-License-Identifier: Apache-2.0
//! The client against the ttrpc crate's own server, and against a peer that misbehaves.

use std::os::fd::IntoRawFd;
use std::os::unix::net::UnixListener;
use std::sync::mpsc::{Receiver, Sender};

use proptest::prelude::*;
use ttrpc::TtrpcContext;

use super::*;
use crate::agent::{Empty, EntropyRequest, KillRequest, WaitRequest, WaitResponse};
use crate::agent_ttrpc::{Agent, create_agent};

/// Wait answers once Kill has been called: the two overlap on one connection.
struct Overlapping {
    killed: Mutex<Receiver<u32>>,
    kill: Mutex<Sender<u32>>,
}

impl Agent for Overlapping {
    fn wait(&self, _: &TtrpcContext, _: WaitRequest) -> ttrpc::Result<WaitResponse> {
        let mut answer = WaitResponse::new();
        answer.set_signaled(lock(&self.killed).recv().unwrap());
        Ok(answer)
    }

    fn kill(&self, _: &TtrpcContext, request: KillRequest) -> ttrpc::Result<Empty> {
        lock(&self.kill).send(request.signal).unwrap();
        Ok(Empty::new())
    }

    fn entropy(&self, _: &TtrpcContext, _: EntropyRequest) -> ttrpc::Result<Empty> {
        Err(ttrpc::Error::RpcStatus(ttrpc::get_status(
            Code::INVALID_ARGUMENT,
            "too much of it",
        )))
    }
}

fn served() -> (ttrpc::Server, Client, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let (kill, killed) = mpsc::channel();
    let service = Overlapping {
        killed: Mutex::new(killed),
        kill: Mutex::new(kill),
    };
    let mut server = ttrpc::Server::new()
        .add_listener(listener.into_raw_fd())
        .unwrap()
        .register_service(create_agent(Arc::new(service)));
    server.start().unwrap();
    (
        server,
        Client::new(UnixStream::connect(path).unwrap()).unwrap(),
        dir,
    )
}

#[test]
fn calls_overlap_on_one_connection() {
    let (_server, client, _dir) = served();
    let waiter = client.clone();
    let waiter = thread::spawn(move || waiter.wait(&WaitRequest::new()));
    client
        .kill(&KillRequest {
            signal: 9,
            ..KillRequest::default()
        })
        .unwrap();
    assert_eq!(waiter.join().unwrap().unwrap().signaled(), 9);
}

#[test]
fn a_refusal_carries_its_message() {
    let (_server, client, _dir) = served();
    let refused = client.entropy(&EntropyRequest::new()).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "the agent refused Entropy: too much of it"
    );
}

#[test]
fn a_call_gives_up_after_its_time() {
    let (_server, client, _dir) = served();
    let gave_up = client
        .within(Duration::from_millis(1))
        .wait(&WaitRequest::new());
    assert!(matches!(gave_up, Err(CallError::Timeout { .. })));
    // The late answer is nobody's, and harms nobody.
    client.kill(&KillRequest::new()).unwrap();
}

#[test]
fn the_peers_end_ends_every_call() {
    let (near, far) = UnixStream::pair().unwrap();
    let client = Client::new(near).unwrap();
    let waiter = client.clone();
    let waiter = thread::spawn(move || waiter.wait(&WaitRequest::new()));
    let mut first = [0; MESSAGE_HEADER_LENGTH];
    (&far).read_exact(&mut first).unwrap();
    drop(far);
    assert!(matches!(
        waiter.join().unwrap(),
        Err(CallError::Closed { .. })
    ));
    let after = client.sync(&Empty::new());
    assert!(matches!(
        after,
        Err(CallError::Closed { .. } | CallError::Send { .. })
    ));
}

#[test]
fn a_peer_that_takes_nothing_ends_every_call() {
    let (near, mut far) = UnixStream::pair().unwrap();
    let client = Client::writing_within(near, Duration::from_millis(50)).unwrap();
    let waiter = client.clone();
    let waiter = thread::spawn(move || waiter.wait(&WaitRequest::new()));
    far.read_exact(&mut [0; MESSAGE_HEADER_LENGTH]).unwrap();
    // More than the socket holds.
    let request = EntropyRequest {
        seed: vec![0; MESSAGE_LENGTH_MAX / 2],
        ..EntropyRequest::default()
    };
    let (tell, told) = mpsc::channel();
    let caller = client.clone();
    thread::spawn(move || tell.send(caller.entropy(&request)));
    let cut = told.recv_timeout(Duration::from_secs(30)).unwrap();
    assert_eq!(
        crate::chain(&cut.unwrap_err()),
        "send Entropy to the agent: nobody took it within 50 ms"
    );
    let waited = waiter.join().unwrap();
    assert!(matches!(waited, Err(CallError::Closed { .. })));
    let after = client.sync(&Empty::new());
    assert!(matches!(after, Err(CallError::Closed { .. })));
}

#[test]
fn the_last_handle_ends_the_connection() {
    let (near, mut far) = UnixStream::pair().unwrap();
    drop(Client::new(near).unwrap());
    assert_eq!(far.read(&mut [0]).unwrap(), 0);
}

#[test]
fn an_answer_beyond_the_limit_is_not_allocated() {
    let len = u32::try_from(MESSAGE_LENGTH_MAX + 1).unwrap();
    let mut wire = Vec::from(MessageHeader::new_response(1, len));
    wire.push(0);
    let error = read_answer(&mut wire.as_slice()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
}

proptest! {
    #[test]
    fn any_bytes_are_an_answer_or_an_error(bytes: Vec<u8>) {
        let _ = read_answer(&mut bytes.as_slice());
    }
}
