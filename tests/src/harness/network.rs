// SPDX-License-Identifier: Apache-2.0
//! The host's side of a test of networks: ports, interfaces and passts. All of it stays on the loopback
//! or on interfaces that the test makes itself.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::Receiver;
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::Pid;

use super::{Home, process, skip};
use crate::bench::smaps;

/// Flags that give a container of busybox the host's own programs.
pub const HOST_PROGRAMS: [&str; 6] = [
    "-v",
    "/usr:/usr:ro",
    "-v",
    "/usr/lib:/lib:ro",
    "-v",
    "/usr/lib64:/lib64:ro",
];

/// `hear HOST PORT`: the first line that a server says, or `nothing`. Neither side ends first: passt of
/// 2023 may forget what comes with an end.
pub const HEAR: &str = "hear() { [ -e p ] || mkfifo p q; nc -w 3 $1 $2 <>p >q 2>/dev/null & \
                        read line <q && echo $line || echo nothing; kill $! 2>/dev/null; true; }; ";

/// For one answer from a container.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Whether a container can have a network without root here.
#[must_use]
pub fn has_passt() -> bool {
    Path::new("/usr/bin/passt").exists()
}

/// Answers each connection to port 80 with what it said, and then its end.
pub const ECHO: &str = "nc -ll -p 80 -e cat";

/// A home where containers have a network; the test is skipped where they can't have one.
#[must_use]
pub fn home() -> Option<Home> {
    match Home::new() {
        None => skip("no KVM that runs a stock kernel"),
        Some(_) if !has_passt() => skip("no passt"),
        home => return home,
    }
    None
}

/// Ports of the loopback that nobody has at the moment.
///
/// # Panics
/// When there are none.
#[must_use]
pub fn free_ports<const N: usize>() -> [u16; N] {
    let held: Vec<_> = (0..N)
        .map(|_| TcpListener::bind("127.0.0.1:0").expect("there are free ports"))
        .collect();
    let port = |listener: &TcpListener| Some(listener.local_addr().ok()?.port());
    std::array::from_fn(|i| port(&held[i]).expect("a listener has an address"))
}

/// A server at any port of an address that says hello to whoever comes; the port, and who came.
///
/// # Panics
/// The address is not this machine's.
#[must_use]
pub fn greeter(address: &str) -> (u16, Receiver<TcpStream>) {
    let (listener, port) = listen(address);
    let (tell, came) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.write_all(b"hello\n");
            if tell.send(stream).is_err() {
                break;
            }
        }
    });
    (port, came)
}

/// One that hears `from inside` and then says `from outside`, once; the port, and what it heard.
///
/// # Panics
/// The address is not this machine's.
#[must_use]
pub fn talker(address: &str) -> (u16, JoinHandle<[u8; 12]>) {
    let (listener, port) = listen(address);
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("somebody comes");
        let mut said = [0; 12];
        stream.read_exact(&mut said).expect("all is said");
        let said_back = stream.write_all(b"from outside\n");
        said_back.expect("it is still there");
        // Its end, in whichever way.
        let _ = stream.read(&mut [0]);
        said
    });
    (port, server)
}

fn listen(address: &str) -> (TcpListener, u16) {
    let listener = TcpListener::bind((address, 0)).expect("an address of this machine");
    let port = listener.local_addr().expect("it is bound").port();
    (listener, port)
}

/// The passts that have this in their command line.
#[must_use]
pub fn passts(with: &str) -> Vec<Pid> {
    let is_one = |pid: &Pid| {
        let line = process::command_line(*pid);
        line.contains("passt ") && line.contains(with)
    };
    process::all().filter(is_one).collect()
}

/// The switches that know this directory.
#[must_use]
pub fn switches(of: &Path) -> Vec<Pid> {
    let own = of.to_string_lossy();
    let is_one = |pid: &Pid| {
        let line = process::command_line(*pid);
        line.contains(&*own) && line.contains(" switch ")
    };
    process::all().filter(is_one).collect()
}

/// Waits until all of them have ended.
///
/// # Panics
/// When one can't be waited for.
pub fn wait_for_end(pids: &[Pid]) {
    for pid in pids {
        assert!(process::ends(*pid), "process {pid:?} goes on");
    }
}

/// `ip LINE`.
///
/// # Panics
/// When it fails.
pub fn ip(line: &str) {
    let done = Command::new("ip").args(line.split(' ')).status();
    assert!(done.is_ok_and(|status| status.success()), "ip {line}");
}

/// A tap with the address 192.0.2.1/24 that goes with the test.
pub struct TestTap;

impl TestTap {
    pub const NAME: &str = "walnut-t0";

    /// # Panics
    /// When it can't be made: not as root, or there is one.
    #[must_use]
    pub fn new(mtu: u32) -> Self {
        let name = Self::NAME;
        ip(&format!("tuntap add {name} mode tap vnet_hdr"));
        let tap = Self;
        ip(&format!("addr add 192.0.2.1/24 dev {name}"));
        ip(&format!("link set {name} mtu {mtu} up"));
        tap
    }
}

impl Drop for TestTap {
    fn drop(&mut self) {
        // It is gone with the machine at the latest.
        let _ = Command::new("ip")
            .args(["link", "delete", Self::NAME])
            .status();
    }
}

/// An address of the host's that goes with the test.
pub struct Address(String);

impl Address {
    /// # Panics
    /// When the interface can't have it.
    #[must_use]
    pub fn new(cidr: &str, interface: &str) -> Self {
        // An address of IPv6 is in use at once.
        let nodad = if cidr.contains(':') { " nodad" } else { "" };
        ip(&format!("addr add {cidr} dev {interface}{nodad}"));
        Self(format!("addr del {cidr} dev {interface}"))
    }
}

impl Drop for Address {
    fn drop(&mut self) {
        // Its interface may be gone already.
        let _ = Command::new("ip").args(self.0.split(' ')).status();
    }
}

/// KiB of a monitor's memory that are neither the guest's, of the usual size, nor a file's.
///
/// # Panics
/// When the monitor is gone.
#[must_use]
pub fn own_memory_kib(monitor: Pid) -> u64 {
    let pid = monitor.as_raw_nonzero().get().unsigned_abs();
    let mappings = smaps::read(pid).expect("the monitor lives");
    let files = mappings.iter().map(|mapping| mapping.path.clone());
    let files: Vec<String> = files.filter(|path| path.starts_with('/')).collect();
    let split = smaps::split(&mappings, USUAL_MEMORY_MIB, &files);
    split.expect("a machine of the usual size").own_kib
}

/// KiB of memory that a process has now.
///
/// # Panics
/// When it is gone.
#[must_use]
pub fn resident_kib(pid: Pid) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_pid()));
    let status = status.expect("the process lives");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB"));
    kib.and_then(|kib| kib.trim().parse().ok())
        .expect("a number of kB")
}

/// Of a container without `--memory`.
const USUAL_MEMORY_MIB: u64 = 512;

impl Home {
    /// Waits until something in the container listens on these ports.
    ///
    /// # Panics
    /// When nothing does.
    pub fn wait_for_listeners(&self, container: &str, ports: &[&str]) {
        let script = "for port; do until netstat -ltun | grep -q \":$port \"; do :; done; done";
        let line = [&["exec", container, "sh", "-c", script, "sh"], ports].concat();
        self.walnut(line).run().succeeded();
    }
}
