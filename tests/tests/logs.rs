// SPDX-License-Identifier: Apache-2.0
//! `walnut logs`: what containers wrote.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

use walnut_tests::harness::{Home, skip};

const NO_KVM: &str = "no KVM that runs a stock kernel";

#[test]
fn streams_tails_and_times() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    let script = "echo one; echo two >&2; printf three";
    home.background("web", script);
    home.walnut(["wait", "web"]).run().succeeded().says("0\n");
    let done = home.walnut(["logs", "web"]).run();
    done.succeeded().says("one\nthree").complains(&["two"]);
    let last = home.walnut(["logs", "-n", "1", "web"]).run();
    last.succeeded().says("three");
    let times = home.says(&["logs", "-t", "web"]);
    assert!(
        times.lines().all(|line| line.as_bytes()[29] == b'Z'),
        "{times}"
    );
    let (first, _) = times.split_once(' ').unwrap();
    home.walnut(["logs", "--until", "2020-01-01", "web"])
        .run()
        .succeeded()
        .says("");
    let since = home.walnut(["logs", "--since", first, "web"]).run();
    since.succeeded().says("one\nthree");
    // A log that was cut in the middle of a line.
    let id = home.says(&["inspect", "-f", "{{.Id}}", "web"]);
    let path = home
        .root()
        .join("containers")
        .join(id)
        .join("container.log");
    let mut log = OpenOptions::new().append(true).open(path).unwrap();
    log.write_all(b"{\"log\":\"cut").unwrap();
    let done = home.walnut(["logs", "web"]).run();
    done.succeeded().says("one\nthree");
    let last = home.walnut(["logs", "-n", "1", "web"]).run();
    last.succeeded().says("three");
    home.walnut(["start", "-a", "web"]).run().succeeded();
    let done = home.walnut(["logs", "web"]).run();
    done.succeeded().says("one\nthreeone\nthree");
    home.remove_all();
    home.assert_clean();
}

#[test]
fn rotated_and_followed() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    let flags = ["--log-opt", "max-size=10k", "--log-opt", "max-file=2"];
    let script = "i=0; while [ $i -lt 1000 ]; do echo line $i; i=$((i+1)); done";
    home.background_with("web", &flags, script);
    home.walnut(["wait", "web"]).run().succeeded();
    let text = home.says(&["logs", "web"]);
    assert!(text.ends_with("line 999"), "{text}");
    assert!(!text.contains("line 0\n") && text.len() < 20_000);
    home.walnut(["run", "--log-opt", "frob=1", &home.busybox(), "true"])
        .run()
        .exited(125)
        .complains(&["unknown log opt 'frob'"]);
    home.background_with("none", &["--log-driver", "none"], "echo x");
    home.walnut(["logs", "none"])
        .run()
        .exited(1)
        .complains(&["does not support reading"]);
    home.remove_all();
    home.assert_clean();
}

#[test]
fn none_of_a_brief_one_in_the_foreground() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    let image = home.busybox();
    let script = "echo up; exec sleep 1000";
    let line = ["run", "--rm", "--name", "brief", &image, "sh", "-c", script];
    let mut run = home.walnut(line).into_command();
    let mut run = run.stdout(Stdio::null()).spawn().unwrap();
    let starts = ["events", "--since", "1h", "--filter", "event=start"];
    let mut events = home.walnut(starts).into_command();
    let mut events = events.stdout(Stdio::piped()).spawn().unwrap();
    let mut started = String::new();
    let mut told = BufReader::new(events.stdout.take().unwrap());
    told.read_line(&mut started).unwrap();
    assert!(started.contains("name=brief"), "{started}");
    events.kill().unwrap();
    events.wait().unwrap();
    home.walnut(["logs", "brief"])
        .run()
        .exited(1)
        .complains(&["container brief runs in the foreground with --rm", "attach"]);
    home.walnut(["kill", "brief"]).run().succeeded();
    assert_eq!(run.wait().unwrap().code(), Some(137));
    // In the background it has one until it goes.
    home.background_with("brief", &["--rm"], script);
    assert_eq!(home.first_line("brief"), "up\n");
    home.walnut(["kill", "brief"]).run().succeeded();
    home.assert_clean();
}
