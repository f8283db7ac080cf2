// SPDX-License-Identifier: Apache-2.0
//! What users see while an image is loaded.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;

use super::digest::Digest;

/// Told of work that takes time, one piece after the other.
pub trait Progress {
    /// A piece begins; `total` bytes will be read.
    fn begin(&mut self, what: &str, total: u64);
    fn advance(&mut self, bytes: u64);
    /// The piece is done. Not called where it failed.
    fn end(&mut self);
}

/// What becomes of a layer that is pulled or pushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// In Docker's words; it stays so.
    Said(&'a str),
    /// So many bytes of how many.
    Downloading(u64, u64),
    Extracting(u64, u64),
    Pushing(u64, u64),
}

/// Told of a layer's steps, from any thread.
pub type Tell = Arc<dyn Fn(Digest, Step<'_>) + Send + Sync>;

/// Says nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quiet;

impl Progress for Quiet {
    fn begin(&mut self, _what: &str, _total: u64) {}
    fn advance(&mut self, _bytes: u64) {}
    fn end(&mut self) {}
}

const BAR: u64 = 30;
/// Bytes that are read before anybody could wonder: of these nothing is said.
const SMALL: u64 = 16 << 20;

/// A bar on stderr, or one line for each finished piece where that is no terminal.
#[derive(Debug)]
pub struct Terminal<W = io::Stderr> {
    out: W,
    bars: bool,
    what: String,
    total: u64,
    done: u64,
    /// Steps of the bar that are drawn.
    drawn: Option<u64>,
}

impl Terminal {
    pub fn stderr() -> Self {
        let out = io::stderr();
        let bars = out.is_terminal();
        Terminal::new(out, bars)
    }
}

impl<W: Write> Terminal<W> {
    fn new(out: W, bars: bool) -> Self {
        Terminal {
            out,
            bars,
            what: String::new(),
            total: 0,
            done: 0,
            drawn: None,
        }
    }

    /// Nothing depends on whether a message was seen.
    fn say(&mut self, line: &str) {
        let _ = self
            .out
            .write_all(line.as_bytes())
            .and_then(|()| self.out.flush());
    }

    fn draw(&mut self) {
        let steps = (self.done.min(self.total) * BAR)
            .checked_div(self.total)
            .unwrap_or(BAR);
        if !self.bars || self.total < SMALL || self.drawn == Some(steps) {
            return;
        }
        self.drawn = Some(steps);
        let filled = usize::try_from(steps).unwrap_or(0);
        let empty = usize::try_from(BAR - steps).unwrap_or(0);
        let line = format!(
            "\r\x1b[K{} [{}{}] {}/{}",
            self.what,
            "=".repeat(filled),
            " ".repeat(empty),
            megabytes(self.done),
            megabytes(self.total)
        );
        self.say(&line);
    }
}

impl<W: Write> Progress for Terminal<W> {
    fn begin(&mut self, what: &str, total: u64) {
        self.what = what.into();
        self.total = total;
        self.done = 0;
        self.drawn = None;
        self.draw();
    }

    fn advance(&mut self, bytes: u64) {
        self.done += bytes;
        self.draw();
    }

    fn end(&mut self) {
        let line = match (self.bars, self.drawn.take()) {
            (true, Some(_)) => "\r\x1b[K".into(),
            (true, None) => return,
            (false, _) if self.total < SMALL => return,
            (false, _) => format!("{}: {}\n", self.what, megabytes(self.total)),
        };
        self.say(&line);
    }
}

impl<W> Drop for Terminal<W> {
    fn drop(&mut self) {
        // A bar that a failure left behind must not stand in front of its message.
        if self.bars && self.drawn.is_some() {
            let _ = io::stderr().write_all(b"\r\x1b[K");
        }
    }
}

fn megabytes(bytes: u64) -> String {
    format!("{}.{}MB", bytes / 1_000_000, bytes / 100_000 % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(bars: bool, total: u64) -> String {
        let mut out = Vec::new();
        {
            let mut progress = Terminal::new(&mut out, bars);
            progress.begin("Loading layer 0123", total);
            progress.advance(total / 2);
            progress.advance(total - total / 2);
            progress.end();
        }
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_line_where_there_is_no_terminal() {
        assert_eq!(run(false, 42_000_000), "Loading layer 0123: 42.0MB\n");
        assert_eq!(run(false, 1000), "");
    }

    #[test]
    fn a_bar_that_leaves_nothing_behind() {
        let drawn = run(true, 42_000_000);
        assert!(
            drawn.contains("[===============               ] 21.0MB/42.0MB"),
            "{drawn}"
        );
        assert!(drawn.ends_with("\r\x1b[K"));
        assert_eq!(run(true, 1000), "");
    }
}
