// SPDX-License-Identifier: Apache-2.0
//! Volumes, mounted and served, each time in a process of its own.

use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Gid, Uid, fork, setgroups, setresgid, setresuid};
use walnut_vmm_config::Volume;

use super::super::volumes::{VolumesError, prepare};
use super::*;

/// Runs `body` as `user`, if it is another one than the caller, in a process with one thread.
#[expect(
    unsafe_code,
    reason = "fork is unsafe in a process with several threads"
)]
fn elsewhere(user: u32, body: fn()) {
    // SAFETY: the child is a copy of a test's thread. The C library keeps the allocator usable
    // across fork, and the body waits for no other thread.
    let child = match unsafe { fork() }.unwrap() {
        ForkResult::Parent { child } => child,
        ForkResult::Child => {
            let code = i32::from(std::panic::catch_unwind(|| act_as(user, body)).is_err());
            // SAFETY: the process ends without running anything that belongs to its parent.
            unsafe { libc::_exit(code) }
        }
    };
    assert_eq!(waitpid(child, None), Ok(WaitStatus::Exited(child, 0)));
}

fn act_as(user: u32, body: fn()) {
    // Captured output would be lost with the process.
    std::panic::set_hook(Box::new(|info| {
        let _ = rustix::io::write(rustix::stdio::stderr(), format!("{info}\n").as_bytes());
    }));
    if user != rustix::process::geteuid().as_raw() {
        let (uid, gid) = (Uid::from_raw(user), Gid::from_raw(user));
        setgroups(&[]).unwrap();
        setresgid(gid, gid, gid).unwrap();
        setresuid(uid, uid, uid).unwrap();
        // Without this, /proc/self would still be root's.
        let dumpable = rustix::process::DumpableBehavior::Dumpable;
        rustix::process::set_dumpable_behavior(dumpable).unwrap();
    }
    body();
}

fn volume(name: &str, source: &Path, readonly: bool) -> Volume {
    Volume {
        name: name.to_owned(),
        source: source.to_owned(),
        readonly,
    }
}

fn of_volumes(volumes: Vec<Volume>) -> FsConfig {
    config("test", FsSource::Volumes(volumes))
}

fn serve() {
    let (open, closed) = (directory(), directory());
    fs::write(open.path().join("old"), "old").unwrap();
    fs::write(closed.path().join("old"), "old").unwrap();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mut configs = [of_volumes(vec![
        volume("open", open.path(), false),
        volume("closed", closed.path(), true),
        volume("file", &open.path().join("old"), false),
    ])];
    prepare(&mut configs).unwrap();
    // Nothing is left where anybody could see it.
    let points = |mounts: &str| mounts.lines().count();
    let now = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert_eq!(points(&now), points(&mounts));

    let [config] = configs;
    let mut client = Client::idle(config.source);
    client.init();
    let at = client.lookup(ROOT_ID, c"open").unwrap().nodeid;
    let (entry, fh) = client.create(at, c"new", 0o644).unwrap();
    client.write(entry.nodeid, fh, 0, b"new").unwrap();
    assert_eq!(fs::read(open.path().join("new")).unwrap(), b"new");

    let at = client.lookup(ROOT_ID, c"closed").unwrap().nodeid;
    assert_eq!(client.create(at, c"new", 0o644).err(), Some(libc::EROFS));
    let old = client.lookup(at, c"old").unwrap().nodeid;
    let fh = client.open(Opcode::Open, old, libc::O_RDONLY).unwrap();
    let read = client.read(Opcode::Read, old, fh, 0, 16).unwrap();
    assert_eq!(read, b"old");
    let writing = client.open(Opcode::Open, old, libc::O_RDWR);
    assert_eq!(writing, Err(libc::EROFS));

    let file = client.lookup(ROOT_ID, c"file").unwrap().nodeid;
    let fh = client.open(Opcode::Open, file, libc::O_RDWR).unwrap();
    client.write(file, fh, 0, b"OLD").unwrap();
    assert_eq!(fs::read(open.path().join("old")).unwrap(), b"OLD");
    // The directory that holds them is nobody's to write in.
    assert_eq!(
        client.create(ROOT_ID, c"more", 0o644).err(),
        Some(libc::EROFS)
    );
}

#[test]
fn volumes_of_root() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("skipped: needs root");
    }
    elsewhere(0, serve);
}

#[test]
fn volumes_of_somebody_else() {
    let own = rustix::process::geteuid().as_raw();
    let user = if own == 0 { SOMEBODY } else { own };
    elsewhere(user, || {
        serve();
        squashed();
    });
}

const SOMEBODY: u32 = 54321;

/// The caller's files are the owner's in the guest, and whoever writes there writes as the caller.
fn squashed() {
    let dir = directory();
    let mut client = Client::new(dir.path());
    client.ids = (1000, 1000);
    let (entry, _) = client.create(ROOT_ID, c"file", 0o600).unwrap();
    assert_eq!((entry.attr.uid, entry.attr.gid), (0.into(), 0.into()));
    let user = rustix::process::geteuid().as_raw();
    assert_eq!(dir.path().join("file").metadata().unwrap().uid(), user);
    let chown = SetattrIn {
        valid: 1 << 1,
        uid: 77.into(),
        ..SetattrIn::default()
    };
    client
        .call(Opcode::Setattr, entry.nodeid, chown.as_slice(), 256)
        .unwrap();
    let mut config = config("test", FsSource::Directory(dir.path().to_owned()));
    config.owner = Owner {
        uid: 1000,
        gid: 1001,
    };
    let mut client = Client::of(&config);
    client.init();
    let entry = client.lookup(ROOT_ID, c"file").unwrap();
    assert_eq!((entry.attr.uid, entry.attr.gid), (1000.into(), 1001.into()));
    client.ids = (2000, 2000);
    client.create(ROOT_ID, c"other", 0o600).unwrap();
    assert_eq!(dir.path().join("other").metadata().unwrap().uid(), user);
    let mut client = Client::new(Path::new("/"));
    let etc = client.lookup(ROOT_ID, c"etc").unwrap();
    assert_eq!(etc.attr.uid, 65534.into());
}

#[test]
fn volumes_that_cannot_be_are_named() {
    elsewhere(rustix::process::geteuid().as_raw(), || {
        let dir = directory();
        let refused = |volumes| prepare(&mut [of_volumes(volumes)]).err();
        let missing = dir.path().join("missing");
        let error = refused(vec![volume("v", &missing, false)]).unwrap();
        assert!(error.to_string().contains(missing.to_str().unwrap()));
        for name in ["", ".", "..", "a/b", "/"] {
            let error = refused(vec![volume(name, dir.path(), false)]);
            assert!(matches!(error, Some(VolumesError::Name { .. })), "{name}");
        }
        let twice = refused(vec![
            volume("v", dir.path(), false),
            volume("v", dir.path(), true),
        ]);
        assert!(matches!(twice, Some(VolumesError::Twice { .. })));
    });
}

#[test]
fn without_volumes_nothing_is_done() {
    let mut configs = [config("test", FsSource::Directory("/".into()))];
    let before = fs::read_link("/proc/thread-self/ns/mnt").unwrap();
    prepare(&mut configs).unwrap();
    assert_eq!(before, fs::read_link("/proc/thread-self/ns/mnt").unwrap());
    assert_eq!(configs[0].source, FsSource::Directory("/".into()));
}
