// SPDX-License-Identifier: Apache-2.0
//! Debian's `docker-registry`, on a port of its own.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use crate::tokens::{self, SERVICE};

/// A user of [`Registry::with_password`], and what the registry has of the password (bcrypt).
pub const USER: &str = "me";
pub const PASSWORD: &str = "secret";
const HTPASSWD: &str = "me:$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";

pub struct Registry {
    child: Child,
    port: u16,
    dir: tempfile::TempDir,
}

impl Registry {
    /// `None`, loudly, where there is no such program.
    pub fn start() -> Option<Self> {
        Self::with("", |_| String::new())
    }

    /// TLS, with a certificate by an authority that nobody else knows: [`Registry::authority`].
    pub fn with_tls() -> Option<Self> {
        let tls = |dir: &Path| {
            certify(dir);
            String::new()
        };
        Self::with(", tls: {certificate: DIR/own.pem, key: DIR/key.pem}", tls)
    }

    pub fn with_password() -> Option<Self> {
        Self::with("", |dir| {
            std::fs::write(dir.join("htpasswd"), HTPASSWD).unwrap();
            "auth: {htpasswd: {realm: test, path: DIR/htpasswd}}\n".to_owned()
        })
    }

    /// Tokens, given out by [`tokens::serve`].
    pub fn with_tokens() -> Option<Self> {
        Self::with("", |dir| {
            let port = tokens::serve(dir);
            format!(
                "auth: {{token: {{realm: \"http://127.0.0.1:{port}/token\", service: {SERVICE}, \
                 issuer: {SERVICE}, rootcertbundle: DIR/tokens.pem}}}}\n"
            )
        })
    }

    /// `DIR` in what is configured becomes the registry's directory.
    fn with(http: &str, prepare: impl FnOnce(&Path) -> String) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        // Free a moment ago; nobody else takes ports at random so fast.
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let more = prepare(dir.path());
        let text = format!(
            "version: 0.1\nstorage: {{filesystem: {{rootdirectory: DIR}}}}\n\
             http: {{addr: \"127.0.0.1:{port}\"{http}}}\n{more}"
        );
        let text = text.replace("DIR", &dir.path().display().to_string());
        std::fs::write(dir.path().join("config.yml"), text).unwrap();
        let child = spawn(dir.path())?;
        Some(Registry { child, port, dir })
    }

    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The same by a name that does not look like this machine's: certificates count.
    pub fn strict_host(&self) -> String {
        format!("127.1:{}", self.port)
    }

    pub fn authority(&self) -> PathBuf {
        self.dir.path().join("authority.pem")
    }

    pub fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// After [`Registry::stop`]: with what it had.
    pub fn start_again(&mut self) {
        self.child = spawn(self.dir.path()).unwrap();
    }

    /// PUT, for what `walnut push` has no way to say.
    pub fn put_manifest(&self, repository: &str, tag: &str, media_type: &str, body: &str) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        let len = body.len();
        write!(
            stream,
            "PUT /v2/{repository}/manifests/{tag} HTTP/1.1\r\nHost: registry\r\n\
             Content-Type: {media_type}\r\nContent-Length: {len}\r\nConnection: close\r\n\r\n{body}"
        )
        .unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).unwrap();
        assert!(said.starts_with("HTTP/1.1 201"), "{said}");
    }
}

fn spawn(dir: &Path) -> Option<Child> {
    let mut command = Command::new("docker-registry");
    command.arg("serve").arg(dir.join("config.yml"));
    command
        .process_group(0)
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            eprintln!("SKIPPED: no docker-registry: {error}");
            return None;
        }
    };
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while log.read_line(&mut line).unwrap() > 0 && !line.contains("listening on") {
        line.clear();
    }
    assert!(
        line.contains("listening on"),
        "docker-registry does not start"
    );
    std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
    Some(child)
}

/// Writes an authority's certificate, and one that it signed for this machine with its key.
fn certify(dir: &Path) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let own = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let own = own.signed_by(&key, &authority).unwrap();
    for (name, pem) in [
        ("authority.pem", authority.pem()),
        ("own.pem", own.pem()),
        ("key.pem", key.serialize_pem()),
    ] {
        std::fs::write(dir.join(name), pem).unwrap();
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.stop();
    }
}
