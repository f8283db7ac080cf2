// SPDX-License-Identifier: Apache-2.0
//! A place that gives out tokens (distribution's "Token Authentication Specification"): to anybody
//! for a pull, for a push to who has the password.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rcgen::{CertificateParams, KeyPair, SigningKey};
use serde_json::json;

use crate::real::{PASSWORD, USER};

/// What the registry calls itself, and the issuer.
pub const SERVICE: &str = "test";

/// Its port; what the registry needs to trust it is in `tokens.pem` in `dir`.
pub fn serve(dir: &Path) -> u16 {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(Vec::new()).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    std::fs::write(dir.join("tokens.pem"), certificate.pem()).unwrap();
    let chain = [STANDARD.encode(certificate.der())];
    let header = json!({"typ": "JWT", "alg": "ES256", "x5c": chain}).to_string();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            // A client that leaves is no failure of ours.
            let _ = answer(stream.unwrap(), &header, &key);
        }
    });
    port
}

fn answer(mut out: TcpStream, header: &str, key: &KeyPair) -> std::io::Result<()> {
    let mut lines = BufReader::new(out.try_clone()?).lines();
    let request = lines.next().unwrap_or(Ok(String::new()))?;
    let secret = STANDARD.encode(format!("{USER}:{PASSWORD}"));
    let mut is_known = false;
    for line in lines {
        match line? {
            line if line.is_empty() => break,
            line => is_known |= line.ends_with(&secret),
        }
    }
    let query = request.split(['?', ' ']).nth(2).unwrap_or_default();
    let scope = query
        .split('&')
        .find_map(|pair| pair.strip_prefix("scope="));
    let scope = scope.unwrap_or_default();
    let scope = scope
        .replace("%3A", ":")
        .replace("%2F", "/")
        .replace("%2C", ",");
    if scope.contains("push") && !is_known {
        let words = "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        return out.write_all(words.as_bytes());
    }
    let body = json!({"token": token(header, &scope, key)}).to_string();
    let len = body.len();
    write!(
        out,
        "HTTP/1.1 200 OK\r\nContent-Length: {len}\r\nConnection: close\r\n\r\n{body}"
    )
}

/// A JSON Web Token (RFC 7519) for `repository:NAME:ACTIONS`.
fn token(header: &str, scope: &str, key: &KeyPair) -> String {
    let parts: Vec<&str> = scope.split(':').collect();
    let access: Vec<_> = match parts[..] {
        [kind, name, actions] => {
            let actions: Vec<&str> = actions.split(',').collect();
            vec![json!({"type": kind, "name": name, "actions": actions})]
        }
        _ => Vec::new(),
    };
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let claims = json!({
        "iss": SERVICE, "aud": SERVICE, "sub": "", "jti": "1",
        "iat": now, "nbf": now - 60, "exp": now + 300, "access": access,
    });
    let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let signed = format!("{}.{}", encode(header), encode(&claims.to_string()));
    let signature = raw(&key.sign(signed.as_bytes()).unwrap());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// Two numbers of 32 bytes (RFC 7518 §3.4), out of a sequence of two ASN.1 integers.
fn raw(der: &[u8]) -> Vec<u8> {
    let mut rest = &der[2..];
    let mut raw = Vec::new();
    for _ in 0..2 {
        let len = usize::from(rest[1]);
        let number = &rest[2..2 + len];
        rest = &rest[2 + len..];
        let number = &number[len.saturating_sub(32)..];
        raw.resize(raw.len() + 32 - number.len(), 0);
        raw.extend_from_slice(number);
    }
    raw
}
