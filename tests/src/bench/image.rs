// SPDX-License-Identifier: Apache-2.0
//! The images that the bench runs and loads. They are made before anything is timed, outside the
//! emulated host where there is one.

use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;

use super::process::{self, ProcessError};
use super::registry::{self, Registry, RegistryError};
use super::rows::LONG_LIMIT;
use super::stream::{Pattern, Random};
use crate::images::{self, Entry, Image, ImageError, Layer};

/// The plain image, as `docker save` writes it: `busybox.tar`.
pub const BUSYBOX: &str = "busybox";
/// busybox, this program and files to read: `bench.tar`.
pub const BENCH: &str = "bench";
/// 100 MiB to load, layers gzipped: `load.tar`, and the same as a directory.
pub const LOAD: &str = "load";
pub const LOAD_DIRECTORY: &str = "load-oci";
/// 200 MiB to pull: as a directory, and in a registry's.
pub const PULL: &str = "pull";
pub const PULL_DIRECTORY: &str = "pull-oci";
pub const REGISTRY: &str = "registry";
/// busybox's only layer, not compressed.
pub const ROOTFS: &str = "rootfs.tar";

/// Where things are in the bench image.
pub const PROGRAM: &str = "/bench/bench";
pub const LARGE_FILE: &str = "/bench/large";
pub const OTHER_FILE: &str = "/bench/other";
pub const TREE: &str = "/bench/tree";

/// Directories among which many small files are spread.
pub const DIRECTORIES: usize = 100;
pub const SMALL_FILE: usize = 1024;

#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error("can't make the bench's images in {}", path.display())]
    Write {
        path: std::path::PathBuf,
        source: io::Error,
    },
}

/// Makes all images, `program` being the one that is to run in them.
///
/// # Errors
/// No busybox, or the directory can't be written.
pub fn prepare(
    directory: &Path,
    program: &Path,
    size_mib: usize,
    files: usize,
) -> Result<(), PrepareError> {
    let failed = |source| PrepareError::Write {
        path: directory.into(),
        source,
    };
    let busybox = images::busybox()?;
    fs::create_dir_all(directory).map_err(failed)?;
    let program = fs::read(program).map_err(failed)?;
    let write = || -> io::Result<()> {
        let rootfs = fs::File::create(directory.join(ROOTFS))?;
        if let Some(layer) = busybox.layers.first() {
            layer.write_tar(rootfs)?;
        }
        busybox.write_docker_archive(&directory.join(format!("{BUSYBOX}.tar")))?;
        let mut bench = busybox.clone();
        bench.name = BENCH.into();
        bench.layers.push(bench_layer(program, size_mib, files));
        bench.write_docker_archive(&directory.join(format!("{BENCH}.tar")))?;
        drop(bench);
        let archive = directory.join(format!("{LOAD}.tar"));
        let unpacked = directory.join(LOAD_DIRECTORY);
        if !archive.exists() || !unpacked.exists() {
            let load = Image {
                name: LOAD.into(),
                layers: load_layers(&busybox),
                ..busybox.clone()
            };
            load.write_oci_directory(&unpacked)?;
            load.write_oci_archive(&archive)?;
        }
        Ok(())
    };
    write().map_err(failed)?;
    let unpacked = directory.join(PULL_DIRECTORY);
    if !unpacked.exists() {
        let pull = Image {
            name: PULL.into(),
            layers: pull_layers(&busybox),
            ..busybox
        };
        pull.write_oci_directory(&unpacked).map_err(failed)?;
    }
    // Whoever has no registry has no row about pulling, but all the others.
    if let Err(error) = fill_registry(&unpacked, &directory.join(REGISTRY)) {
        eprintln!("bench: nothing to pull: {error}");
    }
    Ok(())
}

#[derive(Debug, thiserror::Error)]
enum FillError {
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error(transparent)]
    Process(#[from] ProcessError),
    #[error("rename {}", .0.display())]
    Rename(std::path::PathBuf, #[source] io::Error),
}

fn fill_registry(image: &Path, directory: &Path) -> Result<(), FillError> {
    if directory.exists() {
        return Ok(());
    }
    let half = directory.with_extension("new");
    // What an earlier attempt left, if there was one.
    let _ = fs::remove_dir_all(&half);
    let registry = Registry::start(Command::new(registry::PROGRAM), &half)?;
    let mut skopeo = Command::new("skopeo");
    skopeo.args(["--insecure-policy", "copy", "--dest-tls-verify=false"]);
    skopeo.arg(format!("oci:{}", image.display()));
    skopeo.arg(format!("docker://{}/{PULL}:1", registry.host()));
    process::run("skopeo copy", &mut skopeo, LONG_LIMIT)?;
    drop(registry);
    fs::rename(&half, directory).map_err(|source| FillError::Rename(half, source))
}

fn bench_layer(program: Vec<u8>, size_mib: usize, files: usize) -> Layer {
    let mut entries = vec![
        Entry::directory("bench", 0o755),
        Entry::file(&PROGRAM[1..], 0o755, program),
        Entry::file(
            &LARGE_FILE[1..],
            0o644,
            Pattern::new(1).bytes(size_mib << 20),
        ),
        Entry::file(
            &OTHER_FILE[1..],
            0o644,
            Pattern::new(2).bytes(size_mib << 20),
        ),
    ];
    entries.extend(tree(&TREE[1..], files, SMALL_FILE));
    Layer(entries)
}

/// `files` of `size` bytes below `top`.
fn tree(top: &str, files: usize, size: usize) -> Vec<Entry> {
    let mut entries = vec![Entry::directory(top, 0o755)];
    entries.extend((0..DIRECTORIES).map(|d| Entry::directory(&format!("{top}/{d:02}"), 0o755)));
    entries.extend((0..files).map(|n| {
        let seed = u64::try_from(n).unwrap_or(0);
        let content = half_random(seed, size);
        Entry::file(
            &format!("{top}/{:02}/{n:05}", n % DIRECTORIES),
            0o644,
            content,
        )
    }));
    entries
}

/// How many files of how many bytes: 100 MiB as images have them.
const LARGE: (u64, usize) = (6, 8 << 20);
const MIDDLE: (usize, usize) = (1800, 20 << 10);
const SMALL: (usize, usize) = (3200, 4 << 10);

fn large_layer(from: u64) -> Layer {
    let file = |n| Entry::file(&format!("opt/large-{n}"), 0o644, half_random(n, LARGE.1));
    let large = (from..from + LARGE.0).map(file);
    let top = [Entry::directory("opt", 0o755)];
    Layer(top.into_iter().chain(large).collect())
}

/// Twice of everything.
fn pull_layers(busybox: &Image) -> Vec<Layer> {
    let mut layers = load_layers(busybox);
    layers.push(large_layer(LARGE.0));
    layers.push(Layer(tree("middle-2", MIDDLE.0, MIDDLE.1)));
    layers.push(Layer(tree("small-2", SMALL.0, SMALL.1)));
    layers
}

fn load_layers(busybox: &Image) -> Vec<Layer> {
    let mut layers = busybox.layers.clone();
    layers.push(large_layer(0));
    layers.push(Layer(tree("middle", MIDDLE.0, MIDDLE.1)));
    layers.push(Layer(tree("small", SMALL.0, SMALL.1)));
    layers
}

/// Compresses to about half, as programs do.
fn half_random(seed: u64, size: usize) -> Vec<u8> {
    let mut random = Random::new(seed);
    let words = std::iter::repeat_with(|| random.draw() & 0x0f0f_0f0f_0f0f_0f0f);
    words.flat_map(u64::to_le_bytes).take(size).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_to_load_is_100_mib() {
        let large = usize::try_from(LARGE.0).unwrap() * LARGE.1;
        let mib = (large + MIDDLE.0 * MIDDLE.1 + SMALL.0 * SMALL.1) >> 20;
        assert!((95..=105).contains(&mib), "{mib} MiB");
    }

    #[test]
    fn a_tree_has_as_many_files_as_asked() {
        let files = tree("t", 250, 3)
            .into_iter()
            .filter(|entry| matches!(entry, Entry::File { content, .. } if content.len() == 3));
        assert_eq!(files.count(), 250);
    }
}
