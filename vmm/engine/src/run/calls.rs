// SPDX-License-Identifier: Apache-2.0
//! Calls to the agent that the main thread must not wait for: it sleeps in poll(2) alone.

use std::os::fd::OwnedFd;
use std::sync::mpsc::{self, Receiver};
use std::thread;

use rustix::event::{EventfdFlags, eventfd};
use walnut_protocol::agent::{KillRequest, WaitRequest, WaitResponse};
use walnut_protocol::{CallError, Client};

/// What the main thread has the commander tell the agent.
#[derive(Debug)]
pub enum Command {
    Kill(u32),
}

/// Tells the agent of signals in a thread of its own, made for the first of them.
pub struct Commander {
    agent: Client,
    container_id: String,
    sender: Option<mpsc::Sender<Command>>,
}

impl Commander {
    pub fn new(agent: Client, container_id: String) -> Self {
        Self {
            agent,
            container_id,
            sender: None,
        }
    }

    pub fn tell(&mut self, command: Command) {
        let sender = self.sender.get_or_insert_with(|| {
            let (sender, receiver) = mpsc::channel();
            let (agent, container_id) = (self.agent.clone(), self.container_id.clone());
            thread::spawn(move || pass_all_on(receiver, &agent, &container_id));
            sender
        });
        // The thread ends only with its sender.
        let _ = sender.send(command);
    }
}

fn pass_all_on(commands: Receiver<Command>, agent: &Client, container_id: &str) {
    for command in commands {
        let container_id = container_id.to_owned();
        let done = match command {
            Command::Kill(signal) => agent.kill(&KillRequest {
                container_id,
                signal,
                ..KillRequest::default()
            }),
        };
        if let Err(e) = done {
            log::debug!("{command:?}: {e}");
        }
    }
}

pub type Waiter = Receiver<Result<WaitResponse, CallError>>;

/// The descriptor becomes readable when the answer is there.
pub fn wait_in_background(
    agent: Client,
    container_id: String,
) -> std::io::Result<(OwnedFd, Waiter)> {
    let done = eventfd(0, EventfdFlags::CLOEXEC)?;
    let tell = rustix::io::dup(&done)?;
    let (sender, receiver) = mpsc::sync_channel(1);
    thread::Builder::new().name("wait".into()).spawn(move || {
        let request = WaitRequest {
            container_id,
            ..WaitRequest::default()
        };
        // Nobody listens after an interrupt.
        let _ = sender.send(agent.wait(&request));
        let _ = rustix::io::write(&tell, &1u64.to_ne_bytes());
    })?;
    Ok((done, receiver))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_command_goes_where_it_should() {
        let (done, waiter) = {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let agent = Client::new(ours).unwrap();
            drop(theirs);
            wait_in_background(agent, "id".into()).unwrap()
        };
        // An agent that is gone is an answer, too.
        let mut count = [0; 8];
        assert_eq!(rustix::io::read(&done, &mut count).unwrap(), 8);
        assert!(waiter.recv().unwrap().is_err());
    }
}
