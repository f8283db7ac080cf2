// SPDX-License-Identifier: Apache-2.0
//! Who a process runs as: the container's own `/etc/passwd` and `/etc/group`, read within a bound.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

use rustix::fs::OFlags;
use walnut_passwd::MAX_FILE;
pub use walnut_passwd::User;

use crate::paths::{PathError, Rootfs};

/// Why a user can't be resolved.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    #[error(transparent)]
    Unknown(#[from] walnut_passwd::UserError),
    #[error("read {file} in the container: {why}")]
    Read { file: &'static str, why: String },
}

/// Resolves `user` (`[name|uid][:name|gid]`, empty is root) and `group_add` in `rootfs`.
///
/// # Errors
/// A name without an entry, a number out of range, or a file that can't be read.
pub fn resolve(rootfs: &Rootfs, user: &str, group_add: &[String]) -> Result<User, UserError> {
    let passwd = read(rootfs, "/etc/passwd")?;
    let group = read(rootfs, "/etc/group")?;
    Ok(walnut_passwd::resolve(&passwd, &group, user, group_add)?)
}

/// The file's text up to the bound; empty where there is no such file. `O_NONBLOCK`, so that a
/// pipe in its place holds nobody up; only a regular file is read.
fn read(rootfs: &Rootfs, path: &'static str) -> Result<String, UserError> {
    let failed = |why: String| UserError::Read { file: path, why };
    let fd = match rootfs.open_in(Path::new(path), OFlags::RDONLY | OFlags::NONBLOCK) {
        Ok(fd) => fd,
        Err(PathError::Open {
            source: rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR,
            ..
        }) => {
            return Ok(String::new());
        }
        Err(error) => return Err(failed(error.to_string())),
    };
    let file = File::from(fd);
    let is_file = file.metadata().is_ok_and(|metadata| metadata.is_file());
    if !is_file {
        return Err(failed("not a regular file".into()));
    }
    let mut bytes = Vec::new();
    match file.take(MAX_FILE).read_to_end(&mut bytes) {
        Ok(_) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(failed(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_are_none() {
        use std::os::unix::fs::symlink;
        let dir = tempfile::tempdir().unwrap();
        let guest = crate::paths::GuestPath::new(dir.path().to_str().unwrap()).unwrap();
        let rootfs = Rootfs::open(&guest).unwrap();
        assert_eq!(resolve(&rootfs, "7", &[]).unwrap().uid, 7);
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        symlink("/etc/passwd", dir.path().join("etc/passwd")).unwrap();
        assert!(matches!(
            resolve(&rootfs, "7", &[]),
            Err(UserError::Read { .. })
        ));
        std::fs::remove_file(dir.path().join("etc/passwd")).unwrap();
        rustix::fs::mkfifoat(
            rustix::fs::CWD,
            dir.path().join("etc/passwd"),
            rustix::fs::Mode::from_raw_mode(0o644),
        )
        .unwrap();
        assert!(matches!(
            resolve(&rootfs, "7", &[]),
            Err(UserError::Read { .. })
        ));
    }
}
