// SPDX-License-Identifier: Apache-2.0
//! A container's file systems: which devices the machine gets, and what the agent mounts of them.
//!
//! An image is EROFS on virtio-pmem, mapped with DAX; what the container writes goes to an overlay
//! on a tmpfs (`--rm`, `--read-only`) or on an ext4 disk that lives as long as the container. What
//! stays on the host comes by virtio-fs: one device that holds each volume under a name, one for
//! `--rootfs`.

use std::path::{Path, PathBuf};

use walnut_protocol::agent::MountPoint;
use walnut_vmm_config as config;

use crate::container::Container;

pub mod disk;

/// What the guest mounts the volumes' device by.
const VOLUMES_TAG: &str = "walnut";
const VOLUMES: &str = "/run/walnut/volumes";
/// Behind the guest's own root.
const IMAGE_DEVICE: &str = "/dev/pmem1";
const IMAGE: &str = "/run/walnut/image";
const WRITABLE: &str = "/run/walnut/rw";
const OVERLAY: &str = "/run/walnut/rootfs";
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

/// Devices and mounts, in the order in which they are made.
#[derive(Debug)]
pub struct Layout {
    pub pmem: Vec<config::PmemConfig>,
    pub disks: Vec<config::DiskConfig>,
    pub fs: Vec<config::FsConfig>,
    pub mounts: Vec<MountPoint>,
    /// The container's root, a path in the guest.
    pub rootfs: &'static str,
    /// The guest's path of each of the container's volumes.
    pub volume_sources: Vec<PathBuf>,
}

impl Layout {
    /// `disk` is the formatted file that the writable layer is kept on; a tmpfs serves without.
    pub fn new(container: &Container, source: &Source, disk: Option<&Path>) -> Self {
        let mut layout = Self {
            pmem: Vec::new(),
            disks: Vec::new(),
            fs: Vec::new(),
            mounts: Vec::new(),
            rootfs: OVERLAY,
            volume_sources: Vec::new(),
        };
        layout.volumes(container);
        let lower = match source {
            Source::Image(path) => {
                layout.pmem.push(config::PmemConfig {
                    path: path.clone(),
                    prefault: false,
                });
                layout
                    .mounts
                    .push(mount("erofs", IMAGE_DEVICE, IMAGE, &["ro", "dax=always"]));
                IMAGE
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
            layout.rootfs = ROOTFS_PATH;
            return layout;
        }
        layout.overlay(container, lower, disk);
        layout
    }

    fn volumes(&mut self, container: &Container) {
        let mut volumes = Vec::new();
        for (index, volume) in container.volumes.iter().enumerate() {
            let name = index.to_string();
            self.volume_sources.push(Path::new(VOLUMES).join(&name));
            volumes.push(config::Volume {
                name,
                source: volume.source.clone(),
                readonly: volume.readonly,
            });
        }
        if !volumes.is_empty() {
            self.share(VOLUMES_TAG, VOLUMES, volumes, owner(&container.user));
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
                    .push(mount("ext4", "/dev/vda", WRITABLE, &options));
            }
            None => {
                let size = container.storage_size.map(|bytes| format!("size={bytes}"));
                let options: Vec<&str> = ["mode=0700"].into_iter().chain(size.as_deref()).collect();
                self.mounts
                    .push(mount("tmpfs", "tmpfs", WRITABLE, &options));
            }
        }
        let lower = format!("lowerdir={lower}");
        let upper = format!("upperdir={WRITABLE}/upper");
        let work = format!("workdir={WRITABLE}/work");
        self.mounts.push(mount(
            "overlay",
            "overlay",
            OVERLAY,
            &[&lower, &upper, &work],
        ));
    }
}

/// Whose the volumes are where all their files are one user's, the caller's: the container's own
/// user's, who could not write there otherwise. Who a name stands for is the image's to say, which is
/// not known here: root's then.
fn owner(user: &str) -> config::Owner {
    let (uid, gid) = user.split_once(':').unwrap_or((user, ""));
    let number = |text: &str| text.parse().ok();
    config::Owner {
        uid: number(uid).unwrap_or_default(),
        gid: number(gid).unwrap_or_default(),
    }
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
        let ids = |user: &str| {
            let owner = owner(user);
            (owner.uid, owner.gid)
        };
        assert_eq!(ids("1000:1001"), (1000, 1001));
        assert_eq!(ids("1000"), (1000, 0));
        for user in ["", "0", "alice", "alice:staff", "-1:x", "99999999999"] {
            assert_eq!(ids(user), (0, 0), "{user}");
        }
        assert_eq!(ids("alice:7"), (0, 7));
    }
}
