// SPDX-License-Identifier: Apache-2.0
//! A place like a guest's, and a host's way of talking to it.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::symlink;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use rustix::thread::UnshareFlags;
use serde_json::{Value, json};
use walnut_agent::agent::Agent;
use walnut_agent::helper::Helper;
use walnut_agent::service::Service;
use walnut_agent::shutdown::Machine;
use walnut_agent::{cgroup, listen};
use walnut_protocol::Client;
use walnut_protocol::agent::{
    CreateRequest, CreateResponse, DeleteRequest, ExecRequest, MountPoint, StartRequest,
    WaitRequest, WaitResponse,
};
use walnut_protocol::stream::{Stdio, StreamHeader, Token};
use walnut_protocol::ttrpc::TtrpcContext;

const RPC: &str = "/run/rpc.sock";
const STREAMS: &str = "/run/streams.sock";
const IMAGE: &str = "/run/image";

/// No call takes this long, whatever the machine.
const DEADLINE: Duration = Duration::from_secs(60);

pub struct Host {
    pub client: Client,
    made: AtomicU32,
}

/// Ends nothing: the tests go on.
struct NoMachine;

impl Machine for NoMachine {
    fn reset(&self, _: &TtrpcContext) {}
}

impl Host {
    /// Makes the place, in a mount namespace of this process's own, and serves there.
    pub fn start() -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("they need root".into());
        }
        let busybox = ["/bin/busybox", "/usr/bin/busybox"]
            .into_iter()
            .find(|path| Path::new(path).exists())
            .ok_or("they need a static busybox in /bin (busybox-static)")?;
        make_place().map_err(|error| format!("no place for containers: {error}"))?;
        make_image(busybox);
        fs::create_dir_all(walnut_agent::STATE_DIR).unwrap();
        // Orphans become this process's children, as they become PID 1's.
        rustix::process::set_child_subreaper(Some(rustix::process::Pid::INIT)).unwrap();

        let agent = Arc::new(Agent::new(Helper::spawn().unwrap()));
        walnut_agent::block_sigchld().unwrap();
        let rpc = UnixListener::bind(RPC).unwrap();
        let streams = UnixListener::bind(STREAMS).unwrap();
        let reaped = Arc::clone(&agent);
        thread::spawn(move || reaped.reaper.run());
        let service = Service {
            agent,
            machine: Box::new(NoMachine),
        };
        std::mem::forget(listen::serve(service, rpc.into(), streams.into()).unwrap());
        let client = Client::new(UnixStream::connect(RPC).unwrap())
            .unwrap()
            .within(DEADLINE);
        Ok(Self {
            client,
            made: AtomicU32::new(0),
        })
    }

    pub fn stop(&self) {
        remove_groups();
    }

    /// The stream `fd` of the process that `token` is of.
    pub fn connect(&self, token: Token, fd: Stdio) -> UnixStream {
        let mut stream = UnixStream::connect(STREAMS).unwrap();
        StreamHeader { token, fd }.write(&mut stream).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream
    }

    /// A container that runs `args`, with what `change` does to its spec.
    pub fn create(
        &self,
        args: &[&str],
        change: impl FnOnce(&mut CreateRequest, &mut Value),
    ) -> Made<'_> {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        let id = format!("test-{number}");
        let root = format!("/run/c/{id}");
        let mut spec = spec(args, &format!("{root}/rootfs"));
        let mut request = CreateRequest {
            container_id: id.clone(),
            mounts: vec![
                mount("tmpfs", "tmpfs", &format!("{root}/rw"), &[]),
                mount(
                    "overlay",
                    "overlay",
                    &format!("{root}/rootfs"),
                    &[
                        &format!("lowerdir={IMAGE}"),
                        &format!("upperdir={root}/rw/upper"),
                        &format!("workdir={root}/rw/work"),
                    ],
                ),
            ],
            stdin: true,
            ..CreateRequest::default()
        };
        change(&mut request, &mut spec);
        request.spec = serde_json::to_vec(&spec).unwrap();
        let terminal = spec["process"]["terminal"] == true;
        let stdin = request.stdin;
        let response = self.client.create(&request).unwrap();
        Made {
            host: self,
            id,
            exec_id: String::new(),
            response,
            stdin,
            terminal,
        }
    }
}

/// A process that was asked for.
pub struct Made<'a> {
    pub host: &'a Host,
    pub id: String,
    pub exec_id: String,
    pub response: CreateResponse,
    stdin: bool,
    terminal: bool,
}

/// What came of a process.
#[derive(Debug)]
pub struct Outcome {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub wait: WaitResponse,
}

impl Outcome {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

/// A process with its streams.
pub struct Running<'a> {
    pub made: Made<'a>,
    pub stdin: Option<UnixStream>,
    pub stdout: UnixStream,
    pub stderr: Option<UnixStream>,
}

impl<'a> Made<'a> {
    pub fn token(&self) -> Token {
        assert!(self.response.has_token(), "{:?}", self.response);
        Token::try_from(self.response.token()).unwrap()
    }

    /// Connects the streams that there are.
    pub fn connect(self) -> Running<'a> {
        let token = self.token();
        let stdin = self.stdin.then(|| self.host.connect(token, Stdio::Stdin));
        let stdout = self.host.connect(token, Stdio::Stdout);
        let stderr = (!self.terminal).then(|| self.host.connect(token, Stdio::Stderr));
        Running {
            made: self,
            stdin,
            stdout,
            stderr,
        }
    }

    /// Connects, starts, feeds `input`, and collects everything until the end.
    pub fn run(self, input: &[u8]) -> Outcome {
        let running = self.connect();
        running.start();
        running.finish(input)
    }

    pub fn exec(
        &self,
        args: &[&str],
        change: impl FnOnce(&mut ExecRequest, &mut Value),
    ) -> Made<'a> {
        let number = self.host.made.fetch_add(1, Ordering::Relaxed);
        let mut process = process(args);
        let mut request = ExecRequest {
            container_id: self.id.clone(),
            exec_id: format!("exec-{number}"),
            ..ExecRequest::default()
        };
        change(&mut request, &mut process);
        request.process = serde_json::to_vec(&process).unwrap();
        let response = self.host.client.exec(&request).unwrap();
        Made {
            host: self.host,
            id: self.id.clone(),
            exec_id: request.exec_id,
            response,
            stdin: request.stdin,
            terminal: process["terminal"] == true,
        }
    }

    pub fn wait(&self) -> WaitResponse {
        let request = WaitRequest {
            container_id: self.id.clone(),
            exec_id: self.exec_id.clone(),
            ..WaitRequest::default()
        };
        self.host.client.wait(&request).unwrap()
    }

    pub fn delete(&self) {
        let request = DeleteRequest {
            container_id: self.id.clone(),
            exec_id: self.exec_id.clone(),
            ..DeleteRequest::default()
        };
        self.host.client.delete(&request).unwrap();
    }
}

impl Running<'_> {
    pub fn try_start(&self) -> walnut_protocol::agent::StartResponse {
        let request = StartRequest {
            container_id: self.made.id.clone(),
            exec_id: self.made.exec_id.clone(),
            ..StartRequest::default()
        };
        self.made.host.client.start(&request).unwrap()
    }

    pub fn start(&self) {
        let started = self.try_start();
        assert!(started.has_pid(), "{started:?}");
    }

    pub fn finish(mut self, input: &[u8]) -> Outcome {
        let feeding = self.stdin.take().map(|mut stdin| {
            let input = input.to_vec();
            thread::spawn(move || {
                // A process that ends without reading is no error of this.
                let _ = stdin.write_all(&input);
                let _ = stdin.shutdown(std::net::Shutdown::Write);
                stdin
            })
        });
        let stderr = self
            .stderr
            .take()
            .map(|stream| thread::spawn(move || all_of(stream)));
        let stdout = all_of(self.stdout);
        let wait = self.made.wait();
        let stderr = stderr
            .map(|reading| reading.join().unwrap())
            .unwrap_or_default();
        if let Some(feeding) = feeding {
            drop(feeding.join().unwrap());
        }
        self.made.delete();
        Outcome {
            stdout,
            stderr,
            wait,
        }
    }
}

fn all_of(mut stream: UnixStream) -> Vec<u8> {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    all
}

pub fn mount(fstype: &str, source: &str, target: &str, options: &[&str]) -> MountPoint {
    MountPoint {
        type_: fstype.into(),
        source: source.into(),
        target: target.into(),
        options: options.iter().map(ToString::to_string).collect(),
        ..MountPoint::default()
    }
}

/// The "process" of a spec.
pub fn process(args: &[&str]) -> Value {
    let capabilities = [
        "CAP_CHOWN",
        "CAP_DAC_OVERRIDE",
        "CAP_FSETID",
        "CAP_FOWNER",
        "CAP_MKNOD",
        "CAP_NET_RAW",
        "CAP_SETGID",
        "CAP_SETUID",
        "CAP_SETFCAP",
        "CAP_SETPCAP",
        "CAP_NET_BIND_SERVICE",
        "CAP_SYS_CHROOT",
        "CAP_KILL",
        "CAP_AUDIT_WRITE",
    ];
    json!({
        "terminal": false,
        "user": {"uid": 0, "gid": 0},
        "args": args,
        "env": ["PATH=/bin:/sbin", "A=1"],
        "cwd": "/",
        "capabilities": {
            "bounding": capabilities, "effective": capabilities, "permitted": capabilities,
        },
        "noNewPrivileges": false,
    })
}

/// A spec as Docker would make it, but for limits: the machine of the tests may have no controllers.
fn spec(args: &[&str], root: &str) -> Value {
    let mount = |destination: &str, fstype: &str, options: &[&str]| json!({"destination": destination, "type": fstype, "source": fstype, "options": options});
    json!({
        "ociVersion": "1.2.0",
        "process": process(args),
        "root": {"path": root, "readonly": false},
        "hostname": "box",
        "mounts": [
            mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
            mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts",
                &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
            mount("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", "size=1m"]),
            mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            mount("/sys/fs/cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]),
        ],
        "linux": {
            "namespaces": [
                {"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"},
                {"type": "cgroup"},
            ],
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys"],
            "seccomp": {
                "defaultAction": "SCMP_ACT_ALLOW",
                "architectures": ["SCMP_ARCH_X86_64"],
                "syscalls": [
                    {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 77},
                ],
            },
        },
    })
}

fn make_place() -> std::io::Result<()> {
    #[expect(
        unsafe_code,
        reason = "it can pull descriptors from under other threads"
    )]
    // SAFETY: this process has one thread.
    let own = unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) };
    own?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private)?;
    rustix::mount::mount("tmpfs", "/run", "tmpfs", MountFlags::empty(), c"mode=755")?;
    // The machine may show its groups some other way below here.
    while rustix::mount::unmount("/sys/fs/cgroup", UnmountFlags::DETACH).is_ok() {}
    rustix::mount::mount(
        "cgroup2",
        "/sys/fs/cgroup",
        "cgroup2",
        MountFlags::empty(),
        None,
    )?;
    remove_groups();
    cgroup::prepare().map_err(std::io::Error::other)
}

/// The machine's groups outlive this process: what a run that failed has left goes here.
fn remove_groups() {
    let containers = Path::new("/sys/fs/cgroup/containers");
    for group in fs::read_dir(containers).into_iter().flatten().flatten() {
        let _ = fs::write(group.path().join("cgroup.kill"), "1");
        let _ = fs::remove_dir(group.path());
    }
    let _ = fs::remove_dir(containers);
}

/// An image of busybox, with users.
fn make_image(busybox: &str) {
    let image = Path::new(IMAGE);
    for dir in [
        "bin",
        "etc",
        "home/alice",
        "tmp",
        "proc",
        "sys",
        "dev",
        "usr/local/bin",
    ] {
        fs::create_dir_all(image.join(dir)).unwrap();
    }
    fs::copy(busybox, image.join("bin/busybox")).unwrap();
    for name in [
        "sh", "cat", "echo", "id", "env", "sleep", "head", "yes", "kill", "mkdir", "ls", "pwd",
        "wc", "stty", "tty", "hostname", "true", "grep", "touch", "dd", "readlink", "md5sum", "ps",
        "mknod",
    ] {
        symlink("/bin/busybox", image.join("bin").join(name)).unwrap();
    }
    fs::write(
        image.join("etc/passwd"),
        "root:x:0:0::/root:/bin/sh\nalice:x:1000:1000::/home/alice:/bin/sh\n",
    )
    .unwrap();
    fs::write(
        image.join("etc/group"),
        "root:x:0:\nalice:x:1000:\naudio:x:29:alice\n",
    )
    .unwrap();
    fs::write(image.join("etc/data"), "not a program").unwrap();
    fs::write(image.join("bin/noformat"), "no magic").unwrap();
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(image.join("bin/noformat"), executable).unwrap();
}
