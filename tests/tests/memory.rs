// SPDX-License-Identifier: Apache-2.0
//! What a container frees, the host has again: by free page reporting (virtio 1.3 §5.5.6.7).

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::fs;

use walnut_tests::harness::{Home, skip};

const MIB: u64 = 1024;

/// KiB that the monitor of a container holds.
fn held(home: &Home, name: &str) -> u64 {
    let pid = home.monitor(name).as_raw_nonzero();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    line.unwrap()
        .split_whitespace()
        .nth(1)
        .unwrap()
        .parse()
        .unwrap()
}

fn goes_back(start: &str) {
    let Some(home) = Home::new() else {
        return skip("no KVM that runs a stock kernel");
    };
    let flags = [
        "--start",
        start,
        "--memory",
        "600m",
        "--tmpfs",
        "/t:size=500m",
    ];
    home.background_with("big", &flags, "exec sleep 1000");
    let before = held(&home, "big");
    let fill = "dd if=/dev/zero of=/t/file bs=1M count=400";
    let exec = |script: &str| {
        let done = home.walnut(["exec", "big", "sh", "-c", script]).run();
        done.succeeded();
    };
    exec(fill);
    let full = held(&home, "big");
    assert!(full > before + 390 * MIB, "{before} KiB, then {full} KiB");
    exec("rm /t/file");
    // The guest's kernel gathers what it reports for two seconds at a time, and takes some rounds.
    let after_a_round = || {
        exec("sleep 2");
        held(&home, "big")
    };
    let mut freed = std::iter::repeat_with(after_a_round).take(10);
    let is_back = freed.any(|freed| freed < before + 40 * MIB);
    let now = held(&home, "big");
    assert!(is_back, "{before} KiB, {full} KiB, then {now} KiB");
    // And can have it again.
    exec(fill);
    home.walnut(["rm", "-f", "big"]).run().succeeded();
    home.assert_clean();
}

#[test]
fn of_a_machine_that_booted() {
    goes_back("cold");
}

#[test]
fn of_a_clone() {
    goes_back("template");
}
