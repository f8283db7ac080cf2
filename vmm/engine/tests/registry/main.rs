// SPDX-License-Identifier: Apache-2.0
//! Pulls and pushes, against Debian's registry on this machine, and against one that does what no
//! registry should.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

mod access;
mod breaks;
mod hostile;
mod platforms;
mod real;
mod tokens;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use hostile::Hostile;
use real::Registry;

/// A store of its own.
struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        Home(tempfile::tempdir().unwrap())
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_walnut"));
        command.arg("--root").arg(self.0.path().join("root"));
        command.arg("--state").arg(self.0.path().join("state"));
        command.env("DOCKER_CONFIG", self.0.path()).args(args);
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    #[track_caller]
    fn ok(&self, args: &[&str]) -> String {
        let done = self.run(args);
        assert!(done.status.success(), "{args:?}: {}", text(&done.stderr));
        text(&done.stdout)
    }

    #[track_caller]
    fn fails(&self, args: &[&str], words: &str) {
        let done = self.run(args);
        let said = text(&done.stderr);
        assert_eq!(done.status.code(), Some(1), "{said}");
        assert!(said.contains(words), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }

    fn blobs(&self) -> PathBuf {
        self.0.path().join("root/images/blobs/sha256")
    }

    /// An image of one layer with a file of random bytes.
    fn import(&self, name: &str, size: usize) {
        self.import_for("linux/amd64", name, size);
    }

    /// As [`Self::import`], and in the registry.
    fn publish(&self, name: &str, size: usize) {
        self.import(name, size);
        self.ok(&["push", name]);
    }

    fn import_for(&self, platform: &str, name: &str, size: usize) {
        let mut data = vec![0; size];
        rustix::rand::getrandom(
            &mut data[..size.min(256)],
            rustix::rand::GetRandomFlags::empty(),
        )
        .unwrap();
        let tar = self.0.path().join("layer.tar");
        let mut builder = tar::Builder::new(std::fs::File::create(&tar).unwrap());
        let mut header = tar::Header::new_gnu();
        header.set_size(size as u64);
        header.set_mode(0o644);
        builder
            .append_data(&mut header, "data", data.as_slice())
            .unwrap();
        builder.finish().unwrap();
        self.ok(&[
            "import",
            "--platform",
            platform,
            tar.to_str().unwrap(),
            name,
        ]);
    }

    fn inspect(&self, image: &str, format: &str) -> String {
        let said = self.ok(&["image", "inspect", "-f", format, image]);
        said.trim().to_owned()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn count(dir: &Path, ends: &str) -> usize {
    let entries = std::fs::read_dir(dir).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.ends_with(ends)).count()
}

#[test]
fn what_is_pushed_is_pulled_back_as_it_was() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let here = Home::new();
    let name = format!("{}/me/app:1", registry.host());
    here.import(&name, 100_000);
    let said = here.ok(&["push", &name]);
    assert!(
        said.contains(": Pushed\n") && said.contains("1: digest: sha256:"),
        "{said}"
    );
    assert!(here.ok(&["push", &name]).contains("Layer already exists"));
    let other = format!("{}/other:2", registry.host());
    here.ok(&["tag", &name, &other]);
    assert!(here.ok(&["push", &other]).contains("Mounted from me/app"));

    let there = Home::new();
    let said = there.ok(&["pull", &name]);
    assert!(said.starts_with("1: Pulling from me/app\n"), "{said}");
    assert!(
        said.contains(&format!("Status: Downloaded newer image for {name}\n")),
        "{said}"
    );
    assert!(
        there
            .ok(&["pull", &name])
            .contains("Status: Image is up to date")
    );
    for field in ["{{.Id}}", "{{.Descriptor.digest}}", "{{.RootFS.Layers}}"] {
        assert_eq!(here.inspect(&name, field), there.inspect(&name, field));
    }
    let digest = there.inspect(&name, "{{.Descriptor.digest}}");
    let pinned = format!("{}/me/app@{digest}", registry.host());
    Home::new().ok(&["pull", &pinned]);
    there.fails(
        &["pull", &format!("{}/me/app:nosuch", registry.host())],
        "me/app:nosuch not found: manifest unknown",
    );
}

#[test]
fn a_terminal_has_a_bar_for_each_layer() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let home = Home::new();
    let name = format!("{}/app:1", registry.host());
    home.import(&name, 20_000_000);
    let on_a_terminal = |home: &Home, verb: &str| {
        let walnut = home.command(&[verb, &name]);
        let words = std::iter::once(walnut.get_program()).chain(walnut.get_args());
        let words: Vec<_> = words.map(|word| word.to_str().unwrap()).collect();
        let mut script = Command::new("script");
        script.args(["-qec", &words.join(" "), "/dev/null"]);
        script.env("DOCKER_CONFIG", home.0.path());
        text(&script.output().unwrap().stdout)
    };
    let said = on_a_terminal(&home, "push");
    assert!(said.contains(": Pushing     ["), "{said}");
    assert!(said.contains(": Pushed\r"), "{said}");
    let said = on_a_terminal(&Home::new(), "pull");
    assert!(said.starts_with("1: Pulling from app\r\n"), "{said}");
    assert!(said.contains(": Downloading ["), "{said}");
    assert!(said.contains("20MB/20MB"), "{said}");
    assert!(said.contains(": Pull complete\r"), "{said}");
}

#[test]
fn skopeo_reads_what_we_push() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let home = Home::new();
    let name = format!("{}/app:1", registry.host());
    home.publish(&name, 10_000);
    let layout = home.0.path().join("layout");
    let mut skopeo = Command::new("skopeo");
    skopeo.args(["--insecure-policy", "copy", "--src-tls-verify=false"]);
    skopeo
        .arg(format!("docker://{name}"))
        .arg(format!("oci:{}", layout.display()));
    match skopeo.output() {
        Err(error) => eprintln!("SKIPPED: no skopeo: {error}"),
        Ok(done) => assert!(done.status.success(), "{}", text(&done.stderr)),
    }
}

#[test]
fn two_pulls_at_once_fetch_it_once() {
    let home = Home::new();
    home.import("app", 3_000_000);
    let hostile = Hostile::serve(&home, "app");
    let there = Home::new();
    let name = hostile.image("plain");
    let mut pulls: Vec<_> = (0..2)
        .map(|_| there.command(&["pull", "-q", &name]).spawn().unwrap())
        .collect();
    for pull in &mut pulls {
        assert!(pull.wait().unwrap().success());
    }
    assert_eq!(hostile.layers_sent(), 1);
}

#[test]
fn a_pull_goes_on_where_the_connection_broke() {
    let home = Home::new();
    home.import("app", 3_000_000);
    let hostile = Hostile::serve(&home, "app");
    for broken in ["cut", "cut-norange", "busy", "moved"] {
        let there = Home::new();
        there.ok(&["pull", &hostile.image(broken)]);
        let same = there.inspect(&hostile.image(broken), "{{.Id}}");
        assert_eq!(same, home.inspect("app", "{{.Id}}"), "{broken}");
        assert_eq!(count(&there.blobs(), ".part"), 0, "{broken}");
    }
}

#[test]
fn a_killed_pull_is_gone_on_with() {
    let home = Home::new();
    home.import("app", 40_000_000);
    let hostile = Hostile::serve(&home, "app");
    let there = Home::new();
    let mut pull = there
        .command(&["pull", "-q", &hostile.image("stall")])
        .spawn()
        .unwrap();
    hostile.wait_for_stall();
    pull.kill().unwrap();
    pull.wait().unwrap();
    assert_eq!(count(&there.blobs(), ".part"), 1);
    there.ok(&["pull", &hostile.image("plain")]);
    assert!(hostile.was_resumed());
    assert_eq!(count(&there.blobs(), ".part"), 0);
}

#[test]
fn what_is_left_may_be_wrong() {
    let home = Home::new();
    home.import("app", 1_000_000);
    let hostile = Hostile::serve(&home, "app");
    let there = Home::new();
    there.ok(&["images"]);
    let part = there.blobs().join(format!("{}.part", hostile.layer()));
    std::fs::write(part, vec![7; 500_000]).unwrap();
    there.ok(&["pull", &hostile.image("plain")]);
    assert_eq!(count(&there.blobs(), ".part"), 0);
}

#[test]
fn what_a_registry_should_not_do_is_told_in_one_line() {
    let home = Home::new();
    home.import("app", 1_000_000);
    let hostile = Hostile::serve(&home, "app");
    for (how, words) in [
        ("flip", "is corrupt: expected digest sha256:"),
        ("long", "is longer than"),
        ("short", "is truncated: expected"),
        (
            "error",
            "received unexpected HTTP status: 500 Internal Server Error",
        ),
        ("denied", "pull access denied for"),
        ("limit", "toomanyrequests: too many"),
        ("huge", "is longer than 4194304 bytes"),
        ("noise", "is malformed"),
    ] {
        let there = Home::new();
        there.fails(&["pull", &hostile.image(how)], words);
        assert_eq!(there.ok(&["images", "-q"]), "", "{how}");
    }
}

#[test]
fn nothing_for_our_platform() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let home = Home::new();
    let name = format!("{}/app:1", registry.host());
    home.publish(&name, 1000);
    Home::new().fails(
        &["pull", "--platform", "linux/arm64", &name],
        "does not match the specified platform (linux/arm64)",
    );
}
