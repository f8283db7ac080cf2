// SPDX-License-Identifier: Apache-2.0
//! Named volumes: made, filled at their first use, kept, one writer's at a time, removed.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::fs;
use std::path::Path;

use walnut_tests::harness::process::kill_and_wait;
use walnut_tests::harness::{Home, skip};
use walnut_tests::images::{self, Entry, Layer};

const NO_KVM: &str = "no KVM that runs a stock kernel";

#[test]
fn outlives_its_containers() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    let image = home.busybox();
    assert_eq!(
        home.says(&["volume", "create", "--label", "a=b", "data"]),
        "data"
    );
    let run = |flags: &[&str], script: &str| {
        let command = [image.as_str(), "sh", "-c", script];
        let line: Vec<&str> = ["run", "--rm"]
            .iter()
            .chain(flags)
            .chain(&command)
            .copied()
            .collect();
        home.walnut(line).run()
    };
    // Nothing of the file system's own is seen.
    let script = "ls -A /d; echo kept > /d/file; chown 1000:50 /d/file";
    run(&["-v", "data:/d"], script).succeeded().says("");
    let look = "cat /d/file; stat -c %u:%g /d/file";
    run(&["-v", "data:/d:ro"], look)
        .succeeded()
        .says("kept\n1000:50\n");
    let mount = "type=volume,source=data,target=/d,readonly";
    let done = run(&["--mount", mount], "echo x > /d/file");
    done.exited(1).complains(&["Read-only file system"]);
    // One that is not there is made; one without a name goes with its container.
    run(
        &["-v", "new:/n", "-v", "/anonymous"],
        "touch /n/x /anonymous/x",
    )
    .succeeded();
    // In two places, and as each of them says.
    let twice = run(
        &["-v", "new:/n", "-v", "new:/m:ro"],
        "ls /m; touch /n/y; touch /m/z",
    );
    twice.exited(1).says("x\n").complains(&["Read-only"]);
    // As large as it is to be.
    let small = "type=volume,source=small,target=/d,volume-opt=size=32m";
    let size = "[ $(df -m /d | tail -n 1 | tr -s ' ' | cut -d ' ' -f 2) -le 32 ] && echo small";
    run(&["--mount", small], size).succeeded().says("small\n");
    let options = ["volume", "inspect", "-f", "{{.Options.size}}", "small"];
    assert_eq!(home.says(&options), "32m");
    home.walnut(["volume", "rm", "small"]).run().succeeded();
    let listed = home.walnut(["volume", "ls", "-q"]).run();
    listed.succeeded().says("data\nnew\n");
    assert!(listed.stderr.is_empty(), "{}", listed.story());
    let found = home.says(&[
        "volume",
        "ls",
        "--filter",
        "label=a=b",
        "--format",
        "{{.Name}}",
    ]);
    assert_eq!(found, "data");
    let size = home.says(&[
        "volume",
        "inspect",
        "-f",
        "{{.Labels.a}} {{.Driver}}",
        "data",
    ]);
    assert_eq!(size, "b local");
    home.walnut(["volume", "rm", "data", "nosuch"])
        .run()
        .exited(1)
        .complains(&["get nosuch: no such volume"]);
    home.walnut(["volume", "prune", "-f"]).run().succeeded();
    assert_eq!(home.says(&["volume", "ls", "-q"]), "new");
    let pruned = home.says(&["volume", "prune", "-af"]);
    assert!(pruned.starts_with("Deleted Volumes:\nnew\n"), "{pruned}");
    home.assert_clean();
}

#[test]
fn one_writer_at_a_time() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    let image = home.busybox();
    home.background_with("db", &["-v", "data:/d"], "echo 1 > /d/x; exec sleep 1000");
    let words = [
        "volume data is in use by container db",
        "a directory of the host",
    ];
    home.walnut(["run", "--rm", "-v", "data:/e", &image, "true"])
        .run()
        .exited(125)
        .complains(&words);
    home.walnut(["run", "--rm", "-v", "data:/e:ro", &image, "true"])
        .run()
        .exited(125)
        .complains(&words);
    home.walnut(["volume", "rm", "data"])
        .run()
        .exited(1)
        .complains(&["volume is in use"]);
    home.walnut(["stop", "-t", "0", "db"]).run().succeeded();
    // Those who only read are many.
    let wait = "cat /e/x; exec sleep 1000";
    home.background_with("one", &["-v", "data:/e:ro"], wait);
    home.background_with("two", &["-v", "data:/e:ro"], wait);
    for name in ["one", "two"] {
        assert_eq!(home.says(&["exec", name, "cat", "/e/x"]), "1");
    }
    home.walnut(["start", "db"])
        .run()
        .exited(1)
        .complains(&["volume data is in use"]);
    home.walnut(["rm", "-f", "one", "two"]).run().succeeded();
    home.walnut(["start", "db"]).run().succeeded();
    let inspect = "{{range .Mounts}}{{.Type}} {{.Name}} {{.Destination}} {{.RW}}{{end}}";
    assert_eq!(
        home.says(&["inspect", "-f", inspect, "db"]),
        "volume data /d true"
    );
    home.remove_all();
    home.assert_clean();
}

#[test]
fn survives_a_killed_machine() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    let script = "echo safe > /d/x; sync; echo ready; exec sleep 1000";
    home.background_with("db", &["-v", "data:/d"], script);
    assert_eq!(home.first_line("db"), "ready\n");
    kill_and_wait(home.supervisor("db"));
    // The monitor is on its way out: its volume is free when it is gone.
    let _ = home.says(&["ps", "-a"]);
    // A reader's kernel replays the journal first.
    let image = home.busybox();
    home.walnut(["run", "--rm", "-v", "data:/d:ro", &image, "cat", "/d/x"])
        .run()
        .succeeded()
        .says("safe\n");
    home.remove_all();
    home.assert_clean();
}

#[test]
fn filled_from_the_image_at_first() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    let mut image = images::busybox().unwrap();
    image.layers.push(Layer(vec![
        Entry::directory("data", 0o750).owned(33),
        Entry::file("data/file", 0o640, "from the image").owned(33),
        Entry::symlink("data/link", "file"),
    ]));
    let path = home.path().join("data.tar");
    image.write_oci_archive(&path).unwrap();
    let name = format!("oci-archive:{}", path.display());
    let look = "stat -c '%a %u:%g' /data /data/file; cat /data/link";
    let run = |volume: &str, script: &str| {
        home.walnut(["run", "--rm", "-v", volume, &name, "sh", "-c", script])
            .run()
    };
    let filled = "750 33:33\n640 33:33\nfrom the image";
    run("vol:/data", look).succeeded().says(filled);
    // Only at first: what is removed stays away.
    run("vol:/data", "rm -r /data/*; touch /data/own").succeeded();
    run("vol:/data", "ls /data").succeeded().says("own\n");
    run("empty:/data:nocopy", "ls /data; stat -c %u:%g /data")
        .succeeded()
        .says("33:33\n");
    home.assert_clean();
}

/// What programs build on, by `file-rules` inside the container.
#[test]
fn volumes_keep_the_rules_of_files() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    let program = Path::new(env!("CARGO_BIN_EXE_file-rules"));
    let programs = program.parent().unwrap().display();
    let host = home.path().join("host");
    fs::create_dir(&host).unwrap();
    let (programs, host) = (
        format!("{programs}:/programs:ro"),
        format!("{}:/files", host.display()),
    );
    for volume in ["data:/files", host.as_str(), "/files"] {
        let flags = ["run", "--rm", "-v", &programs, "-v", volume];
        let image = home.busybox();
        let command = [image.as_str(), "/programs/file-rules", "/files"];
        let line = flags.iter().chain(&command);
        let done = home.walnut(line).run();
        let said = String::from_utf8_lossy(&done.stdout);
        let all_hold = said.lines().all(|line| line.starts_with("ok "));
        assert!(
            all_hold && said.lines().count() > 10,
            "{volume}\n{}",
            done.story()
        );
        done.succeeded();
    }
    home.assert_clean();
}
