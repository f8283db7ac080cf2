// SPDX-License-Identifier: Apache-2.0
//! The emulated host's file systems: the outside's `/` read-only below a tmpfs, and a host's own.

use std::ffi::CString;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;

use rustix::mount::{
    MountFlags, MountPropagationFlags, mount, mount_bind_recursive, mount_change, mount_move,
};

use super::{InsideError, os};
use crate::emulated::wire::Request;

type Result<T, E = InsideError> = std::result::Result<T, E>;

/// A mount that every host has: type, target, flags, data.
type Fixed = (&'static str, &'static str, MountFlags, &'static str);

const SAFE: MountFlags = MountFlags::NOSUID
    .union(MountFlags::NODEV)
    .union(MountFlags::NOEXEC);
const TEMPORARY: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV);

const EARLY: [Fixed; 3] = [
    ("devtmpfs", "/dev", MountFlags::NOSUID, "mode=755"),
    ("proc", "/proc", SAFE, ""),
    ("sysfs", "/sys", SAFE, ""),
];

const LATE: [Fixed; 8] = [
    (
        "devpts",
        "/dev/pts",
        MountFlags::NOSUID.union(MountFlags::NOEXEC),
        "gid=5,mode=620,ptmxmode=666",
    ),
    ("tmpfs", "/dev/shm", TEMPORARY, "mode=1777,size=75%"),
    ("mqueue", "/dev/mqueue", SAFE, ""),
    ("cgroup2", "/sys/fs/cgroup", SAFE, ""),
    ("debugfs", "/sys/kernel/debug", SAFE, ""),
    ("securityfs", "/sys/kernel/security", SAFE, ""),
    ("tmpfs", "/run", TEMPORARY, "mode=755,size=25%"),
    ("tmpfs", "/tmp", TEMPORARY, "mode=1777,size=75%"),
];

/// The outside's files never change below a run that matters, so a loose cache is right: without
/// it every read is a round trip.
const SHARE: &str = "trans=virtio,version=9p2000.L,msize=524288,cache=loose";
const OUTPUT_SHARE: &str = "trans=virtio,version=9p2000.L,msize=524288,cache=none";

pub(super) fn early() -> Result<()> {
    EARLY.iter().try_for_each(fixed)
}

/// The whole tree; afterwards `/` is what the command sees.
pub(super) fn all(request: &Request) -> Result<()> {
    plain("9p", "root", "/host", MountFlags::RDONLY, SHARE)?;
    plain(
        "tmpfs",
        "tmpfs",
        "/overlay",
        MountFlags::empty(),
        "mode=755,size=75%",
    )?;
    for directory in ["/overlay/upper", "/overlay/work"] {
        make(directory)?;
    }
    let layers = "lowerdir=/host,upperdir=/overlay/upper,workdir=/overlay/work";
    plain("overlay", "overlay", "/root", MountFlags::empty(), layers)?;
    for directory in ["dev", "proc", "sys"] {
        let (from, to) = (format!("/{directory}"), format!("/root/{directory}"));
        make(&to)?;
        mount_move(&from, &to).map_err(failed(&to))?;
    }
    switch_root().map_err(|source| InsideError::Mount {
        what: "the new root".into(),
        source,
    })?;
    for target in LATE.map(|fixed| fixed.1) {
        make(target)?;
    }
    // Before /tmp is covered: its directories outside stay visible below the new one.
    let old_tmp = rustix::fs::open("/tmp", rustix::fs::OFlags::PATH, rustix::fs::Mode::empty())
        .map_err(failed("/tmp"))?;
    LATE.iter().try_for_each(fixed)?;
    show_tmp(&format!(
        "/proc/self/fd/{}",
        std::os::fd::AsRawFd::as_raw_fd(&old_tmp)
    ));
    device_links();
    modules(os(&request.modules))?;
    if let Some(output) = &request.output {
        let target = Path::new(os(output));
        make(target)?;
        plain("9p", "output", target, MountFlags::empty(), OUTPUT_SHARE)?;
    }
    Ok(())
}

/// `/dev/kvm` as udev leaves it on Debian: root's, and the group kvm's, which is made if need be.
pub(super) fn kvm_device() -> io::Result<()> {
    let group = fs::read_to_string("/etc/group")?;
    let gid = match gid_of(&group, "kvm") {
        Some(gid) => gid,
        None => {
            let gid = free_gid(&group);
            fs::write(
                "/etc/group",
                format!("{}\nkvm:x:{gid}:\n", group.trim_end()),
            )?;
            gid
        }
    };
    chown("/dev/kvm", None, Some(gid))?;
    fs::set_permissions("/dev/kvm", Permissions::from_mode(0o660))
}

/// The gids of an `/etc/group`, by name.
fn gids(group: &str) -> impl Iterator<Item = (&str, u32)> {
    group.lines().filter_map(|line| {
        let mut fields = line.split(':');
        Some((fields.next()?, fields.nth(1)?.parse().ok()?))
    })
}

fn gid_of(group: &str, name: &str) -> Option<u32> {
    gids(group)
        .find(|(found, _)| *found == name)
        .map(|(_, gid)| gid)
}

/// Systems hand out the numbers below 1000 from the top.
fn free_gid(group: &str) -> u32 {
    (100..1000)
        .rev()
        .find(|gid| gids(group).all(|(_, taken)| taken != *gid))
        .unwrap_or(100)
}

fn switch_root() -> io::Result<()> {
    rustix::process::chdir("/root")?;
    mount_move(".", "/")?;
    rustix::process::chroot(".")?;
    rustix::process::chdir("/")?;
    // As systemd has it; container engines count on it.
    mount_change(
        "/",
        MountPropagationFlags::SHARED | MountPropagationFlags::REC,
    )?;
    Ok(())
}

/// Binds the directories of the old `/tmp` into the new one.
fn show_tmp(old: &str) {
    let Ok(entries) = fs::read_dir(old) else {
        return;
    };
    for entry in entries.filter_map(Result::ok) {
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let target = Path::new("/tmp").join(entry.file_name());
        // One that vanished outside meanwhile is no loss.
        let _ =
            fs::create_dir(&target).and_then(|()| Ok(mount_bind_recursive(entry.path(), &target)?));
    }
}

fn device_links() {
    for (name, target) in [
        ("fd", ""),
        ("stdin", "/0"),
        ("stdout", "/1"),
        ("stderr", "/2"),
    ] {
        let _ = symlink(format!("/proc/self/fd{target}"), format!("/dev/{name}"));
    }
}

/// Shows the unpacked modules where modprobe looks for them.
fn modules(release: &std::ffi::OsStr) -> Result<()> {
    let release = Path::new(release);
    let Some(name) = release.file_name() else {
        return Ok(());
    };
    let target = Path::new("/lib/modules").join(name);
    make(&target)?;
    mount_bind_recursive(release, &target).map_err(failed(&target.display().to_string()))
}

fn fixed((kind, target, flags, data): &Fixed) -> Result<()> {
    plain(kind, kind, target, *flags, data)
}

fn plain(
    kind: &str,
    source: &str,
    target: impl AsRef<Path>,
    flags: MountFlags,
    data: &str,
) -> Result<()> {
    let target = target.as_ref();
    let what = format!("{kind} on {}", target.display());
    let data = CString::new(data).expect("mount data has no NUL");
    mount(
        source,
        target.as_os_str().as_bytes(),
        kind,
        flags,
        data.as_c_str(),
    )
    .map_err(|error| InsideError::Mount {
        what,
        source: error.into(),
    })
}

fn failed(what: &str) -> impl FnOnce(rustix::io::Errno) -> InsideError {
    let what = what.to_owned();
    move |error| InsideError::Mount {
        what,
        source: error.into(),
    }
}

fn make(directory: impl AsRef<Path>) -> Result<()> {
    let directory = directory.as_ref();
    fs::create_dir_all(directory).map_err(|source| InsideError::Mount {
        what: format!("something on {}", directory.display()),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_found_or_gets_a_free_number() {
        let group = "root:x:0:\nsystemd-network:x:999:\nkvm:x:104:alice\n";
        assert_eq!(gid_of(group, "kvm"), Some(104));
        assert_eq!(gid_of(group, "kv"), None);
        assert_eq!(free_gid(group), 998);
    }
}
