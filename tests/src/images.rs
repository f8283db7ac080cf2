// SPDX-License-Identifier: Apache-2.0
//! The images that the tests run, made from Debian's busybox-static, without root and without a
//! container tool: a few JSON files and a tar each, so that every byte is the same each time.
//!
//! | file | what |
//! |---|---|
//! | `busybox.tar` | OCI archive, `busybox:latest` |
//! | `busybox-docker.tar` | the same as `docker save` writes it |
//! | `busybox-oci/` | the same as an OCI layout directory |

mod layout;
mod rootfs;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

pub use layout::{Config, Image};
pub use rootfs::{Entry, Layer};

#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error("can't read {}: is busybox-static installed?", path.display())]
    Busybox { path: PathBuf, source: io::Error },
    #[error("can't write the image {}", path.display())]
    Write { path: PathBuf, source: io::Error },
}

/// Where Debian's busybox-static puts it.
const BUSYBOX: &str = "/bin/busybox";

/// Makes every image that isn't in `directory` yet.
///
/// # Errors
/// [`ImageError`]: busybox is missing, or the directory can't be written.
pub fn prepare(directory: &Path) -> Result<(), ImageError> {
    let wanted = ["busybox.tar", "busybox-docker.tar", "busybox-oci"];
    let in_directory = |source| ImageError::Write {
        path: directory.to_path_buf(),
        source,
    };
    fs::create_dir_all(directory).map_err(in_directory)?;
    if wanted.iter().all(|name| directory.join(name).exists()) {
        return Ok(());
    }
    let image = busybox()?;
    publish(&directory.join("busybox.tar"), |path| {
        image.write_oci_archive(path)
    })?;
    publish(&directory.join("busybox-docker.tar"), |path| {
        image.write_docker_archive(path)
    })?;
    publish(&directory.join("busybox-oci"), |path| {
        image.write_oci_directory(path)
    })
}

/// `busybox:latest`: one layer, `Cmd ["sh"]`, no entrypoint, users root, alice (1000) and nobody.
///
/// # Errors
/// [`ImageError::Busybox`].
pub fn busybox() -> Result<Image, ImageError> {
    let path = PathBuf::from(BUSYBOX);
    let binary = fs::read(&path).map_err(|source| ImageError::Busybox {
        path: path.clone(),
        source,
    })?;
    Ok(Image {
        name: "busybox".into(),
        tag: "latest".into(),
        layers: vec![rootfs::busybox(binary)],
        config: Config {
            cmd: vec!["sh".into()],
            env: vec!["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into()],
            ..Config::default()
        },
    })
}

/// Writes beside `path` and renames, so that nobody ever sees half an image.
fn publish(path: &Path, write: impl FnOnce(&Path) -> io::Result<()>) -> Result<(), ImageError> {
    let failed = |source| ImageError::Write {
        path: path.to_path_buf(),
        source,
    };
    if path.exists() {
        return Ok(());
    }
    let parent = path.parent().unwrap_or(Path::new("."));
    let temporary = tempfile::tempdir_in(parent).map_err(failed)?;
    let inside = temporary.path().join("image");
    write(&inside).map_err(failed)?;
    fs::rename(&inside, path).map_err(failed)
}

#[cfg(test)]
mod tests;
