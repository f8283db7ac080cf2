// SPDX-License-Identifier: Apache-2.0
//! What is left of the container's output to be passed on, for who waits until it is.

use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

#[derive(Debug, Default)]
pub struct Passing {
    inner: Mutex<Inner>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Inner {
    /// What the container writes to.
    streams: Vec<UnixStream>,
    /// Threads that pass it on.
    threads: u32,
    /// The container is to end at once: nobody waits for who does not read.
    forced: bool,
}

/// As long as this is there, a thread passes output on.
#[derive(Debug)]
pub struct Thread(Arc<Passing>);

impl Passing {
    /// One thread more, for what is written to this.
    pub fn begins(self: &Arc<Self>, from: UnixStream) -> Thread {
        let mut inner = self.lock();
        inner.streams.push(from);
        inner.threads += 1;
        Thread(Arc::clone(self))
    }

    /// Waits until all is passed on, or the end is forced; whether all is.
    pub fn wait(&self) -> bool {
        let goes_on = |inner: &mut Inner| inner.threads > 0 && !inner.forced;
        let inner = self.changed.wait_while(self.lock(), goes_on);
        inner.unwrap_or_else(PoisonError::into_inner).threads == 0
    }

    /// The same, at most `timeout`, forced or not.
    pub fn wait_for(&self, timeout: Duration) -> bool {
        let goes_on = |inner: &mut Inner| inner.threads > 0;
        let waited = self
            .changed
            .wait_timeout_while(self.lock(), timeout, goes_on);
        let (inner, _) = waited.unwrap_or_else(PoisonError::into_inner);
        inner.threads == 0
    }

    pub fn force(&self) {
        self.lock().forced = true;
        self.changed.notify_all();
    }

    /// The container writes to nobody any more.
    pub fn close(&self) {
        for stream in self.lock().streams.drain(..) {
            // It has ended by itself, perhaps.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.0.lock().threads -= 1;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn waits_until_all_is_passed_on() {
        let passing = Arc::new(Passing::default());
        assert!(passing.wait());
        let (from, mut other) = UnixStream::pair().unwrap();
        let copy = from.try_clone().unwrap();
        let thread = passing.begins(copy);
        assert!(!passing.wait_for(Duration::ZERO));
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| passing.wait());
            passing.force();
            assert!(!waits.join().unwrap());
            let waits = scope.spawn(|| passing.wait_for(LONG));
            drop(thread);
            assert!(waits.join().unwrap());
        });
        passing.close();
        assert_eq!(other.read(&mut [0]).unwrap(), 0);
    }
}
