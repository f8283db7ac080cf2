// SPDX-License-Identifier: Apache-2.0
//! All there is on a machine: `events`, `info`, `version`, `system df` and `system prune`.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use walnut_tests::harness::{Home, skip};

const NO_KVM: &str = "no KVM that runs a stock kernel";

#[test]
fn what_happens_is_told() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    let image = home.busybox();
    let format = "{{.Type}} {{.Action}} {{index .Actor.Attributes \"name\"}}";
    let past = |filter: &str| {
        let line = [
            "events", "--since", "1h", "--until", "0s", "--filter", filter, "--format", format,
        ];
        home.says(&line)
    };
    assert_eq!(past("type=container"), "");
    let mut follower = home
        .walnut(["events", "--filter", "event=die", "--format", "json"])
        .into_command();
    let mut follower = follower.stdout(Stdio::piped()).spawn().unwrap();
    home.background_with("web", &["-v", "data:/d", "-l", "a=b"], "exec sleep 1000");
    home.walnut(["rename", "web", "db"]).run().succeeded();
    home.walnut(["pause", "db"]).run().succeeded();
    home.walnut(["unpause", "db"]).run().succeeded();
    home.walnut(["exec", "db", "sh", "-c", "exit 3"])
        .run()
        .exited(3);
    home.walnut(["kill", "db"]).run().succeeded();
    // A follower hears of it at once.
    let mut line = String::new();
    let mut told = BufReader::new(follower.stdout.take().unwrap());
    told.read_line(&mut line).unwrap();
    assert!(line.contains("\"exitCode\":\"137\""), "{line}");
    assert!(line.contains("\"a\":\"b\""), "{line}");
    follower.kill().unwrap();
    follower.wait().unwrap();
    home.walnut(["rm", "db"]).run().succeeded();
    home.walnut(["run", "--rm", "--name", "brief", &image, "true"])
        .run()
        .succeeded();
    let all = past("type=container");
    let wanted = "container create web\ncontainer start web\ncontainer rename db\n\
                  container pause db\ncontainer unpause db\n\
                  container exec_create: sh -c exit 3 db\ncontainer exec_start: sh -c exit 3 db\n\
                  container exec_die db\ncontainer kill db\n\
                  container die db\ncontainer destroy db\n";
    assert!(all.starts_with(wanted), "{all}");
    let brief = past("container=brief");
    let kinds: Vec<&str> = brief
        .lines()
        .map(|l| l.split(' ').nth(1).unwrap())
        .collect();
    assert_eq!(kinds, ["create", "start", "die", "destroy"]);
    home.walnut(["volume", "rm", "data"]).run().succeeded();
    let volumes = home.says(&[
        "events",
        "--since",
        "1h",
        "--until",
        "0s",
        "--filter",
        "volume=data",
        "--format",
        "{{.Action}}",
    ]);
    assert_eq!(volumes, "create\nmount\nunmount\ndestroy");
    let died = "{{.Actor.Attributes.exitCode}} {{len .Actor.Attributes.execID}}";
    let line = [
        "events",
        "--since",
        "1h",
        "--until",
        "0s",
        "--filter",
        "event=exec_die",
    ];
    assert_eq!(
        home.says(&[&line[..], &["--format", died]].concat()),
        "3 64"
    );
    home.walnut(["events", "--filter", "nosuch=1"])
        .run()
        .exited(1)
        .complains(&["invalid filter"]);
    home.assert_clean();
}

#[test]
fn ends_and_new_starts_are_told() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    home.background("web", "exec sleep 1000");
    let restart = ["restart", "-t", "0", "web"];
    home.walnut(restart).run().succeeded();
    let stop = ["stop", "-s", "KILL", "web"];
    home.walnut(stop).run().succeeded();
    home.walnut(["start", "web"]).run().succeeded();
    home.walnut(["rm", "-f", "web"]).run().succeeded();
    let format = "{{.Action}} {{.Actor.Attributes.signal}}";
    let past = ["events", "--since", "1h", "--until", "0s"];
    let which = ["--filter", "type=container", "--format", format];
    let told = home.says(&[&past[..], &which].concat());
    let told: Vec<&str> = told
        .lines()
        .map(|line| line.trim_end_matches(" <no value>"))
        .collect();
    let wanted = [
        "create", "start", "kill 15", "die", "stop", "start", "restart", "kill 9", "die", "stop",
        "start", "die", "destroy",
    ];
    assert_eq!(told, wanted);
    home.assert_clean();
}

#[test]
fn what_happens_to_images_is_told() {
    // No machine is started.
    let home = Home::without_kvm();
    let archive = walnut_tests::place::test_images().join("busybox.tar");
    let archive = archive.to_str().unwrap();
    let load = ["load", "-q", "-i", archive];
    let name = home.says(&load).replace("Loaded image: ", "");
    home.walnut(["tag", &name, "box:one"]).run().succeeded();
    let saved = home.path().join("saved.tar");
    home.walnut(["save", "-o", saved.to_str().unwrap(), "box:one"])
        .run()
        .succeeded();
    home.walnut(["rmi", &name]).run().succeeded();
    home.walnut(["image", "prune", "-af"]).run().succeeded();
    let format = "{{.Type}} {{.Action}} {{.Actor.Attributes.name}} {{len .Actor.ID}}";
    let line = [
        "events", "--since", "1h", "--until", "0s", "--format", format,
    ];
    let told = home.says(&line);
    let id = told
        .lines()
        .last()
        .unwrap()
        .split(' ')
        .nth(2)
        .unwrap()
        .to_owned();
    assert_eq!(id.len(), 71, "{told}");
    let wanted = [
        ("load", name.as_str()),
        ("tag", "box:one"),
        ("save", &id),
        ("untag", &name),
        ("untag", "box:one"),
        ("delete", &id),
    ];
    let wanted = wanted.map(|(action, name)| format!("image {action} {name} 71"));
    assert_eq!(told.lines().collect::<Vec<_>>(), wanted, "{told}");
    let only = home.says(&[&line[..], &["--filter", "image=box:one"]].concat());
    assert_eq!(only.lines().count(), 2, "{only}");
}

#[test]
fn what_there_is_and_what_of_it_is_of_no_use() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    home.background("web", "exec sleep 1000");
    home.walnut([
        "create",
        "--name",
        "idle",
        "-v",
        "/anonymous",
        &home.busybox(),
        "true",
    ])
    .run()
    .succeeded();
    home.walnut(["volume", "create", "named"]).run().succeeded();
    let rows = home.says(&[
        "system",
        "df",
        "--format",
        "{{.Type}} {{.TotalCount}} {{.Active}}",
    ]);
    assert_eq!(
        rows,
        "Images 1 1\nContainers 2 1\nLocal Volumes 2 1\nBuild Cache 0 0"
    );
    let table = home.says(&["system", "df"]);
    assert!(
        table.starts_with("TYPE            TOTAL     ACTIVE    SIZE"),
        "{table}"
    );
    let each = home.says(&["system", "df", "-v"]);
    let heads: Vec<&str> = each.lines().filter(|l| l.contains("space usage")).collect();
    let wanted = [
        "Images space usage:",
        "Containers space usage:",
        "Local Volumes space usage:",
    ];
    assert_eq!(heads, wanted, "{each}");
    assert!(
        each.contains("\nVOLUME NAME") && each.contains("\nnamed "),
        "{each}"
    );
    assert!(each.ends_with("Build cache usage: 0B"), "{each}");
    let links = "{{range .Volumes}}{{if eq .Name \"named\"}}{{.Links}}{{end}}{{end}} {{(index .Images 0).Containers}}";
    assert_eq!(home.says(&["system", "df", "-v", "--format", links]), "0 2");
    let counts = "{{.Containers}} {{.ContainersRunning}} {{.ContainersStopped}} {{.Images}}";
    assert_eq!(home.says(&["info", "-f", counts]), "2 1 1 1");
    assert!(home.says(&["info"]).contains("Virtualization: kvm"));
    assert!(home.says(&["version"]).starts_with("Walnut:\n Version:"));
    let versions = home.says(&["version", "-f", "{{.Client.Version}} {{.Server.Version}}"]);
    let (client, server) = versions.split_once(' ').unwrap();
    assert_eq!(client, server);
    let pruned = home.says(&["system", "prune", "-f", "--volumes"]);
    assert!(pruned.starts_with("Deleted Containers:\n"), "{pruned}");
    assert!(pruned.contains("Deleted Volumes:\n"), "{pruned}");
    assert!(pruned.contains("Total reclaimed space: "), "{pruned}");
    assert_eq!(home.says(&["ps", "-a", "--format", "{{.Names}}"]), "web");
    assert_eq!(home.says(&["volume", "ls", "-q"]), "named");
    home.remove_all();
    home.assert_clean();
}
