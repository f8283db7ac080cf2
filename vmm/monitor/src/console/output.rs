// SPDX-License-Identifier: Apache-2.0
//! Where console output goes, and its tail, which error messages quote. Both are bounded: the guest
//! decides how much it writes.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use thiserror::Error;

const FILE_MAX: u64 = 1 << 20;
const TAIL_MAX: usize = 16 << 10;
const PANIC: &str = "Kernel panic - not syncing";

#[derive(Debug, Error)]
#[error("cannot create the console file {path}")]
pub struct ConsoleError {
    path: PathBuf,
    source: io::Error,
}

/// The last bytes of the console, readable while the guest writes.
#[derive(Clone, Default)]
pub struct Tail(Arc<Mutex<VecDeque<u8>>>);

impl Tail {
    fn push(&self, bytes: &[u8]) {
        let mut tail = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tail.extend(bytes);
        let excess = tail.len().saturating_sub(TAIL_MAX);
        tail.drain(..excess);
    }

    fn bytes(&self) -> Vec<u8> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .copied()
            .collect()
    }

    /// The line in which the guest kernel says that it panicked.
    pub fn panic_line(&self) -> Option<String> {
        let bytes = self.bytes();
        let text = String::from_utf8_lossy(&bytes);
        let line = text.lines().find(|line| line.contains(PANIC))?;
        let start = line.find(PANIC).unwrap_or(0);
        Some(line[start..].chars().filter(|c| !c.is_control()).collect())
    }
}

enum Sink {
    Stdout(io::Stdout),
    File { file: File, len: u64 },
}

pub struct ConsoleOutput {
    sink: Sink,
    tail: Tail,
}

impl ConsoleOutput {
    pub fn stdout() -> Self {
        Self {
            sink: Sink::Stdout(io::stdout()),
            tail: Tail::default(),
        }
    }

    pub fn file(path: &Path) -> Result<Self, ConsoleError> {
        let file = File::create(path).map_err(|source| ConsoleError {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self {
            sink: Sink::File { file, len: 0 },
            tail: Tail::default(),
        })
    }

    pub fn tail(&self) -> Tail {
        self.tail.clone()
    }
}

impl Write for ConsoleOutput {
    /// Never fails: a console that nobody can read must not stop the guest.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.tail.push(bytes);
        let written = match &mut self.sink {
            Sink::Stdout(stdout) => stdout.write_all(bytes).and_then(|()| stdout.flush()),
            Sink::File { file, len } => append(file, len, bytes, &self.tail),
        };
        if let Err(error) = written {
            log::debug!("console output is lost: {error}");
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A file that is full starts anew with the console's tail.
fn append(file: &mut File, len: &mut u64, bytes: &[u8], tail: &Tail) -> io::Result<()> {
    if *len + bytes.len() as u64 <= FILE_MAX {
        *len += bytes.len() as u64;
        return file.write_all(bytes);
    }
    let kept = tail.bytes();
    file.set_len(0)?;
    file.seek(SeekFrom::Start(0))?;
    *len = kept.len() as u64;
    file.write_all(&kept)
}

#[cfg(test)]
mod tests {
    use super::{ConsoleOutput, FILE_MAX, TAIL_MAX};
    use std::io::Write;

    #[test]
    fn a_console_file_stays_bounded_and_keeps_the_end() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut output = ConsoleOutput::file(file.path()).unwrap();
        for line in 0..200_000 {
            writeln!(output, "line {line}").unwrap();
        }
        let kept = std::fs::read_to_string(file.path()).unwrap();
        assert!(kept.len() as u64 <= FILE_MAX + TAIL_MAX as u64);
        assert!(kept.ends_with("line 199999\n"));
        assert_eq!(output.tail.bytes().len(), TAIL_MAX);
    }

    #[test]
    fn the_panic_line_is_found_without_its_time_stamp() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut output = ConsoleOutput::file(file.path()).unwrap();
        assert_eq!(output.tail().panic_line(), None);
        write!(
            output,
            "[    0.5] Kernel panic - not syncing: no init\r\n[ 0.6] CPU: 0\r\n"
        )
        .unwrap();
        let line = output.tail().panic_line();
        assert_eq!(line.as_deref(), Some("Kernel panic - not syncing: no init"));
    }
}
