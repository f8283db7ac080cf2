// SPDX-License-Identifier: Apache-2.0
//! Containers on several networks, from the start and while they run. Without root; all traffic stays
//! on the loopback.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::time::Instant;

use rustix::process::{Signal, kill_process};
use walnut_tests::harness::network::{ECHO, PATIENCE, free_ports, home, switches, wait_for_end};
use walnut_tests::harness::{Home, process};

/// In a container: its own addresses; whether a name answers on port 80 within some seconds.
const REACH: &str = "own() { echo $(grep \"$(hostname)\\$\" /etc/hosts | cut -f1); }; reach() { if [ \"$(echo hello | nc -w $2 $1 80 2>/dev/null)\" = hello ]; \
                     then echo $1; else echo no $1; fi; }; ";

fn network(home: &Home, flags: &[&str]) {
    let line = [&["network", "create"], flags].concat();
    home.walnut(line).run().succeeded();
}

fn echo_on(home: &Home, name: &str, network: &str) {
    home.background_with(name, &["--network", network], ECHO);
    wait_for_port_80(home, name);
}

fn wait_for_port_80(home: &Home, name: &str) {
    let script = "until netstat -ltn | grep -q :80; do :; done";
    home.walnut(["exec", name, "sh", "-c", script])
        .run()
        .succeeded();
}

fn inside(home: &Home, name: &str, script: &str) -> String {
    home.says(&["exec", name, "sh", "-c", script])
}

fn own(home: &Home, name: &str) -> String {
    inside(home, name, &format!("{REACH} own"))
}

fn change(home: &Home, line: &[&str]) {
    home.walnut([&["network"], line].concat()).run().succeeded();
}

#[test]
fn from_the_start() {
    let Some(home) = home() else { return };
    network(&home, &["front"]);
    network(&home, &["--internal", "back"]);
    echo_on(&home, "web", "front");
    echo_on(&home, "db", "back");
    let flags = [
        "--network",
        "name=back,alias=both,ip=10.89.1.77",
        "--network",
        "front",
        "-p",
        "80",
    ];
    home.background_with("middle", &flags, ECHO);
    wait_for_port_80(&home, "middle");
    // Names and addresses of both, by one server; the way out is where there is one.
    let script = format!(
        "{REACH} reach web 20; reach db 20; reach web.front 20; reach db.back 20; \
         ip route | cut -d' ' -f1-5; grep nameserver /etc/resolv.conf; own; \
         nslookup 10.89.0.2 | grep name; nslookup 10.89.1.2 | grep name; \
         nslookup nobody.back >/dev/null 2>&1 || echo nobody"
    );
    let expected = "web\ndb\nweb.front\ndb.back\ndefault via 10.89.0.1 dev eth1\n\
                    10.89.0.0/24 dev eth1 scope link\n10.89.1.0/24 dev eth0 scope link\n\
                    nameserver 10.89.0.1\n10.89.1.77 10.89.0.3\n\
                    2.0.89.10.in-addr.arpa\tname = web.front\n2.1.89.10.in-addr.arpa\tname = db.back\n\
                    nobody";
    assert_eq!(inside(&home, "middle", &script), expected);
    // Found on each, by the address that it has there; and no way from one to the other.
    let script = format!(
        "{REACH} reach middle 20; reach 10.89.1.77 3; reach db 3; ip route add 10.89.1.0/24 via 10.89.0.3; \
         reach 10.89.1.2 3"
    );
    let image = home.busybox();
    let run = |network: &str, script: &str| {
        let line = ["run", "--rm", "--privileged", "--network", network, &image];
        home.says(&[&line[..], &["sh", "-c", script]].concat())
    };
    let said = run("front", &script);
    assert_eq!(said, "middle\nno 10.89.1.77\nno db\nno 10.89.1.2");
    let script =
        format!("{REACH} reach middle 20; reach both 20; reach web 3; reach middle.front 3");
    let said = run("back", &script);
    assert_eq!(said, "middle\nboth\nno web\nno middle.front");
    // Shown, with the port that the way in has.
    let shown = "{{range $name, $one := .NetworkSettings.Networks}}{{$name}} {{$one.IPAddress}} {{$one.Aliases}}\n{{end}}";
    assert_eq!(
        home.says(&["inspect", "-f", shown, "middle"]).trim(),
        "back 10.89.1.77 [both]\nfront 10.89.0.3 []"
    );
    let names = [
        "ps",
        "--filter",
        "network=back",
        "--format",
        "{{.Names}} {{.Networks}}",
    ];
    assert_eq!(home.says(&names), "middle back,front\ndb back");
    assert!(
        home.says(&["port", "middle"])
            .starts_with("80/tcp -> 127.0.0.1:")
    );
    home.walnut(["network", "rm", "back"])
        .run()
        .exited(1)
        .complains(&["network back has active endpoints"]);
    let switches = switches(home.path());
    assert_eq!(switches.len(), 2);
    home.remove_all();
    wait_for_end(&switches);
    home.assert_clean();
}

/// Nobody is at the gateway's address of a network that is internal.
#[test]
fn the_host_is_where_there_is_a_way_out() {
    let Some(home) = home() else { return };
    network(&home, &["--internal", "inside"]);
    network(&home, &["front"]);
    let image = home.busybox();
    let script = "grep -w host /etc/hosts || echo none";
    for (networks, said) in [
        (&["inside", "front"][..], "10.89.1.1\thost"),
        (&["inside"], "none"),
    ] {
        let mut line = vec!["run", "--rm", "--add-host", "host:host-gateway"];
        let flags = networks.iter().flat_map(|name| ["--network", name]);
        line.extend(flags.chain([&*image, "sh", "-c", script]));
        assert_eq!(home.says(&line), said);
    }
}

#[test]
fn while_it_runs() {
    let Some(home) = home() else { return };
    network(&home, &["front"]);
    network(&home, &["back"]);
    echo_on(&home, "web", "front");
    echo_on(&home, "db", "back");
    let reach = |names: &[&str], patience: u8| {
        let script: String = names
            .iter()
            .map(|name| format!("reach {name} {patience};"))
            .collect();
        inside(&home, "web", &format!("{REACH} {script}"))
    };
    let interfaces = || inside(&home, "web", "cd /sys/class/net; echo eth*");
    assert_eq!(reach(&["db"], 3), "no db");
    change(
        &home,
        &[
            "connect",
            "--alias",
            "store",
            "--ip",
            "10.89.1.9",
            "back",
            "web",
        ],
    );
    assert_eq!(reach(&["db", "db.back", "web"], 20), "db\ndb.back\nweb");
    assert_eq!(interfaces(), "eth0 eth1");
    assert_eq!(own(&home, "web"), "10.89.0.2 10.89.1.9");
    let script = format!("{REACH} reach store 20; reach web 20; reach 10.89.1.9 20");
    assert_eq!(inside(&home, "db", &script), "store\nweb\n10.89.1.9");
    let shown = [
        "inspect",
        "-f",
        "{{.NetworkSettings.Networks.back.IPAddress}}",
        "web",
    ];
    assert_eq!(home.says(&shown), "10.89.1.9");
    // Both ways over a device that came late, as much at once as the sockets hold.
    let script = "head -c 60000 /dev/urandom >f; for i in $(seq 40); do \
                  nc -w 60 db 80 <f | cmp - f || echo differs; done; echo same";
    assert_eq!(inside(&home, "web", script), "same");
    // The first one goes; the other one is the way out then, and answers for names.
    change(&home, &["disconnect", "front", "web"]);
    assert_eq!(interfaces(), "eth1");
    assert_eq!(reach(&["db"], 20), "db");
    let script = "ip route | head -1; grep nameserver /etc/resolv.conf";
    let expected = "default via 10.89.1.1 dev eth1 \nnameserver 10.89.1.1";
    assert_eq!(inside(&home, "web", script), expected);
    assert_eq!(own(&home, "web"), "10.89.1.9");
    change(&home, &["disconnect", "back", "web"]);
    assert_eq!(interfaces(), "eth*");
    let script = format!("{REACH} reach 10.89.1.9 3; reach store 3");
    assert_eq!(inside(&home, "db", &script), "no 10.89.1.9\nno store");
    // The places are used again, and again.
    for _ in 0..3 {
        change(&home, &["connect", "front", "web"]);
        change(&home, &["connect", "back", "web"]);
        assert_eq!(interfaces(), "eth0 eth1");
        assert_eq!(reach(&["db", "web.front"], 20), "db\nweb.front");
        change(&home, &["disconnect", "back", "web"]);
        change(&home, &["disconnect", "front", "web"]);
    }
    home.walnut(["network", "disconnect", "front", "web"])
        .run()
        .exited(1)
        .complains(&["is not connected to network front"]);
    home.remove_all();
    home.assert_clean();
}

/// The switch was started by a supervisor that lives on.
#[test]
fn no_zombie_of_a_switch() {
    let Some(home) = home() else { return };
    network(&home, &["--internal", "net"]);
    home.background_with("web", &["--network", "net"], "sleep 1000");
    let switches = switches(home.path());
    assert_eq!(switches.len(), 1);
    change(&home, &["disconnect", "net", "web"]);
    wait_for_end(&switches);
    let supervisor = home.supervisor("web");
    let is_there = || process::children(supervisor).any(|pid| pid == switches[0]);
    let since = Instant::now();
    while is_there() {
        assert!(since.elapsed() < PATIENCE, "it is a zombie");
        std::thread::yield_now();
    }
    home.remove_all();
}

/// From the moment on that it is told to connect, its network is used.
#[test]
fn a_network_that_is_being_connected_stays() {
    let Some(home) = home() else { return };
    network(&home, &["--internal", "net"]);
    home.background_with("web", &["--network", "none"], "sleep 1000");
    let id = home.says(&["inspect", "-f", "{{.Id}}", "web"]);
    let record = home.root().join(format!("containers/{id}/container.json"));
    let supervisor = home.supervisor("web");
    kill_process(supervisor, Signal::STOP).unwrap();
    std::thread::scope(|scope| {
        let connects = scope.spawn(|| change(&home, &["connect", "net", "web"]));
        let since = Instant::now();
        let is_told =
            || std::fs::read_to_string(&record).is_ok_and(|text| text.contains("\"net\""));
        while !is_told() && since.elapsed() < PATIENCE {
            std::thread::yield_now();
        }
        let removes = home.walnut(["network", "rm", "net"]).run();
        kill_process(supervisor, Signal::CONT).unwrap();
        connects.join().unwrap();
        removes
            .exited(1)
            .complains(&["network net has active endpoints"]);
    });
    home.remove_all();
}

/// What can't be leaves all as it was.
#[test]
fn what_cannot_be_connected() {
    let Some(home) = home() else { return };
    network(&home, &["front"]);
    network(&home, &["more"]);
    echo_on(&home, "web", "front");
    echo_on(&home, "other", "more");
    let refused = |line: &[&str], said: &str| {
        let line = [&["network", "connect"], line].concat();
        home.walnut(line).run().exited(1).complains(&[said]);
    };
    for (address, said) in [
        ("10.89.1.2", "Address already in use"),
        ("10.89.0.77", "10.89.0.77 is no address of the network more"),
        ("10.89.1", "invalid IPv4 address: 10.89.1"),
    ] {
        refused(&["--ip", address, "more", "web"], said);
    }
    refused(
        &["front", "web"],
        "endpoint with name web already exists in network front",
    );
    assert_eq!(inside(&home, "web", "cd /sys/class/net; echo eth*"), "eth0");
    let listed = ["ps", "--filter", "name=web", "--format", "{{.Networks}}"];
    assert_eq!(home.says(&listed), "front");
    change(&home, &["connect", "more", "web"]);
    let script = format!("{REACH} reach other 20");
    assert_eq!(inside(&home, "web", &script), "other");
    home.remove_all();
}

#[test]
fn restarted_and_user() {
    let Some(home) = home() else { return };
    network(&home, &["back"]);
    echo_on(&home, "db", "back");
    let [port] = free_ports();
    home.background_with("web", &["-p", &format!("{port}:80")], ECHO);
    wait_for_port_80(&home, "web");
    change(&home, &["connect", "--alias", "x", "back", "web"]);
    let both = "10.0.2.100 10.89.0.3";
    assert_eq!(own(&home, "web"), both);
    home.walnut(["restart", "-t", "0", "web"]).run().succeeded();
    wait_for_port_80(&home, "web");
    assert_eq!(own(&home, "web"), both);
    let script = format!("{REACH} reach db 20; ip route | head -1");
    assert_eq!(
        inside(&home, "web", &script),
        "db\ndefault via 10.0.2.2 dev eth0"
    );
    let script = format!("{REACH} reach x 20");
    assert_eq!(inside(&home, "db", &script), "x");
    let went = format!("127.0.0.1:{port}->80/tcp went with the network user");
    home.walnut(["network", "disconnect", "user", "web"])
        .run()
        .succeeded()
        .complains(&[&went]);
    change(&home, &["connect", "user", "web"]);
    assert_eq!(own(&home, "web"), "10.89.0.3 10.0.2.100");
    // One that has nothing can come to have something.
    home.background_with("bare", &["--network", "none"], ECHO);
    change(&home, &["connect", "back", "bare"]);
    let script = format!("{REACH} reach db 20; own");
    assert_eq!(inside(&home, "bare", &script), "db\n10.89.0.4");
    home.remove_all();
    home.assert_clean();
}

#[test]
fn a_checkpoint_knows_its_networks() {
    let Some(home) = home() else { return };
    for name in ["one", "two", "three"] {
        network(&home, &[name]);
    }
    echo_on(&home, "db", "three");
    echo_on(&home, "web", "one");
    change(&home, &["connect", "two", "web"]);
    change(&home, &["connect", "--ip", "10.89.2.9", "three", "web"]);
    change(&home, &["disconnect", "two", "web"]);
    home.walnut(["checkpoint", "create", "web", "c"])
        .run()
        .succeeded();
    home.walnut(["start", "--checkpoint", "c", "web"])
        .run()
        .succeeded();
    let script = format!("{REACH} reach db 20; own; cd /sys/class/net; echo eth*");
    let expected = "db\n10.89.0.2 10.89.2.9\neth0 eth2";
    assert_eq!(inside(&home, "web", &script), expected);
    // The place between them is free.
    change(&home, &["connect", "two", "web"]);
    let script = "cd /sys/class/net; echo eth*";
    assert_eq!(inside(&home, "web", script), "eth0 eth1 eth2");
    let script = format!("{REACH} reach web 20");
    assert_eq!(inside(&home, "db", &script), "web");
    home.remove_all();
    home.assert_clean();
}

/// Of a machine that was restored, and of the first network, which came with its template.
#[test]
fn from_a_template() {
    let Some(home) = home() else { return };
    home.forget_templates();
    home.walnut(["template", "create"]).run().succeeded();
    network(&home, &["back"]);
    let flags = ["--start", "template", "--network", "back"];
    home.background_with("db", &flags, ECHO);
    wait_for_port_80(&home, "db");
    home.background_with("web", &["--start", "template"], ECHO);
    wait_for_port_80(&home, "web");
    for _ in 0..2 {
        change(&home, &["connect", "back", "web"]);
        change(&home, &["disconnect", "user", "web"]);
        let script = format!("{REACH} reach db 20; cd /sys/class/net; echo eth*");
        assert_eq!(inside(&home, "web", &script), "db\neth1");
        let script = format!("{REACH} reach web 20");
        assert_eq!(inside(&home, "db", &script), "web");
        change(&home, &["connect", "user", "web"]);
        change(&home, &["disconnect", "back", "web"]);
        assert_eq!(own(&home, "web"), "10.0.2.100");
    }
    home.remove_all();
}

/// The policy is the container's, on whatever network it comes to be.
#[test]
fn what_may_leave_by_any_of_them() {
    let Some(home) = home() else { return };
    network(&home, &["one"]);
    network(&home, &["two"]);
    let flags = ["--network", "one", "--egress", "deny"];
    home.background_with("web", &flags, ECHO);
    for line in [
        &["connect", "two"],
        &["disconnect", "one"],
        &["connect", "user"],
    ] {
        change(&home, &[&line[..], &["web"]].concat());
        let script = "nc -w 5 192.0.2.1 9 </dev/null 2>&1 | grep -o 'No route to host'; \
                      nslookup example.org | grep -c REFUSED";
        let said = inside(&home, "web", script);
        assert!(said.starts_with("No route to host\n"), "{line:?}: {said}");
        assert!(!said.ends_with("\n0"), "{line:?}: {said}");
    }
    home.remove_all();
}

/// Whoever is root in its machine can't stay on a network.
#[test]
fn one_that_does_not_let_go() {
    let Some(home) = home() else { return };
    network(&home, &["--internal", "one"]);
    network(&home, &["--internal", "two"]);
    echo_on(&home, "db", "two");
    let flags = ["--privileged", "--network", "one"];
    home.background_with("web", &flags, ECHO);
    wait_for_port_80(&home, "web");
    let reach_db = format!("{REACH} reach 10.89.1.2 3");
    // Under another name, it is found; with another address, it is not.
    for trick in [
        "ip link set eth1 down; ip link set eth1 name mine; ip link set mine up",
        "ip link set eth1 address 02:00:00:00:00:99",
    ] {
        change(&home, &["connect", "two", "web"]);
        let script = format!("{REACH} reach db 20; {trick}");
        assert_eq!(inside(&home, "web", &script), "db", "{trick}");
        change(&home, &["disconnect", "two", "web"]);
        assert_eq!(inside(&home, "web", &reach_db), "no 10.89.1.2", "{trick}");
        // The next one has a name of its own.
        inside(
            &home,
            "web",
            "ip link set eth1 down && ip addr flush dev eth1 && ip link set eth1 name old; echo",
        );
    }
    change(&home, &["connect", "two", "web"]);
    let script = format!("{REACH} reach db 20");
    assert_eq!(inside(&home, "web", &script), "db");
    home.remove_all();
}

#[test]
fn mistakes() {
    let home = Home::without_kvm();
    network(&home, &["net"]);
    network(&home, &["--subnet", "10.0.2.0/24", "user-like"]);
    let image = home.busybox();
    let refused = |networks: &[&str], said: &str| {
        let mut line = vec!["create"];
        networks
            .iter()
            .for_each(|name| line.extend(["--network", name]));
        line.extend([image.as_str(), "true"]);
        home.walnut(line).run().exited(125).complains(&[said]);
    };
    refused(
        &["net", "none"],
        "--network none goes with no other network",
    );
    refused(
        &["tap:t0", "net"],
        "--network tap:t0 goes with no other network",
    );
    refused(&["net", "net"], "network net is given twice");
    refused(&["user", "default"], "network default is given twice");
    refused(&["net", "nosuch"], "network nosuch not found");
    refused(&["name=net,mtu=9"], "invalid --network name=net,mtu=9");
    refused(
        &["net", "name=user,alias=x"],
        "only for containers in user defined networks",
    );
    let many: Vec<String> = (0..9).map(|n| format!("n{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    many.iter().for_each(|name| network(&home, &[name]));
    refused(&many, "a container is on 8 networks at most");
}
