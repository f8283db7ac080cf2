// SPDX-License-Identifier: Apache-2.0
//! What a running monitor can be told.

use serde::{Deserialize, Serialize};

/// One JSON object in one message on the control socket; an [`Answer`] follows each.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Command {
    /// Stops the vCPUs. No time passes for the guest until they run again.
    Pause,
    /// Lets them run again.
    Resume,
    /// Writes guest memory and everything else to the two files whose descriptors come with the
    /// message (`SCM_RIGHTS`), in this order. The vCPUs stay stopped.
    Snapshot,
    /// Writes which pages of guest memory are in use by now to the file whose descriptor comes with
    /// the message.
    WorkingSet,
}

/// One JSON object in one message.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    Done,
    Failed { message: String },
}
