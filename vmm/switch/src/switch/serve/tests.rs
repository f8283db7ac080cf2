// SPDX-License-Identifier: Apache-2.0
//! Who comes while a network ends, and when there are no descriptors left.

use std::fs::create_dir;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::process::Command;

use rustix::event::Timespec;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, bind, connect, listen, socket};
use rustix::process::{Resource, getrlimit, setrlimit};

use super::*;

fn network() -> Network {
    Network {
        name: "net".into(),
        gateway: [10, 89, 0, 1].into(),
        prefix: 24,
    }
}

fn unix() -> OwnedFd {
    socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap()
}

fn listener(dir: &Path) -> (OwnedFd, SocketAddrUnix) {
    let (listener, address) = (unix(), SocketAddrUnix::new(dir.join("s")).unwrap());
    bind(&listener, &address).unwrap();
    listen(&listener, 16).unwrap();
    (listener, address)
}

/// A container that leaves when what it gets is dropped.
fn join(address: &SocketAddrUnix) -> UnixStream {
    let connection = unix();
    connect(&connection, address).unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let wanted = crate::Join::default();
    crate::join(connection.as_fd(), &wanted, theirs.as_fd(), None).unwrap();
    ours
}

#[test]
fn who_has_the_lock_finds_the_network_or_none() {
    let place = tempfile::tempdir().unwrap();
    let (dir, lock) = (place.path().join("net"), place.path().join("lock"));
    for round in 0..200 {
        create_dir(&dir).unwrap();
        let held = File::create(&lock).unwrap();
        flock(&held, FlockOperation::LockExclusive).unwrap();
        let (listener, address) = listener(&dir);
        let (own_dir, own_lock) = (dir.clone(), lock.clone());
        let switch = std::thread::spawn(move || serve(network(), listener, &own_dir, &own_lock));
        let last = join(&address);
        drop(held);
        // The network ends, and somebody else wants to join.
        drop(last);
        let mut guests = Vec::new();
        let held = File::open(&lock).unwrap();
        flock(&held, FlockOperation::LockExclusive).unwrap();
        if dir.exists() {
            guests.push(join(&address));
        }
        drop(held);
        drop(guests);
        switch.join().unwrap().unwrap();
        assert!(!dir.exists(), "round {round}");
    }
}

/// Its absence makes the child below a no-op in ordinary runs.
const ROLE: &str = "WALNUT_SWITCH_DESCRIPTORS_TEST";

#[test]
fn without_descriptors_it_waits_until_somebody_leaves() {
    let name = "switch::serve::tests::few_descriptors";
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", name, "--test-threads=1"]);
    let done = command.env(ROLE, "1").output().unwrap();
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success() && said.contains("1 passed"), "{said}");
}

/// The bound is the whole process's.
#[test]
fn few_descriptors() {
    if std::env::var_os(ROLE).is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let lock = dir.path().join("lock");
    let held = File::create(&lock).unwrap();
    flock(&held, FlockOperation::LockExclusive).unwrap();
    let (listener, address) = listener(dir.path());
    let mut server = Server::new(network(), listener).unwrap();
    server.begin(&lock).unwrap();
    let waits = unix();
    connect(&waits, &address).unwrap();
    let mut bound = getrlimit(Resource::Nofile);
    // One more, to know which is free.
    let free = unix().as_raw_fd();
    let before = bound.current.replace(u64::try_from(free).unwrap());
    setrlimit(Resource::Nofile, bound).unwrap();
    let mut heard = || {
        let mut events = Vec::with_capacity(4);
        let buffer = rustix::buffer::spare_capacity(&mut events);
        let at_once = Timespec::default();
        epoll::wait(&server.poll, buffer, Some(&at_once)).unwrap();
        for event in &events {
            let about = event.data.u64();
            server.handle(about, event.flags, &lock).unwrap();
        }
        (events.len(), server.joining.iter().flatten().count())
    };
    assert_eq!(heard(), (1, 0), "there is none for it");
    assert_eq!(heard(), (0, 0), "and it is not asked for again at once");
    bound.current = before;
    setrlimit(Resource::Nofile, bound).unwrap();
    server.hear_again();
    let mut events = Vec::with_capacity(4);
    let buffer = rustix::buffer::spare_capacity(&mut events);
    epoll::wait(&server.poll, buffer, None).unwrap();
    let about = events[0].data.u64();
    server.handle(about, events[0].flags, &lock).unwrap();
    assert_eq!(server.joining.iter().flatten().count(), 1);
}
