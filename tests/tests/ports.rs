// SPDX-License-Identifier: Apache-2.0
//! Published ports where two want the same one, and where they are very many. All traffic stays on the
//! loopback.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::collections::HashSet;
use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use rustix::process::{Signal, kill_process};
use walnut_tests::harness::network::{ECHO, PATIENCE, free_ports, home, passts, wait_for_end};
use walnut_tests::harness::{Home, Program};

/// A passt that says when it is there, and waits to be told to go on.
struct SlowPasst {
    dir: PathBuf,
}

impl SlowPasst {
    fn new(home: &Home) -> Self {
        let dir = home.path().join("slow");
        fs::create_dir(&dir).unwrap();
        let program = dir.join("passt");
        let here = dir.display();
        let script =
            format!("#!/bin/sh\n: >{here}/came\n: <{here}/go\nexec /usr/bin/passt \"$@\"\n");
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        for fifo in ["came", "go"] {
            let mode = nix::sys::stat::Mode::S_IRWXU;
            nix::unistd::mkfifo(&dir.join(fifo), mode).unwrap();
        }
        Self { dir }
    }

    fn path(&self) -> String {
        format!("{}:{}", self.dir.display(), std::env::var("PATH").unwrap())
    }

    fn wait(&self) {
        fs::read(self.dir.join("came")).unwrap();
    }

    /// Whether it is still there or not.
    fn go_on(&self) {
        let mut both = OpenOptions::new();
        let go = both.read(true).write(true).open(self.dir.join("go"));
        drop(go.unwrap());
    }
}

fn publish(home: &Home, name: &str, publish: &str, script: &str) -> Program {
    let image = home.busybox();
    let line = ["run", "-d", "--name", name, "-p", publish, &image];
    home.walnut([&line[..], &["sh", "-c", script]].concat())
}

/// passt binds a moment after the port was found free, and lets others bind it, too.
#[test]
fn one_of_two_at_once() {
    let Some(home) = home() else { return };
    let [port] = free_ports();
    let ours = format!("{port}:53/udp");
    let slow = SlowPasst::new(&home);
    let image = home.busybox();
    std::thread::scope(|scope| {
        let first = publish(&home, "first", &ours, "sleep 1000").env("PATH", slow.path());
        let first = scope.spawn(|| first.run());
        slow.wait();
        let places = [("", "127.0.0.1"), ("0.0.0.0:", "0.0.0.0")].map(|(address, place)| {
            let line = [
                "run",
                "--rm",
                "-p",
                &format!("{address}{ours}"),
                &image,
                "true",
            ];
            (place, home.walnut(line).run())
        });
        // At another address it is another port.
        let other = publish(&home, "other", &format!("127.0.0.2:{ours}"), "sleep 1000").run();
        slow.go_on();
        first.join().unwrap().succeeded();
        other.succeeded();
        for (place, done) in places {
            let taken = format!("Bind for {place}:{port} failed: port is already allocated");
            done.exited(125).complains(&[&taken]);
        }
    });
    // It is free again whatever becomes of the one that had it.
    let found = passts(&format!("127.0.0.1/{port}:53"));
    assert_eq!(found.len(), 1);
    kill_process(home.supervisor("first"), Signal::KILL).unwrap();
    wait_for_end(&found);
    publish(&home, "next", &ours, "sleep 1000")
        .run()
        .succeeded();
    home.remove_all();
    home.assert_clean();
}

/// Of the loopback.
fn listened_on() -> HashSet<u16> {
    const LISTEN: &str = "0A";
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let port = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let port = words.get(1)?.strip_prefix("0100007F:")?;
        (words[3] == LISTEN).then(|| u16::from_str_radix(port, 16).unwrap())
    };
    table.lines().filter_map(port).collect()
}

#[test]
fn thousands_of_them() {
    let Some(home) = home() else { return };
    let script = ECHO.replace("80", "23999");
    publish(&home, "many", "20000-23999:20000-23999", &script)
        .run()
        .succeeded();
    let there = listened_on();
    assert!((20_000..24_000).all(|port| there.contains(&port)));
    home.wait_for_listeners("many", &["23999"]);
    let mut stream = TcpStream::connect(("127.0.0.1", 23_999)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"hello").unwrap();
    let mut answer = [0; 5];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"hello");
    let said = home.says(&["port", "many"]);
    assert_eq!(said.lines().count(), 4000);
    assert!(said.ends_with("\n23999/tcp -> 127.0.0.1:23999"));
    let listed = home.says(&["ps", "--format", "{{.Ports}}"]);
    assert_eq!(listed, "127.0.0.1:20000-23999->20000-23999/tcp");
    home.remove_all();
    home.assert_clean();
}

#[test]
fn more_of_them_than_open_files() {
    let Some(home) = home() else { return };
    let command = publish(&home, "many", "20000-20999:20000-20999", "true");
    let command = command.into_command();
    Program::new("sh")
        .args(["-c", "ulimit -n 512; exec \"$0\" \"$@\""])
        .args([command.get_program()])
        .args(command.get_args())
        .run()
        .exited(125)
        .complains(&[
            "1000 ports are too many for passt, which may have 496 at most",
            "ulimit -Hn",
        ]);
    assert!(
        listened_on()
            .iter()
            .all(|port| !(20_000..21_000).contains(port))
    );
    home.remove_all();
    home.assert_clean();
}
