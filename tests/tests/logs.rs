// SPDX-License-Identifier: Apache-2.0
//! `walnut logs`: what containers wrote.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::fs::OpenOptions;
use std::io::Write;

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
