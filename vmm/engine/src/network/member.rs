// SPDX-License-Identifier: Apache-2.0
//! A place on a network in user space: its switch is a process of its own (`walnut switch`), which
//! whoever joins first starts, and which ends when the last one has left.
//!
//! ```text
//! STATE/net/KEY.lock   held by whoever wants to join, and by a switch that is about to end
//! STATE/net/KEY/s      where containers join
//! STATE/net/KEY/log    what the switch says
//! ```

use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;

use rustix::fs::FlockOperation;
use rustix::io::{Errno, FdFlags, fcntl_setfd};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use thiserror::Error;
use walnut_switch::{ControlError, JailError, Join, Joined, Network, SwitchError, connect};

use crate::cli::switch::SwitchArgs;
use crate::paths::{PathError, Paths, private_dir};
use crate::record::{self, RecordError};

#[derive(Debug, Error)]
pub enum MemberError {
    #[error(transparent)]
    Path(#[from] PathError),
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error("make a socket in {path}")]
    Socket { path: PathBuf, source: io::Error },
    #[error("start the network's switch")]
    Spawn(#[source] io::Error),
    #[error("tell the switch what its network is")]
    Describe(#[source] serde_json::Error),
    #[error("the switch of the network {0} does not answer")]
    Silent(String),
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error(transparent)]
    Jail(#[from] JailError),
    #[error(transparent)]
    Switch(#[from] SwitchError),
}

const SOCKET: &str = "s";
const LOG: &str = "log";
const BACKLOG: i32 = 16;
/// Of a thread that does nothing but wait.
const WAITER_STACK: usize = 64 << 10;

/// Where a network is while it is up.
#[derive(Debug)]
struct Place {
    dir: PathBuf,
    lock: PathBuf,
}

impl Place {
    fn new(paths: &Paths, key: &str) -> Self {
        let all = paths.state.join("net");
        Self {
            dir: all.join(key),
            lock: all.join(format!("{key}.lock")),
        }
    }

    fn socket(&self) -> PathBuf {
        self.dir.join(SOCKET)
    }
}

/// What is left of a network that is no more, to be removed.
#[derive(Debug)]
pub struct Remains(Place);

impl Remains {
    pub(super) fn of(paths: &Paths, key: &str) -> Self {
        Self(Place::new(paths, key))
    }
}

impl Drop for Remains {
    fn drop(&mut self) {
        // A switch that is about to end removes the directory, too: one of the two comes first. One that
        // was killed has left it.
        let _ = fs::remove_dir_all(&self.0.dir);
        let _ = fs::remove_file(&self.0.lock);
    }
}

/// Removes what is left of a network that is no more: its key is never another's. Who is about to join
/// finds no such network.
pub fn forget(paths: &Paths, key: &str) {
    drop(Remains::of(paths, key));
}

/// Joins a network by its key, which comes up if it has to.
pub(super) fn join(
    paths: &Paths,
    key: &str,
    network: &Network,
    wanted: &Join,
    machine: BorrowedFd<'_>,
    uplink: Option<BorrowedFd<'_>>,
) -> Result<Joined, MemberError> {
    let place = Place::new(paths, key);
    paths.ensure_state()?;
    private_dir(&place.dir)?;
    let _lock = record::lock_file(&place.lock, FlockOperation::LockExclusive)?;
    // The last switch may have taken it along.
    private_dir(&place.dir)?;
    let failed = |source: Errno| MemberError::Socket {
        path: place.dir.clone(),
        source: source.into(),
    };
    let silent = || MemberError::Silent(network.name.clone());
    let address = SocketAddrUnix::new(place.socket()).map_err(failed)?;
    let connection = match connect(&address) {
        Err(Errno::NOENT | Errno::CONNREFUSED) => {
            let flags = SocketFlags::CLOEXEC;
            let listener = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
                .map_err(failed)?;
            let _ = fs::remove_file(place.socket());
            bind(&listener, &address).map_err(failed)?;
            listen(&listener, BACKLOG).map_err(failed)?;
            spawn(paths, &place, network, &listener)?;
            connect(&address)
        }
        connected => connected,
    };
    let connection = connection.map_err(|errno| match errno {
        Errno::AGAIN => silent(),
        errno => failed(errno),
    })?;
    let joined = walnut_switch::join(connection.as_fd(), wanted, machine, uplink);
    joined.map_err(|error| match error {
        ControlError::Silent => silent(),
        error => error.into(),
    })
}

/// Tells the switch of that key that the container is on another network, too: the other end of
/// `socket` is there.
pub(super) fn introduce(
    paths: &Paths,
    key: &str,
    container: &str,
    socket: BorrowedFd<'_>,
) -> Result<(), MemberError> {
    let connection = reach(paths, key)?;
    walnut_switch::introduce(connection.as_fd(), container, socket)?;
    Ok(())
}

/// Tells the switch of that key by which names the container is found from now on.
pub(super) fn rename(
    paths: &Paths,
    key: &str,
    container: &str,
    names: Vec<String>,
) -> Result<(), MemberError> {
    let connection = reach(paths, key)?;
    walnut_switch::rename(connection.as_fd(), container, names)?;
    Ok(())
}

/// A connection to a switch that is up.
fn reach(paths: &Paths, key: &str) -> Result<OwnedFd, MemberError> {
    let place = Place::new(paths, key);
    let failed = |source: Errno| MemberError::Socket {
        path: place.dir.clone(),
        source: source.into(),
    };
    let address = SocketAddrUnix::new(place.socket()).map_err(failed)?;
    connect(&address).map_err(|errno| match errno {
        Errno::AGAIN => ControlError::Silent.into(),
        errno => failed(errno),
    })
}

fn spawn(
    paths: &Paths,
    place: &Place,
    network: &Network,
    listener: &OwnedFd,
) -> Result<(), MemberError> {
    let program = std::env::current_exe().map_err(MemberError::Spawn)?;
    let network = serde_json::to_string(network).map_err(MemberError::Describe)?;
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(place.dir.join(LOG))
        .map_err(MemberError::Spawn)?;
    let mut command = Command::new(program);
    command.arg("--root").arg(&paths.root);
    command.arg("--state").arg(&paths.state);
    command.args(["switch", "--network", &network]);
    command.args(["--listener", &listener.as_raw_fd().to_string()]);
    command.arg("--dir").arg(&place.dir);
    command.arg("--lock").arg(&place.lock);
    // It inherits this one. No other thread starts a program meanwhile.
    let set = |flags| fcntl_setfd(listener, flags).map_err(|e| MemberError::Spawn(e.into()));
    set(FdFlags::empty())?;
    let spawned = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .current_dir("/")
        .process_group(0)
        .spawn();
    set(FdFlags::CLOEXEC)?;
    let mut switch = spawned.map_err(MemberError::Spawn)?;
    // Whichever of the two ends first: it is no zombie of this process, or init waits for it.
    let wait = move || switch.wait();
    let waiter = thread::Builder::new().name("switch".to_owned());
    waiter
        .stack_size(WAITER_STACK)
        .spawn(wait)
        .map(drop)
        .map_err(MemberError::Spawn)
}

/// `walnut switch`.
///
/// # Errors
/// The arguments are not ours, or the kernel refuses to wait.
pub fn serve(args: &SwitchArgs) -> Result<u8, MemberError> {
    // A new session: no terminal's signals, no shell that waits. It fails for a leader alone.
    let _ = rustix::process::setsid();
    // Each container takes two descriptors and more; with the usual bound there are some 500 of them.
    let bound = getrlimit(Resource::Nofile);
    let all = Rlimit {
        current: bound.maximum,
        ..bound
    };
    // It goes on with what it has otherwise.
    let _ = setrlimit(Resource::Nofile, all);
    // Landlock takes away what is beneath a directory: the lock is beside the network's own.
    let place = args.lock.parent().unwrap_or(&args.dir);
    walnut_switch::confine(place)?;
    let network: Network = serde_json::from_str(&args.network).map_err(MemberError::Describe)?;
    walnut_switch::serve(network, inherited(args.listener), &args.dir, &args.lock)?;
    Ok(0)
}

#[expect(
    unsafe_code,
    reason = "an inherited descriptor is only known by its number"
)]
fn inherited(fd: RawFd) -> OwnedFd {
    // SAFETY: whoever started this says that the number is ours alone; a wrong one fails at its
    // first use.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_switch_leaves_goes() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::within(dir.path());
        let (one, other) = (Place::new(&paths, "one"), Place::new(&paths, "other"));
        for place in [&one, &other] {
            fs::create_dir_all(&place.dir).unwrap();
            for file in [&place.socket(), &place.dir.join(LOG), &place.lock] {
                fs::write(file, "").unwrap();
            }
        }
        forget(&paths, "one");
        forget(&paths, "nosuch");
        assert!(!one.dir.exists() && !one.lock.exists());
        assert!(other.socket().exists() && other.lock.exists());
    }
}
