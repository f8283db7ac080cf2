// SPDX-License-Identifier: Apache-2.0
//! `bench guest-io`: file work, timed by the one who does it. The same static program runs on the
//! host, in a plain container and in a guest; one JSON document on stdout says how fast it was.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::fs::{Advice, fadvise};
use serde::{Deserialize, Serialize};

use super::image::{DIRECTORIES, SMALL_FILE};
use super::stream::{Pattern, Random};

/// What to do, and where.
#[derive(Debug, clap::Args)]
pub struct GuestIo {
    /// A directory to write in and read from
    #[arg(long)]
    pub directory: Option<PathBuf>,
    /// A large file to read from its beginning, then once more
    #[arg(long)]
    pub sequential: Option<PathBuf>,
    /// A large file to read 4 KiB pieces of
    #[arg(long)]
    pub random: Option<PathBuf>,
    /// Many small files in directories, to list and read
    #[arg(long)]
    pub tree: Option<PathBuf>,
    /// MiB of the large file that is written
    #[arg(long, default_value_t = 64)]
    pub size_mib: usize,
    /// Small files that are written
    #[arg(long, default_value_t = 10_000)]
    pub files: usize,
}

/// One number of a [`GuestIo`].
#[derive(Debug, Deserialize, Serialize)]
pub struct Measured {
    pub metric: String,
    pub unit: IoUnit,
    pub value: f64,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum IoUnit {
    MibPerS,
    PerS,
}

#[derive(Debug, thiserror::Error)]
#[error("can't {what} {}", path.display())]
pub struct GuestIoError {
    what: &'static str,
    path: PathBuf,
    source: io::Error,
}

const CHUNK: usize = 1 << 20;
const PAGE: usize = 4096;
const RANDOM_READS: usize = 2000;

/// Does all that was asked for.
///
/// # Errors
/// The first thing that can't be done.
pub fn run(work: &GuestIo) -> Result<Vec<Measured>, GuestIoError> {
    let mut done = Recorder::default();
    if let Some(directory) = &work.directory {
        let failed = error("make", directory);
        fs::create_dir_all(directory).map_err(failed)?;
        let file = directory.join("large");
        done.rate("sequential write", work.size_mib, || {
            write_large(&file, work.size_mib)
        })?;
        read_large(&mut done, &file)?;
        read_random(&mut done, &file)?;
        fs::remove_file(&file).map_err(error("remove", &file))?;
        let tree = directory.join("tree");
        done.count("small files created", || create_tree(&tree, work.files))?;
        read_tree(&mut done, &tree)?;
        done.count("small files removed", || remove_tree(&tree))?;
    }
    // First, where nothing of the file system has been touched yet.
    if let Some(file) = &work.random {
        read_random(&mut done, file)?;
    }
    if let Some(file) = &work.sequential {
        read_large(&mut done, file)?;
    }
    if let Some(tree) = &work.tree {
        read_tree(&mut done, tree)?;
    }
    Ok(done.0)
}

#[derive(Default)]
struct Recorder(Vec<Measured>);

impl Recorder {
    fn rate(
        &mut self,
        metric: &str,
        mib: usize,
        work: impl FnOnce() -> Result<(), GuestIoError>,
    ) -> Result<(), GuestIoError> {
        self.record(metric, IoUnit::MibPerS, || work().map(|()| mib))
    }

    fn count(
        &mut self,
        metric: &str,
        work: impl FnOnce() -> Result<usize, GuestIoError>,
    ) -> Result<(), GuestIoError> {
        self.record(metric, IoUnit::PerS, work)
    }

    #[expect(clippy::cast_precision_loss, reason = "amounts far below 2^52")]
    fn record(
        &mut self,
        metric: &str,
        unit: IoUnit,
        work: impl FnOnce() -> Result<usize, GuestIoError>,
    ) -> Result<(), GuestIoError> {
        let started = Instant::now();
        let amount = work()?;
        let value = amount as f64 / started.elapsed().as_secs_f64();
        self.0.push(Measured {
            metric: metric.into(),
            unit,
            value,
        });
        Ok(())
    }
}

fn error(what: &'static str, path: &Path) -> impl Fn(io::Error) -> GuestIoError {
    let path = path.to_path_buf();
    move |source| GuestIoError {
        what,
        path: path.clone(),
        source,
    }
}

fn write_large(path: &Path, size_mib: usize) -> Result<(), GuestIoError> {
    let chunk = Pattern::new(3).bytes(CHUNK);
    let failed = error("write", path);
    let mut file = File::create(path).map_err(&failed)?;
    for _ in 0..size_mib {
        file.write_all(&chunk).map_err(&failed)?;
    }
    file.sync_all().map_err(&failed)
}

/// From its beginning to its end, from the device as far as the kernel lets a user say so, and
/// once more from memory.
fn read_large(done: &mut Recorder, path: &Path) -> Result<(), GuestIoError> {
    let failed = error("read", path);
    let mut buffer = vec![0; CHUNK];
    let length = fs::metadata(path).map_err(&failed)?.len();
    let mib = usize::try_from(length >> 20).unwrap_or(usize::MAX);
    forget(path).map_err(&failed)?;
    for metric in ["sequential read", "sequential read again"] {
        done.rate(metric, mib, || {
            let mut file = File::open(path).map_err(&failed)?;
            while file.read(&mut buffer).map_err(&failed)? > 0 {}
            Ok(())
        })?;
    }
    Ok(())
}

fn read_random(done: &mut Recorder, path: &Path) -> Result<(), GuestIoError> {
    let failed = error("read", path);
    forget(path).map_err(&failed)?;
    let file = File::open(path).map_err(&failed)?;
    // Read-ahead would answer another question.
    fadvise(&file, 0, None, Advice::Random).map_err(|errno| failed(errno.into()))?;
    let pages = (file.metadata().map_err(&failed)?.len() / PAGE as u64).max(1);
    let mut random = Random::new(5);
    let mut page = [0; PAGE];
    done.count("4 KiB random reads", || {
        for _ in 0..RANDOM_READS {
            let at = random.draw() % pages * PAGE as u64;
            file.read_exact_at(&mut page, at).map_err(&failed)?;
        }
        Ok(RANDOM_READS)
    })
}

/// Drops what the page cache has of a file that has been written back.
fn forget(path: &Path) -> io::Result<()> {
    let file = File::open(path)?;
    Ok(fadvise(&file, 0, None, Advice::DontNeed)?)
}

fn create_tree(top: &Path, files: usize) -> Result<usize, GuestIoError> {
    let content = Pattern::new(4).bytes(SMALL_FILE);
    for n in 0..DIRECTORIES {
        let directory = top.join(format!("{n:02}"));
        fs::create_dir_all(&directory).map_err(error("make", &directory))?;
    }
    for n in 0..files {
        let path = top.join(format!("{:02}/{n:05}", n % DIRECTORIES));
        let mut options = OpenOptions::new();
        let file = options.write(true).create_new(true).open(&path);
        file.and_then(|mut file| file.write_all(&content))
            .map_err(error("write", &path))?;
    }
    Ok(files)
}

fn read_tree(done: &mut Recorder, top: &Path) -> Result<(), GuestIoError> {
    let mut paths = Vec::new();
    done.count("small files listed", || {
        walk(top, &mut |path| {
            // `ls -l` asks for each one's metadata.
            fs::symlink_metadata(&path)?;
            paths.push(path);
            Ok(())
        })
        .map_err(error("list", top))?;
        Ok(paths.len())
    })?;
    done.count("small files read", || {
        for path in &paths {
            fs::read(path).map_err(error("read", path))?;
        }
        Ok(paths.len())
    })
}

fn remove_tree(top: &Path) -> Result<usize, GuestIoError> {
    let mut removed = 0;
    walk(top, &mut |path| {
        fs::remove_file(path)?;
        removed += 1;
        Ok(())
    })
    .and_then(|()| fs::remove_dir_all(top))
    .map_err(error("remove", top))?;
    Ok(removed)
}

/// Calls `each` with every file below `directory`.
fn walk(directory: &Path, each: &mut impl FnMut(PathBuf) -> io::Result<()>) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            walk(&entry.path(), each)?;
        } else {
            each(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work(directory: &Path) -> GuestIo {
        GuestIo {
            directory: Some(directory.into()),
            sequential: None,
            random: None,
            tree: None,
            size_mib: 1,
            files: 250,
        }
    }

    #[test]
    fn every_metric_once_and_nothing_left() {
        let temporary = tempfile::tempdir().unwrap();
        let measured = run(&work(temporary.path())).unwrap();
        let metrics: Vec<_> = measured.iter().map(|m| m.metric.as_str()).collect();
        let expected = [
            "sequential write",
            "sequential read",
            "sequential read again",
            "4 KiB random reads",
            "small files created",
            "small files listed",
            "small files read",
            "small files removed",
        ];
        assert_eq!(metrics, expected);
        assert!(
            measured
                .iter()
                .all(|m| m.value.is_finite() && m.value > 0.0)
        );
        assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 0);
    }

    #[test]
    fn the_tree_has_as_many_files_as_asked() {
        let temporary = tempfile::tempdir().unwrap();
        let tree = temporary.path().join("tree");
        assert_eq!(create_tree(&tree, 250).unwrap(), 250);
        assert_eq!(remove_tree(&tree).unwrap(), 250);
        assert!(!tree.exists());
    }

    #[test]
    fn a_failure_names_what_and_where() {
        let error = run(&GuestIo {
            tree: Some("/nonexistent".into()),
            directory: None,
            ..work(Path::new("/"))
        });
        assert_eq!(error.unwrap_err().to_string(), "can't list /nonexistent");
    }
}
