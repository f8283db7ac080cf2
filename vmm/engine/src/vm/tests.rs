// SPDX-License-Identifier: Apache-2.0
//! A shell script stands in for the monitor: what is tested is this side of the contract.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use walnut_protocol::hello::write_hello;

use super::*;
use crate::paths::Paths;

struct Bench {
    temp: tempfile::TempDir,
    /// Never readable.
    quiet: (OwnedFd, OwnedFd),
}

impl Bench {
    fn new() -> Self {
        Self {
            temp: tempfile::tempdir().unwrap(),
            quiet: rustix::pipe::pipe().unwrap(),
        }
    }

    fn machines(&self) -> std::path::PathBuf {
        self.temp.path().join("s/vm")
    }

    /// A machine whose monitor is `script`, which finds the report pipe on descriptor `$REPORT`.
    fn start(&self, script: &str) -> Vm {
        let monitor = self.temp.path().join("monitor");
        let find = r#"REPORT=$(sed 's/.*"report_fd":\([0-9]*\).*/\1/' /proc/self/fd/$2)"#;
        fs::write(&monitor, format!("#!/bin/sh\n{find}\n{script}\n")).unwrap();
        fs::set_permissions(&monitor, fs::Permissions::from_mode(0o755)).unwrap();
        let artifacts = Artifacts {
            monitor,
            kernel: "/kernel".into(),
            guest: "/guest".into(),
        };
        let paths = Paths::within(self.temp.path());
        let dir = Arc::new(RunDir::create(&paths, "m").unwrap().0);
        let machine = Machine {
            cpus: 1,
            memory_mib: 64,
            disks: Vec::new(),
            late_net: Vec::new(),
            image: None,
            image_room: 0,
            fs: Vec::new(),
            net: Vec::new(),
            inherited: Vec::new(),
        };
        Vm::start(&artifacts, &machine, &Origin::Boot, dir).unwrap()
    }

    fn ready(&self, vm: &mut Vm, timeout_ms: u64) -> Result<Ready, VmError> {
        vm.wait_ready(Duration::from_millis(timeout_ms), &[self.quiet.0.as_fd()])
    }
}

const LONG: u64 = 60_000;

#[test]
fn the_agents_hello_is_ready() {
    let bench = Bench::new();
    let mut vm =
        bench.start(r#"echo '{"event":"started","at_us":1}' >/dev/fd/$REPORT; exec sleep 60"#);
    let socket = vm.dir.vsock_port(READY_PORT);
    let mut agent = UnixStream::connect(socket).unwrap();
    let hello = Hello {
        version: "v".into(),
        ready_us: 9,
        ..Hello::default()
    };
    write_hello(&mut agent, &hello).unwrap();
    match bench.ready(&mut vm, LONG).unwrap() {
        Ready::Hello(said) => assert_eq!(said, hello),
        other => panic!("no hello: {other:?}"),
    }
    drop(vm);
    assert_eq!(fs::read_dir(bench.machines()).unwrap().count(), 0);
}

#[test]
fn a_dead_monitor_is_told_in_words() {
    let bench = Bench::new();
    let mut vm = bench.start(
        r#"echo '{"event":"ended","at_us":1,"ending":"failed","message":"open /kernel: no"}' >/dev/fd/$REPORT"#,
    );
    let said = bench.ready(&mut vm, LONG).unwrap_err().to_string();
    assert_eq!(said, "the machine did not start: open /kernel: no");
}

#[test]
fn each_end_is_named() {
    let ends = [
        (r#""guest-reset""#, "the guest reset"),
        (
            r#""guest-panic","message":"Kernel panic: x""#,
            "the guest kernel panicked: Kernel panic: x",
        ),
        (
            r#""triple-fault""#,
            "the guest's processor met a triple fault",
        ),
        (
            r#""kvm-error","message":"vCPU 0: internal error""#,
            "KVM could not go on: vCPU 0: internal error",
        ),
        (r#""stopped""#, "its monitor was told to stop"),
    ];
    for (ending, words) in ends {
        let bench = Bench::new();
        let report = format!(r#"{{"event":"ended","at_us":1,"ending":{ending}}}"#);
        let mut vm = bench.start(&format!("echo '{report}' >/dev/fd/$REPORT"));
        let said = bench.ready(&mut vm, LONG).unwrap_err().to_string();
        let wanted = format!("the machine ended while it was starting: {words}");
        assert_eq!(said, wanted);
    }
    let bench = Bench::new();
    let mut vm = bench.start("kill -9 $$");
    let said = bench.ready(&mut vm, LONG).unwrap_err().to_string();
    assert!(said.ends_with(": its monitor was killed"), "{said}");
}

#[test]
fn a_silent_death_shows_what_the_monitor_wrote() {
    let bench = Bench::new();
    let mut vm = bench.start("echo oops >&2; exit 3");
    let said = bench.ready(&mut vm, LONG).unwrap_err().to_string();
    assert_eq!(
        said,
        "the machine ended while it was starting: its monitor died:\n  oops"
    );
}

#[test]
fn a_guest_that_never_comes_up_shows_its_console() {
    let bench = Bench::new();
    let mut vm = bench.start("exec sleep 60");
    fs::write(vm.dir.console(), "one\r\ntwo \u{1b}[31mred\n").unwrap();
    let said = bench.ready(&mut vm, 50).unwrap_err().to_string();
    assert_eq!(
        said,
        "the guest was not ready within 0.05 s; the end of its console:\n  one\n  two ?[31mred"
    );
}

#[test]
fn a_monitor_that_never_stops_reporting_is_not_waited_for_longer() {
    let bench = Bench::new();
    let mut vm = bench.start("exec yes >/dev/fd/$REPORT");
    let said = bench.ready(&mut vm, 50).unwrap_err();
    assert!(matches!(said, VmError::NotReady { .. }), "{said}");
    assert!(!vm.wait_end(Duration::from_millis(50)));
}

#[test]
fn an_interrupt_ends_the_wait() {
    let bench = Bench::new();
    let mut vm = bench.start("exec sleep 60");
    rustix::io::write(&bench.quiet.1, b"x").unwrap();
    assert!(matches!(bench.ready(&mut vm, LONG), Ok(Ready::Interrupted)));
}

#[test]
fn connect_speaks_the_monitors_protocol() {
    let bench = Bench::new();
    let vm = bench.start("exec sleep 60");
    let listener = UnixListener::bind(vm.dir.vsock()).unwrap();
    let answer = |reply: &'static [u8]| {
        let listener = listener.try_clone().unwrap();
        std::thread::spawn(move || {
            let (mut peer, _) = listener.accept().unwrap();
            let mut asked = [0; 13];
            std::io::Read::read_exact(&mut peer, &mut asked).unwrap();
            assert_eq!(&asked, b"CONNECT 1025\n");
            peer.write_all(reply).unwrap();
        })
    };
    let server = answer(b"OK 1025\nfirst");
    let mut stream = vm.connect(1025).unwrap();
    server.join().unwrap();
    let mut first = String::new();
    std::io::Read::read_to_string(&mut stream, &mut first).unwrap();
    assert_eq!(first, "first");
    let server = answer(b"");
    let said = vm.connect(1025).unwrap_err().to_string();
    server.join().unwrap();
    assert_eq!(said, "connect to the guest's port 1025");
}

#[test]
fn no_monitor_outlives_its_machine() {
    let bench = Bench::new();
    let vm = bench.start("exec sleep 60");
    let pid = vm.child.id();
    drop(vm);
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
}
