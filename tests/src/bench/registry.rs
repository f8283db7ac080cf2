// SPDX-License-Identifier: Apache-2.0
//! Debian's `docker-registry` on loopback, with what its directory holds.

use std::fs;
use std::io::{self, BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

use super::interrupt::Guarded;

/// What it is called by.
pub const PROGRAM: &str = "docker-registry";

#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    #[error("can't configure {PROGRAM} in {}", directory.display())]
    Configure {
        directory: PathBuf,
        source: io::Error,
    },
    #[error("can't start {PROGRAM}")]
    Start(#[source] io::Error),
    #[error("{PROGRAM} ended before it listened")]
    Ended,
}

/// Killed when dropped.
#[derive(Debug)]
pub struct Registry {
    child: Child,
    port: u16,
    _guarded: Guarded,
}

impl Registry {
    /// # Errors
    /// It is not installed, or does not come up.
    pub fn start(mut command: Command, directory: &Path) -> Result<Self, RegistryError> {
        let configure = |source| RegistryError::Configure {
            directory: directory.into(),
            source,
        };
        fs::create_dir_all(directory).map_err(configure)?;
        // Free a moment ago; nobody else takes ports at random so fast.
        let free = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
        let port = free.map_err(configure)?.port();
        let config = directory.with_extension("yml");
        let text = format!(
            "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
             http: {{addr: \"127.0.0.1:{port}\"}}\n",
            directory.display()
        );
        fs::write(&config, text).map_err(configure)?;
        command.arg("serve").arg(&config).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(RegistryError::Start)?;
        let _guarded = Guarded::new(child.id());
        let log = child.stderr.take();
        let registry = Self {
            child,
            port,
            _guarded,
        };
        let mut log = BufReader::new(log.ok_or(RegistryError::Ended)?);
        let mut line = String::new();
        while !line.contains("listening on") {
            line.clear();
            let read = log.read_line(&mut line).map_err(RegistryError::Start)?;
            if read == 0 {
                return Err(RegistryError::Ended);
            }
        }
        thread::spawn(move || io::copy(&mut log, &mut io::sink()));
        Ok(registry)
    }

    #[must_use]
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // Both fail only where there is nothing left to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
