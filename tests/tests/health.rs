// SPDX-License-Identifier: Apache-2.0
//! Health checks: what `ps` and `inspect` say of a container that is asked whether it is well.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Stdio};

use walnut_tests::harness::{Home, skip};

const NO_KVM: &str = "no KVM that runs a stock kernel";

/// `walnut events` of health.
struct Told {
    follower: Child,
    lines: BufReader<ChildStdout>,
}

impl Told {
    fn new(home: &Home) -> Self {
        let line = [
            "events",
            "--filter",
            "event=health_status",
            "--since",
            "1h",
            "--format",
            "{{.Action}}",
        ];
        let mut follower = home.walnut(line).into_command();
        let mut follower = follower.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(follower.stdout.take().unwrap());
        Self { follower, lines }
    }

    fn next(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        self.follower.kill().unwrap();
        self.follower.wait().unwrap();
    }
}

#[test]
fn well_and_not_well() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    let flags = [
        "--health-cmd",
        "echo asked; echo why >&2; test -e /well",
        "--health-interval",
        "200ms",
        "--health-retries",
        "1",
    ];
    home.background_with("web", &flags, "touch /well; exec sleep 1000");
    let mut told = Told::new(&home);
    assert_eq!(told.next(), "health_status: healthy\n");
    let status = home.says(&["ps", "--format", "{{.Status}}"]);
    assert!(status.ends_with("(healthy)"), "{status}");
    assert_eq!(home.says(&["ps", "-q", "--filter", "health=unhealthy"]), "");
    // Each question is a command in the container, as others' are.
    let first = |event: &str, format: &str| {
        let filter = format!("event={event}");
        let past = ["events", "--since", "1h", "--until", "0s"];
        let which = ["--filter", &filter, "--format", format];
        let all = home.says(&[&past[..], &which].concat());
        all.lines().next().unwrap_or_default().to_owned()
    };
    let asked = "exec_create: /bin/sh -c echo asked; echo why >&2; test -e /well";
    assert_eq!(first("exec_create", "{{.Action}}"), asked);
    let died = "{{.Actor.Attributes.exitCode}} {{len .Actor.Attributes.execID}}";
    assert_eq!(first("exec_die", died), "0 64");
    home.walnut(["exec", "web", "rm", "/well"])
        .run()
        .succeeded();
    assert_eq!(told.next(), "health_status: unhealthy\n");
    let format = "{{.State.Health.Status}} {{(index .State.Health.Log 0).Output}}";
    let said = home.says(&["inspect", "-f", format, "web"]);
    assert!(
        said.starts_with("unhealthy ") && said.contains("asked"),
        "{said}"
    );
    home.walnut(["stop", "-t", "0", "web"]).run().succeeded();
    drop(told);
    home.remove_all();
    home.assert_clean();
}

#[test]
fn one_that_takes_too_long_and_an_images_own() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    let flags = [
        "--health-cmd",
        "exec sleep 1000",
        "--health-interval",
        "100ms",
        "--health-timeout",
        "300ms",
        "--health-retries",
        "1",
    ];
    home.background_with("slow", &flags, "exec sleep 1000");
    let mut told = Told::new(&home);
    assert_eq!(told.next(), "health_status: unhealthy\n");
    let format = "{{(index .State.Health.Log 0).ExitCode}} {{(index .State.Health.Log 0).Output}}";
    let said = home.says(&["inspect", "-f", format, "slow"]);
    assert_eq!(said, "-1 Health check exceeded timeout (300ms)");
    // What asked is gone, but for what is asking just now.
    let left = home.says(&["top", "slow", "-o", "args"]);
    let sleeping = left.lines().filter(|line| line.starts_with("sleep"));
    assert!(sleeping.count() <= 2, "{left}");
    home.walnut(["rm", "-f", "slow"]).run().succeeded();
    drop(told);
    let image = home.busybox();
    home.walnut(["create", "--name", "base", &image, "sleep", "1000"])
        .run()
        .succeeded();
    let change = "HEALTHCHECK CMD true";
    home.walnut(["commit", "-c", change, "base", "checked"])
        .run()
        .succeeded();
    for (flag, test) in [
        ("--health-interval=1h", "[\"CMD-SHELL\",\"true\"]"),
        ("--no-healthcheck", "[\"NONE\"]"),
    ] {
        home.walnut(["create", "--name", "made", flag, "checked"])
            .run()
            .succeeded();
        let format = "{{json .Config.Healthcheck.Test}}";
        assert_eq!(home.says(&["inspect", "-f", format, "made"]), test);
        home.walnut(["rm", "made"]).run().succeeded();
    }
    home.walnut(["create", "--no-healthcheck", "--health-cmd", "x", "checked"])
        .run()
        .exited(125)
        .complains(&["--no-healthcheck conflicts"]);
    home.remove_all();
    home.assert_clean();
}
