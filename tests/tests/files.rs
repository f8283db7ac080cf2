// SPDX-License-Identifier: Apache-2.0
//! A container's files from outside: `cp` both ways, `diff`, `export`, `commit`, whether it runs or
//! not.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::fs::{self, File, Permissions};
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use walnut_tests::harness::{Done, Home, Program, skip};

const NO_KVM: &str = "no KVM that runs a stock kernel";

/// Files of all kinds, in a directory `tree`.
fn tree(home: &Home) -> PathBuf {
    let tree = home.path().join("tree");
    fs::create_dir_all(tree.join("sub")).unwrap();
    fs::write(tree.join("plain"), "text").unwrap();
    fs::write(tree.join("sub/tool"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(tree.join("sub/tool"), Permissions::from_mode(0o4755)).unwrap();
    fs::hard_link(tree.join("plain"), tree.join("twin")).unwrap();
    symlink("plain", tree.join("link")).unwrap();
    std::os::unix::fs::chown(tree.join("plain"), Some(1000), Some(50)).unwrap();
    let sparse = File::create(tree.join("sparse")).unwrap();
    sparse.set_len(256 << 20).unwrap();
    sparse.write_all_at(b"end", (256 << 20) - 3).unwrap();
    tree
}

fn same(a: &Path, b: &Path) {
    let meta = |path: &Path| fs::symlink_metadata(path).unwrap();
    for name in ["plain", "twin", "link", "sub", "sub/tool", "sparse"] {
        let (a, b) = (meta(&a.join(name)), meta(&b.join(name)));
        assert_eq!(a.mode(), b.mode(), "{name}");
        assert_eq!((a.uid(), a.gid()), (b.uid(), b.gid()), "{name}");
        assert_eq!(
            (a.mtime(), a.len() * u64::from(a.is_file())),
            (b.mtime(), b.len() * u64::from(b.is_file())),
            "{name}"
        );
    }
    assert_eq!(meta(&b.join("plain")).ino(), meta(&b.join("twin")).ino());
    assert_eq!(fs::read(b.join("plain")).unwrap(), b"text");
    assert!(meta(&b.join("sparse")).blocks() * 512 < 1 << 20);
    let mut end = [0; 3];
    let sparse = File::open(b.join("sparse")).unwrap();
    sparse.read_exact_at(&mut end, (256 << 20) - 3).unwrap();
    assert_eq!(&end, b"end");
}

fn cp(home: &Home, args: &[&str]) -> Done {
    home.walnut(["cp"].iter().chain(args)).run()
}

#[test]
fn copied_in_and_out_again() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    let tree = tree(&home);
    home.background("web", "exec sleep 1000");
    let out = home.path().join("out");
    let (tree_text, out_text) = (tree.to_str().unwrap(), out.to_str().unwrap());
    let said = "Successfully copied";
    cp(&home, &["-a", tree_text, "web:/srv"])
        .succeeded()
        .complains(&[said, "to web:/srv"]);
    let look =
        "stat -c '%a %u:%g %h' /srv/plain /srv/sub/tool; readlink /srv/link; du -k /srv/sparse";
    let seen = home.says(&["exec", "web", "sh", "-c", look]);
    assert!(
        seen.starts_with("644 1000:50 2\n4755 0:0 1\nplain\n"),
        "{seen}"
    );
    cp(&home, &["-aq", "web:/srv", out_text])
        .succeeded()
        .says("");
    same(&tree, &out);
    // Into what is there; what is in a directory, without the directory; a file under another name.
    cp(&home, &["-q", tree_text, "web:/srv"]).succeeded();
    let owner = "stat -c %u:%g /srv/tree/plain; ls /srv/tree/sub";
    assert_eq!(home.says(&["exec", "web", "sh", "-c", owner]), "0:0\ntool");
    let contents = format!("{tree_text}/sub/.");
    cp(&home, &["-q", &contents, "web:tmp"]).succeeded();
    assert_eq!(home.says(&["exec", "web", "ls", "/tmp"]), "tool");
    cp(
        &home,
        &["-q", "web:/srv/link", &format!("{out_text}/copied")],
    )
    .succeeded();
    assert_eq!(
        fs::read_link(out.join("copied")).unwrap(),
        Path::new("plain")
    );
    cp(
        &home,
        &["-qL", "web:/srv/link", &format!("{out_text}/followed")],
    )
    .succeeded();
    assert_eq!(fs::read(out.join("followed")).unwrap(), b"text");
    // A mounted file is written to; others replace what is there.
    let hosts = home.path().join("hosts");
    fs::write(&hosts, "127.0.0.1 other\n").unwrap();
    cp(&home, &["-q", hosts.to_str().unwrap(), "web:/etc/hosts"]).succeeded();
    assert_eq!(
        home.says(&["exec", "web", "cat", "/etc/hosts"]),
        "127.0.0.1 other"
    );
    // Archives on the standard streams, while it is paused, too.
    home.walnut(["pause", "web"]).run().succeeded();
    let archive = home.walnut(["cp", "web:/srv/sub", "-"]).run();
    archive.succeeded();
    assert!(archive.stdout.starts_with(b"sub/\0"));
    cp(&home, &["-q", "web:/srv/plain", out_text]).succeeded();
    let done = home
        .walnut(["cp", "-", "web:/usr"])
        .stdin(archive.stdout)
        .run();
    done.succeeded().says("");
    home.walnut(["unpause", "web"]).run().succeeded();
    assert_eq!(home.says(&["exec", "web", "ls", "/usr/sub"]), "tool");
    home.remove_all();
    home.assert_clean();
}

#[test]
fn refused_in_words() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    home.background_with(
        "web",
        &["--read-only", "-v", "data:/data"],
        "exec sleep 1000",
    );
    let file = home.path().join("file");
    fs::write(&file, "x").unwrap();
    let (file, dir) = (file.to_str().unwrap(), home.path().to_str().unwrap());
    let refused: [(&[&str], &str); 11] = [
        (&["a", "b"], "must specify at least one container source"),
        (
            &["web:/a", "web:/b"],
            "copying between containers is not supported",
        ),
        (&["nosuch:/a", dir], "No such container: nosuch"),
        (
            &["web:/nosuch", dir],
            "Could not find the file /nosuch in container web",
        ),
        (&["web:/etc/passwd/", dir], "not a directory"),
        (&["web:/etc", file], "cannot copy directory"),
        (
            &["web:/etc", "/nonexistent/x"],
            "directory \"/nonexistent\" does not exist",
        ),
        (
            &["/nonexistent", "web:/"],
            "lstat /nonexistent: no such file or directory",
        ),
        (
            &[file, "web:/nosuch/x"],
            "Could not find the file /nosuch in container web",
        ),
        (&[file, "web:/nosuch/"], "no such directory"),
        (&[file, "web:/etc/x"], "Read-only file system"),
    ];
    for (args, words) in refused {
        cp(&home, args).exited(1).complains(&[words]);
    }
    // A volume is not its root file system.
    cp(&home, &["-q", file, "web:/data"]).succeeded();
    assert_eq!(home.says(&["exec", "web", "cat", "/data/file"]), "x");
    home.remove_all();
    home.assert_clean();
}

#[test]
fn of_one_that_does_not_run() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    let tree = tree(&home);
    let image = home.busybox();
    // Its program is not even there.
    home.walnut([
        "create",
        "--name",
        "web",
        "-v",
        "data:/data",
        &image,
        "/srv/tool",
    ])
    .run()
    .succeeded();
    let out = home.path().join("out");
    let (tree_text, out_text) = (tree.to_str().unwrap(), out.to_str().unwrap());
    cp(&home, &["-aq", tree_text, "web:/data/tree"]).succeeded();
    cp(&home, &["-aq", "web:/data/tree", out_text]).succeeded();
    same(&tree, &out);
    let tool = home.path().join("tool");
    fs::write(&tool, "#!/bin/sh\ncat /data/tree/plain; echo; exit 3\n").unwrap();
    fs::set_permissions(&tool, Permissions::from_mode(0o755)).unwrap();
    cp(&home, &["-q", tool.to_str().unwrap(), "web:/srv/"])
        .exited(1)
        .complains(&["no such directory"]);
    let dir = home.path().join("srv");
    fs::create_dir(&dir).unwrap();
    fs::copy(&tool, dir.join("tool")).unwrap();
    cp(&home, &["-q", dir.to_str().unwrap(), "web:/"]).succeeded();
    assert_eq!(
        home.says(&["inspect", "-f", "{{.State.Status}}", "web"]),
        "created"
    );
    home.walnut(["start", "-a", "web"])
        .run()
        .exited(3)
        .says("text\n");
    home.remove_all();
    home.assert_clean();
}

/// A container that has changed files of all kinds, and still runs.
fn changed(home: &Home) {
    let script = "echo new > /root.txt; rm /etc/passwd; echo x >> /etc/group; mkdir -p /a/b; touch \
                  /a/b/c; rm -r /tmp; mkdir /tmp; ln /root.txt /hard; echo up; exec sleep 1000";
    let flags = ["-v", "data:/vol/ume", "-w", "/work", "-e", "A=1"];
    home.background_with("web", &flags, script);
    assert_eq!(home.first_line("web"), "up\n");
}

const CHANGES: &str = "A /a\nA /a/b\nA /a/b/c\nC /etc\nC /etc/group\nD /etc/passwd\nA /hard\n\
                       A /root.txt\nC /tmp";

#[test]
fn what_it_changed() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    changed(&home);
    assert_eq!(home.says(&["diff", "web"]), CHANGES);
    home.walnut(["stop", "-t", "0", "web"]).run().succeeded();
    assert_eq!(
        home.says(&["diff", "web"]),
        CHANGES,
        "its disk says the same"
    );
    let tar = home.path().join("all.tar");
    home.walnut(["export", "-o", tar.to_str().unwrap(), "web"])
        .run()
        .succeeded();
    let list = std::process::Command::new("tar")
        .arg("tf")
        .arg(&tar)
        .output()
        .unwrap();
    let list = String::from_utf8(list.stdout).unwrap();
    for (path, is_there) in [
        ("a/b/c", true),
        ("bin/busybox", true),
        ("etc/passwd", false),
        ("proc/1", false),
    ] {
        let found = list.lines().any(|line| line.starts_with(path));
        assert_eq!(found, is_there, "{path}\n{list}");
    }
    // Who has seen enough may go.
    let export = home.walnut(["export", "web"]).into_command();
    let line = format!("{export:?} | head -c 10 | wc -c");
    let done = Program::new("sh").args(["-c", &line]).run();
    done.succeeded().says("10\n");
    assert!(done.stderr.is_empty(), "{}", done.story());
    home.walnut(["diff", "nosuch"])
        .run()
        .exited(1)
        .complains(&["No such container"]);
    home.remove_all();
    home.assert_clean();
}

#[test]
fn an_image_of_it() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    changed(&home);
    let line = [
        "commit",
        "-c",
        "CMD [\"cat\", \"/root.txt\"]",
        "-m",
        "said",
        "-a",
        "me",
        "web",
        "mine:1",
    ];
    let id = home.walnut(line).run();
    assert!(
        id.succeeded().stdout.starts_with(b"sha256:"),
        "{}",
        id.story()
    );
    let status = home.says(&["inspect", "-f", "{{.State.Status}}", "web"]);
    assert_eq!(status, "running", "it was paused only meanwhile");
    home.walnut(["run", "--rm", "mine:1"])
        .run()
        .succeeded()
        .says("new\n");
    let look = "pwd; echo $A; ls /a/b; ls /etc/passwd; tail -n 1 /etc/group; stat -c %h /hard; ls \
                -A /tmp";
    let done = home
        .walnut(["run", "--rm", "mine:1", "sh", "-c", look])
        .run();
    done.says("/work\n1\nc\nx\n2\n")
        .complains(&["/etc/passwd: No such file"]);
    let history = home.says(&["history", "--format", "{{.Comment}}", "mine:1"]);
    assert!(history.starts_with("said"), "{history}");
    home.remove_all();
    home.assert_clean();
}

/// However long somebody takes to read a container that does not run, nobody waits for that.
#[test]
fn read_slowly() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    home.background("old", "exec true");
    home.walnut(["wait", "old"]).run().succeeded();
    let mut export = home.walnut(["export", "old"]).into_command();
    export.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut export = export.spawn().unwrap();
    let mut archive = export.stdout.take().unwrap();
    // The rest of it is more than what is on the way.
    archive.read_exact(&mut [0; 512]).unwrap();
    let soon = |line: &[&str]| {
        let walnut = home.walnut(line);
        walnut.deadline(Duration::from_secs(30)).run()
    };
    for line in [&["start", "old"][..], &["rm", "old"], &["rm", "-f", "old"]] {
        let said = "is in use by another command: try again";
        soon(line).exited(1).complains(&[said]);
    }
    for what in ["container", "system"] {
        let done = soon(&[what, "prune", "-f"]);
        done.succeeded().says("Total reclaimed space: 0B\n");
        assert!(done.stderr.is_empty(), "{}", done.story());
    }
    soon(&["network", "create", "net"]).succeeded();
    soon(&["network", "connect", "net", "old"]).succeeded();
    // Another one that reads it comes after this one.
    let mut diff = home.walnut(["diff", "old"]).into_command();
    let diff = diff.stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
    let mut diff = diff.unwrap();
    let mut said = String::new();
    let mut stderr = BufReader::new(diff.stderr.take().unwrap());
    stderr.read_line(&mut said).unwrap();
    assert!(
        said.contains("in use by another command: waiting for it"),
        "{said}"
    );
    io::copy(&mut archive, &mut io::sink()).unwrap();
    assert!(export.wait().unwrap().success());
    assert!(diff.wait().unwrap().success());
    soon(&["rm", "old"]).succeeded();
    home.assert_clean();
}
