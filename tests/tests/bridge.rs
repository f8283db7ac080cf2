// SPDX-License-Identifier: Apache-2.0
//! `--network bridge`, each test in a network namespace of its own.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use walnut_tests::harness::network::{HEAR, HOST_PROGRAMS, has_passt};
use walnut_tests::harness::{Home, Program, host, in_namespace, skip};

const NO_KVM: &str = "no KVM that runs a stock kernel";
const NOT_ROOT: &str = "a bridge needs root";
const PATIENCE: Duration = Duration::from_secs(60);
const ECHO: &str = "nc -ll -p 80 -e cat";
const BRIDGE: [&str; 2] = ["--network", "bridge"];

fn home() -> Option<Home> {
    if !rustix::process::geteuid().is_root() {
        skip(NOT_ROOT);
        return None;
    }
    let home = Home::new();
    if home.is_none() {
        skip(NO_KVM);
    }
    home
}

fn wait_for_port_80(home: &Home, name: &str) {
    let script = "until netstat -ltn | grep -q :80; do :; done";
    home.walnut(["exec", name, "sh", "-c", script])
        .run()
        .succeeded();
}

/// What comes back of `len` bytes.
fn echo(place: &str, len: usize) {
    let text: Vec<u8> = (0..=255).cycle().take(len).collect();
    let mut stream = TcpStream::connect(place).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut reader = stream.try_clone().unwrap();
    let mut answer = vec![0; len];
    std::thread::scope(|scope| {
        scope.spawn(|| stream.write_all(&text).unwrap());
        reader.read_exact(&mut answer).unwrap();
    });
    assert!(answer == text, "{place}");
}

fn nothing_is_left() {
    assert!(!Path::new("/sys/class/net/walnut0").exists());
    assert_eq!(host("ip -o link").lines().count(), 1, "only the loopback");
    assert_eq!(host("nft list tables"), "");
}

/// A cable from here, 198.51.100.1, to another host, 198.51.100.2, which knows the way to the
/// bridge's network.
fn plug_in(outside: &str) {
    host(&format!("ip netns add {outside}"));
    host(&format!(
        "ip link add out0 type veth peer name out1 netns {outside}"
    ));
    host("ip addr add 198.51.100.1/24 dev out0");
    host("ip link set out0 up");
    let there = format!("ip -n {outside}");
    host(&format!("{there} addr add 198.51.100.2/24 dev out1"));
    host(&format!("{there} link set out1 up"));
    host(&format!("{there} route add 10.86.0.0/24 via 198.51.100.1"));
}

/// A socket stays where it was made.
fn listen_in(outside: &str, place: &str) -> TcpListener {
    let namespace = std::fs::File::open(format!("/run/netns/{outside}")).unwrap();
    let place = place.to_owned();
    let thread = std::thread::spawn(move || {
        nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        TcpListener::bind(place).unwrap()
    });
    thread.join().unwrap()
}

fn unplug(outside: &str) {
    host("ip link delete out0");
    host(&format!("ip netns delete {outside}"));
}

#[test]
fn an_address_of_its_own() {
    let Some(home) = home() else { return };
    in_namespace(|| {
        let flags = [
            BRIDGE.as_slice(),
            &["-p", "8080:80", "--mac-address", "02:00:00:00:00:42"],
        ];
        home.background_with("web", &flags.concat(), ECHO);
        wait_for_port_80(&home, "web");
        let shown = "{{.NetworkSettings.IPAddress}}/{{.NetworkSettings.IPPrefixLen}} \
                     {{.NetworkSettings.Gateway}} {{.NetworkSettings.Networks.bridge.MacAddress}}";
        assert_eq!(
            home.says(&["inspect", "-f", shown, "web"]),
            "10.86.0.2/24 10.86.0.1 02:00:00:00:00:42"
        );
        // Large, so that segments are the host's; by its own address, and by the published port.
        echo("10.86.0.2:80", 4 << 20);
        echo("127.0.0.1:8080", 1 << 20);
        assert!(TcpListener::bind("127.0.0.1:8080").is_err());
        let image = home.busybox();
        let taken = [
            "run",
            "--rm",
            "--network",
            "bridge",
            "-p",
            "8080:80",
            &image,
            "true",
        ];
        home.walnut(taken)
            .run()
            .exited(125)
            .complains(&["Bind for 127.0.0.1:8080 failed: port is already allocated"]);
        // Its neighbour, by address; and the host, which is the gateway.
        let script = "nc 10.86.0.2 80 </etc/hostname; ping -c 1 -W 10 10.86.0.1 | grep received";
        let line = ["run", "--rm", "--network", "bridge", "--hostname", "box"];
        let line = [&line[..], &[&image, "sh", "-c", script]].concat();
        let said = home.says(&line);
        assert_eq!(
            said,
            "box\n1 packets transmitted, 1 packets received, 0% packet loss"
        );
        home.remove_all();
        nothing_is_left();
    });
}

/// Beside a network of its own, which is inside only: no passt is needed.
#[test]
fn connected_while_it_runs() {
    let Some(home) = home() else { return };
    in_namespace(|| {
        let line = ["network", "create", "--internal", "back"];
        home.walnut(line).run().succeeded();
        home.background_with("web", &["--network", "back"], ECHO);
        wait_for_port_80(&home, "web");
        let line = ["network", "connect", "--ip", "10.86.0.9", "bridge", "web"];
        home.walnut(line).run().succeeded();
        // Segments are the host's here, too.
        echo("10.86.0.9:80", 4 << 20);
        let script = "ip route | head -1; ip -o -4 addr show dev eth1 | grep -o 'inet [^ ]*'; \
                      ping -c 1 -W 10 10.86.0.1 | grep -c '1 packets received'";
        let said = home.says(&["exec", "web", "sh", "-c", script]);
        assert_eq!(
            said,
            "default via 10.86.0.1 dev eth1 \ninet 10.86.0.9/24\n1"
        );
        let line = ["network", "disconnect", "bridge", "web"];
        home.walnut(line).run().succeeded();
        nothing_is_left();
        let script = "ip route; ping -c 1 -W 10 10.89.0.1 | grep -c '1 packets received'";
        let said = home.says(&["exec", "web", "sh", "-c", script]);
        assert_eq!(said, "10.89.0.0/24 dev eth0 scope link  src 10.89.0.2 \n1");
        home.remove_all();
        home.assert_clean();
    });
}

#[test]
fn the_way_out_and_in() {
    let Some(home) = home() else { return };
    in_namespace(|| {
        plug_in("wn-out");
        let outside = |script: &str| {
            Program::new("ip")
                .args(["netns", "exec", "wn-out", "sh", "-c", script])
                .run()
        };
        home.background_with(
            "web",
            &[
                "--network",
                "bridge",
                "-p",
                "0.0.0.0:8080:80",
                "--ip",
                "10.86.0.9",
            ],
            ECHO,
        );
        wait_for_port_80(&home, "web");
        // In, by what is published; not by the address, although the other one knows the way.
        outside("echo hello | busybox nc -w 20 198.51.100.1 8080")
            .succeeded()
            .says("hello\n");
        let other = outside("busybox nc -w 3 10.86.0.9 80 </dev/null");
        assert_ne!(other.status(), 0, "{}", other.story());
        // Out, as the host itself.
        let listener = listen_in("wn-out", "198.51.100.2:7");
        let server = std::thread::spawn(move || {
            let (mut stream, peer) = listener.accept().unwrap();
            stream.write_all(b"from outside").unwrap();
            peer.ip().to_string()
        });
        let said = home.says(&["exec", "web", "nc", "-w", "20", "198.51.100.2", "7"]);
        assert_eq!(said, "from outside");
        assert_eq!(server.join().unwrap(), "198.51.100.1");
        home.remove_all();
        unplug("wn-out");
        nothing_is_left();
    });
}

#[test]
fn what_a_hostile_one_may_not() {
    let Some(home) = home() else { return };
    in_namespace(|| {
        let listener = TcpListener::bind("127.0.0.1:7777").unwrap();
        listener.set_nonblocking(true).unwrap();
        home.background_with("other", &BRIDGE, ECHO);
        wait_for_port_80(&home, "other");
        let image = home.busybox();
        let run = |script: &str| {
            let line = ["run", "--rm", "--privileged", "--network", "bridge"];
            home.says(&[&line[..], &[&image, "sh", "-c", script]].concat())
        };
        // The host's loopback by way of the wire.
        let script = "echo 1 >/proc/sys/net/ipv4/conf/all/route_localnet; \
                      ip addr flush dev lo; ip route flush table local dev lo; \
                      ip route add 127.0.0.1 via 10.86.0.1 src 10.86.0.3 && \
                      ip route get 127.0.0.1 | grep -c eth0; \
                      nc -w 3 127.0.0.1 7777 </dev/null && echo reached || echo no way";
        assert_eq!(run(script), "1\nno way");
        assert!(listener.accept().is_err());
        // Another's address.
        let script = "nc -w 20 10.86.0.2 80 </etc/hostname >/dev/null && echo as itself; \
                      ip addr flush dev eth0; ip addr add 10.86.0.77/24 dev eth0; \
                      nc -w 3 10.86.0.2 80 </etc/hostname && echo reached || echo no way";
        assert_eq!(run(script), "as itself\nno way");
        home.remove_all();
        nothing_is_left();
    });
}

#[test]
fn what_may_leave() {
    let Some(home) = home() else { return };
    in_namespace(|| {
        plug_in("wn-egress");
        let serve = |port: u16| {
            let listener = listen_in("wn-egress", &format!("198.51.100.2:{port}"));
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    let _ = stream.unwrap().write_all(b"hello\n");
                }
            });
        };
        serve(7);
        serve(8);
        let host = TcpListener::bind("10.86.0.1:9").err();
        assert!(host.is_some(), "there is no bridge yet");
        let listener = TcpListener::bind("0.0.0.0:9").unwrap();
        listener.set_nonblocking(true).unwrap();
        home.background_with("web", &BRIDGE, ECHO);
        wait_for_port_80(&home, "web");
        let image = home.busybox();
        let script = "for place in '198.51.100.2 7' '198.51.100.2 8' '10.86.0.1 9'; do \
                        nc -w 3 $place </dev/null || echo no; done; \
                      nc -w 20 10.86.0.2 80 </etc/hostname; \
                      ip addr add 10.86.0.99/24 dev eth0; ip route replace default via 10.86.0.1 src 10.86.0.99; \
                      nc -w 3 198.51.100.2 8 </dev/null || echo no";
        let line = [
            "run",
            "--rm",
            "--privileged",
            "--network",
            "bridge",
            "--hostname",
            "box",
        ];
        let egress = ["--egress", "198.51.100.0/24:7", &image, "sh", "-c", script];
        let said = home.says(&[&line[..], &egress[..]].concat());
        assert_eq!(said, "hello\nno\nno\nbox\nno");
        assert!(listener.accept().is_err());
        home.walnut([&line[..], &["--egress", "example.org", &image, "true"]].concat())
            .run()
            .exited(125)
            .complains(&["--egress example.org on --network bridge"]);
        home.remove_all();
        unplug("wn-egress");
        nothing_is_left();
    });
}

/// A flow of datagrams that was there before the port was published, and one that was there before the
/// next container came.
#[test]
fn whoever_sends_all_the_time_is_heard() {
    let Some(home) = home() else { return };
    in_namespace(|| {
        // The kernel looks at flows as long as there are rules.
        home.background_with("first", &BRIDGE, "sleep 1000");
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect("127.0.0.1:5353").unwrap();
        let wait = Duration::from_millis(100);
        socket.set_read_timeout(Some(wait)).unwrap();
        let echo = "perl -MIO::Socket -e '$s = IO::Socket::INET->new(Proto => \"udp\", LocalPort => 53); \
                    $s->send($d) while $s->recv($d, 65535)'";
        // Nobody is there yet, and it says so.
        let _ = socket.send(b"before");
        let flags = [&BRIDGE[..], &["-p", "5353:53/udp"], &HOST_PROGRAMS].concat();
        for name in ["one", "two"] {
            home.background_with(name, &flags, echo);
            let since = Instant::now();
            let is_heard = || {
                let _ = socket.send(name.as_bytes());
                let mut answer = [0; 9];
                let len = socket.recv(&mut answer).unwrap_or(0);
                answer[..len] == *name.as_bytes()
            };
            while !is_heard() {
                assert!(since.elapsed() < PATIENCE, "{name}");
            }
            // The next one has another address.
            let line = ["run", "-d", "--network", "bridge", &home.busybox(), "cat"];
            home.walnut(["rm", "-f", name]).run().succeeded();
            home.walnut([&line[..2], &["-i"], &line[2..]].concat())
                .run()
                .succeeded();
        }
        home.remove_all();
        nothing_is_left();
    });
}

/// To a container on another network, which a process of the host's speaks for, the bridge is
/// outside.
#[test]
fn other_networks_reach_what_is_published_only() {
    let Some(home) = home() else { return };
    if !has_passt() {
        return skip("no passt");
    }
    in_namespace(|| {
        let flags = [&BRIDGE[..], &["-p", "8080:80"]].concat();
        let script = "nc -ll -p 80 -e sh -c 'echo reached; cat'";
        home.background_with("web", &flags, script);
        wait_for_port_80(&home, "web");
        home.walnut(["network", "create", "own"]).run().succeeded();
        let image = home.busybox();
        let script = format!("{HEAR} hear 10.86.0.2 80; hear host 8080");
        for network in ["user", "own"] {
            let line = ["run", "--rm", "--add-host", "host:host-gateway"];
            let flags = ["--network", network, &image, "sh", "-c", &script];
            let said = home.says(&[&line[..], &flags].concat());
            assert_eq!(said, "nothing\nreached", "{network}");
        }
        // From the host itself, all is reached.
        let mut said = [0; 8];
        let mut stream = TcpStream::connect("10.86.0.2:80").unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.read_exact(&mut said).unwrap();
        assert_eq!(&said, b"reached\n");
        home.remove_all();
        nothing_is_left();
    });
}

/// A host that has Docker has a bridge's frames go by its IP rules, too.
#[test]
fn a_neighbour_is_no_outside_on_a_host_with_br_netfilter() {
    let Some(home) = home() else { return };
    // A real machine's modules are its owner's.
    let may_load = std::env::var_os("WALNUT_EMULATED_HOST").is_some();
    if may_load {
        host("modprobe br_netfilter");
    }
    if !Path::new("/sys/module/br_netfilter").exists() {
        return skip("no br_netfilter");
    }
    in_namespace(|| {
        host("sysctl -qw net.bridge.bridge-nf-call-iptables=1");
        home.background_with("web", &BRIDGE, ECHO);
        wait_for_port_80(&home, "web");
        let image = home.busybox();
        let line = ["run", "--rm", "--hostname", "box", "--egress", "deny"];
        let script = "nc -w 20 10.86.0.2 80 </etc/hostname";
        let line = [&line[..], &BRIDGE, &[&image, "sh", "-c", script]].concat();
        assert_eq!(home.says(&line), "box");
        home.remove_all();
        nothing_is_left();
    });
    if may_load {
        host("modprobe -r br_netfilter");
    }
}

/// Neither to the host, nor by it to others, nor to a neighbour: the addresses that a container is
/// held to are of IPv4.
#[test]
fn nothing_goes_by_ipv6() {
    let Some(home) = home() else { return };
    in_namespace(|| {
        plug_in("wn-six");
        host("ip addr add fd00:98::1/64 dev out0 nodad");
        host("ip -n wn-six addr add fd00:98::2/64 dev out1 nodad");
        host("ip -n wn-six route add fd00:86::/64 via fd00:98::1");
        host("sysctl -qw net.ipv6.conf.all.forwarding=1");
        let outside = listen_in("wn-six", "[fd00:98::2]:7");
        outside.set_nonblocking(true).unwrap();
        let near = TcpListener::bind("[::]:9").unwrap();
        near.set_nonblocking(true).unwrap();
        let set_up = |last: u32| {
            format!(
                "sysctl -qw net.ipv6.conf.eth0.disable_ipv6=0; eth0='dev eth0'; \
                 /usr/bin/ip addr add fd00:86::{last}/64 $eth0 nodad && \
                 /usr/bin/ip neigh replace fd00:86::1 lladdr 02:42:0a:56:00:01 $eth0 && \
                 /usr/bin/ip neigh replace fe80::1 lladdr 02:42:0a:56:00:01 $eth0 && \
                 /usr/bin/ip neigh replace fd00:86::2 lladdr 02:42:0a:56:00:02 $eth0 && \
                 /usr/bin/ip neigh replace fd00:86::3 lladdr 02:42:0a:56:00:03 $eth0 && \
                 /usr/bin/ip route replace default via fd00:86::1 $eth0 && echo set up; "
            )
        };
        let flags = [&BRIDGE, &["--privileged"][..], &HOST_PROGRAMS].concat();
        home.background_with("web", &flags, &format!("{}{ECHO}", set_up(2)));
        wait_for_port_80(&home, "web");
        let script = format!(
            "{}nc -w 20 10.86.0.2 80 </etc/hostname; \
             for place in 'fd00:98::2 7' 'fd00:98::1 9' 'fd00:86::2 80'; do \
               nc -w 3 $place </etc/hostname || echo no; done",
            set_up(3)
        );
        let image = home.busybox();
        let line = [
            &["run", "--rm", "--hostname", "box"][..],
            &flags,
            &[&image, "sh", "-c", &script],
        ];
        assert_eq!(home.says(&line.concat()), "set up\nbox\nno\nno\nno");
        assert!(outside.accept().is_err() && near.accept().is_err());
        home.remove_all();
        unplug("wn-six");
        host("sysctl -qw net.ipv6.conf.all.forwarding=0");
        nothing_is_left();
    });
}

#[test]
fn a_killed_supervisor_leaves_nothing_for_long() {
    let Some(home) = home() else { return };
    in_namespace(|| {
        home.background_with("web", &["--network", "bridge", "-p", "8080:80"], ECHO);
        let pid = home.says(&["inspect", "-f", "{{.State.Pid}}", "web"]);
        let pid = rustix::process::Pid::from_raw(pid.parse().unwrap()).unwrap();
        let fd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        let mut wait = [rustix::event::PollFd::new(
            &fd,
            rustix::event::PollFlags::IN,
        )];
        rustix::event::poll(&mut wait, None).unwrap();
        assert!(Path::new("/sys/class/net/walnut0").exists());
        home.walnut(["ps", "-a"]).run().succeeded();
        // The tap goes with the monitor, which goes with its supervisor, a moment later.
        let taps = || host("ip -o link").lines().any(|line| line.contains(" wn"));
        while taps() {}
        nothing_is_left();
        // And its address is free again.
        home.background_with("next", &["--network", "bridge", "-p", "8080:80"], ECHO);
        let shown = ["inspect", "-f", "{{.NetworkSettings.IPAddress}}", "next"];
        assert_eq!(home.says(&shown), "10.86.0.2");
        home.remove_all();
        nothing_is_left();
    });
}

/// What fails for one takes nothing from another, and whoever came later may rely on forwarding.
#[test]
fn others_keep_what_they_have() {
    let Some(home) = home() else { return };
    in_namespace(|| {
        host("sysctl -qw net.ipv4.ip_forward=0");
        home.background_with("web", &BRIDGE, ECHO);
        wait_for_port_80(&home, "web");
        let parameters = "/proc/sys/net/ipv4/conf/walnut0";
        host(&format!("mount -t tmpfs -o ro tmpfs {parameters}"));
        let image = home.busybox();
        home.walnut(["run", "--rm", "--network", "bridge", &image, "true"])
            .run()
            .exited(125)
            .complains(&["set /proc/sys/net/ipv4/conf/walnut0/route_localnet"]);
        host(&format!("umount {parameters}"));
        echo("10.86.0.2:80", 1000);
        home.remove_all();
        nothing_is_left();
        assert_eq!(host("sysctl -n net.ipv4.ip_forward"), "1");
    });
}

#[test]
fn an_ethernet_address_of_somebody_else() {
    let Some(home) = home() else { return };
    in_namespace(|| {
        let image = home.busybox();
        home.background_with("one", &["--network", "bridge"], "sleep 1000");
        for mac in ["02:42:0a:56:00:02", "02:42:0a:56:00:01"] {
            let line = ["run", "--rm", "--network", "bridge", "--mac-address", mac];
            let said = format!("MAC address {mac} is already in use on the bridge");
            let done = home.walnut([&line[..], &[&image, "true"]].concat()).run();
            done.exited(125).complains(&[&said]);
        }
        home.remove_all();
    });
}

#[test]
fn what_cannot_be() {
    let Some(home) = home() else { return };
    in_namespace(|| {
        let image = home.busybox();
        let run = |flags: &[&str]| {
            let line = [
                &["run", "--rm", "--network", "bridge"],
                flags,
                &[&image, "true"],
            ];
            home.walnut(line.concat())
        };
        let refused = |flags: &[&str], said: &str| {
            run(flags).run().exited(125).says("").complains(&[said]);
        };
        let small = |program: Program| program.env("WALNUT_BRIDGE_SUBNET", "192.0.2.0/30");
        let line = [
            "run",
            "-d",
            "--name",
            "only",
            "--network",
            "bridge",
            &image,
            "cat",
        ];
        small(home.walnut([&line[..2], &["-i"], &line[2..]].concat()))
            .run()
            .succeeded();
        small(run(&[]))
            .run()
            .exited(125)
            .complains(&["no address is left on the bridge's network 192.0.2.0/30"]);
        small(run(&["--ip", "192.0.2.2"]))
            .run()
            .exited(125)
            .complains(&["Address already in use: 192.0.2.2"]);
        let shown = "{{range .Containers}}{{.Name}} {{.IPv4Address}}{{end}} {{json .IPAM.Config}}";
        assert_eq!(
            home.says(&["network", "inspect", "-f", shown, "bridge"]),
            "only 192.0.2.2/30 [{\"Gateway\":\"192.0.2.1\",\"Subnet\":\"192.0.2.0/30\"}]"
        );
        refused(&[], "walnut0 is on 192.0.2.0/30");
        home.remove_all();
        refused(
            &["--ip", "10.86.0.1"],
            "10.86.0.1 is no address for a container",
        );
        refused(&["--ip", "10.86.0"], "invalid IPv4 address: 10.86.0");
        refused(&["-p", "[::1]:8080:80"], "IPv4 addresses of the host only");
        run(&[])
            .env("PATH", "/nowhere")
            .run()
            .exited(125)
            .complains(&["install the package nftables"]);
        run(&[])
            .env("WALNUT_BRIDGE_SUBNET", "10.0.0.0/31")
            .run()
            .exited(125)
            .complains(&["is no IPv4 network with room"]);
        nothing_is_left();
        host("ip link add there0 type bridge");
        host("ip addr add 10.86.0.77/24 dev there0");
        host("ip link set there0 up");
        refused(
            &[],
            "of the interface there0, which is there already: WALNUT_BRIDGE_SUBNET=CIDR",
        );
        small(run(&[])).run().succeeded();
        host("ip link delete there0");
        host("ip link add walnut0 type bridge");
        refused(&[], "walnut0 is there already");
        host("ip link delete walnut0");
        nothing_is_left();
        assert!(!home.state().join("bridge/lock").exists());
    });
}

#[test]
fn without_root() {
    let Some(home) = home() else { return };
    home.forget_templates();
    std::os::unix::fs::chown(home.path(), Some(65533), Some(65533)).unwrap();
    let kvm = std::fs::metadata("/dev/kvm").unwrap();
    let group = std::os::unix::fs::MetadataExt::gid(&kvm).to_string();
    let image = home.busybox();
    let command = home.walnut(["run", "--rm", "--network", "bridge", &image, "true"]);
    let command = command.into_command();
    Program::new("setpriv")
        .args([
            "--reuid", "65533", "--regid", "65533", "--groups", &group, "--",
        ])
        .args([command.get_program()])
        .args(command.get_args())
        .env("HOME", home.path())
        .run()
        .exited(125)
        .says("")
        .complains(&["--network bridge needs root", "walnut network create"]);
}
