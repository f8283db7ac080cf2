// SPDX-License-Identifier: Apache-2.0
//! What a signal that ends the bench must not leave behind: the child of the moment, and a tmpfs
//! full of files.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Mutex;
use std::thread;

use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Children of which nobody has waited yet; there is seldom more than one.
static CHILDREN: Mutex<Vec<u32>> = Mutex::new(Vec::new());

/// A child that has to end when the bench does; forgotten when dropped.
#[derive(Debug)]
pub struct Guarded(u32);

impl Guarded {
    #[must_use]
    pub fn new(pid: u32) -> Self {
        if let Ok(mut children) = CHILDREN.lock() {
            children.push(pid);
        }
        Self(pid)
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        if let Ok(mut children) = CHILDREN.lock() {
            children.retain(|pid| *pid != self.0);
        }
    }
}

/// From now on a signal ends the children, removes `directory` and then ends this process.
///
/// # Errors
/// The signals can't be taken over.
pub fn clean_up(directory: PathBuf) -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            if let Some(signal) = signals.forever().next() {
                // Held to the end: no other child starts meanwhile.
                let children = CHILDREN.lock();
                for pid in children.iter().flat_map(|children| children.iter()) {
                    let pid = i32::try_from(*pid).ok().and_then(Pid::from_raw);
                    // It may have ended by itself.
                    let _ = pid.map(|pid| kill_process(pid, Signal::KILL));
                }
                // The bench is still writing, perhaps; what appears behind this is small.
                let _ = fs::remove_dir_all(&directory);
                std::process::exit(128 + signal);
            }
        })?;
    Ok(())
}
