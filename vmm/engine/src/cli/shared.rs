// SPDX-License-Identifier: Apache-2.0
//! Flags that verbs of several things have in common, as they are typed. What is an example of one
//! of them, and which filters it knows, stands with its verb.

use clap::Args;

// What is listed, and how.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Only those: KEY=VALUE
    #[arg(short, long, value_name = "FILTER")]
    pub filter: Vec<String>,
    /// table, json, 'table TEMPLATE' or TEMPLATE
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// Show IDs only, or names where there are no IDs
    #[arg(short, long)]
    pub quiet: bool,
}

// What is removed of all that nobody uses.
#[derive(Debug, Args)]
pub struct PruneArgs {
    /// Only those: KEY=VALUE
    #[arg(long, value_name = "FILTER")]
    pub filter: Vec<String>,
    /// Do not ask
    #[arg(short, long)]
    pub force: bool,
}

// What is told about, and how.
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// json or TEMPLATE
    #[arg(short, long, value_name = "FORMAT")]
    pub format: Option<String>,
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
}

// What is removed by name.
#[derive(Debug, Args)]
pub struct RmArgs {
    /// One that is not there is no failure
    #[arg(short, long)]
    pub force: bool,
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
}
