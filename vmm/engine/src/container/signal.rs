// SPDX-License-Identifier: Apache-2.0
//! Signals by name or number, as `--stop-signal` and `STOPSIGNAL` give them.

use nix::sys::signal::Signal;
use thiserror::Error;

#[derive(Debug, Error, PartialEq, Eq)]
#[error("invalid signal: {0}")]
pub struct SignalError(String);

/// `SIGTERM`, `TERM`, `term`, `15`, `RTMIN+3`.
pub fn parse(text: &str) -> Result<u32, SignalError> {
    let invalid = || SignalError(text.to_owned());
    if let Ok(number) = text.parse::<u32>() {
        return (1..=64)
            .contains(&number)
            .then_some(number)
            .ok_or_else(invalid);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    // The kernel's numbers in the guest, not those that this C library leaves to programs.
    for (base, first) in [("RTMIN", 34u32), ("RTMAX", 64)] {
        if let Some(rest) = name.strip_prefix(base) {
            let offset: i32 = if rest.is_empty() {
                0
            } else {
                rest.parse().map_err(|_| invalid())?
            };
            let number = first.checked_add_signed(offset).ok_or_else(invalid)?;
            return (34..=64)
                .contains(&number)
                .then_some(number)
                .ok_or_else(invalid);
        }
    }
    let signal: Signal = format!("SIG{name}").parse().map_err(|_| invalid())?;
    u32::try_from(signal as i32).map_err(|_| invalid())
}

/// As people write it: `SIGTERM`, `SIGRTMIN+3`.
pub fn name(number: u32) -> String {
    let known = i32::try_from(number)
        .ok()
        .and_then(|number| Signal::try_from(number).ok());
    match (known, number.checked_sub(34)) {
        (Some(signal), _) => signal.as_str().to_owned(),
        (None, Some(0)) => "SIGRTMIN".to_owned(),
        (None, Some(offset)) => format!("SIGRTMIN+{offset}"),
        (None, None) => number.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        for (text, number) in [
            ("SIGTERM", 15),
            ("int", 2),
            ("9", 9),
            ("RTMIN+3", 37),
            ("SIGRTMAX", 64),
            ("RTMAX-1", 63),
        ] {
            assert_eq!(parse(text), Ok(number), "{text}");
            assert_eq!(parse(&name(number)), Ok(number), "{text}");
        }
        assert_eq!(
            [15, 34, 37].map(name),
            ["SIGTERM", "SIGRTMIN", "SIGRTMIN+3"]
        );
        for bad in [
            "", "0", "65", "SIG", "FOO", "RTMIN+31", "RTMAX+1", "RTMINx", "-1",
        ] {
            assert_eq!(
                parse(bad).unwrap_err().to_string(),
                format!("invalid signal: {bad}")
            );
        }
    }
}
