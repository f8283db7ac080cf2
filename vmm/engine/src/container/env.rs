// SPDX-License-Identifier: Apache-2.0
//! A container's environment: Docker's defaults, the image's, the files', the flags'.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Docker's, for an image that sets none.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

#[derive(Debug, Error)]
pub enum EnvError {
    #[error("invalid environment variable: {0}")]
    NoName(String),
    #[error("open {path}")]
    File { path: PathBuf, source: io::Error },
    #[error("{path}:{line}: variable '{name}' contains whitespaces")]
    Whitespace {
        path: PathBuf,
        line: usize,
        name: String,
    },
    #[error("{path} is not valid UTF-8")]
    NotUtf8 { path: PathBuf },
    #[error("the environment variable {0} is not valid UTF-8")]
    HostNotUtf8(String),
}

/// What `--env` and `--env-file` ask for: files first, then flags, later ones winning.
/// `NAME` alone takes this process's value; where it has none, the container's is removed.
pub fn requested(files: &[PathBuf], flags: &[String]) -> Result<Vec<String>, EnvError> {
    let lookup = |name: &str| std::env::var_os(name);
    let mut all = Vec::new();
    for path in files {
        let bytes = fs::read(path).map_err(|source| EnvError::File {
            path: path.clone(),
            source,
        })?;
        let text =
            String::from_utf8(bytes).map_err(|_| EnvError::NotUtf8 { path: path.clone() })?;
        all.extend(from_file(path, &text, &lookup)?);
    }
    for flag in flags {
        if flag.is_empty() || flag.starts_with('=') {
            return Err(EnvError::NoName(flag.clone()));
        }
        all.push(complete(flag, &lookup)?.unwrap_or_else(|| flag.clone()));
    }
    Ok(all)
}

type Lookup<'a> = &'a dyn Fn(&str) -> Option<OsString>;

fn from_file(path: &Path, text: &str, lookup: Lookup<'_>) -> Result<Vec<String>, EnvError> {
    let mut all = Vec::new();
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for (number, line) in text.lines().enumerate() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let name = line.split_once('=').map_or(line, |(name, _)| name);
        if name.is_empty() {
            return Err(EnvError::NoName(line.to_owned()));
        }
        if name.contains(char::is_whitespace) {
            let (path, line) = (path.to_owned(), number + 1);
            return Err(EnvError::Whitespace {
                path,
                line,
                name: name.to_owned(),
            });
        }
        all.extend(complete(line, lookup)?);
    }
    Ok(all)
}

/// `NAME=value` as it is; `NAME` with this process's value, if there is one.
fn complete(entry: &str, lookup: Lookup<'_>) -> Result<Option<String>, EnvError> {
    if entry.contains('=') {
        return Ok(Some(entry.to_owned()));
    }
    match lookup(entry).map(OsString::into_string) {
        None => Ok(None),
        Some(Ok(value)) => Ok(Some(format!("{entry}={value}"))),
        Some(Err(_)) => Err(EnvError::HostNotUtf8(entry.to_owned())),
    }
}

/// The whole environment, in Docker's order. HOME is the agent's to add: it knows the user.
pub fn merge(hostname: &str, tty: bool, image: &[String], requested: &[String]) -> Vec<String> {
    let mut env = vec![DEFAULT_PATH.to_owned(), format!("HOSTNAME={hostname}")];
    if tty {
        env.push("TERM=xterm".to_owned());
    }
    lay_over(&mut env, image.iter().chain(requested));
    env
}

/// A container's environment for one more process in it.
pub fn extend(container: &[String], tty: bool, requested: &[String]) -> Vec<String> {
    let mut env = container.to_vec();
    let has_term = env.iter().any(|entry| entry.starts_with("TERM="));
    if tty && !has_term {
        env.push("TERM=xterm".to_owned());
    }
    lay_over(&mut env, requested.iter());
    env
}

fn lay_over<'a>(env: &mut Vec<String>, entries: impl Iterator<Item = &'a String>) {
    for entry in entries {
        let name = entry
            .split_once('=')
            .map_or(entry.as_str(), |(name, _)| name);
        let same = |e: &String| {
            e.strip_prefix(name)
                .is_some_and(|rest| rest.starts_with('='))
        };
        match (env.iter().position(same), entry.contains('=')) {
            (Some(at), true) => env[at].clone_from(entry),
            (Some(at), false) => drop(env.remove(at)),
            (None, true) => env.push(entry.clone()),
            (None, false) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn strings(all: &[&str]) -> Vec<String> {
        all.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn later_ones_win_and_bare_names_remove() {
        let env = merge(
            "box",
            true,
            &strings(&["PATH=/bin", "LANG=C", "GONE=1"]),
            &strings(&["LANG=de", "NEW=x=y", "GONE", "NEVER"]),
        );
        assert_eq!(
            env,
            [
                "PATH=/bin",
                "HOSTNAME=box",
                "TERM=xterm",
                "LANG=de",
                "NEW=x=y"
            ]
        );
        assert_eq!(merge("b", false, &[], &[]), [DEFAULT_PATH, "HOSTNAME=b"]);
    }

    #[test]
    fn files_by_dockers_rules() {
        let lookup = |name: &str| (name == "HERE").then(|| OsString::from("yes"));
        let text = "\u{feff}# comment\n\n  A=b c \nHERE\nNOT_HERE\nE=\n";
        let all = from_file(Path::new("f"), text, &lookup).unwrap();
        assert_eq!(all, ["A=b c ", "HERE=yes", "E="]);
        let error = from_file(Path::new("f"), "ok=1\nA B=c", &lookup).unwrap_err();
        assert_eq!(
            error.to_string(),
            "f:2: variable 'A B' contains whitespaces"
        );
        assert!(from_file(Path::new("f"), "=x", &lookup).is_err());
    }

    #[test]
    fn bad_flags() {
        let error = requested(&[], &strings(&["=x"])).unwrap_err();
        assert_eq!(error.to_string(), "invalid environment variable: =x");
        let missing = requested(&[PathBuf::from("/nonexistent/env")], &[]).unwrap_err();
        assert_eq!(missing.to_string(), "open /nonexistent/env");
    }

    proptest! {
        #[test]
        fn names_appear_once(entries in proptest::collection::vec("[A-C]{1,2}(=[a-z]?)?", 0..20)) {
            let env = merge("h", false, &[], &entries);
            let mut names: Vec<_> = env.iter().map(|e| e.split_once('=').unwrap().0).collect();
            let count = names.len();
            names.sort_unstable();
            names.dedup();
            prop_assert_eq!(names.len(), count);
        }
    }
}
