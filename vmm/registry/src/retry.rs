// SPDX-License-Identifier: Apache-2.0
//! How often to try again, and how long to wait in between.

use std::time::Duration;

use reqwest::header::{HeaderMap, RETRY_AFTER};

/// Attempts without any progress.
const ATTEMPTS: u32 = 5;
const FIRST: Duration = Duration::from_millis(250);
/// A registry that wants us to wait longer is told of instead.
const LONGEST: Duration = Duration::from_secs(60);

pub(crate) struct Retry {
    failed: u32,
}

impl Retry {
    pub(crate) fn new() -> Self {
        Retry { failed: 0 }
    }

    /// Something was got: what fails from now on is another failure.
    pub(crate) fn progress(&mut self) {
        self.failed = 0;
    }

    /// How long to wait before the next attempt; `None` if there should be none. `asked` is what the
    /// registry wants.
    pub(crate) fn failed(&mut self, asked: Option<Duration>) -> Option<Duration> {
        self.failed += 1;
        let wait = asked.unwrap_or(FIRST * 2u32.pow(self.failed.min(8) - 1));
        (self.failed < ATTEMPTS && wait <= LONGEST).then_some(wait)
    }
}

/// Seconds only (RFC 9110 §10.2.3): a date is answered by our own back-off.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers
        .get(RETRY_AFTER)?
        .to_str()
        .ok()?
        .trim()
        .parse()
        .ok()?;
    Some(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ever_longer_and_not_for_ever() {
        let mut retry = Retry::new();
        let waits: Vec<_> = std::iter::from_fn(|| retry.failed(None)).collect();
        assert_eq!(waits, [250, 500, 1000, 2000].map(Duration::from_millis));
        retry.progress();
        assert_eq!(retry.failed(None), Some(FIRST));
    }

    #[test]
    fn the_registry_is_heard_within_reason() {
        let wait = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, text.parse().unwrap());
            retry_after(&headers)
        };
        assert_eq!(wait("3"), Some(Duration::from_secs(3)));
        assert_eq!(wait("Wed, 21 Oct 2015 07:28:00 GMT"), None);
        assert_eq!(Retry::new().failed(wait("3")), Some(Duration::from_secs(3)));
        assert_eq!(Retry::new().failed(wait("86400")), None);
    }
}
