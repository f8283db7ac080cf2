// SPDX-License-Identifier: Apache-2.0
//! What is different for who is not root.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};

use walnut_tests::harness::{Home, SOMEBODY, skip};

const NO_KVM: &str = "no KVM that runs a stock kernel";

#[test]
fn a_volume_is_the_containers_users() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    home.forget_templates();
    let dir = home.path().join("volume");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("mine"), "1\n").unwrap();
    if rustix::process::geteuid().is_root() {
        for path in [dir.clone(), dir.join("mine")] {
            chown(path, Some(SOMEBODY), Some(SOMEBODY)).unwrap();
        }
    }
    let (volume, image) = (format!("{}:/work", dir.display()), home.busybox());
    let owner = fs::metadata(&dir).unwrap().uid();
    let seen = |user: &[&str], script| {
        let args = [&["run", "--rm", "-v", &volume, "-w", "/work"], user].concat();
        let args = [&args[..], &[&image, "sh", "-c", script]].concat();
        let done = home.unprivileged(args).run();
        done.succeeded();
        String::from_utf8(done.stdout).unwrap()
    };
    let script = "stat -c %u:%g . mine / && echo 2 >> mine && mkdir dir && echo 3 > dir/new && \
                  stat -c %u:%g dir/new";
    assert_eq!(
        seen(&["-u", "1000:1001"], script),
        "1000:1001\n1000:1001\n0:0\n1000:1001\n"
    );
    assert_eq!(fs::read_to_string(dir.join("mine")).unwrap(), "1\n2\n");
    assert_eq!(fs::metadata(dir.join("dir/new")).unwrap().uid(), owner);
    assert_eq!(seen(&["-u", "alice"], "stat -c %u:%g ."), "1000:1000\n");
    assert_eq!(seen(&[], "stat -c %u:%g . dir/new"), "0:0\n0:0\n");
    home.assert_clean();
}

#[test]
fn a_root_file_system_stays_roots() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    home.forget_templates();
    let root = home.path().join("rootfs");
    fs::create_dir_all(root.join("bin")).unwrap();
    fs::create_dir(root.join("work")).unwrap();
    fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    std::os::unix::fs::symlink("busybox", root.join("bin/sh")).unwrap();
    if rustix::process::geteuid().is_root() {
        let paths = ["", "bin", "work", "bin/busybox"];
        for path in paths {
            chown(root.join(path), Some(SOMEBODY), Some(SOMEBODY)).unwrap();
        }
    }
    let volume = format!("{}:/work", home.path().display());
    let script = "busybox stat -c %u / /bin /bin/busybox /work; (echo x > /bin/x) 2>/dev/null || echo refused";
    let args = [
        "run",
        "--rm",
        "--rootfs",
        root.to_str().unwrap(),
        "-v",
        &volume,
        "-u",
        "7",
        "/bin/sh",
        "-c",
        script,
    ];
    home.unprivileged(args)
        .run()
        .succeeded()
        .says("0\n0\n0\n7\nrefused\n");
    home.assert_clean();
}

#[test]
fn doctor_needs_no_root() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    home.forget_templates();
    let done = home.unprivileged(["doctor"]).run();
    done.succeeded();
    let text = String::from_utf8_lossy(&done.stdout);
    assert!(text.contains("ok  userns"), "{}", done.story());
}
