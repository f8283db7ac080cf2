// SPDX-License-Identifier: Apache-2.0
//! systemd as a container's first process manages control groups and mounts. Without the right to, it
//! ends at once, and says so to a console that nobody sees: it is told apart here, in the process that
//! would become it.

use std::ffi::CStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::io::Errno;
use rustix::thread::CapabilitySet;

use crate::failure::{Failure, Stage};

/// # Errors
/// `path` is systemd that is to be a system's first process, and has not the rights for it.
pub fn refuse_without_rights(path: &CStr) -> Result<(), Failure> {
    if !rustix::process::getpid().is_init() || !is_systemd(path) {
        return Ok(());
    }
    let rights = rustix::thread::capabilities(None);
    if rights.is_ok_and(|rights| rights.effective.contains(CapabilitySet::SYS_ADMIN)) {
        return Ok(());
    }
    let message = format!(
        "exec: {path:?}: this is systemd, which manages control groups and mounts: run it with \
         --privileged, or name the program of the service"
    );
    Err(Failure::new(
        Stage::Exec,
        Errno::PERM.raw_os_error(),
        message,
    ))
}

/// `/sbin/init` is a link to it.
fn is_systemd(path: &CStr) -> bool {
    let path = Path::new(std::ffi::OsStr::from_bytes(path.to_bytes()));
    let target = std::fs::canonicalize(path);
    target.is_ok_and(|target| target.file_name().is_some_and(|name| name == "systemd"))
}

#[cfg(test)]
mod tests {
    use std::ffi::CString;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn known_by_what_a_link_leads_to() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("systemd"), "").unwrap();
        symlink("systemd", dir.path().join("init")).unwrap();
        symlink("nowhere", dir.path().join("broken")).unwrap();
        std::fs::write(dir.path().join("other"), "").unwrap();
        let is = |name: &str| {
            let path = dir.path().join(name);
            is_systemd(&CString::new(path.as_os_str().as_bytes()).unwrap())
        };
        assert!(is("systemd") && is("init"));
        assert!(!is("other") && !is("broken"));
    }
}
