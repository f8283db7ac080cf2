// SPDX-License-Identifier: Apache-2.0
//! Signals to `walnut run`, its sudden death, and what is left then: nothing.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use rustix::process::{
    Pid, Signal, WaitOptions, WaitStatus, kill_process, kill_process_group, waitpid,
};
use walnut_tests::harness::process::{self, spawn_saying};
use walnut_tests::harness::{Home, Program, skip};

const NO_KVM: &str = "no KVM that runs a stock kernel";

/// A container that says `ready` and then does as `script` goes on; returned when it has said so.
fn start(home: &Home, script: &str) -> (Child, BufReader<ChildStdout>) {
    let script = format!("{script}; echo ready; while :; do sleep 1000 & wait; done");
    let image = home.busybox();
    let run = home.walnut(["run", "--rm", &image, "sh", "-c", &script]);
    spawn_saying(run.into_command(), "ready")
}

fn send(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

/// The state directory holds no machine.
fn machines(home: &Home) -> usize {
    std::fs::read_dir(home.state().join("vm")).map_or(0, Iterator::count)
}

#[test]
fn a_signal_reaches_the_container() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    let (mut child, mut stdout) = start(&home, "trap 'echo got; exit 3' TERM");
    send(&child, Signal::TERM);
    let mut rest = String::new();
    stdout.read_line(&mut rest).unwrap();
    assert_eq!(rest, "got\n");
    assert_eq!(child.wait().unwrap().code(), Some(3));
    assert_eq!(machines(&home), 0);
    home.assert_clean();
}

/// A command by itself on the terminal, as shells have it.
fn alone(mut command: Command) -> Command {
    command.process_group(0);
    command
}

/// ^Z, and what becomes of the command: its end, or that it is stopped.
fn after_ctrl_z(child: &Child) -> WaitStatus {
    let pid = Pid::from_child(child);
    kill_process_group(pid, Signal::TSTP).unwrap();
    let (_, status) = waitpid(Some(pid), WaitOptions::UNTRACED).unwrap().unwrap();
    status
}

#[test]
fn ctrl_z_is_for_the_container() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    let script = "trap 'exit 3' TSTP; echo ready; while :; do sleep 1000 & wait; done";
    let image = home.busybox();
    // By the command that is the supervisor; by one that asks it.
    for flags in [&[][..], &["-a", "stdout"]] {
        let line = [&["run", "--rm"], flags, &[&image, "sh", "-c", script]].concat();
        let (child, _stdout) = spawn_saying(alone(home.walnut(line).into_command()), "ready");
        let status = after_ctrl_z(&child);
        if status.stopped() {
            kill_process(Pid::from_child(&child), Signal::CONT).unwrap();
        }
        assert_eq!(status.exit_status(), Some(3), "{flags:?}: {status:?}");
    }
    home.assert_clean();
}

#[test]
fn ctrl_z_stops_a_command_that_passes_nothing_on() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    let image = home.busybox();
    let script = "trap 'exit 3' TSTP; echo ready; while :; do sleep 1000 & wait; done";
    let line = ["run", "--sig-proxy=false", "--name", "web", &image];
    let run = home.walnut(line.iter().chain(&["sh", "-c", script]));
    let (mut child, _stdout) = spawn_saying(alone(run.into_command()), "ready");
    let status = after_ctrl_z(&child);
    assert!(status.stopped(), "{status:?}");
    // Its container goes on, and others may end it.
    assert_eq!(home.says(&["exec", "web", "echo", "fine"]), "fine");
    home.walnut(["kill", "web"]).run().succeeded();
    kill_process(Pid::from_child(&child), Signal::CONT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(137));
    home.remove_all();
    home.assert_clean();
}

#[test]
fn an_interrupt_before_the_container_ends_the_machine() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    // Loaded beforehand, so that what is interrupted is the boot.
    home.walnut(["run", "--rm", &home.busybox(), "true"])
        .run()
        .succeeded();
    let mut child = home
        .walnut(["-vv", "run", "--rm", &home.busybox(), "true"])
        .into_command()
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let machine = lines.find(|line| line.as_ref().is_ok_and(|line| line.contains("machine:")));
    assert!(
        machine.is_some(),
        "the machine's configuration is logged before it starts"
    );
    send(&child, Signal::INT);
    let drained = std::thread::spawn(move || lines.count());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    drained.join().unwrap();
    assert_eq!(machines(&home), 0);
    home.assert_clean();
}

#[test]
fn a_killed_run_leaves_nothing_past_the_next_command() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    let (mut child, _stdout) = start(&home, "true");
    child.kill().unwrap();
    child.wait().unwrap();
    home.assert_clean();
    home.walnut(["run", "--rm", &home.busybox(), "true"])
        .run()
        .succeeded();
    assert_eq!(machines(&home), 0, "the next command clears away");
    home.assert_clean();
}

/// Kills `walnut ARGS` after so many milliseconds, unless it has ended by then. `timeout` is what
/// happens to it: no wait of ours.
fn kill_after(ms: u64, home: &Home, args: &[&str]) {
    let walnut = home.walnut(args).into_command();
    let line = format!("timeout -s KILL 0.{ms:03} {walnut:?} || test $? = 137");
    let killed = Program::new("sh").args(["-c", &line]);
    killed.deadline(Duration::from_secs(60)).run().succeeded();
    home.assert_clean();
}

#[test]
fn killed_at_any_moment() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    home.walnut(["run", "--rm", &home.busybox(), "true"])
        .run()
        .succeeded();
    for ms in [5u64, 20, 60, 120, 250, 400, 600, 800] {
        kill_after(ms, &home, &["run", "--rm", &home.busybox(), "true"]);
    }
    home.walnut(["run", "--rm", &home.busybox(), "echo", "fine"])
        .run()
        .succeeded()
        .says("fine\n");
    assert_eq!(machines(&home), 0);
    home.assert_clean();
}

#[test]
fn a_monitor_that_dies_is_told() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    let image = home.busybox();
    let script = "echo up; exec sleep 1000";
    let run = home.walnut(["run", "--rm", &image, "sh", "-c", script]);
    let mut run = run.into_command();
    run.stderr(Stdio::piped());
    let (child, stdout) = spawn_saying(run, "up");
    drop(stdout);
    let monitors: Vec<Pid> = process::children(Pid::from_child(&child)).collect();
    let [monitor] = monitors[..] else {
        panic!("one monitor, not {monitors:?}");
    };
    kill_process(monitor, Signal::KILL).unwrap();
    let done = child.wait_with_output().unwrap();
    assert_eq!(done.status.code(), Some(125));
    let said = String::from_utf8(done.stderr).unwrap();
    assert!(said.starts_with("walnut: the machine ended"), "{said}");
    assert!(said.ends_with("its monitor was killed\n"), "{said}");
    assert_eq!(machines(&home), 0);
    home.assert_clean();
}

#[test]
fn killed_with_a_disk_a_volume_and_nothing_loaded() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    let volume = format!("{}:/volume", home.path().display());
    let image = home.busybox();
    // At first the image is loaded, until one run comes through with it.
    for ms in [10u64, 30, 60, 100, 200, 300, 500, 700, 900] {
        let run = ["run", "-v", &volume, "--network", "none", &image, "sync"];
        kill_after(ms, &home, &run);
    }
    // The next command knows of each whether it was made, and none runs.
    for line in home.says(&["ps", "-a", "--format", "{{.State}}"]).lines() {
        assert!(matches!(line, "created" | "exited"), "{line}");
    }
    home.remove_all();
    home.walnut(["run", "--rm", &image, "echo", "fine"])
        .run()
        .succeeded()
        .says("fine\n");
    assert_eq!(machines(&home), 0);
    let mut left = Vec::new();
    unfinished(&home.root(), &mut left);
    assert!(left.is_empty(), "{left:?}");
    home.assert_clean();
}

/// What was begun in the store, and belongs to nobody now.
fn unfinished(dir: &std::path::Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let (path, name) = (entry.path(), entry.file_name());
        let parent = dir.file_name().unwrap_or_default();
        let name = name.to_string_lossy();
        let record = parent == "containers" && name.len() == 64;
        let temporary = name.ends_with(".tmp") || name.ends_with(".new");
        if record || temporary || parent == "names" {
            found.push(path);
        } else if entry.file_type().unwrap().is_dir() {
            unfinished(&path, found);
        }
    }
}
