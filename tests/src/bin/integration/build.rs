// SPDX-License-Identifier: Apache-2.0
//! The test programs: built by cargo, and those kept that have something to run.

use std::env;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use serde::Deserialize;

/// These boot the emulated host themselves, or are about what it is for, so they run outside of it:
/// `make test` does that.
const OUTSIDE: [&str; 2] = ["emulated_host", "outside"];

/// One line of cargo's JSON messages, as far as it matters here.
#[derive(Deserialize)]
struct Message {
    executable: Option<PathBuf>,
    target: Option<Target>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

/// Builds the test programs and returns the paths of those with a test that matches.
pub(crate) fn programs(filter: &OsStr) -> anyhow::Result<Vec<PathBuf>> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut child = Command::new(cargo)
        .args(["test", "-q", "-p", "walnut-tests", "--tests", "--no-run"])
        .arg("--message-format=json-render-diagnostics")
        .stdout(Stdio::piped())
        .spawn()
        .context("can't run cargo")?;
    let stdout = child.stdout.take().context("cargo's output is piped")?;
    let mut programs = Vec::new();
    for line in BufReader::new(stdout).lines() {
        let message: Message = serde_json::from_str(&line?).context("cargo speaks JSON")?;
        if let (Some(path), Some(target)) = (message.executable, message.target)
            && target.kind.iter().any(|kind| kind == "test")
            && !OUTSIDE.contains(&target.name.as_str())
        {
            programs.push(path);
        }
    }
    ensure!(child.wait()?.success(), "the tests don't build");
    programs.sort();
    let mut matching = Vec::new();
    for program in programs {
        if has(&program, filter)? {
            matching.push(program);
        }
    }
    Ok(matching)
}

/// Whether this program has a test of such a name.
fn has(program: &Path, filter: &OsStr) -> anyhow::Result<bool> {
    let list = Command::new(program)
        .args([OsStr::new("--list"), filter])
        .output()
        .with_context(|| format!("can't run {}", program.display()))?;
    ensure!(
        list.status.success(),
        "{} lists no tests",
        program.display()
    );
    Ok(String::from_utf8_lossy(&list.stdout).contains(": test"))
}
