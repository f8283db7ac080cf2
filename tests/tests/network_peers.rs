// SPDX-License-Identifier: Apache-2.0
//! Containers and real programs of the host, both ways: iperf3, nginx, curl, apt-get, dig, ping. All traffic
//! stays on the loopback and on a tap that the test makes.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::fs;
use std::net::UdpSocket;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use walnut_tests::harness::network::{Address, HOST_PROGRAMS, TestTap, free_ports, home};
use walnut_tests::harness::{Done, Home, Program, skip};

const NO_ROOT: &str = "interfaces and low ports are root's to make";
const GATEWAY: &str = "host.walnut.internal:host-gateway";

fn root_home() -> Option<Home> {
    if !rustix::process::geteuid().is_root() {
        skip(NO_ROOT);
        return None;
    }
    home()
}

/// A program of the host's that ends with the test.
struct Server(Child);

impl Server {
    fn start(program: &str, args: &[&str]) -> Self {
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::null());
        Self(command.stdout(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a client of the host's.
fn client(program: &str, args: &[&str]) -> Done {
    Program::new(program).args(args).run()
}

/// A container that runs one of the host's programs.
fn run(home: &Home, flags: &[&str], script: &str) -> Done {
    let image = home.busybox();
    let line = [
        &["run", "--rm"],
        &HOST_PROGRAMS[..],
        flags,
        &[&image, "sh", "-c", script],
    ];
    home.walnut(line.concat()).run()
}

const STREAM: &str = "16M";

/// What `iperf3 -J` has seen arrive, in bytes.
fn received(done: &Done) -> u64 {
    done.succeeded();
    let report: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
    let bytes = report["end"]["sum_received"]["bytes"].as_u64();
    bytes.unwrap_or_else(|| panic!("{}", done.story()))
}

fn iperf3_both_ways(place: &[&str]) {
    for reverse in [&[][..], &["-R"]] {
        let args = [&["-J", "-n", STREAM], place, reverse].concat();
        let bytes = received(&client("iperf3", &args));
        // It stops counting when the sender is done.
        assert!(bytes >= 4 << 20, "{bytes} {reverse:?}");
    }
}

fn counted(what: &str) -> u64 {
    let file = format!("/sys/class/net/walnut-t0/statistics/{what}");
    fs::read_to_string(file).unwrap().trim().parse().unwrap()
}

#[test]
fn iperf3_over_a_tap() {
    let Some(home) = root_home() else { return };
    let _tap = TestTap::new(1500);
    let network = "tap:walnut-t0,ip=192.0.2.2/24,gateway=192.0.2.1";
    let flags = [&["--network", network], &HOST_PROGRAMS[..]].concat();
    home.background_with("web", &flags, "iperf3 -s");
    home.wait_for_listeners("web", &["5201"]);
    iperf3_both_ways(&["-c", "192.0.2.2"]);
    // Neither side has cut the stream into frames, nor summed each.
    for way in ["rx", "tx"] {
        let [bytes, packets] = ["bytes", "packets"].map(|unit| counted(&format!("{way}_{unit}")));
        assert!(bytes / packets > 3000, "{way}: {bytes} in {packets}");
    }
    let udp = ["-J", "-c", "192.0.2.2", "-u", "-b", "0", "-l", "1400"];
    let udp = client("iperf3", &[&udp[..], &["-n", "4M"]].concat());
    assert!(received(&udp) > 0, "{}", udp.story());
    home.remove_all();
}

#[test]
fn iperf3_through_a_published_port() {
    let Some(home) = home() else { return };
    let [port] = free_ports();
    let publish = format!("{port}:5201");
    let flags = [&["-p", &publish], &HOST_PROGRAMS[..]].concat();
    home.background_with("web", &flags, "iperf3 -s");
    home.wait_for_listeners("web", &["5201"]);
    iperf3_both_ways(&["-c", "127.0.0.1", "-p", &port.to_string()]);
    home.remove_all();
}

/// A site with one large page; the configuration for an nginx that needs nothing else.
fn site(home: &Home, dir: &str, listen: &str) -> (PathBuf, Vec<u8>) {
    let site = home.path().join("site");
    fs::create_dir_all(site.join("root")).unwrap();
    let page: Vec<u8> = (0..=250).cycle().take(5 << 20).collect();
    fs::write(site.join("root/page"), &page).unwrap();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("{name}_temp_path /tmp/nginx-{name};\n"))
        .concat();
    let text = format!(
        "daemon off; master_process off; user root root; pid /tmp/nginx.pid; error_log stderr;\n\
         events {{}}\nhttp {{ access_log off; {temporary}\n\
         server {{ listen {listen}; root {dir}/root; }} }}\n"
    );
    fs::write(site.join("nginx.conf"), text).unwrap();
    (site, page)
}

fn fetch(url: &str) -> Vec<u8> {
    let done = client("curl", &["-sS", "--fail", url]);
    done.succeeded();
    done.stdout
}

#[test]
fn nginx_in_a_container() {
    let Some(home) = home() else { return };
    let [port] = free_ports();
    let (site, page) = site(&home, "/site", "80");
    let (publish, volume) = (format!("{port}:80"), format!("{}:/site:ro", site.display()));
    let flags = ["-p", &publish, "-v", &volume];
    let flags = [&flags, &HOST_PROGRAMS[..]].concat();
    home.background_with("web", &flags, "exec nginx -e stderr -c /site/nginx.conf");
    home.wait_for_listeners("web", &["80"]);
    for _ in 0..2 {
        assert!(fetch(&format!("http://127.0.0.1:{port}/page")) == page);
    }
    home.remove_all();
}

#[test]
fn curl_in_a_container() {
    let Some(home) = home() else { return };
    let [port] = free_ports();
    let own = home.path().join("site");
    let listen = format!("127.0.0.1:{port}");
    let (site, page) = site(&home, own.to_str().unwrap(), &listen);
    let conf = site.join("nginx.conf");
    let line = ["-e", "stderr", "-c", conf.to_str().unwrap()];
    let nginx = Server::start("nginx", &line);
    let retry = "--retry 9 --retry-connrefused";
    let script = format!("curl -sS --fail {retry} http://host.walnut.internal:{port}/page");
    let done = run(&home, &["--add-host", GATEWAY], &script);
    done.succeeded();
    assert!(done.stdout == page, "{} bytes", done.stdout.len());
    drop(nginx);
    home.assert_clean();
}

/// With the host's own apt-get, a mirror on the host's loopback, and nothing of the host's configuration.
#[test]
fn apt_get_update_from_a_mirror() {
    let Some(home) = home() else { return };
    let [port] = free_ports();
    let own = home.path().join("site");
    let (site, _) = site(&home, own.to_str().unwrap(), &format!("127.0.0.1:{port}"));
    let package = |number: u32| {
        format!(
            "Package: walnut-{number}\nVersion: {number}.0\nArchitecture: all\n\
             Maintainer: a <a@b>\nFilename: ./one.deb\nSize: 4\nDescription: x\n\n"
        )
    };
    let packages: String = (0..3000).map(package).collect();
    fs::write(site.join("root/Packages"), packages).unwrap();
    let conf = site.join("nginx.conf");
    let line = ["-e", "stderr", "-c", conf.to_str().unwrap()];
    let nginx = Server::start("nginx", &line);
    let script = format!(
        "mkdir -p /apt/preferences.d /apt/state/lists/partial /apt/cache/archives/partial; \
         echo 'deb [trusted=yes] http://host.walnut.internal:{port}/ ./' >/apt/sources.list; \
         :>/apt/status; with='-o Dir::Etc=/apt -o Dir::State=/apt/state -o Dir::Cache=/apt/cache \
         -o Dir::State::status=/apt/status -o APT::Sandbox::User=root -o Acquire::Retries=9'; \
         apt-get -qq $with update && apt-cache $with policy walnut-2999 | grep -o 'Candidate.*'"
    );
    let done = run(&home, &["--add-host", GATEWAY], &script);
    done.succeeded().says("Candidate: 2999.0\n");
    drop(nginx);
    home.assert_clean();
}

#[test]
fn ping_from_a_container() {
    const RANGE: &str = "/proc/sys/net/ipv4/ping_group_range";
    let Some(home) = root_home() else { return };
    let _address = Address::new("198.51.100.77/32", "lo");
    // What a distribution sets at boot.
    fs::write(RANGE, "0 2147483647").unwrap();
    let ping = "ping -c 2 -W 20 198.51.100.77 | grep -c 'bytes from 198.51.100.77'";
    run(&home, &[], ping).succeeded().says("2\n");
    home.assert_clean();
}

/// A name server that knows one name; it answers until the flag is set and one more query comes.
fn name_server(socket: &UdpSocket, enough: &AtomicBool) -> usize {
    let (mut answered, mut query) = (0, [0; 512]);
    while let Ok((len, from)) = socket.recv_from(&mut query) {
        if enough.load(Ordering::SeqCst) {
            break;
        }
        // RFC 1035, 4.1: the header, the question as it came, an address for it.
        let question = &query[12..len];
        let end = question.iter().position(|byte| *byte == 0).unwrap() + 5;
        let is_ours = question.starts_with(b"\x04name\x04test\0\0\x01");
        let mut answer = query[..2].to_vec();
        answer.extend([0x81, 0x80, 0, 1, 0, u8::from(is_ours), 0, 0, 0, 0]);
        answer.extend(&question[..end]);
        if is_ours {
            answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 99]);
        }
        socket.send_to(&answer, from).unwrap();
        answered += 1;
    }
    answered
}

/// As systemd-resolved has it: the host's one name server is on its loopback.
#[test]
fn names_by_a_resolver_on_the_loopback() {
    let Some(home) = root_home() else { return };
    let Ok(socket) = UdpSocket::bind("127.0.0.53:53") else {
        return skip("somebody has 127.0.0.53:53");
    };
    let conf = home.path().join("resolv.conf");
    fs::write(&conf, "nameserver 127.0.0.53\n").unwrap();
    let image = home.busybox();
    let script = "cat /etc/resolv.conf; dig +short +time=20 name.test; getent ahostsv4 name.test | head -1; \
                  nslookup name.test | tail -2 | grep -o 192.0.2.99";
    let line = [
        &["run", "--rm"],
        &HOST_PROGRAMS[..],
        &[&image, "sh", "-c", script],
    ];
    let walnut = home.walnut(line.concat()).into_command();
    let mount = "mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"";
    let enough = AtomicBool::new(false);
    let done = std::thread::scope(|scope| {
        let server = scope.spawn(|| name_server(&socket, &enough));
        let done = Program::new("unshare")
            .args(["--mount", "sh", "-c", mount])
            .args([conf.as_os_str(), walnut.get_program()])
            .args(walnut.get_args())
            .run();
        enough.store(true, Ordering::SeqCst);
        let last = UdpSocket::bind("127.0.0.1:0").unwrap();
        last.send_to(&[0; 17], "127.0.0.53:53").unwrap();
        assert!(server.join().unwrap() >= 3);
        done
    });
    done.succeeded();
    let said = String::from_utf8_lossy(&done.stdout);
    let words: Vec<&str> = said.split_whitespace().collect();
    let expected = [
        "nameserver",
        "10.0.2.3",
        "192.0.2.99",
        "192.0.2.99",
        "STREAM",
        "name.test",
        "192.0.2.99",
    ];
    assert_eq!(words, expected, "{}", done.story());
    home.assert_clean();
}
