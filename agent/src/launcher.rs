// SPDX-License-Identifier: Apache-2.0
//! The last step in a container's process: find the program as its user sees it, then execve(2).
//!
//! Runs after everything else is in place (root, user, capabilities, seccomp), in the process that
//! becomes the program. The words of its failures are runc's, which Docker shows as they are.

use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use oci_spec::runtime::Process;
use rustix::fs::{Access, AtFlags, CWD, FileType};
use rustix::io::Errno;

use crate::failure::{Failure, Stage, describe};
use crate::systemd;

/// Docker's, for an image that names none.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const PATH_MAX: usize = 4096;

/// A program, its arguments and its environment, ready for execve(2).
#[derive(Debug)]
pub struct Program {
    path: CString,
    args: Vec<CString>,
    env: Vec<CString>,
}

impl Program {
    /// Finds `process`'s program from the current directory and root, with the effective rights.
    ///
    /// # Errors
    /// `ENOENT` where it is not, `EACCES` where it may not be run, `EISDIR` for a directory.
    pub fn find(process: &Process) -> Result<Self, Failure> {
        let args = process.args().as_deref().unwrap_or_default();
        let name = args
            .first()
            .filter(|name| !name.is_empty())
            .ok_or_else(|| Failure::new(Stage::Spec, 0, "no command specified"))?;
        let env = last_of_each(process.env().as_deref().unwrap_or_default());
        let path = env
            .iter()
            .rev()
            .find_map(|entry| entry.strip_prefix("PATH="));
        let found = look_up(name, path.unwrap_or(DEFAULT_PATH))?;
        let text = |text: &str| {
            CString::new(text).map_err(|_| {
                let message = format!("exec: {name:?}: a zero byte in its arguments");
                Failure::new(Stage::Spec, Errno::INVAL.raw_os_error(), message)
            })
        };
        Ok(Self {
            path: text(&found)?,
            args: args.iter().map(|arg| text(arg)).collect::<Result<_, _>>()?,
            env: env.into_iter().map(text).collect::<Result<_, _>>()?,
        })
    }

    /// # Errors
    /// It can't be a container's first process with the rights that this one has.
    pub fn check_first(&self) -> Result<(), Failure> {
        systemd::refuse_without_rights(&self.path)
    }

    /// Becomes the program. Returns only when that failed.
    #[must_use]
    pub fn exec(&self) -> Failure {
        let Err(errno) = nix::unistd::execve(&self.path, &self.args, &self.env);
        let errno = Errno::from_raw_os_error(errno as i32);
        let path = self.path.to_string_lossy();
        let message = format!("exec {path}: {}", describe(errno));
        Failure::new(Stage::Exec, errno.raw_os_error(), message)
    }
}

/// The environment without the entries that a later one of the same name replaces.
fn last_of_each(env: &[String]) -> Vec<&str> {
    let name = |entry: &str| entry.split('=').next().unwrap_or("").to_string();
    let mut seen = std::collections::HashSet::new();
    let mut kept: Vec<&str> = env
        .iter()
        .rev()
        .filter(|entry| seen.insert(name(entry)))
        .map(String::as_str)
        .collect();
    kept.reverse();
    kept
}

/// Where `name` is, as a shell would look for it.
fn look_up(name: &str, path: &str) -> Result<String, Failure> {
    let failed = |errno: Errno, why: &str| {
        Failure::new(
            Stage::Exec,
            errno.raw_os_error(),
            format!("exec: {name:?}: {why}"),
        )
    };
    if name.contains('/') {
        return match check(name) {
            Ok(()) => Ok(name.into()),
            Err(errno @ (Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG)) => {
                Err(failed(errno, &format!("stat {name}: {}", describe(errno))))
            }
            Err(errno) => Err(failed(errno, &describe(errno))),
        };
    }
    path.split(':')
        // An empty or relative entry would be the working directory: nobody means that.
        .filter(|dir| dir.starts_with('/') && dir.len() + name.len() < PATH_MAX)
        .map(|dir| format!("{}/{name}", dir.trim_end_matches('/')))
        .find(|candidate| check(candidate).is_ok())
        .ok_or_else(|| failed(Errno::NOENT, "executable file not found in $PATH"))
}

fn check(path: &str) -> Result<(), Errno> {
    let path = Path::new(OsStr::from_bytes(path.as_bytes()));
    let stat = rustix::fs::stat(path)?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        return Err(Errno::ISDIR);
    }
    rustix::fs::accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn runc_s_words() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).to_str().unwrap().to_string();
        fs::write(at("plain"), "").unwrap();
        fs::write(at("tool"), "").unwrap();
        fs::set_permissions(at("tool"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(at("dir")).unwrap();

        let fails = |name: &str, path: &str| {
            let failure = look_up(name, path).unwrap_err();
            assert_eq!(failure.stage, Stage::Exec);
            (failure.errno, failure.message)
        };
        let path = format!("relative::/nonexistent:{}", dir.path().display());
        assert_eq!(look_up("tool", &path).unwrap(), at("tool"));
        assert_eq!(look_up(&at("tool"), "").unwrap(), at("tool"));
        let missing = r#"exec: "nope": executable file not found in $PATH"#;
        assert_eq!(fails("nope", &path), (libc::ENOENT, missing.into()));
        // As runc: what may not be run is not found, when it is looked for.
        assert_eq!(fails("dir", &path).0, libc::ENOENT);
        let not_there = r#"exec: "/nope/x": stat /nope/x: no such file or directory"#;
        assert_eq!(fails("/nope/x", &path), (libc::ENOENT, not_there.into()));
        let is_dir = format!("exec: {:?}: is a directory", at("dir"));
        assert_eq!(fails(&at("dir"), &path), (libc::EISDIR, is_dir));
        let denied = format!("exec: {:?}: permission denied", at("plain"));
        assert_eq!(fails(&at("plain"), &path), (libc::EACCES, denied));
    }

    #[test]
    fn a_later_entry_replaces_an_earlier_one() {
        let env: Vec<String> = ["A=1", "B=2", "A=3", "C"].map(String::from).into();
        assert_eq!(last_of_each(&env), ["B=2", "A=3", "C"]);
    }

    #[test]
    fn a_failed_exec_names_the_reason() {
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("script");
        fs::write(&script, "no magic").unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        let path = CString::new(script.to_str().unwrap()).unwrap();
        let failure = Program {
            path,
            args: Vec::new(),
            env: Vec::new(),
        }
        .exec();
        assert_eq!(failure.errno, libc::ENOEXEC);
        assert_eq!(
            failure.message,
            format!("exec {}: exec format error", script.display())
        );
    }
}
