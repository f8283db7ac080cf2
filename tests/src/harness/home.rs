// SPDX-License-Identifier: Apache-2.0
//! A store and a state directory that belong to one test.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::process::Pid;
use tempfile::TempDir;

use super::process;
use super::program::Program;
use crate::{kvm, place};

/// Nobody that any system knows.
pub const SOMEBODY: u32 = 65533;

/// Names the directory of the templates that all tests share.
pub const TEMPLATES: &str = "WALNUT_TEST_TEMPLATES";

/// One test's `walnut`: staged binaries, a store of its own that vanishes with it.
pub struct Home {
    directory: TempDir,
}

impl Home {
    /// `None` where no VM can run.
    ///
    /// # Panics
    /// When there is no room for a temporary directory.
    #[must_use]
    pub fn new() -> Option<Self> {
        kvm::detect().is_usable().then(Self::with_templates)
    }

    /// For tests that run no VM.
    ///
    /// # Panics
    /// When there is no room for a temporary directory.
    #[must_use]
    pub fn without_kvm() -> Self {
        let directory = tempfile::Builder::new().prefix("walnut-test.").tempdir();
        Self {
            directory: directory.expect("the temporary directory is writable"),
        }
    }

    /// As [`Self::new`], with the templates that all tests share: machines of the usual size start
    /// from one, others boot.
    fn with_templates() -> Self {
        let home = Self::without_kvm();
        if let Some(shared) = std::env::var_os(TEMPLATES) {
            fs::create_dir(home.root()).expect("the temporary directory is writable");
            symlink(shared, home.root().join("templates"))
                .expect("the temporary directory is writable");
        }
        home
    }

    /// Before anything else: this test's store is all its own, without templates as yet.
    ///
    /// # Panics
    /// When the temporary directory is not writable.
    pub fn forget_templates(&self) {
        if self.root().exists() {
            fs::remove_dir_all(self.root()).expect("the temporary directory is writable");
        }
    }

    /// A directory for the test's own files.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// `walnut --root … --state … ARGS`.
    #[must_use]
    pub fn walnut(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Program {
        let (root, state) = (self.root(), self.state());
        let own: [OsString; 4] = [
            "--root".into(),
            root.clone().into(),
            "--state".into(),
            state.clone().into(),
        ];
        Program::new(place::staged().join("walnut"))
            .args(own)
            .args(args)
            .logs_in([root, state])
    }

    /// [`Self::walnut`] by [`SOMEBODY`] who is in /dev/kvm's group, where this is root; the test's
    /// directory becomes theirs.
    ///
    /// # Panics
    /// When there is no /dev/kvm.
    #[must_use]
    pub fn unprivileged(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Program {
        if !rustix::process::geteuid().is_root() {
            return self.walnut(args);
        }
        chown(self.path(), Some(SOMEBODY), Some(SOMEBODY)).expect("root may");
        let group = fs::metadata("/dev/kvm").expect("KVM is there").gid();
        let (group, id) = (group.to_string(), SOMEBODY.to_string());
        let command = self.walnut(args).into_command();
        Program::new("setpriv")
            .args(["--reuid", &id, "--regid", &id, "--groups", &group, "--"])
            .args([command.get_program()])
            .args(command.get_args())
            .env("HOME", self.path())
    }

    /// `walnut run -d --name NAME busybox sh -c SCRIPT`; returned when it runs.
    ///
    /// # Panics
    /// When it does not.
    pub fn background(&self, name: &str, script: &str) {
        self.background_with(name, &[], script);
    }

    /// As [`Self::background`], with flags.
    ///
    /// # Panics
    /// When it does not run.
    pub fn background_with(&self, name: &str, flags: &[&str], script: &str) {
        let image = self.busybox();
        let args = ["run", "-d", "--name", name];
        let command = [image.as_str(), "sh", "-c", script];
        let line = args.iter().chain(flags).chain(&command);
        let done = self.walnut(line).run();
        done.succeeded();
        assert_eq!(done.stdout.len(), 65, "an ID\n{}", done.story());
    }

    /// Waits for the first line that a container writes, and returns it.
    ///
    /// # Panics
    /// When it ends without one.
    #[must_use]
    pub fn first_line(&self, name: &str) -> String {
        let mut logs = self.walnut(["logs", "-f", name]).into_command();
        let logs = logs.stdout(Stdio::piped()).stdin(Stdio::null()).spawn();
        let mut logs = logs.expect("walnut is there");
        let mut line = String::new();
        let stdout = logs.stdout.take().expect("stdout is piped");
        let read = BufReader::new(stdout).read_line(&mut line);
        logs.kill().expect("it is ours");
        logs.wait().expect("a child can be waited for");
        assert!(read.is_ok_and(|len| len > 0), "{name} said nothing");
        line
    }

    /// Stdout of a command that must succeed, without its last newline.
    ///
    /// # Panics
    /// When it does not.
    #[must_use]
    pub fn says(&self, args: &[&str]) -> String {
        let done = self.walnut(args).run();
        done.succeeded();
        String::from_utf8_lossy(&done.stdout).trim_end().to_owned()
    }

    /// The process that runs a container.
    #[must_use]
    pub fn supervisor(&self, name: &str) -> Pid {
        process::pid(&self.says(&["inspect", "-f", "{{.State.Pid}}", name]))
    }

    /// `walnut-vmm ARGS`.
    #[must_use]
    pub fn vmm(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Program {
        Program::new(place::staged().join("walnut-vmm")).args(args)
    }

    /// The monitor of a container that runs.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn monitor(&self, name: &str) -> Pid {
        let is_monitor = |pid: &Pid| {
            let comm = fs::read_to_string(format!("/proc/{}/comm", pid.as_raw_pid()));
            comm.is_ok_and(|comm| comm.trim_end() == "walnut-vmm")
        };
        let pid = process::children(self.supervisor(name)).find(is_monitor);
        pid.expect("the supervisor has a monitor")
    }

    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.path().join("root")
    }

    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.path().join("state")
    }

    /// `oci-archive:…/busybox.tar`.
    #[must_use]
    pub fn busybox(&self) -> String {
        format!(
            "oci-archive:{}",
            place::test_images().join("busybox.tar").display()
        )
    }

    /// Processes, mounts and loop devices that know this test's directory: what a run left behind. Who is about to
    /// end may do so.
    #[must_use]
    pub fn leftovers(&self) -> Vec<String> {
        let own = self.path().to_string_lossy().into_owned();
        let processes = process::all().filter_map(|pid| {
            let line = process::command_line(pid);
            let stays = line.contains(&own) && !process::ends(pid);
            stays.then(|| format!("process {} {line}", pid.as_raw_nonzero()))
        });
        let processes: Vec<_> = processes.collect();
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let mounts = mounts.lines().filter(|line| line.contains(&own));
        let mounts = mounts.map(|line| format!("mount {line}"));
        let devices = fs::read_dir("/sys/block").into_iter().flatten().flatten();
        let files = devices
            .filter_map(|device| fs::read_to_string(device.path().join("loop/backing_file")).ok());
        let files = files.filter(|file| file.contains(&own));
        let files = files.map(|file| format!("loop device of {file}"));
        mounts.chain(processes).chain(files).collect()
    }

    /// Ends and removes every container.
    ///
    /// # Panics
    /// When that fails.
    pub fn remove_all(&self) {
        let ids = self.says(&["ps", "-aq"]);
        let ids: Vec<&str> = ids.lines().collect();
        if !ids.is_empty() {
            let line = ["rm", "-f"].iter().chain(&ids);
            self.walnut(line).run().succeeded();
        }
    }

    /// # Panics
    /// When something was left behind.
    pub fn assert_clean(&self) {
        let left = self.leftovers();
        assert!(left.is_empty(), "left behind:\n{}", left.join("\n"));
    }
}

/// A test that failed leaves no machine to the next one.
impl Drop for Home {
    fn drop(&mut self) {
        if std::thread::panicking() && self.state().exists() {
            let line = "for id in $(\"$0\" \"$@\" ps -aq); do \"$0\" \"$@\" rm -f $id; done";
            let mut command = std::process::Command::new("sh");
            command
                .args(["-c", line])
                .arg(place::staged().join("walnut"))
                .arg("--root")
                .arg(self.root())
                .arg("--state")
                .arg(self.state());
            // The test's own failure is what there is to tell.
            let _ = command.status();
        }
    }
}
