// SPDX-License-Identifier: Apache-2.0
//! Talks to OCI registries (OCI distribution-spec), in blocking calls.
//!
//! ```text
//! Registry::connect ─▶ manifest ─▶ fetch blobs (each into a Sink)
//!                   └▶ push blobs ─▶ push manifest
//! ```
//!
//! Tokens and uploads are oci-client's. Downloads are requests of our own with its HTTP library:
//! they are bounded, go on where they broke off (Range), and wait as long as the registry says
//! (Retry-After), of which oci-client knows nothing.
//!
//! Registries are hostile: manifests are bounded, digests are compared here or by the [`Sink`], and
//! credentials go to nobody but the registry and the place it sends us to for a token. Nothing is
//! set up before [`Registry::connect`]: no runtime, no TLS.

#![deny(unsafe_code)]

pub mod credentials;
mod error;
mod fetch;
mod login;
mod push;
mod registry;
mod retry;

pub use docker_credential::DockerCredential as Credential;
pub use error::RegistryError;
pub use fetch::{Begin, Fetch, Manifest, Sink};
pub use login::login;
pub use push::{PushBlob, Pushed};
pub use registry::{Options, Registry, is_loopback};
