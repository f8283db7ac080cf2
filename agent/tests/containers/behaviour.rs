// SPDX-License-Identifier: Apache-2.0
//! What a host may expect of containers, one behaviour a test.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::thread;

use serde_json::json;
use walnut_protocol::agent::{
    CloseIORequest, ContainerRequest, GuestFile, KillRequest, ResizePtyRequest, ShutdownRequest,
    Stage, StartRequest, WaitRequest,
};
use walnut_protocol::stream::Stdio;
use walnut_protocol::{CallError, Client};

use crate::host::{Host, Running};

type Test = fn(&Host);

pub const TESTS: &[(&str, Test)] = &[
    ("echo", echo),
    ("exit_code_and_signal", exit_code_and_signal),
    ("stderr_apart", stderr_apart),
    ("stdin_to_its_end", stdin_to_its_end),
    ("large_and_binary_both_ways", large_and_binary_both_ways),
    ("no_stdin_is_dev_null", no_stdin_is_dev_null),
    (
        "reader_that_goes_ends_the_writer",
        reader_that_goes_ends_the_writer,
    ),
    (
        "process_that_closes_stdin_ends_the_stream",
        process_that_closes_stdin_ends_the_stream,
    ),
    ("close_io", close_io),
    ("users", users),
    ("unknown_user", unknown_user),
    ("dev_stdout_opens_again", dev_stdout_opens_again),
    ("command_not_found", command_not_found),
    (
        "exec_format_error_comes_at_start",
        exec_format_error_comes_at_start,
    ),
    ("working_directory_is_made", working_directory_is_made),
    (
        "working_directory_that_is_a_file",
        working_directory_that_is_a_file,
    ),
    ("mount_that_fails", mount_that_fails),
    ("kernel_parameters", kernel_parameters),
    ("spec_that_is_none", spec_that_is_none),
    ("files", files),
    ("terminal", terminal),
    ("terminal_of_an_exec", terminal_of_an_exec),
    ("exec", exec),
    ("exec_fails", exec_fails),
    (
        "exec_survivor_does_not_hold_wait",
        exec_survivor_does_not_hold_wait,
    ),
    ("seccomp_holds_for_both", seccomp_holds_for_both),
    (
        "compiled_filter_holds_for_both",
        compiled_filter_holds_for_both,
    ),
    ("capabilities", capabilities),
    ("devices", devices),
    ("init_ends_everything", init_ends_everything),
    ("pause_and_resume", pause_and_resume),
    ("kill_all", kill_all),
    ("tokens_open_once", tokens_open_once),
    ("unknown_names", unknown_names),
    ("nothing_is_left", nothing_is_left),
    ("shutdown", shutdown),
];

fn echo(host: &Host) {
    let outcome = host.create(&["echo", "hello"], |_, _| {}).run(b"");
    assert_eq!(outcome.text(), "hello\n");
    assert_eq!(outcome.stderr, b"");
    assert_eq!(outcome.wait.exited(), 0);
    assert!(outcome.wait.has_exited() && !outcome.wait.oom_killed);
    assert!(outcome.wait.exited_at_ns > 0);
}

fn exit_code_and_signal(host: &Host) {
    let outcome = host.create(&["sh", "-c", "exit 7"], |_, _| {}).run(b"");
    assert_eq!(outcome.wait.exited(), 7);
    let running = host.create(&["sleep", "1000"], |_, _| {}).connect();
    running.start();
    let kill = KillRequest {
        container_id: running.made.id.clone(),
        signal: 9,
        ..KillRequest::default()
    };
    host.client.kill(&kill).unwrap();
    assert_eq!(running.finish(b"").wait.signaled(), 9);
}

fn stderr_apart(host: &Host) {
    let outcome = host
        .create(&["sh", "-c", "echo out; echo err >&2"], |_, _| {})
        .run(b"");
    assert_eq!(
        (outcome.stdout.as_slice(), outcome.stderr.as_slice()),
        (&b"out\n"[..], &b"err\n"[..])
    );
}

fn stdin_to_its_end(host: &Host) {
    let outcome = host.create(&["wc", "-c"], |_, _| {}).run(b"12345");
    assert_eq!(outcome.text().trim(), "5");
}

fn large_and_binary_both_ways(host: &Host) {
    let input: Vec<u8> = (0..4_u32 << 20)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let outcome = host.create(&["cat"], |_, _| {}).run(&input);
    assert!(
        outcome.stdout == input,
        "{} bytes of {}",
        outcome.stdout.len(),
        input.len()
    );
}

fn no_stdin_is_dev_null(host: &Host) {
    let outcome = host
        .create(
            &["sh", "-c", "readlink /proc/self/fd/0; wc -c"],
            |request, _| request.stdin = false,
        )
        .run(b"");
    assert_eq!(outcome.text(), "/dev/null\n0\n");
}

fn reader_that_goes_ends_the_writer(host: &Host) {
    let Running {
        made,
        stdin,
        mut stdout,
        stderr,
    } = host
        .create(&["sh", "-c", "yes; exit $?"], |_, _| {})
        .connect();
    let running = Running {
        made,
        stdin,
        stdout: stdout.try_clone().unwrap(),
        stderr,
    };
    running.start();
    stdout.read_exact(&mut [0; 4096]).unwrap();
    stdout.shutdown(Shutdown::Both).unwrap();
    drop(stdout);
    assert_eq!(
        running.made.wait().exited(),
        128 + libc::SIGPIPE.cast_unsigned()
    );
    running.made.delete();
}

fn process_that_closes_stdin_ends_the_stream(host: &Host) {
    let mut running = host
        .create(&["sh", "-c", "exec 0<&-; sleep 1000"], |_, _| {})
        .connect();
    running.start();
    let mut stdin = running.stdin.take().unwrap();
    assert_eq!(stdin.read(&mut [0]).unwrap(), 0);
    let kill = KillRequest {
        container_id: running.made.id.clone(),
        signal: 9,
        ..KillRequest::default()
    };
    host.client.kill(&kill).unwrap();
    running.finish(b"");
}

fn close_io(host: &Host) {
    let mut running = host.create(&["cat"], |_, _| {}).connect();
    running.start();
    let mut stdin = running.stdin.take().unwrap();
    stdin.write_all(b"delivered").unwrap();
    let mut start = [0; 9];
    running.stdout.read_exact(&mut start).unwrap();
    let request = CloseIORequest {
        container_id: running.made.id.clone(),
        ..CloseIORequest::default()
    };
    host.client.close_io(&request).unwrap();
    let outcome = running.finish(b"");
    assert_eq!((&start, outcome.wait.exited()), (b"delivered", 0));
}

fn users(host: &Host) {
    let id = ["sh", "-c", "id; echo $HOME"];
    let outcome = host
        .create(&id, |request, _| request.user = "alice".into())
        .run(b"");
    assert_eq!(
        outcome.text(),
        "uid=1000(alice) gid=1000(alice) groups=29(audio),1000(alice)\n/home/alice\n"
    );
    let outcome = host
        .create(&id, |request, _| request.user = "4242:29".into())
        .run(b"");
    assert_eq!(
        outcome.text(),
        "uid=4242 gid=29(audio) groups=29(audio)\n/\n"
    );
    let outcome = host
        .create(&id, |request, _| request.group_add = vec!["audio".into()])
        .run(b"");
    assert_eq!(
        outcome.text(),
        "uid=0(root) gid=0(root) groups=0(root),29(audio)\n/root\n"
    );
}

fn unknown_user(host: &Host) {
    let made = host.create(&["id"], |request, _| request.user = "bob".into());
    let failed = made.response.failed();
    assert_eq!(failed.stage.enum_value(), Ok(Stage::USER));
    assert_eq!(
        failed.message,
        "unable to find user bob: no matching entries in passwd file"
    );
}

fn dev_stdout_opens_again(host: &Host) {
    let outcome = host
        .create(
            &[
                "sh",
                "-c",
                "echo one >/dev/stdout; echo two >/proc/self/fd/2",
            ],
            |request, _| {
                request.user = "alice".into();
            },
        )
        .run(b"");
    assert_eq!(
        (outcome.text().as_str(), outcome.stderr.as_slice()),
        ("one\n", &b"two\n"[..])
    );
}

fn command_not_found(host: &Host) {
    let cases = [
        (
            "nope",
            libc::ENOENT,
            r#"exec: "nope": executable file not found in $PATH"#,
        ),
        (
            "/no/pe",
            libc::ENOENT,
            r#"exec: "/no/pe": stat /no/pe: no such file or directory"#,
        ),
        (
            "/etc/data",
            libc::EACCES,
            r#"exec: "/etc/data": permission denied"#,
        ),
        ("/etc", libc::EISDIR, r#"exec: "/etc": is a directory"#),
    ];
    for (command, errno, message) in cases {
        let made = host.create(&[command], |_, _| {});
        let failed = made.response.failed();
        assert_eq!(failed.stage.enum_value(), Ok(Stage::EXEC), "{failed:?}");
        assert_eq!((failed.errno, failed.message.as_str()), (errno, message));
    }
}

fn exec_format_error_comes_at_start(host: &Host) {
    let running = host.create(&["/bin/noformat"], |_, _| {}).connect();
    let started = running.try_start();
    let failed = started.failed();
    assert_eq!(failed.stage.enum_value(), Ok(Stage::EXEC));
    assert_eq!(failed.errno, libc::ENOEXEC);
    assert_eq!(failed.message, "exec /bin/noformat: exec format error");
    running.finish(b"");
}

fn working_directory_is_made(host: &Host) {
    let outcome = host
        .create(&["pwd"], |_, spec| {
            spec["process"]["cwd"] = json!("/made/for/it")
        })
        .run(b"");
    assert_eq!(outcome.text(), "/made/for/it\n");
}

fn working_directory_that_is_a_file(host: &Host) {
    let made = host.create(&["pwd"], |_, spec| {
        spec["process"]["cwd"] = json!("/etc/passwd")
    });
    let failed = made.response.failed();
    assert_eq!(
        failed.stage.enum_value(),
        Ok(Stage::WORKING_DIR),
        "{failed:?}"
    );
    assert_eq!(failed.errno, libc::ENOTDIR, "{failed:?}");
    let said = "chdir to cwd (\"/etc/passwd\"): not a directory";
    assert_eq!(failed.message, said);
}

fn mount_that_fails(host: &Host) {
    let made = host.create(&["true"], |request, _| {
        request
            .mounts
            .push(crate::host::mount("ext4", "/dev/nothing", "/run/c/x", &[]));
    });
    let failed = made.response.failed();
    assert_eq!(failed.stage.enum_value(), Ok(Stage::MOUNTS));
    assert_eq!(failed.errno, libc::ENOENT, "{failed:?}");
    let made = host.create(&["true"], |_, spec| {
        spec["mounts"].as_array_mut().unwrap().push(json!({
            "destination": "/data", "type": "bind", "source": "/run/nothing", "options": ["rbind"],
        }));
    });
    let failed = made.response.failed();
    assert_eq!(failed.stage.enum_value(), Ok(Stage::ROOTFS), "{failed:?}");
    assert!(failed.message.contains("/run/nothing"), "{failed:?}");
}

/// Only those of a namespace: the machine's are this machine's.
fn kernel_parameters(host: &Host) {
    let with = |name: &'static str, value: &'static str| {
        host.create(&["cat", "/proc/sys/kernel/shmmax"], move |request, _| {
            request.sysctls.insert(name.into(), value.into());
        })
    };
    let outcome = with("kernel.shmmax", "4711").run(b"");
    assert_eq!(outcome.stdout, b"4711\n");
    let refused = [
        (
            "kernel.nosuch",
            "1",
            "open /proc/sys/kernel/nosuch: no such file or directory",
        ),
        (
            "kernel.shmmax",
            "much",
            "write /proc/sys/kernel/shmmax: invalid argument",
        ),
        (
            "../evil",
            "1",
            "sysctl \"../evil\" is no name of a kernel parameter",
        ),
    ];
    for (name, value, words) in refused {
        let made = with(name, value);
        let failed = made.response.failed();
        assert_eq!(failed.stage.enum_value(), Ok(Stage::SPEC), "{failed:?}");
        assert_eq!(failed.message, words);
    }
}

fn spec_that_is_none(host: &Host) {
    let made = host.create(&["true"], |_, spec| *spec = json!({"ociVersion": "1.2.0"}));
    let failed = made.response.failed();
    assert_eq!(failed.stage.enum_value(), Ok(Stage::SPEC));
    assert_eq!(failed.message, "the spec has no linux");
}

fn files(host: &Host) {
    let outcome = host
        .create(
            &["sh", "-c", "cat /etc/hosts; ls -l /etc/hosts"],
            |request, spec| {
                request.files = vec![GuestFile {
                    path: "/run/c/files/hosts".into(),
                    mode: 0o640,
                    content: b"127.0.0.1 box\n".into(),
                    ..GuestFile::default()
                }];
                spec["mounts"].as_array_mut().unwrap().push(json!({
                    "destination": "/etc/hosts", "type": "bind", "source": "/run/c/files/hosts",
                    "options": ["rbind", "rprivate", "rw"],
                }));
            },
        )
        .run(b"");
    assert!(
        outcome.text().starts_with("127.0.0.1 box\n-rw-r-----"),
        "{outcome:?}"
    );
}

fn terminal(host: &Host) {
    let mut running = host
        .create(&["sh", "-c", "tty; stty size; trap 'stty size; exit 3' WINCH; echo ready; while :; do sleep 1; done"], |_, spec| {
            spec["process"]["terminal"] = json!(true);
            spec["process"]["consoleSize"] = json!({"width": 100, "height": 30});
        })
        .connect();
    running.start();
    let mut said = Vec::new();
    while !said.ends_with(b"ready\r\n") {
        let mut byte = [0];
        running.stdout.read_exact(&mut byte).unwrap();
        said.push(byte[0]);
    }
    assert_eq!(
        String::from_utf8_lossy(&said),
        "/dev/pts/0\r\n30 100\r\nready\r\n"
    );
    let request = ResizePtyRequest {
        container_id: running.made.id.clone(),
        width: 120,
        height: 40,
        ..ResizePtyRequest::default()
    };
    host.client.resize_pty(&request).unwrap();
    let outcome = running.finish(b"");
    assert_eq!(
        (outcome.text().as_str(), outcome.wait.exited()),
        ("40 120\r\n", 3)
    );
}

fn terminal_of_an_exec(host: &Host) {
    let container = host.create(&["sleep", "1000"], |_, _| {}).connect();
    container.start();
    let mut running = container
        .made
        .exec(
            &["sh", "-c", "tty; stty size; read x; echo got $x"],
            |request, process| {
                request.stdin = true;
                process["terminal"] = json!(true);
                process["consoleSize"] = json!({"width": 90, "height": 20});
            },
        )
        .connect();
    running.start();
    running
        .stdin
        .as_mut()
        .unwrap()
        .write_all(b"typed\n")
        .unwrap();
    let outcome = running.finish(b"");
    // What was typed is echoed wherever it comes in between.
    let text = outcome.text();
    for said in ["/dev/pts/0\r\n", "20 90\r\n", "got typed\r\n"] {
        assert!(text.contains(said), "{text:?}");
    }
    end(host, container);
}

fn exec(host: &Host) {
    let container = host.create(&["sleep", "1000"], |_, _| {}).connect();
    container.start();
    let script =
        "id -un; hostname; env | grep ^A; echo $HOME; cat; ls /proc | grep -c '^1$'; exit 5";
    let outcome = container
        .made
        .exec(&["sh", "-c", script], |request, process| {
            request.user = "alice".into();
            request.stdin = true;
            process["env"] = json!(["PATH=/bin", "A=2"]);
        })
        .run(b"fed\n");
    assert_eq!(
        outcome.text(),
        "alice\nbox\nA=2\n/home/alice\nfed\n1\n",
        "{outcome:?}"
    );
    assert_eq!(outcome.wait.exited(), 5);
    end(host, container);
}

fn exec_fails(host: &Host) {
    let container = host.create(&["sleep", "1000"], |_, _| {}).connect();
    container.start();
    let made = container.made.exec(&["nope"], |_, _| {});
    let failed = made.response.failed();
    assert_eq!(failed.stage.enum_value(), Ok(Stage::EXEC), "{failed:?}");
    assert_eq!(
        failed.message,
        r#"exec: "nope": executable file not found in $PATH"#
    );
    let made = container
        .made
        .exec(&["pwd"], |_, process| process["cwd"] = json!("/nowhere"));
    let failed = made.response.failed();
    assert_eq!(
        failed.stage.enum_value(),
        Ok(Stage::WORKING_DIR),
        "{failed:?}"
    );
    let made = container
        .made
        .exec(&["id"], |request, _| request.user = "bob".into());
    assert_eq!(made.response.failed().stage.enum_value(), Ok(Stage::USER));
    let running = container.made.exec(&["/bin/noformat"], |_, _| {}).connect();
    assert_eq!(running.try_start().failed().errno, libc::ENOEXEC);
    running.finish(b"");
    end(host, container);
}

fn exec_survivor_does_not_hold_wait(host: &Host) {
    let container = host.create(&["sleep", "1000"], |_, _| {}).connect();
    container.start();
    let outcome = container
        .made
        .exec(&["sh", "-c", "sleep 1000 & echo done"], |_, _| {})
        .run(b"");
    assert_eq!(
        (outcome.text().as_str(), outcome.wait.exited()),
        ("done\n", 0)
    );
    end(host, container);
}

fn seccomp_holds_for_both(host: &Host) {
    let script = [
        "sh",
        "-c",
        "mkdir /tmp/x 2>&1; grep Seccomp: /proc/self/status",
    ];
    for no_new_privileges in [false, true] {
        let outcome = host
            .create(&script, |_, spec| {
                spec["process"]["noNewPrivileges"] = json!(no_new_privileges);
            })
            .run(b"");
        assert!(outcome.text().contains("Seccomp:\t2"), "{outcome:?}");
        assert!(
            outcome.text().contains("File descriptor in bad state"),
            "{outcome:?}"
        );
        let container = host.create(&["sleep", "1000"], |_, _| {}).connect();
        container.start();
        let outcome = container
            .made
            .exec(&script, |_, process| {
                process["noNewPrivileges"] = json!(no_new_privileges)
            })
            .run(b"");
        assert!(outcome.text().contains("Seccomp:\t2"), "{outcome:?}");
        assert!(
            outcome.text().contains("File descriptor in bad state"),
            "{outcome:?}"
        );
        end(host, container);
    }
}

fn compiled_filter_holds_for_both(host: &Host) {
    let profile = serde_json::from_value(json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 77}],
    }));
    let (code, flags) = walnut_seccomp::compile(&profile.unwrap())
        .unwrap()
        .to_bytes();
    let script = ["sh", "-c", "mkdir /tmp/x 2>&1"];
    let running = host
        .create(&["sleep", "1000"], |request, spec| {
            spec["linux"].as_object_mut().unwrap().remove("seccomp");
            (request.seccomp_filter, request.seccomp_flags) = (code, flags);
        })
        .connect();
    running.start();
    let outcome = running.made.exec(&script, |_, _| {}).run(b"");
    assert!(
        outcome.text().contains("File descriptor in bad state"),
        "{outcome:?}"
    );
    end(host, running);
    let made = host.create(&["true"], |request, _| request.seccomp_filter = vec![0; 7]);
    assert_eq!(
        made.response.failed().stage.enum_value(),
        Ok(Stage::SECURITY)
    );
}

fn capabilities(host: &Host) {
    // Docker's default fourteen.
    let root = "CapInh:\t0000000000000000\nCapPrm:\t00000000a80425fb\n\
                CapEff:\t00000000a80425fb\nCapBnd:\t00000000a80425fb\nCapAmb:\t0000000000000000\n";
    let alice = "CapInh:\t0000000000000000\nCapPrm:\t0000000000000000\n\
                 CapEff:\t0000000000000000\nCapBnd:\t00000000a80425fb\nCapAmb:\t0000000000000000\n";
    let script = ["grep", "Cap", "/proc/self/status"];
    for (user, sets) in [("", root), ("alice", alice)] {
        let outcome = host
            .create(&script, |request, _| request.user = user.into())
            .run(b"");
        assert_eq!(outcome.text(), sets, "{user}");
        let container = host.create(&["sleep", "1000"], |_, _| {}).connect();
        container.start();
        let made = container
            .made
            .exec(&script, |request, _| request.user = user.into());
        assert_eq!(made.run(b"").text(), sets, "exec {user}");
        end(host, container);
    }
    let ambient = host
        .create(&script, |request, spec| {
            request.user = "alice".into();
            let sets = &mut spec["process"]["capabilities"];
            sets["inheritable"] = json!(["CAP_KILL"]);
            sets["ambient"] = json!(["CAP_KILL"]);
        })
        .run(b"");
    assert!(
        ambient.text().contains("CapEff:\t0000000000000020"),
        "{ambient:?}"
    );
}

fn devices(host: &Host) {
    let script = "mknod /tmp/k c 1 11 && head -c 1 /tmp/k; head -c 2 /dev/zero | wc -c";
    let outcome = host
        .create(&["sh", "-c", script], |_, spec| {
            spec["linux"]["resources"] = json!({"devices": [
                {"allow": false, "access": "rwm"},
                {"allow": true, "type": "c", "access": "m"},
            ]});
        })
        .run(b"");
    assert_eq!(outcome.text().trim(), "2", "{outcome:?}");
    let said = String::from_utf8_lossy(&outcome.stderr).into_owned();
    assert!(said.contains("/tmp/k: Operation not permitted"), "{said}");
}

fn init_ends_everything(host: &Host) {
    let outcome = host
        .create(&["sh", "-c", "sleep 1000 & echo $!; exit 4"], |_, _| {})
        .run(b"");
    assert_eq!(outcome.wait.exited(), 4);
}

fn pause_and_resume(host: &Host) {
    let mut running = host.create(&["cat"], |_, _| {}).connect();
    running.start();
    let request = ContainerRequest {
        container_id: running.made.id.clone(),
        ..ContainerRequest::default()
    };
    assert_eq!(host.client.pids(&request).unwrap().pids.len(), 1);
    host.client.pause(&request).unwrap();
    let stdin = running.stdin.as_mut().unwrap();
    stdin.write_all(b"held").unwrap();
    running.stdout.set_nonblocking(true).unwrap();
    assert_eq!(
        running.stdout.read(&mut [0]).unwrap_err().kind(),
        std::io::ErrorKind::WouldBlock
    );
    running.stdout.set_nonblocking(false).unwrap();
    host.client.resume(&request).unwrap();
    assert_eq!(running.finish(b"").text(), "held");
}

fn kill_all(host: &Host) {
    let running = host
        .create(&["sh", "-c", "sleep 1000 & sleep 1000"], |_, _| {})
        .connect();
    running.start();
    let kill = KillRequest {
        container_id: running.made.id.clone(),
        signal: 9,
        all: true,
        ..KillRequest::default()
    };
    host.client.kill(&kill).unwrap();
    assert_eq!(running.finish(b"").wait.signaled(), 9);
}

fn tokens_open_once(host: &Host) {
    let running = host.create(&["cat"], |_, _| {}).connect();
    let token = running.made.token();
    // A second connection to a stream, and one with a token that is none, are closed.
    assert_eq!(
        host.connect(token, Stdio::Stdout)
            .read(&mut [0])
            .unwrap_or(0),
        0
    );
    let none = walnut_protocol::stream::Token::new([0; 16]);
    assert_eq!(
        host.connect(none, Stdio::Stdout)
            .read(&mut [0])
            .unwrap_or(0),
        0
    );
    running.start();
    assert_eq!(running.finish(b"still there").text(), "still there");
}

fn unknown_names(host: &Host) {
    let wait = |id: &str, exec: &str| {
        let request = WaitRequest {
            container_id: id.into(),
            exec_id: exec.into(),
            ..WaitRequest::default()
        };
        host.client.wait(&request).unwrap_err().to_string()
    };
    assert!(wait("none", "").contains("no container none"));
    assert!(wait("../etc", "").contains("is no id"));
    let running = host.create(&["cat"], |_, _| {}).connect();
    assert!(wait(&running.made.id, "x").contains("has no process x"));
    running.start();
    let again = StartRequest {
        container_id: running.made.id.clone(),
        ..StartRequest::default()
    };
    let refused = host.client.start(&again).unwrap_err();
    assert!(matches!(refused, CallError::Refused { .. }), "{refused}");
    running.finish(b"");
}

fn nothing_is_left(host: &Host) {
    let mounts = || {
        std::fs::read_to_string("/proc/self/mounts")
            .unwrap()
            .lines()
            .count()
    };
    let before = mounts();
    let made = host.create(&["true"], |_, _| {});
    let id = made.id.clone();
    assert!(mounts() > before);
    made.run(b"");
    assert_eq!(mounts(), before);
    assert!(
        std::fs::read_dir("/sys/fs/cgroup/containers")
            .unwrap()
            .flatten()
            .all(|e| !e.path().is_dir())
    );
    let left: Vec<_> = std::fs::read_dir("/run/agent")
        .unwrap()
        .flatten()
        .map(|e| e.file_name())
        .collect();
    assert_eq!(left, ["bundles"], "{left:?}");
    assert_eq!(std::fs::read_dir("/run/agent/bundles").unwrap().count(), 0);
    let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let open = descriptors();
    host.create(&["true"], |_, _| {}).run(b"");
    host.create(&["nope"], |_, _| {});
    assert_eq!(descriptors(), open, "after {id}");
}

fn shutdown(host: &Host) {
    let polite = host
        .create(
            &["sh", "-c", "trap 'exit 11' INT; sleep 1000 & echo up; wait"],
            |_, spec| {
                spec["annotations"] = json!({"org.opencontainers.image.stopSignal": "SIGINT"});
            },
        )
        .connect();
    let stubborn = host.create(&["sleep", "1000"], |_, _| {}).connect();
    polite.start();
    stubborn.start();
    let mut polite = polite;
    polite.stdout.read_exact(&mut [0; 3]).unwrap();
    let waiter = |running: &Running<'_>, client: Client| {
        let request = WaitRequest {
            container_id: running.made.id.clone(),
            ..WaitRequest::default()
        };
        thread::spawn(move || client.wait(&request).unwrap())
    };
    let polite_end = waiter(&polite, host.client.clone());
    let stubborn_end = waiter(&stubborn, host.client.clone());
    // The calls are on their way in order, but not their threads: ask until both are waited for.
    let drain = |mut stream: std::os::unix::net::UnixStream| {
        thread::spawn(move || stream.read_to_end(&mut Vec::new()))
    };
    let drained = [drain(polite.stdout), drain(stubborn.stdout)];
    let request = ShutdownRequest {
        grace_ms: 5000,
        ..ShutdownRequest::default()
    };
    host.client.shutdown(&request).unwrap();
    assert_eq!(polite_end.join().unwrap().exited(), 11);
    assert_eq!(stubborn_end.join().unwrap().signaled(), 9);
    for stream in drained {
        let _ = stream.join().unwrap();
    }
}

fn end(host: &Host, container: Running<'_>) {
    let kill = KillRequest {
        container_id: container.made.id.clone(),
        signal: 9,
        all: true,
        ..KillRequest::default()
    };
    host.client.kill(&kill).unwrap();
    container.finish(b"");
}
