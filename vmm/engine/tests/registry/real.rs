// SPDX-License-Identifier: Apache-2.0
//! Debian's `docker-registry`, on a port of its own.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

pub struct Registry {
    child: Child,
    port: u16,
    _dir: tempfile::TempDir,
}

impl Registry {
    /// `None`, loudly, where there is no such program.
    pub fn start() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        // Free a moment ago; nobody else takes ports at random so fast.
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let config = dir.path().join("config.yml");
        let data = dir.path().display();
        let text = format!(
            "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {data}}}}}\n\
             http: {{addr: \"127.0.0.1:{port}\"}}\n"
        );
        std::fs::write(&config, text).unwrap();
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&config).process_group(0);
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(error) => {
                eprintln!("SKIPPED: no docker-registry: {error}");
                return None;
            }
        };
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        while log.read_line(&mut line).unwrap() > 0 && !line.contains("listening on") {
            line.clear();
        }
        assert!(
            line.contains("listening on"),
            "docker-registry does not start"
        );
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        Some(Registry {
            child,
            port,
            _dir: dir,
        })
    }

    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
