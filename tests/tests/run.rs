// SPDX-License-Identifier: Apache-2.0
//! `walnut run`: what a container sees, says and leaves.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use walnut_tests::harness::{Done, Home, skip};
use walnut_tests::{images, place};

const NO_KVM: &str = "no KVM that runs a stock kernel";

/// `walnut run --rm FLAGS busybox COMMAND`.
fn run(home: &Home, flags: &[&str], command: &[&str]) -> Done {
    let image = home.busybox();
    let mut args = vec!["run", "--rm"];
    args.extend_from_slice(flags);
    args.push(&image);
    args.extend_from_slice(command);
    home.walnut(args).run()
}

/// One shell command in a busybox container; what it printed.
fn sh(home: &Home, flags: &[&str], script: &str) -> String {
    let done = run(home, flags, &["sh", "-c", script]);
    done.succeeded();
    String::from_utf8(done.stdout).unwrap()
}

#[test]
fn every_kind_of_reference_runs() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    let images = place::test_images();
    let docker = format!(
        "docker-archive:{}",
        images.join("busybox-docker.tar").display()
    );
    let oci = format!("oci:{}", images.join("busybox-oci").display());
    let names = [
        home.busybox(),
        docker,
        oci.clone(),
        format!("{oci}:latest"),
        "busybox".into(),
    ];
    for name in names {
        home.walnut(["run", "--rm", &name, "echo", "hello"])
            .run()
            .succeeded()
            .says("hello\n");
    }
    home.assert_clean();
}

#[test]
fn exit_codes_are_dockers() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    run(&home, &[], &["sh", "-c", "exit 7"]).exited(7).says("");
    // A namespace's first process takes no signal from inside; another one does.
    run(&home, &[], &["sh", "-c", "sh -c 'kill -9 $$'; exit $?"]).exited(137);
    run(&home, &[], &["nosuch"])
        .exited(127)
        .complains(&["exec: \"nosuch\": executable file not found in $PATH"]);
    run(&home, &[], &["/nosuch"])
        .exited(127)
        .complains(&["/nosuch", "no such file or directory"]);
    run(&home, &[], &["/etc/passwd"])
        .exited(126)
        .complains(&["exec: \"/etc/passwd\": permission denied"]);
    home.assert_clean();
}

#[test]
fn streams_are_apart_binary_safe_and_end() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    let done = run(&home, &[], &["sh", "-c", "echo out; echo err >&2"]);
    done.succeeded().says("out\n");
    assert_eq!(done.stderr, b"err\n", "{}", done.story());

    // Every byte value, many times what any buffer on the way holds.
    let blob: Vec<u8> = (0..=255u8).cycle().take(8 << 20).collect();
    let image = home.busybox();
    let done = home
        .walnut(["run", "--rm", "-i", &image, "cat"])
        .stdin(blob.clone())
        .run();
    done.succeeded();
    assert!(
        done.stdout == blob,
        "{} bytes came back of {}",
        done.stdout.len(),
        blob.len()
    );
    home.assert_clean();
}

#[test]
fn a_reader_that_goes_away_ends_the_writer() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    let walnut = home
        .walnut(["run", "--rm", &home.busybox(), "yes"])
        .into_command();
    let line = format!("{walnut:?} | head -n 2");
    let done = walnut_tests::harness::Program::new("sh")
        .args(["-c", &line])
        .run();
    done.succeeded().says("y\ny\n");
    home.assert_clean();
}

#[test]
fn the_container_sees_its_own_machine_only() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    let seen = sh(
        &home,
        &["--memory", "256m", "--cpus", "2"],
        "nproc; awk '/MemTotal/ {print ($2 < 420000 && $2 > 150000)}' /proc/meminfo; \
         awk '{print $1}' /proc/1/stat; ls /sys/fs/cgroup/memory.max; cat /sys/fs/cgroup/memory.max; \
         df -k /dev/shm | awk 'END {print ($2 >= 100000 && $2 <= 262144)}'; hostname | wc -c; \
         grep -c 127.0.0.1 /etc/hosts; test -s /etc/hostname && test -e /etc/resolv.conf && echo files",
    );
    let wanted = "2\n1\n1\n/sys/fs/cgroup/memory.max\n268435456\n1\n13\n1\nfiles\n";
    assert_eq!(seen, wanted);
}

#[test]
fn defaults_are_dockers() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    let seen = sh(
        &home,
        &[],
        "grep -E '^(CapEff|NoNewPrivs|Seccomp):' /proc/self/status | tr '\\t' ' '; \
         cat /proc/kcore 2>/dev/null | wc -c; touch /proc/sys/kernel/x 2>/dev/null || echo ro; \
         mount -t tmpfs x /mnt 2>/dev/null || echo nomount; mknod /tmp/n c 1 3 && echo node; \
         cat /tmp/n 2>/dev/null; echo x > /tmp/n && echo dev; mknod /tmp/v b 254 0; \
         cat /tmp/v 2>/dev/null || echo blocked; cat /proc/sys/net/ipv4/ip_unprivileged_port_start",
    );
    let wanted = "CapEff: 00000000a80425fb\nNoNewPrivs: 0\nSeccomp: 2\n0\nro\nnomount\nnode\ndev\n\
                  blocked\n0\n";
    assert_eq!(seen, wanted);
    let seen = sh(
        &home,
        &[
            "--security-opt",
            "no-new-privileges",
            "--cap-drop",
            "ALL",
            "--cap-add",
            "CHOWN",
        ],
        "grep -E '^(CapEff|NoNewPrivs):' /proc/self/status | tr '\\t' ' '",
    );
    assert_eq!(seen, "CapEff: 0000000000000001\nNoNewPrivs: 1\n");
}

#[test]
fn what_dockers_profile_forbids() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    // It needs no capability: nothing but the profile refuses it.
    let script = "busybox unshare -U true 2>&1 || echo refused";
    assert_eq!(
        sh(&home, &["-u", "1000"], script),
        "unshare: unshare(0x10000000): Operation not permitted\nrefused\n"
    );
    let script = "busybox unshare -U true && echo allowed";
    let flags = ["-u", "1000", "--security-opt", "seccomp=unconfined"];
    assert_eq!(sh(&home, &flags, script), "allowed\n");
    home.assert_clean();
}

#[test]
fn environment_user_and_directory() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    let seen = sh(
        &home,
        &[
            "-e",
            "A=b c",
            "-h",
            "box",
            "-w",
            "/made/here",
            "-u",
            "1000:1000",
        ],
        "id -u; id -g; pwd; echo \"$A\"; hostname; echo $HOME; cat /etc/hostname",
    );
    assert_eq!(seen, "1000\n1000\n/made/here\nb c\nbox\n/home/alice\nbox\n");
    assert_eq!(
        sh(&home, &["-u", "alice"], "id -un; id -u"),
        "alice\n1000\n"
    );
    assert_eq!(
        sh(&home, &["-u", "alice:wheel"], "id -un; id -gn"),
        "alice\nwheel\n"
    );
    run(&home, &["-u", "alice:nosuch"], &["id"])
        .exited(125)
        .complains(&["unable to find group nosuch: no matching entries in group file"]);
    run(&home, &["-u", "nosuch"], &["id"])
        .exited(125)
        .complains(&["unable to find user nosuch: no matching entries in passwd file"]);
}

#[test]
fn what_the_image_says_of_itself() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    let script = "trap 'echo told; exit 6' USR1; echo \"$0 $GREETING $(id -un) $PWD\"; \
                  [ $0 != stay ] || while :; do sleep 1000 & wait; done";
    let mut image = images::busybox().unwrap();
    image.config.entrypoint = ["sh", "-c", script].map(String::from).into();
    image.config.cmd = vec!["usual".into()];
    image.config.env.push("GREETING=hi".into());
    image.config.working_dir = "/srv/work".into();
    image.config.user = "alice".into();
    image.config.stop_signal = Some("SIGUSR1".into());
    let archive = home.path().join("own.tar");
    image.write_oci_archive(&archive).unwrap();
    let name = format!("oci-archive:{}", archive.display());
    assert_eq!(
        home.says(&["run", "--rm", &name]),
        "usual hi alice /srv/work"
    );
    assert_eq!(
        home.says(&["run", "--rm", &name, "other"]),
        "other hi alice /srv/work"
    );
    let flags = ["-u", "root", "-w", "/", "-e", "GREETING=ho", "--entrypoint"];
    let line = [&["run", "--rm"], &flags[..], &["env", &name]].concat();
    let seen = home.says(&line);
    assert!(seen.lines().any(|line| line == "GREETING=ho"), "{seen}");
    home.walnut(["run", "-d", "--name", "own", &name, "stay"])
        .run()
        .succeeded();
    assert_eq!(home.first_line("own"), "stay hi alice /srv/work\n");
    home.walnut(["stop", "own"]).run().succeeded();
    assert_eq!(home.says(&["wait", "own"]), "6");
    assert!(home.says(&["logs", "own"]).ends_with("\ntold"));
    home.remove_all();
    home.assert_clean();
}

#[test]
fn kernel_parameters_are_set_or_refused() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    let seen = sh(
        &home,
        &[
            "--sysctl",
            "net.ipv4.ip_unprivileged_port_start=1024",
            "--sysctl",
            "vm/max_map_count=70000",
            "--sysctl",
            "kernel.shmmax=4711",
        ],
        "cd /proc/sys; cat net/ipv4/ip_unprivileged_port_start vm/max_map_count kernel/shmmax",
    );
    assert_eq!(seen, "1024\n70000\n4711\n");
    let refused = [
        (
            "net.ipv4.nosuch=1",
            "open /proc/sys/net/ipv4/nosuch: no such file or directory",
        ),
        (
            "vm.max_map_count=many",
            "write /proc/sys/vm/max_map_count: invalid argument",
        ),
        (
            "kernel.shmmax=much",
            "write /proc/sys/kernel/shmmax: invalid argument",
        ),
    ];
    for (parameter, words) in refused {
        run(&home, &["--sysctl", parameter], &["true"])
            .exited(125)
            .complains(&[words]);
    }
    home.assert_clean();
}

#[test]
fn nobody_writes_to_the_image() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    let script = "mknod /tmp/p b $(tr : ' ' < /sys/block/pmem1/dev) && head -c 1 /tmp/p | wc -c; \
                  echo x 2>&1 > /tmp/p | grep -o 'Operation not permitted'; grep -c ^root /etc/passwd";
    let seen = sh(&home, &["--privileged"], script);
    assert_eq!(seen, "1\nOperation not permitted\n1\n");
    home.assert_clean();
}

#[test]
fn volumes_are_the_hosts_files() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    let dir = home.path().join("vol");
    fs::create_dir_all(dir.join("sub")).unwrap();
    fs::write(dir.join("f"), "from host\n").unwrap();
    let (rw, ro) = (
        format!("{}:/work", dir.display()),
        format!("{}:/ro:ro", dir.display()),
    );
    let single = format!("{}:/etc/single", dir.join("f").display());
    let seen = sh(
        &home,
        &["-v", &rw, "-v", &ro, "-v", &single, "-w", "/work"],
        "cat f /etc/single /ro/f; echo new > n; chown 1000:1000 n; chmod 640 n; ln -s n l; \
         mkdir d && mv n d/m; sync d; echo x 2>/dev/null > /ro/y || echo refused",
    );
    assert_eq!(seen, "from host\nfrom host\nfrom host\nrefused\n");
    let moved = fs::metadata(dir.join("d/m")).unwrap();
    assert_eq!(
        (moved.uid(), moved.gid(), moved.permissions().mode() & 0o777),
        (1000, 1000, 0o640)
    );
    assert_eq!(fs::read_link(dir.join("l")).unwrap().to_str(), Some("n"));
    assert!(!dir.join("y").exists());
    home.assert_clean();
}

#[test]
fn a_root_file_system_may_be_a_directory() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    let root = home.path().join("rootfs");
    fs::create_dir_all(root.join("bin")).unwrap();
    fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    std::os::unix::fs::symlink("busybox", root.join("bin/sh")).unwrap();
    fs::write(
        root.join("script.sh"),
        "#!/bin/sh\necho in $0; echo w > /written\n",
    )
    .unwrap();
    fs::set_permissions(root.join("script.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    let path = root.to_str().unwrap();
    let done = home
        .walnut(["run", "--rm", "--rootfs", path, "--", "/script.sh"])
        .run();
    done.succeeded().says("in /script.sh\n");
    assert_eq!(fs::read_to_string(root.join("written")).unwrap(), "w\n");
    let script = "echo x 2>/dev/null > /no || echo refused";
    let args = [
        "run",
        "--rm",
        "--read-only",
        "--rootfs",
        path,
        "/bin/sh",
        "-c",
        script,
    ];
    home.walnut(args).run().succeeded().says("refused\n");
    home.assert_clean();
}

#[test]
fn layers_that_can_be_written() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    let write =
        "echo x > /etc/new && cat /etc/new; rm /etc/passwd && test ! -e /etc/passwd && echo gone";
    assert_eq!(sh(&home, &[], write), "x\ngone\n");
    let ro = "touch /x 2>/dev/null || echo refused; touch /scratch/x && echo ok";
    assert_eq!(
        sh(&home, &["--read-only", "--tmpfs", "/scratch:size=1m"], ro),
        "refused\nok\n"
    );
    // On a disk: bounded by --storage-opt.
    let image = home.busybox();
    let script = "dd if=/dev/zero of=/big bs=1M count=100 2>/dev/null || echo full; rm /big; echo y > /y; cat /y";
    let done = home
        .walnut([
            "run",
            "--storage-opt",
            "size=64m",
            &image,
            "sh",
            "-c",
            script,
        ])
        .run();
    done.succeeded().says("full\ny\n");
    home.assert_clean();
}

#[test]
fn memory_beyond_the_limit_is_a_kill() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    let done = run(
        &home,
        &["--memory", "64m"],
        &["sh", "-c", "exec tail /dev/zero"],
    );
    done.exited(137).complains(&["out of memory"]);
    // Who only looks like it is not taken for it.
    for (name, script, killed) in [
        ("eater", "exec tail /dev/zero", "137 true"),
        ("other", "exit 137", "137 false"),
    ] {
        home.background_with(name, &["--memory", "64m"], script);
        home.walnut(["wait", name]).run().says("137\n");
        let format = "{{.State.ExitCode}} {{.State.OOMKilled}}";
        assert_eq!(home.says(&["inspect", "-f", format, name]), killed);
    }
    home.remove_all();
    home.assert_clean();
}

#[test]
fn processes_beyond_the_limit_are_refused() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    let script = "for i in 1 2 3 4 5 6 7 8; do sleep 100 & done 2>/dev/null; echo not reached";
    let done = run(&home, &["--pids-limit", "5"], &["sh", "-c", script]);
    assert_ne!(done.status(), 0, "{}", done.story());
    assert_eq!(done.stdout, b"", "{}", done.story());
}

#[test]
fn timings_name_every_phase() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    let flags = ["--start", "cold", "--timings=json"];
    let done = run(&home, &flags, &["echo", "hello"]);
    done.succeeded().says("hello\n");
    let text = String::from_utf8(done.stderr.clone()).unwrap();
    for phase in ["cli", "monitor", "kernel", "agent", "create", "first byte"] {
        assert!(text.contains(phase), "no {phase}\n{}", done.story());
    }
}

#[test]
fn doctor_finds_what_is_there() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    let done = home.walnut(["doctor"]).run();
    done.succeeded();
    let text = String::from_utf8(done.stdout.clone()).unwrap();
    for word in [
        "/dev/kvm",
        "walnut-vmm",
        "vmlinux",
        "guest.erofs",
        "cgroup",
        "memory",
        "bridge",
        "/dev/net/tun",
        "passt is there",
    ] {
        assert!(text.contains(word), "no {word}\n{}", done.story());
    }
    // What networks need, and how it is called.
    let bare = home.walnut(["doctor"]).env("PATH", "/nowhere").run();
    let text = String::from_utf8(bare.succeeded().stdout.clone()).unwrap();
    for package in ["passt", "nftables"] {
        let words = format!("install the package {package}");
        assert!(text.contains(&words), "no {package}\n{}", bare.story());
    }
}
