// SPDX-License-Identifier: Apache-2.0
//! Uploads: blobs that are not there, then the manifest that needs them.

use std::fs::File;
use std::io::Read;
use std::sync::Arc;

use futures_util::stream;
use oci_client::RegistryOperation;
use oci_client::errors::OciDistributionError;
use reqwest::header::HeaderValue;

use crate::error::{RegistryError, from_oci};
use crate::registry::Registry;
use crate::retry::Retry;

const CHUNK: usize = 256 << 10;
/// For registries that take no blob at once: oci-client makes a request of each chunk.
const LARGE_CHUNK: usize = 4 << 20;

/// A blob to be pushed.
pub struct PushBlob<'a> {
    /// `sha256:HEX`.
    pub digest: &'a str,
    pub size: u64,
    pub open: &'a dyn Fn() -> std::io::Result<File>,
    /// Repositories of the same registry that may have it.
    pub from: &'a [String],
    /// Told of bytes that were read.
    pub sent: Arc<dyn Fn(u64) + Send + Sync>,
}

/// How a blob came to be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pushed {
    Existed,
    /// From this repository.
    Mounted(String),
    Uploaded,
}

impl Registry {
    pub fn push_blob(
        &self,
        repository: &str,
        blob: &PushBlob<'_>,
    ) -> Result<Pushed, RegistryError> {
        self.block_on(async {
            let inner = &self.inner;
            inner
                .authenticate(repository, RegistryOperation::Push)
                .await?;
            let mut retry = Retry::new();
            loop {
                let error = match self.try_push(repository, blob).await {
                    Ok(pushed) => return Ok(pushed),
                    Err(error) => error,
                };
                let wait = retry.failed(None).filter(|_| error.is_passing());
                let Some(wait) = wait else {
                    return Err(error);
                };
                log::info!("{error}; trying again in {wait:?}");
                tokio::time::sleep(wait).await;
            }
        })
    }

    async fn try_push(
        &self,
        repository: &str,
        blob: &PushBlob<'_>,
    ) -> Result<Pushed, RegistryError> {
        let inner = &self.inner;
        let failed = |error| from_oci(&inner.host, error);
        let image = inner.reference(repository, "latest")?;
        let oci = inner.oci()?;
        let exists = oci.blob_exists(&image, blob.digest);
        if exists.await.map_err(failed)? {
            return Ok(Pushed::Existed);
        }
        for from in blob.from.iter().filter(|from| *from != repository) {
            let source = inner.reference(from, "latest")?;
            match oci.mount_blob(&image, &source, blob.digest).await {
                Ok(()) => return Ok(Pushed::Mounted(from.clone())),
                Err(error) => log::debug!("{} is not mounted from {from}: {error}", blob.digest),
            }
        }
        let bytes = body(blob, CHUNK)?;
        let whole = oci.push_blob_stream(&image, bytes, blob.digest, Some(blob.size));
        match whole.await {
            Ok(_) => Ok(Pushed::Uploaded),
            Err(
                error @ (OciDistributionError::SpecViolationError(_)
                | OciDistributionError::ServerError {
                    code: 400 | 405 | 411 | 413 | 415,
                    ..
                }),
            ) => {
                log::info!("{} is not taken at once ({error}): in chunks", blob.digest);
                let chunked = inner.new_oci(false)?;
                chunked
                    .store_auth_if_needed(image.resolve_registry(), inner.auth())
                    .await;
                let bytes = body(blob, LARGE_CHUNK)?;
                let size = Some(blob.size);
                let chunks = chunked.push_blob_stream(&image, bytes, blob.digest, size);
                chunks.await.map_err(failed)?;
                Ok(Pushed::Uploaded)
            }
            Err(error) => Err(failed(error)),
        }
    }

    /// `reference` is a tag or a digest.
    pub fn push_manifest(
        &self,
        repository: &str,
        reference: &str,
        media_type: &str,
        bytes: &[u8],
    ) -> Result<(), RegistryError> {
        self.block_on(async {
            let inner = &self.inner;
            inner
                .authenticate(repository, RegistryOperation::Push)
                .await?;
            let image = inner.reference(repository, reference)?;
            let nonsense = || RegistryError::Nonsense(format!("media type {media_type:?}"));
            let media_type = HeaderValue::from_str(media_type).map_err(|_| nonsense())?;
            let pushed = inner
                .oci()?
                .push_manifest_raw(&image, bytes.to_vec(), media_type);
            pushed.await.map_err(|error| from_oci(&inner.host, error))?;
            Ok(())
        })
    }
}

type Chunk = Result<bytes::Bytes, OciDistributionError>;

/// A blob's file in pieces, read as they are wanted.
fn body(
    blob: &PushBlob<'_>,
    chunk: usize,
) -> Result<impl futures_util::Stream<Item = Chunk> + Send + 'static, RegistryError> {
    let file = (blob.open)().map_err(RegistryError::Read)?;
    let sent = Arc::clone(&blob.sent);
    Ok(stream::unfold(Some(file), move |file| {
        let sent = Arc::clone(&sent);
        async move {
            let mut file = file?;
            let mut buffer = Vec::with_capacity(chunk);
            match (&mut file).take(chunk as u64).read_to_end(&mut buffer) {
                Ok(0) => None,
                Ok(len) => {
                    sent(len as u64);
                    Some((Ok(buffer.into()), Some(file)))
                }
                Err(error) => Some((Err(error.into()), None)),
            }
        }
    }))
}
