// SPDX-License-Identifier: Apache-2.0
//! What a switch gives up before it looks at the first frame: capabilities, files but those of its own
//! network's place (Landlock), and all system calls that it has no use for (seccomp).

use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, PathBeneath, PathFd, PathFdError, Ruleset, RulesetAttr, RulesetCreated,
    RulesetCreatedAttr, RulesetError, RulesetStatus,
};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities, set_no_new_privs};
use thiserror::Error;
use walnut_vmm_host::seccomp::{AllowList, BASICS, EVENTS};

#[derive(Debug, Error)]
pub enum JailError {
    #[error("give up root's rights")]
    Rights(#[source] rustix::io::Errno),
    #[error("give up files")]
    Files(#[source] RulesetError),
    #[error("look at the network's directory")]
    Directory(#[from] PathFdError),
    #[error("build a seccomp filter")]
    Build(#[source] seccompiler::BackendError),
    #[error("install a seccomp filter")]
    Install(#[source] seccompiler::Error),
}

/// Containers that join, and their frames.
const FRAMES: &[i64] = &[
    libc::SYS_accept4,
    libc::SYS_eventfd2,
    libc::SYS_recvmsg,
    libc::SYS_sendto,
];

/// The thread that waits for the lock.
const LOCK: &[i64] = &[
    libc::SYS_clone3,
    libc::SYS_flock,
    libc::SYS_openat,
    libc::SYS_rseq,
    // How large its stack is.
    libc::SYS_sched_getaffinity,
];

/// The end: the network's directory goes.
const END: &[i64] = &[
    libc::SYS_fcntl,
    libc::SYS_fstat,
    libc::SYS_getdents64,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_unlinkat,
];

/// linux/prctl.h, asm-generic/ioctls.h.
const PR_SET_NAME: u64 = 15;
const FIONBIO: u64 = 0x5421;

/// For the whole process, which has one thread as yet, and for good. `place` holds the network's
/// directory and its lock.
///
/// # Errors
/// The kernel refuses. Without Landlock in it, files are left to the filter alone.
pub fn confine(place: &Path) -> Result<(), JailError> {
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    set_no_new_privs(true)
        .and_then(|()| set_capabilities(None, none))
        .map_err(JailError::Rights)?;
    keep_files_of(place)?;
    let mut list = AllowList::of(&[BASICS, EVENTS, FRAMES, LOCK, END]);
    list.allow_with(libc::SYS_prctl, 0, &[PR_SET_NAME])
        .and_then(|()| list.allow_with(libc::SYS_ioctl, 1, &[FIONBIO]))
        .map_err(JailError::Build)?;
    let program = list.compile().map_err(JailError::Build)?;
    seccompiler::apply_filter(&program).map_err(JailError::Install)
}

/// Whether the kernel has it.
fn keep_files_of(place: &Path) -> Result<bool, JailError> {
    let ours = AccessFs::ReadFile | AccessFs::ReadDir | AccessFs::RemoveFile | AccessFs::RemoveDir;
    let place = PathBeneath::new(PathFd::new(place)?, ours);
    let status = Ruleset::default()
        .handle_access(AccessFs::from_all(ABI::V4))
        .and_then(Ruleset::create)
        .and_then(|rules| rules.add_rule(place))
        .and_then(RulesetCreated::restrict_self)
        .map_err(JailError::Files)?;
    Ok(status.ruleset != RulesetStatus::NotEnforced)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, ExitStatus};

    use rustix::fs::{FlockOperation, flock};
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketType};
    use simple_dns::TYPE;
    use walnut_vmm_config::Mac;

    use super::*;
    use crate::link::with_length;
    use crate::names::tests::question;
    use crate::stack::now;
    use crate::stack::tests::Peer;
    use crate::streams::with_length as with_prefix;

    /// What the child below is to do; its absence makes that test a no-op in ordinary runs.
    const ROLE: &str = "WALNUT_SWITCH_JAIL_TEST";

    const REFUSED: i32 = 3;
    /// Then it is the filter alone that holds.
    const NO_LANDLOCK: i32 = 4;

    fn run(role: &str) -> ExitStatus {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "jail::tests::child", "--test-threads=1"]);
        let done = command.env(ROLE, role).output();
        done.unwrap().status
    }

    #[test]
    fn child() {
        let Ok(role) = std::env::var(ROLE) else {
            return;
        };
        let dir = tempfile::tempdir().unwrap();
        let (place, own) = (dir.path().join("net"), dir.path().join("net/key"));
        fs::create_dir_all(&own).unwrap();
        fs::write(own.join("log"), "").unwrap();
        // Root may write there otherwise.
        let elsewhere = dir.path().join("file");
        fs::write(&elsewhere, "").unwrap();
        if role == "a network" {
            return whole_life(&place, &own);
        }
        if role.starts_with("file") && !keep_files_of(&place).unwrap() {
            std::process::exit(NO_LANDLOCK);
        }
        confine(&place).unwrap();
        let kind = SocketType::STREAM;
        let went = match role.as_str() {
            "inet-socket" => rustix::net::socket(AddressFamily::INET, kind, None).is_ok(),
            "unix-socket" => rustix::net::socket(AddressFamily::UNIX, kind, None).is_ok(),
            "exec" => Command::new("/bin/true").status().is_ok(),
            "kill" => {
                let parent = rustix::process::getppid().unwrap();
                rustix::process::test_kill_process(parent).is_ok()
            }
            "file elsewhere" => fs::read(&elsewhere).is_ok(),
            "file to write" => fs::write(own.join("new"), "").is_ok(),
            "thread" => std::thread::spawn(|| ()).join().is_ok(),
            "own end" => fs::remove_dir_all(&own).is_ok() && !own.exists(),
            other => panic!("no role {other}"),
        };
        // What the test harness does to end may be forbidden as well.
        std::process::exit(if went { 0 } else { REFUSED });
    }

    /// Until there is an answer of the gateway's.
    fn ask_by_tcp(machine: &mut UnixStream) {
        let (own, gateway) = ([10, 89, 0, 2], [10, 89, 0, 1]);
        let [a, b, c, d] = own;
        let peer = Peer::client(own.into(), 4000, (gateway.into(), 53), now());
        let mut peer = peer.with_macs(Mac([2, 66, a, b, c, d]), crate::GATEWAY_MAC);
        let question = with_prefix(&question("example.org", TYPE::A));
        let mut question = question.into_iter();
        while peer.read().is_empty() {
            for frame in peer.frames(now()) {
                machine.write_all(&with_length(&frame)).unwrap();
            }
            let mut length = [0; 4];
            machine.read_exact(&mut length).unwrap();
            let mut frame = vec![0; u32::from_be_bytes(length) as usize];
            machine.read_exact(&mut frame).unwrap();
            peer.hear(&frame);
            peer.frames(now()).iter().for_each(|frame| {
                machine.write_all(&with_length(frame)).unwrap();
            });
            if peer.socket().may_send() {
                question.by_ref().for_each(|bytes| peer.say(&bytes));
            }
        }
    }

    /// A container joins, says something, and leaves; then it is over.
    fn whole_life(place: &Path, own: &Path) {
        let lock = place.join("key.lock");
        let held = fs::File::create(&lock).unwrap();
        flock(&held, FlockOperation::LockExclusive).unwrap();
        let socket = || rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None);
        let listener = socket().unwrap();
        let address = SocketAddrUnix::new(own.join("s")).unwrap();
        rustix::net::bind(&listener, &address).unwrap();
        rustix::net::listen(&listener, 1).unwrap();
        // Filters are a thread's, and its children's.
        let container = std::thread::spawn(move || {
            let connection = socket().unwrap();
            rustix::net::connect(&connection, &address).unwrap();
            let (mut ours, theirs) = UnixStream::pair().unwrap();
            let (_outside, uplink) = UnixStream::pair().unwrap();
            let (machine, uplink) = (theirs.as_fd(), Some(uplink.as_fd()));
            crate::join(connection.as_fd(), &crate::Join::default(), machine, uplink).unwrap();
            let arp = [
                0, 0, 0, 42, 255, 255, 255, 255, 255, 255, 2, 66, 10, 89, 0, 2, 8, 6, 0, 1, 8, 0,
                6, 4, 0, 1, 2, 66, 10, 89, 0, 2, 10, 89, 0, 2, 0, 0, 0, 0, 0, 0, 10, 89, 0, 1,
            ];
            ours.write_all(&arp).unwrap();
            ours.read_exact(&mut [0; 4 + 42]).unwrap();
            ask_by_tcp(&mut ours);
            drop(held);
        });
        confine(place).unwrap();
        let network = crate::Network {
            name: "net".into(),
            gateway: [10, 89, 0, 1].into(),
            prefix: 24,
        };
        crate::serve(network, listener, own, &lock).unwrap();
        container.join().unwrap();
        std::process::exit(if own.exists() { REFUSED } else { 0 });
    }

    #[test]
    fn what_kills() {
        for role in ["inet-socket", "unix-socket", "exec", "kill"] {
            assert_eq!(run(role).signal(), Some(libc::SIGSYS), "{role}");
        }
    }

    #[test]
    fn what_is_its_own() {
        for role in ["thread", "own end", "a network"] {
            assert_eq!(run(role).code(), Some(0), "{role}");
        }
    }

    #[test]
    fn files_of_others() {
        for role in ["file elsewhere", "file to write"] {
            let code = run(role).code();
            assert!(
                matches!(code, Some(REFUSED | NO_LANDLOCK)),
                "{role}: {code:?}"
            );
        }
    }
}
