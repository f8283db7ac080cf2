// SPDX-License-Identifier: Apache-2.0
//! Layers on their way from a registry: one thread writes each into a file, another one reads it
//! while it grows.
//!
//! A layer is written under `HEX.part` in the store, locked by whoever fetches it, and renamed once
//! its digest is right. What a command that broke off has left is gone on with.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use walnut_registry::{Begin, Fetch, RegistryError, Sink};

use super::blobs::Blobs;
use super::collect::PARTIAL;
use super::digest::{Digest, Hashing};
use super::error::ImageError;
use super::layers::{Layers, Stream};
use super::manifest::LayerSpec;
use super::progress::{Step, Tell};
use super::publish;

/// One layer, as the two threads share it.
struct Shared {
    digest: Digest,
    size: u64,
    state: Mutex<State>,
    changed: Condvar,
}

enum State {
    /// Nothing to be read yet.
    Waiting,
    /// So many bytes can be read.
    Growing(File, u64),
    Done(File),
    Failed(String),
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, state: State) {
        *self.state() = state;
        self.changed.notify_all();
    }

    /// If it has not come yet, it won't.
    fn abandon(&self, why: &str) {
        let mut state = self.state();
        if matches!(*state, State::Waiting | State::Growing(..)) {
            *state = State::Failed(why.into());
        }
    }
}

/// By [`Incoming::give_up`].
#[derive(Debug, thiserror::Error)]
#[error("nobody wants it any more")]
struct GivenUp;

/// Whether that is why a layer did not come.
pub(super) fn is_given_up(error: &RegistryError) -> bool {
    matches!(error, RegistryError::Sink(e) if e.get_ref().is_some_and(|e| e.is::<GivenUp>()))
}

/// All layers of an image.
pub(super) struct Incoming {
    layers: Vec<Arc<Shared>>,
    tell: Tell,
}

impl Incoming {
    /// What is there already need not be fetched.
    pub(super) fn new(
        blobs: &Blobs,
        specs: &[LayerSpec],
        tell: &Tell,
    ) -> Result<(Self, Vec<Fetch>), ImageError> {
        let mut layers: Vec<Arc<Shared>> = Vec::new();
        let mut fetches = Vec::new();
        for spec in specs {
            let digest = spec.named();
            if layers.iter().any(|layer| layer.digest == digest) {
                continue;
            }
            let kept = blobs.open(digest)?;
            let size = spec.size.unwrap_or(0);
            let shared = Arc::new(Shared {
                digest,
                size,
                state: Mutex::new(State::Waiting),
                changed: Condvar::new(),
            });
            match kept {
                Some(file) => {
                    tell(digest, Step::Said("Already exists"));
                    shared.set(State::Done(file));
                }
                None => {
                    tell(digest, Step::Said("Pulling fs layer"));
                    fetches.push(Fetch {
                        digest: digest.to_string(),
                        size,
                        sink: Box::new(Part {
                            path: blobs.path(digest),
                            shared: Arc::clone(&shared),
                            tell: Arc::clone(tell),
                            writing: None,
                        }),
                    });
                }
            }
            layers.push(shared);
        }
        let tell = Arc::clone(tell);
        Ok((Incoming { layers, tell }, fetches))
    }

    /// Nobody reads any more: what is still being fetched can end.
    pub(super) fn give_up(&self) {
        for layer in &self.layers {
            layer.abandon("given up");
        }
    }
}

impl Layers for Incoming {
    fn open(&self, spec: &LayerSpec) -> Result<Stream<'_>, ImageError> {
        let digest = spec.named();
        let mut layers = self.layers.iter();
        let missing = || ImageError::ReadLayer {
            layer: digest,
            source: io::ErrorKind::NotFound.into(),
        };
        let shared = layers.find(|layer| layer.digest == digest);
        let shared = Arc::clone(shared.ok_or_else(missing)?);
        Ok(Stream {
            size: shared.size,
            reader: Box::new(Reader {
                shared,
                at: 0,
                tell: &*self.tell,
            }),
            checked: true,
        })
    }
}

struct Reader<'a> {
    shared: Arc<Shared>,
    at: u64,
    tell: &'a (dyn Fn(Digest, Step<'_>) + Send + Sync),
}

impl Read for Reader<'_> {
    /// Waits for bytes. The end comes when the digest was right, and not before.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut state = self.shared.state();
        loop {
            match &*state {
                State::Growing(file, len) if self.at < *len => {
                    let left = usize::try_from(*len - self.at).unwrap_or(usize::MAX);
                    let want = left.min(buffer.len());
                    let file = file.try_clone()?;
                    drop(state);
                    let got = file.read_at(&mut buffer[..want], self.at)?;
                    self.at += got as u64;
                    return Ok(got);
                }
                State::Done(file) => {
                    let got = file.read_at(buffer, self.at)?;
                    drop(state);
                    self.at += got as u64;
                    let step = Step::Extracting(self.at, self.shared.size);
                    (self.tell)(self.shared.digest, step);
                    return Ok(got);
                }
                State::Failed(why) => return Err(io::Error::other(why.clone())),
                State::Waiting | State::Growing(..) => {}
            }
            state = self
                .shared
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// A layer that is being written.
struct Part {
    path: PathBuf,
    shared: Arc<Shared>,
    tell: Tell,
    writing: Option<Writing>,
}

struct Writing {
    file: File,
    /// Of all that was written.
    hash: Hashing<io::Empty>,
    at: u64,
    /// What was there before may be wrong: nobody reads it before it is known to be right.
    resumed: bool,
}

impl Part {
    fn partial(&self) -> PathBuf {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        self.path.with_file_name(format!("{name}{PARTIAL}"))
    }

    /// Locked; `None` if somebody else has brought the layer meanwhile.
    fn open(&self) -> io::Result<Option<File>> {
        let partial = self.partial();
        loop {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false);
            let file = options.mode(0o600).open(&partial)?;
            publish::lock_alone(&file)?;
            if self.path.exists() {
                if publish::is_at(&file, &partial)? {
                    fs::remove_file(&partial)?;
                }
                return Ok(None);
            }
            if publish::is_at(&file, &partial)? {
                return Ok(Some(file));
            }
        }
    }

    fn given_up(&self) -> bool {
        matches!(*self.shared.state(), State::Failed(_))
    }
}

impl Sink for Part {
    fn begin(&mut self) -> io::Result<Begin> {
        let Some(file) = self.open()? else {
            self.shared.set(State::Done(File::open(&self.path)?));
            (self.tell)(self.shared.digest, Step::Said("Download complete"));
            return Ok(Begin::Whole);
        };
        let mut hash = Hashing::new(io::empty());
        let at = io::copy(&mut &file, &mut hash)?;
        if at == 0 {
            let clone = file.try_clone()?;
            self.shared.set(State::Growing(clone, 0));
        }
        self.writing = Some(Writing {
            file,
            hash,
            at,
            resumed: at > 0,
        });
        Ok(Begin::At(at))
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.given_up() {
            return Err(io::Error::other(GivenUp));
        }
        let writing = self.writing.as_mut().ok_or(io::ErrorKind::InvalidInput)?;
        writing.file.write_all_at(bytes, writing.at)?;
        writing.hash.write_all(bytes)?;
        writing.at += bytes.len() as u64;
        let at = writing.at;
        if let State::Growing(_, len) = &mut *self.shared.state() {
            *len = at.max(*len);
        }
        self.shared.changed.notify_all();
        let step = Step::Downloading(at, self.shared.size);
        (self.tell)(self.shared.digest, step);
        Ok(())
    }

    /// Written over rather than cut off: somebody may be reading.
    fn restart(&mut self) -> io::Result<()> {
        let writing = self.writing.as_mut().ok_or(io::ErrorKind::InvalidInput)?;
        writing.hash = Hashing::new(io::empty());
        writing.at = 0;
        if writing.resumed {
            writing.file.set_len(0)?;
        }
        Ok(())
    }

    fn finish(&mut self) -> io::Result<Option<String>> {
        let partial = self.partial();
        let writing = self.writing.as_mut().ok_or(io::ErrorKind::InvalidInput)?;
        let (got, _) = writing.hash.finish()?;
        if got != self.shared.digest {
            return Ok(Some(got.to_string()));
        }
        writing.file.sync_all()?;
        fs::rename(&partial, &self.path)?;
        publish::sync_dir(&self.path)?;
        // Opened anew, and so not locked: who waits for the layer may hold what we wait for next.
        self.shared.set(State::Done(File::open(&self.path)?));
        (self.tell)(self.shared.digest, Step::Said("Download complete"));
        Ok(None)
    }

    fn failed(&mut self, error: &RegistryError) {
        let wrong = matches!(
            error,
            RegistryError::Digest { .. } | RegistryError::TooLarge { .. }
        );
        if wrong && self.writing.is_some() {
            // Of no use to anybody.
            let _ = fs::remove_file(self.partial());
        }
        self.shared.set(State::Failed(error.to_string()));
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.shared.abandon("another layer failed");
        self.shared.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_that_has_come_is_locked_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::new(dir.path());
        fs::create_dir_all(blobs.dir()).unwrap();
        let digest = Digest::of(b"layer");
        let spec = LayerSpec {
            member: String::new(),
            digest: Some(digest),
            size: Some(5),
            diff_id: digest,
        };
        let tell: Tell = Arc::new(|_, _| ());
        let (incoming, mut fetches) = Incoming::new(&blobs, &[spec], &tell).unwrap();
        let mut fetch = fetches.remove(0);
        fetch.sink.begin().unwrap();
        fetch.sink.write(b"layer").unwrap();
        assert_eq!(fetch.sink.finish().unwrap(), None);
        drop(fetch);
        // Somebody else may be waiting for it, and hold what we wait for next.
        let alone = publish::try_alone(&blobs.path(digest)).unwrap();
        assert!(alone.is_some());
        drop(incoming);
    }
}
