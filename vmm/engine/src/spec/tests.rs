// SPDX-License-Identifier: Apache-2.0

use serde_json::Value;

use super::*;
use crate::container::testing::container;
use crate::storage::{Layout, Source};

fn generated(flags: &[&str]) -> Value {
    let container = container(flags);
    let layout = Layout::new(&container, &Source::Image("/image".into()), None);
    serde_json::from_slice(&generate(&container, &layout, Some((101, 33))).unwrap()).unwrap()
}

fn filter(flags: &[&str]) -> Vec<u8> {
    seccomp_filter(&container(flags)).unwrap().0
}

fn mount<'a>(spec: &'a Value, destination: &str) -> &'a Value {
    let mounts = spec["mounts"].as_array().unwrap();
    mounts
        .iter()
        .find(|m| m["destination"] == destination)
        .unwrap()
}

fn has_option(mount: &Value, option: &str) -> bool {
    mount["options"]
        .as_array()
        .unwrap()
        .iter()
        .any(|o| o == option)
}

#[test]
fn a_plain_container() {
    let spec = generated(&[]);
    assert_eq!(spec["process"]["args"], serde_json::json!(["prog", "arg"]));
    assert_eq!(spec["process"]["cwd"], "/");
    assert_eq!(spec["process"]["terminal"], false);
    assert_eq!(spec["process"]["noNewPrivileges"], false);
    assert_eq!(spec["root"]["path"], "/run/walnut/rootfs");
    assert_eq!(spec["root"]["readonly"], false);
    assert_eq!(spec["process"]["rlimits"][0]["soft"], 1 << 20);
    let caps = &spec["process"]["capabilities"];
    assert_eq!(caps["bounding"].as_array().unwrap().len(), 14);
    assert_eq!(caps["ambient"].as_array().unwrap().len(), 0);
    assert!(has_option(mount(&spec, "/sys"), "ro"));
    assert!(has_option(
        mount(&spec, "/dev/shm"),
        &format!("size={}", 256 << 20)
    ));
    assert_eq!(
        mount(&spec, "/etc/hosts")["source"],
        "/run/walnut/files/hosts"
    );
    // The filter goes beside the spec, compiled.
    assert!(spec["linux"].get("seccomp").is_none());
    assert!(filter(&[]).len() > 1000);
    let masked = spec["linux"]["maskedPaths"].as_array().unwrap();
    assert!(masked.iter().any(|path| path == "/proc/kcore"));
    assert!(spec["linux"]["resources"].get("memory").is_none());
}

#[test]
fn no_network_namespace_of_its_own() {
    let spec = generated(&[]);
    let kinds: Vec<&str> = spec["linux"]["namespaces"]
        .as_array()
        .unwrap()
        .iter()
        .map(|n| n["type"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, ["mount", "pid", "ipc", "uts", "cgroup"]);
}

#[test]
fn limits_are_cgroup_limits() {
    let spec = generated(&[
        "-m",
        "64m",
        "--cpus",
        "1.5",
        "--pids-limit",
        "50",
        "--shm-size",
        "1m",
    ]);
    let resources = &spec["linux"]["resources"];
    assert_eq!(resources["memory"]["limit"], 64 << 20);
    assert_eq!(resources["memory"]["swap"], 64 << 20);
    assert_eq!(
        (&resources["cpu"]["quota"], &resources["cpu"]["period"]),
        (&150_000.into(), &100_000.into())
    );
    assert_eq!(resources["pids"]["limit"], 50);
    assert!(has_option(mount(&spec, "/dev/shm"), "size=1048576"));
    // Whole processors are the machine's own number: nothing to throttle.
    assert!(
        generated(&["--cpus", "2"])["linux"]["resources"]
            .get("cpu")
            .is_none()
    );
}

#[test]
fn privileged_is_everything_its_machine_has() {
    let spec = generated(&["--privileged"]);
    assert_eq!(
        spec["process"]["capabilities"]["bounding"]
            .as_array()
            .unwrap()
            .len(),
        41
    );
    assert!(filter(&["--privileged"]).is_empty());
    assert_eq!(spec["linux"]["maskedPaths"].as_array().unwrap().len(), 0);
    assert_eq!(spec["linux"]["readonlyPaths"].as_array().unwrap().len(), 0);
    assert!(has_option(mount(&spec, "/sys"), "rw"));
    assert_eq!(spec["linux"]["resources"]["devices"][0]["allow"], true);
}

#[test]
fn the_users_mounts_replace_and_follow_ours() {
    let spec = generated(&[
        "-v",
        "/usr:/a/b:ro",
        "-v",
        "/etc:/a",
        "-v",
        "/etc/hostname:/etc/hosts",
        "--tmpfs",
        "/dev/shm:size=1m",
    ]);
    let destinations: Vec<&str> = spec["mounts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m["destination"].as_str().unwrap())
        .collect();
    assert_eq!(
        destinations.iter().filter(|d| **d == "/etc/hosts").count(),
        1
    );
    assert_eq!(destinations.iter().filter(|d| **d == "/dev/shm").count(), 1);
    let at = |d: &str| destinations.iter().position(|x| *x == d).unwrap();
    assert!(at("/a") < at("/a/b") && at("/proc") < at("/a"));
    assert_eq!(mount(&spec, "/a/b")["source"], "/run/walnut/volumes/0");
    assert!(has_option(mount(&spec, "/a/b"), "ro") && has_option(mount(&spec, "/a"), "rw"));
    assert_eq!(
        mount(&spec, "/etc/hosts")["source"],
        "/run/walnut/volumes/2"
    );
}

#[test]
fn small_switches() {
    let spec = generated(&[
        "-t",
        "--read-only",
        "--security-opt",
        "no-new-privileges",
        "--ulimit",
        "nofile=5:6",
        "--stop-signal",
        "INT",
        "-h",
        "box",
    ]);
    assert_eq!(spec["process"]["terminal"], true);
    assert_eq!(spec["root"]["readonly"], true);
    assert_eq!(spec["process"]["noNewPrivileges"], true);
    assert_eq!(spec["process"]["rlimits"][0]["hard"], 6);
    assert_eq!(spec["annotations"][STOP_SIGNAL_ANNOTATION], "2");
    assert_eq!(spec["hostname"], "box");
    let env = spec["process"]["env"].as_array().unwrap();
    assert!(env.iter().any(|e| e == "TERM=xterm"));
}
