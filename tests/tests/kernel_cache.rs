// SPDX-License-Identifier: Apache-2.0
//! The cache of guest kernels does not grow for ever.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::fs::{self, File, FileTimes};
use std::path::Path;
use std::time::{Duration, SystemTime};

use walnut_tests::harness::Program;
use walnut_tests::place;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A kernel that was used so many days ago.
fn kernel(cache: &Path, name: &str, days: u32) {
    let dir = cache.join(name);
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("vmlinux"), "").unwrap();
    let used = SystemTime::now() - days * DAY;
    let times = FileTimes::new().set_modified(used);
    File::open(&dir).unwrap().set_times(times).unwrap();
}

fn prune(cache: &Path, in_use: &str) -> Vec<String> {
    Program::new(place::checkout().join("guest-image/prune-kernels"))
        .args([cache.join(in_use).join("vmlinux")])
        .run()
        .succeeded();
    let names = fs::read_dir(cache).unwrap();
    let mut names: Vec<String> = names
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "lock")
        .collect();
    names.sort();
    names
}

#[test]
fn old_kernels_go_but_for_the_newest_three() {
    let cache = tempfile::tempdir().unwrap();
    let name = |n: u32| format!("{n:016x}");
    for (n, days) in [(1, 100), (2, 90), (3, 40), (4, 20), (5, 10), (6, 200)] {
        kernel(cache.path(), &name(n), days);
    }
    // Neither a kernel.
    kernel(cache.path(), "tmp.abc", 300);
    // The sixth is in use now, so three are younger than the third.
    let left = [4, 5, 6].map(name).into_iter().chain(["tmp.abc".into()]);
    assert_eq!(prune(cache.path(), &name(6)), left.collect::<Vec<_>>());
}

#[test]
fn what_was_used_within_a_month_stays() {
    let cache = tempfile::tempdir().unwrap();
    let names: Vec<String> = (1..=5).map(|n| format!("{n:016x}")).collect();
    for name in &names {
        kernel(cache.path(), name, 29);
    }
    assert_eq!(prune(cache.path(), &names[0]), names);
    let few = tempfile::tempdir().unwrap();
    for name in &names[..3] {
        kernel(few.path(), name, 300);
    }
    assert_eq!(prune(few.path(), &names[0]), names[..3]);
}
