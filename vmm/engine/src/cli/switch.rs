// SPDX-License-Identifier: Apache-2.0
//! `walnut switch`: how walnut starts a network. Nobody types it.

use std::os::fd::RawFd;
use std::path::PathBuf;

use clap::Args;

#[derive(Debug, Args)]
pub struct SwitchArgs {
    /// Where containers join
    #[arg(long)]
    pub listener: RawFd,
    /// What the network is, as JSON
    #[arg(long)]
    pub network: String,
    /// The network's directory, which goes with it
    #[arg(long)]
    pub dir: PathBuf,
    #[arg(long)]
    pub lock: PathBuf,
}
