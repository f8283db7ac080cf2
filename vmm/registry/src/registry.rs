// SPDX-License-Identifier: Apache-2.0
//! One registry: how it is reached, and who we are to it.

use std::future::Future;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use docker_credential::DockerCredential;
use oci_client::client::{Certificate, CertificateEncoding, ClientConfig, ClientProtocol};
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference, RegistryOperation};

use crate::error::{RegistryError, from_oci, from_reqwest, root_cause};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// Without a byte from the other side.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
const USER_AGENT: &str = concat!("walnut/", env!("CARGO_PKG_VERSION"));
/// Where Docker's users put the certificates of registries of their own.
const CERTIFICATES: &str = "/etc/docker/certs.d";

#[derive(Debug)]
pub struct Options {
    /// False: certificates are not looked at, and HTTP without TLS will do, too.
    pub tls_verify: bool,
    pub credentials: Option<DockerCredential>,
}

/// A registry that can be talked to. Calls block.
pub struct Registry {
    runtime: tokio::runtime::Runtime,
    pub(crate) inner: Inner,
}

pub(crate) struct Inner {
    /// With its port.
    pub host: String,
    /// `https` or `http`.
    pub scheme: &'static str,
    /// Certificates are not looked at.
    pub insecure: bool,
    pub http: reqwest::Client,
    /// For tokens and uploads, made when it is needed.
    oci: OnceLock<Client>,
    auth: RegistryAuth,
    /// Of the last repository that was asked for: (repository, token).
    token: Mutex<Option<(String, String)>>,
}

/// Whether a host (with its port) is this machine: there, HTTP needs no TLS.
pub fn is_loopback(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name == "localhost"
        || name
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

impl Registry {
    /// # Errors
    /// There is no registry, or nothing that TLS can be spoken with.
    pub fn connect(host: &str, options: Options) -> Result<Self, RegistryError> {
        // Only a second call could fail.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(RegistryError::Setup)?;
        let auth = match options.credentials {
            None => RegistryAuth::Anonymous,
            Some(DockerCredential::UsernamePassword(user, password)) => {
                RegistryAuth::Basic(user, password)
            }
            Some(DockerCredential::IdentityToken(_)) => {
                return Err(RegistryError::IdentityToken(host.to_owned()));
            }
        };
        let insecure = !options.tls_verify || is_loopback(host);
        let http = client(host, insecure)?;
        let scheme = match insecure {
            false => "https",
            true => runtime.block_on(probe(&http, host)),
        };
        Ok(Registry {
            runtime,
            inner: Inner {
                host: host.to_owned(),
                scheme,
                insecure,
                http,
                oci: OnceLock::new(),
                auth,
                token: Mutex::new(None),
            },
        })
    }

    pub(crate) fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }
}

/// As Docker does it where no certificate is asked for: TLS, or else without.
async fn probe(http: &reqwest::Client, host: &str) -> &'static str {
    match http.get(format!("https://{host}/v2/")).send().await {
        Err(error) => {
            log::debug!("no TLS with {host}: {error}");
            "http"
        }
        Ok(_) => "https",
    }
}

fn client(host: &str, insecure: bool) -> Result<reqwest::Client, RegistryError> {
    let mut builder = reqwest::Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(READ_TIMEOUT)
        .user_agent(USER_AGENT)
        .tls_danger_accept_invalid_certs(insecure);
    let failed = unprepared(host);
    let own = certificates(host);
    if !own.is_empty() {
        let parsed = own.iter().map(|pem| reqwest::Certificate::from_pem(pem));
        let parsed = parsed.collect::<Result<Vec<_>, _>>().map_err(&failed)?;
        builder = builder.tls_certs_merge(parsed);
    }
    builder.build().map_err(failed)
}

fn unprepared(host: &str) -> impl Fn(reqwest::Error) -> RegistryError + '_ {
    |error| RegistryError::Client {
        host: host.to_owned(),
        reason: format!("{}; are ca-certificates installed?", root_cause(&error)),
    }
}

/// `*.crt` under Docker's directory for this host.
fn certificates(host: &str) -> Vec<Vec<u8>> {
    let entries = std::fs::read_dir(Path::new(CERTIFICATES).join(host));
    let paths = entries
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    paths
        .filter(|path| path.extension().is_some_and(|extension| extension == "crt"))
        .filter_map(|path| std::fs::read(path).ok())
        .collect()
}

impl Inner {
    pub(crate) fn auth(&self) -> &RegistryAuth {
        &self.auth
    }

    pub(crate) fn oci(&self) -> Result<&Client, RegistryError> {
        if let Some(client) = self.oci.get() {
            return Ok(client);
        }
        let client = self.new_oci(true)?;
        Ok(self.oci.get_or_init(|| client))
    }

    pub(crate) fn new_oci(&self, monolithic: bool) -> Result<Client, RegistryError> {
        // It makes one of these on the way, and panics where it can't.
        let plain = reqwest::Client::builder().build();
        plain.map_err(unprepared(&self.host))?;
        let certificate = |data| Certificate {
            encoding: CertificateEncoding::Pem,
            data,
        };
        let own = certificates(&self.host).into_iter().map(certificate);
        let config = ClientConfig {
            protocol: match self.scheme {
                "http" => ClientProtocol::Http,
                _ => ClientProtocol::Https,
            },
            accept_invalid_certificates: self.insecure,
            extra_root_certificates: own.collect(),
            use_monolithic_push: monolithic,
            read_timeout: Some(READ_TIMEOUT),
            connect_timeout: Some(CONNECT_TIMEOUT),
            user_agent: USER_AGENT,
            ..ClientConfig::default()
        };
        config
            .try_into()
            .map_err(|error| from_oci(&self.host, error))
    }

    pub(crate) fn url(&self, repository: &str, kind: &str, reference: &str) -> String {
        let (scheme, host) = (self.scheme, &self.host);
        format!("{scheme}://{host}/v2/{repository}/{kind}/{reference}")
    }

    pub(crate) fn reference(
        &self,
        repository: &str,
        tag_or_digest: &str,
    ) -> Result<Reference, RegistryError> {
        let separator = if tag_or_digest.contains(':') {
            '@'
        } else {
            ':'
        };
        let name = format!("{}/{repository}{separator}{tag_or_digest}", self.host);
        name.parse().map_err(|_| RegistryError::Name(name))
    }

    /// Asks for a token, where the registry wants one.
    pub(crate) async fn authenticate(
        &self,
        repository: &str,
        operation: RegistryOperation,
    ) -> Result<(), RegistryError> {
        let reference = self.reference(repository, "latest")?;
        let token = self
            .oci()?
            .auth(&reference, &self.auth, operation)
            .await
            .map_err(|error| from_oci(&self.host, error))?;
        if let Ok(mut known) = self.token.lock() {
            *known = token.map(|token| (repository.to_owned(), token));
        }
        Ok(())
    }

    /// A request that says who we are.
    pub(crate) fn get(&self, repository: &str, url: &str) -> reqwest::RequestBuilder {
        let request = self.http.get(url);
        let token = match self.token.lock() {
            Ok(known) => known.clone().filter(|(of, _)| of == repository),
            Err(_) => None,
        };
        match (token, &self.auth) {
            (Some((_, token)), _) => request.bearer_auth(token),
            (None, RegistryAuth::Basic(user, password)) => request.basic_auth(user, Some(password)),
            (None, _) => request,
        }
    }

    pub(crate) fn broken(&self, error: reqwest::Error) -> RegistryError {
        from_reqwest(&self.host, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_by_its_names() {
        for here in [
            "localhost",
            "localhost:5000",
            "127.0.0.1:5000",
            "127.1.2.3",
            "[::1]:5000",
        ] {
            assert!(is_loopback(here), "{here}");
        }
        for there in [
            "example.org",
            "example.org:5000",
            "10.0.0.1",
            "localhost.example.org",
        ] {
            assert!(!is_loopback(there), "{there}");
        }
    }
}
