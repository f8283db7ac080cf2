// SPDX-License-Identifier: Apache-2.0
//! Docker's less common flags of `run`, seen from inside the container.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use walnut_tests::harness::{Home, skip};

const NO_KVM: &str = "no KVM that runs a stock kernel";

#[test]
fn limits_reach_the_guest() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    let flags = [
        "--cpus",
        "2",
        "--cpuset-cpus",
        "1",
        "--cpu-shares",
        "2048",
        "--memory",
        "64m",
        "--memory-swap",
        "128m",
        "--memory-reservation",
        "32m",
        "--oom-score-adj",
        "77",
        "--domainname",
        "example",
        "--device-write-bps",
        "/dev/sda:1m",
        "--device-read-iops",
        "/dev/sda:50",
    ];
    home.background_with("web", &flags, "exec sleep 1000");
    let inside = |script: &str| home.says(&["exec", "web", "sh", "-c", script]);
    assert_eq!(inside("cat /sys/fs/cgroup/cpuset.cpus"), "1");
    assert_eq!(inside("nproc"), "1");
    assert_ne!(inside("cat /sys/fs/cgroup/cpu.weight"), "100");
    assert_eq!(inside("cat /sys/fs/cgroup/memory.low"), "33554432");
    assert_eq!(inside("cat /proc/1/oom_score_adj"), "77");
    assert_eq!(inside("cat /proc/sys/kernel/domainname"), "example");
    let io = inside("cat /sys/fs/cgroup/io.max");
    assert_eq!(io, "254:0 rbps=max wbps=1048576 riops=50 wiops=max");
    let format = "{{.HostConfig.CpusetCpus}} {{.HostConfig.OomScoreAdj}} {{.Config.Domainname}}";
    assert_eq!(home.says(&["inspect", "-f", format, "web"]), "1 77 example");
    let rate = "{{(index .HostConfig.BlkioDeviceWriteBps 0).Rate}}";
    assert_eq!(home.says(&["inspect", "-f", rate, "web"]), "1048576");
    // What it has while it runs, and from then on.
    let line = [
        "update",
        "--cpuset-cpus",
        "0-1",
        "--memory-reservation",
        "16m",
        "web",
    ];
    home.walnut(line).run().succeeded();
    assert_eq!(inside("cat /sys/fs/cgroup/cpuset.cpus"), "0-1");
    assert_eq!(inside("cat /sys/fs/cgroup/memory.low"), "16777216");
    home.walnut(["update", "--cpuset-cpus", "2", "web"])
        .run()
        .exited(1)
        .complains(&["Requested CPUs are not available"]);
    home.remove_all();
    home.assert_clean();
}

#[test]
fn the_machines_namespaces() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    let image = home.busybox();
    let script = "cat /proc/1/comm; hostname";
    let flags = [
        "--pid",
        "host",
        "--ipc",
        "host",
        "--uts",
        "host",
        "--cgroupns",
        "host",
        "--userns",
        "host",
    ];
    let line = ["run", "--rm"].iter().chain(&flags);
    let command = [image.as_str(), "sh", "-c", script];
    let line = line.chain(&command);
    let done = home.walnut(line).run();
    let said = String::from_utf8_lossy(&done.succeeded().stdout).into_owned();
    assert!(
        said.starts_with("init\n") || said.starts_with("walnut-agent\n"),
        "{said}"
    );
    home.assert_clean();
}

#[test]
fn volumes_of_another_container() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    let image = home.busybox();
    let dir = home.path().join("dir");
    std::fs::create_dir(&dir).unwrap();
    let bind = format!("{}:/bind", dir.display());
    home.walnut([
        "run",
        "--name",
        "first",
        "-v",
        "data:/data",
        "-v",
        "/own",
        "-v",
        &bind,
        &image,
        "sh",
        "-c",
        "echo d > /data/f; echo o > /own/f; echo b > /bind/f",
    ])
    .run()
    .succeeded();
    let second = |from: &str, script: &str| {
        home.walnut([
            "run",
            "--rm",
            "--volumes-from",
            from,
            &image,
            "sh",
            "-c",
            script,
        ])
        .run()
    };
    second("first", "cat /data/f /own/f /bind/f")
        .succeeded()
        .says("d\no\nb\n");
    second("first:ro", "echo x > /data/f")
        .exited(1)
        .complains(&["Read-only file system"]);
    second("nosuch", "true")
        .exited(125)
        .complains(&["No such container: nosuch"]);
    home.walnut(["rm", "-v", "first"]).run().succeeded();
    assert_eq!(home.says(&["volume", "ls", "-q"]), "data");
    home.assert_clean();
}

#[test]
fn conflicts_are_told() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    let image = home.busybox();
    let refused: [(&[&str], &str); 13] = [
        (&["--memory-swap", "1g"], "always set the Memory limit"),
        (
            &["--memory", "64m", "--memory-reservation", "65m"],
            "less than memory reservation",
        ),
        (
            &["--cpus", "1", "--cpu-quota", "50000"],
            "Nano CPUs and CPU Period",
        ),
        (
            &["--cpus", "1", "--cpuset-cpus", "1"],
            "Requested CPUs are not available",
        ),
        (&["--device", "/dev/sda"], "no devices of the host"),
        (&["--device-read-bps", "x"], "/DEVICE:RATE"),
        (&["--pid", "container:web"], "No such container: web"),
        (&["--oom-score-adj", "1001"], "Invalid value 1001"),
        (&["--gpus", "all"], "no devices of the host"),
        (&["--userns", "keep-id"], "keep-id"),
        (&["--network", "host"], "host"),
        (&["--link", "web"], "unknown flag: --link"),
        (&["--restart", "sometimes"], "sometimes"),
    ];
    for (flags, words) in refused {
        let line = ["run", "--rm"].iter().chain(flags);
        let command = [image.as_str(), "true"];
        let line = line.chain(&command);
        home.walnut(line).run().exited(125).complains(&[words]);
    }
    home.assert_clean();
}

#[test]
fn what_the_command_finds() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    let image = home.busybox();
    let (env, id) = (home.path().join("env"), home.path().join("id"));
    std::fs::write(&env, "A=one\n").unwrap();
    let (env, id) = (env.to_str().unwrap(), id.to_str().unwrap());
    let flags = "--env-file ENV -w /new/dir -u 1000 --group-add 44 --ulimit nofile=100:200 --shm-size 5m \
                 --hostname box --add-host db:1.2.3.4 --dns 192.0.2.53 --tmpfs /t:size=1m \
                 --sysctl kernel.msgmax=1000 --label a=b --cidfile ID --name web --read-only";
    let flags = flags.split_whitespace().map(|flag| match flag {
        "ENV" => env,
        "ID" => id,
        flag => flag,
    });
    let script = "echo $A $(pwd) $(id -G) $(ulimit -Sn) $(ulimit -Hn) $(hostname); grep db /etc/hosts; \
                  cat /etc/resolv.conf /proc/sys/kernel/msgmax; grep -E ' (/dev/shm|/t) ' /proc/mounts | grep -o 'size=[0-9]*k'; \
                  touch /x || touch /t/x";
    let command = [image.as_str(), "sh", "-c", script];
    let line = ["run"].into_iter().chain(flags).chain(command);
    let done = home.walnut(line).run();
    done.succeeded()
        .says(
            "one /new/dir 1000 10 44 100 200 box\n1.2.3.4\tdb\nnameserver 192.0.2.53\n1000\n\
             size=5120k\nsize=1024k\n",
        )
        .complains(&["/x: Read-only file system"]);
    let known = std::fs::read_to_string(id).unwrap();
    let listed = home.says(&["ps", "-aq", "--no-trunc", "--filter", "label=a=b"]);
    assert_eq!(known, listed);
    assert_eq!(listed.len(), 64);
    let kept = "{{json .HostConfig.Sysctls}} {{json .Config.ExposedPorts}} {{.HostConfig.Devices}}";
    let kept = home.says(&["inspect", "-f", kept, "web"]);
    assert_eq!(kept, "{\"kernel.msgmax\":\"1000\"} {} []");
    home.remove_all();
    home.assert_clean();
}

#[test]
fn how_it_is_asked_to_stop() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    let flags = ["--stop-signal", "USR1", "--stop-timeout", "100"];
    let asked = "trap 'exit 5' USR1; echo up; while :; do sleep 1000 & wait; done";
    home.background_with("web", &flags, asked);
    assert_eq!(home.first_line("web"), "up\n");
    home.walnut(["stop", "web"]).run().succeeded();
    let ended = "{{.State.ExitCode}} {{.Config.StopSignal}} {{.Config.StopTimeout}}";
    assert_eq!(home.says(&["inspect", "-f", ended, "web"]), "5 SIGUSR1 100");
    // One that does not listen.
    home.background_with("deaf", &["--stop-timeout", "0"], "exec sleep 1000");
    home.walnut(["stop", "deaf"]).run().succeeded();
    let code = home.says(&["inspect", "-f", "{{.State.ExitCode}}", "deaf"]);
    assert_eq!(code, "137");
    home.remove_all();
    home.assert_clean();
}
