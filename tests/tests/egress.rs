// SPDX-License-Identifier: Apache-2.0
//! `--egress`: a container with all rights in its guest tries to get round it. What it looks for is on
//! the host's loopback, which stands for the world outside.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::io::Write;
use std::net::UdpSocket;

use walnut_tests::harness::Home;
use walnut_tests::harness::network::{
    HEAR, HOST_PROGRAMS, PATIENCE, greeter, home, switches, wait_for_end,
};

const HOST: [&str; 2] = ["--add-host", "host:host-gateway"];

/// What `script` says in a container with every right there is.
fn run(home: &Home, flags: &[&str], script: &str) -> String {
    let image = home.busybox();
    let line = [&["run", "--rm", "--privileged"], &HOST[..], flags];
    home.says(&[&line.concat()[..], &[&image, "sh", "-c", script]].concat())
}

#[test]
fn deny_and_what_is_allowed() {
    let Some(home) = home() else { return };
    let (port, came) = greeter("127.0.0.1");
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    udp.set_read_timeout(Some(PATIENCE)).unwrap();
    let udp_port = udp.local_addr().unwrap().port();
    let try_it = format!(
        "{HEAR} hear host {port}; /usr/bin/bash -c 'echo x >/dev/udp/10.0.2.2/{udp_port}'; echo tried"
    );
    // The way is there; and it is the policy that closes it.
    assert_eq!(run(&home, &HOST_PROGRAMS, &try_it), "hello\ntried");
    assert!(came.try_recv().is_ok() && udp.recv(&mut [0; 9]).is_ok());
    udp.set_nonblocking(true).unwrap();
    let around = format!(
        "{try_it}; \
         ip addr add 10.0.2.55/24 dev eth0; ip route add 10.0.2.2 dev eth0 src 10.0.2.55; hear host {port}; \
         ip link set eth0 down; ip link set eth0 address 02:00:00:00:00:99; ip link set eth0 up; \
         ip route add default via 10.0.2.2; hear host {port}; \
         for server in 10.0.2.2 10.0.2.3; do timeout 3 nslookup secret.example $server >/dev/null 2>&1; done; \
         echo still nothing"
    );
    let with_programs =
        |flags: &[&str], script: &str| run(&home, &[&HOST_PROGRAMS[..], flags].concat(), script);
    for policy in ["deny", "192.0.2.0/24", "example.org"] {
        let said = with_programs(&["--egress", policy], &around);
        let expected = "nothing\ntried\nnothing\nnothing\nstill nothing";
        assert_eq!(said, expected, "{policy}");
        assert!(came.try_recv().is_err(), "{policy}");
        assert!(udp.recv(&mut [0; 9]).is_err(), "{policy}");
    }
    // One port of one address.
    let allowed = format!("10.0.2.2:{port}");
    assert_eq!(
        with_programs(&["--egress", &allowed], &try_it),
        "hello\ntried"
    );
    assert!(came.try_recv().is_ok() && udp.recv(&mut [0; 9]).is_err());
    let other = format!("10.0.2.2:{}", port ^ 1);
    assert_eq!(
        with_programs(&["--egress", &other], &try_it),
        "nothing\ntried"
    );
    assert!(came.try_recv().is_err());
    wait_for_end(&switches(home.path()));
    home.assert_clean();
}

#[test]
fn what_is_published_is_answered_all_the_same() {
    let Some(home) = home() else { return };
    let [port] = walnut_tests::harness::network::free_ports();
    let publish = format!("{port}:80");
    let flags = ["--egress", "deny", "-p", &publish];
    home.background_with("web", &flags, "nc -ll -p 80 -e cat");
    let script = "until netstat -ltn | grep -q :80; do :; done";
    home.walnut(["exec", "web", "sh", "-c", script])
        .run()
        .succeeded();
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream
        .set_read_timeout(Some(walnut_tests::harness::network::PATIENCE))
        .unwrap();
    stream.write_all(b"hello").unwrap();
    let mut answer = [0; 5];
    std::io::Read::read_exact(&mut stream, &mut answer).unwrap();
    assert_eq!(&answer, b"hello");
    home.remove_all();
}

#[test]
fn on_a_network_neighbours_are_reached() {
    let Some(home) = home() else { return };
    let (port, came) = greeter("127.0.0.1");
    home.walnut(["network", "create", "net"]).run().succeeded();
    home.background_with("db", &["--network", "net"], "nc -ll -p 80 -e cat");
    let script = "until netstat -ltn | grep -q :80; do :; done";
    home.walnut(["exec", "db", "sh", "-c", script])
        .run()
        .succeeded();
    // The neighbour has a way out of its own, which must not become this one's.
    let script = format!(
        "{HEAR} echo hello | nc -w 20 db 80; hear host {port}; \
         ip route replace default via 10.89.0.2; hear host {port}; \
         ip route add 10.89.0.1 via 10.89.0.2; hear host {port}"
    );
    let said = run(&home, &["--network", "net", "--egress", "deny"], &script);
    assert_eq!(said, "hello\nnothing\nnothing\nnothing");
    assert!(came.try_recv().is_err());
    home.remove_all();
}
