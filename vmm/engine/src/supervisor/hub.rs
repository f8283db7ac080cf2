// SPDX-License-Identifier: Apache-2.0
//! Clients attached to a container's streams.
//!
//! What the container writes goes to each, in the thread that read it: a client that doesn't read
//! holds the container back, as a stopped terminal does. One that is gone is forgotten.

use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::wire::{self, Frame, Wanted, WireError};
use crate::log_file::Stream;

#[derive(Debug, Default)]
pub struct Hub {
    clients: Mutex<Vec<Arc<Client>>>,
}

#[derive(Debug)]
pub struct Client {
    stream: Mutex<UnixStream>,
    wanted: Wanted,
}

impl Client {
    pub fn new(stream: UnixStream, wanted: Wanted) -> Arc<Self> {
        Arc::new(Self {
            stream: Mutex::new(stream),
            wanted,
        })
    }

    pub fn send(&self, frame: &Frame) -> Result<(), WireError> {
        frame.write(&mut *lock(&self.stream))
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

    /// The container has ended: so do its clients. At the last end their connections stay: they
    /// tell when this process is gone.
    pub fn end(&self, code: i32, last: bool) {
        for client in std::mem::take(&mut *lock(&self.clients)) {
            // One that is gone needs no answer.
            let _ = client.send(&Frame::Exit { code });
            if !last {
                let _ = lock(&client.stream).shutdown(Shutdown::Both);
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
        hub.add(Client::new(a, wanted(true, false)));
        hub.add(Client::new(b, wanted(true, true)));
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
}
