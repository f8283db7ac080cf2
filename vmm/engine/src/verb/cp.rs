// SPDX-License-Identifier: Apache-2.0
//! `walnut cp`: files from a container to the host and back, by Docker's rules of what goes where.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use walnut_archive::{Options, Owner, Packer};

use super::files::{at, with_files};
use super::{VerbError, refused};
use crate::cli::files::CpArgs;
use crate::files::{Files, copy};
use crate::paths::Paths;
use crate::units::decimal_size;

/// One side of a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Side {
    /// An archive on a standard stream.
    Stream,
    Host(Given),
    Container {
        name: String,
        path: Given,
    },
}

/// A path as it was typed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Given {
    path: PathBuf,
    /// It ends in a way that only a directory's may: `/` or `/.`.
    must_be_dir: bool,
    /// What is in the directory, not the directory itself: it ends in `/.`.
    contents: bool,
}

/// What is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Missing,
    Directory,
    Other,
}

pub fn cp(args: &CpArgs, paths: &Paths) -> Result<u8, VerbError> {
    match (Side::parse(&args.source), Side::parse(&args.dest)) {
        (Side::Container { .. }, Side::Container { .. }) => {
            refused("copying between containers is not supported")
        }
        (Side::Container { name, path }, dest) => {
            let from = from_container(args, &name, &path, &dest, paths)?;
            told(args, from, &args.dest)
        }
        (source, Side::Container { name, path }) => {
            let to = to_container(args, &source, &name, &path, paths)?;
            told(args, to, &args.dest)
        }
        _ => refused("must specify at least one container source"),
    }
}

fn told(args: &CpArgs, bytes: u64, dest: &str) -> Result<u8, VerbError> {
    if !args.quiet && dest != "-" {
        let line = format!("Successfully copied {} to {dest}", decimal_size(bytes));
        // Where Docker says it.
        let _ = io::stderr().write_all(format!("{line}\n").as_bytes());
    }
    Ok(0)
}

impl Side {
    fn parse(text: &str) -> Self {
        if text == "-" {
            return Self::Stream;
        }
        let is_path = text.starts_with(['/', '.']);
        match text.split_once(':') {
            Some((name, path)) if !is_path && !name.is_empty() => Self::Container {
                name: name.to_owned(),
                path: Given::parse(&at(path)),
            },
            _ => Self::Host(Given::parse(text)),
        }
    }
}

impl Given {
    fn parse(text: &str) -> Self {
        let contents = text == "." || text.ends_with("/.");
        Self {
            // What is at its end is said below.
            path: Path::new(text).components().collect(),
            must_be_dir: contents || text.ends_with('/'),
            contents,
        }
    }

    /// What it is called where it is copied to.
    fn name(&self) -> PathBuf {
        match self.path.file_name() {
            Some(name) if !self.contents => PathBuf::from(name),
            _ => PathBuf::new(),
        }
    }
}

/// Where a copy goes: the directory that it is put in, and its name there. Empty for what is in the
/// source and goes in among what is in that directory.
fn place(source: (&Given, Kind), dest: (&Given, Kind)) -> Result<(PathBuf, PathBuf), &'static str> {
    let parts = || {
        let parent = match dest.0.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let name = dest.0.path.file_name().unwrap_or_default();
        (parent.to_owned(), PathBuf::from(name))
    };
    match (source.1, dest.1) {
        (_, Kind::Directory) => Ok((dest.0.path.clone(), source.0.name())),
        (Kind::Directory, Kind::Other) => Err("cannot copy directory"),
        (_, Kind::Other) if dest.0.must_be_dir => Err("not a directory"),
        (Kind::Other, Kind::Missing) if dest.0.must_be_dir => Err("no such directory"),
        _ => Ok(parts()),
    }
}

fn from_container(
    args: &CpArgs,
    name: &str,
    source: &Given,
    dest: &Side,
    paths: &Paths,
) -> Result<u64, VerbError> {
    with_files(name, paths, |files| {
        let follow = args.follow_link || source.must_be_dir;
        let found = files.stat(&source.path, follow)?;
        if !found.exists {
            return refused(not_found(name, &source.path));
        }
        if source.must_be_dir && !found.directory {
            return refused("not a directory");
        }
        let kind = kind(found.directory);
        match dest {
            Side::Host(dest) => onto_host(args, files, (source, kind), dest),
            _ => {
                let name = match source.name() {
                    name if name.as_os_str().is_empty() => PathBuf::from("."),
                    name => name,
                };
                files.pack(&source.path, &name, follow, false, |from| {
                    copy(from, io::stdout()).map_err(VerbError::Stdout)
                })
            }
        }
    })
}

fn onto_host(
    args: &CpArgs,
    files: &Files<'_>,
    source: (&Given, Kind),
    dest: &Given,
) -> Result<u64, VerbError> {
    let mut dest = dest.clone();
    let there = match fs::metadata(&dest.path) {
        Ok(meta) => {
            // What a link leads to is meant.
            dest.path = fs::canonicalize(&dest.path).unwrap_or(dest.path);
            kind(meta.is_dir())
        }
        Err(_) => Kind::Missing,
    };
    let (dir, name) = place(source, (&dest, there)).map_err(words)?;
    if !dir.is_dir() {
        let dir = dir.display();
        return refused(format!(
            "invalid output path: directory \"{dir}\" does not exist"
        ));
    }
    let is_root = rustix::process::geteuid().is_root();
    let options = Options {
        owner: match args.archive && is_root {
            true => Owner::Archived,
            false => Owner::Caller,
        },
        follow: false,
        strict: false,
    };
    let follow = args.follow_link || source.0.must_be_dir;
    files.pack(&source.0.path, &name, follow, true, |from| {
        let mut counted = Counted {
            inner: from,
            bytes: 0,
        };
        walnut_archive::unpack(&mut counted, &dir, options)?;
        Ok(counted.bytes)
    })
}

fn to_container(
    args: &CpArgs,
    source: &Side,
    name: &str,
    dest: &Given,
    paths: &Paths,
) -> Result<u64, VerbError> {
    let host = match source {
        Side::Host(given) => Some((given, look(given, args.follow_link)?)),
        _ => None,
    };
    with_files(name, paths, |files| {
        let found = files.stat(&dest.path, true)?;
        let there = match found.exists {
            true => kind(found.directory),
            false => Kind::Missing,
        };
        let mut dest = dest.clone();
        if let Some(real) = &found.real {
            dest.path = PathBuf::from(real);
        }
        let Some((given, kind)) = host else {
            if there != Kind::Directory {
                let path = dest.path.display();
                return refused(format!("destination \"{name}:{path}\" must be a directory"));
            }
            return files.unpack(&dest.path, true, |to| {
                copy(io::stdin().lock(), to).map_err(VerbError::Stdin)
            });
        };
        let (dir, new_name) = place((given, kind), (&dest, there)).map_err(words)?;
        if there != Kind::Directory && !files.stat(&dir, true)?.directory {
            return refused(not_found(name, &dir));
        }
        files.unpack(&dir, args.archive, |to| send(args, given, &new_name, to))
    })
}

fn send(args: &CpArgs, source: &Given, name: &Path, to: &UnixStream) -> Result<u64, VerbError> {
    let follow = args.follow_link || source.must_be_dir;
    let path = match follow {
        true => fs::canonicalize(&source.path).map_err(VerbError::Stdin)?,
        false => source.path.clone(),
    };
    let out = Counted {
        inner: io::BufWriter::with_capacity(256 << 10, to),
        bytes: 0,
    };
    let mut packer = Packer::new(out, true);
    packer.add_tree(&path, name)?;
    let mut out = packer.finish()?;
    out.inner.flush().map_err(VerbError::Stdout)?;
    Ok(out.bytes)
}

/// What of the host is to be copied.
fn look(given: &Given, follow: bool) -> Result<Kind, VerbError> {
    let meta = if follow || given.must_be_dir {
        fs::metadata(&given.path)
    } else {
        fs::symlink_metadata(&given.path)
    };
    match meta {
        Ok(meta) if given.must_be_dir && !meta.is_dir() => refused("not a directory"),
        Ok(meta) => {
            // Before a machine is started for it.
            if meta.is_file() {
                File::open(&given.path).map_err(|e| unreadable(given, &e))?;
            }
            Ok(kind(meta.is_dir()))
        }
        Err(e) => Err(unreadable(given, &e)),
    }
}

fn unreadable(given: &Given, error: &io::Error) -> VerbError {
    let why = match error.kind() {
        io::ErrorKind::NotFound => "no such file or directory".to_owned(),
        _ => error.to_string(),
    };
    VerbError::Refused(format!("lstat {}: {why}", given.path.display()))
}

fn kind(directory: bool) -> Kind {
    match directory {
        true => Kind::Directory,
        false => Kind::Other,
    }
}

fn words(why: &'static str) -> VerbError {
    VerbError::Refused(why.to_owned())
}

fn not_found(name: &str, path: &Path) -> String {
    format!(
        "Could not find the file {} in container {name}",
        path.display()
    )
}

/// Counts what goes through.
struct Counted<T> {
    inner: T,
    bytes: u64,
}

impl<R: io::Read> io::Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.bytes += count as u64;
        Ok(count)
    }
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_side_is_which() {
        let given = Given::parse;
        for (text, side) in [
            ("-", Side::Stream),
            ("a", Side::Host(given("a"))),
            ("./a:b", Side::Host(given("./a:b"))),
            ("/a:b", Side::Host(given("/a:b"))),
        ] {
            assert_eq!(Side::parse(text), side, "{text}");
        }
        let Side::Container { name, path } = Side::parse("web:etc/") else {
            panic!("a container's")
        };
        assert_eq!((name.as_str(), path), ("web", given("/etc/")));
    }

    #[test]
    fn what_goes_where() {
        let place = |source: &str, kind, dest: &str, there| {
            let (dir, name) = place((&Given::parse(source), kind), (&Given::parse(dest), there))?;
            Ok::<_, &str>(format!("{} {}", dir.display(), name.display()))
        };
        let (missing, dir, other) = (Kind::Missing, Kind::Directory, Kind::Other);
        for (source, kind, dest, there, wanted) in [
            ("/a/f", other, "d", dir, Ok("d f")),
            ("/a/f", other, "x/g", missing, Ok("x g")),
            ("/a/f", other, "g", other, Ok(". g")),
            ("/a/f", other, "g/", missing, Err("no such directory")),
            ("/a/f", other, "g/", other, Err("not a directory")),
            ("/a/d", dir, "e", dir, Ok("e d")),
            ("/a/d/", dir, "e", dir, Ok("e d")),
            ("/a/d/.", dir, "e", dir, Ok("e ")),
            ("/a/d/.", dir, "e", missing, Ok(". e")),
            ("/a/d", dir, "x/e/", missing, Ok("x e")),
            ("/a/d", dir, "f", other, Err("cannot copy directory")),
        ] {
            let placed = place(source, kind, dest, there);
            let placed = placed.as_deref().map_err(|e| *e);
            assert_eq!(placed, wanted, "{source} {dest}");
        }
    }
}
