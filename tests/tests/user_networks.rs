// SPDX-License-Identifier: Apache-2.0
//! `walnut network`: networks of the user's own, without root. All traffic stays on the loopback.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::io::Write;
use std::net::TcpListener;

use walnut_tests::harness::Home;
use walnut_tests::harness::network::{
    ECHO, HEAR, PATIENCE, free_ports, home, passts, switches, wait_for_end,
};

fn wait_for_port_80(home: &Home, name: &str) {
    let script = "until netstat -ltn | grep -q :80; do :; done";
    home.walnut(["exec", name, "sh", "-c", script])
        .run()
        .succeeded();
}

/// What `script` says in a new container.
fn run(home: &Home, flags: &[&str], script: &str) -> String {
    let image = home.busybox();
    home.says(&[&["run", "--rm"], flags, &[&image, "sh", "-c", script]].concat())
}

#[test]
fn names_and_addresses() {
    let Some(home) = home() else { return };
    let id = home.says(&["network", "create", "--label", "a=b", "back"]);
    assert_eq!(id.len(), 64);
    let flags = [
        "--network",
        "back",
        "--network-alias",
        "store",
        "--ip",
        "10.89.0.77",
    ];
    home.background_with("db", &flags, ECHO);
    wait_for_port_80(&home, "db");
    let script = "for name in db store db.back 10.89.0.77; do echo to $name | nc -w 20 $name 80; done; \
                  hostname -i; cat /etc/resolv.conf | head -1; ip route | head -1; nslookup 10.89.0.77 | grep name; \
                  ping -c 1 -W 10 10.89.0.1 | grep -c '1 packets received'";
    let said = run(&home, &["--network", "back"], script);
    let expected = "to db\nto store\nto db.back\nto 10.89.0.77\n10.89.0.2\nnameserver 10.89.0.1\n\
                    default via 10.89.0.1 dev eth0 \n77.0.89.10.in-addr.arpa\tname = db.back\n1";
    assert_eq!(said, expected);
    // Both ways, as much at once as the sockets hold: this nc does not read while it can't write.
    let script = "head -c 60000 /dev/urandom >f; for i in $(seq 40); do \
                  nc -w 60 db 80 <f | cmp - f || echo differs; done; echo same";
    assert_eq!(run(&home, &["--network", "back"], script), "same");
    // Shown.
    let shown = "{{.NetworkSettings.Networks.back.IPAddress}} {{.HostConfig.NetworkMode}}";
    assert_eq!(
        home.says(&["inspect", "-f", shown, "db"]),
        "10.89.0.77 back"
    );
    let shown = "{{with .NetworkSettings.Networks.back}}{{.NetworkID}} {{json .DNSNames}} \
                 {{len .EndpointID}} {{.IPAddress}}{{end}} {{json .NetworkSettings.Ports}}";
    let short = home.says(&["ps", "-q", "--filter", "name=db"]);
    let names = format!("{id} [\"db\",\"store\",\"{short}\"]");
    let settings = || home.says(&["inspect", "-f", shown, "db"]);
    assert_eq!(settings(), format!("{names} 64 10.89.0.77 {{}}"));
    let shown = "{{range .Containers}}{{.Name}} {{.IPv4Address}}{{end}} {{json .IPAM.Config}}";
    assert_eq!(
        home.says(&["network", "inspect", "-f", shown, "back"]),
        "db 10.89.0.77/24 [{\"Gateway\":\"10.89.0.1\",\"Subnet\":\"10.89.0.0/24\"}]"
    );
    let listed = home.says(&["network", "ls"]);
    let lines: Vec<Vec<&str>> = listed
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(lines[0], ["NETWORK", "ID", "NAME", "DRIVER", "SCOPE"]);
    assert_eq!(lines[1], [&id[..12], "back", "switch", "local"]);
    assert_eq!(lines.len(), 5);
    // In use.
    let image = home.busybox();
    home.walnut(["network", "rm", "back"])
        .run()
        .exited(1)
        .complains(&["network back has active endpoints (name:\"db\" id:"]);
    home.walnut([
        "run",
        "--rm",
        "--network",
        "back",
        "--ip",
        "10.89.0.77",
        &image,
        "true",
    ])
    .run()
    .exited(125)
    .complains(&["Address already in use: 10.89.0.77 on the network back"]);
    let switches = switches(home.path());
    assert_eq!(switches.len(), 1);
    let status = format!("/proc/{}/status", switches[0].as_raw_pid());
    let status = std::fs::read_to_string(status).unwrap();
    for held in ["NoNewPrivs:\t1", "Seccomp:\t2", "CapEff:\t0000000000000000"] {
        assert!(status.contains(held), "{held}\n{status}");
    }
    // It will be there again.
    home.walnut(["stop", "-t", "0", "db"]).run().succeeded();
    assert_eq!(settings(), format!("{names} 0  {{}}"));
    home.remove_all();
    assert_eq!(home.says(&["network", "rm", "back"]), "back");
    // Without a container there is no switch, a moment later.
    wait_for_end(&switches);
    let left = std::fs::read_dir(home.state().join("net")).unwrap();
    assert_eq!(left.count(), 0);
    home.assert_clean();
}

/// Made all at once; some of them in use.
#[test]
fn many_of_them() {
    let Some(home) = home() else { return };
    let names: Vec<String> = (0..12).map(|n| format!("n{n}")).collect();
    std::thread::scope(|scope| {
        for name in &names {
            scope.spawn(|| {
                let line = ["network", "create", "--internal", name];
                home.walnut(line).run().succeeded();
            });
        }
    });
    let shown = "{{range .IPAM.Config}}{{.Subnet}}{{end}}";
    let line = [
        &["network", "inspect", "-f", shown][..],
        &names.iter().map(String::as_str).collect::<Vec<_>>(),
    ]
    .concat();
    let mut ranges: Vec<String> = home.says(&line).lines().map(str::to_owned).collect();
    ranges.sort_unstable();
    let mut expected: Vec<String> = (0..12).map(|n| format!("10.89.{n}.0/24")).collect();
    expected.sort_unstable();
    assert_eq!(ranges, expected);
    let used = &names[..3];
    for name in used {
        home.background_with(&format!("on-{name}"), &["--network", name], ECHO);
    }
    for name in used {
        wait_for_port_80(&home, &format!("on-{name}"));
    }
    let flags: Vec<&str> = used.iter().flat_map(|name| ["--network", name]).collect();
    let script = "for n in 0 1 2; do echo to $n | nc -w 20 on-n$n 80; done";
    assert_eq!(run(&home, &flags, script), "to 0\nto 1\nto 2");
    let switches = switches(home.path());
    assert_eq!(switches.len(), 3);
    home.remove_all();
    wait_for_end(&switches);
    assert!(home.says(&["network", "prune", "-f"]).ends_with("\nn9"));
    home.assert_clean();
}

#[test]
fn networks_are_isolated() {
    let Some(home) = home() else { return };
    for name in ["one", "two"] {
        home.walnut(["network", "create", name]).run().succeeded();
    }
    home.walnut([
        "network",
        "create",
        "--internal",
        "--subnet",
        "10.7.0.0/24",
        "inside",
    ])
    .run()
    .succeeded();
    home.background_with("aa", &["--network", "one"], ECHO);
    home.background_with("bb", &["--network", "inside"], ECHO);
    wait_for_port_80(&home, "aa");
    wait_for_port_80(&home, "bb");
    // Neither by name nor by address, whatever routes it makes.
    let script = "nc -w 3 aa 80 </dev/null 2>/dev/null && echo reached; nc -w 3 10.89.0.2 80 </dev/null && echo reached; \
                  ip addr add 10.89.0.99/24 dev eth0; ip neigh add 10.89.0.2 lladdr 02:42:0a:59:00:02 dev eth0; \
                  nc -w 3 10.89.0.2 80 </dev/null && echo reached; echo done";
    let said = run(&home, &["--privileged", "--network", "two"], script);
    assert_eq!(said, "done");
    // Inside, there are names, and no way out.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let script = format!(
        "echo hello | nc -w 20 bb 80; ip route | grep -c default; ip route add default via 10.7.0.1; \
         nc -w 3 192.0.2.1 9 </dev/null || echo no way; nc -w 3 10.7.0.1 {port} </dev/null || echo no way"
    );
    let flags = ["--privileged", "--network", "inside"];
    assert_eq!(run(&home, &flags, &script), "hello\n0\nno way\nno way");
    assert!(listener.accept().is_err());
    let image = home.busybox();
    home.walnut([
        "run",
        "--rm",
        "-p",
        "80",
        "--network",
        "inside",
        &image,
        "true",
    ])
    .run()
    .exited(125)
    .complains(&["port publishing and the network inside, which is internal"]);
    let line = ["run", "--rm", "-p", "[::1]:0:80", "--network", "two"];
    home.walnut([&line[..], &[&image, "true"]].concat())
        .run()
        .exited(125)
        .complains(&["the network two publishes on IPv4 addresses of the host only, not on ::1"]);
    home.remove_all();
    let pruned = home.says(&["network", "prune", "-f"]);
    assert_eq!(pruned, "Deleted Networks:\ninside\none\ntwo");
}

#[test]
fn the_way_out_and_in() {
    let Some(home) = home() else { return };
    home.walnut(["network", "create", "net"]).run().succeeded();
    let [port] = free_ports();
    let publish = format!("{port}:80");
    home.background_with("web", &["--network", "net", "-p", &publish], ECHO);
    wait_for_port_80(&home, "web");
    assert_eq!(
        home.says(&["port", "web"]),
        format!("80/tcp -> 127.0.0.1:{port}")
    );
    // In, from the host.
    let text: Vec<u8> = (0..=255).cycle().take(1 << 20).collect();
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut reader = stream.try_clone().unwrap();
    let mut answer = vec![0; text.len()];
    std::thread::scope(|scope| {
        scope.spawn(|| stream.write_all(&text).unwrap());
        std::io::Read::read_exact(&mut reader, &mut answer).unwrap();
    });
    assert!(answer == text);
    // Out, where it is asked for; beside a neighbour's connection.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap().port();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"from outside\n").unwrap();
        // Until the other side has had enough.
        let _ = std::io::Read::read(&mut stream, &mut [0]);
    });
    let script = format!("{HEAR} echo hello | nc -w 20 web 80; hear host.walnut.internal {at}");
    let flags = [
        "--network",
        "net",
        "--add-host",
        "host.walnut.internal:host-gateway",
    ];
    assert_eq!(run(&home, &flags, &script), "hello\nfrom outside");
    server.join().unwrap();
    // All of it goes with the supervisor, however that ends.
    let passts = passts(&format!("127.0.0.1/{port}:80"));
    assert_eq!(passts.len(), 1);
    let pid = home.says(&["inspect", "-f", "{{.State.Pid}}", "web"]);
    let pid = rustix::process::Pid::from_raw(pid.parse().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    wait_for_end(&passts);
    wait_for_end(&switches(home.path()));
    home.remove_all();
}

/// The one that there is.
fn kill_the_switch(home: &Home) {
    let switches = switches(home.path());
    assert_eq!(switches.len(), 1);
    rustix::process::kill_process(switches[0], rustix::process::Signal::KILL).unwrap();
    wait_for_end(&switches);
}

#[test]
fn a_switch_that_was_killed_takes_the_links_down() {
    let Some(home) = home() else { return };
    home.walnut(["network", "create", "net"]).run().succeeded();
    home.background_with("web", &["--network", "net"], ECHO);
    wait_for_port_80(&home, "web");
    kill_the_switch(&home);
    let script = "while [ $(cat /sys/class/net/eth0/carrier) = 1 ]; do :; done; echo down";
    assert_eq!(home.says(&["exec", "web", "sh", "-c", script]), "down");
    // The next one brings another up, and a restart joins it.
    home.background_with("next", &["--network", "net"], ECHO);
    home.walnut(["restart", "-t", "0", "web"]).run().succeeded();
    wait_for_port_80(&home, "web");
    let script = "echo hello | nc -w 20 web 80";
    assert_eq!(home.says(&["exec", "next", "sh", "-c", script]), "hello");
    // What it leaves goes with the network, where no other has come; that of a container's own with it.
    kill_the_switch(&home);
    home.remove_all();
    assert_eq!(home.says(&["network", "rm", "net"]), "net");
    home.background_with("alone", &["--egress", "deny"], "sleep 1000");
    kill_the_switch(&home);
    let supervisor = home.supervisor("alone");
    home.remove_all();
    // By its supervisor, at its end.
    wait_for_end(&[supervisor]);
    let left = std::fs::read_dir(home.state().join("net")).unwrap();
    assert_eq!(left.count(), 0);
}

#[test]
fn connect_and_disconnect() {
    let Some(home) = home() else { return };
    home.walnut(["network", "create", "net"]).run().succeeded();
    let image = home.busybox();
    let line = ["create", "--name", "web", "--network", "none", &image];
    home.walnut([&line[..], &["sh", "-c", ECHO]].concat())
        .run()
        .succeeded();
    home.walnut(["network", "connect", "--alias", "x", "net", "web"])
        .run()
        .succeeded();
    let again = ["network", "connect", "net", "web"];
    home.walnut(again)
        .run()
        .exited(1)
        .complains(&["endpoint with name web already exists in network net"]);
    home.walnut(["start", "web"]).run().succeeded();
    wait_for_port_80(&home, "web");
    let said = run(&home, &["--network", "net"], "echo hello | nc -w 20 x 80");
    assert_eq!(said, "hello");
    let leave = ["network", "disconnect", "net", "web"];
    home.walnut(["kill", "web"]).run().succeeded();
    home.walnut(["wait", "web"]).run().succeeded();
    home.walnut(leave).run().succeeded();
    home.walnut(leave)
        .run()
        .exited(1)
        .complains(&["is not connected to network net"]);
    let mode = ["inspect", "-f", "{{.HostConfig.NetworkMode}}", "web"];
    assert_eq!(home.says(&mode), "none");
    home.remove_all();
}

#[test]
fn a_new_name_is_found_at_once() {
    let Some(home) = home() else { return };
    home.walnut(["network", "create", "--internal", "net"])
        .run()
        .succeeded();
    let flags = ["--network", "net", "--network-alias", "store"];
    home.background_with("old", &flags, ECHO);
    wait_for_port_80(&home, "old");
    home.walnut(["rename", "old", "new"]).run().succeeded();
    let script = "for name in new store; do echo to $name | nc -w 20 $name 80; done; \
                  nslookup old >/dev/null || echo no old";
    assert_eq!(
        run(&home, &["--network", "net"], script),
        "to new\nto store\nno old"
    );
    home.remove_all();
}

#[test]
fn mistakes() {
    let home = Home::without_kvm();
    let refused = |line: &[&str], code, said: &str| {
        home.walnut(line).run().exited(code).complains(&[said]);
    };
    home.walnut(["network", "create", "net"]).run().succeeded();
    let image = home.busybox();
    refused(
        &["network", "create", "net"],
        1,
        "network with name net already exists",
    );
    refused(
        &["network", "create", "bridge"],
        1,
        "operation is not permitted on predefined bridge network",
    );
    refused(
        &["network", "rm", "none"],
        1,
        "none is a pre-defined network and cannot be removed",
    );
    refused(&["network", "rm", "nosuch"], 1, "network nosuch not found");
    refused(
        &["network", "inspect", "nosuch"],
        1,
        "network nosuch not found",
    );
    refused(
        &["network", "create", "--subnet", "10.89.0.0/16", "other"],
        1,
        "Pool overlaps with other one on this address space",
    );
    refused(
        &["network", "create", "-d", "macvlan", "x"],
        1,
        "plugin \"macvlan\" not found",
    );
    refused(
        &["network", "connect", "net", "nosuch"],
        1,
        "No such container: nosuch",
    );
    refused(
        &["create", "--network", "nosuch", &image, "true"],
        125,
        "network nosuch not found",
    );
    refused(
        &["create", "--network-alias", "x", &image, "true"],
        125,
        "only for containers in user defined networks",
    );
    refused(
        &["create", "--egress", "10.0.0", &image, "true"],
        125,
        "invalid --egress \"10.0.0\"",
    );
    refused(
        &[
            "create",
            "--network",
            "none",
            "--egress",
            "deny",
            &image,
            "true",
        ],
        125,
        "conflicting options: --egress and --network none: there is no network",
    );
}

/// Of one that does not run: from one network to another, by way of none.
#[test]
fn one_network_after_another() {
    let home = Home::without_kvm();
    let refused = |line: &[&str], said: &str| {
        home.walnut(line).run().exited(1).complains(&[said]);
    };
    home.walnut(["network", "create", "net"]).run().succeeded();
    let image = home.busybox();
    let name = "one";
    home.walnut(["create", "--name", name, &image, "true"])
        .run()
        .succeeded();
    for (line, said) in [
        (["disconnect", "user"], Ok("none")),
        (
            ["disconnect", "user"],
            Err("is not connected to network user"),
        ),
        (
            ["connect", "none"],
            Err("cannot be connected to network none"),
        ),
        (["connect", "bridge"], Ok("bridge")),
        (["connect", "net"], Ok("bridge")),
        (["disconnect", "bridge"], Ok("net")),
        (["connect", "user"], Ok("net")),
        (
            ["connect", "net"],
            Err("endpoint with name one already exists in network net"),
        ),
        (["disconnect", "net"], Ok("user")),
        (["disconnect", "user"], Ok("none")),
    ] {
        let line = ["network", line[0], line[1], name];
        match said {
            Err(said) => refused(&line, said),
            Ok(mode) => {
                home.walnut(line).run().succeeded();
                let shown = ["inspect", "-f", "{{.HostConfig.NetworkMode}}", name];
                assert_eq!(home.says(&shown), mode, "{line:?}");
            }
        }
    }
    let with_alias = ["network", "connect", "--alias", "x", "user", name];
    refused(&with_alias, "only for containers in user defined networks");
}
