// SPDX-License-Identifier: Apache-2.0
//! What cannot work with containers: refused in words, or borne until there is room again.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::{fs, io};

use walnut_tests::harness::{Home, skip};
use walnut_tests::images::{self, Entry, Layer};

const NO_KVM: &str = "no KVM that runs a stock kernel";

#[test]
fn files_that_are_none() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    let image = home.busybox();
    let file = home.path().join("file");
    fs::write(&file, "x").unwrap();
    let file = file.to_str().unwrap();
    let dir = home.path().to_str().unwrap();
    let [onto_dir, onto_file] = [format!("{file}:/etc"), format!("{dir}:/etc/passwd")];
    let refused: [(&[&str], &str); 7] = [
        (&["--env-file", "/nonexistent"], "/nonexistent"),
        (&["--env-file", dir], dir),
        (&["--label-file", "/nonexistent"], "/nonexistent"),
        (&["--cidfile", file], "container ID file found"),
        (&["-v", &onto_dir], "/etc"),
        (&["-v", &onto_file], "/etc/passwd"),
        (&["--security-opt", "seccomp=/nonexistent"], "/nonexistent"),
    ];
    for (flags, words) in refused {
        let command = [image.as_str(), "true"];
        let line = ["run", "--rm"].iter().chain(flags).chain(&command);
        home.walnut(line).run().exited(125).complains(&[words]);
    }
    assert_eq!(home.says(&["ps", "-aq"]), "");
    home.assert_clean();
}

/// What it is told by is its name alone: here, a script has it.
#[test]
fn systemd_without_the_rights_for_it() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    let mut image = images::busybox().unwrap();
    image.layers.push(Layer(vec![
        Entry::directory("lib", 0o755),
        Entry::directory("lib/systemd", 0o755),
        Entry::file("lib/systemd/systemd", 0o755, "#!/bin/sh\necho $$\n"),
        Entry::directory("sbin", 0o755),
        Entry::symlink("sbin/init", "/lib/systemd/systemd"),
    ]));
    let archive = home.path().join("systemd.tar");
    image.write_oci_archive(&archive).unwrap();
    let image = format!("oci-archive:{}", archive.display());
    let run = |flags: &[&str], args: &[&str]| {
        let line = ["run", "--rm"].iter().chain(flags);
        home.walnut(line.chain(&[image.as_str()]).chain(args)).run()
    };
    for name in ["/sbin/init", "init", "/lib/systemd/systemd"] {
        let words = ["systemd, which manages control groups", "--privileged"];
        run(&[], &[name]).exited(126).complains(&words);
    }
    run(&["--privileged"], &["init"]).succeeded().says("1\n");
    // As a process like others, it says itself that it is not the system's.
    let second = run(&["--init"], &["init"]);
    assert_ne!(second.succeeded().stdout, b"1\n");
    home.assert_clean();
}

#[test]
fn no_room_for_what_it_writes() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    if !rustix::process::geteuid().is_root() {
        return skip("a small tmpfs needs root");
    }
    let small = home.path().join("small");
    fs::create_dir(&small).unwrap();
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount("tmpfs", &small, "tmpfs", flags, c"size=48m").unwrap();
    let root = small.join("root");
    let image = home.busybox();
    let walnut = |args: &[&str]| {
        let own = ["--root", root.to_str().unwrap()];
        home.walnut(own.iter().chain(args)).run()
    };
    let script = "dd if=/dev/zero of=/f bs=1M count=100 conv=fsync 2> /dev/null || echo full > \
                  /dev/shm/said; exec sleep 1000";
    walnut(&["run", "-d", "--name", "big", &image, "sh", "-c", script]).succeeded();
    let wait = "until test -s /dev/shm/said; do usleep 10000; done; cat /dev/shm/said";
    // It is told, and lives on; so do the commands.
    walnut(&["exec", "big", "sh", "-c", wait])
        .succeeded()
        .says("full\n");
    let listed = walnut(&["ps", "-a", "--format", "{{.Names}} {{.State}}"]);
    listed.succeeded().says("big running\n");
    // One more does not fit, and says so.
    let done = walnut(&["create", "--name", "other", &image, "true"]);
    let more = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(
        done.status() == 0 || more.contains("No space left on device"),
        "{}",
        done.story()
    );
    // Not a byte is left: what becomes of it is known all the same.
    let fill = fs::write(small.join("fill"), vec![0; 64 << 20]);
    assert_eq!(fill.unwrap_err().kind(), io::ErrorKind::StorageFull);
    walnut(&["kill", "big"]).succeeded();
    walnut(&["wait", "big"]).succeeded().says("137\n");
    let format = "{{.State.Status}} {{.State.ExitCode}} {{.State.Error}}";
    let ended = walnut(&["inspect", "--format", format, "big"]);
    ended.succeeded().says("exited 137 \n");
    walnut(&["rm", "-f", "big", "other"]).succeeded();
    fs::remove_file(small.join("fill")).unwrap();
    assert_eq!(walnut(&["ps", "-aq"]).stdout, b"");
    walnut(&["run", "--rm", &image, "echo", "room"])
        .succeeded()
        .says("room\n");
    rustix::mount::unmount(&small, rustix::mount::UnmountFlags::DETACH).unwrap();
    home.assert_clean();
}
