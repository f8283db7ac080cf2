// SPDX-License-Identifier: Apache-2.0
//! Where KVM is: runs the test programs that stdin names, one after the other.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, ensure};
use walnut_tests::harness::{SKIPS_FILE, TEMPLATES};
use walnut_tests::place;

use crate::report::{Counts, Report};

/// Says that it is ready for the first one by an empty line, and is ready for the next with a report.
pub(crate) fn run(filter: OsString) -> anyhow::Result<ExitCode> {
    let shared = tempfile::tempdir()?;
    let room = Room {
        templates: make_template(shared.path())?,
        skips: shared.path().join("skips"),
        filter,
    };
    let mut stdout = io::stdout();
    writeln!(stdout)?;
    for program in io::stdin().lines() {
        let report = room.run(program?.into())?;
        let mut line = serde_json::to_vec(&report)?;
        line.push(b'\n');
        stdout.write_all(&line)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The template of the usual size: tests start from it, so that they see what users see.
fn make_template(directory: &Path) -> anyhow::Result<PathBuf> {
    let made = Command::new(place::staged().join("walnut"))
        .arg("--root")
        .arg(directory)
        .arg("--state")
        .arg(directory.join("state"))
        .args(["template", "create"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .context("can't run walnut")?;
    ensure!(made.success(), "no template");
    Ok(directory.join("templates"))
}

/// What all test programs here share.
struct Room {
    filter: OsString,
    templates: PathBuf,
    skips: PathBuf,
}

impl Room {
    /// Runs one test program, passing its words on and reading the last of them.
    fn run(&self, program: PathBuf) -> anyhow::Result<Report> {
        fs::write(&self.skips, "")?;
        let mut command = Command::new(&program);
        command
            // One test at a time: figures and consoles of several would mix.
            .arg("--test-threads=1")
            .env(SKIPS_FILE, &self.skips)
            .env(TEMPLATES, &self.templates)
            // Nor does one make templates while the next one runs.
            .env("WALNUT_MAKE_TEMPLATES", "no")
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        if self.filter != OsStr::new("") {
            command.arg(&self.filter);
        }
        let can_not = || format!("can't run {}", program.display());
        let mut child = command.spawn().with_context(can_not)?;
        let stdout = child.stdout.take().context("the test's output is piped")?;
        let mut counts = Counts::default();
        let name = program.file_name().unwrap_or_default().to_string_lossy();
        eprintln!("\n{name}");
        for line in BufReader::new(stdout).split(b'\n') {
            let line = line?;
            // A test may write what it likes.
            let line = String::from_utf8_lossy(&line);
            if let Some(result) = line.strip_prefix("test result: ") {
                counts = Counts::parse(result);
            }
            eprintln!("{line}");
        }
        let ok = child.wait()?.success();
        let skipped = fs::read_to_string(&self.skips)?;
        Ok(Report {
            program,
            ok,
            counts,
            skipped: skipped.lines().map(Into::into).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_is_no_text_is_passed_on() {
        let place = tempfile::tempdir().unwrap();
        let program = place.path().join("program");
        let script = "#!/bin/sh\nprintf '\\377\\n'; echo 'test result: ok. 1 passed;'\n";
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let room = Room {
            filter: OsString::new(),
            templates: place.path().to_owned(),
            skips: place.path().join("skips"),
        };
        let report = room.run(program).unwrap();
        assert!(report.ok);
        assert_eq!(report.counts, Counts::parse("ok. 1 passed;"));
    }
}
