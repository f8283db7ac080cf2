// SPDX-License-Identifier: Apache-2.0
//! The monitor of a container that runs: what each of its threads may still do. That a forbidden call
//! kills is tested beside the filters.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::collections::BTreeSet;
use std::fs;

use walnut_tests::harness::{Home, skip};

const NO_KVM: &str = "no KVM that runs a stock kernel";

fn field<'a>(status: &'a str, name: &str) -> &'a str {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap().trim_start_matches(':').trim()
}

#[test]
fn every_thread_is_confined() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    let volume = format!("{}:/volume", home.path().display());
    let flags = ["-v", volume.as_str(), "--cpus", "2"];
    home.background_with("jailed", &flags, "echo up; exec sleep 1000");
    assert_eq!(home.first_line("jailed"), "up\n");
    let tasks = format!("/proc/{}/task", home.monitor("jailed").as_raw_nonzero());
    let mut kinds = BTreeSet::new();
    for task in fs::read_dir(tasks).unwrap() {
        let task = task.unwrap().path();
        let status = fs::read_to_string(task.join("status")).unwrap();
        let name = field(&status, "Name");
        let kind = name.trim_end_matches(|c: char| c.is_ascii_digit());
        // KVM has a thread of its own here, which never leaves the kernel.
        if !kind.starts_with("kvm-") {
            kinds.insert(kind.to_owned());
        }
        assert_eq!(field(&status, "NoNewPrivs"), "1", "{name}");
        assert_eq!(field(&status, "Seccomp"), "2", "{name}");
        // It acts for the guest's users on the host's files.
        if !kind.starts_with("fs") {
            assert_eq!(field(&status, "CapEff"), "0000000000000000", "{name}");
            assert_eq!(field(&status, "CapPrm"), "0000000000000000", "{name}");
        }
        // Never what changes the host itself.
        let left = u64::from_str_radix(field(&status, "CapPrm"), 16).unwrap();
        for capability in [12, 16, 17, 18, 19, 21] {
            assert_eq!(left >> capability & 1, 0, "{name}: {capability}");
        }
    }
    let kinds: Vec<&str> = kinds.iter().map(String::as_str).collect();
    assert_eq!(kinds, ["blk", "fs-walnut", "vcpu", "walnut-vmm"]);
    home.remove_all();
    home.assert_clean();
}
