// SPDX-License-Identifier: Apache-2.0
//! Here: hands the test programs out to where KVM is, and sums up what comes back.

use std::collections::VecDeque;
use std::env;
use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use anyhow::{Context, ensure};
use walnut_tests::{emulated, kvm};

use crate::build;
use crate::report::{Report, Sum};

/// For one host with all of its tests: it only bounds a hang.
const DEADLINE_S: &str = "2400";

/// Emulated hosts at once: each is one busy thread of QEMU, and 4 GiB at most.
const MOST_HOSTS: usize = 4;

pub(crate) fn run(filter: OsString) -> anyhow::Result<ExitCode> {
    // Before cargo writes this very program anew.
    let inside = env::current_exe()?;
    let emulated = emulated::program()?;
    let programs = build::programs(&filter)?;
    let kvm = kvm::detect();
    eprintln!("integration tests: {kvm}");
    let hosts = match thread::available_parallelism() {
        Ok(processors) if !kvm.is_usable() => processors.get().min(MOST_HOSTS),
        // Tests of one machine see each other's bridges, taps and ports.
        _ => 1,
    };
    let hosts = hosts.min(programs.len());
    let hosts: Vec<Host> = (0..hosts)
        .map(|n| Host {
            label: if hosts > 1 {
                format!("{}| ", n + 1)
            } else {
                String::new()
            },
            command: {
                let mut command = if kvm.is_usable() {
                    Command::new(&inside)
                } else {
                    let mut command = Command::new(&emulated);
                    command
                        .args(["run", "--timeout-s", DEADLINE_S, "--"])
                        .arg(&inside);
                    command
                };
                command.args([OsStr::new("--inside"), &filter]);
                command
            },
        })
        .collect();
    ensure!(!hosts.is_empty(), "no test is called {}", filter.display());
    let started = Instant::now();
    let sum = all(hosts, programs);
    let seconds = started.elapsed().as_secs();
    eprintln!("\nintegration tests: {sum}, in {seconds} s");
    for line in sum.lines() {
        eprintln!("  {line}");
    }
    Ok(ExitCode::from(u8::from(!sum.is_good())))
}

/// Runs each program once, wherever there is room first.
fn all(hosts: Vec<Host>, programs: Vec<PathBuf>) -> Sum {
    let queue = Mutex::new(VecDeque::from(programs));
    let sum = Mutex::new(Sum::default());
    thread::scope(|scope| {
        for host in hosts {
            scope.spawn(|| {
                let label = host.label.clone();
                if let Err(error) = host.serve(&queue, &sum) {
                    let mut sum = sum.lock().unwrap_or_else(PoisonError::into_inner);
                    sum.fail(format!("{label}{error:#}"));
                }
            });
        }
    });
    let mut sum = sum.into_inner().unwrap_or_else(PoisonError::into_inner);
    for program in queue.into_inner().unwrap_or_else(PoisonError::into_inner) {
        sum.fail(format!("nowhere to run {}", program.display()));
    }
    sum
}

/// A place where KVM is.
struct Host {
    /// Before each of its lines.
    label: String,
    /// `integration --inside`, there.
    command: Command,
}

impl Host {
    fn serve(mut self, queue: &Mutex<VecDeque<PathBuf>>, sum: &Mutex<Sum>) -> anyhow::Result<()> {
        let pipes = [Stdio::piped(), Stdio::piped(), Stdio::piped()];
        let [stdin, stdout, stderr] = pipes;
        let command = self.command.stdin(stdin).stdout(stdout).stderr(stderr);
        let mut child = command.spawn().context("can't start a host")?;
        let words = child.stderr.take().context("stderr is piped")?;
        thread::scope(|scope| {
            scope.spawn(|| self.pass_on(words));
            let served = hand_out(&mut child, queue, sum);
            // Its stdin is closed: it ends.
            let status = child.wait();
            served?;
            ensure!(status?.success(), "the host failed");
            Ok(())
        })
    }

    fn pass_on(&self, words: impl Read) {
        for line in BufReader::new(words).split(b'\n').map_while(Result::ok) {
            eprintln!("{}{}", self.label, String::from_utf8_lossy(&line));
        }
    }
}

/// Gives it programs until none is left.
fn hand_out(
    child: &mut Child,
    queue: &Mutex<VecDeque<PathBuf>>,
    sum: &Mutex<Sum>,
) -> anyhow::Result<()> {
    let mut stdin = child.stdin.take().context("stdin is piped")?;
    let stdout = child.stdout.take().context("stdout is piped")?;
    let mut reports = BufReader::new(stdout).lines();
    let ready = reports.next().transpose()?;
    ensure!(ready.is_some(), "the host failed before the first test");
    loop {
        let next = queue
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop_front();
        let Some(program) = next else { return Ok(()) };
        let report = writeln!(stdin, "{}", program.display()).map(|()| reports.next().transpose());
        let mut sum = sum.lock().unwrap_or_else(PoisonError::into_inner);
        let Ok(Ok(Some(line))) = report else {
            sum.fail(format!("the host failed in {}", program.display()));
            return Ok(());
        };
        sum.add(serde_json::from_str::<Report>(&line).context("a report is JSON")?);
    }
}
