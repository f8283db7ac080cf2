// SPDX-License-Identifier: Apache-2.0
//! The emulated host itself. Runs outside of it: each of these boots one.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::pty::OpenptFlags;
use rustix::termios::{LocalModes, Winsize};
use walnut_tests::harness::process::spawn_saying;
use walnut_tests::harness::{Program, skip};
use walnut_tests::kvm;

fn emulated_host(args: &[&str]) -> Program {
    Program::new(env!("CARGO_BIN_EXE_emulated-host"))
        .args(args)
        .deadline(Duration::from_secs(300))
}

/// What a test here needs.
fn qemu() -> bool {
    let found = Program::new("sh")
        .args(["-c", "command -v qemu-system-x86_64"])
        .run()
        .status()
        == 0;
    if !found {
        skip("qemu-system-x86_64 is not installed");
    }
    found
}

/// Processes of QEMU that descend from `parent`, by /proc/PID/stat's fourth field.
fn children(parent: u32) -> Vec<u32> {
    let entries = fs::read_dir("/proc")
        .expect("/proc is mounted")
        .filter_map(Result::ok);
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let after_name = stat.rsplit(')').next().unwrap_or_default().to_owned();
            after_name.split_whitespace().nth(1) == Some(parent.to_string().as_str())
        })
        .collect()
}

#[test]
fn passes_streams_status_directory_and_environment() {
    if !qemu() {
        return;
    }
    let output = tempfile::tempdir().unwrap();
    let path = output.path().to_str().unwrap();
    // All 256 byte values, thrice the size of any buffer on the way.
    let blob: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    let script = format!(
        "test -c /dev/kvm || exit 90; test \"$PWD\" = \"{path}\" || exit 91; \
         test \"$MARK\" = ' b' || exit 92; test -e /sys/kernel/debug/kvm || exit 93; \
         test -f /sys/fs/cgroup/cgroup.controllers || exit 94; \
         grep -qw svm /proc/cpuinfo || exit 95; \
         echo kept > '{path}/file' || exit 96; echo lost > /etc/walnut-test || exit 97; \
         stat -c %G:%a /dev/kvm | grep -qx kvm:660 || exit 98; \
         echo to-stderr >&2; (sleep 1000 &) ; cat; exit 7"
    );
    let done = emulated_host(&["run", "--timeout-s", "240", "--output", path, "--"])
        .args(["sh", "-c", &script])
        .current_dir(path)
        .env("MARK", " b")
        .stdin(blob.clone())
        .run();
    done.exited(7).complains(&["to-stderr"]);
    assert!(
        done.stdout == blob,
        "{} bytes came back of {}",
        done.stdout.len(),
        blob.len()
    );
    assert_eq!(
        fs::read_to_string(output.path().join("file")).unwrap(),
        "kept\n"
    );
    assert!(
        !fs::exists("/etc/walnut-test").unwrap(),
        "the outside is read-only"
    );
}

#[test]
fn a_command_that_is_not_there_is_127() {
    if !qemu() {
        return;
    }
    let done = emulated_host(&["run", "--timeout-s", "240", "--", "/nonexistent/program"]).run();
    done.exited(127)
        .complains(&["/nonexistent/program", "No such file"]);
}

#[test]
fn the_deadline_kills() {
    if !qemu() {
        return;
    }
    let done = emulated_host(&["run", "--timeout-s", "2", "--", "sleep", "1000"]).run();
    done.exited(124);
    assert!(String::from_utf8_lossy(&done.stderr).contains("still running after 2 s"));
}

#[test]
fn its_death_shows_its_console() {
    if !qemu() {
        return;
    }
    let script = "echo c > /proc/sysrq-trigger";
    let done = emulated_host(&["run", "--timeout-s", "240", "--", "sh", "-c", script]).run();
    done.exited(125);
    let text = String::from_utf8_lossy(&done.stderr);
    for words in [
        "the emulated host died; its console's last words:",
        "Kernel panic - not syncing: sysrq triggered crash",
    ] {
        assert!(text.contains(words), "{}", done.story());
    }
}

/// A QEMU whose kernel finds no init for the first `boots` times, to be first on the PATH. It counts them
/// in `n`.
fn qemu_that_fails(boots: usize) -> (tempfile::TempDir, String) {
    qemu_that(&format!(
        "n=$(cat \"${{0%/*}}/n\" 2>/dev/null || echo 0)\necho $((n + 1)) > \"${{0%/*}}/n\"\n\
         PATH=${{PATH#*:}}\n[ $n -lt {boots} ] || exec qemu-system-x86_64 \"$@\"\n\
         exec qemu-system-x86_64 \"$@\" -append 'console=ttyS0 panic=-1 rdinit=/none init=/none'\n"
    ))
}

/// A script in QEMU's place, and the PATH that it is first on.
fn qemu_that(does: &str) -> (tempfile::TempDir, String) {
    let place = tempfile::tempdir().expect("the temporary directory is writable");
    let directory = place.path().to_str().expect("its path is UTF-8");
    let script = format!("#!/bin/bash\n{does}");
    let program = place.path().join("qemu-system-x86_64");
    fs::write(&program, script).expect("it is writable");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("it is there");
    let path = format!(
        "{directory}:{}",
        std::env::var("PATH").expect("there is a PATH")
    );
    (place, path)
}

#[test]
fn a_boot_that_fails_is_tried_again() {
    if !qemu() {
        return;
    }
    let (_place, path) = qemu_that_fails(1);
    let done = emulated_host(&["run", "--timeout-s", "240", "--", "cat"])
        .env("PATH", &path)
        .stdin(b"kept for the second boot".to_vec())
        .run();
    done.exited(0).says("kept for the second boot");
    let text = String::from_utf8_lossy(&done.stderr);
    for words in [
        "did not boot; its console's last words:",
        "booted once more",
    ] {
        assert!(text.contains(words), "{}", done.story());
    }
}

#[test]
fn boots_that_all_fail_are_its_failure() {
    if !qemu() {
        return;
    }
    let (place, path) = qemu_that_fails(9);
    let done = emulated_host(&["run", "--timeout-s", "240", "--", "true"])
        .env("PATH", &path)
        .run();
    done.exited(125);
    let text = String::from_utf8_lossy(&done.stderr);
    assert!(
        text.contains("Kernel panic - not syncing"),
        "{}",
        done.story()
    );
    let boots = fs::read_to_string(place.path().join("n")).unwrap();
    assert_eq!(boots, "3\n");
}

#[test]
fn the_deadline_is_of_all_boots() {
    if !qemu() {
        return;
    }
    // Each takes its time, says a word on the console, and is no machine.
    let (_place, path) =
        qemu_that("[[ $* =~ id=console,fd=([0-9]+) ]]\nsleep 3\necho panic >&${BASH_REMATCH[1]}\n");
    let done = emulated_host(&["run", "--timeout-s", "8", "--", "true"])
        .env("PATH", &path)
        .run();
    done.exited(124);
    let text = String::from_utf8_lossy(&done.stderr);
    assert!(text.contains("still running after 8 s"), "{}", done.story());
}

#[test]
fn a_qemu_that_ends_at_once_has_the_last_word() {
    if !qemu() {
        return;
    }
    let (_place, path) = qemu_that("echo 'no such machine' >&2; exit 1\n");
    // More than a socket takes: the request is still being written.
    let much = "x".repeat(100_000);
    let done = emulated_host(&["run", "--timeout-s", "240", "--", "true"])
        .env("PATH", &path)
        .env("MUCH", &much)
        .run();
    done.exited(125);
    let text = String::from_utf8_lossy(&done.stderr);
    assert!(text.contains("no such machine"), "{}", done.story());
}

#[test]
fn an_interrupt_leaves_nothing_behind() {
    if !qemu() {
        return;
    }
    let run = emulated_host(&[
        "run",
        "--timeout-s",
        "240",
        "--",
        "sh",
        "-c",
        "echo up; sleep 1000",
    ]);
    let mut run = run.into_command();
    run.stderr(Stdio::null());
    let (mut child, stdout) = spawn_saying(run, "up");
    drop(stdout);
    let qemus = children(child.id());
    assert_eq!(qemus.len(), 1, "QEMU is its only child");
    let qemu = rustix::process::Pid::from_raw(qemus[0].try_into().unwrap()).unwrap();
    // Opened while it lives, so that it can't be mistaken for another.
    let handle = rustix::process::pidfd_open(qemu, rustix::process::PidfdFlags::empty()).unwrap();
    let this = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(this, rustix::process::Signal::INT).unwrap();
    child.wait().unwrap();
    let mut ended = [rustix::event::PollFd::new(
        &handle,
        rustix::event::PollFlags::IN,
    )];
    let timeout = rustix::event::Timespec {
        tv_sec: 60,
        tv_nsec: 0,
    };
    assert_eq!(
        rustix::event::poll(&mut ended, Some(&timeout)).unwrap(),
        1,
        "QEMU lives on"
    );
}

#[test]
fn a_shell_has_a_terminal_that_resizes() {
    if !qemu() {
        return;
    }
    if kvm::detect().is_usable() {
        return skip("the shell would run right here");
    }
    let master = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    rustix::pty::unlockpt(&master).unwrap();
    let name = rustix::pty::ptsname(&master, Vec::new())
        .unwrap()
        .into_string()
        .unwrap();
    let slave = OpenOptions::new()
        .read(true)
        .write(true)
        .open(name)
        .unwrap();
    resize(&master, 33, 101);

    // Inside, SIGWINCH interrupts the wait.
    let script = "trap 'stty size; exit 5' WINCH; stty size; sleep 1000 & wait";
    let mut child = Command::new("setsid")
        .args(["-c", "-w", env!("CARGO_BIN_EXE_emulated-host"), "shell"])
        .args(["--timeout-s", "240", "--", "sh", "-c", script])
        .stdin(slave.try_clone().unwrap())
        .stdout(slave.try_clone().unwrap())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut screen = BufReader::new(File::from(master.try_clone().unwrap()));
    assert_eq!(line(&mut screen), "33 101");
    resize(&master, 40, 120);
    assert_eq!(line(&mut screen), "40 120");
    assert_eq!(child.wait().unwrap().code(), Some(5));
    let now = rustix::termios::tcgetattr(&slave).unwrap();
    assert!(
        now.local_modes.contains(LocalModes::ECHO),
        "the terminal is as it was"
    );
}

fn resize(master: &OwnedFd, ws_row: u16, ws_col: u16) {
    let size = Winsize {
        ws_row,
        ws_col,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    rustix::termios::tcsetwinsize(master, size).expect("a terminal has a size");
}

fn line(screen: &mut impl BufRead) -> String {
    let mut line = String::new();
    screen.read_line(&mut line).expect("the terminal lives");
    line.trim().to_owned()
}
