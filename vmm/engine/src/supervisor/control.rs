// SPDX-License-Identifier: Apache-2.0
//! A supervisor's control socket: one thread a connection, one request each.
//!
//! Only this user's processes are answered (the directory is private, and the kernel names the
//! peer).

use std::io::{self, Read};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use rustix::net::sockopt::socket_peercred;
use rustix::process::{Resource, getrlimit};
use walnut_protocol::chain;

use super::hub::Client;
use super::shared::Shared;
use super::wire::{Condition, Frame, Reply, Request, Wanted, WireError};

/// Time for a client to say what it wants.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// The exit code of a command that is refused.
const FAILED: u8 = 1;
/// Of all that this process may have, those for one client and its share of the rest.
const DESCRIPTORS: u64 = 5;
/// Each has a thread or two.
const MAX_PLACES: u64 = 200;
/// Until it is tried again to hear who wants something.
const RETRY: Duration = Duration::from_secs(1);
/// Threads here do little.
const STACK: usize = 128 << 10;

/// Serves `path` for as long as this process lives.
pub fn serve(path: &Path, shared: &Arc<Shared>) -> io::Result<()> {
    let listener = UnixListener::bind(path)?;
    let shared = Arc::clone(shared);
    spawn("control", move || listen_on(&listener, &shared))
}

/// Whatever happens: a container that can't be told anything can't be stopped.
fn listen_on(listener: &UnixListener, shared: &Arc<Shared>) {
    let places = Places::default();
    loop {
        match listener.accept() {
            Ok((stream, _)) => accept(stream, shared, &places),
            // Others than clients have used up what there is: when one of those goes, or later.
            Err(e) => {
                log::error!("accept a control connection: {e}");
                shared.wait_for_change(RETRY);
            }
        }
    }
}

/// Those who stay, each with some descriptors: there are always enough left to be told to stop.
#[derive(Clone, Debug, Default)]
struct Places(Arc<AtomicU64>);

struct Place(Places);

impl Places {
    fn take(&self) -> Option<Place> {
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let most = (limit / DESCRIPTORS).min(MAX_PLACES);
        let place = Place(self.clone());
        (self.0.fetch_add(1, Ordering::SeqCst) < most).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::SeqCst);
    }
}

pub(super) fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new()
        .name(name.to_owned())
        .stack_size(STACK)
        .spawn(body)
        .map(drop)
}

fn accept(stream: UnixStream, shared: &Arc<Shared>, places: &Places) {
    let own = rustix::process::geteuid();
    if !socket_peercred(&stream).is_ok_and(|peer| peer.uid == own) {
        return;
    }
    let (shared, places) = (Arc::clone(shared), places.clone());
    let served = spawn("client", move || {
        if let Err(e) = converse(stream, &shared, &places) {
            log::debug!("a control connection: {}", chain(&e));
        }
    });
    if let Err(e) = served {
        log::warn!("serve a control connection: {e}");
    }
}

fn converse(
    mut stream: UnixStream,
    shared: &Arc<Shared>,
    places: &Places,
) -> Result<(), WireError> {
    stream
        .set_read_timeout(Some(REQUEST_TIMEOUT))
        .map_err(WireError::Read)?;
    let request = match Frame::read(&mut stream)? {
        None => return Ok(()),
        Some(Frame::Request(request)) => request,
        Some(other) => return Err(other.unexpected()),
    };
    stream.set_read_timeout(None).map_err(WireError::Read)?;
    let stays = matches!(request, Request::Attach(_) | Request::Wait { .. });
    let place = stays.then(|| places.take());
    if let Some(None) = place {
        let message = "too many others wait for the container, or are attached to it";
        return Frame::Reply(Reply::refused(message, FAILED)).write(&mut stream);
    }
    match request {
        Request::Attach(wanted) => attach(stream, wanted, shared),
        Request::Wait { condition } => wait(&mut stream, condition, shared),
        request => {
            shared.answering(true);
            let reply = carry_out(request, shared);
            let sent = Frame::Reply(reply).write(&mut stream);
            shared.answering(false);
            sent
        }
    }
}

/// Until the condition holds, or the client has gone.
fn wait(
    stream: &mut UnixStream,
    condition: Condition,
    shared: &Arc<Shared>,
) -> Result<(), WireError> {
    let gone = Arc::new(AtomicBool::new(false));
    let (mut watched, told) = (stream.try_clone().map_err(WireError::Read)?, gone.clone());
    let others = Arc::clone(shared);
    spawn("watch", move || {
        // It has nothing more to say.
        let _ = watched.read(&mut [0]);
        told.store(true, Ordering::SeqCst);
        others.tell();
    })
    .map_err(WireError::Read)?;
    shared.answering(true);
    let code = shared.wait(condition, || gone.load(Ordering::SeqCst));
    let sent = code.map_or(Ok(()), |code| {
        let reply = Reply {
            exit_code: Some(code),
            refused: None,
        };
        Frame::Reply(reply).write(stream)
    });
    shared.answering(false);
    // Who watches goes, too.
    let _ = stream.shutdown(Shutdown::Both);
    sent
}

fn carry_out(request: Request, shared: &Shared) -> Reply {
    let done = match request {
        Request::Attach(_) | Request::Wait { .. } => Ok(()),
        Request::Stop { signal, timeout_s } => shared.stop(signal, timeout_s),
        Request::Kill { signal } => shared.kill(signal),
        Request::Pause => shared.pause(true),
        Request::Unpause => shared.pause(false),
        Request::Checkpoint {
            dir,
            to,
            leave_running,
        } => shared.checkpoint(&dir, to.as_deref(), leave_running),
        Request::Connect(other) => shared.connect(&other),
        Request::Disconnect(mode) => shared.disconnect(&mode),
        Request::Update { resources } => shared.update_limits(&resources),
    };
    match done {
        Ok(()) => Reply::default(),
        Err(message) => Reply::refused(message, FAILED),
    }
}

fn attach(mut stream: UnixStream, wanted: Wanted, shared: &Arc<Shared>) -> Result<(), WireError> {
    Frame::Reply(Reply::default()).write(&mut stream)?;
    let reader = stream.try_clone().map_err(WireError::Read)?;
    let client = Client::new(stream, wanted).map_err(WireError::Read)?;
    shared.hub.add(Arc::clone(&client));
    let ended = listen(reader, wanted, shared);
    shared.hub.remove(&client);
    ended
}

/// Adds a client that is there before the container is, in a thread of its own.
pub fn attach_first(stream: &UnixStream, wanted: Wanted, shared: &Arc<Shared>) -> io::Result<()> {
    let reader = stream.try_clone()?;
    let client = Client::new(stream.try_clone()?, wanted)?;
    shared.hub.add(Arc::clone(&client));
    let shared = Arc::clone(shared);
    spawn("client", move || {
        if let Err(e) = listen(reader, wanted, &shared) {
            log::debug!("the first client: {}", chain(&e));
        }
        shared.hub.remove(&client);
    })
}

/// Passes a client's input on until it ends or goes.
fn listen(mut from: UnixStream, wanted: Wanted, shared: &Shared) -> Result<(), WireError> {
    let end_input = || {
        if let Some(stdin) = shared.stdin().filter(|_| wanted.stdin_once) {
            let _ = stdin.shutdown(Shutdown::Write);
        }
    };
    while let Some(frame) = Frame::read(&mut from)? {
        match frame {
            Frame::Stdin(bytes) if bytes.is_empty() => end_input(),
            Frame::Stdin(bytes) if wanted.stdin => {
                let Some(stdin) = shared.stdin() else {
                    continue;
                };
                if io::Write::write_all(&mut &*stdin, &bytes).is_err() {
                    log::debug!("the container takes no input any more");
                }
            }
            Frame::Resize { width, height } => {
                if let Err(e) = shared.resize(width, height) {
                    log::debug!("resize: {e}");
                }
            }
            other => return Err(other.unexpected()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::shared::tests::running;
    use super::*;

    #[test]
    fn who_has_gone_is_not_waited_for() {
        let temp = tempfile::tempdir().unwrap();
        let (shared, _agent) = running(temp.path());
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        thread::scope(|scope| {
            let waits = scope.spawn(|| wait(&mut ours, Condition::NotRunning, &shared));
            drop(theirs);
            waits.join().unwrap().unwrap();
        });
        assert!(shared.state().is_up());
    }

    #[test]
    fn places_are_given_back() {
        let places = Places::default();
        let taken: Vec<_> = std::iter::from_fn(|| places.take()).collect();
        assert!(!taken.is_empty() && taken.len() as u64 <= MAX_PLACES);
        assert!(places.take().is_none());
        drop(taken);
        assert!(places.take().is_some());
    }
}
