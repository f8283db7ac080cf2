// SPDX-License-Identifier: Apache-2.0
//! Reads the log: entries become lines on stdout and stderr again.
//!
//! An entry that was cut short by a killed supervisor is left out; whatever follows it is not.

use std::borrow::Cow;
use std::io::{self, Write};

use serde::Deserialize;
use thiserror::Error;

use super::Stream;
use crate::times::Timestamp;

#[derive(Debug, Error)]
pub enum ReadError {
    #[error("read the log {path}")]
    Read {
        path: std::path::PathBuf,
        source: io::Error,
    },
    #[error("write the log")]
    Write(#[source] io::Error),
}

/// Which entries are shown.
#[derive(Clone, Copy, Debug, Default)]
pub struct Filter {
    pub since: Option<Timestamp>,
    pub until: Option<Timestamp>,
}

/// How they are shown.
#[derive(Clone, Copy, Debug, Default)]
pub struct Style {
    pub timestamps: bool,
    /// As a terminal wrote it: all of it goes to stdout.
    pub merged: bool,
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    pub text: Cow<'a, [u8]>,
    pub stream: Stream,
    pub time: &'a str,
}

#[derive(Deserialize)]
struct Entry<'a> {
    #[serde(borrow)]
    log: Cow<'a, str>,
    stream: &'a str,
    time: &'a str,
}

impl<'a> Line<'a> {
    /// `None` where it is none.
    pub fn parse(entry: &'a [u8]) -> Option<Self> {
        Self::plain(entry).or_else(|| Self::any(entry))
    }

    /// The form that we write, when nothing in it is escaped but the line's end.
    fn plain(entry: &'a [u8]) -> Option<Self> {
        const HEAD: &[u8] = b"{\"log\":\"";
        let rest = entry.strip_prefix(HEAD)?;
        let end = rest.iter().position(|b| matches!(b, b'"' | b'\\'))?;
        let (text, rest) = rest.split_at(end);
        // The line's end goes with the text: `\n` is written as two bytes.
        let (has_end, rest) = match rest.strip_prefix(b"\\n\"") {
            Some(rest) => (true, rest),
            None => (false, rest.strip_prefix(b"\"")?),
        };
        let rest = rest.strip_prefix(b",\"stream\":\"std")?;
        let (stream, rest) = match rest.strip_prefix(b"out\"") {
            Some(rest) => (Stream::Stdout, rest),
            None => (Stream::Stderr, rest.strip_prefix(b"err\"")?),
        };
        let time = rest.strip_prefix(b",\"time\":\"")?.strip_suffix(b"\"}")?;
        let text = if has_end {
            let mut owned = Vec::with_capacity(text.len() + 1);
            owned.extend_from_slice(text);
            owned.push(b'\n');
            Cow::Owned(owned)
        } else {
            Cow::Borrowed(text)
        };
        Some(Self {
            text,
            stream,
            time: std::str::from_utf8(time).ok()?,
        })
    }

    fn any(entry: &'a [u8]) -> Option<Self> {
        let entry: Entry<'a> = serde_json::from_slice(entry).ok()?;
        Some(Self {
            text: match entry.log {
                Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
                Cow::Owned(text) => Cow::Owned(text.into_bytes()),
            },
            stream: match entry.stream {
                "stdout" => Stream::Stdout,
                "stderr" => Stream::Stderr,
                _ => return None,
            },
            time: entry.time,
        })
    }
}

/// Shows the entries of `bytes` that end in it; how many bytes those are, and whether one was
/// later than `filter` wants.
pub fn print(
    bytes: &[u8],
    filter: Filter,
    style: Style,
    out: &mut impl Write,
    err: &mut impl Write,
) -> Result<(usize, bool), ReadError> {
    let mut done = 0;
    while let Some(end) = bytes[done..].iter().position(|b| *b == b'\n') {
        let entry = &bytes[done..done + end];
        done += end + 1;
        let Some(line) = Line::parse(entry).or_else(|| after_a_cut(entry)) else {
            continue;
        };
        if filter.since.is_some() || filter.until.is_some() {
            let time = Timestamp::parse_rfc3339(line.time).unwrap_or_default();
            if filter.until.is_some_and(|until| time > until) {
                return Ok((done, true));
            }
            if filter.since.is_some_and(|since| time < since) {
                continue;
            }
        }
        let written = if style.merged || line.stream == Stream::Stdout {
            show(&line, style, out)
        } else {
            show(&line, style, err)
        };
        written.map_err(ReadError::Write)?;
    }
    Ok((done, false))
}

/// A supervisor that was killed left half an entry, and the next one wrote on behind it.
fn after_a_cut(entry: &[u8]) -> Option<Line<'_>> {
    const HEAD: &[u8] = b"{\"log\":";
    let at = entry.windows(HEAD.len()).rposition(|part| part == HEAD)?;
    Line::parse(&entry[at..])
}

fn show(line: &Line<'_>, style: Style, to: &mut impl Write) -> io::Result<()> {
    if style.timestamps {
        let time = Timestamp::parse_rfc3339(line.time).unwrap_or_default();
        to.write_all(time.fixed().as_bytes())?;
        to.write_all(b" ")?;
    }
    to.write_all(&line.text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Splitter;
    use super::*;

    fn shown(bytes: &[u8], filter: Filter, style: Style) -> (String, String) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        print(bytes, filter, style, &mut out, &mut err).unwrap();
        (
            String::from_utf8(out).unwrap(),
            String::from_utf8(err).unwrap(),
        )
    }

    fn sample() -> Vec<u8> {
        let mut out = Splitter::new(Stream::Stdout);
        let mut err = Splitter::new(Stream::Stderr);
        let at = Timestamp::from_seconds;
        [
            out.push(b"one\n", at(1)),
            err.push(b"t\"w\"o\n", at(2)),
            out.push(b"three\n", at(3)),
        ]
        .concat()
    }

    #[test]
    fn each_stream_in_its_place() {
        let all = Filter::default();
        let two = shown(&sample(), all, Style::default());
        assert_eq!(two, ("one\nthree\n".into(), "t\"w\"o\n".into()));
        let merged = Style {
            merged: true,
            timestamps: true,
        };
        let text = shown(&sample(), all, merged).0;
        assert!(text.starts_with("1970-01-01T00:00:01.000000000Z one\n1970-"));
    }

    #[test]
    fn between_two_times() {
        let filter = Filter {
            since: Some(Timestamp::from_seconds(2)),
            until: Some(Timestamp::from_seconds(2)),
        };
        let two = shown(&sample(), filter, Style::default());
        assert_eq!(two, (String::new(), "t\"w\"o\n".into()));
    }

    #[test]
    fn a_cut_entry_is_left_out() {
        let mut bytes = b"{\"log\":\"cut".to_vec();
        bytes.extend(sample());
        let (out, _) = shown(&bytes, Filter::default(), Style::default());
        assert_eq!(out, "one\nthree\n");
        // The end of the file is not the end of an entry.
        let whole = sample();
        let (done, _) = print(
            &whole[..whole.len() - 1],
            Filter::default(),
            Style::default(),
            &mut Vec::new(),
            &mut Vec::new(),
        )
        .unwrap();
        assert!(done < whole.len() - 1);
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered(bytes: Vec<u8>) {
            let _ = shown(&bytes, Filter::default(), Style { timestamps: true, merged: true });
        }

        #[test]
        fn what_is_written_is_read(text in "\\PC{0,40}") {
            let entries = [
                Splitter::new(Stream::Stderr).push(format!("{text}\n").as_bytes(), Timestamp::now()),
            ].concat();
            prop_assert_eq!(shown(&entries, Filter::default(), Style::default()).1, format!("{text}\n"));
        }
    }
}
