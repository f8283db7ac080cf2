// SPDX-License-Identifier: Apache-2.0
//! What Docker's users type without a thought: the lists and what picks from them, images by their
//! verbs, policies, other keys to leave by.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::fs;
use std::io::BufRead as _;
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};
use walnut_tests::harness::process::spawn_saying;
use walnut_tests::harness::{Home, Program, skip};
use walnut_tests::place;

const NO_KVM: &str = "no KVM that runs a stock kernel";

fn create(home: &Home, name: &str, flags: &[&str]) -> String {
    let image = home.busybox();
    let command = [&image, "echo", "several", "words", "of", "it"];
    home.says(&[&["create", "--name", name], flags, &command].concat())
}

/// Loads the image that all tests run, as `box:one`.
fn load(home: &Home) {
    let archive = place::test_images().join("busybox.tar");
    let said = home.says(&["load", "-q", "-i", archive.to_str().unwrap()]);
    let name = said.strip_prefix("Loaded image: ").unwrap();
    home.walnut(["tag", name, "box:one"]).run().succeeded();
    home.walnut(["rmi", name]).run().succeeded();
}

#[test]
fn listed_and_picked_from() {
    // No machine is started.
    let home = Home::without_kvm();
    let web = create(&home, "web", &["-l", "tier=front", "-l", "x"]);
    let db = create(
        &home,
        "db",
        &["-l", "tier=back", "-l", "x", "--expose", "5432"],
    );
    let third = create(&home, "third", &[]);
    let picked = |flags: &[&str]| {
        let line = ["ps", "-a", "--format", "{{.Names}}"];
        home.says(&[&line[..], flags].concat()).replace('\n', " ")
    };
    for (flags, names) in [
        (&[][..], "third db web"),
        (&["-n", "2"], "third db"),
        (&["-l"], "third"),
        (&["--filter", "label=x"], "db web"),
        (
            &["--filter", "label=x", "--filter", "label=tier=back"],
            "db",
        ),
        (&["--filter", "name=web", "--filter", "name=db"], "db web"),
        (&["--filter", "expose=5432"], "db"),
        (&["--filter", "since=web"], "third db"),
        (&["--filter", "before=db"], "web"),
        (&["--filter", "status=exited"], ""),
        (&["--filter", "status=created", "-n", "1"], "third"),
    ] {
        assert_eq!(picked(flags), names, "{flags:?}");
    }
    assert_eq!(home.says(&["ps"]).lines().count(), 1, "none runs");
    let ids = home.says(&["ps", "-aq"]);
    let short: Vec<&str> = [&third, &db, &web].map(|id| &id[..12]).to_vec();
    assert_eq!(ids.lines().collect::<Vec<_>>(), short);
    assert_eq!(home.says(&["ps", "-lq", "--no-trunc"]), third);
    let table = ["ps", "-l", "--format", "table {{.Names}}\t{{.Command}}"];
    let cut = "NAMES     COMMAND\nthird     \"echo several words …\"";
    assert_eq!(home.says(&table), cut);
    let whole = home.says(&["ps", "-l", "--no-trunc", "--format", "{{.Command}}"]);
    assert_eq!(whole, "\"echo several words of it\"");
    let json = home.says(&["ps", "-l", "--format", "json"]);
    assert!(json.contains("\"Names\":\"third\""), "{json}");
    let label = home.says(&[
        "ps",
        "-a",
        "--filter",
        "name=db",
        "--format",
        "{{.Label \"tier\"}}",
    ]);
    assert_eq!(label, "back");
    home.walnut(["ps", "--filter", "nosuch=1"])
        .run()
        .exited(1)
        .complains(&["invalid filter 'nosuch'"]);
    // `ls` and `rm` below `container` are the same; a switch takes a word.
    home.walnut(["container", "rm", "--force=true", "web", "third"])
        .run()
        .succeeded()
        .says("web\nthird\n");
    let left = ["container", "ls", "--all=true", "--format", "{{.Names}}"];
    assert_eq!(home.says(&left), "db");
    let prune = ["container", "prune", "-f", "--filter", "label=tier=front"];
    assert_eq!(home.says(&prune), "Total reclaimed space: 0B");
    assert_eq!(home.says(&left), "db");
}

#[test]
fn images_by_their_verbs() {
    // No machine is started.
    let home = Home::without_kvm();
    load(&home);
    home.walnut(["image", "tag", "box:one", "example.org/me/other"])
        .run()
        .succeeded();
    let format = ["--format", "{{.Repository}}:{{.Tag}}"];
    let names = |line: &[&str]| {
        let said = home.says(&[line, &format].concat());
        let mut names: Vec<String> = said.lines().map(str::to_owned).collect();
        names.sort();
        names.join(" ")
    };
    assert_eq!(names(&["images"]), "box:one example.org/me/other:latest");
    assert_eq!(names(&["image", "ls", "box"]), "box:one");
    let pattern = ["images", "--filter", "reference=example.org/*/*"];
    assert_eq!(names(&pattern), "example.org/me/other:latest");
    assert_eq!(home.says(&["images", "-q"]).len(), 12, "it is one image");
    let id = home.says(&["images", "-q", "--no-trunc"]);
    let inspect = [
        "image",
        "inspect",
        "-f",
        "{{.Id}} {{.Os}} {{len .RepoTags}}",
    ];
    let told = home.says(&[&inspect[..], &["box:one"]].concat());
    assert_eq!(told, format!("{id} linux 2"));
    let kind = ["inspect", "--type", "image", "-f", "{{.Id}}", "box:one"];
    assert_eq!(home.says(&kind), id);
    home.walnut(["inspect", "--type", "container", "box:one"])
        .run()
        .exited(1)
        .complains(&["No such container: box:one"]);

    // Out and in again, as Docker does it: by a pipe.
    let saved = home.walnut(["save", "box:one"]).run();
    saved.succeeded();
    let ids = home.says(&["image", "rm", "box:one", "example.org/me/other"]);
    assert!(ids.ends_with(&format!("Deleted: {id}")), "{ids}");
    assert_eq!(home.says(&["images", "-q"]), "");
    home.walnut(["load"])
        .stdin(saved.stdout)
        .run()
        .succeeded()
        .says("Loaded image: box:one\n");

    // An image of files; one whose name is taken away stays until it is pruned.
    let files = home.path().join("files");
    fs::create_dir(&files).unwrap();
    let mut made = Vec::new();
    for text in ["first", "second"] {
        fs::write(files.join("file"), text).unwrap();
        let mut tar = Command::new("tar");
        let tar = tar
            .arg("c")
            .arg("-C")
            .arg(&files)
            .arg(".")
            .output()
            .unwrap();
        let change = "CMD [\"cat\", \"/file\"]";
        let line = ["import", "-c", change, "-m", text, "-", "made:1"];
        let done = home.walnut(line).stdin(tar.stdout).run();
        made.push(
            String::from_utf8_lossy(&done.succeeded().stdout)
                .trim_end()
                .to_owned(),
        );
    }
    let history = home.says(&["history", "--format", "{{.Comment}}", "made:1"]);
    assert_eq!(history, "second");
    let command = ["image", "inspect", "-f", "{{json .Config.Cmd}}", "made:1"];
    assert_eq!(home.says(&command), "[\"cat\",\"/file\"]");
    let dangling = ["images", "-q", "--no-trunc", "--filter", "dangling=true"];
    assert_eq!(home.says(&dangling), made[0]);
    let pruned = home.says(&["image", "prune", "-f"]);
    let wanted = format!(
        "Deleted Images:\ndeleted: {}\n\nTotal reclaimed space: ",
        made[0]
    );
    assert!(pruned.starts_with(&wanted), "{pruned}");

    // One that a container has.
    home.walnut(["create", "--name", "user", "made:1"])
        .run()
        .succeeded();
    home.walnut(["rmi", "made:1"])
        .run()
        .exited(1)
        .complains(&["unable to remove repository reference \"made:1\" (must force) - container"]);
    home.walnut(["image", "prune", "-af"]).run().succeeded();
    assert_eq!(names(&["images"]), "made:1");
    home.walnut(["rm", "user"]).run().succeeded();
    home.walnut(["rmi", "made:1"]).run().succeeded();
    for verb in ["rmi", "history", "save"] {
        home.walnut([verb, "made:1"])
            .run()
            .exited(1)
            .complains(&["No such image: made:1"]);
    }
    home.walnut(["tag", "made:1", "other"])
        .run()
        .exited(1)
        .complains(&["No such image: made:1"]);
}

#[test]
fn brought_up_again_whatever_ended_it() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    // The first time it ends by itself.
    let script = "test -e /once || { touch /once; exit 0; }; echo again; exec sleep 1000";
    for policy in ["always", "unless-stopped"] {
        home.background_with(policy, &["--restart", policy], script);
    }
    for name in ["always", "unless-stopped"] {
        assert_eq!(home.first_line(name), "again\n");
        let count = home.says(&["inspect", "-f", "{{.RestartCount}}", name]);
        assert_eq!(count, "1");
        // Who stops it means it.
        home.walnut(["stop", "-t", "0", name]).run().succeeded();
        let state = home.says(&["inspect", "-f", "{{.State.Status}}", name]);
        assert_eq!(state, "exited");
    }
    home.remove_all();
    home.assert_clean();
}

#[test]
fn the_container_outlives_its_command() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    let image = home.busybox();
    let script = "trap 'echo got' TERM; echo up; while :; do sleep 1000 & wait; done";
    let line = [
        "run",
        "--sig-proxy=false",
        "--name",
        "web",
        &image,
        "sh",
        "-c",
        script,
    ];
    let (mut child, _stdout) = spawn_saying(home.walnut(line).into_command(), "up");
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(143));
    // It did not hear of it.
    assert_eq!(home.says(&["ps", "--format", "{{.Names}}"]), "web");
    assert_eq!(home.says(&["logs", "web"]), "up");
    home.remove_all();
    home.assert_clean();
}

#[test]
fn the_container_outlives_its_shell() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    // All that the shell has started goes with it.
    let image = home.busybox();
    let walnut = home.walnut(["run", "-d", "--name", "web", &image, "sleep", "1000"]);
    let line = format!("{:?}; kill -KILL 0", walnut.into_command());
    let _ = Program::new("setsid")
        .args(["--wait", "sh", "-c", &line])
        .run();
    assert_eq!(home.says(&["ps", "--format", "{{.Names}}"]), "web");
    assert_eq!(home.says(&["exec", "web", "echo", "fine"]), "fine");
    home.remove_all();
    home.assert_clean();
}

#[test]
fn started_once_more() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    home.background_with("echo", &["-i"], "read line; echo got $line; exit 5");
    // One that runs is started already, and with -a its user is before it.
    home.walnut(["start", "echo"]).run().succeeded();
    let done = home.walnut(["start", "-ai", "echo"]).stdin("hello\n").run();
    done.exited(5).says("got hello\n");
    home.remove_all();
    home.assert_clean();
}

#[test]
fn looked_at_without_a_word() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    let flags = ["-i", "--annotation", "org.example.team=net"];
    let script = "while echo up; do read -t 1 line && break; done; echo got $line";
    home.background_with("echo", &flags, script);
    let annotations = "{{index .HostConfig.Annotations \"org.example.team\"}}";
    assert_eq!(home.says(&["inspect", "-f", annotations, "echo"]), "net");
    let looker = home.walnut(["attach", "--no-stdin", "echo"]).into_command();
    let line = format!("echo not this | {looker:?}");
    let looker = Program::new("sh").args(["-c", &line]).into_command();
    let (mut child, stdout) = spawn_saying(looker, "up");
    let done = home.walnut(["attach", "echo"]).stdin("this\n").run();
    done.succeeded();
    let seen: Vec<String> = stdout.lines().map(Result::unwrap).collect();
    assert_eq!(seen.last().unwrap(), "got this");
    assert!(child.wait().unwrap().success());
    home.remove_all();
    home.assert_clean();
}

#[test]
fn waited_for_once_more() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    let flags = ["--restart", "always"];
    home.background_with("again", &flags, "sleep 1; exit 6");
    let next = ["wait", "--condition", "next-exit", "again"];
    assert_eq!(home.says(&next), "6");
    assert_eq!(home.says(&next), "6");
    home.remove_all();
    home.assert_clean();
}

#[test]
fn who_has_seen_enough_may_go() {
    // No machine is started.
    let home = Home::without_kvm();
    load(&home);
    for line in [
        &["save", "box:one"][..],
        &["completion", "bash"],
        &["run", "--help"],
    ] {
        let walnut = home.walnut(line).into_command();
        // Nobody ever reads.
        let line = format!("{{ {walnut:?}; echo $? >&2; }} | true");
        let done = Program::new("sh").args(["-c", &line]).run();
        done.succeeded();
        assert_eq!(done.stderr, b"0\n", "{}", done.story());
    }
}
