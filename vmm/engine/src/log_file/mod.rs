// SPDX-License-Identifier: Apache-2.0
//! `container.log`: what a container wrote, one JSON object a line, in the form of Docker's
//! json-file driver: `log` (a line with its end, or a part of a long one), `stream`, `time`.

mod follow;
mod read;
mod tail;
mod write;

pub use follow::{FollowError, Follower};
pub use read::{Filter, Line, ReadError, Style, print};
pub use write::{LogWriter, Options, Splitter};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    pub fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}
