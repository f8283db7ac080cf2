// SPDX-License-Identifier: Apache-2.0
//! A network of the test's own.

use std::process::Command;

use nix::sched::{CloneFlags, unshare};

/// Runs `ip ARGS`, or another program of its kind, where this thread is.
///
/// # Panics
/// When it fails.
pub fn host(line: &str) -> String {
    let mut words = line.split(' ');
    let done = Command::new(words.next().unwrap_or_default())
        .args(words)
        .output()
        .unwrap_or_else(|error| panic!("{line}: {error}"));
    assert!(
        done.status.success(),
        "{line}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
    String::from_utf8_lossy(&done.stdout).trim_end().to_owned()
}

/// Runs `test` in a thread with a network namespace of its own, whose loopback is up, and /sys as it
/// is there. It needs root.
///
/// # Panics
/// When the test does.
pub fn in_namespace(test: impl FnOnce() + Send) {
    let body = || {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("root may");
        host("mount --make-rprivate /");
        host("mount -t sysfs sysfs /sys");
        host("ip link set lo up");
        test();
    };
    std::thread::scope(|scope| {
        if let Err(panic) = scope.spawn(body).join() {
            std::panic::resume_unwind(panic);
        }
    });
}
