// SPDX-License-Identifier: Apache-2.0
//! `walnut exec`: one more process in a running container.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::fs;

use walnut_tests::harness::{Home, skip};

const NO_KVM: &str = "no KVM that runs a stock kernel";

#[test]
fn as_docker_does() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    home.background_with("web", &["-e", "A=1", "-e", "B=2"], "exec sleep 1000");
    let exec = |args: &[&str]| home.walnut(["exec"].iter().chain(args)).run();
    exec(&["web", "echo", "hi"]).succeeded().says("hi\n");
    exec(&["web", "sh", "-c", "echo e >&2; exit 7"])
        .exited(7)
        .complains(&["e"]);
    exec(&["web", "nosuch"])
        .exited(127)
        .complains(&["executable file not found in $PATH"]);
    exec(&["web", "/etc"]).exited(126).complains(&["/etc"]);
    exec(&["web"])
        .exited(1)
        .complains(&["requires at least 2 arguments"]);
    exec(&["nosuch", "true"])
        .exited(1)
        .complains(&["No such container: nosuch"]);
    let file = home.path().join("env");
    fs::write(&file, "C=3\nA=4\n").unwrap();
    exec(&[
        "--env-file",
        file.to_str().unwrap(),
        "-e",
        "B=5",
        "-w",
        "/tmp",
        "-u",
        "1000:1000",
        "web",
        "sh",
        "-c",
        "echo $A $B $C $(pwd) $(id -u)",
    ])
    .succeeded()
    .says("4 5 3 /tmp 1000\n");
    // Nothing is lost on the way in and out.
    let bytes: Vec<u8> = (0..3_000_000_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let done = home
        .walnut(["exec", "-i", "web", "cat"])
        .stdin(bytes.clone())
        .run();
    assert!(done.succeeded().stdout == bytes);
    exec(&["-d", "web", "sh", "-c", "echo there > /tmp/file"])
        .succeeded()
        .says("");
    let wait = "until test -s /tmp/file; do usleep 10000; done; cat /tmp/file";
    exec(&["web", "sh", "-c", wait]).succeeded().says("there\n");
    home.walnut(["stop", "-t", "0", "web"]).run().succeeded();
    exec(&["web", "true"])
        .exited(1)
        .complains(&["is not running"]);
    home.remove_all();
    home.assert_clean();
}

#[test]
fn rights() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    home.background("web", "exec sleep 1000");
    let bounding = |flags: &[&str]| {
        let command = ["web", "sh", "-c", "grep CapBnd /proc/self/status"];
        let args: Vec<&str> = ["exec"]
            .iter()
            .chain(flags)
            .chain(&command)
            .copied()
            .collect();
        home.says(&args)
    };
    assert_eq!(bounding(&[]), "CapBnd:\t00000000a80425fb");
    assert_eq!(bounding(&["--privileged"]), "CapBnd:\t000001ffffffffff");
    home.remove_all();
    home.assert_clean();
}

#[test]
fn beside_a_first_process_that_makes_groups() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    let script = "cd /sys/fs/cgroup; mkdir own; echo 1 > own/cgroup.procs; echo +pids > \
                  cgroup.subtree_control; echo up; exec sleep 1000";
    home.background_with("web", &["--privileged"], script);
    assert_eq!(home.first_line("web"), "up\n");
    let group = home.says(&["exec", "web", "cat", "/proc/self/cgroup"]);
    assert_eq!(group, "0::/own");
    home.remove_all();
    home.assert_clean();
}

#[test]
fn beside_the_container() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    home.background_with("web", &["-u", "1000"], "exec sleep 1000");
    let inside = |command: &[&str]| {
        let line = ["exec", "--vm", "web"].iter().chain(command);
        home.walnut(line).run()
    };
    inside(&["readlink", "/proc/1/exe"])
        .succeeded()
        .says("/init\n");
    inside(&["sh", "-c", "id -u; exit 3"]).exited(3).says("0\n");
    // It sees the container from outside, and is none of its processes.
    let done = inside(&["sh", "-c", "grep -l sleep /proc/[0-9]*/comm | wc -l"]);
    done.succeeded().says("1\n");
    assert_eq!(home.says(&["top", "web", "-o", "pid"]).lines().count(), 2);
    // A shell is what there is without a command.
    let done = home
        .walnut(["exec", "--vm", "-i", "web"])
        .stdin("echo $((6 * 7))\n")
        .run();
    done.succeeded().says("42\n");
    inside(&["nosuch"]).exited(127);
    home.remove_all();
    home.assert_clean();
}
