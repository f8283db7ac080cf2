// SPDX-License-Identifier: Apache-2.0
//! `--network user`: published ports, the way out, and what happens when something is missing, taken
//! or killed. All traffic stays on the loopback.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};

use walnut_tests::harness::network::{
    ECHO, HOST_PROGRAMS, PATIENCE, TestTap, free_ports, home, passts, talker, wait_for_end,
};
use walnut_tests::harness::{Home, skip};

fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Sends `text`; as much that comes back. Neither side ends first: passt of 2023 sometimes forgets
/// the end that comes after the other side's.
fn echo(port: u16, text: &[u8]) -> Vec<u8> {
    let mut stream = connect(port);
    let mut reader = stream.try_clone().unwrap();
    let mut answer = vec![0; text.len()];
    std::thread::scope(|scope| {
        scope.spawn(|| stream.write_all(text).unwrap());
        reader.read_exact(&mut answer).unwrap();
    });
    answer
}

#[test]
fn a_published_port() {
    let Some(home) = home() else { return };
    let [port] = free_ports();
    let (publish, place) = (format!("{port}:80"), format!("127.0.0.1:{port}"));
    home.background_with("web", &["-p", &publish], ECHO);
    home.wait_for_listeners("web", &["80"]);
    let long: Vec<u8> = (0..=255).cycle().take(1 << 20).collect();
    assert!(echo(port, &long) == long);
    let traffic = home.says(&["stats", "--no-stream", "--format", "{{.NetIO}}", "web"]);
    let amounts: Vec<&str> = traffic.split(" / ").collect();
    assert!(
        amounts.len() == 2 && amounts.iter().all(|a| a.ends_with("MB")),
        "{traffic}"
    );
    assert_eq!(home.says(&["port", "web"]), format!("80/tcp -> {place}"));
    assert_eq!(home.says(&["port", "web", "80"]), place);
    home.walnut(["port", "web", "81/udp"])
        .run()
        .exited(1)
        .complains(&["no public port '81/udp' published for web"]);
    let listed = home.says(&["ps", "--format", "{{.Ports}} {{.Networks}}"]);
    assert_eq!(listed, format!("{place}->80/tcp user"));
    let inspected = home.says(&[
        "inspect",
        "-f",
        "{{.NetworkSettings.IPAddress}} {{json .NetworkSettings.Ports}}",
        "web",
    ]);
    let expected =
        format!("10.0.2.100 {{\"80/tcp\":[{{\"HostIp\":\"127.0.0.1\",\"HostPort\":\"{port}\"}}]}}");
    assert_eq!(inspected, expected);
    // A second one can't have it, and is not started.
    is_refused_as_taken(&home, &publish, &place);
    let found = passts(&place.replace(':', "/"));
    assert_eq!(found.len(), 1);
    home.walnut(["rm", "-f", "web"]).run().succeeded();
    wait_for_end(&found);
    TcpListener::bind(&place).unwrap();
    home.assert_clean();
}

#[test]
fn listened_on_before_run_returns() {
    let Some(home) = home() else { return };
    let [port] = free_ports();
    home.background_with("web", &["-p", &format!("{port}:80")], "sleep 1000");
    // Nobody in the container answers, and yet there is somebody to be spoken to.
    TcpStream::connect(("127.0.0.1", port)).unwrap();
    home.remove_all();
    home.assert_clean();
}

#[test]
fn a_port_that_another_program_has() {
    let Some(home) = home() else { return };
    let listener = TcpListener::bind("0.0.0.0:0").unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let tcp = listener.local_addr().unwrap().port();
    let udp_port = udp.local_addr().unwrap().port();
    for (port, protocol) in [(tcp, "tcp"), (udp_port, "udp")] {
        let publish = format!("{port}:80/{protocol}");
        is_refused_as_taken(&home, &publish, &format!("127.0.0.1:{port}"));
    }
    home.assert_clean();
}

fn is_refused_as_taken(home: &Home, publish: &str, place: &str) {
    let taken = format!("Bind for {place} failed: port is already allocated");
    home.walnut(["run", "--rm", "-p", publish, &home.busybox(), "echo", "ran"])
        .run()
        .exited(125)
        .says("")
        .complains(&[&taken]);
}

/// As a mail server or MySQL does: the other side has nothing to say before. On a network of its own,
/// too.
#[test]
fn a_server_that_speaks_first() {
    let Some(home) = home() else { return };
    home.walnut(["network", "create", "net"]).run().succeeded();
    for network in ["user", "net"] {
        let [port] = free_ports();
        let flags = ["--network", network, "-p", &format!("{port}:25")];
        let script = "nc -ll -p 25 -e sh -c 'echo 220 ready; cat'";
        home.background_with("mail", &flags, script);
        home.wait_for_listeners("mail", &["25"]);
        for _ in 0..3 {
            let mut stream = connect(port);
            let mut said = [0; 10];
            stream.read_exact(&mut said).unwrap();
            assert_eq!(&said, b"220 ready\n", "{network}");
            stream.write_all(b"HELO there").unwrap();
            stream.read_exact(&mut said).unwrap();
            assert_eq!(&said, b"HELO there", "{network}");
        }
        home.remove_all();
    }
}

#[test]
fn udp_and_several() {
    let Some(home) = home() else { return };
    let [first, second, udp] = free_ports();
    let flags = [
        format!("{first}:80"),
        format!("{second}:81"),
        format!("{udp}:53/udp"),
    ];
    let mut flags: Vec<&str> = flags.iter().flat_map(|f| ["-p", f]).collect();
    flags.extend(["-P", "--expose", "7/udp"]);
    flags.extend(HOST_PROGRAMS);
    let script = "nc -ll -p 80 -e cat & nc -ll -p 81 -e cat & \
                  perl -MIO::Socket -e '$s = IO::Socket::INET->new(Proto => \"udp\", LocalPort => 53); \
                  $s->send($d) while $s->recv($d, 65535)'";
    home.background_with("web", &flags, script);
    home.wait_for_listeners("web", &["80", "81", "53"]);
    assert_eq!(echo(first, b"one"), b"one");
    assert_eq!(echo(second, b"other"), b"other");
    let any = home.says(&["port", "web", "7/udp"]);
    assert!(any.starts_with("127.0.0.1:"), "{any}");
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.connect(("127.0.0.1", udp)).unwrap();
    // The last is as much as goes into one frame of passt, which knows no fragments.
    for len in [1, 1400, 60_000, 65_492] {
        let datagram: Vec<u8> = (0..=255).cycle().take(len).collect();
        socket.send(&datagram).unwrap();
        let mut answer = vec![0; 65_535];
        let len = socket.recv(&mut answer).unwrap();
        assert!(answer[..len] == datagram, "{len}");
    }
    home.remove_all();
}

#[test]
fn the_host_where_it_is_asked_for() {
    let Some(home) = home() else { return };
    let (port, server) = talker("127.0.0.1");
    let image = home.busybox();
    // Both sides stay open until all is there: passt of 2023 loses an end that comes after the
    // guest's, and what is sent right before one.
    let script = format!(
        "mkfifo p; nc host.walnut.internal {port} <p >said & exec 3>p; echo from inside >&3; \
         until grep outside said; do :; done; kill $!"
    );
    let line = [
        "run",
        "--rm",
        "--add-host",
        "host.walnut.internal:host-gateway",
        &image,
        "sh",
        "-c",
        &script,
    ];
    home.walnut(line).run().succeeded().says("from outside\n");
    assert_eq!(server.join().unwrap(), *b"from inside\n");
    // Without it, there is no such name, and no way by the address.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let script = format!("nc -w 2 10.0.2.2 {port} </dev/null || echo no way");
    home.walnut(["run", "--rm", &image, "sh", "-c", &script])
        .run()
        .succeeded()
        .says("no way\n");
    assert!(listener.accept().is_err());
}

/// What passt of 2023 says of it, nobody who has asked believes.
#[test]
fn nobody_listens_there() {
    let Some(home) = home() else { return };
    let line = ["network", "create", "back"];
    home.walnut(line).run().succeeded();
    let [port] = free_ports();
    let image = home.busybox();
    let script = format!("timeout 60 nc host {port} </dev/null 2>&1 || true");
    for flags in [
        &["--network", "user"][..],
        &["--network", "user", "--egress", "10.0.2.2"],
        &["--network", "back"],
    ] {
        let host = ["run", "--rm", "--add-host", "host:host-gateway"];
        let said = home.says(&[&host, flags, &[&image, "sh", "-c", &script]].concat());
        assert!(said.ends_with("Connection refused"), "{flags:?}: {said}");
    }
}

#[test]
fn what_the_container_sees() {
    let Some(home) = home() else { return };
    let image = home.busybox();
    let see = |flags: &[&str], command: &str| {
        let line = [&["run", "--rm"], flags, &[&image, "sh", "-c", command]].concat();
        home.says(&line)
    };
    let link = see(
        &["--mac-address", "02:00:00:00:00:77", "--hostname", "box"],
        "cat /sys/class/net/eth0/address /sys/class/net/eth0/mtu; hostname -i; ip route",
    );
    assert_eq!(
        link,
        "02:00:00:00:00:77\n65520\n10.0.2.100\ndefault via 10.0.2.2 dev eth0 \n\
         10.0.2.0/24 dev eth0 scope link  src 10.0.2.100"
    );
    let resolver = see(
        &[
            "--dns",
            "192.0.2.53",
            "--dns-search",
            "a.test",
            "--dns-option",
            "ndots:2",
        ],
        "cat /etc/resolv.conf",
    );
    assert_eq!(
        resolver,
        "nameserver 192.0.2.53\nsearch a.test\noptions ndots:2"
    );
    let whole = ["--hostname", "box", "--domainname", "corp.test"];
    assert_eq!(
        see(&whole, "grep ^10 /etc/hosts"),
        "10.0.2.100\tbox.corp.test box"
    );
    assert_eq!(see(&["--network", "none"], "ls /sys/class/net"), "lo");
    let forwarding = see(
        &["--sysctl", "net.ipv4.ip_forward=1"],
        "cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv4/conf/eth0/forwarding",
    );
    assert_eq!(forwarding, "1\n1");
}

#[test]
fn a_tap() {
    let Some(home) = home() else { return };
    if !rustix::process::geteuid().is_root() {
        return skip("making a tap needs root");
    }
    let _tap = TestTap::new(9000);
    let network = "tap:walnut-t0,ip=192.0.2.2/24,gateway=192.0.2.1";
    home.background_with("web", &["--network", network], ECHO);
    home.wait_for_listeners("web", &["80"]);
    // Directly at its own address, and large segments both ways.
    let long: Vec<u8> = (0..=255).cycle().take(4 << 20).collect();
    let mut stream = TcpStream::connect("192.0.2.2:80").unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut reader = stream.try_clone().unwrap();
    let mut answer = vec![0; long.len()];
    std::thread::scope(|scope| {
        scope.spawn(|| stream.write_all(&long).unwrap());
        reader.read_exact(&mut answer).unwrap();
    });
    assert!(answer == long);
    let ping = [
        "exec",
        "web",
        "ping",
        "-c",
        "1",
        "-s",
        "8900",
        "-W",
        "10",
        "192.0.2.1",
    ];
    let said = home.says(&ping);
    assert!(said.contains("1 packets received"), "{said}");
    assert_eq!(
        home.says(&["exec", "web", "cat", "/sys/class/net/eth0/mtu"]),
        "9000"
    );
    let address = ["inspect", "-f", "{{.NetworkSettings.IPAddress}}", "web"];
    assert_eq!(home.says(&address), "192.0.2.2");
    let image = home.busybox();
    home.walnut(["run", "--rm", "--network", "tap:nosuch", &image, "true"])
        .run()
        .exited(125)
        .complains(&["there is no network interface nosuch"]);
    home.remove_all();
}

#[test]
fn without_passt() {
    let Some(home) = home() else { return };
    let image = home.busybox();
    let run = |flags: &[&str]| {
        let line = [&["run", "--rm"], flags, &[&image, "ls", "/sys/class/net"]].concat();
        home.walnut(&line).env("PATH", "/nowhere").run()
    };
    let missing = ["there is no passt on the PATH", "install the package passt"];
    for asks in [
        ["--network", "user"],
        ["-p", "8080:80"],
        ["--egress", "deny"],
    ] {
        run(&asks).exited(125).says("").complains(&missing);
    }
    home.walnut(["network", "create", "back"]).run().succeeded();
    run(&["--network", "back"])
        .exited(125)
        .says("")
        .complains(&["which the network back needs", missing[1], "--internal"]);
    run(&[])
        .succeeded()
        .says("lo\n")
        .complains(&["the container has no network", "--network none"]);
    let quiet = run(&["--network", "none"]);
    quiet.succeeded().says("lo\n");
    assert!(quiet.stderr.is_empty(), "{}", quiet.story());
}

#[test]
fn mistakes() {
    let home = Home::without_kvm();
    let image = home.busybox();
    for (flags, said) in [
        (&["-p", "x:80"][..], "invalid hostPort: x"),
        (&["-p", "80:0"], "invalid containerPort: 0"),
        (&["-p", "80:80/icmp"], "invalid proto: icmp"),
        (&["-p", "host:80:80"], "invalid IP address: host"),
        (&["--network", "nosuch"], "network nosuch not found"),
        (&["--mac-address", "02:00"], "is not a valid mac address"),
        (&["--network", "container:"], "invalid container format"),
        (
            &["--network", "name=back,ip=10.89.0.9", "--ip", "10.89.0.8"],
            "cannot specify both --ip and per-network IPv4 address",
        ),
        (
            &["--network", "tap:t0,gateway=10.9.0.1"],
            "invalid --network tap:t0,gateway=10.9.0.1",
        ),
        (
            &["--dns-search", "a\nnameserver 192.0.2.1"],
            "\"--dns-search\" flag: expected one word",
        ),
        (
            &["--ip", "10.0.0.1"],
            "supported on user defined networks only",
        ),
    ] {
        let line = [&["create"], flags, &[image.as_str(), "true"]].concat();
        home.walnut(&line)
            .run()
            .exited(125)
            .says("")
            .complains(&[said]);
    }
}

#[test]
fn a_passt_that_was_killed_takes_the_link_down() {
    let Some(home) = home() else { return };
    let [port] = free_ports();
    home.background_with("web", &["-p", &format!("{port}:80")], ECHO);
    home.wait_for_listeners("web", &["80"]);
    assert_eq!(echo(port, b"before"), b"before");
    let found = passts(&format!("127.0.0.1/{port}:80"));
    for pid in &found {
        rustix::process::kill_process(*pid, rustix::process::Signal::KILL).unwrap();
    }
    wait_for_end(&found);
    // The carrier goes a moment later; the container lives.
    let script = "while [ $(cat /sys/class/net/eth0/carrier) = 1 ]; do :; done; echo down";
    assert_eq!(home.says(&["exec", "web", "sh", "-c", script]), "down");
    let logs: String = fs::read_dir(home.state().join("vm"))
        .unwrap()
        .filter_map(|entry| fs::read_to_string(entry.unwrap().path().join("monitor.log")).ok())
        .collect();
    assert!(
        logs.contains(
            "net: the link is down: the network's other end (passt, its switch or the tap) is gone"
        ),
        "{logs}"
    );
    home.remove_all();
}

#[test]
fn passt_goes_with_a_supervisor_that_was_killed() {
    let Some(home) = home() else { return };
    let [port] = free_ports();
    home.background_with("web", &["-p", &format!("{port}:80")], ECHO);
    let found = passts(&format!("127.0.0.1/{port}:80"));
    assert_eq!(found.len(), 1);
    let supervisor = home.says(&["inspect", "-f", "{{.State.Pid}}", "web"]);
    let supervisor = rustix::process::Pid::from_raw(supervisor.parse().unwrap()).unwrap();
    rustix::process::kill_process(supervisor, rustix::process::Signal::KILL).unwrap();
    wait_for_end(&found);
    home.remove_all();
}
