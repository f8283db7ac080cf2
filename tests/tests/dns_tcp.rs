// SPDX-License-Identifier: Apache-2.0
//! Answers that are too long for UDP, on networks of the user's own: asked for by real programs, given by
//! a name server of the test's. All traffic stays on the loopback.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use walnut_tests::harness::network::{Address, HOST_PROGRAMS, TestTap, home};
use walnut_tests::harness::{Done, Home, Program, skip};

const NO_ROOT: &str = "addresses and low ports are root's to make";
/// Without EDNS (RFC 1035 §4.2.1).
const SHORT: usize = 512;

/// Knows `many.test`: 100 addresses. Ends when it is dropped.
struct NameServer {
    address: &'static str,
    enough: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// The answer; one that is longer than `limit` is left out, and its header says so.
fn answer(query: &[u8], by_udp: bool) -> Vec<u8> {
    // RFC 1035 §4.1: the header, the question as it came, its addresses.
    let body = &query[12..];
    let end = body.iter().position(|byte| *byte == 0).unwrap() + 5;
    let (question, rest) = body.split_at(end);
    let addresses = match question.starts_with(b"\x04many\x04test\0\0\x01") {
        true => 100_u8,
        false => 0,
    };
    // EDNS0, if anything: the root's name, OPT, how much may come.
    let size = rest
        .get(3..5)
        .map(|size| u16::from_be_bytes([size[0], size[1]]));
    let mut records: Vec<u8> = (0..addresses)
        .flat_map(|last| [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 198, 51, 100, last])
        .collect();
    let limit = size.map_or(SHORT, usize::from);
    let is_cut = by_udp && 12 + end + records.len() + 11 > limit;
    if is_cut {
        records.clear();
    }
    let count = if is_cut { 0 } else { addresses };
    let flags = [0x81 | u8::from(is_cut) << 1, 0x80];
    let edns = u8::from(size.is_some());
    let mut all = [&query[..2], &flags, &[0, 1, 0, count, 0, 0, 0, edns]].concat();
    all.extend([question, &records].concat());
    if size.is_some() {
        all.extend([0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
    }
    all
}

fn answer_stream(mut stream: &TcpStream) -> std::io::Result<()> {
    loop {
        let mut length = [0; 2];
        stream.read_exact(&mut length)?;
        let mut query = vec![0; u16::from_be_bytes(length).into()];
        stream.read_exact(&mut query)?;
        let answer = answer(&query, false);
        let length = u16::try_from(answer.len()).unwrap().to_be_bytes();
        stream.write_all(&[&length[..], &answer].concat())?;
    }
}

impl NameServer {
    /// `None` where somebody is there already.
    fn start(address: &'static str, by_tcp: bool) -> Option<Self> {
        let socket = UdpSocket::bind((address, 53)).ok()?;
        let listener = by_tcp.then(|| TcpListener::bind((address, 53)).unwrap());
        let enough = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&enough);
        let mut threads = vec![std::thread::spawn(move || {
            let mut query = [0; 512];
            while let Ok((len, from)) = socket.recv_from(&mut query) {
                if stop.load(Ordering::SeqCst) {
                    break;
                }
                socket.send_to(&answer(&query[..len], true), from).unwrap();
            }
        })];
        let stop = Arc::clone(&enough);
        threads.extend(listener.map(|listener| {
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    if stop.load(Ordering::SeqCst) {
                        break;
                    }
                    // Until it is closed or reset.
                    let _ = answer_stream(&stream);
                }
            })
        }));
        Some(Self {
            address,
            enough,
            threads,
        })
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.enough.store(true, Ordering::SeqCst);
        let last = UdpSocket::bind("127.0.0.1:0").unwrap();
        last.send_to(&[0], (self.address, 53)).unwrap();
        // It fails where nobody listens.
        let _ = TcpStream::connect((self.address, 53));
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
    }
}

fn root_home() -> Option<Home> {
    if !rustix::process::geteuid().is_root() {
        skip(NO_ROOT);
        return None;
    }
    home()
}

/// How many addresses `many.test` has, each way to ask.
const MANY: &str = "dig +time=20 +notcp +ignore many.test | grep -o 'flags: qr tc'; \
                    dig +time=20 many.test | grep -c 198.51.100; \
                    dig +time=20 +noedns many.test | grep -c 198.51.100; \
                    dig +time=20 +tcp +keepopen +short many.test many.test | sort -u | grep -c 198.51.100; \
                    dig +time=20 +tcp +noedns many.test | grep -c OPT; \
                    getent ahostsv4 many.test | grep -c STREAM";
const ALL: &str = "flags: qr tc\n100\n100\n100\n0\n100\n";

#[test]
fn a_server_is_asked_by_tcp() {
    let Some(home) = root_home() else { return };
    let _address = Address::new("198.51.100.53/32", "lo");
    let _server = NameServer::start("198.51.100.53", true).unwrap();
    home.walnut(["network", "create", "net"]).run().succeeded();
    let db = ["--network", "net", "--ip", "10.89.0.77"];
    home.background_with("db", &db, "sleep 1000");
    let script = format!("dig +time=20 +tcp +short db db.net -x 10.89.0.77; {MANY}");
    let flags = ["--network", "net", "--dns", "198.51.100.53"];
    let image = home.busybox();
    let line = [
        &["run", "--rm"],
        &HOST_PROGRAMS[..],
        &flags,
        &[&image, "sh", "-c", &script],
    ];
    let expected = format!("10.89.0.77\n10.89.0.77\ndb.net.\n{ALL}");
    home.walnut(line.concat()).run().succeeded().says(&expected);
    home.remove_all();
}

/// As systemd-resolved has it: the host's one name server is on its loopback, where a passt of 2023
/// reaches it by UDP alone.
#[test]
fn the_hosts_resolver_is_asked_for_all() {
    let Some(home) = root_home() else { return };
    let Some(_server) = NameServer::start("127.0.0.53", false) else {
        return skip("somebody has 127.0.0.53:53");
    };
    home.walnut(["network", "create", "net"]).run().succeeded();
    let image = home.busybox();
    let with_policy = format!("{MANY}; dig +time=20 +tcp other.test | grep -o 'status: [A-Z]*'");
    let runs: [(&[&str], &str, String); 2] = [
        (&["--network", "net"], MANY, ALL.to_owned()),
        (
            &["--egress", "many.test"],
            &with_policy,
            format!("{ALL}status: REFUSED\n"),
        ),
    ];
    for (flags, script, expected) in runs {
        let line = [
            &["run", "--rm"],
            &HOST_PROGRAMS[..],
            flags,
            &[&image, "sh", "-c", script],
        ];
        let done = on_a_host_with_resolved(&home, &line.concat());
        done.succeeded().says(&expected);
    }
    home.remove_all();
}

/// `walnut LINE` on a host whose one name server is on its loopback.
fn on_a_host_with_resolved(home: &Home, line: &[&str]) -> Done {
    let conf = home.path().join("resolv.conf");
    fs::write(&conf, "nameserver 127.0.0.53\n").unwrap();
    let walnut = home.walnut(line).into_command();
    let mount = "mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"";
    Program::new("unshare")
        .args(["--mount", "sh", "-c", mount])
        .args([conf.as_os_str(), walnut.get_program()])
        .args(walnut.get_args())
        .run()
}

/// An address of its own is no way to the host's loopback, and who is behind that, nobody knows.
#[test]
fn no_names_over_a_tap_is_told() {
    let Some(home) = root_home() else { return };
    if fs::exists("/run/systemd/resolve/resolv.conf").unwrap() {
        return skip("systemd-resolved says who it asks");
    }
    let _tap = TestTap::new(1500);
    let network = format!("tap:{},ip=192.0.2.2/24", TestTap::NAME);
    let image = home.busybox();
    let run = |flags: &[&str]| {
        let line = [
            &["run", "--rm", "--network", &network],
            flags,
            &[&image, "cat", "/etc/resolv.conf"],
        ];
        on_a_host_with_resolved(&home, &line.concat())
    };
    run(&[])
        .succeeded()
        .says("")
        .complains(&["on its loopback", "without --dns ADDRESS"]);
    let done = run(&["--dns", "192.0.2.1"]);
    done.succeeded().says("nameserver 192.0.2.1\n");
    assert!(done.stderr.is_empty(), "{}", done.story());
    home.assert_clean();
}
