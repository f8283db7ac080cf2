// SPDX-License-Identifier: Apache-2.0
//! Two guests for the network's rows: walnut's and QEMU's, with the same kernel, the same servers and
//! the same other end: one tap of the host's, or a passt with the same arguments.

use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{fs, io};

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::peers::{Boot, PeerError, Qemu};
use super::process::{self, Process, ProcessError};
use super::rows::{LIMIT, LONG_LIMIT};
use super::stage::{Stage, StageError};
use super::walnut::{COLD, Walnut};

#[derive(Debug, thiserror::Error)]
pub enum NetGuestError {
    #[error("the servers' files can't be laid out")]
    Tree(#[source] io::Error),
    #[error("a tap is root's to make")]
    NoRoot,
    #[error("make a socket for passt")]
    Socket(#[source] io::Error),
    #[error("nobody answers at {place}")]
    Silent { place: SocketAddr },
    #[error(transparent)]
    Stage(#[from] StageError),
    #[error(transparent)]
    Process(#[from] ProcessError),
    #[error(transparent)]
    Peer(#[from] PeerError),
}

const TAP: &str = "walnut-b0";
const MEMORY_MIB: u32 = 256;

/// Ports in the guest.
pub const STREAM_PORT: u16 = 5201;
pub const ECHO_PORT: u16 = 7;
pub const HTTP_PORT: u16 = 80;

/// What the guest's side of a connection is reached by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    Tap,
    Passt,
}

impl Link {
    /// On a tap the guest has an address of its own; passt's ports are the host's.
    #[must_use]
    pub fn place(self, port: u16) -> SocketAddr {
        match self {
            Self::Tap => ([192, 0, 2, 2], port).into(),
            Self::Passt => ([127, 0, 0, 1], 20_000 + port).into(),
        }
    }
}

/// The tap, for as long as this lives.
#[derive(Debug)]
pub struct Tap;

impl Tap {
    /// # Errors
    /// Not root, or there is one.
    pub fn new() -> Result<Self, NetGuestError> {
        if !rustix::process::geteuid().is_root() {
            return Err(NetGuestError::NoRoot);
        }
        for line in [
            "tuntap add walnut-b0 mode tap vnet_hdr",
            "addr add 192.0.2.1/24 dev walnut-b0",
            "link set walnut-b0 up",
        ] {
            process::run("ip", Command::new("ip").args(line.split(' ')), LIMIT)?;
        }
        Ok(Self)
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        // The machine that had it is gone by now.
        let _ = Command::new("ip").args(["link", "delete", TAP]).status();
    }
}

/// As /serve of the tree; both guests run it. The echo comes last: who reaches it reaches all.
const SERVE: &str = "#!/bin/busybox sh
export LD_LIBRARY_PATH=/lib
/bin/nginx -e stderr -c /etc/nginx.conf &
/bin/iperf3 -s &
until /bin/busybox netstat -ltn | /bin/busybox grep -q ':5201 '; do :; done
exec /bin/busybox nc -ll -p 7 -e /bin/busybox cat
";

/// QEMU's /init. Both networks' addresses: only one of them has a neighbour.
const INIT: &str = "#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t tmpfs tmp /tmp
/bin/busybox ip link set lo up
/bin/busybox ip addr add 192.0.2.2/24 dev eth0
/bin/busybox ip addr add 10.0.2.100/24 dev eth0
/bin/busybox ip link set eth0 up
/bin/busybox ip route add default via 10.0.2.2
exec /serve
";

const NGINX: &str = "daemon off; master_process off; user root root; pid /tmp/nginx.pid;
events {} http { access_log off; client_body_temp_path /tmp/a; proxy_temp_path /tmp/b;
fastcgi_temp_path /tmp/c; uwsgi_temp_path /tmp/d; scgi_temp_path /tmp/e;
server { listen 80; location / { return 200 answered; } } }
";

/// The files that both guests have, as a directory and as an image.
#[derive(Clone, Debug)]
pub struct Tree {
    root: PathBuf,
    image: PathBuf,
}

impl Tree {
    /// # Errors
    /// A program is not installed, or there is no room.
    pub fn new(stage: &Stage) -> Result<Self, NetGuestError> {
        let root = stage.directory("net")?;
        for dir in [
            "bin", "lib", "lib64", "etc", "proc", "sys", "dev", "tmp", "run",
        ] {
            stage.directory(&format!("net/{dir}"))?;
        }
        for (path, text) in [
            ("serve", SERVE),
            ("init", INIT),
            ("etc/nginx.conf", NGINX),
            ("etc/passwd", "root:x:0:0:root:/:/bin/sh\n"),
            ("etc/group", "root:x:0:\n"),
        ] {
            let path = stage.write(&format!("net/{path}"), text)?;
            let executable = fs::Permissions::from_mode(0o755);
            fs::set_permissions(path, executable).map_err(NetGuestError::Tree)?;
        }
        for name in ["iperf3", "nginx", "busybox"] {
            let program = stage.program(name)?;
            stage.copy(&program.path, &format!("net/bin/{name}"))?;
        }
        for entry in fs::read_dir(stage.path("lib")).map_err(NetGuestError::Tree)? {
            let entry = entry.map_err(NetGuestError::Tree)?;
            let name = entry.file_name();
            stage.copy(&entry.path(), &format!("net/lib/{}", name.display()))?;
        }
        stage.copy(
            "/lib64/ld-linux-x86-64.so.2".as_ref(),
            "net/lib64/ld-linux-x86-64.so.2",
        )?;
        let image = stage.path("net.erofs");
        let mut mkfs = Command::new("mkfs.erofs");
        process::run("mkfs.erofs", mkfs.arg(&image).arg(&root), LONG_LIMIT)?;
        Ok(Self { root, image })
    }
}

/// A guest that serves; gone when dropped.
pub struct Guest {
    end: Option<Command>,
    _processes: Vec<Process>,
}

impl Drop for Guest {
    fn drop(&mut self) {
        if let Some(end) = &mut self.end {
            // What is left is killed with the stage.
            let _ = end.stdout(Stdio::null()).status();
        }
    }
}

const NAME: &str = "net";

/// # Errors
/// It does not start, or nobody answers.
pub fn walnut(walnut: &Walnut, tree: &Tree, link: Link) -> Result<Guest, NetGuestError> {
    let memory = format!("{MEMORY_MIB}m");
    let mut command = walnut.command();
    command.args([
        "run", "-d", "--name", NAME, "--cpus", "1", "--memory", &memory,
    ]);
    command.args(COLD).args(["--tmpfs", "/tmp"]);
    match link {
        Link::Tap => {
            let tap = format!("tap:{TAP},ip=192.0.2.2/24,gateway=192.0.2.1");
            command.args(["--network", &tap]);
        }
        Link::Passt => {
            command.args(["--network", "user"]);
            for port in [STREAM_PORT, ECHO_PORT, HTTP_PORT] {
                command.args(["-p", &format!("{}:{port}", link.place(port).port())]);
            }
        }
    }
    command.arg("--rootfs").arg(&tree.root).arg("/serve");
    let mut end = walnut.command();
    end.args(["rm", "-f", NAME]);
    let guest = Guest {
        end: Some(end),
        _processes: Vec::new(),
    };
    process::run("walnut run -d", &mut command, LIMIT)?;
    reach(link.place(ECHO_PORT))?;
    Ok(guest)
}

/// # Errors
/// It does not start, or nobody answers.
pub fn qemu(
    stage: &Stage,
    qemu: &Qemu,
    boot: &Boot,
    tree: &Tree,
    link: Link,
) -> Result<Guest, NetGuestError> {
    let boot = Boot {
        cmdline: format!(
            "{} root=/dev/vda rootfstype=erofs ro init=/init",
            boot.cmdline
        ),
        memory_mib: MEMORY_MIB,
        ..boot.clone()
    };
    let mut command = qemu.with_root(&boot, &tree.image);
    let (mut processes, mut sockets) = (Vec::new(), None);
    match link {
        Link::Tap => {
            let tap = format!("tap,id=n,ifname={TAP},script=no,downscript=no,vhost=off");
            command.args(["-netdev", &tap, "-device", "virtio-net-device,netdev=n"]);
        }
        Link::Passt => {
            let flags = SocketFlags::CLOEXEC;
            let (near, far) = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)
                .map_err(|error| NetGuestError::Socket(error.into()))?;
            processes.push(passt(stage, link, &far)?);
            inherit(&near)?;
            let fd = near.as_raw_fd();
            let stream = format!("stream,id=n,server=off,addr.type=fd,addr.str={fd}");
            command.args(["-netdev", &stream]);
            command.args(["-device", "virtio-net-device,netdev=n,host_mtu=65520"]);
            sockets = Some((near, far));
        }
    }
    let stdin = Stdio::null();
    processes.push(Process::spawn("QEMU", &mut command, stdin, LONG_LIMIT)?);
    drop(sockets);
    reach(link.place(ECHO_PORT))?;
    Ok(Guest {
        end: None,
        _processes: processes,
    })
}

/// With what walnut's has, too.
fn passt(stage: &Stage, link: Link, socket: &OwnedFd) -> Result<Process, NetGuestError> {
    let program = stage.program("passt")?;
    inherit(socket)?;
    let mut command = program.command();
    command.args([
        "--foreground",
        "--quiet",
        "--ipv4-only",
        "--interface",
        "lo",
    ]);
    command.args(["--fd", &socket.as_raw_fd().to_string(), "--no-map-gw"]);
    command.args(["--mac-addr", "02:42:0a:00:02:02", "--address", "10.0.2.100"]);
    command.args([
        "--netmask",
        "24",
        "--gateway",
        "10.0.2.2",
        "--no-dhcp",
        "--no-dhcpv6",
    ]);
    command.args(["--no-ndp", "--no-ra"]);
    for port in [STREAM_PORT, ECHO_PORT, HTTP_PORT] {
        let place = link.place(port);
        command.args([
            "--tcp-ports",
            &format!("{}/{}:{port}", place.ip(), place.port()),
        ]);
    }
    Ok(Process::spawn(
        "passt",
        &mut command,
        Stdio::null(),
        LONG_LIMIT,
    )?)
}

fn inherit(socket: &OwnedFd) -> Result<(), NetGuestError> {
    fcntl_setfd(socket, FdFlags::empty()).map_err(|error| NetGuestError::Socket(error.into()))
}

/// Waits until the guest answers there.
fn reach(place: SocketAddr) -> Result<(), NetGuestError> {
    let begun = Instant::now();
    while begun.elapsed() < LIMIT {
        if ask(place).is_ok() {
            return Ok(());
        }
    }
    Err(NetGuestError::Silent { place })
}

/// passt takes connections before the guest does: only an answer is one.
fn ask(place: SocketAddr) -> io::Result<()> {
    use io::{Read, Write};
    const PATIENCE: Duration = Duration::from_secs(2);
    let mut stream = TcpStream::connect_timeout(&place, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"?")?;
    stream.read_exact(&mut [0])
}
