// SPDX-License-Identifier: Apache-2.0
//! The spec's mounts: Docker's own, the generated files of /etc, then the user's, parents first.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Mount, MountBuilder};

use super::SpecError;
use super::files::GENERATED;
use crate::container::Container;
use crate::storage::{Layout, Places};

pub(super) fn all(container: &Container, layout: &Layout) -> Result<Vec<Mount>, SpecError> {
    let asked = asked_for(container, layout)?;
    let taken: HashSet<&Path> = asked.iter().map(|m| m.destination().as_path()).collect();
    let mut all: Vec<Mount> = own(container)?
        .into_iter()
        .filter(|mount| !taken.contains(mount.destination().as_path()))
        .collect();
    all.extend(asked.iter().cloned());
    Ok(all)
}

fn asked_for(container: &Container, layout: &Layout) -> Result<Vec<Mount>, SpecError> {
    let mut asked = Vec::new();
    for (volume, source) in container.volumes.iter().zip(&layout.volume_sources) {
        let access = if volume.readonly { "ro" } else { "rw" };
        asked.push(bind(
            source,
            &volume.target,
            &["rbind", "rprivate", access],
        )?);
    }
    for tmpfs in &container.tmpfs {
        asked.push(
            MountBuilder::default()
                .destination(tmpfs.target.clone())
                .typ("tmpfs")
                .source("tmpfs")
                .options(tmpfs.options.clone())
                .build()?,
        );
    }
    // A mount hides what is below it: /a goes before /a/b.
    asked.sort_by_key(|mount| mount.destination().components().count());
    Ok(asked)
}

fn own(container: &Container) -> Result<Vec<Mount>, SpecError> {
    let privileged = container.security.privileged;
    let access = if privileged { "rw" } else { "ro" };
    let shm_size = format!("size={}", container.limits.shm_bytes());
    let strict = ["nosuid", "noexec", "nodev"];
    let with = |extra: &[&str]| -> Vec<String> {
        strict
            .iter()
            .chain(extra)
            .map(ToString::to_string)
            .collect()
    };
    let plain = |all: &[&str]| -> Vec<String> { all.iter().map(ToString::to_string).collect() };
    let table: [(&str, &str, &str, Vec<String>); 7] = [
        ("/proc", "proc", "proc", with(&[])),
        (
            "/dev",
            "tmpfs",
            "tmpfs",
            plain(&["nosuid", "strictatime", "mode=755", "size=65536k"]),
        ),
        (
            "/dev/pts",
            "devpts",
            "devpts",
            plain(&[
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                "gid=5",
            ]),
        ),
        ("/sys", "sysfs", "sysfs", with(&[access])),
        ("/sys/fs/cgroup", "cgroup", "cgroup", with(&[access])),
        ("/dev/mqueue", "mqueue", "mqueue", with(&[])),
        ("/dev/shm", "tmpfs", "shm", with(&["mode=1777", &shm_size])),
    ];
    let mut mounts = Vec::with_capacity(table.len() + GENERATED.len());
    for (destination, typ, source, options) in table {
        mounts.push(
            MountBuilder::default()
                .destination(destination)
                .typ(typ)
                .source(source)
                .options(options)
                .build()?,
        );
    }
    let places = Places::of(container);
    for (name, target) in GENERATED {
        mounts.push(bind(
            Path::new(&places.file(name)),
            Path::new(target),
            &["rbind", "rprivate", "rw"],
        )?);
    }
    Ok(mounts)
}

fn bind(source: &Path, target: &Path, options: &[&str]) -> Result<Mount, SpecError> {
    Ok(MountBuilder::default()
        .destination(PathBuf::from(target))
        .typ("bind")
        .source(PathBuf::from(source))
        .options(options.iter().map(ToString::to_string).collect::<Vec<_>>())
        .build()?)
}
