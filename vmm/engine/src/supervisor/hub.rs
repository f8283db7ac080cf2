// SPDX-License-Identifier: Apache-2.0
//! Clients attached to a container's streams.
//!
//! What the container writes goes to each, in the thread that read it: a client that doesn't read
//! holds the container back, as a stopped terminal does. One that is gone is forgotten.

use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use super::ANSWER_TIMEOUT;
use super::wire::{self, Frame, Wanted, WireError};
use crate::log_file::Stream;

#[derive(Debug, Default)]
pub struct Hub {
    clients: Mutex<Vec<Arc<Client>>>,
}

#[derive(Debug)]
pub struct Client {
    stream: Mutex<UnixStream>,
    /// The same, for who can't wait until it is free.
    connection: UnixStream,
    wanted: Wanted,
}

impl Client {
    pub fn new(stream: UnixStream, wanted: Wanted) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            connection: stream.try_clone()?,
            stream: Mutex::new(stream),
            wanted,
        }))
    }

    pub fn send(&self, frame: &Frame) -> Result<(), WireError> {
        frame.write(&mut *lock(&self.stream))
    }

    fn hang_up(&self) {
        // It may be gone already.
        let _ = self.connection.shutdown(Shutdown::Both);
    }
}

impl Hub {
    pub fn add(&self, client: Arc<Client>) {
        lock(&self.clients).push(client);
    }

    pub fn remove(&self, client: &Arc<Client>) {
        lock(&self.clients).retain(|other| !Arc::ptr_eq(other, client));
    }

    pub fn is_empty(&self) -> bool {
        lock(&self.clients).is_empty()
    }

    /// Passes output on to whoever wants it.
    pub fn output(&self, stream: Stream, bytes: &[u8]) {
        // Not under the lock: somebody may want to leave while another one is slow.
        let clients = lock(&self.clients).clone();
        for client in clients {
            let (kind, wanted) = match stream {
                Stream::Stdout => (wire::STDOUT, client.wanted.stdout),
                Stream::Stderr => (wire::STDERR, client.wanted.stderr),
            };
            if wanted && wire::write(&mut *lock(&client.stream), kind, bytes).is_err() {
                self.remove(&client);
            }
        }
    }

    /// Hangs up on those that output waits for.
    pub fn leave_blocked(&self) {
        let is_blocked =
            |client: &Client| matches!(client.stream.try_lock(), Err(TryLockError::WouldBlock));
        let clients = lock(&self.clients).clone();
        for client in clients.iter().filter(|client| is_blocked(client)) {
            client.hang_up();
        }
    }

    /// The container has ended, and nothing is sent any more: so do its clients. At the last end their
    /// connections stay: they tell when this process is gone.
    pub fn end(&self, code: i32, last: bool) {
        for client in std::mem::take(&mut *lock(&self.clients)) {
            // One that is gone needs no answer, nor has one that does not read it.
            let _ = client.connection.set_write_timeout(Some(ANSWER_TIMEOUT));
            let sent = client.send(&Frame::Exit { code });
            if !last || sent.is_err() {
                client.hang_up();
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_gets_what_it_wants_until_it_goes() {
        let hub = Hub::default();
        let wanted = |stdout, stderr| Wanted {
            stdout,
            stderr,
            ..Wanted::default()
        };
        let (a, mut a_end) = UnixStream::pair().unwrap();
        let (b, b_end) = UnixStream::pair().unwrap();
        hub.add(Client::new(a, wanted(true, false)).unwrap());
        hub.add(Client::new(b, wanted(true, true)).unwrap());
        drop(b_end);
        hub.output(Stream::Stderr, b"e");
        hub.output(Stream::Stdout, b"o");
        assert_eq!(lock(&hub.clients).len(), 1);
        hub.end(3, false);
        assert!(hub.is_empty());
        let mut read = || Frame::read(&mut a_end).unwrap();
        assert_eq!(read(), Some(Frame::Stdout(b"o".to_vec())));
        assert_eq!(read(), Some(Frame::Exit { code: 3 }));
        assert_eq!(read(), None);
    }
    #[test]
    fn one_that_does_not_read_is_left() {
        let hub = Hub::default();
        let wanted = Wanted {
            stdout: true,
            ..Wanted::default()
        };
        let (busy, _unread) = UnixStream::pair().unwrap();
        let (idle, mut idle_end) = UnixStream::pair().unwrap();
        busy.set_nonblocking(true).unwrap();
        for len in [4096, 1] {
            while io::Write::write(&mut &busy, &vec![0; len]).is_ok() {}
        }
        busy.set_nonblocking(false).unwrap();
        for end in [busy, idle] {
            hub.add(Client::new(end, wanted).unwrap());
        }
        std::thread::scope(|scope| {
            let written = scope.spawn(|| hub.output(Stream::Stdout, b"o"));
            // Once the first one's turn has come.
            while lock(&hub.clients)[0].stream.try_lock().is_ok() {
                std::thread::yield_now();
            }
            assert!(!written.is_finished());
            hub.leave_blocked();
        });
        assert_eq!(lock(&hub.clients).len(), 1);
        let read = Frame::read(&mut idle_end).unwrap();
        assert_eq!(read, Some(Frame::Stdout(b"o".to_vec())));
    }
}
