// SPDX-License-Identifier: Apache-2.0
//! A program under test, with a deadline.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// Enough for anything that works, on the slowest machine: it only bounds a hang.
const DEADLINE: Duration = Duration::from_secs(120);
const CONSOLE_LINES: usize = 60;

/// A command that is about to run.
pub struct Program {
    command: Command,
    stdin: Option<Vec<u8>>,
    deadline: Duration,
    /// Where console logs appear, for a failure's words.
    logs: Vec<PathBuf>,
}

impl Program {
    #[must_use]
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self {
            command: Command::new(program),
            stdin: None,
            deadline: DEADLINE,
            logs: Vec::new(),
        }
    }

    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.command.args(args);
        self
    }

    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    #[must_use]
    pub fn current_dir(mut self, directory: impl AsRef<Path>) -> Self {
        self.command.current_dir(directory);
        self
    }

    /// What it reads, then an end. Without this it sees an end at once.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Some(bytes.into());
        self
    }

    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    pub(super) fn logs_in(mut self, directories: impl IntoIterator<Item = PathBuf>) -> Self {
        self.logs.extend(directories);
        self
    }

    /// The bare command, for tests that want to hold the process: no deadline, no captured streams.
    #[must_use]
    pub fn into_command(self) -> Command {
        self.command
    }

    /// Runs it to its end.
    ///
    /// # Panics
    /// When it can't be started, or runs into its deadline.
    #[must_use]
    pub fn run(mut self) -> Done {
        let what = format!("{:?}", self.command);
        self.command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = self
            .command
            .spawn()
            .unwrap_or_else(|error| panic!("can't start {what}: {error}"));
        let mut stdin = child.stdin.take();
        let input = self.stdin.take();
        let feeder = thread::spawn(move || {
            if let (Some(stdin), Some(input)) = (&mut stdin, input) {
                // A program that doesn't read to the end is no error here.
                let _ = stdin.write_all(&input);
            }
        });
        let stdout = collect(child.stdout.take());
        let stderr = collect(child.stderr.take());
        let (status, in_time) = wait(child, self.deadline);
        let done = Done {
            what,
            status,
            stdout: stdout.join().expect("the collector doesn't panic"),
            stderr: stderr.join().expect("the collector doesn't panic"),
            logs: self.logs,
        };
        assert!(
            in_time,
            "still running after {} s, killed\n{}",
            self.deadline.as_secs(),
            done.story()
        );
        feeder.join().expect("the feeder doesn't panic");
        done
    }
}

fn collect(stream: Option<impl Read + Send + 'static>) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut stream) = stream {
            // What arrived until then is what there is.
            let _ = stream.read_to_end(&mut bytes);
        }
        bytes
    })
}

/// Waits for the end, and brings it about at the deadline.
fn wait(mut child: Child, deadline: Duration) -> (ExitStatus, bool) {
    let pid = rustix::process::Pid::from_child(&child);
    let (tell, ended) = mpsc::channel();
    let waiter = thread::spawn(move || {
        let status = child.wait();
        // The other end may have given up already.
        let _ = tell.send(());
        status
    });
    let in_time = ended.recv_timeout(deadline).is_ok();
    if !in_time {
        // Not reaped yet, since the waiter has not spoken: the pid is still its own.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
    let status = waiter.join().expect("the waiter doesn't panic");
    (status.expect("a child can be waited for"), in_time)
}

/// A program that has ended.
pub struct Done {
    what: String,
    status: ExitStatus,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    logs: Vec<PathBuf>,
}

impl Done {
    /// The exit status, or 128 and the signal's number.
    #[must_use]
    pub fn status(&self) -> i32 {
        self.status
            .code()
            .or_else(|| self.status.signal().map(|n| 128 + n))
            .unwrap_or(-1)
    }

    /// # Panics
    /// Unless the exit status is 0.
    pub fn succeeded(&self) -> &Self {
        self.exited(0)
    }

    /// # Panics
    /// Unless the exit status is this one.
    pub fn exited(&self, wanted: i32) -> &Self {
        assert_eq!(self.status(), wanted, "exit status\n{}", self.story());
        self
    }

    /// # Panics
    /// Unless stdout is exactly this.
    pub fn says(&self, wanted: &str) -> &Self {
        assert_eq!(
            String::from_utf8_lossy(&self.stdout),
            wanted,
            "stdout\n{}",
            self.story()
        );
        self
    }

    /// # Panics
    /// Unless stderr is one line that holds each of these.
    pub fn complains(&self, wanted: &[&str]) -> &Self {
        let text = String::from_utf8_lossy(&self.stderr);
        assert_eq!(
            text.trim_end().lines().count(),
            1,
            "one line on stderr\n{}",
            self.story()
        );
        for words in wanted {
            assert!(
                text.contains(words),
                "no {words:?} on stderr\n{}",
                self.story()
            );
        }
        self
    }

    /// Everything that helps to understand it.
    #[must_use]
    pub fn story(&self) -> String {
        let mut text = format!(
            "--- {}: {}\n--- stdout\n{}\n--- stderr\n{}\n",
            self.what,
            self.status,
            String::from_utf8_lossy(&self.stdout),
            String::from_utf8_lossy(&self.stderr),
        );
        for directory in &self.logs {
            tell_consoles(directory, &mut text);
        }
        text
    }
}

/// Appends the end of each `console*` file below `directory`.
fn tell_consoles(directory: &Path, text: &mut String) {
    let Ok(entries) = fs::read_dir(directory) else {
        return;
    };
    for entry in entries.filter_map(Result::ok) {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            tell_consoles(&path, text);
        } else if entry.file_name().to_string_lossy().starts_with("console") {
            let bytes = fs::read(&path).unwrap_or_default();
            let log = String::from_utf8_lossy(&bytes);
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines
                .get(lines.len().saturating_sub(CONSOLE_LINES)..)
                .unwrap_or_default();
            writeln!(text, "--- {}\n{}", path.display(), tail.join("\n"))
                .expect("a String takes everything");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_and_status_are_kept_apart() {
        let done = Program::new("sh")
            .args(["-c", "cat; echo no >&2; exit 3"])
            .stdin("in")
            .run();
        done.exited(3).says("in").complains(&["no"]);
    }

    #[test]
    #[should_panic(expected = "still running after 0 s")]
    fn a_hang_ends_at_the_deadline() {
        let _ = Program::new("sleep")
            .args(["1000"])
            .deadline(Duration::from_millis(50))
            .run();
    }

    #[test]
    fn the_console_is_part_of_the_story() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("vm")).unwrap();
        fs::write(directory.path().join("vm/console.log"), "Kernel panic").unwrap();
        let done = Program::new("true")
            .logs_in([directory.path().into()])
            .run();
        assert!(done.story().contains("Kernel panic"));
    }
}
