// SPDX-License-Identifier: Apache-2.0
//! A container's file systems: which devices the machine gets, and what the agent mounts of them.
//!
//! An image is EROFS on virtio-pmem, mapped with DAX; what the container writes goes to an overlay
//! on a tmpfs (`--rm`, `--read-only`) or on an ext4 disk that lives as long as the container. What
//! stays on the host comes by virtio-fs: one device that holds each volume under a name, one for
//! `--rootfs`.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use walnut_passwd::MAX_FILE;
use walnut_protocol::agent::{self, MountPoint};
use walnut_vmm_config as config;

use crate::container::{Container, InVm, Volume};
use crate::volumes::Claim;

pub mod disk;
mod places;

pub use places::Places;

/// What the guest mounts the volumes' device by.
const VOLUMES_TAG: &str = "walnut";
const VOLUMES: &str = "/run/walnut/volumes";
/// Where the named ones' file systems are mounted, and what of each is the volume: the rest is
/// the file system's own (`lost+found`).
const NAMED: &str = "/run/walnut/named";
const DATA: &str = "data";
/// Behind the guest's own root.
const IMAGE_DEVICE: &str = "/dev/pmem1";
/// The name of an image that was brought.
pub const BROUGHT: &str = "image.erofs";
/// The device, and the one volume in it, that is the root file system.
const ROOTFS_TAG: &str = "rootfs";
const HOST: &str = "/run/walnut/host";
const ROOTFS_PATH: &str = "/run/walnut/host/rootfs";
/// The volume is a mount point that the kernel enters on the way to something below it, and
/// overlayfs looks no further than the name it is given.
const ROOTFS_LOWER: &str = "/run/walnut/host/rootfs/.";

/// Where the root file system comes from.
#[derive(Debug)]
pub enum Source {
    /// An EROFS image.
    Image(PathBuf),
    /// A directory of the host.
    Directory(PathBuf),
}

impl Source {
    /// The first `most` bytes of a file; none where there is no such file.
    fn read(&self, path: &str, most: u64) -> io::Result<Vec<u8>> {
        let dir = match self {
            Self::Image(image) => {
                let found = walnut_erofs::read_file(&File::open(image)?, path, most)?;
                return Ok(found.unwrap_or_default());
            }
            Self::Directory(dir) => dir,
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(dir, flags, Mode::empty())?;
        // Not what a link or a pipe in its place would lead to.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let mut bytes = Vec::new();
        match rustix::fs::openat2(root, path, flags, Mode::empty(), inside) {
            Ok(fd) => File::from(fd).take(most).read_to_end(&mut bytes)?,
            Err(Errno::NOENT) => 0,
            Err(e) => return Err(e.into()),
        };
        Ok(bytes)
    }
}

/// Devices and mounts, in the order in which they are made.
#[derive(Debug)]
pub struct Layout {
    /// The container's image, if it has one.
    pub image: Option<config::PmemConfig>,
    pub disks: Vec<config::DiskConfig>,
    pub fs: Vec<config::FsConfig>,
    pub mounts: Vec<MountPoint>,
    /// The container's root, a path in the guest.
    pub rootfs: String,
    /// The guest's path of each of the container's volumes.
    pub volume_sources: Vec<PathBuf>,
    /// Volumes whose first use this may be.
    pub fills: Vec<agent::Volume>,
    /// Mounts that are made before the container, for it.
    pub takes: Vec<String>,
}

/// Of an image that is no larger, filling the page tables costs less than the exits of a start.
const SMALL: u64 = 4 << 20;

fn is_small(image: &Path) -> bool {
    fs::metadata(image).is_ok_and(|meta| meta.len() <= SMALL)
}

impl Layout {
    /// `disk` is the formatted file that the writable layer is kept on; a tmpfs serves without.
    pub fn new(container: &Container, source: &Source, disk: Option<&Path>) -> Self {
        let mut layout = Self::empty(container);
        let places = Places::of(container);
        let image = places.image();
        layout.volumes(container, source);
        let lower = match source {
            Source::Image(path) => {
                layout.image = Some(config::PmemConfig {
                    path: path.clone(),
                    room: None,
                    prefault: is_small(path),
                });
                layout
                    .mounts
                    .push(mount("erofs", IMAGE_DEVICE, &image, &["ro", "dax=always"]));
                image.as_str()
            }
            Source::Directory(path) => {
                let rootfs = config::Volume {
                    name: ROOTFS_TAG.to_owned(),
                    source: path.clone(),
                    readonly: container.read_only,
                };
                // A root file system's files are root's.
                layout.share(ROOTFS_TAG, HOST, vec![rootfs], config::Owner::default());
                ROOTFS_LOWER
            }
        };
        // A directory is written to as it is; mount points that it lacks are made in it.
        if matches!(source, Source::Directory(_)) && !container.read_only {
            layout.rootfs = ROOTFS_PATH.to_owned();
            return layout;
        }
        layout.overlay(container, lower, disk);
        layout
    }

    /// Of a container in the machine of another one, which takes no more devices: its image is
    /// brought, what it writes is in memory, its volumes are there already.
    pub fn in_vm(container: &Container, place: &InVm) -> Self {
        let mut layout = Self::empty(container);
        let places = Places::of(container);
        if !place.same_image {
            let brought = format!("{}/{BROUGHT}", places.brought());
            let image = mount("erofs", &brought, &places.image(), &["ro"]);
            layout.mounts.push(image);
            layout.takes.push(places.brought());
        }
        layout.volume_sources.clone_from(&place.volume_sources);
        layout.overlay(container, &places.image(), None);
        layout
    }

    fn empty(container: &Container) -> Self {
        Self {
            image: None,
            disks: Vec::new(),
            fs: Vec::new(),
            mounts: Vec::new(),
            rootfs: Places::of(container).rootfs(),
            volume_sources: Vec::new(),
            fills: Vec::new(),
            takes: Vec::new(),
        }
    }

    /// Adds the disks of the container's named volumes.
    pub fn add_named(&mut self, container: &Container, claims: &[Claim]) {
        for claim in claims {
            let (Some(volume), Some(source)) = (
                container.volumes.get(claim.index),
                self.volume_sources.get(claim.index),
            ) else {
                continue;
            };
            // The monitor takes no more disks than there are letters.
            let letter = u8::try_from(self.disks.len()).unwrap_or(u8::MAX);
            let device = format!("/dev/vd{}", char::from(b'a'.saturating_add(letter)));
            let target = format!("{NAMED}/{}", claim.index);
            let options: &[&str] = match claim.readonly {
                true => &["ro"],
                false => &["noatime", "discard", "noinit_itable"],
            };
            self.mounts.push(mount("ext4", &device, &target, options));
            self.disks.push(config::DiskConfig {
                path: claim.path.clone(),
                readonly: claim.readonly,
                serial: Some(format!("volume{}", claim.index)),
            });
            if !claim.readonly {
                self.fills.push(agent::Volume {
                    path: source.display().to_string(),
                    target: volume.target.display().to_string(),
                    copy: !volume.nocopy,
                    ..agent::Volume::default()
                });
            }
        }
    }

    fn volumes(&mut self, container: &Container, source: &Source) {
        self.volume_sources = volume_sources(container);
        let mut volumes = Vec::new();
        for (index, volume) in container.volumes.iter().enumerate() {
            if volume.is_named() {
                continue;
            }
            volumes.push(config::Volume {
                name: index.to_string(),
                source: volume.source.clone(),
                readonly: volume.readonly,
            });
        }
        if !volumes.is_empty() {
            // Root's monitor has no use for it.
            let owner = match rustix::process::geteuid().is_root() {
                true => config::Owner::default(),
                false => owner(&container.user, source),
            };
            self.share(VOLUMES_TAG, VOLUMES, volumes, owner);
        }
    }

    fn share(
        &mut self,
        tag: &str,
        target: &str,
        volumes: Vec<config::Volume>,
        owner: config::Owner,
    ) {
        self.fs.push(config::FsConfig {
            tag: tag.to_owned(),
            source: config::FsSource::Volumes(volumes),
            owner,
        });
        self.mounts.push(mount("virtiofs", tag, target, &[]));
    }

    fn overlay(&mut self, container: &Container, lower: &str, disk: Option<&Path>) {
        let places = Places::of(container);
        let writable = places.writable();
        match disk {
            Some(path) => {
                self.disks.push(config::DiskConfig {
                    path: path.to_owned(),
                    readonly: false,
                    serial: Some("rw".to_owned()),
                });
                // Inode tables are written when first used, not all at once by a thread.
                let options = ["noatime", "discard", "noinit_itable"];
                self.mounts
                    .push(mount("ext4", "/dev/vda", &writable, &options));
            }
            None => {
                let size = container.storage_size.map(|bytes| format!("size={bytes}"));
                let options: Vec<&str> = ["mode=0700"].into_iter().chain(size.as_deref()).collect();
                self.mounts
                    .push(mount("tmpfs", "tmpfs", &writable, &options));
            }
        }
        let lower = format!("lowerdir={lower}");
        let upper = format!("upperdir={}", places.upper());
        let work = format!("workdir={writable}/work");
        self.mounts.push(mount(
            "overlay",
            "overlay",
            &self.rootfs,
            &[&lower, &upper, &work],
        ));
    }
}

/// In the guest, each of a container's volumes.
pub fn volume_sources(container: &Container) -> Vec<PathBuf> {
    let all = &container.volumes;
    let path = |(index, volume): (usize, &Volume)| {
        if !volume.is_named() {
            return Path::new(VOLUMES).join(index.to_string());
        }
        // One that is mounted twice has one disk.
        let first = all.iter().position(|other| other.name == volume.name);
        let first = first.unwrap_or(index).to_string();
        Path::new(NAMED).join(first).join(DATA)
    };
    all.iter().enumerate().map(path).collect()
}

/// Whose the volumes are where all their files are one user's, the caller's: the container's own
/// user's, who could not write there otherwise. For a user that there is not, the agent has words.
fn owner(user: &str, source: &Source) -> config::Owner {
    if user.is_empty() {
        return config::Owner::default();
    }
    let [passwd, group] = ["etc/passwd", "etc/group"].map(|path| {
        let read = source.read(path, MAX_FILE).unwrap_or_else(|e| {
            log::debug!("read the image's {path}: {e}");
            Vec::new()
        });
        String::from_utf8_lossy(&read).into_owned()
    });
    match walnut_passwd::resolve(&passwd, &group, user, &[]) {
        Ok(user) => config::Owner {
            uid: user.uid,
            gid: user.gid,
        },
        Err(_) => config::Owner::default(),
    }
}

/// Where something is mounted in every container, or in this one: places that are made in its root
/// without its doing. Relative to the root.
pub fn mount_points(container: &Container) -> Vec<PathBuf> {
    const ALWAYS: [&str; 9] = [
        "dev",
        "etc",
        "etc/hostname",
        "etc/hosts",
        "etc/resolv.conf",
        "proc",
        "sys",
        "dev/pts",
        "dev/shm",
    ];
    let own = container.volumes.iter().map(|volume| &volume.target);
    let own = own.chain(container.tmpfs.iter().map(|tmpfs| &tmpfs.target));
    // With the directories above them, which may have been made for them.
    let own = own.flat_map(|target| target.ancestors());
    let own = own.filter_map(|path| path.strip_prefix("/").ok());
    let cwd = Path::new(&container.cwd).ancestors();
    let cwd = cwd.filter_map(|path| path.strip_prefix("/").ok());
    let all = ALWAYS.iter().map(Path::new).chain(own).chain(cwd);
    all.filter(|path| !path.as_os_str().is_empty())
        .map(Path::to_owned)
        .collect()
}

fn mount(kind: &str, source: &str, target: &str, options: &[&str]) -> MountPoint {
    MountPoint {
        type_: kind.to_owned(),
        source: source.to_owned(),
        target: target.to_owned(),
        options: options.iter().map(ToString::to_string).collect(),
        ..MountPoint::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_are_the_containers_users() {
        let root = tempfile::tempdir().unwrap();
        let source = Source::Directory(root.path().to_owned());
        let ids = |user: &str| {
            let owner = owner(user, &source);
            (owner.uid, owner.gid)
        };
        assert_eq!(ids("1000:1001"), (1000, 1001));
        assert_eq!(ids("1000"), (1000, 0));
        std::fs::create_dir(root.path().join("etc")).unwrap();
        let etc = |file: &str, text| std::fs::write(root.path().join("etc").join(file), text);
        etc("passwd", "alice:x:1000:100::/:\n").unwrap();
        etc("group", "staff:x:50:\n").unwrap();
        assert_eq!(ids("1000"), (1000, 100));
        assert_eq!(ids("alice"), (1000, 100));
        assert_eq!(ids("alice:staff"), (1000, 50));
        for user in ["", "0", "bob", "alice:nosuch", "-1", "99999999999"] {
            assert_eq!(ids(user), (0, 0), "{user}");
        }
    }

    #[test]
    fn a_link_leads_nowhere_else() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("etc")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", root.path().join("etc/passwd")).unwrap();
        let source = Source::Directory(root.path().to_owned());
        assert!(source.read("etc/passwd", MAX_FILE).is_err());
    }
}
