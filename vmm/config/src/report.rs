// SPDX-License-Identifier: Apache-2.0
//! What the monitor reports while it lives.

use serde::{Deserialize, Serialize};

/// One line on the report descriptor. `at_us` is the host's `CLOCK_MONOTONIC` in microseconds, the
/// same clock in every process, so that the engine can put phases side by side.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Report {
    /// `main` was entered.
    Started { at_us: u64 },
    /// Everything is open and jailed; the vCPUs are about to run.
    Running { at_us: u64 },
    /// The last line: why the machine ended.
    Ended {
        at_us: u64,
        #[serde(flatten)]
        ending: Ending,
    },
}

/// Why a machine ended.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(tag = "ending", rename_all = "kebab-case")]
pub enum Ending {
    /// The guest asked for a reset (i8042 `0xfe`): the orderly end of a guest without ACPI.
    GuestReset,
    /// The guest kernel panicked; `message` is the console's line that says so.
    GuestPanic { message: String },
    /// Triple fault (`KVM_EXIT_SHUTDOWN`).
    TripleFault,
    /// KVM could not go on (`KVM_EXIT_INTERNAL_ERROR`, `KVM_EXIT_FAIL_ENTRY`).
    KvmError { message: String },
    /// A signal, or the lifeline's end.
    Stopped,
    /// The monitor could not start or go on.
    Failed { message: String },
}
