// SPDX-License-Identifier: Apache-2.0
//! `--health-…`, and an image's HEALTHCHECK: how to ask a container whether it is well.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::cli::run::ContainerArgs;
use crate::times::parse_duration;

#[derive(Debug, Error, PartialEq, Eq)]
pub enum HealthError {
    #[error("--no-healthcheck conflicts with --health-* options")]
    Conflict,
    #[error("invalid argument \"{text}\" for \"--{flag}\" flag: invalid duration")]
    Duration { flag: &'static str, text: String },
    #[error("--{0} cannot be less than 1ms")]
    TooShort(&'static str),
    #[error("--health-retries cannot be negative")]
    Retries,
}

const INTERVAL: Duration = Duration::from_secs(30);
const TIMEOUT: Duration = Duration::from_secs(30);
const START_INTERVAL: Duration = Duration::from_secs(5);
const RETRIES: u32 = 3;

/// The `Healthcheck` object of Docker's image configuration; what is zero or empty is not said.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "PascalCase", default)]
pub struct Healthcheck {
    /// `["CMD", …]`, `["CMD-SHELL", line]`, or `["NONE"]`.
    pub test: Vec<String>,
    /// Nanoseconds, as the rest.
    #[serde(skip_serializing_if = "is_zero")]
    pub interval: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub timeout: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub start_period: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub start_interval: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub retries: u32,
}

fn is_zero<T: Default + PartialEq>(number: &T) -> bool {
    *number == T::default()
}

impl Healthcheck {
    /// What the flags say; nothing where they say nothing.
    pub fn from_flags(args: &ContainerArgs) -> Result<Option<Self>, HealthError> {
        let times = [
            ("health-interval", &args.health_interval),
            ("health-timeout", &args.health_timeout),
            ("health-start-period", &args.health_start_period),
            ("health-start-interval", &args.health_start_interval),
        ];
        let mut nanos = [0; 4];
        for (slot, (flag, text)) in nanos.iter_mut().zip(times) {
            *slot = duration(flag, text.as_deref())?;
        }
        let retries = args.health_retries.unwrap_or(0);
        let [interval, timeout, start_period, start_interval] = nanos;
        let mut check = Self {
            test: Vec::new(),
            interval,
            timeout,
            start_period,
            start_interval,
            retries: u32::try_from(retries).map_err(|_| HealthError::Retries)?,
        };
        if let Some(line) = args.health_cmd.as_ref().filter(|line| !line.is_empty()) {
            check.test = vec!["CMD-SHELL".to_owned(), line.clone()];
        }
        let says_something = check != Self::default();
        if !args.no_healthcheck {
            return Ok(says_something.then_some(check));
        }
        if says_something {
            return Err(HealthError::Conflict);
        }
        check.test = vec!["NONE".to_owned()];
        Ok(Some(check))
    }

    /// What the flags leave open is the image's.
    pub fn merge(flags: Option<Self>, image: Option<&Self>) -> Option<Self> {
        let (Some(mut check), Some(image)) = (flags.clone(), image) else {
            return flags.or_else(|| image.cloned());
        };
        if check.test.is_empty() {
            check.test.clone_from(&image.test);
        }
        let or = |own: u64, image| if own == 0 { image } else { own };
        check.interval = or(check.interval, image.interval);
        check.timeout = or(check.timeout, image.timeout);
        check.start_period = or(check.start_period, image.start_period);
        check.start_interval = or(check.start_interval, image.start_interval);
        if check.retries == 0 {
            check.retries = image.retries;
        }
        Some(check)
    }

    /// What is to be run; nothing where nothing is to be asked.
    pub fn command(&self) -> Option<Vec<String>> {
        let (kind, rest) = self.test.split_first()?;
        match (kind.as_str(), rest) {
            (_, []) => None,
            ("CMD", command) => Some(command.to_vec()),
            ("CMD-SHELL", [line, ..]) => {
                Some(vec!["/bin/sh".to_owned(), "-c".to_owned(), line.clone()])
            }
            _ => None,
        }
    }

    pub fn interval(&self) -> Duration {
        or_default(self.interval, INTERVAL)
    }

    pub fn timeout(&self) -> Duration {
        or_default(self.timeout, TIMEOUT)
    }

    pub fn start_period(&self) -> Duration {
        Duration::from_nanos(self.start_period)
    }

    pub fn start_interval(&self) -> Duration {
        or_default(self.start_interval, START_INTERVAL)
    }

    pub fn retries(&self) -> u32 {
        if self.retries == 0 {
            RETRIES
        } else {
            self.retries
        }
    }
}

fn or_default(nanos: u64, default: Duration) -> Duration {
    match nanos {
        0 => default,
        nanos => Duration::from_nanos(nanos),
    }
}

fn duration(flag: &'static str, text: Option<&str>) -> Result<u64, HealthError> {
    let Some(text) = text else { return Ok(0) };
    let invalid = || HealthError::Duration {
        flag,
        text: text.to_owned(),
    };
    let duration = parse_duration(text).ok_or_else(invalid)?;
    if !duration.is_zero() && duration < Duration::from_millis(1) {
        return Err(HealthError::TooShort(flag));
    }
    u64::try_from(duration.as_nanos()).map_err(|_| invalid())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::testing::container;

    fn image() -> Healthcheck {
        let json = r#"{"Test": ["CMD", "probe", "x"], "Interval": 5000000000, "Retries": 7}"#;
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn flags_over_the_image() {
        let flags = container(&["--health-interval", "2s", "--health-timeout", "1.5s"]).health;
        let merged = Healthcheck::merge(flags, Some(&image())).unwrap();
        assert_eq!(merged.command().unwrap(), ["probe", "x"]);
        assert_eq!(merged.interval(), Duration::from_secs(2));
        assert_eq!(merged.timeout(), Duration::from_millis(1500));
        assert_eq!(merged.retries(), 7);
        let flags = container(&["--health-cmd", "a b"]).health;
        let merged = Healthcheck::merge(flags, Some(&image())).unwrap();
        assert_eq!(merged.command().unwrap(), ["/bin/sh", "-c", "a b"]);
        let none = container(&["--no-healthcheck"]).health;
        let merged = Healthcheck::merge(none, Some(&image())).unwrap();
        assert_eq!(merged.command(), None);
        assert_eq!(Healthcheck::merge(None, Some(&image())), Some(image()));
        assert_eq!(container(&[]).health, None);
    }

    #[test]
    fn mistakes() {
        assert_eq!(duration("f", Some("1s")), Ok(1_000_000_000));
        assert_eq!(duration("f", Some("1us")), Err(HealthError::TooShort("f")));
        for bad in ["", "x", "-1s", "1"] {
            assert!(duration("f", Some(bad)).is_err(), "{bad}");
        }
    }
}
