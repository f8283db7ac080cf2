// SPDX-License-Identifier: Apache-2.0
//! Manifests and blobs: GET, with what is needed to trust the answer.

use std::future::Future;
use std::io;
use std::pin::Pin;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use oci_client::RegistryOperation;
use reqwest::header::{ACCEPT, RANGE};
use reqwest::{RequestBuilder, Response, StatusCode};
use sha2::{Digest as _, Sha256};

use crate::error::{RegistryError, from_status};
use crate::registry::{Inner, Registry};
use crate::retry::{Retry, retry_after};

/// What the distribution-spec lets a registry refuse beyond, and Docker stops at.
const MAX_MANIFEST: u64 = 4 << 20;
/// Of an answer that is an error.
const MAX_WORDS: u64 = 64 << 10;
const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, \
     application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.docker.distribution.manifest.v2+json";

/// A manifest or index, its digest compared.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// `sha256:HEX` of `bytes`.
    pub digest: String,
    pub bytes: Vec<u8>,
}

/// Where a blob goes. It is there that its digest is compared.
pub trait Sink: Send {
    /// What there is already. It may wait for somebody else who fetches the same blob.
    fn begin(&mut self) -> io::Result<Begin>;
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// What was written so far is void: the blob comes from its beginning.
    fn restart(&mut self) -> io::Result<()>;
    /// All is written. The digest that was got, if it is another one.
    fn finish(&mut self) -> io::Result<Option<String>>;
    /// The blob will not come, for the sake of those who wait for it.
    fn failed(&mut self, error: &RegistryError);
}

/// How much of a blob is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// All of it.
    Whole,
    /// So many bytes.
    At(u64),
}

/// A blob to be fetched.
pub struct Fetch {
    /// `sha256:HEX`.
    pub digest: String,
    pub size: u64,
    pub sink: Box<dyn Sink>,
}

impl Registry {
    /// `reference` is a tag or a digest.
    pub fn manifest(&self, repository: &str, reference: &str) -> Result<Manifest, RegistryError> {
        self.block_on(async {
            let inner = &self.inner;
            let url = inner.url(repository, "manifests", reference);
            let get = || inner.get(repository, &url).header(ACCEPT, MANIFESTS);
            let what = format!("manifest {reference}");
            let bytes = inner.whole(repository, &what, MAX_MANIFEST, get).await?;
            let got = digest_of(&bytes);
            if reference.contains(':') && reference != got {
                return Err(RegistryError::Digest {
                    what,
                    expected: reference.to_owned(),
                    got,
                });
            }
            Ok(Manifest { digest: got, bytes })
        })
    }

    /// A small blob, its digest compared.
    pub fn blob(
        &self,
        repository: &str,
        digest: &str,
        limit: u64,
    ) -> Result<Vec<u8>, RegistryError> {
        self.block_on(async {
            let inner = &self.inner;
            let url = inner.url(repository, "blobs", digest);
            let what = format!("blob {digest}");
            let get = || inner.get(repository, &url);
            let bytes = inner.whole(repository, &what, limit, get).await?;
            match digest_of(&bytes) {
                got if got == digest => Ok(bytes),
                got => Err(RegistryError::Digest {
                    what,
                    expected: digest.to_owned(),
                    got,
                }),
            }
        })
    }

    /// Fetches blobs in their order, `parallel` at a time. The first failure ends it all; every sink
    /// that has not got its blob is told.
    pub fn fetch(
        &self,
        repository: &str,
        blobs: Vec<Fetch>,
        parallel: usize,
    ) -> Result<(), RegistryError> {
        type Running<'a> = Pin<Box<dyn Future<Output = Done> + 'a>>;
        self.block_on(async {
            let mut waiting = blobs.into_iter();
            let mut running: FuturesUnordered<Running<'_>> = FuturesUnordered::new();
            let start = |blob| -> Running<'_> { Box::pin(self.inner.fetch(repository, blob)) };
            running.extend(waiting.by_ref().take(parallel).map(start));
            while let Some((sink, result)) = running.next().await {
                drop(sink);
                result?;
                running.extend(waiting.next().map(start));
            }
            Ok(())
        })
    }
}

type Done = (Box<dyn Sink>, Result<(), RegistryError>);

impl Inner {
    async fn fetch(&self, repository: &str, blob: Fetch) -> Done {
        let Fetch { digest, size, sink } = blob;
        // It may have to wait for another process.
        let begun = tokio::task::spawn_blocking(move || {
            let mut sink = sink;
            let begun = sink.begin();
            (sink, begun)
        });
        let (mut sink, begun) = match begun.await {
            Ok(done) => done,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        };
        let result = match begun {
            Err(error) => Err(RegistryError::Sink(error)),
            Ok(Begin::Whole) => Ok(()),
            Ok(Begin::At(at)) => {
                self.fetch_from(repository, &digest, size, at, &mut *sink)
                    .await
            }
        };
        if let Err(error) = &result {
            sink.failed(error);
        }
        (sink, result)
    }

    async fn fetch_from(
        &self,
        repository: &str,
        digest: &str,
        size: u64,
        at: u64,
        sink: &mut dyn Sink,
    ) -> Result<(), RegistryError> {
        let mut at = at;
        if at > size {
            sink.restart().map_err(RegistryError::Sink)?;
            at = 0;
        }
        // What was left by somebody else may be wrong: then once more, from the beginning.
        let mut resumed = at > 0;
        loop {
            self.stream(repository, digest, size, at, sink).await?;
            match sink.finish().map_err(RegistryError::Sink)? {
                None => return Ok(()),
                Some(_) if resumed => {
                    log::info!("what was left of {digest} is wrong: fetching it again");
                    sink.restart().map_err(RegistryError::Sink)?;
                    (at, resumed) = (0, false);
                }
                Some(got) => {
                    return Err(RegistryError::Digest {
                        what: format!("layer {digest}"),
                        expected: digest.to_owned(),
                        got,
                    });
                }
            }
        }
    }

    /// Writes the bytes from `at` to `size`, however often the connection breaks.
    async fn stream(
        &self,
        repository: &str,
        digest: &str,
        size: u64,
        mut at: u64,
        sink: &mut dyn Sink,
    ) -> Result<(), RegistryError> {
        let url = self.url(repository, "blobs", digest);
        let mut retry = Retry::new();
        while at < size {
            let get = || match at {
                0 => self.get(repository, &url),
                at => self
                    .get(repository, &url)
                    .header(RANGE, format!("bytes={at}-")),
            };
            let response = self.answer(repository, get).await?;
            if at > 0 && response.status() != StatusCode::PARTIAL_CONTENT {
                sink.restart().map_err(RegistryError::Sink)?;
                at = 0;
            }
            let before = at;
            let broke = self.copy(response, digest, size, &mut at, sink).await?;
            if at == size {
                break;
            }
            if at > before {
                retry.progress();
            }
            let error = broke.unwrap_or(RegistryError::Truncated {
                what: format!("layer {digest}"),
                expected: size,
                got: at,
            });
            let Some(wait) = retry.failed(None) else {
                return Err(error);
            };
            log::info!("{error}; going on at byte {at} in {wait:?}");
            tokio::time::sleep(wait).await;
        }
        Ok(())
    }

    /// Moves `at` on. How the connection ended, if not by the last byte.
    async fn copy(
        &self,
        response: Response,
        digest: &str,
        size: u64,
        at: &mut u64,
        sink: &mut dyn Sink,
    ) -> Result<Option<RegistryError>, RegistryError> {
        let mut body = response.bytes_stream();
        while let Some(bytes) = body.next().await {
            let bytes = match bytes {
                Ok(bytes) => bytes,
                Err(error) => return Ok(Some(self.broken(error))),
            };
            if bytes.len() as u64 > size - *at {
                return Err(RegistryError::TooLarge {
                    what: format!("layer {digest}"),
                    limit: size,
                });
            }
            sink.write(&bytes).map_err(RegistryError::Sink)?;
            *at += bytes.len() as u64;
        }
        Ok(None)
    }

    /// A whole answer with its content type.
    async fn whole(
        &self,
        repository: &str,
        what: &str,
        limit: u64,
        get: impl Fn() -> RequestBuilder,
    ) -> Result<Vec<u8>, RegistryError> {
        let mut retry = Retry::new();
        loop {
            let response = self.answer(repository, &get).await?;
            match bounded(response, limit).await {
                Ok(Some(bytes)) => return Ok(bytes),
                Ok(None) => {
                    let what = what.to_owned();
                    return Err(RegistryError::TooLarge { what, limit });
                }
                Err(error) => {
                    let Some(wait) = retry.failed(None) else {
                        return Err(self.broken(error));
                    };
                    tokio::time::sleep(wait).await;
                }
            }
        }
    }

    /// A successful answer, after as many attempts as it takes.
    async fn answer(
        &self,
        repository: &str,
        get: impl Fn() -> RequestBuilder,
    ) -> Result<Response, RegistryError> {
        let mut retry = Retry::new();
        let mut authenticated = false;
        loop {
            let (error, asked) = match get().send().await {
                Ok(response) if response.status().is_success() => return Ok(response),
                Ok(response) => {
                    let status = response.status().as_u16();
                    if status == 401 && !authenticated {
                        // The token may have been too old.
                        authenticated = true;
                        self.authenticate(repository, RegistryOperation::Pull)
                            .await?;
                        continue;
                    }
                    let asked = retry_after(response.headers());
                    let body = bounded(response, MAX_WORDS).await.ok().flatten();
                    let body = String::from_utf8_lossy(&body.unwrap_or_default()).into_owned();
                    (from_status(status, &body), asked)
                }
                Err(error) => (self.broken(error), None),
            };
            let wait = retry.failed(asked).filter(|_| error.is_passing());
            let Some(wait) = wait else {
                return Err(error);
            };
            log::info!("{error}; trying again in {wait:?}");
            tokio::time::sleep(wait).await;
        }
    }
}

/// `None` where it is longer than `limit`.
async fn bounded(response: Response, limit: u64) -> Result<Option<Vec<u8>>, reqwest::Error> {
    let mut bytes = Vec::new();
    let mut body = response.bytes_stream();
    while let Some(chunk) = body.next().await {
        let chunk = chunk?;
        if (bytes.len() + chunk.len()) as u64 > limit {
            return Ok(None);
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(Some(bytes))
}

fn digest_of(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}
