// SPDX-License-Identifier: Apache-2.0
//! The agent's log: one line a record to `/dev/kmsg`, where the kernel keeps it beside its own
//! words, stamps it and limits its rate (`printk_devkmsg`).
//!
//! Any thread; after a fork the helpers write through the same descriptor.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::sync::OnceLock;

use log::{Level, LevelFilter, Log, Metadata, Record};

/// A record longer than this is cut: the kernel refuses lines beyond its own 1 KiB.
const MAX_LINE: usize = 900;

static KMSG: OnceLock<File> = OnceLock::new();

struct Kmsg;

/// Opens `/dev/kmsg` and sends every record of `level` or graver there.
///
/// # Errors
/// There is no `/dev/kmsg`, or it may not be written.
pub fn init(level: LevelFilter) -> io::Result<()> {
    let kmsg = OpenOptions::new().write(true).open("/dev/kmsg")?;
    if KMSG.set(kmsg).is_ok() && log::set_logger(&Kmsg).is_ok() {
        log::set_max_level(level);
    }
    Ok(())
}

impl Log for Kmsg {
    /// The RPC library tells of every connection: its warnings are enough.
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= Level::Warn || metadata.target().starts_with("walnut")
    }

    fn log(&self, record: &Record<'_>) {
        let Some(mut kmsg) = KMSG.get() else { return };
        if self.enabled(record.metadata()) {
            // A lost line is the most that can go wrong, and there is nowhere to say so.
            let _ = kmsg.write_all(&line(record.level(), record.args()));
        }
    }

    fn flush(&self) {}
}

/// One record as `/dev/kmsg` wants it: syslog priority, then the text without control characters.
fn line(level: Level, args: &std::fmt::Arguments<'_>) -> Vec<u8> {
    let priority = match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    };
    let mut text = format!("<{priority}>walnut-agent: ");
    let _ = write!(text, "{args}");
    let mut line: Vec<u8> = text.bytes().take(MAX_LINE).collect();
    for byte in &mut line {
        if byte.is_ascii_control() {
            *byte = b' ';
        }
    }
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_one_bounded_line() {
        let made = line(
            Level::Error,
            &format_args!("a\nb\x1b[2J{}", "x".repeat(5000)),
        );
        assert!(made.starts_with(b"<3>walnut-agent: a b [2Jxxx"));
        assert_eq!(made.len(), MAX_LINE + 1);
        assert_eq!(
            made.iter().filter(|byte| byte.is_ascii_control()).count(),
            1
        );
        assert_eq!(made.last(), Some(&b'\n'));
    }
}
