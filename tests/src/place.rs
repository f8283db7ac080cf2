// SPDX-License-Identifier: Apache-2.0
//! Where things lie: the checkout, what was built in it, and the cache that outlives it.

use std::env;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// The checkout's top directory.
#[must_use]
pub fn checkout() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap_or(tests).to_path_buf()
}

/// Where `make build` stages `walnut`, `walnut-vmm`, `vmlinux` and `guest.erofs`, and where the
/// engine finds the others next to itself. `WALNUT_BIN_DIR` names another place.
#[must_use]
pub fn staged() -> PathBuf {
    env::var_os("WALNUT_BIN_DIR").map_or_else(|| checkout().join("target/walnut"), PathBuf::from)
}

/// The test images' directory, `target/test-images`. `WALNUT_TEST_IMAGES` names another.
#[must_use]
pub fn test_images() -> PathBuf {
    env::var_os("WALNUT_TEST_IMAGES")
        .map_or_else(|| checkout().join("target/test-images"), PathBuf::from)
}

/// `$XDG_CACHE_HOME/walnut` or `~/.cache/walnut`: what is too dear to make again for each clone.
#[must_use]
pub fn cache() -> PathBuf {
    let base = env::var_os("XDG_CACHE_HOME")
        .filter(|path| Path::new(path).is_absolute())
        .map_or_else(
            || {
                env::var_os("HOME")
                    .map_or_else(env::temp_dir, PathBuf::from)
                    .join(".cache")
            },
            PathBuf::from,
        );
    base.join("walnut")
}

/// Holds `directory`'s lock until the file is dropped; the directory is made if need be.
///
/// # Errors
/// What making, opening or locking it said.
pub fn lock(directory: &Path) -> io::Result<File> {
    fs::create_dir_all(directory)?;
    let file = File::create(directory.join("lock"))?;
    file.lock()?;
    Ok(file)
}
