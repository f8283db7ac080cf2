// SPDX-License-Identifier: Apache-2.0
//! Errors as text, for where they go on as text: a log line, a record, another process.

/// An error and what caused it, as one line.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Transparent errors repeat their cause.
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CallError;

    #[test]
    fn what_led_to_what() {
        let error = CallError::Send {
            method: "Kill",
            source: std::io::ErrorKind::NotFound.into(),
        };
        assert_eq!(chain(&error), "send Kill to the agent: entity not found");
    }
}
