// SPDX-License-Identifier: Apache-2.0
//! Writes the log, in the threads that read the container's output.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Stream;
use crate::times::Timestamp;

/// Longer lines are cut into pieces of this, as Docker does.
const MAX_LINE: usize = 16 << 10;

/// `--log-driver` and `--log-opt`.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub struct Options {
    /// `json-file`, or `none`.
    pub driver: String,
    /// Bytes of one file; without it there is one, as long as it gets.
    pub max_size: Option<u64>,
    pub max_file: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            driver: "json-file".to_owned(),
            max_size: None,
            max_file: 1,
        }
    }
}

#[derive(Debug)]
pub struct LogWriter {
    path: PathBuf,
    file: File,
    written: u64,
    options: Options,
}

impl LogWriter {
    /// Goes on where an earlier run of the container ended.
    pub fn open(path: &Path, options: &Options) -> io::Result<Self> {
        let file = open(path)?;
        let written = file.metadata()?.len();
        Ok(Self {
            path: path.to_owned(),
            file,
            written,
            options: options.clone(),
        })
    }

    /// Appends whole entries, as [`Splitter`] makes them.
    pub fn append(&mut self, entries: &[u8]) -> io::Result<()> {
        if entries.is_empty() {
            return Ok(());
        }
        if self.options.max_size.is_some_and(|max| self.written >= max) {
            self.rotate()?;
        }
        self.file.write_all(entries)?;
        self.written += entries.len() as u64;
        Ok(())
    }

    /// `container.log` becomes `container.log.1`, that one `container.log.2`, as many as are kept.
    fn rotate(&mut self) -> io::Result<()> {
        let numbered = |n: u32| {
            let mut name = self.path.clone().into_os_string();
            name.push(format!(".{n}"));
            PathBuf::from(name)
        };
        for n in (1..self.options.max_file).rev() {
            let from = if n == 1 {
                self.path.clone()
            } else {
                numbered(n - 1)
            };
            match fs::rename(&from, numbered(n)) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        if self.options.max_file <= 1 {
            // Readers that follow see a file that has become shorter.
            self.file.set_len(0)?;
        } else {
            self.file = open(&self.path)?;
        }
        self.written = 0;
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
}

/// Makes entries of one stream's bytes: a line each, what has no end yet waits.
#[derive(Debug)]
pub struct Splitter {
    stream: Stream,
    pending: Vec<u8>,
}

impl Splitter {
    pub fn new(stream: Stream) -> Self {
        Self {
            stream,
            pending: Vec::new(),
        }
    }

    /// Entries for all lines that `bytes` completes.
    pub fn push(&mut self, bytes: &[u8], time: Timestamp) -> Vec<u8> {
        let suffix = self.suffix(time);
        let mut entries = Vec::with_capacity(bytes.len() + bytes.len() / 2 + 128);
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|b| *b == b'\n') {
            let (line, after) = rest.split_at(end + 1);
            rest = after;
            if self.pending.is_empty() {
                pieces(&mut entries, line, &suffix);
            } else {
                self.pending.extend_from_slice(line);
                pieces(&mut entries, &std::mem::take(&mut self.pending), &suffix);
            }
        }
        self.pending.extend_from_slice(rest);
        while self.pending.len() >= MAX_LINE {
            let after = self.pending.split_off(MAX_LINE);
            entry(&mut entries, &self.pending, &suffix);
            self.pending = after;
        }
        entries
    }

    /// What is left at the stream's end.
    pub fn finish(&mut self, time: Timestamp) -> Vec<u8> {
        let mut entries = Vec::new();
        let pending = std::mem::take(&mut self.pending);
        if !pending.is_empty() {
            pieces(&mut entries, &pending, &self.suffix(time));
        }
        entries
    }

    fn suffix(&self, time: Timestamp) -> String {
        format!(
            ",\"stream\":\"{}\",\"time\":\"{}\"}}\n",
            self.stream.name(),
            time.rfc3339()
        )
    }
}

fn pieces(entries: &mut Vec<u8>, line: &[u8], suffix: &str) {
    for piece in line.chunks(MAX_LINE) {
        entry(entries, piece, suffix);
    }
}

fn entry(entries: &mut Vec<u8>, text: &[u8], suffix: &str) {
    entries.extend_from_slice(b"{\"log\":");
    // JSON has no bytes: what is no UTF-8 is lost, as in Docker. A Vec takes everything.
    let _ = serde_json::to_writer(&mut *entries, &String::from_utf8_lossy(text));
    entries.extend_from_slice(suffix.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(entries: &[u8]) -> Vec<String> {
        std::str::from_utf8(entries)
            .unwrap()
            .lines()
            .map(|line| {
                let value: serde_json::Value = serde_json::from_str(line).unwrap();
                assert_eq!(value["stream"], "stdout");
                assert_eq!(value["time"], "1970-01-01T00:00:01Z");
                value["log"].as_str().unwrap().to_owned()
            })
            .collect()
    }

    #[test]
    fn lines_and_their_pieces() {
        let time = Timestamp::from_seconds(1);
        let mut splitter = Splitter::new(Stream::Stdout);
        assert_eq!(
            text(&splitter.push(b"a\n\"b\"\n\xff", time)),
            ["a\n", "\"b\"\n"]
        );
        assert_eq!(text(&splitter.push(b"c\nd", time)), ["\u{fffd}c\n"]);
        assert_eq!(text(&splitter.finish(time)), ["d"]);
        assert!(splitter.finish(time).is_empty());
        let long = vec![b'x'; MAX_LINE * 2 + 1];
        assert_eq!(text(&splitter.push(&long, time)).len(), 2);
        assert_eq!(text(&splitter.push(b"\n", time)), ["x\n"]);
    }

    #[test]
    fn as_many_files_as_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("container.log");
        let options = Options {
            max_size: Some(10),
            max_file: 3,
            ..Options::default()
        };
        let mut log = LogWriter::open(&path, &options).unwrap();
        for n in 0..5 {
            log.append(format!("{n}234567890\n").as_bytes()).unwrap();
        }
        drop(log);
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
        assert_eq!(read("container.log"), "4234567890\n");
        assert_eq!(read("container.log.1"), "3234567890\n");
        assert_eq!(read("container.log.2"), "2234567890\n");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
        let one = Options {
            max_size: Some(10),
            ..Options::default()
        };
        let mut log = LogWriter::open(&path, &one).unwrap();
        log.append(b"new\n").unwrap();
        assert_eq!(read("container.log"), "new\n");
    }
}
