// SPDX-License-Identifier: Apache-2.0
//! The container's output: from the machine to this process's own stream (in the foreground), the
//! log, and whoever is attached; one thread a stream.

use std::io::{self, Read};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use super::shared::Shared;
use crate::log_file::{LogWriter, Splitter, Stream};
use crate::run::stdio::{FIRST_BYTE_US, Sink};
use crate::run::timings::now_us;
use crate::times::Timestamp;

/// Of a process that shows it itself: throughput counts.
const OWN_BUFFER: usize = 256 << 10;
/// Of one that stays in the background: memory counts.
const BUFFER: usize = 32 << 10;

/// Where output goes.
#[derive(Clone, Debug)]
pub struct Outputs {
    /// This process's own streams are the container's.
    pub own: bool,
    pub log: Option<Arc<Mutex<LogWriter>>>,
    pub shared: Arc<Shared>,
}

impl Outputs {
    /// Copies what the container writes until it is done.
    pub fn copy(&self, from: UnixStream, stream: Stream) -> io::Result<()> {
        let outputs = self.clone();
        let passing = self.shared.passing.begins(from.try_clone()?);
        thread::Builder::new()
            .name(stream.name().to_owned())
            .spawn(move || {
                let _passing = passing;
                if let Err(e) = outputs.pump(&from, stream) {
                    log::debug!("{}: {e}", stream.name());
                    // Either side may be gone already.
                    let _ = from.shutdown(Shutdown::Both);
                }
            })
            .map(drop)
    }

    fn pump(&self, mut from: &UnixStream, stream: Stream) -> io::Result<()> {
        let sink = match stream {
            Stream::Stdout => Sink::Stdout,
            Stream::Stderr => Sink::Stderr,
        };
        let mut splitter = Splitter::new(stream);
        let mut buffer = vec![0; if self.own { OWN_BUFFER } else { BUFFER }];
        let mut own = self.own;
        loop {
            let count = match from.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            };
            let bytes = &buffer[..count];
            if own {
                FIRST_BYTE_US.get_or_init(now_us);
                match sink.write(bytes) {
                    // Its reader went. Unless somebody else listens, the container is told.
                    Err(e) if self.log.is_none() && self.shared.hub.is_empty() => return Err(e),
                    written => own = written.is_ok(),
                }
            }
            if self.log.is_some() {
                self.log(&splitter.push(bytes, Timestamp::now()));
            }
            self.shared.hub.output(stream, bytes);
        }
        self.log(&splitter.finish(Timestamp::now()));
        Ok(())
    }

    fn log(&self, entries: &[u8]) {
        let Some(log) = &self.log else { return };
        let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
        // A full disk must not stop the container.
        if let Err(e) = log.append(entries) {
            log::warn!("write the container's log: {e}");
        }
    }
}
