// SPDX-License-Identifier: Apache-2.0
//! `walnut logs`: what a container wrote.

use std::io::{self, BufWriter, Write};

use super::{Known, VerbError, has_log, refused};
use crate::cli::look::LogsArgs;
use crate::log_file::{Filter, Follower, Style};
use crate::paths::Paths;
use crate::record::RecordError;
use crate::run::stdio::Sink;
use crate::times::Timestamp;

const BUFFER: usize = 128 << 10;

pub fn logs(args: &LogsArgs, paths: &Paths) -> Result<u8, VerbError> {
    let known = Known::find(&args.container, paths)?;
    if !has_log(&known.config) {
        return refused("configured logging driver does not support reading");
    }
    // `run --rm` in the foreground keeps none.
    if known.config.container.remove && known.state.is_up() && !known.entry.log().exists() {
        return refused(format!(
            "container {} runs in the foreground with --rm: its output goes there alone, without a \
             log; walnut attach shows what comes from now on",
            known.config.name()
        ));
    }
    let now = Timestamp::now();
    let parse = |flag, text: &Option<String>| {
        text.as_deref()
            .map(|text| Timestamp::parse_flag(flag, text, now))
            .transpose()
    };
    let filter = Filter {
        since: parse("since", &args.since)?,
        until: parse("until", &args.until)?,
    };
    let style = Style {
        timestamps: args.timestamps,
        merged: known.config.container.tty,
    };
    let tail = match args.tail.as_str() {
        "all" => None,
        // Docker takes what is no number for all of it.
        number => number.parse().ok(),
    };
    let mut follower = Follower::new(&known.entry.log(), tail, args.follow)?;
    let mut out = buffered(Sink::Stdout);
    let mut err = buffered(Sink::Stderr);
    loop {
        // Before the log is read: what is written after its end is read once more.
        let state = match known.entry.state() {
            Err(RecordError::NotFound(_)) => None,
            state => Some(state?),
        };
        let goes_on = follower.show(filter, style, &mut out, &mut err);
        let flushed = out.flush().and_then(|()| err.flush());
        if !matches!(goes_on, Ok(true)) || flushed.is_err() {
            return finish(goes_on.map(drop).map_err(VerbError::from), flushed);
        }
        let state = state.filter(|state| args.follow && state.is_claimed());
        let is_late = filter.until.is_some_and(|until| until < Timestamp::now());
        let Some(state) = state.filter(|_| !is_late) else {
            return Ok(0);
        };
        follower.wait(state.pid, filter.until)?;
    }
}

/// A reader who has seen enough is no failure.
fn finish(read: Result<(), VerbError>, flushed: io::Result<()>) -> Result<u8, VerbError> {
    match flushed {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => return Ok(0),
        Err(e) => return Err(VerbError::Stdout(e)),
        Ok(()) => {}
    }
    read.map(|()| 0)
}

/// One of this process's own streams, without std's splitting into lines.
fn buffered(sink: Sink) -> BufWriter<Own> {
    BufWriter::with_capacity(BUFFER, Own(sink))
}

struct Own(Sink);

impl Write for Own {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
