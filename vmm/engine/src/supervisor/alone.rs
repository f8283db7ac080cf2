// SPDX-License-Identifier: Apache-2.0
//! One at a time: a lock that can be waited for with a deadline.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

#[derive(Debug, Default)]
pub struct Alone {
    taken: Mutex<bool>,
    freed: Condvar,
}

/// Whose turn it is, until it is dropped.
#[derive(Debug)]
pub struct Turn<'a>(&'a Alone);

impl Alone {
    pub fn wait(&self) -> Turn<'_> {
        let taken = self.freed.wait_while(self.lock(), |taken| *taken);
        *taken.unwrap_or_else(PoisonError::into_inner) = true;
        Turn(self)
    }

    /// None where somebody else has it all the time.
    pub fn wait_for(&self, timeout: Duration) -> Option<Turn<'_>> {
        let waited = self
            .freed
            .wait_timeout_while(self.lock(), timeout, |taken| *taken);
        let (mut taken, _) = waited.unwrap_or_else(PoisonError::into_inner);
        (!std::mem::replace(&mut *taken, true)).then(|| Turn(self))
    }

    fn lock(&self) -> MutexGuard<'_, bool> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.0.lock() = false;
        self.0.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time() {
        let alone = Alone::default();
        let turn = alone.wait();
        assert!(alone.wait_for(Duration::from_millis(1)).is_none());
        std::thread::scope(|scope| {
            let other = scope.spawn(|| alone.wait_for(Duration::from_secs(60)).is_some());
            drop(turn);
            assert!(other.join().unwrap());
        });
        assert!(alone.wait_for(Duration::ZERO).is_some());
    }
}
