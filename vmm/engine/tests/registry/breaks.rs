// SPDX-License-Identifier: Apache-2.0
//! A registry that goes away, and a disk that is full.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use crate::real::Registry;
use crate::{Home, count, text};

/// Stands before a registry, and lets so many bytes through on one connection before it asks.
struct Proxy {
    port: u16,
    /// A connection has come to the limit.
    reached: Receiver<()>,
    /// It may go on.
    go_on: Sender<()>,
    asked_for_the_rest: Receiver<()>,
}

impl Proxy {
    fn new(upstream: String, limit: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (tell_reached, reached) = channel();
        let (go_on, may_go_on) = channel();
        let (tell_rest, asked_for_the_rest) = channel();
        // Taken by the first connection that gets there.
        let gate = Arc::new(Mutex::new(Some((tell_reached, may_go_on))));
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let client = client.unwrap();
                let Ok(server) = TcpStream::connect(&upstream) else {
                    continue;
                };
                let (from, to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                let tell = tell_rest.clone();
                std::thread::spawn(move || drop(requests(from, to, &tell)));
                let gate = Arc::clone(&gate);
                std::thread::spawn(move || drop(answers(server, client, limit, &gate)));
            }
        });
        Proxy {
            port,
            reached,
            go_on,
            asked_for_the_rest,
        }
    }
}

fn requests(mut from: TcpStream, mut to: TcpStream, tell: &Sender<()>) -> std::io::Result<()> {
    let mut buffer = [0; 4096];
    loop {
        let len = from.read(&mut buffer)?;
        if len == 0 {
            return to.shutdown(Shutdown::Write);
        }
        // A request of ours fits into one packet.
        if text(&buffer[..len])
            .to_ascii_lowercase()
            .contains("\r\nrange: bytes=")
        {
            let _ = tell.send(());
        }
        to.write_all(&buffer[..len])?;
    }
}

type Gate = Mutex<Option<(Sender<()>, Receiver<()>)>>;

fn answers(
    mut from: TcpStream,
    mut to: TcpStream,
    limit: usize,
    gate: &Gate,
) -> std::io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    let mut passed = 0;
    loop {
        let len = from.read(&mut buffer).unwrap_or(0);
        if len == 0 {
            return to.shutdown(Shutdown::Both);
        }
        to.write_all(&buffer[..len])?;
        passed += len;
        if passed >= limit
            && let Some((reached, go_on)) = gate.lock().unwrap().take()
        {
            reached.send(()).unwrap();
            let _ = go_on.recv();
        }
    }
}

#[test]
fn a_registry_that_comes_back_is_gone_on_with() {
    let Some(mut registry) = Registry::start() else {
        return;
    };
    let home = Home::new();
    // More than all buffers on the way hold.
    home.publish(&format!("{}/app:1", registry.host()), 64_000_000);
    let proxy = Proxy::new(registry.host(), 8_000_000);
    let there = Home::new();
    let name = format!("127.0.0.1:{}/app:1", proxy.port);
    let mut pull = there.command(&["pull", &name]);
    let pull = pull.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    proxy.reached.recv().unwrap();
    registry.stop();
    registry.start_again();
    proxy.go_on.send(()).unwrap();
    let done = pull.unwrap().wait_with_output().unwrap();
    assert!(done.status.success(), "{}", text(&done.stderr));
    proxy.asked_for_the_rest.try_recv().unwrap();
    assert_eq!(count(&there.blobs(), ".part"), 0);
}

/// Runs `walnut ARGS` with its store on a disk of `size`; what it said, and the files it left.
fn on_a_small_disk(home: &Home, size: &str, args: &[&str]) -> Option<(String, Vec<String>)> {
    let root = home.0.path().join("root");
    std::fs::create_dir_all(&root).unwrap();
    let script = "mount -t tmpfs -o size=$0 small \"$1\" || exit 99; cd \"$1\"; shift; \
                  \"$@\"; status=$?; find . -type f; exit $status";
    let walnut = home.command(args);
    let mut command = Command::new("unshare");
    command.args(["-rm", "sh", "-c", script, size]).arg(&root);
    command.arg(walnut.get_program()).args(walnut.get_args());
    command.env("DOCKER_CONFIG", home.0.path());
    let done = command.output().unwrap();
    match done.status.code() {
        Some(1) => {}
        Some(0) => panic!("it fits"),
        _ => {
            eprintln!("SKIPPED: no mounts of our own: {}", text(&done.stderr));
            return None;
        }
    }
    let left = text(&done.stdout).lines().map(str::to_owned).collect();
    Some((text(&done.stderr), left))
}

/// What holds a part of an image: nothing of it may be left.
fn data(left: &[String]) -> Vec<&String> {
    let files = left
        .iter()
        .filter(|file| file.contains("sha256") || file.contains("erofs"));
    files.collect()
}

#[test]
fn a_full_disk_is_told_of_and_nothing_stays() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let home = Home::new();
    let name = format!("{}/app:1", registry.host());
    home.publish(&name, 6_000_000);
    let archive = home.0.path().join("app.tar");
    home.ok(&["save", "-o", archive.to_str().unwrap(), &name]);
    let load = ["load", "-i", archive.to_str().unwrap()];
    let pull = ["pull", "-q", &name];
    for (args, size) in [
        (&load[..], "4m"),
        (&load, "10m"),
        (&pull, "4m"),
        (&pull, "10m"),
    ] {
        let Some((said, left)) = on_a_small_disk(&Home::new(), size, args) else {
            return;
        };
        assert!(
            said.contains("No space left on device"),
            "{args:?} {size}: {said}"
        );
        assert_eq!(said.lines().count(), 1, "{said}");
        assert_eq!(data(&left), Vec::<&String>::new(), "{args:?} {size}");
    }
}
