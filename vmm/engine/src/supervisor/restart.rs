// SPDX-License-Identifier: Apache-2.0
//! `--restart`: whether an ended container comes up again, and how soon.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

#[derive(Debug, Error, PartialEq, Eq)]
pub enum RestartError {
    #[error(
        "invalid restart policy: unknown policy '{0}'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'"
    )]
    Unknown(String),
    #[error("invalid restart policy format: maximum retry count must be an integer")]
    Count,
    #[error("invalid restart policy: maximum retry count can only be used with 'on-failure'")]
    CountWithout,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    #[default]
    No,
    Always,
    UnlessStopped,
    OnFailure {
        max: u32,
    },
}

impl FromStr for Policy {
    type Err = RestartError;

    fn from_str(text: &str) -> Result<Self, RestartError> {
        let (name, count) = match text.split_once(':') {
            Some((name, count)) => (name, Some(count)),
            None => (text, None),
        };
        let max = match count {
            Some(count) => count.parse::<u32>().map_err(|_| RestartError::Count)?,
            None => 0,
        };
        let policy = match name {
            "" | "no" => Self::No,
            "always" => Self::Always,
            "unless-stopped" => Self::UnlessStopped,
            "on-failure" => return Ok(Self::OnFailure { max }),
            _ => return Err(RestartError::Unknown(name.to_owned())),
        };
        match count {
            Some(_) => Err(RestartError::CountWithout),
            None => Ok(policy),
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self {
            Self::OnFailure { max } if *max > 0 => write!(f, ":{max}"),
            _ => Ok(()),
        }
    }
}

impl Policy {
    pub fn name(self) -> &'static str {
        match self {
            Self::No => "no",
            Self::Always => "always",
            Self::UnlessStopped => "unless-stopped",
            Self::OnFailure { .. } => "on-failure",
        }
    }

    /// Retries; 0 is without end.
    pub fn max_retries(self) -> u32 {
        match self {
            Self::OnFailure { max } => max,
            _ => 0,
        }
    }

    /// Of a container that nobody stopped.
    pub fn wants_another(self, exit_code: i32, restarts: u32) -> bool {
        match self {
            Self::No => false,
            Self::Always | Self::UnlessStopped => true,
            Self::OnFailure { max } => exit_code != 0 && (max == 0 || restarts < max),
        }
    }
}

/// The time between an end and the next start: 100 ms, doubled each time up to a minute; a run of
/// ten seconds starts it over (Docker's figures).
#[derive(Debug, Default)]
pub struct BackOff {
    last: Duration,
}

impl BackOff {
    const FIRST: Duration = Duration::from_millis(100);
    const MOST: Duration = Duration::from_secs(60);
    const GOOD_RUN: Duration = Duration::from_secs(10);

    pub fn next(&mut self, ran: Duration) -> Duration {
        self.last = if self.last.is_zero() || ran >= Self::GOOD_RUN {
            Self::FIRST
        } else {
            (self.last * 2).min(Self::MOST)
        };
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies() {
        for (text, policy) in [
            ("no", Policy::No),
            ("always", Policy::Always),
            ("unless-stopped", Policy::UnlessStopped),
            ("on-failure", Policy::OnFailure { max: 0 }),
            ("on-failure:3", Policy::OnFailure { max: 3 }),
        ] {
            assert_eq!(text.parse(), Ok(policy));
            assert_eq!(policy.to_string(), text);
        }
        for bad in ["sometimes", "always:3", "on-failure:x"] {
            assert!(bad.parse::<Policy>().is_err(), "{bad}");
        }
        let three = Policy::OnFailure { max: 3 };
        assert!(three.wants_another(1, 2) && !three.wants_another(1, 3));
        assert!(!three.wants_another(0, 0) && Policy::Always.wants_another(0, 9));
    }

    #[test]
    fn twice_as_long_each_time() {
        let mut back_off = BackOff::default();
        let short = Duration::from_secs(1);
        let waits: Vec<u128> = (0..4).map(|_| back_off.next(short).as_millis()).collect();
        assert_eq!(waits, [100, 200, 400, 800]);
        assert_eq!(back_off.next(Duration::from_secs(10)).as_millis(), 100);
        for _ in 0..20 {
            back_off.next(short);
        }
        assert_eq!(back_off.next(short).as_secs(), 60);
    }
}
