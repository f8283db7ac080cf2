// SPDX-License-Identifier: Apache-2.0
//! Running containers written down with their machines: to go on later, or elsewhere as clones.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use walnut_tests::harness::network::{ECHO, HEAR, PATIENCE, free_ports, home as home_with_network};
use walnut_tests::harness::process::kill_and_wait;
use walnut_tests::harness::{Home, skip};

const NO_KVM: &str = "no KVM that runs a stock kernel";

/// Writes a line for each line that it reads, and keeps count in memory.
const COUNTER: &str =
    "echo ready; n=0; while read line; do n=$((n+1)); echo $n $line; done; sleep 1000";

/// Says what it hears on a pipe, and goes on when told to. Nothing depends on time.
const LISTENER: &str = "mkfifo /pipe; exec 8<>/pipe; echo ready; n=0; \
                        while read line <&8; do n=$((n+1)); echo $n $line; done";

fn ready(home: &Home, name: &str) {
    assert_eq!(home.first_line(name), "ready\n");
}

fn tell(home: &Home, name: &str, words: &str) {
    let script = format!("echo {words} > /pipe");
    home.walnut(["exec", name, "sh", "-c", &script])
        .run()
        .succeeded();
}

/// The log, once it has this many lines.
fn lines(home: &Home, name: &str, count: usize) -> Vec<String> {
    let mut follow = home
        .walnut(["logs", "-f", name])
        .into_command()
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let reader = std::io::BufReader::new(follow.stdout.take().unwrap());
    let lines = std::io::BufRead::lines(reader).take(count);
    let lines = lines.map(Result::unwrap).collect();
    let _ = follow.kill();
    let _ = follow.wait();
    lines
}

fn make(home: &Home, name: &str, checkpoint: &str) {
    let said = home.says(&["checkpoint", "create", name, checkpoint]);
    assert_eq!(said, checkpoint);
}

fn make_beside(home: &Home, name: &str, checkpoint: &str) {
    let said = home.says(&["checkpoint", "create", "--leave-running", name, checkpoint]);
    assert_eq!(said, checkpoint);
}

fn go_on(home: &Home, name: &str, checkpoint: &str) {
    let line = ["start", "--checkpoint", checkpoint, name];
    home.walnut(line)
        .run()
        .succeeded()
        .says(&format!("{name}\n"));
}

fn refused(home: &Home, line: &[&str], words: &[&str]) {
    home.walnut(line).run().exited(1).complains(words);
}

fn checkpoints(home: &Home, name: &str) -> PathBuf {
    let id = home.says(&["inspect", "-f", "{{.Id}}", name]);
    home.root().join("containers").join(id).join("checkpoints")
}

#[test]
fn goes_on_where_it_was() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    let shared = home.path().join("shared");
    fs::create_dir_all(shared.join("sub")).unwrap();
    fs::write(shared.join("sub/open"), "before ").unwrap();
    let volume = format!("{}:/shared", shared.display());
    // A file of its own, one of the host's that it holds open, a timer, a file in memory.
    let script = "exec 9>>/shared/sub/open; echo kept > /own; echo kept > /dev/shm/memory; \
                  (sleep 3; echo fired > /timer) & ";
    let flags = ["-v", &volume, "--stop-timeout", "1"];
    home.background_with("box", &flags, &format!("{script} {LISTENER}"));
    ready(&home, "box");
    tell(&home, "box", "one");
    assert_eq!(lines(&home, "box", 2), ["ready", "1 one"]);
    assert_eq!(
        home.says(&["checkpoint", "create", "box", "first"]),
        "first"
    );
    let state = home.says(&[
        "inspect",
        "-f",
        "{{.State.Status}} {{.State.ExitCode}}",
        "box",
    ]);
    assert_eq!(state, "exited 137");
    assert_eq!(home.says(&["inspect", "-f", "{{.State.Error}}", "box"]), "");
    // What it does to its files after the checkpoint is undone by going back to it.
    assert_eq!(home.says(&["checkpoint", "ls", "-q", "box"]), "first");
    for _ in 0..2 {
        go_on(&home, "box", "first");
        let own = home.says(&["exec", "box", "cat", "/own", "/dev/shm/memory"]);
        assert_eq!(own, "kept\nkept");
        tell(&home, "box", "two");
        let change = ["exec", "box", "sh", "-c", "echo gone > /own; sync"];
        home.walnut(change).run().succeeded();
        // Process 1 has its file open still, and the timer goes on.
        let written = home.says(&[
            "exec",
            "box",
            "sh",
            "-c",
            "echo after >> /proc/1/fd/9; while [ ! -e /timer ]; do sleep 0.1; done; cat /timer",
        ]);
        assert_eq!(written, "fired");
        home.walnut(["kill", "box"]).run().succeeded();
    }
    // The count is that of its memory, not of the log.
    assert_eq!(
        home.says(&["logs", "box"]).lines().collect::<Vec<_>>(),
        ["ready", "1 one", "2 two", "2 two"]
    );
    let text = fs::read_to_string(shared.join("sub/open")).unwrap();
    assert_eq!(text, "before after\nafter\n");
    // From the beginning, it is another story.
    home.walnut(["start", "box"]).run().succeeded();
    home.walnut(["rm", "-f", "box"]).run().succeeded();
    home.assert_clean();
}

#[test]
fn its_streams_go_on() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    let image = home.busybox();
    let line = ["run", "-di", "--name", "box", &image, "sh", "-c", COUNTER];
    home.walnut(line).run().succeeded();
    ready(&home, "box");
    let say = |words: &str, answer: &str| {
        let mut client = home
            .walnut(["attach", "box"])
            .into_command()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = client.stdin.take().unwrap();
        writeln!(input, "{words}").unwrap();
        let mut said = vec![0; answer.len()];
        client.stdout.take().unwrap().read_exact(&mut said).unwrap();
        assert_eq!(String::from_utf8_lossy(&said), answer);
        client.kill().unwrap();
        client.wait().unwrap();
    };
    say("one", "1 one\n");
    make(&home, "box", "now");
    go_on(&home, "box", "now");
    say("two", "2 two\n");
    // With a client of its own from the first moment, and the end of the input passed on.
    make(&home, "box", "later");
    let mut client = home
        .walnut(["start", "-ai", "--checkpoint", "later", "box"])
        .into_command()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = client.stdin.take().unwrap();
    writeln!(input, "three").unwrap();
    let mut said = [0; 8];
    let mut output = client.stdout.take().unwrap();
    output.read_exact(&mut said).unwrap();
    assert_eq!(&said, b"3 three\n");
    home.walnut(["kill", "box"]).run().succeeded();
    assert_eq!(client.wait().unwrap().code(), Some(137));
    assert_eq!(home.says(&["logs", "box"]), "ready\n1 one\n2 two\n3 three");
    home.remove_all();
    home.assert_clean();
}

#[test]
fn it_need_not_stop() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    home.background("box", LISTENER);
    ready(&home, "box");
    make_beside(&home, "box", "now");
    assert_eq!(home.says(&["ps", "--format", "{{.State}}"]), "running");
    tell(&home, "box", "original");
    assert_eq!(lines(&home, "box", 2), ["ready", "1 original"]);
    home.walnut(["kill", "box"]).run().succeeded();
    go_on(&home, "box", "now");
    tell(&home, "box", "again");
    assert_eq!(lines(&home, "box", 3)[2], "1 again");
    home.remove_all();
    home.assert_clean();
}

#[test]
fn clones_share_a_past_and_nothing_else() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    home.background_with("warm", &["--label", "a=b"], LISTENER);
    ready(&home, "warm");
    tell(&home, "warm", "past");
    assert_eq!(lines(&home, "warm", 2).len(), 2);
    let ids = home.says(&["clone", "--count", "3", "warm"]);
    let ids: Vec<&str> = ids.lines().collect();
    assert_eq!(ids.len(), 3);
    let second = home.says(&["clone", "--name", "second", ids[0]]);
    let all = ["warm", ids[0], ids[1], ids[2], "second"];
    let random = "head -c 16 /dev/urandom | od -An -tx1";
    let mut seen = Vec::new();
    for (index, name) in all.iter().enumerate() {
        let own = index.to_string();
        tell(&home, name, &own);
        let file = format!("echo {own} > /own; {random}");
        seen.push(home.says(&["exec", name, "sh", "-c", &file]));
    }
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), all.len(), "{seen:?}");
    for (index, name) in all.iter().enumerate() {
        assert_eq!(home.says(&["exec", name, "cat", "/own"]), index.to_string());
        let log = lines(&home, name, if index == 0 { 3 } else { 1 });
        assert_eq!(log.last().unwrap(), &format!("2 {index}"), "{name}");
        assert_eq!(
            home.says(&["inspect", "-f", "{{.Config.Labels.a}}", name]),
            "b"
        );
        home.walnut(["stats", "--no-stream", name])
            .run()
            .succeeded();
        home.walnut(["top", name]).run().succeeded();
    }
    // Each is a container like any other: it ends and starts by itself.
    home.walnut(["kill", "second"]).run().succeeded();
    assert_eq!(home.says(&["wait", &second]), "137");
    home.walnut(["start", "second"]).run().succeeded();
    assert_eq!(home.says(&["exec", "second", "cat", "/own"]), "4");
    // Nothing is left of what they were made from, though they live by it.
    let left = fs::read_dir(checkpoints(&home, "warm")).unwrap();
    assert_eq!(left.count(), 0);
    home.remove_all();
    home.assert_clean();
}

/// Of a machine that was itself started from a template, with empty places for devices.
#[test]
fn of_a_templates_clone() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    home.forget_templates();
    home.walnut(["template", "create"]).run().succeeded();
    let flags = ["--start", "template", "-v", "/etc:/host:ro"];
    home.background_with("box", &flags, LISTENER);
    ready(&home, "box");
    home.walnut(["template", "prune", "--all"])
        .run()
        .succeeded();
    make(&home, "box", "one");
    go_on(&home, "box", "one");
    tell(&home, "box", "two");
    assert_eq!(lines(&home, "box", 2), ["ready", "1 two"]);
    let look = [
        "exec",
        "box",
        "sh",
        "-c",
        "ls /host/passwd && cat /proc/uptime > /up && rm /up",
    ];
    assert_eq!(home.says(&look), "/host/passwd");
    let clone = home.says(&["clone", "box"]);
    tell(&home, &clone, "three");
    assert_eq!(lines(&home, &clone, 1), ["2 three"]);
    home.remove_all();
    home.assert_clean();
}

#[test]
fn several_cpus() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    home.background_with("box", &["--cpus", "2", "--memory", "300m"], LISTENER);
    ready(&home, "box");
    make(&home, "box", "one");
    go_on(&home, "box", "one");
    assert_eq!(home.says(&["exec", "box", "nproc"]), "2");
    let busy = "for i in 1 2 3 4; do (j=0; while [ $j -lt 200 ]; do j=$((j+1)); done) & done; wait; echo done";
    assert_eq!(home.says(&["exec", "box", "sh", "-c", busy]), "done");
    home.remove_all();
    home.assert_clean();
}

#[test]
fn ports_and_connections() {
    let Some(home) = home_with_network() else {
        return;
    };
    let [port] = free_ports();
    let fixed = format!("{port}:80");
    home.background_with("web", &["-p", &fixed, "-p", "81"], ECHO);
    home.wait_for_listeners("web", &["80"]);
    let echo = || {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(b"ping").unwrap();
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"ping");
        stream
    };
    let open = echo();
    let done = home.walnut(["checkpoint", "create", "web", "one"]).run();
    done.succeeded()
        .says("one\n")
        .complains(&["TCP connection to", "not part of the checkpoint"]);
    drop(open);
    // Nobody listens any more, and then again.
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
    go_on(&home, "web", "one");
    drop(echo());
    assert_eq!(
        home.says(&["port", "web", "80"]),
        format!("127.0.0.1:{port}")
    );
    // A clone has no port of the original's, but one of its own where any will do, and a way out.
    let clone = home.says(&["clone", "web"]);
    let own = home.says(&["port", &clone]);
    assert!(own.starts_with("81/tcp -> 127.0.0.1:"), "{own}");
    assert_ne!(own, home.says(&["port", "web"]));
    home.walnut(["rm", "-f", "web", &clone]).run().succeeded();
    // A port that is taken by now.
    home.background_with("web", &["-p", &format!("{port}:80")], ECHO);
    make(&home, "web", "one");
    let _taken = TcpListener::bind(("127.0.0.1", port)).unwrap();
    home.walnut(["start", "--checkpoint", "one", "web"])
        .run()
        .exited(1)
        .complains(&["Bind for 127.0.0.1", "failed"]);
    home.remove_all();
    home.assert_clean();
}

#[test]
fn a_place_on_a_network() {
    let Some(home) = home_with_network() else {
        return;
    };
    home.walnut(["network", "create", "backend"])
        .run()
        .succeeded();
    let on = ["--network", "backend"];
    home.background_with("db", &on, "nc -ll -p 80 -e echo answer");
    home.wait_for_listeners("db", &["80"]);
    home.background_with("client", &on, "sleep 1000");
    let ask = format!("{HEAR} hear db 80");
    let answers = || home.says(&["exec", "client", "sh", "-c", &ask]);
    assert_eq!(answers(), "answer");
    let address = || home.says(&["inspect", "-f", "{{.NetworkSettings.IPAddress}}", "db"]);
    let before = address();
    assert!(!before.is_empty());
    make(&home, "db", "one");
    go_on(&home, "db", "one");
    assert_eq!(address(), before);
    assert_eq!(answers(), "answer");
    refused(&home, &["clone", "db"], &["network backend: a clone would"]);
    // Its address is somebody else's by now.
    make(&home, "db", "two");
    let other = [&on[..], &["--ip", &before]].concat();
    home.background_with("other", &other, "sleep 1000");
    let taken = ["start", "--checkpoint", "two", "db"];
    refused(&home, &taken, &["in use"]);
    home.remove_all();
    home.walnut(["network", "rm", "backend"]).run().succeeded();
    home.assert_clean();
}

#[test]
fn volumes_stay_outside() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    home.background_with("box", &["-v", "data:/data"], LISTENER);
    ready(&home, "box");
    home.walnut(["checkpoint", "create", "--leave-running", "box", "no"])
        .run()
        .exited(1)
        .complains(&["volume data", "--leave-running"]);
    home.walnut(["clone", "box"])
        .run()
        .exited(1)
        .complains(&["volume data", "one container at a time"]);
    home.walnut(["exec", "box", "sh", "-c", "echo written > /data/file"])
        .run()
        .succeeded();
    make(&home, "box", "one");
    go_on(&home, "box", "one");
    assert_eq!(home.says(&["exec", "box", "cat", "/data/file"]), "written");
    make(&home, "box", "two");
    // Somebody else has it meanwhile.
    let image = home.busybox();
    let other = ["run", "--rm", "-v", "data:/d", &image, "touch", "/d/other"];
    home.walnut(other).run().succeeded();
    home.walnut(["start", "box"]).run().succeeded();
    home.walnut(["exec", "box", "sh", "-c", "echo today > /today; sync"])
        .run()
        .succeeded();
    home.walnut(["kill", "box"]).run().succeeded();
    home.walnut(["start", "--checkpoint", "two", "box"])
        .run()
        .exited(1)
        .complains(&["volume data has been used since the checkpoint"]);
    // Without the checkpoint, it starts as ever, with today's files.
    home.walnut(["start", "box"]).run().succeeded();
    assert_eq!(home.says(&["exec", "box", "cat", "/today"]), "today");
    home.walnut(["rm", "-f", "box"]).run().succeeded();
    // A directory of the host that is gone.
    let gone = home.path().join("gone");
    fs::create_dir(&gone).unwrap();
    home.background_with(
        "box",
        &["-v", &format!("{}:/gone", gone.display())],
        LISTENER,
    );
    ready(&home, "box");
    make(&home, "box", "one");
    fs::remove_dir(&gone).unwrap();
    home.walnut(["start", "--checkpoint", "one", "box"])
        .run()
        .exited(1)
        .complains(&[&gone.display().to_string()]);
    home.remove_all();
    home.assert_clean();
}

#[test]
fn what_cannot_be() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    let refused = |line: &[&str], words: &[&str]| refused(&home, line, words);
    refused(
        &["checkpoint", "create", "nosuch", "one"],
        &["No such container: nosuch"],
    );
    refused(&["clone", "nosuch"], &["No such container: nosuch"]);
    home.background("box", LISTENER);
    refused(
        &["checkpoint", "create", "box", "../x"],
        &["invalid checkpoint name"],
    );
    refused(
        &["checkpoint", "create", "box", "x.part"],
        &["invalid checkpoint name"],
    );
    refused(
        &["start", "--checkpoint", "none", "box"],
        &["checkpoint none does not exist"],
    );
    refused(
        &["checkpoint", "rm", "box", "none"],
        &["checkpoint none does not exist"],
    );
    refused(
        &["clone", "--name", "a1", "--count", "2", "box"],
        &["--name and --count"],
    );
    refused(&["clone", "--name", "box", "box"], &["already in use"]);
    make_beside(&home, "box", "one");
    refused(
        &["checkpoint", "create", "box", "one"],
        &["checkpoint with name one already exists"],
    );
    refused(
        &["start", "--checkpoint", "one", "box"],
        &["is running already"],
    );
    home.walnut(["pause", "box"]).run().succeeded();
    refused(
        &["checkpoint", "create", "box", "two"],
        &["is paused: unpause it first"],
    );
    refused(&["clone", "box"], &["is paused: unpause it first"]);
    home.walnut(["unpause", "box"]).run().succeeded();
    home.walnut(["kill", "box"]).run().succeeded();
    refused(&["checkpoint", "create", "box", "two"], &["is not running"]);
    refused(&["clone", "box"], &["is not running"]);
    let listed = home.says(&["checkpoint", "ls", "box"]);
    assert!(listed.starts_with("CHECKPOINT NAME"), "{listed}");
    assert!(
        listed.lines().nth(1).unwrap().starts_with("one "),
        "{listed}"
    );
    home.walnut(["checkpoint", "rm", "box", "one"])
        .run()
        .succeeded();
    assert_eq!(home.says(&["checkpoint", "ls", "-q", "box"]), "");
    home.remove_all();
    home.assert_clean();
}

#[test]
fn containers_that_can_not_be_taken_out_of_their_machines() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    let refused = |line: &[&str], words: &[&str]| refused(&home, line, words);
    home.background("box", LISTENER);
    let image = home.busybox();
    let tenant = [
        "run", "-d", "--name", "tenant", "--vm", "box", &image, "sleep", "1000",
    ];
    home.walnut(tenant).run().succeeded();
    refused(
        &["checkpoint", "create", "box", "two"],
        &["tenant is in its machine as well"],
    );
    refused(
        &["checkpoint", "create", "tenant", "two"],
        &["is in the machine of"],
    );
    home.walnut(["rm", "-f", "tenant"]).run().succeeded();
    home.background_with("short", &["--rm"], "sleep 1000");
    refused(
        &["checkpoint", "create", "short", "one"],
        &["removed at its end (--rm)"],
    );
    // A clone of it is one as well.
    let clone = home.says(&["clone", "short"]);
    home.walnut(["kill", "short", &clone]).run().succeeded();
    home.remove_all();
    home.assert_clean();
}

#[test]
fn damaged_ones_are_refused() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    home.background("box", LISTENER);
    ready(&home, "box");
    let dir = checkpoints(&home, "box");
    for name in ["state", "memory", "record", "older"] {
        make_beside(&home, "box", name);
    }
    home.walnut(["kill", "box"]).run().succeeded();
    let writable = |path: PathBuf| fs::File::options().write(true).open(path).unwrap();
    let state = dir.join("state/state");
    let mut byte = [0];
    fs::File::open(&state)
        .unwrap()
        .read_exact_at(&mut byte, 1000)
        .unwrap();
    writable(state).write_all_at(&[byte[0] ^ 1], 1000).unwrap();
    let memory = dir.join("memory/memory");
    let half = fs::metadata(&memory).unwrap().size() / 2;
    writable(memory).set_len(half).unwrap();
    fs::write(dir.join("record/checkpoint.json"), "{").unwrap();
    let record = dir.join("older/checkpoint.json");
    let text = fs::read_to_string(&record).unwrap();
    let version = format!("\"version\":\"{}\"", env!("CARGO_PKG_VERSION"));
    assert!(text.contains(&version), "{text}");
    fs::remove_file(&record).unwrap();
    fs::write(&record, text.replace(&version, "\"version\":\"0.0.0\"")).unwrap();
    for (name, words) in [
        ("state", "its checksum is not its content's"),
        ("memory", "pieces, or one that does not lie"),
        ("record", "makes no sense"),
        ("older", "other programs than those of today"),
    ] {
        let done = home.walnut(["start", "--checkpoint", name, "box"]).run();
        assert_ne!(done.status(), 0, "{name}");
        done.complains(&[words]);
        assert_eq!(home.says(&["ps", "-a", "--format", "{{.State}}"]), "exited");
    }
    home.walnut(["start", "box"]).run().succeeded();
    home.remove_all();
    home.assert_clean();
}

#[test]
fn a_supervisor_killed_on_the_way() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    home.background("box", LISTENER);
    let dir = checkpoints(&home, "box");
    let supervisor = home.supervisor("box");
    let mut making = home
        .walnut(["checkpoint", "create", "box", "one"])
        .into_command()
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    kill_and_wait(supervisor);
    let made = making.wait().unwrap().success();
    let left = home.says(&["checkpoint", "ls", "-q", "box"]);
    assert_eq!(home.says(&["ps", "-a", "--format", "{{.State}}"]), "exited");
    let all = fs::read_dir(&dir).into_iter().flatten();
    let names: Vec<_> = all.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.join(" ".as_ref()), *left, "and no half of one");
    // It may have come so far and not to its answer.
    match &left[..] {
        "one" => go_on(&home, "box", "one"),
        none => assert!(none.is_empty() && !made, "{none}"),
    }
    home.remove_all();
    home.assert_clean();
}

/// The path of what begins like this in a directory, once it is there; or that of the directory, if
/// it has got another name by then.
fn appears(dir: &Path, begins: &str) -> PathBuf {
    let events = Inotify::init(InitFlags::IN_CLOEXEC).unwrap();
    let kinds = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO;
    if events.add_watch(dir, kinds).is_err() {
        return dir.to_owned();
    }
    loop {
        let Ok(all) = fs::read_dir(dir) else {
            return dir.to_owned();
        };
        let mut all = all.map(|entry| entry.unwrap().path());
        let name = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
        if let Some(found) = all.find(|path| name(path).starts_with(begins)) {
            return found;
        }
        let mut fds = [PollFd::new(events.as_fd(), PollFlags::POLLIN)];
        let ready = poll(&mut fds, PollTimeout::from(60_000u16)).unwrap();
        assert_eq!(ready, 1, "no {begins}… in {}", dir.display());
        events.read_events().unwrap();
    }
}

#[test]
fn whoever_asked_need_not_wait() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    home.background("box", LISTENER);
    ready(&home, "box");
    tell(&home, "box", "hello");
    make_beside(&home, "box", "first");
    let dir = checkpoints(&home, "box");
    let mut making = home
        .walnut(["checkpoint", "create", "box", "second"])
        .into_command()
        .spawn()
        .unwrap();
    let part = appears(&dir, "second.");
    appears(&part, "memory");
    making.kill().unwrap();
    making.wait().unwrap();
    assert_eq!(home.says(&["wait", "box"]), "137");
    assert_eq!(
        home.says(&["checkpoint", "ls", "-q", "box"]),
        "first\nsecond"
    );
    go_on(&home, "box", "second");
    tell(&home, "box", "again");
    assert_eq!(lines(&home, "box", 3)[2], "2 again");
    home.remove_all();
    home.assert_clean();
}
