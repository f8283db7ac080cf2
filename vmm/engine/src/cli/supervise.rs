// SPDX-License-Identifier: Apache-2.0
//! `walnut supervise`: how walnut starts a container's supervisor. Nobody types it.

use std::os::fd::RawFd;
use std::path::PathBuf;

use clap::Args;

use crate::supervisor::background::{Size, Task};

#[derive(Debug, Args)]
pub struct SuperviseArgs {
    #[arg(long)]
    greeting: RawFd,
    #[arg(long)]
    alive: RawFd,
    #[arg(long)]
    attach: Option<String>,
    #[arg(long)]
    tty_size: Option<Size>,
    #[arg(long)]
    checkpoint: Option<PathBuf>,
    id: String,
}

impl From<SuperviseArgs> for Task {
    fn from(args: SuperviseArgs) -> Self {
        Self {
            id: args.id,
            greeting: args.greeting,
            alive: args.alive,
            attach: args.attach,
            tty_size: args.tty_size,
            checkpoint: args.checkpoint,
        }
    }
}
