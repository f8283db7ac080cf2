// SPDX-License-Identifier: Apache-2.0
//! `--log-driver` and `--log-opt`.

use thiserror::Error;

use crate::log_file::Options;
use crate::units::parse_size;

#[derive(Debug, Error, PartialEq, Eq)]
pub enum LogOptionError {
    #[error("logger: no log driver named '{0}' is registered; there are json-file and none")]
    Driver(String),
    #[error("unknown log opt '{0}' for json-file log driver; there are max-size and max-file")]
    Unknown(String),
    #[error("invalid value for log opt '{0}'")]
    Value(String),
    #[error("max-file cannot be less than 1")]
    NoFile,
}

pub(super) fn parse(driver: Option<&str>, options: &[String]) -> Result<Options, LogOptionError> {
    let mut parsed = Options::default();
    match driver.unwrap_or("json-file") {
        // Docker's other file of its own is as good.
        "json-file" | "local" => {}
        "none" => "none".clone_into(&mut parsed.driver),
        other => return Err(LogOptionError::Driver(other.to_owned())),
    }
    for option in options {
        let invalid = || LogOptionError::Value(option.clone());
        let (name, value) = option.split_once('=').ok_or_else(invalid)?;
        match name {
            "max-size" if value == "-1" => parsed.max_size = None,
            "max-size" => parsed.max_size = Some(parse_size(value).map_err(|_| invalid())?),
            "max-file" => parsed.max_file = value.parse().map_err(|_| invalid())?,
            _ => return Err(LogOptionError::Unknown(name.to_owned())),
        }
    }
    if parsed.max_file == 0 {
        return Err(LogOptionError::NoFile);
    }
    Ok(parsed)
}

#[cfg(test)]
mod tests {
    #[test]
    fn options() {
        let parse = |options: &[&str]| {
            let owned: Vec<String> = options.iter().map(ToString::to_string).collect();
            super::parse(None, &owned)
        };
        let some = parse(&["max-size=10m", "max-file=3"]).unwrap();
        assert_eq!((some.max_size, some.max_file), (Some(10 << 20), 3));
        for bad in ["max-size=x", "max-file=0", "labels=a", "max-size"] {
            assert!(parse(&[bad]).is_err(), "{bad}");
        }
        assert!(super::parse(Some("syslog"), &[]).is_err());
    }
}
