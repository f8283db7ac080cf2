// SPDX-License-Identifier: Apache-2.0
//! A container's life in the background: made, started, stopped, killed, paused, restarted, removed,
//! and what the next command says when its supervisor was killed.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::fs;
use std::io::Read;
use std::process::Stdio;
use std::sync::mpsc;

use rustix::process::{Signal, kill_process};
use walnut_tests::harness::process::{ends, kill_and_wait};
use walnut_tests::harness::{Home, Program, skip};

const NO_KVM: &str = "no KVM that runs a stock kernel";
/// Ends by SIGTERM with 9, and sleeps until then.
const SERVER: &str = "trap 'echo term; exit 9' TERM; echo up; while :; do sleep 1000 & wait; done";

fn state(home: &Home, name: &str, field: &str) -> String {
    home.says(&["inspect", "-f", &format!("{{{{.State.{field}}}}}"), name])
}

#[test]
fn started_stopped_and_started_again() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    home.background("web", &format!("echo x >> /data; {SERVER}"));
    assert_eq!(home.says(&["ps", "--format", "{{.Names}}"]), "web");
    assert_eq!(state(&home, "web", "Status"), "running");
    home.walnut(["rm", "web"])
        .run()
        .exited(1)
        .complains(&["cannot remove container \"/web\"", "is running"]);
    home.walnut(["stop", "web"]).run().succeeded().says("web\n");
    assert_eq!(state(&home, "web", "ExitCode"), "9");
    assert_eq!(home.says(&["ps", "-q"]), "");
    let status = home.says(&["ps", "-a", "--format", "{{.Status}}"]);
    assert!(status.starts_with("Exited (9) "), "{status}");
    // Its files are there still, and stopping it once more is no mistake.
    home.walnut(["stop", "web"]).run().succeeded();
    home.walnut(["start", "web"])
        .run()
        .succeeded()
        .says("web\n");
    assert_eq!(home.says(&["exec", "web", "cat", "/data"]), "x\nx");
    home.walnut(["kill", "web"]).run().succeeded();
    assert_eq!(state(&home, "web", "ExitCode"), "137");
    home.walnut(["rm", "web"]).run().succeeded();
    assert_eq!(home.says(&["ps", "-aq"]), "");
    home.assert_clean();
}

#[test]
fn paused_and_continued() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    home.background("web", SERVER);
    home.walnut(["pause", "web"]).run().succeeded();
    assert_eq!(state(&home, "web", "Status"), "paused");
    home.walnut(["pause", "web"])
        .run()
        .exited(1)
        .complains(&["is already paused"]);
    home.walnut(["exec", "web", "true"])
        .run()
        .exited(1)
        .complains(&["is paused, unpause the container before exec"]);
    home.walnut(["unpause", "web"]).run().succeeded();
    home.walnut(["exec", "web", "true"]).run().succeeded();
    // A paused one can be stopped, too.
    home.walnut(["pause", "web"]).run().succeeded();
    home.walnut(["stop", "web"]).run().succeeded();
    assert_eq!(state(&home, "web", "ExitCode"), "9");
    home.remove_all();
    home.assert_clean();
}

#[test]
fn names() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    let image = home.busybox();
    let create = |name: &str| {
        home.walnut(["create", "--name", name, &image, "true"])
            .run()
    };
    create("one").succeeded();
    create("one").exited(125).complains(&[
        "Conflict. The container name \"/one\" is already in use",
        "rename",
    ]);
    home.walnut(["rename", "one", "two"]).run().succeeded();
    create("one").succeeded();
    home.walnut(["rename", "one", "two"])
        .run()
        .exited(1)
        .complains(&["already in use"]);
    for verb in [
        "rm", "start", "stop", "kill", "logs", "wait", "stats", "console",
    ] {
        home.walnut([verb, "nosuch"])
            .run()
            .exited(1)
            .complains(&["No such container: nosuch"]);
    }
    let named = home.says(&[
        "ps",
        "-a",
        "--filter",
        "name=^two$",
        "--format",
        "{{.Names}}",
    ]);
    assert_eq!(named, "two");
    home.walnut(["container", "prune", "-f"]).run().succeeded();
    assert_eq!(home.says(&["ps", "-aq"]), "");
}

#[test]
fn brought_up_again_by_its_policy() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    home.background_with("retry", &["--restart", "on-failure:1"], "echo try; exit 3");
    // `logs -f` ends with the last run.
    assert_eq!(home.says(&["logs", "-f", "retry"]), "try\ntry");
    assert_eq!(state(&home, "retry", "ExitCode"), "3");
    let count = home.says(&["inspect", "-f", "{{.RestartCount}}", "retry"]);
    assert_eq!(count, "1");
    home.walnut([
        "run",
        "--rm",
        "--restart",
        "always",
        &home.busybox(),
        "true",
    ])
    .run()
    .exited(125)
    .complains(&["Conflicting options: --restart and --rm"]);
    home.remove_all();
    home.assert_clean();
}

#[test]
fn a_killed_supervisor_takes_its_machine_along() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    home.background("web", SERVER);
    home.background_with("brief", &["--rm"], SERVER);
    for name in ["web", "brief"] {
        kill_and_wait(home.supervisor(name));
    }
    let all = home.says(&["ps", "-a", "--format", "{{.Names}} {{.State}}"]);
    assert_eq!(all, "web exited", "what was to go is gone");
    assert_eq!(state(&home, "web", "ExitCode"), "137");
    let machines = fs::read_dir(home.state().join("vm")).unwrap();
    assert_eq!(machines.count(), 0);
    home.walnut(["start", "web"]).run().succeeded();
    assert_eq!(state(&home, "web", "Status"), "running");
    home.remove_all();
    home.assert_clean();
}

/// Its event loop does not see that its supervisor is gone.
#[test]
fn a_stopped_monitor_goes_with_its_killed_supervisor() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    home.background("web", SERVER);
    let monitor = home.monitor("web");
    kill_process(monitor, Signal::STOP).unwrap();
    kill_and_wait(home.supervisor("web"));
    assert!(ends(monitor));
    home.walnut(["start", "web"]).run().succeeded();
    home.remove_all();
    home.assert_clean();
}

/// As one is whose guest hangs: neither its agent nor its container hears anything.
#[test]
fn a_machine_that_stands_still_is_ended() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    home.background("web", SERVER);
    let stand_still = || {
        let monitor = home.monitor("web");
        kill_process(monitor, Signal::STOP).unwrap();
        monitor
    };
    home.background_with("inner", &["--vm", "web"], SERVER);
    let monitor = stand_still();
    home.walnut(["kill", "inner"])
        .run()
        .exited(1)
        .complains(&["does not end", "stop the container whose machine it is in"]);
    home.walnut(["kill", "web"]).run().succeeded();
    assert!(ends(monitor));
    assert_eq!(state(&home, "web", "Status"), "exited");
    assert_eq!(state(&home, "web", "ExitCode"), "137");
    assert_eq!(state(&home, "web", "Error"), "");
    // What it has written to its disk is there, and it runs again.
    home.walnut(["wait", "inner"]).run().succeeded();
    home.walnut(["start", "web"]).run().succeeded();
    let monitor = stand_still();
    home.walnut(["rm", "-f", "web"]).run().succeeded();
    assert!(ends(monitor));
    home.walnut(["rm", "inner"]).run().succeeded();
    home.assert_clean();
}

/// As a terminal is that was stopped: who attached, or the one in the foreground.
#[test]
fn one_that_does_not_read_keeps_nobody_from_ending() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    // Its output goes nowhere, which it notices when nothing more of it fits.
    let floods = "trap 'sync; exit 9' TERM; echo x >/vol/file; echo; yes & while :; do wait; done";
    let volume = ["-v", "kept:/vol"];
    for (verb, code) in [
        (&["stop", "-t", "1"][..], Some("9")),
        (&["kill"], Some("137")),
        (&["rm", "-f"], None),
    ] {
        home.background_with("web", &volume, floods);
        let mut attached = home.walnut(["attach", "web"]).into_command();
        let attached = attached.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut attached = attached.spawn().unwrap();
        let mut first = [0];
        let stdout = attached.stdout.as_mut().unwrap();
        stdout.read_exact(&mut first).unwrap();
        home.walnut([verb, &["web"]].concat()).run().succeeded();
        if let Some(code) = code {
            assert_eq!(state(&home, "web", "ExitCode"), code, "{verb:?}");
        }
        let file = [
            "run",
            "--rm",
            "-v",
            "kept:/vol",
            &home.busybox(),
            "cat",
            "/vol/file",
        ];
        home.walnut(file).run().succeeded().says("x\n");
        // What was written for it before is there, and then the end.
        drop(attached.stdout.take());
        attached.wait().unwrap();
        home.remove_all();
    }
    let image = home.busybox();
    let line = ["run", "--name", "web", &image, "sh", "-c", floods];
    let own = home.walnut([&line[..2], &["web"], &volume, &line[3..]].concat());
    let mut own = own.into_command();
    let mut own = own
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    own.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    home.walnut(["stop", "-t", "1", "web"]).run().succeeded();
    assert_eq!(own.wait().unwrap().code(), Some(9));
    home.remove_all();
    home.assert_clean();
}

/// More of them than its supervisor has descriptors for: it listens all the same, and to new ones when
/// they have gone.
#[test]
fn many_that_wait() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    let image = home.busybox();
    let run = home.walnut(["run", "-d", "--name", "web", &image, "sleep", "1000"]);
    let run = run.into_command();
    Program::new("prlimit")
        .args(["--nofile=128:128", "--"])
        .args([run.get_program()])
        .args(run.get_args())
        .run()
        .succeeded();
    let wait = || {
        let mut wait = home.walnut(["wait", "web"]).into_command();
        wait.stdin(Stdio::null()).stdout(Stdio::null());
        wait.stderr(Stdio::null()).spawn().unwrap()
    };
    let mut waiting: Vec<_> = std::iter::repeat_with(wait).take(40).collect();
    let (tell, ended) = mpsc::channel();
    std::thread::scope(|scope| {
        for one in &mut waiting {
            let tell = tell.clone();
            scope.spawn(move || tell.send(one.wait().unwrap().code()).unwrap());
        }
        assert_eq!(ended.recv().unwrap(), Some(1), "the first one too many");
        home.walnut(["stop", "-t", "0", "web"]).run().succeeded();
    });
    assert_eq!(state(&home, "web", "Status"), "exited");
    drop(tell);
    assert!(ended.iter().any(|code| code == Some(0)));
    home.remove_all();
    home.assert_clean();
}

#[test]
fn a_command_that_never_ran_leaves_a_created_container() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    let image = home.busybox();
    home.walnut(["run", "-d", "--name", "bad", &image, "nosuch"])
        .run()
        .exited(127)
        .complains(&["executable file not found"]);
    assert_eq!(state(&home, "bad", "Status"), "created");
    assert_eq!(state(&home, "bad", "ExitCode"), "127");
    home.walnut(["run", "-d", "--rm", "--name", "gone", &image, "nosuch"])
        .run()
        .exited(127);
    assert_eq!(home.says(&["ps", "-a", "--format", "{{.Names}}"]), "bad");
    home.remove_all();
    home.assert_clean();
}

#[test]
fn waited_for_attached_to_and_run_in_the_foreground() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    home.background_with("echo", &["-i"], "read line; echo got $line; exit 5");
    let done = home.walnut(["attach", "echo"]).stdin("hello\n").run();
    done.exited(5).says("got hello\n");
    assert_eq!(home.says(&["wait", "echo"]), "5");
    let done = home.walnut(["start", "-ai", "echo"]).stdin("again\n").run();
    done.exited(5).says("got again\n");
    // A container in the foreground answers other commands, too.
    let image = home.busybox();
    let script = format!(
        "\"$0\" \"$@\" run --name fg {image} sh -c 'echo ready; read x' < /dev/zero | {{ read l; \
         \"$0\" \"$@\" stop -t 0 fg; cat; }}"
    );
    let walnut = home.walnut(Vec::<&str>::new()).into_command();
    let own: Vec<_> = walnut.get_args().map(std::ffi::OsStr::to_owned).collect();
    Program::new("sh")
        .args(["-c", &script])
        .args([walnut.get_program()])
        .args(own)
        .run()
        .succeeded()
        .says("fg\n");
    home.remove_all();
    home.assert_clean();
}

#[test]
fn looked_at_and_updated() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    home.background_with("web", &["--memory", "64m"], SERVER);
    let format = "{{.Name}} {{.PIDs}} {{.MemUsage}}";
    let stats = home.says(&["stats", "--no-stream", "--format", format]);
    assert!(
        stats.starts_with("web 2 ") && stats.ends_with("/ 64MiB"),
        "{stats}"
    );
    home.walnut(["console", "web"]).run().succeeded();
    assert_eq!(home.says(&["port", "web"]), "");
    let line = [
        "update",
        "--memory",
        "48m",
        "--pids-limit",
        "50",
        "--restart",
        "always",
        "web",
    ];
    home.walnut(line).run().succeeded().says("web\n");
    let limits = "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max";
    assert_eq!(
        home.says(&["exec", "web", "sh", "-c", limits]),
        "50331648\n50"
    );
    let inspect =
        "{{.HostConfig.Memory}} {{.HostConfig.PidsLimit}} {{.HostConfig.RestartPolicy.Name}}";
    assert_eq!(
        home.says(&["inspect", "-f", inspect, "web"]),
        "50331648 50 always"
    );
    home.walnut(["update", "web"])
        .run()
        .exited(1)
        .complains(&["you must provide one or more flags"]);
    let quota = ["update", "--cpu-quota", "50000", "web"];
    home.walnut(quota).run().succeeded();
    let cpu = "cat /sys/fs/cgroup/cpu.max";
    assert_eq!(home.says(&["exec", "web", "sh", "-c", cpu]), "50000 100000");
    home.walnut(["update", "--memory", "1g", "web"])
        .run()
        .exited(1)
        .complains(&["more than its machine has"]);
    // What is no container may be an image.
    let id = home.says(&["inspect", "-f", "{{.Image}}", "web"]);
    assert_eq!(home.says(&["inspect", "-f", "{{.Id}}", &id]), id);
    home.remove_all();
    home.assert_clean();
}
