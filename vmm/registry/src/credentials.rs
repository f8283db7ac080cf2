// SPDX-License-Identifier: Apache-2.0
//! `~/.docker/config.json`: whom a registry knows us as. Shared with Docker; helpers
//! (`docker-credential-*`) are asked where it names them.

use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use docker_credential::{CredentialRetrievalError, DockerCredential};
use serde_json::{Value, json};

#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    #[error("find the configuration of credentials: neither $DOCKER_CONFIG nor $HOME is set")]
    NoHome,
    #[error("{} {}", action, path.display())]
    File {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("{} is malformed", path.display())]
    Malformed {
        path: PathBuf,
        source: serde_json::Error,
    },
    #[error("read credentials for {server}: {reason}")]
    Read { server: String, reason: String },
    #[error("run credential helper {helper}")]
    Run { helper: String, source: io::Error },
    #[error("credential helper {helper} failed: {said}")]
    Helper { helper: String, said: String },
}

/// How `config.json` calls Docker's own registry.
const HUB: &str = "https://index.docker.io/v1/";

/// The key of a registry in `config.json`.
pub fn server(registry: &str, default_registry: &str) -> String {
    match registry == default_registry {
        true => HUB.to_owned(),
        false => registry.to_owned(),
    }
}

/// `None` where there are none.
pub fn find(server: &str) -> Result<Option<DockerCredential>, CredentialError> {
    let path = path()?;
    if !path.exists() {
        return Ok(None);
    }
    match docker_credential::get_credential(server) {
        Ok(found) => Ok(Some(found)),
        Err(CredentialRetrievalError::NoCredentialConfigured) => Ok(None),
        // That is how helpers say that they have none.
        Err(CredentialRetrievalError::HelperFailure { stdout, .. })
            if stdout.contains("credentials not found") =>
        {
            Ok(None)
        }
        Err(error) => Err(CredentialError::Read {
            server: server.to_owned(),
            reason: error.to_string().replace('\n', " "),
        }),
    }
}

/// Keeps them with the helper that is named for the server, or in the file. The place.
pub fn store(server: &str, user: &str, password: &str) -> Result<PathBuf, CredentialError> {
    let path = path()?;
    let mut config = read(&path)?;
    match helper_of(&config, server) {
        Some(helper) => {
            let secret = json!({"ServerURL": server, "Username": user, "Secret": password});
            run(&helper, "store", &secret.to_string())?;
            config["auths"][server] = json!({});
        }
        None => {
            let auth = STANDARD.encode(format!("{user}:{password}"));
            config["auths"][server] = json!({"auth": auth});
        }
    }
    write(&path, &config)?;
    Ok(path)
}

/// Whether there were any.
pub fn erase(server: &str) -> Result<bool, CredentialError> {
    let path = path()?;
    let mut config = read(&path)?;
    if let Some(helper) = helper_of(&config, server) {
        run(&helper, "erase", server)?;
    }
    let auths = config.get_mut("auths").and_then(Value::as_object_mut);
    let had = auths.is_some_and(|auths| auths.remove(server).is_some());
    if had {
        write(&path, &config)?;
    }
    Ok(had)
}

fn path() -> Result<PathBuf, CredentialError> {
    let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".docker"));
    let dir = std::env::var_os("DOCKER_CONFIG")
        .map(PathBuf::from)
        .or_else(home);
    Ok(dir.ok_or(CredentialError::NoHome)?.join("config.json"))
}

fn read(path: &Path) -> Result<Value, CredentialError> {
    let bytes = match std::fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(json!({})),
        result => result.map_err(|source| CredentialError::File {
            action: "read",
            path: path.into(),
            source,
        })?,
    };
    let parsed = serde_json::from_slice(&bytes);
    let config: Value = parsed.map_err(|source| CredentialError::Malformed {
        path: path.into(),
        source,
    })?;
    Ok(if config.is_object() {
        config
    } else {
        json!({})
    })
}

/// Whole or not at all, and for nobody else's eyes.
fn write(path: &Path, config: &Value) -> Result<(), CredentialError> {
    let failed = |source| CredentialError::File {
        action: "write",
        path: path.into(),
        source,
    };
    let write = || -> io::Result<()> {
        let dir = path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(dir)?;
        let mut file = tempfile::NamedTempFile::new_in(dir)?;
        let mut text = serde_json::to_vec_pretty(config)?;
        text.push(b'\n');
        file.write_all(&text)?;
        file.as_file()
            .set_permissions(PermissionsExt::from_mode(0o600))?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    };
    write().map_err(failed)
}

fn helper_of(config: &Value, server: &str) -> Option<String> {
    let own = config["credHelpers"][server].as_str();
    let name = own.or_else(|| config["credsStore"].as_str())?;
    (!name.is_empty()).then(|| format!("docker-credential-{name}"))
}

fn run(helper: &str, verb: &str, input: &str) -> Result<(), CredentialError> {
    let failed = |source| CredentialError::Run {
        helper: helper.to_owned(),
        source,
    };
    let mut command = Command::new(helper);
    command
        .arg(verb)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut child = command.stderr(Stdio::piped()).spawn().map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that does not read has its reasons, and says so by its status.
        let _ = stdin.write_all(input.as_bytes());
    }
    let done = child.wait_with_output().map_err(failed)?;
    if done.status.success() {
        return Ok(());
    }
    let said = if done.stdout.is_empty() {
        done.stderr
    } else {
        done.stdout
    };
    Err(CredentialError::Helper {
        helper: helper.to_owned(),
        said: String::from_utf8_lossy(&said).trim().to_owned(),
    })
}
