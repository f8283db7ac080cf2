// SPDX-License-Identifier: Apache-2.0
//! A machine's end, for people.

use std::fmt::{self, Display, Formatter};
use std::time::Duration;

use walnut_vmm_config::Ending;

/// What a machine was at when it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum During {
    Start,
    Making,
    Run,
}

impl Display for During {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Start => "it was starting",
            Self::Making => "its container was made",
            Self::Run => "its container ran",
        })
    }
}

pub(super) fn ended(ending: &Option<&Ending>, during: During, log: &str) -> String {
    let why = match ending {
        None if log.is_empty() => "its monitor was killed".to_owned(),
        None => format!("its monitor died:{log}"),
        Some(Ending::GuestReset) => "the guest reset".to_owned(),
        Some(Ending::GuestPanic { message }) => {
            format!("the guest kernel panicked: {message}{log}")
        }
        Some(Ending::TripleFault) => "the guest's processor met a triple fault".to_owned(),
        Some(Ending::KvmError { message }) => format!("KVM could not go on: {message}"),
        Some(Ending::Stopped) => "its monitor was told to stop".to_owned(),
        Some(Ending::Failed { message }) if during == During::Start => {
            return format!("the machine did not start: {message}");
        }
        Some(Ending::Failed { message }) => message.clone(),
    };
    format!("the machine ended while {during}: {why}")
}

pub(super) fn not_ready(after: &Duration, console: &str) -> String {
    let seconds = after.as_secs_f64();
    let console = if console.is_empty() {
        " empty"
    } else {
        console
    };
    format!("the guest was not ready within {seconds} s; the end of its console:{console}")
}
