// SPDX-License-Identifier: Apache-2.0
//! What a running monitor can be told.

use serde::{Deserialize, Serialize};

use crate::Mac;

/// One JSON object in one message on the control socket; an [`Answer`] follows each.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Command {
    /// Stops the vCPUs. No time passes for the guest until they run again.
    Pause,
    /// Lets them run again.
    Resume,
    /// Writes guest memory and everything else to the two files whose descriptors come with the
    /// message (`SCM_RIGHTS`), in this order. Then the machine stands still, its devices too, and
    /// obeys [`Command::Resume`] only.
    Snapshot,
    /// Writes which pages of guest memory are in use by now to the file whose descriptor comes with
    /// the message.
    WorkingSet,
    /// A network device more, in an empty place; its backend is the descriptor that comes with the
    /// message. The answer is [`Answer::Plugged`].
    Plug(Plug),
    /// The network device with this address is none any more: its place is an empty one, and its
    /// backend closed. The guest's driver should have let go of it.
    Unplug(Mac),
}

/// A network device to be.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Plug {
    pub backend: PlugBackend,
    pub mac: Mac,
    /// As in [`crate::NetConfig`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub finish_handshakes: bool,
}

/// What the descriptor is.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum PlugBackend {
    /// As [`crate::NetBackend::TapFd`].
    Tap,
    /// As [`crate::NetBackend::StreamFd`].
    Stream,
}

/// One JSON object in one message.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    Done,
    /// It is the machine's network device of this number, by their places.
    Plugged {
        device: u8,
    },
    Failed {
        message: String,
    },
}
