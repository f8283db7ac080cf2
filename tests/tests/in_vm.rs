// SPDX-License-Identifier: Apache-2.0
//! Several containers in one machine: `--vm`, and namespaces of other containers.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::fs;

use walnut_tests::harness::process::kill_and_wait;
use walnut_tests::harness::{Home, skip};
use walnut_tests::images::{self, Entry, Layer};

const NO_KVM: &str = "no KVM that runs a stock kernel";

/// Another image than the plain busybox.
fn other_image(home: &Home) -> String {
    image_with(home, "other", b"other image\n".to_vec())
}

fn image_with(home: &Home, name: &str, content: Vec<u8>) -> String {
    let mut image = images::busybox().unwrap();
    image
        .layers
        .push(Layer(vec![Entry::file(name, 0o644, content)]));
    let path = home.path().join(format!("{name}.tar"));
    image.write_oci_archive(&path).unwrap();
    format!("oci-archive:{}", path.display())
}

#[test]
fn shares_a_kernel_and_nothing_else() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    let other = other_image(&home);
    home.background("web", "touch /mine; exec sleep 1000");
    let boot = |name: &str, flags: &[&str]| {
        let line = [
            &["exec"],
            flags,
            &[name, "cat", "/proc/sys/kernel/random/boot_id"],
        ]
        .concat();
        home.says(&line)
    };
    // All at once: when there is something in the log, nothing else is to come.
    let look = "{ cat /other; ls /mine; hostname; echo /proc/[0-9]*; ls /sys/class/net; echo x > /new; \
                ping -c 1 127.0.0.1 > /dev/null && echo up; } > /dev/shm/said 2>&1; \
                cat /dev/shm/said; exec sleep 1000";
    let line = [
        "run", "-d", "--name", "tool", "--vm", "web", "-h", "box", &other, "sh", "-c", look,
    ];
    home.walnut(line).run().succeeded();
    let _looked = home.first_line("tool");
    // One machine: the same boot, a monitor's process, and nothing of each other's.
    assert_eq!(boot("web", &[]), boot("tool", &[]));
    let said = home.says(&["exec", "tool", "sh", "-c", "ls / | tr '\\n' ' '"]);
    assert!(said.contains(" new ") && !said.contains("mine"), "{said}");
    let logs = home.says(&["logs", "tool"]);
    let lines: Vec<&str> = logs.lines().collect();
    assert_eq!(lines[0], "other image");
    assert!(lines[1].contains("No such file"), "{logs}");
    assert_eq!(&lines[2..], ["box", "/proc/1", "lo", "up"], "{logs}");
    let listed = home.says(&["ps", "--format", "{{.Names}} {{.State}}"]);
    assert_eq!(listed, "tool running\nweb running");
    let web = home.says(&["inspect", "-f", "{{.Id}}", "web"]);
    assert_eq!(
        home.says(&["inspect", "-f", "{{.Machine.Container}}", "tool"]),
        web
    );
    assert_eq!(home.says(&["diff", "tool"]), "A /new");
    home.walnut(["top", "tool"]).run().succeeded();
    home.walnut(["kill", "tool"]).run().succeeded();
    assert_eq!(home.says(&["wait", "tool"]), "137");
    // Its files went with it; the machine goes on.
    home.walnut(["diff", "tool"])
        .run()
        .exited(1)
        .complains(&["not running", "memory"]);
    assert_eq!(home.says(&["exec", "web", "ls", "/mine"]), "/mine");
    home.walnut(["start", "tool"]).run().succeeded();
    home.walnut(["stop", "-t", "1", "tool"]).run().succeeded();
    home.walnut(["rm", "tool"]).run().succeeded();
    // In the foreground, of the same image, with the exit code.
    let image = home.busybox();
    let line = [
        "run",
        "--rm",
        "-i",
        "--vm",
        "web",
        &image,
        "sh",
        "-c",
        "cat; exit 7",
    ];
    home.walnut(line)
        .stdin("through")
        .run()
        .exited(7)
        .says("through");
    home.remove_all();
    home.assert_clean();
}

#[test]
fn an_image_that_is_too_large_for_the_machine() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    let large = image_with(&home, "large", vec![7; 36 << 20]);
    home.background_with("small", &["--memory", "10m"], "exec sleep 1000");
    let line = ["run", "--rm", "--vm", "small", &large, "true"];
    let words = ["more than half: give small more --memory"];
    home.walnut(line).run().exited(125).complains(&words);
    home.remove_all();
    home.assert_clean();
}

#[test]
fn ends_with_its_machine() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    let other = other_image(&home);
    home.background("web", "exec sleep 1000");
    let line = [
        "run",
        "-d",
        "--restart",
        "always",
        "--name",
        "tool",
        "--vm",
        "web",
    ];
    home.walnut(line.iter().chain(&[other.as_str(), "sleep", "1000"]))
        .run()
        .succeeded();
    home.walnut(["stop", "-t", "0", "web"]).run().succeeded();
    assert_eq!(home.says(&["wait", "tool"]), "137");
    let error = home.says(&["inspect", "-f", "{{.State.Error}}", "tool"]);
    assert_eq!(error, "the machine of container web ended");
    home.walnut(["start", "tool"])
        .run()
        .exited(1)
        .complains(&["web", "is not running"]);
    // In the next machine, again; and without its supervisor, not at all.
    home.walnut(["start", "web"]).run().succeeded();
    home.walnut(["start", "tool"]).run().succeeded();
    kill_and_wait(home.supervisor("tool"));
    let state = home.says(&[
        "inspect",
        "-f",
        "{{.State.Status}} {{.State.ExitCode}}",
        "tool",
    ]);
    assert_eq!(state, "exited 137");
    let count = "ls -d /sys/fs/cgroup/containers/*/ 2> /dev/null | wc -l";
    let left = home.says(&["exec", "--vm", "web", "sh", "-c", count]);
    assert_eq!(left, "1", "what its dead supervisor left in the machine");
    home.remove_all();
    home.assert_clean();
}

#[test]
fn namespaces_and_volumes_of_others() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    let image = home.busybox();
    let host = home.path().join("host");
    fs::create_dir(&host).unwrap();
    let bind = format!("{}:/host", host.display());
    let web = "echo page > /data/page; httpd -h /data; exec sleep 1234";
    home.background_with(
        "web",
        &["-v", "data:/data", "-v", &bind, "--hostname", "web"],
        web,
    );
    let run = |flags: &[&str], script: &str| {
        let command = [image.as_str(), "sh", "-c", script];
        let line = ["run", "--rm"].iter().chain(flags).chain(&command);
        home.walnut(line).run()
    };
    let fetch = "until wget -qO - http://127.0.0.1/page 2> /dev/null; do :; done";
    run(&["--network", "container:web"], fetch)
        .succeeded()
        .says("page\n");
    run(&["--pid", "container:web"], "ps | grep -c 'sleep 123[4]'")
        .succeeded()
        .says("1\n");
    run(&["--vm", "web"], "ps | grep -c 'sleep 123[4]'")
        .exited(1)
        .says("0\n");
    let ipc = "readlink /proc/self/ns/ipc";
    let theirs = home.says(&["exec", "web", "readlink", "/proc/self/ns/ipc"]);
    run(&["--ipc", "container:web"], ipc)
        .succeeded()
        .says(&format!("{theirs}\n"));
    // One that joins another one that joined.
    home.background_with("side", &["--network", "container:web"], "exec sleep 1000");
    run(&["--network", "container:side"], fetch)
        .succeeded()
        .says("page\n");
    let mode = home.says(&["inspect", "-f", "{{.HostConfig.NetworkMode}}", "side"]);
    let id = home.says(&["inspect", "-f", "{{.Id}}", "web"]);
    assert_eq!(mode, format!("container:{id}"));
    run(
        &["--vm", "web", "--volumes-from", "web"],
        "echo new > /data/new; echo x > /host/x",
    )
    .succeeded();
    assert_eq!(home.says(&["exec", "web", "cat", "/data/new"]), "new");
    assert_eq!(fs::read_to_string(host.join("x")).unwrap(), "x\n");
    run(
        &["--vm", "web", "-v", "data:/d:ro"],
        "cat /d/page; echo x > /d/no",
    )
    .exited(1)
    .says("page\n");
    // What can't be is refused in words.
    home.background("lone", "exec sleep 1000");
    for (flags, words) in [
        (&["--vm", "nosuch"][..], "No such container: nosuch"),
        (&["--vm", "web", "-v", "more:/d"], "takes no more"),
        (&["--vm", "web", "-p", "8080:80"], "conflicting options"),
        (
            &["--vm", "web", "--network", "user"],
            "takes no more networks",
        ),
        (
            &["--vm", "web", "--network", "default", "--net", "bridge"],
            "--network bridge: the machine of web takes no more networks",
        ),
        (
            &["--vm", "web", "--pid", "container:lone"],
            "not in the machine of web",
        ),
        (
            &["--network", "container:web", "--ipc", "container:lone"],
            "not in the machine of web",
        ),
    ] {
        run(flags, "true").exited(125).complains(&[words]);
    }
    assert_eq!(home.says(&["volume", "ls", "-q"]), "data");
    home.remove_all();
    home.assert_clean();
}
