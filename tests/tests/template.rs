// SPDX-License-Identifier: Apache-2.0
//! Machines that start from a template: they differ where they must, and are whole.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::collections::HashSet;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use walnut_tests::harness::{Done, Home, Program, rounds, skip};

const NO_KVM: &str = "no KVM that runs a stock kernel";

/// A home with a template of its own, and its ID.
fn home() -> Option<(Home, String)> {
    let home = Home::new()?;
    home.forget_templates();
    let id = home.says(&["template", "create"]);
    Some((home, id))
}

fn run(home: &Home, flags: &[&str], script: &str) -> Done {
    let image = home.busybox();
    let first = ["run", "--rm", "--timings=json"];
    let last = [image.as_str(), "sh", "-c", script];
    home.walnut(first.iter().chain(flags).chain(&last)).run()
}

/// What a clone printed; it must be one.
fn clone(home: &Home, flags: &[&str], script: &str) -> String {
    let done = run(home, flags, script);
    done.succeeded();
    assert!(was_cloned(&done), "it booted\n{}", done.story());
    String::from_utf8(done.stdout)
        .unwrap()
        .trim_end()
        .to_owned()
}

fn was_cloned(done: &Done) -> bool {
    let timings = String::from_utf8_lossy(&done.stderr);
    timings.contains("\"phase\":\"wake\"")
}

fn files(home: &Home, id: &str) -> PathBuf {
    home.root().join("templates").join(id)
}

#[test]
fn create_list_remove() {
    let Some((home, id)) = home() else {
        return skip(NO_KVM);
    };
    let list = home.says(&["template", "ls"]);
    let mut lines = list.lines();
    let header = lines.next().unwrap();
    for column in [
        "TEMPLATE ID",
        "CPUS",
        "MEMORY",
        "IMAGE ROOM",
        "NETWORK",
        "SIZE",
        "CREATED",
        "STATUS",
    ] {
        assert!(header.contains(column), "{list}");
    }
    let line = lines.next().unwrap();
    assert!(line.starts_with(&id) && line.ends_with("Ready"), "{list}");
    for file in ["memory", "state", "working-set", "template.json"] {
        let mode = fs::metadata(files(&home, &id).join(file)).unwrap().mode();
        assert_eq!(mode & 0o777, 0o400, "{file}");
    }
    let other = home.says(&["template", "create", "--memory", "100m"]);
    assert_ne!(other, id);
    assert_eq!(
        home.says(&["template", "ls", "-q"]),
        format!("{id}\n{other}")
    );
    assert_eq!(home.says(&["template", "rm", &other]), other);
    let missing = home.walnut(["template", "rm", &other, "../x"]).run();
    missing.exited(1).says("");
    let words = String::from_utf8_lossy(&missing.stderr).into_owned();
    assert!(
        words.contains(&format!("No such template: {other}")),
        "{words}"
    );
    assert!(words.contains("No such template: ../x"), "{words}");
    let pruned = home.says(&["template", "prune"]);
    assert_eq!(pruned, "Total reclaimed space: 0 B");
    let pruned = home.says(&["template", "prune", "--all"]);
    assert!(
        pruned.starts_with(&format!("Deleted Templates:\n{id}\n")),
        "{pruned}"
    );
    assert_eq!(home.says(&["template", "ls", "-q"]), "");
    home.assert_clean();
}

#[test]
fn clones_have_random_numbers_of_their_own() {
    let Some((home, _)) = home() else {
        return skip(NO_KVM);
    };
    let script = "head -c 16 /dev/urandom | od -An -tx1; cat /proc/sys/kernel/random/uuid; \
                  cat /proc/sys/kernel/random/boot_id; mktemp -u; hostname";
    let first = clone(&home, &[], script);
    let second = clone(&home, &[], script);
    assert_eq!(first.lines().count(), 5, "{first}");
    for (one, other) in first.lines().zip(second.lines()) {
        assert_ne!(one, other);
    }
}

#[test]
fn clones_know_what_time_it_is() {
    let Some((home, _)) = home() else {
        return skip(NO_KVM);
    };
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let before = now();
    // adjtimex prints the clock itself, in microseconds.
    let said = clone(
        &home,
        &["--cap-add", "SYS_TIME"],
        "adjtimex | sed -n 's/.*tv_u\\?sec: *//p'; cut -d' ' -f1 /proc/uptime; \
         sleep 1; cut -d' ' -f1 /proc/uptime",
    );
    let after = now();
    let lines: Vec<f64> = said.lines().map(|line| line.parse().unwrap()).collect();
    let &[seconds, micros, early, late] = lines.as_slice() else {
        panic!("{said}");
    };
    let clock = Duration::from_secs_f64(seconds) + Duration::from_secs_f64(micros / 1e6);
    let tolerance = Duration::from_millis(10);
    assert!(
        before <= clock + tolerance && clock <= after + tolerance,
        "{clock:?} is not between {before:?} and {after:?}"
    );
    // Time since boot goes on from the template's, and a timer fires when it should.
    assert!((1.0..30.0).contains(&(late - early)), "{said}");
    assert!(early < 60.0, "{said}");
}

#[test]
fn devices_are_the_containers_own() {
    let Some((home, _)) = home() else {
        return skip(NO_KVM);
    };
    let shared = home.path().join("shared");
    fs::create_dir(&shared).unwrap();
    fs::write(shared.join("in"), "from the host").unwrap();
    let volume = format!("{}:/shared", shared.display());
    let said = clone(
        &home,
        &["-v", &volume],
        "cat /shared/in; echo back > /shared/out; sync",
    );
    assert_eq!(said, "from the host");
    assert_eq!(fs::read_to_string(shared.join("out")).unwrap(), "back\n");

    // A writable disk that is kept, of the size that was asked for.
    let image = home.busybox();
    let flags = ["run", "--name", "kept", "--storage-opt", "size=64m"];
    let script =
        "df -m / | tail -1; echo text > /file; [ -e /twice ] && cat /twice; echo 2 > /twice";
    let command = [image.as_str(), "sh", "-c", script];
    let first = home.walnut(flags.iter().chain(&command)).run();
    first.succeeded();
    let words: Vec<_> = std::str::from_utf8(&first.stdout)
        .unwrap()
        .split_whitespace()
        .collect();
    let size: u64 = words[1].parse().unwrap();
    assert!((48..=64).contains(&size), "{words:?}");
    let again = home.walnut(["start", "-a", "kept"]).run();
    again.succeeded();
    assert!(again.stdout.ends_with(b"2\n"), "{}", again.story());
    home.remove_all();
    home.assert_clean();
}

#[test]
fn several_cpus_and_another_size() {
    let Some((home, _)) = home() else {
        return skip(NO_KVM);
    };
    let size = ["--cpus", "2", "--memory", "200m"];
    let line = ["template", "create"].iter().chain(&size);
    home.walnut(line).run().succeeded();
    let script = "nproc; cat /sys/fs/cgroup/memory.max; \
                  for i in 1 2 3 4; do (sleep 0.1; echo) & done; wait; grep -c ^processor /proc/cpuinfo";
    let said = clone(&home, &size, script);
    let lines: Vec<_> = said.lines().filter(|line| !line.is_empty()).collect();
    assert_eq!(lines, ["2", "209715200", "2"]);
}

#[test]
fn a_template_that_does_not_work_is_none() {
    let Some((home, id)) = home() else {
        return skip(NO_KVM);
    };
    let state = files(&home, &id).join("state");
    fs::remove_file(&state).unwrap();
    fs::write(&state, "{}").unwrap();
    let done = run(&home, &[], "echo hello");
    done.succeeded().says("hello\n");
    assert!(!was_cloned(&done), "{}", done.story());
    assert_eq!(home.says(&["template", "ls", "-q"]), "");

    // One bit of either file that is not as it was written.
    for name in ["state", "working-set"] {
        let id = home.says(&["template", "create"]);
        let path = files(&home, &id).join(name);
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x10;
        fs::remove_file(&path).unwrap();
        fs::write(&path, bytes).unwrap();
        let done = run(&home, &[], "echo hello");
        done.succeeded().says("hello\n");
        assert!(!was_cloned(&done), "{name}\n{}", done.story());
        assert_eq!(home.says(&["template", "ls", "-q"]), "", "{name}");
    }

    // A memory file that is too short.
    let id = home.says(&["template", "create"]);
    let memory = files(&home, &id).join("memory");
    fs::remove_file(&memory).unwrap();
    fs::write(&memory, "short").unwrap();
    let done = run(&home, &[], "echo hello");
    done.succeeded().says("hello\n");
    assert!(!was_cloned(&done), "{}", done.story());
    assert_eq!(home.says(&["template", "ls", "-q"]), "");
    home.assert_clean();
}

#[test]
fn a_template_that_cannot_be_read_is_none() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    home.forget_templates();
    let made = home.unprivileged(["template", "create"]).run();
    made.succeeded();
    let id = String::from_utf8(made.stdout).unwrap();
    let memory = files(&home, id.trim()).join("memory");
    fs::set_permissions(&memory, fs::Permissions::from_mode(0o000)).unwrap();
    let image = home.busybox();
    let line = ["run", "--rm", "--timings=json", &image, "echo", "hello"];
    let done = home.unprivileged(line).run();
    done.succeeded().says("hello\n");
    assert!(!was_cloned(&done), "{}", done.story());
    assert_eq!(home.says(&["template", "ls", "-q"]), "");
    home.assert_clean();
}

#[test]
fn what_a_killed_maker_left_is_no_template() {
    let Some((home, id)) = home() else {
        return skip(NO_KVM);
    };
    let part = home.root().join(format!("templates/{id}.part"));
    fs::create_dir(&part).unwrap();
    fs::write(part.join("memory"), "half").unwrap();
    assert_eq!(home.says(&["template", "rm", &id]), id);
    assert_eq!(home.says(&["template", "ls", "-q"]), "");
    assert_eq!(home.says(&["template", "create"]), id);
    assert!(!part.exists());
    clone(&home, &[], "true");
}

#[test]
fn one_maker_at_a_time() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    home.forget_templates();
    let done: Vec<Done> = thread::scope(|scope| {
        let home = &home;
        let threads: Vec<_> = (0..3)
            .map(|_| scope.spawn(move || home.walnut(["template", "create"]).run()))
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert!(done.iter().any(|done| done.status() == 0));
    for refused in done.iter().filter(|done| done.status() != 0) {
        refused.exited(1).complains(&["is being made already"]);
    }
    assert_eq!(home.says(&["template", "ls", "-q"]).lines().count(), 1);
    clone(&home, &[], "true");
    home.assert_clean();
}

#[test]
fn a_full_disk_leaves_no_template() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    home.forget_templates();
    let templates = home.root().join("templates");
    fs::create_dir_all(&templates).unwrap();
    let mount = |args: &[&str]| Program::new("mount").args(args).args([&templates]).run();
    mount(&["-t", "tmpfs", "-o", "size=4m", "tmpfs"]).succeeded();
    let done = home.walnut(["template", "create"]).run();
    let left = fs::read_dir(&templates).unwrap().count();
    Program::new("umount").args([&templates]).run().succeeded();
    done.exited(1).complains(&["No space left on device"]);
    assert_eq!(left, 0);
    home.assert_clean();
}

#[test]
fn the_first_run_leaves_a_template_behind() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    home.forget_templates();
    let templates = home.root().join("templates");
    fs::create_dir_all(&templates).unwrap();
    let made = Inotify::init(InitFlags::IN_CLOEXEC).unwrap();
    made.add_watch(&templates, AddWatchFlags::IN_MOVED_TO)
        .unwrap();
    let image = home.busybox();
    let done = home
        .walnut(["run", "--rm", "-v", "data:/data", &image, "echo", "hello"])
        .env("WALNUT_MAKE_TEMPLATES", "yes")
        .run();
    done.succeeded().says("hello\n");
    // Who makes the template holds nothing of the run's.
    assert_eq!(home.says(&["volume", "rm", "data"]), "data");
    let deadline = PollTimeout::from(60_000u16);
    let ready = poll(
        &mut [PollFd::new(made.as_fd(), PollFlags::POLLIN)],
        deadline,
    )
    .unwrap();
    assert_eq!(ready, 1, "no template after a minute\n{}", done.story());
    clone(&home, &[], "true");
}

#[test]
fn cold_is_cold() {
    let Some((home, _)) = home() else {
        return skip(NO_KVM);
    };
    let done = run(&home, &["--start", "cold"], "echo hello");
    done.succeeded().says("hello\n");
    assert!(!was_cloned(&done), "{}", done.story());
}

#[test]
fn template_makes_what_it_needs() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    home.forget_templates();
    let said = clone(&home, &["--start", "template"], "echo hello");
    assert_eq!(said, "hello");
    assert_eq!(home.says(&["template", "ls", "-q"]).lines().count(), 1);
    home.assert_clean();
}

#[test]
fn many_in_a_row_and_at_once() {
    const IN_A_ROW: usize = 20;
    const AT_ONCE: usize = 32;
    let Some((home, _)) = home() else {
        return skip(NO_KVM);
    };
    // So that nothing is loaded meanwhile.
    clone(&home, &[], "true");
    let script = "head -c 16 /dev/urandom | od -An -tx1";
    let mut seen = HashSet::new();
    for _ in 0..rounds(IN_A_ROW) {
        assert!(seen.insert(clone(&home, &[], script)));
    }
    let all: Vec<String> = thread::scope(|scope| {
        let home = &home;
        let threads: Vec<_> = (0..AT_ONCE)
            .map(|_| scope.spawn(move || clone(home, &[], script)))
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    for one in all {
        assert!(seen.insert(one));
    }
    home.assert_clean();
}
