// SPDX-License-Identifier: Apache-2.0
//! A container's processes: `top`, and `--init` before them.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use walnut_tests::harness::{Home, skip};

const NO_KVM: &str = "no KVM that runs a stock kernel";

#[test]
fn shown_as_ps_does() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    home.background_with("web", &["-u", "1000"], "sleep 1001 & wait");
    let runs = "until grep -q sleep /proc/2/comm; do usleep 10000; done";
    let _ = home.says(&["exec", "web", "sh", "-c", runs]);
    let table = home.says(&["top", "web"]);
    let lines: Vec<Vec<&str>> = table
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    let heads = ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"];
    assert_eq!(lines[0], heads, "{table}");
    assert_eq!(lines[1][..3], ["1000", "1", "0"], "{table}");
    assert_eq!(lines[1][7..9], ["sh", "-c"], "{table}");
    assert_eq!(lines[2][1..3], ["2", "1"], "{table}");
    assert_eq!(lines[2][7..], ["sleep", "1001"], "{table}");
    let some = home.says(&["top", "web", "-o", "pid,comm"]);
    let words: Vec<&str> = some.split_whitespace().collect();
    assert_eq!(words[..4], ["PID", "COMMAND", "1", "sh"], "{some}");
    home.walnut(["top", "web", "--forest"])
        .run()
        .exited(1)
        .complains(&["ps --forest is not known here"]);
    home.walnut(["stop", "-t", "0", "web"]).run().succeeded();
    home.walnut(["top", "web"])
        .run()
        .exited(1)
        .complains(&["is not running"]);
    home.remove_all();
    home.assert_clean();
}

#[test]
fn an_init_reaps_and_passes_signals_on() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    let image = home.busybox();
    let run = |script: &str| {
        home.walnut(["run", "--rm", "--init", &image, "sh", "-c", script])
            .run()
    };
    let reads = "cat /proc/1/comm; grep -c . /proc/1/mounts > /dev/null; echo $$";
    let done = run(reads);
    assert!(
        done.succeeded().stdout.starts_with(b"walnut-init\n"),
        "{}",
        done.story()
    );
    assert!(!done.stdout.ends_with(b"\n1\n"), "{}", done.story());
    run("exit 7").exited(7);
    run("kill -9 $$").exited(137);
    home.walnut(["run", "--rm", "--init", &image, "nosuch"])
        .run()
        .exited(127)
        .complains(&["executable file not found"]);
    // What nobody waits for is gone; a signal to the container is the program's.
    let orphans = "for i in 1 2 3; do sh -c 'sleep 0 & exec true'; done; trap 'exit 9' TERM; while \
                   ps -o stat | grep -q Z; do usleep 1000; done; echo none; while :; do sleep 1000 & \
                   wait; done";
    home.background_with("web", &["--init"], orphans);
    assert_eq!(home.first_line("web"), "none\n");
    home.walnut(["stop", "web"]).run().succeeded();
    let code = home.says(&["inspect", "-f", "{{.State.ExitCode}}", "web"]);
    assert_eq!(code, "9");
    home.remove_all();
    home.assert_clean();
}
