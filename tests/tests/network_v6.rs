// SPDX-License-Identifier: Apache-2.0
//! IPv6, with passt and over a tap. The host's addresses are on the loopback and on a tap that the
//! test makes.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::io::{Read, Write};
use std::net::TcpStream;

use walnut_tests::harness::network::{
    Address, ECHO, HEAR, HOST_PROGRAMS, PATIENCE, TestTap, free_ports, greeter, passts, talker,
};
use walnut_tests::harness::{Home, network, skip};

const NO_ROOT: &str = "addresses are root's to add";

fn home() -> Option<Home> {
    if !rustix::process::geteuid().is_root() {
        skip(NO_ROOT);
        return None;
    }
    network::home()
}

/// A host that has IPv6: an interface with a link-local address, and an address to be reached at.
fn with_ipv6() -> (TestTap, [Address; 2]) {
    let tap = TestTap::new(1500);
    let addresses = [
        Address::new("fe80::77/64", TestTap::NAME),
        Address::new("fd00:77::1/128", "lo"),
    ];
    (tap, addresses)
}

fn echo(place: &str, text: &[u8]) {
    let mut stream = TcpStream::connect(place).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut reader = stream.try_clone().unwrap();
    let mut answer = vec![0; text.len()];
    std::thread::scope(|scope| {
        scope.spawn(|| stream.write_all(text).unwrap());
        reader.read_exact(&mut answer).unwrap();
    });
    assert!(answer == text);
}

#[test]
fn out_and_in_over_passt() {
    let Some(home) = home() else { return };
    let _host = with_ipv6();
    let [port, other] = free_ports();
    let both = [format!("[::1]:{port}:80"), format!("{other}:80")];
    let flags = ["-p", &both[0], "-p", &both[1]];
    home.background_with("web", &flags, ECHO);
    home.wait_for_listeners("web", &["80"]);
    let long: Vec<u8> = (0..=250).cycle().take(1 << 20).collect();
    echo(&format!("[::1]:{port}"), &long);
    echo(&format!("127.0.0.1:{other}"), &long);
    let (port, server) = talker("fd00:77::1");
    // Both sides stay open until all is there: passt of 2023 loses what is sent right before an end.
    let script = format!(
        "mkfifo p; nc fd00:77::1 {port} <p >said & exec 3>p; echo from inside >&3; \
         until grep outside said; do :; done; kill $!"
    );
    let said = home.says(&["exec", "web", "sh", "-c", &script]);
    assert_eq!(said, "from outside");
    assert_eq!(server.join().unwrap(), *b"from inside\n");
    let field = "{{.NetworkSettings.GlobalIPv6Address}} {{.NetworkSettings.IPv6Gateway}}";
    assert_eq!(
        home.says(&["inspect", "-f", field, "web"]),
        "fd57:616c:6e75:7400::64 fd57:616c:6e75:7400::2"
    );
    home.remove_all();
}

/// With root in its guest, whatever the agent has set up.
#[test]
fn no_way_round_a_policy() {
    let Some(home) = home() else { return };
    let _host = with_ipv6();
    let (port, came) = greeter("fd00:77::1");
    // As passt has it: its address, its gateway, and the Ethernet address of that.
    let (eth0, gateway) = ("dev eth0", "fd57:616c:6e75:7400::2");
    let script = format!(
        "{HEAR} hear fd00:77::1 {port}; sysctl -qw net.ipv6.conf.eth0.disable_ipv6=0; \
         /usr/bin/ip addr replace fd57:616c:6e75:7400::64/64 {eth0} nodad && \
         /usr/bin/ip neigh replace {gateway} lladdr 02:42:0a:00:02:02 {eth0} && \
         /usr/bin/ip route replace default via {gateway} {eth0} && echo set up; \
         hear fd00:77::1 {port}"
    );
    let image = home.busybox();
    let run = |flags: &[&str]| {
        let line = [&["run", "--rm", "--privileged"], &HOST_PROGRAMS[..], flags];
        home.says(&[&line.concat()[..], &[&image, "sh", "-c", &script]].concat())
    };
    assert_eq!(run(&[]), "hello\nset up\nhello");
    assert!(came.recv().is_ok() && came.recv().is_ok());
    home.walnut(["network", "create", "net"]).run().succeeded();
    let all = ["--egress", "0.0.0.0/0"];
    for flags in [
        &["--egress", "deny"][..],
        &all,
        &["--network", "net", "--egress", "0.0.0.0/0"],
    ] {
        assert_eq!(run(flags), "nothing\nset up\nnothing", "{flags:?}");
        assert!(came.try_recv().is_err(), "{flags:?}");
    }
    home.remove_all();
}

/// Or every container that asks for nothing would have its passt.
#[test]
fn a_container_that_says_nothing_sends_nothing() {
    let Some(home) = home() else { return };
    let _host = with_ipv6();
    let before = passts("--fd");
    home.background("web", "sleep 1000");
    let see = "ip -6 addr show dev eth0 | grep -c 7400::64; cat /sys/class/net/eth0/statistics/tx_packets";
    assert_eq!(home.says(&["exec", "web", "sh", "-c", see]), "1\n0");
    assert_eq!(passts("--fd"), before);
    let ping = ["exec", "web", "ping", "-c", "1", "-W", "1", "fd00:77::1"];
    let _answer_or_not = home.walnut(ping).run();
    assert_eq!(passts("--fd").len(), before.len() + 1);
    home.remove_all();
}

#[test]
fn without_it_on_the_host() {
    let Some(home) = home() else { return };
    if std::fs::read_to_string("/proc/net/if_inet6").is_ok_and(|table| table.contains(" 20 ")) {
        return skip("this host has IPv6");
    }
    let image = home.busybox();
    let see = "ip -6 addr show dev eth0; cat /etc/hosts | grep -c fd57";
    home.walnut(["run", "--rm", &image, "sh", "-c", see])
        .run()
        .exited(1)
        .says("0\n");
    home.assert_clean();
}

#[test]
fn over_a_tap() {
    let Some(home) = home() else { return };
    let _tap = TestTap::new(1500);
    let _address = Address::new("fd09::1/64", TestTap::NAME);
    let network = "tap:walnut-t0,ip=192.0.2.2/24,ip=fd09::2/64,gateway=192.0.2.1,gateway=fd09::1";
    home.background_with("web", &["--network", network], ECHO);
    home.wait_for_listeners("web", &["80"]);
    let long: Vec<u8> = (0..=250).cycle().take(4 << 20).collect();
    echo("[fd09::2]:80", &long);
    echo("192.0.2.2:80", &long);
    let ping = ["exec", "web", "ping", "-c", "1", "-W", "20", "fd09::1"];
    let said = home.says(&ping);
    assert!(said.contains("1 packets received"), "{said}");
    let route = ["exec", "web", "ip", "-6", "route", "show", "default"];
    assert!(
        home.says(&route)
            .starts_with("default via fd09::1 dev eth0")
    );
    home.remove_all();
}
