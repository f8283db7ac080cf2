// SPDX-License-Identifier: Apache-2.0
//! libcontainer's own account of what went wrong.
//!
//! Its errors cross from process to process as their outermost sentence; what failed, on what and
//! why is told only to `tracing`. So a job's process subscribes: each error event becomes a line in
//! a memory file that all processes of the job share, in the order of innermost first.

use std::fmt::{Debug, Write as _};
use std::fs::File;
use std::io::{Read, Seek, Write};

use rustix::fs::MemfdFlags;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// The account is cut here: no list of mounts is that long.
const MAX_ACCOUNT: u64 = 64 << 10;

/// Where this process's account is kept.
#[derive(Debug)]
pub(super) struct Account(File);

struct Listener(File);

impl Account {
    /// Starts listening, once in a process's life.
    pub(super) fn start() -> std::io::Result<Self> {
        let file = File::from(rustix::fs::memfd_create("account", MemfdFlags::CLOEXEC)?);
        let listener = Listener(file.try_clone()?);
        tracing::subscriber::set_global_default(listener).map_err(std::io::Error::other)?;
        Ok(Self(file))
    }

    /// What was said so far, one event a line.
    pub(super) fn lines(&mut self) -> Vec<String> {
        let mut text = Vec::new();
        let read = self
            .0
            .rewind()
            .and_then(|()| (&self.0).take(MAX_ACCOUNT).read_to_end(&mut text));
        if read.is_err() {
            return Vec::new();
        }
        String::from_utf8_lossy(&text)
            .lines()
            .map(String::from)
            .collect()
    }
}

impl Subscriber for Listener {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && (*metadata.level() == Level::ERROR || told_to_tell_all())
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(if told_to_tell_all() {
            LevelFilter::DEBUG
        } else {
            LevelFilter::ERROR
        })
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line::default();
        event.record(&mut line);
        if *event.metadata().level() != Level::ERROR {
            log::debug!(
                "{} {}{}",
                crate::clock::boottime_us(),
                line.message,
                line.fields
            );
            return;
        }
        let mut text = line.message.replace('\n', " ");
        let _ = write!(text, "{}", line.fields.replace('\n', " "));
        text.push('\n');
        // The offset is shared with every process of the job: lines come one after the other.
        let _ = (&self.0).write_all(text.as_bytes());
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// With `walnut.debug` on the kernel's command line each step goes to the log, with its time.
fn told_to_tell_all() -> bool {
    log::log_enabled!(log::Level::Debug)
}

#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let _ = if field.name() == "message" {
            write!(self.message, "{value:?}")
        } else {
            write!(self.fields, " {}={value:?}", field.name())
        };
    }
}
