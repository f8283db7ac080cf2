// SPDX-License-Identifier: Apache-2.0
//! Why a registry did not do what it was asked for.

use std::io;

use oci_client::errors::OciDistributionError;

#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    #[error("start talking to registries")]
    Setup(#[source] io::Error),
    #[error("prepare connections to {host}: {reason}")]
    Client { host: String, reason: String },
    #[error("connect to {host}: {reason}")]
    Connect { host: String, reason: String },
    #[error(
        "connect to {host}: its certificate is signed by an authority unknown here: put that one's \
         into /etc/docker/certs.d/{host}/ca.crt, or give --tls-verify=false"
    )]
    UnknownAuthority { host: String },
    #[error("the connection to {host} broke: {reason}")]
    Broken { host: String, reason: String },
    /// 401 or 403.
    #[error("{0}")]
    Denied(String),
    /// 404.
    #[error("{0}")]
    NotFound(String),
    /// 429, to the end.
    #[error("toomanyrequests: {0}")]
    TooManyRequests(String),
    #[error("received unexpected HTTP status: {0}")]
    Status(String),
    #[error("{what} is longer than {limit} bytes")]
    TooLarge { what: String, limit: u64 },
    #[error("{what} is corrupt: expected digest {expected}, got {got}")]
    Digest {
        what: String,
        expected: String,
        got: String,
    },
    #[error("{what} is truncated: expected {expected} bytes, got {got}")]
    Truncated {
        what: String,
        expected: u64,
        got: u64,
    },
    #[error("the name \"{0}\" is none that a registry can have")]
    Name(String),
    #[error("{0} is no answer of a registry")]
    Nonsense(String),
    #[error("unauthorized: incorrect username or password")]
    Password,
    #[error("keep what was fetched")]
    Sink(#[source] io::Error),
    #[error("read what is to be pushed")]
    Read(#[source] io::Error),
    #[error(
        "the credentials for {0} are an identity token, which can't be used here: log in again"
    )]
    IdentityToken(String),
}

impl RegistryError {
    /// Whether trying again may help.
    pub(crate) fn is_passing(&self) -> bool {
        matches!(
            self,
            Self::Connect { .. } | Self::Broken { .. } | Self::TooManyRequests(_) | Self::Status(_)
        )
    }
}

/// A request that got no answer.
pub(crate) fn from_reqwest(host: &str, error: reqwest::Error) -> RegistryError {
    let (host, reason) = (host.to_owned(), root_cause(&error));
    if is_unknown_authority(&error) {
        RegistryError::UnknownAuthority { host }
    } else if error.is_connect() {
        RegistryError::Connect { host, reason }
    } else {
        RegistryError::Broken { host, reason }
    }
}

fn is_unknown_authority(error: &(dyn std::error::Error + 'static)) -> bool {
    use rustls::{CertificateError, Error};
    if let Some(error) = error.downcast_ref::<Error>() {
        return matches!(
            error,
            Error::InvalidCertificate(CertificateError::UnknownIssuer)
        );
    }
    // What an io::Error holds is none of its sources.
    let held = error
        .downcast_ref::<io::Error>()
        .and_then(io::Error::get_ref);
    match held {
        Some(held) => is_unknown_authority(held),
        None => error.source().is_some_and(is_unknown_authority),
    }
}

/// The innermost cause says what happened; those around it, where in the library.
pub(crate) fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

/// What went wrong in oci-client.
pub(crate) fn from_oci(host: &str, error: OciDistributionError) -> RegistryError {
    match error {
        OciDistributionError::RequestError(error) => match error.status() {
            Some(status) => from_status(status.as_u16(), ""),
            None => from_reqwest(host, error),
        },
        OciDistributionError::ServerError { code, message, .. } => from_status(code, &message),
        OciDistributionError::UnauthorizedError { .. } => from_status(401, ""),
        OciDistributionError::AuthenticationFailure(message) => RegistryError::Denied(
            words(&message).unwrap_or_else(|| "unauthorized: authentication required".into()),
        ),
        OciDistributionError::IoError(error) => RegistryError::Read(error),
        other => RegistryError::Nonsense(format!("{other}")),
    }
}

/// An answer that is no success. `body` may hold the registry's own words.
pub(crate) fn from_status(code: u16, body: &str) -> RegistryError {
    let words = words(body);
    let or = |default: &str| words.clone().unwrap_or_else(|| default.to_owned());
    match code {
        401 => RegistryError::Denied(or("unauthorized: authentication required")),
        403 => RegistryError::Denied(or("denied: requested access to the resource is denied")),
        404 => RegistryError::NotFound(or("not found")),
        429 => RegistryError::TooManyRequests(
            or("too many requests")
                .trim_start_matches("toomanyrequests: ")
                .to_owned(),
        ),
        code => {
            let status = reqwest::StatusCode::from_u16(code);
            RegistryError::Status(match (status, words) {
                (_, Some(words)) => format!("{code}: {words}"),
                (Ok(status), None) => status.to_string(),
                (Err(_), None) => code.to_string(),
            })
        }
    }
}

/// `code: message` of the first error in the body (distribution-spec, "Error codes"), as Docker
/// prints it.
fn words(body: &str) -> Option<String> {
    let body: serde_json::Value = serde_json::from_str(body).ok()?;
    let error = body["errors"].get(0)?;
    let code = error["code"]
        .as_str()?
        .to_ascii_lowercase()
        .replace('_', " ");
    let code = if code == "toomanyrequests" {
        code
    } else {
        code.replace("  ", " ")
    };
    let message = error["message"].as_str().unwrap_or_default();
    let text = if message.is_empty() {
        code
    } else {
        format!("{code}: {message}")
    };
    // It goes to a terminal.
    Some(text.chars().filter(|c| !c.is_control()).take(300).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_registrys_own_words() {
        let body = r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest\u001b unknown"}]}"#;
        assert_eq!(
            from_status(404, body).to_string(),
            "manifest unknown: manifest unknown"
        );
        let body = r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"slow down"}]}"#;
        assert_eq!(
            from_status(429, body).to_string(),
            "toomanyrequests: slow down"
        );
        assert_eq!(
            from_status(500, "oops").to_string(),
            "received unexpected HTTP status: 500 Internal Server Error"
        );
    }
}
