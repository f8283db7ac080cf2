// SPDX-License-Identifier: Apache-2.0
//! A container's file systems: which devices the machine gets, and what the agent mounts of them.
//!
//! An image is EROFS on virtio-pmem, mapped with DAX; what the container writes goes to an overlay
//! on a tmpfs (`--rm`, `--read-only`) or on an ext4 disk that lives as long as the container. What
//! stays on the host (volumes, `--rootfs`) comes by one virtio-fs device that holds each of them
//! under a name.

use std::path::{Path, PathBuf};

use walnut_protocol::agent::MountPoint;
use walnut_vmm_config as config;

use crate::container::Container;

pub mod disk;

/// What the guest mounts the volumes' device by.
const VOLUMES_TAG: &str = "walnut";
const VOLUMES: &str = "/run/walnut/volumes";
const IMAGE: &str = "/run/walnut/image";
const WRITABLE: &str = "/run/walnut/rw";
const OVERLAY: &str = "/run/walnut/rootfs";
/// The volume that is the root file system.
const ROOTFS_VOLUME: &str = "rootfs";
const ROOTFS_PATH: &str = "/run/walnut/volumes/rootfs";
/// The volume is a mount point that the kernel enters on the way to something below it, and
/// overlayfs looks no further than the name it is given.
const ROOTFS_LOWER: &str = "/run/walnut/volumes/rootfs/.";

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
        layout.volumes(container, source);
        let lower = match source {
            Source::Image(path) => {
                layout.pmem.push(config::PmemConfig { path: path.clone() });
                layout
                    .mounts
                    .push(mount("erofs", "/dev/pmem0", IMAGE, &["ro", "dax=always"]));
                IMAGE
            }
            Source::Directory(_) => ROOTFS_LOWER,
        };
        // A directory is written to as it is; mount points that it lacks are made in it.
        if matches!(source, Source::Directory(_)) && !container.read_only {
            layout.rootfs = ROOTFS_PATH;
            return layout;
        }
        layout.overlay(container, lower, disk);
        layout
    }

    fn volumes(&mut self, container: &Container, source: &Source) {
        let mut volumes = Vec::new();
        if let Source::Directory(path) = source {
            volumes.push(config::Volume {
                name: ROOTFS_VOLUME.to_owned(),
                source: path.clone(),
                readonly: container.read_only,
            });
        }
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
            self.fs.push(config::FsConfig {
                tag: VOLUMES_TAG.to_owned(),
                source: config::FsSource::Volumes(volumes),
            });
            self.mounts
                .push(mount("virtiofs", VOLUMES_TAG, VOLUMES, &[]));
        }
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

fn mount(kind: &str, source: &str, target: &str, options: &[&str]) -> MountPoint {
    MountPoint {
        type_: kind.to_owned(),
        source: source.to_owned(),
        target: target.to_owned(),
        options: options.iter().map(ToString::to_string).collect(),
        ..MountPoint::default()
    }
}
