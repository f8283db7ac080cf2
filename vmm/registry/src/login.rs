// SPDX-License-Identifier: Apache-2.0
//! Whether a registry takes a user's password.

use http_auth::ChallengeRef;
use reqwest::StatusCode;
use reqwest::header::WWW_AUTHENTICATE;

use crate::error::{RegistryError, from_status};
use crate::registry::Registry;

/// Asks the registry, or the place it sends us to for tokens.
///
/// # Errors
/// It does not; or it is none.
pub fn login(registry: &Registry, user: &str, password: &str) -> Result<(), RegistryError> {
    registry.block_on(async {
        let inner = &registry.inner;
        let url = format!("{}://{}/v2/", inner.scheme, inner.host);
        let broken = |error| inner.broken(error);
        let first = inner.http.get(&url).send().await.map_err(broken)?;
        if first.status() != StatusCode::UNAUTHORIZED {
            return check(first.status());
        }
        let challenge = first.headers().get(WWW_AUTHENTICATE);
        let challenge = challenge
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        let challenges = http_auth::parse_challenges(challenge).unwrap_or_default();
        let bearer = challenges
            .iter()
            .find(|c| c.scheme.eq_ignore_ascii_case("bearer"));
        let request = match bearer {
            None => inner.http.get(&url),
            Some(bearer) => {
                let realm = parameter(bearer, "realm");
                let realm = realm.ok_or_else(|| RegistryError::Nonsense(challenge.to_owned()))?;
                let mut realm = reqwest::Url::parse(&realm)
                    .map_err(|_| RegistryError::Nonsense(challenge.to_owned()))?;
                if let Some(service) = parameter(bearer, "service") {
                    realm.query_pairs_mut().append_pair("service", &service);
                }
                realm.query_pairs_mut().append_pair("account", user);
                inner.http.get(realm)
            }
        };
        let request = request.basic_auth(user, Some(password));
        check(request.send().await.map_err(broken)?.status())
    })
}

fn check(status: StatusCode) -> Result<(), RegistryError> {
    match status {
        status if status.is_success() => Ok(()),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(RegistryError::Password),
        status => Err(from_status(status.as_u16(), "")),
    }
}

fn parameter(challenge: &ChallengeRef<'_>, name: &str) -> Option<String> {
    let mut params = challenge.params.iter();
    let (_, value) = params.find(|(known, _)| known.eq_ignore_ascii_case(name))?;
    Some(value.to_unescaped())
}
