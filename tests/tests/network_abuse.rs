// SPDX-License-Identifier: Apache-2.0
//! Networks that are used badly: peers that stop reading or end one half, garbage, clocks that jump,
//! hosts that lack something.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::thread::JoinHandle;

use rustix::process::{Pid, Signal, kill_process};
use rustix::time::{ClockId, clock_gettime, clock_settime};
use walnut_tests::harness::network::{
    ECHO, HOST_PROGRAMS, PATIENCE, TestTap, free_ports, home, own_memory_kib, passts, resident_kib,
    switches,
};
use walnut_tests::harness::{Home, Program, skip};

const NO_KVM: &str = "no KVM that runs a stock kernel";
const NO_ROOT: &str = "making a tap needs root";
const TAP: &str = "tap:walnut-t0,ip=192.0.2.2/24,gateway=192.0.2.1";

fn root_home() -> Option<Home> {
    match Home::new() {
        None => skip(NO_KVM),
        Some(_) if !rustix::process::geteuid().is_root() => skip(NO_ROOT),
        home => return home,
    }
    None
}

fn connect(place: &str) -> TcpStream {
    let stream = TcpStream::connect(place).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn echo(place: &str, text: &[u8]) {
    let mut stream = connect(place);
    stream.write_all(text).unwrap();
    let mut answer = vec![0; text.len()];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer, text);
}

/// As somebody else: nothing of it needs root.
#[test]
fn without_root() {
    let Some(home) = home() else { return };
    home.forget_templates();
    let [port] = free_ports();
    let image = home.busybox();
    let publish = format!("{port}:80");
    let line = [
        "run", "-d", "--name", "web", "-p", &publish, &image, "sh", "-c",
    ];
    home.unprivileged(line.iter().chain(&[ECHO]))
        .run()
        .succeeded();
    let ready = "until netstat -ltn | grep -q ':80 '; do :; done; id -u";
    let exec = ["exec", "web", "sh", "-c", ready];
    home.unprivileged(exec).run().succeeded().says("0\n");
    echo(&format!("127.0.0.1:{port}"), b"somebody");
    home.unprivileged(["run", "--rm", "-p", &publish, &image, "true"])
        .run()
        .exited(125)
        .complains(&[&format!(
            "127.0.0.1:{port} failed: port is already allocated"
        )]);
    let low = home
        .unprivileged(["run", "--rm", "-p", "81:80", &image, "true"])
        .run();
    low.exited(125)
        .complains(&["127.0.0.1:81 failed: permission denied", "1024"]);
    home.unprivileged(["rm", "-f", "web"]).run().succeeded();
    home.assert_clean();
}

/// As somebody else: networks of one's own, also while the container runs.
#[test]
fn networks_without_root() {
    let Some(home) = home() else { return };
    home.forget_templates();
    let image = home.busybox();
    let done = |line: &[&str]| {
        home.unprivileged(line).run().succeeded();
    };
    done(&["network", "create", "back"]);
    let serve = ["sh", "-c", ECHO];
    let line = ["run", "-d", "--name", "db", "--network", "back", &image];
    done(&[&line[..], &serve].concat());
    let line = ["run", "-d", "--name", "web", &image];
    done(&[&line[..], &serve].concat());
    let ready = "until netstat -ltn | grep -q ':80 '; do :; done";
    done(&["exec", "db", "sh", "-c", ready]);
    for _ in 0..2 {
        done(&["network", "connect", "back", "web"]);
        let ask = ["exec", "web", "sh", "-c", "echo hello | nc -w 20 db 80"];
        home.unprivileged(ask).run().succeeded().says("hello\n");
        done(&["network", "disconnect", "back", "web"]);
    }
    done(&["rm", "-f", "web", "db"]);
    done(&["network", "rm", "back"]);
    home.assert_clean();
}

#[test]
fn half_closed_over_a_tap() {
    let Some(home) = root_home() else { return };
    let _tap = TestTap::new(1500);
    home.background_with("web", &["--network", TAP], "nc -ll -p 80 -e wc -c");
    home.wait_for_listeners("web", &["80"]);
    // The host's half ends first: only then is there something to say.
    let mut stream = connect("192.0.2.2:80");
    stream.write_all(&[7; 100_000]).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    assert_eq!(said, "100000\n");
    // The container's half ends first.
    let (port, server) = answers_at_the_end("192.0.2.1");
    let script = format!("echo from inside | nc 192.0.2.1 {port} | wc -c");
    assert_eq!(home.says(&["exec", "web", "sh", "-c", &script]), "300000");
    assert_eq!(server.join().unwrap(), "from inside\n");
    home.remove_all();
}

/// A server that says 300,000 bytes when the other side's end has come; what it heard.
fn answers_at_the_end(address: &str) -> (u16, JoinHandle<String>) {
    let listener = TcpListener::bind((address, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).unwrap();
        stream.write_all(&[b'y'; 300_000]).unwrap();
        said
    });
    (port, server)
}

#[test]
fn half_closed_by_the_container_over_passt() {
    let Some(home) = home() else { return };
    // Debian 12's does not know its own version.
    let help = Program::new("passt").args(["--help"]).run();
    let help = [help.stdout, help.stderr].concat();
    if !String::from_utf8_lossy(&help).contains("--map-host-loopback") {
        return skip("passt of 2023 forgets what comes after the guest's end: docs/networking.md");
    }
    let (port, server) = answers_at_the_end("127.0.0.1");
    let image = home.busybox();
    let script = format!("echo from inside | timeout 60 nc host {port} | wc -c");
    let host = ["--add-host", "host:host-gateway"];
    let line = [&["run", "--rm"], &host[..], &[&image, "sh", "-c", &script]].concat();
    assert_eq!(home.says(&line), "300000");
    assert_eq!(server.join().unwrap(), "from inside\n");
}

#[test]
fn half_closed_by_the_host_over_passt() {
    let Some(home) = home() else { return };
    let [port] = free_ports();
    home.background_with(
        "web",
        &["-p", &format!("{port}:80")],
        "nc -ll -p 80 -e wc -c",
    );
    home.wait_for_listeners("web", &["80"]);
    let mut stream = connect(&format!("127.0.0.1:{port}"));
    stream.write_all(&[7; 100_000]).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut said = [0; 7];
    stream.read_exact(&mut said).unwrap();
    assert_eq!(&said, b"100000\n");
    home.remove_all();
}

/// passt's buffers: 5 MiB for each way and protocol family, at most.
const PASST_BOUND_KIB: u64 = 24 << 10;

/// Both ways; what holds something for a peer that does not read is the guest, the host's kernel, and
/// nobody's memory without a bound.
fn a_peer_that_stops_reading(home: &Home, [source_at, sink_at]: [&str; 2], between: Option<Pid>) {
    const LEN: usize = 24 << 20;
    let source = format!("nc -ll -p 81 -e head -c {LEN} /dev/zero &");
    let sink = "nc -ll -p 82 -e sh -c 'cat /go; cat >/dev/null; echo all' & wait";
    let script = format!("mkfifo /go; {source} {sink}");
    let line = ["exec", "-d", "web", "sh", "-c", &script];
    home.walnut(line).run().succeeded();
    home.wait_for_listeners("web", &["81", "82"]);
    let monitor = home.monitor("web");
    let before = own_memory_kib(monitor);
    let passt_before = between.map_or(0, resident_kib);
    let bounded = |what: &str| {
        let grown = own_memory_kib(monitor).saturating_sub(before);
        assert!(grown < 1024, "monitor: {grown} KiB, {what}");
        // Its tables and buffers are static; what it touches of them is memory from then on.
        let grown = between.map_or(0, resident_kib).saturating_sub(passt_before);
        assert!(grown < PASST_BOUND_KIB, "passt: {grown} KiB, {what}");
    };
    let mut stream = connect(source_at);
    stream.read_exact(&mut [0]).unwrap();
    // The container has more to say than anybody takes.
    let full =
        "until netstat -tn | awk '$4 ~ /:81$/ && $3 > 100000 {f = 1} END {exit !f}'; do :; done";
    home.walnut(["exec", "web", "sh", "-c", full])
        .run()
        .succeeded();
    bounded("nobody takes what the container says");
    let mut all = Vec::new();
    stream.take(LEN as u64 - 1).read_to_end(&mut all).unwrap();
    assert!(all.len() == LEN - 1 && all.iter().all(|byte| *byte == 0));
    drop(all);
    // Now it is the container that does not read.
    let mut stream = connect(sink_at);
    stream.set_nonblocking(true).unwrap();
    let mut sent = 0;
    while let Ok(len) = stream.write(&[b'x'; 64 << 10]) {
        sent += len;
    }
    bounded(&format!("the container does not take {sent} bytes"));
    stream.set_nonblocking(false).unwrap();
    let go = ["exec", "web", "sh", "-c", "echo > /go"];
    home.walnut(go).run().succeeded();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut said = [0; 5];
    stream.read_exact(&mut said).unwrap();
    assert_eq!(&said, b"\nall\n");
}

#[test]
fn nobody_reads_over_a_tap() {
    let Some(home) = root_home() else { return };
    let _tap = TestTap::new(1500);
    home.background_with("web", &["--network", TAP], ECHO);
    home.wait_for_listeners("web", &["80"]);
    a_peer_that_stops_reading(&home, ["192.0.2.2:81", "192.0.2.2:82"], None);
    home.remove_all();
}

#[test]
fn nobody_reads_over_passt() {
    let Some(home) = home() else { return };
    let [source, sink] = free_ports();
    let flags = [format!("{source}:81"), format!("{sink}:82")];
    home.background_with("web", &["-p", &flags[0], "-p", &flags[1]], "sleep 1000");
    let [passt] = passts(&format!("127.0.0.1/{source}:81"))[..] else {
        panic!("one passt")
    };
    let places = [source, sink].map(|port| format!("127.0.0.1:{port}"));
    a_peer_that_stops_reading(&home, [&places[0], &places[1]], Some(passt));
    home.remove_all();
}

/// Sends COUNT frames of any bytes; half of them look like something that a stack may look into.
const GARBAGE: &str = r#"
    my ($count, $max) = @ARGV;
    open(my $f, "<", "/sys/class/net/eth0/ifindex") or die; my $index = <$f> + 0;
    socket(my $s, 17, 3, 0x0300) or die "socket: $!";
    bind($s, pack("S n l S C C a8", 17, 3, $index, 0, 0, 6, "")) or die "bind: $!";
    srand(7);
    my $noise = join "", map { pack "L", int rand 4294967295 } 1 .. 33000;
    my @types = ("\x08\x00\x45\x00", "\x08\x06\x00\x01", "\x86\xdd\x60\x00", "\x81\x00\x00\x01");
    for my $n (1 .. $count) {
        my $len = 14 + int rand $n % 100 ? 200 : $max;
        my $frame = substr $noise, int(rand 60000), $len;
        substr($frame, 12, 4) = $types[$n / 2 % 4] if $n % 2 && $len > 16;
        until (defined send($s, $frame, 0)) { die "send: $!" unless $!{ENOBUFS} || $!{EAGAIN} }
    }
    print "$count sent\n";
"#;

fn garbage(home: &Home, place: &str, count: u32, max: u32) {
    let monitor = home.monitor("web");
    echo(place, b"before");
    let before = own_memory_kib(monitor);
    let (count, max) = (count.to_string(), max.to_string());
    let line = [
        "exec", "web", "perl", "-MErrno", "-e", GARBAGE, &count, &max,
    ];
    let done = home.walnut(line).run();
    done.succeeded().says(&format!("{count} sent\n"));
    let after = own_memory_kib(monitor);
    assert!(after < before + 512, "{before} KiB, then {after} KiB");
    // passt takes any frame's source for the guest's address: it must see the right one again.
    let own = ["exec", "web", "nc", "-w", "1", "10.0.2.2", "9"];
    let _refused = home.walnut(own).run();
    echo(place, b"after");
}

#[test]
fn garbage_into_a_tap() {
    let Some(home) = root_home() else { return };
    let _tap = TestTap::new(1500);
    let flags = [&["--network", TAP], &HOST_PROGRAMS[..]].concat();
    home.background_with("web", &flags, ECHO);
    home.wait_for_listeners("web", &["80"]);
    garbage(&home, "192.0.2.2:80", 100_000, 1500);
    home.remove_all();
}

#[test]
fn garbage_into_passt() {
    let Some(home) = home() else { return };
    let [port] = free_ports();
    let publish = format!("{port}:80");
    let flags = [&["-p", &publish], &HOST_PROGRAMS[..]].concat();
    home.background_with("web", &flags, ECHO);
    home.wait_for_listeners("web", &["80"]);
    garbage(&home, &format!("127.0.0.1:{port}"), 100_000, 65_520);
    home.remove_all();
}

/// The host's clock is set an hour ahead, and back at the end.
struct Jump;

impl Jump {
    fn new() -> Self {
        Self::by(3600);
        Self
    }

    fn by(seconds: i64) {
        let mut now = clock_gettime(ClockId::Realtime);
        now.tv_sec += seconds;
        clock_settime(ClockId::Realtime, now).unwrap();
    }
}

impl Drop for Jump {
    fn drop(&mut self) {
        Self::by(-3600);
    }
}

#[test]
fn the_hosts_clock_jumps() {
    let Some(home) = home() else { return };
    if std::env::var_os("WALNUT_EMULATED_HOST").is_none() {
        return skip("this machine's clock is not to be set");
    }
    let [port] = free_ports();
    home.background_with("web", &["-p", &format!("{port}:80")], ECHO);
    home.wait_for_listeners("web", &["80"]);
    let place = format!("127.0.0.1:{port}");
    let mut old = connect(&place);
    let mut exchange = |text: &[u8; 4]| {
        let mut answer = [0; 4];
        old.write_all(text).unwrap();
        old.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, text);
    };
    exchange(b"then");
    let jump = Jump::new();
    exchange(b"late");
    echo(&place, b"new");
    drop(jump);
    exchange(b"back");
    echo(&place, b"new");
    home.remove_all();
}

#[test]
fn a_switch_that_is_stopped_holds_up_nobody_for_ever() {
    const SILENT: &str = "the switch of the network net does not answer";
    let Some(home) = home() else { return };
    home.walnut(["network", "create", "net"]).run().succeeded();
    home.background_with("web", &["--network", "net"], ECHO);
    home.background_with("other", &["--network", "none"], ECHO);
    let switches = switches(home.path());
    kill_process(switches[0], Signal::STOP).unwrap();
    let image = home.busybox();
    let run = ["run", "--rm", "--network", "net", &image, "true"];
    home.walnut(run).run().exited(125).complains(&[SILENT]);
    let connect = ["network", "connect", "net", "other"];
    home.walnut(connect).run().exited(1).complains(&[SILENT]);
    kill_process(switches[0], Signal::CONT).unwrap();
    home.walnut(run).run().succeeded();
    home.remove_all();
    home.assert_clean();
}

/// `walnut run --network NETWORK busybox true`, with something done to its file systems first.
fn run_after(home: &Home, change: &str, network: &str) -> walnut_tests::harness::Done {
    let image = home.busybox();
    let walnut = home.walnut(["run", "--rm", "--network", network, &image, "true"]);
    let walnut = walnut.into_command();
    let script = format!("{change} && exec \"$0\" \"$@\"");
    Program::new("unshare")
        .args(["--mount", "sh", "-c", &script])
        .args([walnut.get_program()])
        .args(walnut.get_args())
        .run()
}

#[test]
fn no_tun_device() {
    let Some(home) = root_home() else { return };
    let _tap = TestTap::new(1500);
    run_after(&home, "mount -t tmpfs none /dev/net", TAP)
        .exited(125)
        .complains(&["/dev/net/tun", "walnut-t0", "modprobe tun"]);
    run_after(&home, "true", "tap:lo")
        .exited(125)
        .complains(&["attach to the tap lo", "is it a tap"]);
    home.assert_clean();
}

#[test]
fn a_tap_of_somebody_elses() {
    const TUN: &str = "/dev/net/tun";
    let Some(home) = root_home() else { return };
    home.forget_templates();
    let _tap = TestTap::new(1500);
    let image = home.busybox();
    let run = |tun_mode| {
        let mode = fs::metadata(TUN).unwrap().permissions();
        fs::set_permissions(TUN, Permissions::from_mode(tun_mode)).unwrap();
        let line = ["run", "--rm", "--network", TAP, &image, "true"];
        let done = home.unprivileged(line).run();
        fs::set_permissions(TUN, mode).unwrap();
        done
    };
    let closed = ["/dev/net/tun", "walnut-t0", "not this user's to open"];
    run(0o600).exited(125).complains(&closed);
    let attached = ["attach to the tap walnut-t0", "ip tuntap add"];
    run(0o666).exited(125).complains(&attached);
    home.assert_clean();
}
