// SPDX-License-Identifier: Apache-2.0
//! A container's files, by its machine's agent: archives of them, what they are, what is the
//! container's own. Of a container that runs, or of one that a machine is started for
//! ([`crate::supervisor::visit`]).

use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;

use serde::Deserialize;
use thiserror::Error;
use walnut_protocol::agent::{
    Empty, ExecRequest, FileJob, PackJob, StatJob, UnpackJob, UpperJob, file_job,
};
use walnut_protocol::{CallError, Client};

use crate::container::Container;
use crate::storage::{self, Places};
use crate::supervisor::exec::Exec;
use crate::supervisor::process::{ProcessError, Streams, exit_code};

/// Of an answer that is no archive, and of an error's text.
const MAX_ANSWER: u64 = 64 << 20;
const MAX_WORDS: u64 = 4 << 10;

#[derive(Debug, Error)]
pub enum FilesError {
    #[error(transparent)]
    Process(#[from] ProcessError),
    #[error(transparent)]
    Call(#[from] CallError),
    /// What the guest's process said.
    #[error("{0}")]
    Refused(String),
    #[error("the answer makes no sense")]
    Answer(#[source] serde_json::Error),
    #[error("read the answer")]
    Read(#[source] io::Error),
    #[error("make a thread")]
    Thread(#[source] io::Error),
}

/// What a path in a container is.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct Stat {
    pub exists: bool,
    pub directory: bool,
    pub size: u64,
    /// Where a path that was followed led.
    pub real: Option<String>,
}

/// A path that a container has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// `A`, `C` or `D`.
    pub kind: char,
    pub path: String,
}

/// The agent of a container's machine.
pub struct Files<'a> {
    pub agent: Client,
    pub vsock: PathBuf,
    pub container: &'a Container,
}

impl Files<'_> {
    pub fn stat(&self, path: &Path, follow: bool) -> Result<Stat, FilesError> {
        let job = StatJob {
            path: bytes(path),
            follow,
            ..StatJob::default()
        };
        let answer = self.ask(file_job::What::Stat(job))?;
        serde_json::from_slice(&answer).map_err(FilesError::Answer)
    }

    /// Has `take` read a tar archive of `path`, which has the name `name` in it.
    pub fn pack<T, E: From<FilesError>>(
        &self,
        path: &Path,
        name: &Path,
        follow: bool,
        holes: bool,
        take: impl FnOnce(UnixStream) -> Result<T, E>,
    ) -> Result<T, E> {
        let job = PackJob {
            path: bytes(path),
            name: bytes(name),
            follow,
            holes,
            ..PackJob::default()
        };
        self.run(file_job::What::Pack(job), |streams| take(streams.stdout))
    }

    /// Has what `feed` writes, a tar archive, unpacked in the directory `path`.
    pub fn unpack<T, E: From<FilesError>>(
        &self,
        path: &Path,
        owners: bool,
        feed: impl FnOnce(&UnixStream) -> Result<T, E>,
    ) -> Result<T, E> {
        let job = UnpackJob {
            path: bytes(path),
            owners,
            ..UnpackJob::default()
        };
        self.feed(job, feed)
    }

    fn feed<T, E: From<FilesError>>(
        &self,
        job: UnpackJob,
        feed: impl FnOnce(&UnixStream) -> Result<T, E>,
    ) -> Result<T, E> {
        self.run(file_job::What::Unpack(job), |mut streams| {
            let stdin = streams.stdin.take();
            let stdin =
                stdin.ok_or_else(|| FilesError::Read(io::ErrorKind::NotConnected.into()))?;
            let fed = feed(&stdin);
            // Its end is the archive's.
            let _ = stdin.shutdown(std::net::Shutdown::Write);
            // What it did is known when it ends.
            let _ = io::copy(&mut streams.stdout, &mut io::sink());
            fed
        })
    }

    /// Has what `feed` writes unpacked in a directory of the machine's own.
    pub fn unpack_in_machine<T, E: From<FilesError>>(
        &self,
        path: &Path,
        feed: impl FnOnce(&UnixStream) -> Result<T, E>,
    ) -> Result<T, E> {
        let job = UnpackJob {
            path: bytes(path),
            machine: true,
            ..UnpackJob::default()
        };
        self.feed(job, feed)
    }

    /// Has `take` read a tar archive of the root file system.
    pub fn export<T, E: From<FilesError>>(
        &self,
        take: impl FnOnce(UnixStream) -> Result<T, E>,
    ) -> Result<T, E> {
        self.run(file_job::What::Export(Empty::default()), |streams| {
            take(streams.stdout)
        })
    }

    /// Has `take` read what the container has written, as an image's layer.
    pub fn layer<T, E: From<FilesError>>(
        &self,
        take: impl FnOnce(UnixStream) -> Result<T, E>,
    ) -> Result<T, E> {
        self.run(file_job::What::Layer(self.upper()), |streams| {
            take(streams.stdout)
        })
    }

    pub fn changes(&self) -> Result<Vec<Change>, FilesError> {
        let answer = self.ask(file_job::What::Changes(self.upper()))?;
        let parse = |line: &[u8]| {
            let (kind, path) = line.split_at(line.len().min(2));
            Ok(Change {
                kind: kind.first().copied().map_or('?', char::from),
                path: serde_json::from_slice(path).map_err(FilesError::Answer)?,
            })
        };
        answer
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(parse)
            .collect()
    }

    fn upper(&self) -> UpperJob {
        let places = Places::of(self.container);
        UpperJob {
            upper: places.upper(),
            lower: places.image(),
            skip: storage::mount_points(self.container)
                .iter()
                .map(|path| bytes(path))
                .collect(),
            ..UpperJob::default()
        }
    }

    fn ask(&self, what: file_job::What) -> Result<Vec<u8>, FilesError> {
        self.run(what, |streams| {
            let mut answer = Vec::new();
            let mut from = streams.stdout.take(MAX_ANSWER);
            from.read_to_end(&mut answer).map_err(FilesError::Read)?;
            Ok(answer)
        })
    }

    /// Runs one job. An error of its own says more than what came of it here.
    fn run<T, E: From<FilesError>>(
        &self,
        what: file_job::What,
        work: impl FnOnce(Streams) -> Result<T, E>,
    ) -> Result<T, E> {
        let request = ExecRequest {
            container_id: self.container.id.to_string(),
            stdin: matches!(what, file_job::What::Unpack(_)),
            files: Some(FileJob {
                what: Some(what),
                ..FileJob::default()
            })
            .into(),
            ..ExecRequest::default()
        };
        let begun = Exec::begin(&self.agent, &self.vsock, request, false);
        let (exec, streams) = begun.map_err(FilesError::from)?;
        let Some(mut streams) = streams else {
            return Err(FilesError::Read(io::ErrorKind::NotConnected.into()).into());
        };
        let words = streams.stderr.take().map(|from| {
            thread::Builder::new().name("stderr".into()).spawn(move || {
                let mut words = Vec::new();
                // What arrived until then is what there is.
                let _ = from.take(MAX_WORDS).read_to_end(&mut words);
                words
            })
        });
        let words = words.transpose().map_err(FilesError::Thread)?;
        let done = work(streams);
        let code = exit_code(&exec.handle.wait().map_err(FilesError::from)?);
        let words = words
            .and_then(|words| words.join().ok())
            .unwrap_or_default();
        // One whose reader went away has nothing to say.
        if code != 0 && !(words.is_empty() && done.is_err()) {
            let words = String::from_utf8_lossy(&words);
            // The guest's: it must not drive the user's terminal.
            let words = words.trim_end().replace(|c: char| c.is_control(), "?");
            return Err(FilesError::Refused(words).into());
        }
        done
    }
}

fn bytes(path: &Path) -> Vec<u8> {
    path.as_os_str().as_bytes().to_vec()
}

/// Copies, and counts.
pub fn copy(mut from: impl Read, mut to: impl Write) -> io::Result<u64> {
    let mut buffer = vec![0; 256 << 10];
    let mut copied = 0;
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return to.flush().map(|()| copied),
            Ok(count) => {
                to.write_all(&buffer[..count])?;
                copied += count as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}
