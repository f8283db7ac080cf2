// SPDX-License-Identifier: Apache-2.0
//! The monitor's reports, read line by line from its pipe without ever waiting for more.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{OFlags, fcntl_setfl};
use walnut_vmm_config::{Ending, Report};

/// More than any report has: a monitor that says more is broken.
const MAX_LINE: usize = 64 << 10;
/// What is taken in at a time: one that never stops does not keep who reads from all else.
const MAX_DRAIN: usize = 64 << 10;

#[derive(Debug)]
pub struct Reports {
    pipe: std::fs::File,
    buffer: Vec<u8>,
    closed: bool,
    /// A malformed one has been told of.
    warned: bool,
    /// When `main` was entered and when the vCPUs began, in microseconds of `CLOCK_MONOTONIC`.
    pub started_us: Option<u64>,
    pub running_us: Option<u64>,
    pub ending: Option<Ending>,
}

impl Reports {
    pub fn new(pipe: OwnedFd) -> io::Result<Self> {
        fcntl_setfl(&pipe, OFlags::NONBLOCK)?;
        Ok(Self {
            pipe: pipe.into(),
            buffer: Vec::new(),
            closed: false,
            warned: false,
            started_us: None,
            running_us: None,
            ending: None,
        })
    }

    /// For poll(2), as long as more may come.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        (!self.closed).then(|| self.pipe.as_fd())
    }

    /// Takes in what is there now, [`MAX_DRAIN`] bytes at most.
    pub fn drain(&mut self) {
        let mut chunk = [0; 4096];
        let mut left = MAX_DRAIN;
        while !self.closed && left > 0 {
            match self.pipe.read(&mut chunk) {
                Ok(0) => self.closed = true,
                Ok(n) => {
                    left = left.saturating_sub(n);
                    self.take(&chunk[..n]);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.closed = true,
            }
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
        while let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = self.buffer.drain(..=end).collect();
            self.note(&line);
        }
        if self.buffer.len() > MAX_LINE {
            self.closed = true;
        }
    }

    fn note(&mut self, line: &[u8]) {
        match serde_json::from_slice(line) {
            Ok(Report::Started { at_us }) => self.started_us = Some(at_us),
            Ok(Report::Running { at_us }) => self.running_us = Some(at_us),
            Ok(Report::Ended { ending, .. }) => self.ending = Some(ending),
            Err(e) if !self.warned => {
                self.warned = true;
                log::warn!("the monitor's report is malformed: {e}");
            }
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn one_that_never_stops_is_left_in_time() {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let pipe = rustix::io::dup(&reader).unwrap();
        let mut reports = Reports::new(reader).unwrap();
        rustix::pipe::fcntl_setpipe_size(&writer, 4 * MAX_DRAIN).unwrap();
        let text = "garbage\n".repeat(2 * MAX_DRAIN / 8);
        std::fs::File::from(writer)
            .write_all(text.as_bytes())
            .unwrap();
        let waiting = || rustix::io::ioctl_fionread(&pipe).unwrap();
        reports.drain();
        assert!(reports.warned && reports.fd().is_some());
        assert_eq!(waiting(), MAX_DRAIN as u64);
        reports.drain();
        assert_eq!(waiting(), 0);
    }

    #[test]
    fn lines_in_pieces() {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let mut reports = Reports::new(reader).unwrap();
        let mut writer = std::fs::File::from(writer);
        reports.drain();
        assert!(reports.started_us.is_none() && reports.fd().is_some());
        let line = |r: &Report| serde_json::to_string(r).unwrap() + "\n";
        let ended = Report::Ended {
            at_us: 3,
            ending: Ending::GuestPanic {
                message: "x".into(),
            },
        };
        let text = line(&Report::Started { at_us: 1 })
            + "garbage\n"
            + &line(&Report::Running { at_us: 2 })
            + &line(&ended);
        let (head, tail) = text.as_bytes().split_at(10);
        writer.write_all(head).unwrap();
        reports.drain();
        assert_eq!(reports.started_us, None);
        writer.write_all(tail).unwrap();
        drop(writer);
        reports.drain();
        assert_eq!((reports.started_us, reports.running_us), (Some(1), Some(2)));
        assert_eq!(
            reports.ending,
            Some(Ending::GuestPanic {
                message: "x".into()
            })
        );
        assert!(reports.fd().is_none());
    }
}
