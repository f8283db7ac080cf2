// SPDX-License-Identifier: Apache-2.0
//! `integration [FILTER]`: builds the integration tests here and runs them all where KVM is: on this
//! machine, or in one boot of the emulated host.

#![deny(unsafe_code)]

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde::Deserialize;
use walnut_tests::emulated::{self, Run};
use walnut_tests::harness::{SKIPS_FILE, TEMPLATES};
use walnut_tests::{kvm, place};

/// These boot the emulated host themselves, or are about what it is for, so they run outside of it:
/// `make test` does that.
const OUTSIDE: [&str; 2] = ["emulated_host", "outside"];

/// For all of them together: it only bounds a hang.
const DEADLINE: Duration = Duration::from_secs(40 * 60);

fn main() -> ExitCode {
    let result = match env::args_os().nth(1) {
        Some(word) if word == "--inside" => inside(env::args_os().skip(2).collect()),
        filter => outside(filter),
    };
    result.unwrap_or_else(|error| {
        eprintln!("integration: {error:#}");
        ExitCode::FAILURE
    })
}

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

fn outside(filter: Option<OsString>) -> anyhow::Result<ExitCode> {
    // Before cargo writes this very program anew.
    let this = env::current_exe()?;
    let init = emulated::program()?;
    let tests = build()?;
    let mut argv: Vec<OsString> = vec![this.into(), "--inside".into()];
    argv.push(filter.unwrap_or_default());
    argv.extend(tests.into_iter().map(Into::into));
    let kvm = kvm::detect();
    eprintln!("integration tests: {kvm}");
    if kvm.is_usable() {
        let status = Command::new(&argv[0]).args(&argv[1..]).status()?;
        return Ok(ExitCode::from(u8::from(!status.success())));
    }
    let run = Run {
        argv,
        timeout: Some(DEADLINE),
        memory_mib: 4096,
        output: None,
        init,
    };
    let outcome = emulated::run(&run).context("the emulated host")?;
    Ok(ExitCode::from(outcome.status))
}

/// Builds the test programs and returns their paths.
fn build() -> anyhow::Result<Vec<PathBuf>> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut child = Command::new(cargo)
        .args(["test", "-q", "-p", "walnut-tests", "--tests", "--no-run"])
        .arg("--message-format=json-render-diagnostics")
        .stdout(Stdio::piped())
        .spawn()
        .context("can't run cargo")?;
    let stdout = child.stdout.take().context("cargo's output is piped")?;
    let mut tests = Vec::new();
    for line in BufReader::new(stdout).lines() {
        let message: Message = serde_json::from_str(&line?).context("cargo speaks JSON")?;
        if let (Some(path), Some(target)) = (message.executable, message.target)
            && target.kind.iter().any(|kind| kind == "test")
            && !OUTSIDE.contains(&target.name.as_str())
        {
            tests.push(path);
        }
    }
    ensure!(child.wait()?.success(), "the tests don't build");
    tests.sort();
    Ok(tests)
}

/// What one or all of the test programs counted.
#[derive(Default)]
struct Tally {
    passed: usize,
    failed: usize,
    ignored: usize,
}

fn inside(mut args: Vec<OsString>) -> anyhow::Result<ExitCode> {
    if args.is_empty() {
        bail!("--inside needs a filter and the tests' paths");
    }
    let filter = args.remove(0);
    let skips = tempfile::NamedTempFile::new()?;
    let started = Instant::now();
    let shared = tempfile::tempdir()?;
    let templates = make_template(shared.path())?;
    let mut all = Tally::default();
    let mut broken = Vec::new();
    for program in args.iter().map(Path::new) {
        let (ok, tally) = run_tests(program, &filter, skips.path(), &templates)?;
        all.passed += tally.passed;
        all.failed += tally.failed;
        all.ignored += tally.ignored;
        if !ok {
            broken.push(
                program
                    .file_name()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned(),
            );
        }
    }
    let skipped = fs::read_to_string(skips.path())?;
    let skipped: Vec<&str> = skipped.lines().collect();
    eprintln!(
        "\nintegration tests: {} passed, {} failed, {} skipped, {} ignored, in {} s",
        all.passed.saturating_sub(skipped.len()),
        all.failed,
        skipped.len(),
        all.ignored,
        started.elapsed().as_secs(),
    );
    for line in skipped {
        eprintln!("  skipped {line}");
    }
    for name in &broken {
        eprintln!("  FAILED in {name}");
    }
    Ok(ExitCode::from(u8::from(!broken.is_empty())))
}

/// The template of the usual size: tests start from it, so that they see what users see.
fn make_template(directory: &Path) -> anyhow::Result<PathBuf> {
    let made = Command::new(place::staged().join("walnut"))
        .arg("--root")
        .arg(directory)
        .arg("--state")
        .arg(directory.join("state"))
        .args(["template", "create"])
        .status()
        .context("can't run walnut")?;
    ensure!(made.success(), "no template");
    Ok(directory.join("templates"))
}

/// Runs one test program, passing its words on and reading the last of them.
fn run_tests(
    program: &Path,
    filter: &OsString,
    skips: &Path,
    templates: &Path,
) -> anyhow::Result<(bool, Tally)> {
    let mut command = Command::new(program);
    // One VM at a time: figures and consoles of several would mix.
    command
        .arg("--test-threads=1")
        .env(SKIPS_FILE, skips)
        .env(TEMPLATES, templates)
        // Nor does one make templates while the next one runs.
        .env("WALNUT_MAKE_TEMPLATES", "no");
    if !filter.is_empty() {
        command.arg(filter);
    }
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("can't run {}", program.display()))?;
    let stdout = child.stdout.take().context("the test's output is piped")?;
    let mut tally = Tally::default();
    eprintln!(
        "\n{}",
        program.file_name().unwrap_or_default().to_string_lossy()
    );
    for line in BufReader::new(stdout).lines() {
        let line = line?;
        if let Some(result) = line.strip_prefix("test result: ") {
            tally = parse(result);
        }
        eprintln!("{line}");
    }
    Ok((child.wait()?.success(), tally))
}

/// `ok. 3 passed; 0 failed; 1 ignored; …`
fn parse(result: &str) -> Tally {
    let count = |what: &str| {
        let words = result.split([' ', ';']).filter(|word| !word.is_empty());
        let words: Vec<&str> = words.collect();
        let at = words.iter().position(|word| *word == what);
        at.and_then(|at| words.get(at.checked_sub(1)?)?.parse().ok())
            .unwrap_or(0)
    };
    Tally {
        passed: count("passed"),
        failed: count("failed"),
        ignored: count("ignored"),
    }
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn reads_what_a_test_program_counted() {
        let tally = parse("FAILED. 3 passed; 2 failed; 1 ignored; 0 measured; 7 filtered out");
        assert_eq!((tally.passed, tally.failed, tally.ignored), (3, 2, 1));
    }
}
