// SPDX-License-Identifier: Apache-2.0
//! The end of a stream, kept for the day something fails.

use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

const KEPT: usize = 64 << 10;

/// Reads a stream on a thread of its own and keeps its last 64 KiB.
pub(super) struct Tail {
    kept: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

impl Tail {
    pub(super) fn follow(mut stream: impl Read + Send + 'static) -> Self {
        let kept = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::clone(&kept);
        let reader = thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = stream.read(&mut buffer) {
                let mut kept = shared.lock().unwrap_or_else(PoisonError::into_inner);
                kept.extend_from_slice(buffer.get(..n).unwrap_or_default());
                let excess = kept.len().saturating_sub(KEPT);
                kept.drain(..excess);
            }
        });
        Self { kept, reader }
    }

    /// The last `lines` lines, once the stream has ended: call it when the writer is gone.
    pub(super) fn into_lines(self, lines: usize) -> Vec<String> {
        // The reader can't panic, and its end is all that is waited for.
        let _ = self.reader.join();
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let text = String::from_utf8_lossy(&kept);
        let all: Vec<&str> = text.lines().collect();
        all.iter()
            .skip(all.len().saturating_sub(lines))
            .map(|line| (*line).into())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_last_lines() {
        let text: String = (0..20_000).map(|n| format!("line {n}\n")).collect();
        let tail = Tail::follow(std::io::Cursor::new(text));
        assert_eq!(tail.into_lines(2), ["line 19998", "line 19999"]);
    }
}
