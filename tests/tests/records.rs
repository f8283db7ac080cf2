// SPDX-License-Identifier: Apache-2.0
//! Records that something has happened to: cut off, of a newer version, raced for.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::thread;

use rustix::process::Pid;
use walnut_tests::harness::{Home, process, rounds, skip};

const NO_KVM: &str = "no KVM that runs a stock kernel";
/// What [`rounds`] is without being told.
const RACES: usize = 40;
const DEATHS: usize = 10;

fn record(home: &Home, name: &str) -> PathBuf {
    let id = home.says(&["inspect", "-f", "{{.Id}}", name]);
    home.root()
        .join("containers")
        .join(id)
        .join("container.json")
}

fn create(home: &Home, name: &str) {
    let image = home.busybox();
    home.walnut(["create", "--name", name, &image, "true"])
        .run()
        .succeeded();
}

#[test]
fn what_makes_no_sense_is_listed_and_can_be_removed() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    create(&home, "good");
    create(&home, "cut");
    create(&home, "newer");
    let cut = record(&home, "cut");
    let text = fs::read_to_string(&cut).unwrap();
    fs::write(&cut, &text[..text.len() / 2]).unwrap();
    let newer = record(&home, "newer");
    let text = fs::read_to_string(&newer).unwrap();
    fs::write(&newer, text.replacen("\"version\":2", "\"version\":99", 1)).unwrap();
    let done = home
        .walnut(["ps", "-a", "--format", "{{.Names}} {{.State}}"])
        .run();
    let mut lines: Vec<&str> = std::str::from_utf8(&done.succeeded().stdout)
        .unwrap()
        .lines()
        .collect();
    lines.sort_unstable();
    assert_eq!(lines, ["cut dead", "good created", "newer dead"]);
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(said.contains("make sense of"), "{said}");
    assert!(
        said.contains("was written by a newer walnut (version 99)"),
        "{said}"
    );
    // Others are not in its way, and its name is not free.
    let image = home.busybox();
    home.walnut(["create", "--name", "cut", &image, "true"])
        .run()
        .exited(125)
        .complains(&["already in use"]);
    home.walnut(["start", "newer"])
        .run()
        .exited(1)
        .complains(&["newer walnut"]);
    home.walnut(["rm", "cut"])
        .run()
        .exited(1)
        .complains(&["make sense of"]);
    home.walnut(["rm", "-f", "cut", "newer", "good"])
        .run()
        .succeeded();
    assert_eq!(home.says(&["ps", "-aq"]), "");
    create(&home, "cut");
    home.remove_all();
    home.assert_clean();
}

/// Two commands on one container, again and again: each ends, and one of them wins.
fn race(home: &Home, first: &[&str], second: &[&str]) -> (i32, i32) {
    thread::scope(|scope| {
        let first = scope.spawn(|| home.walnut(first).run().status());
        let second = home.walnut(second).run().status();
        (first.join().unwrap(), second)
    })
}

#[test]
fn names_raced_for() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    let image = home.busybox();
    for round in 0..rounds(RACES) {
        // Two names, one container each: both are made, or one says why not.
        let make = ["create", "--name", "one", &image, "true"];
        let (a, b) = race(&home, &make, &make);
        assert_eq!((a.min(b), a.max(b)), (0, 125), "round {round}");
        let (a, b) = race(&home, &["rename", "one", "two"], &["rm", "one"]);
        let left = home.says(&["ps", "-a", "--format", "{{.Names}}"]);
        match (a, b) {
            (0, 0) | (1, 0) => assert_eq!(left, "", "round {round}"),
            (0, 1) => assert_eq!(left, "two", "round {round}"),
            other => panic!("round {round}: {other:?}, left: {left}"),
        }
        // What is left of it, if anything is.
        let _ = home.walnut(["rm", "-f", "one", "two"]).run();
        assert_eq!(home.says(&["ps", "-aq"]), "", "round {round}");
    }
    let names = fs::read_dir(home.root().join("containers/names")).unwrap();
    assert_eq!(names.count(), 0);
    home.assert_clean();
}

#[test]
fn lives_raced_for() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    let image = home.busybox();
    for round in 0..rounds(RACES) {
        let make = ["create", "--name", "one", &image, "sleep", "1000"];
        home.walnut(make).run().succeeded();
        let (start, rm) = race(&home, &["start", "one"], &["rm", "one"]);
        let left = home.says(&["ps", "-a", "--format", "{{.Names}} {{.State}}"]);
        match (start, rm) {
            (0, 1) => assert_eq!(left, "one running", "round {round}"),
            (1, 0) => assert_eq!(left, "", "round {round}"),
            other => panic!("round {round}: {other:?}, left: {left}"),
        }
        if rm == 0 {
            home.walnut(make).run().succeeded();
            home.walnut(["start", "one"]).run().succeeded();
        }
        let stop = ["stop", "-t", "0", "one"];
        let (stop, exec) = race(&home, &stop, &["exec", "one", "true"]);
        assert_eq!(stop, 0, "round {round}");
        // It says how far it came.
        assert!(
            matches!(exec, 0 | 1 | 125 | 126 | 137),
            "round {round}: {exec}"
        );
        let state = home.says(&["inspect", "-f", "{{.State.Status}}", "one"]);
        assert_eq!(state, "exited", "round {round}");
        home.walnut(["rm", "one"]).run().succeeded();
    }
    home.assert_clean();
}

/// The supervisors of this home.
fn supervisors(home: &Home) -> Vec<Pid> {
    let own = home.path().to_string_lossy().into_owned();
    let is_one = |pid: &Pid| {
        let line = process::command_line(*pid);
        line.contains(&own) && line.contains("supervise")
    };
    process::all().filter(is_one).collect()
}

#[test]
fn the_truth_after_sudden_deaths() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    let image = home.busybox();
    // Once, so that all rounds are alike.
    home.walnut(["run", "--rm", &image, "true"])
        .run()
        .succeeded();
    let mut random = 12_345_u64;
    for round in 0..rounds(DEATHS) {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let line = [
            "run", "-d", "--name", "one", "-v", "data:/d", &image, "sleep", "1000",
        ];
        let mut command = home.walnut(line).into_command();
        let quiet = std::process::Stdio::null;
        let mut cli = command.stdout(quiet()).stderr(quiet()).spawn().unwrap();
        // At some moment of its start, or after it.
        let moment = rustix::event::Timespec {
            tv_sec: 0,
            tv_nsec: i64::try_from((random >> 33) % 1_000).unwrap() * 1_000_000,
        };
        let pid = rustix::process::Pid::from_child(&cli);
        let client =
            rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap();
        let mut fds = [rustix::event::PollFd::new(
            &client,
            rustix::event::PollFlags::IN,
        )];
        rustix::event::poll(&mut fds, Some(&moment)).unwrap();
        match round % 3 {
            0 => process::kill(pid),
            1 => supervisors(&home).into_iter().for_each(process::kill),
            _ => supervisors(&home)
                .into_iter()
                .flat_map(process::children)
                .for_each(process::kill),
        }
        cli.wait().unwrap();
        let told = home.says(&["ps", "-a", "--format", "{{.State}}"]);
        match told.as_str() {
            // Nobody but its client was killed, or nobody at all.
            "running" => {
                let done = home.walnut(["exec", "one", "true"]).run();
                // Its monitor may be on its way out just now.
                assert!(matches!(done.status(), 0 | 1 | 137), "{}", done.story());
            }
            "" | "created" | "exited" => {}
            other => panic!("round {round}: {other}"),
        }
        home.walnut(["rm", "-f", "one"]).run().succeeded();
        assert_eq!(home.says(&["ps", "-aq"]), "", "round {round}");
        // A supervisor has said its last word before its process is gone.
        for pid in supervisors(&home) {
            assert!(process::ends(pid), "round {round}: {pid:?} stays");
        }
    }
    home.walnut(["run", "--rm", &image, "true"])
        .run()
        .succeeded();
    let machines = fs::read_dir(home.state().join("vm")).unwrap();
    assert_eq!(machines.count(), 0);
    let containers = fs::read_dir(home.root().join("containers")).unwrap();
    let containers = containers.flatten().map(|entry| entry.file_name());
    let containers: Vec<_> = containers.filter(|name| name.len() == 64).collect();
    assert!(containers.is_empty(), "{containers:?}");
    home.walnut(["volume", "rm", "data"]).run().succeeded();
    let mut left = Vec::new();
    sockets(home.path(), &mut left);
    assert!(left.is_empty(), "{left:?}");
    home.assert_clean();
}

/// Those in a directory and below it.
fn sockets(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let kind = entry.file_type().unwrap();
        if kind.is_socket() {
            found.push(entry.path());
        } else if kind.is_dir() {
            sockets(&entry.path(), found);
        }
    }
}
