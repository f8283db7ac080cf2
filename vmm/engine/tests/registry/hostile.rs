// SPDX-License-Identifier: Apache-2.0
//! A registry that serves one image out of a store, and misbehaves as the repository's name says.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use crate::Home;

pub struct Hostile {
    port: u16,
    inner: Arc<Inner>,
}

struct Inner {
    manifest: Vec<u8>,
    /// The digest's digits, and the bytes.
    layer: (String, Vec<u8>),
    config: (String, Vec<u8>),
    sent: AtomicUsize,
    resumed: AtomicBool,
    tokens: AtomicUsize,
    /// Somebody wanted what takes a token.
    guarded: AtomicBool,
    /// What was misbehaved already.
    done: Mutex<HashSet<String>>,
    stalled: (Mutex<bool>, Condvar),
}

impl Hostile {
    pub fn serve(home: &Home, image: &str) -> Self {
        let blob = |digest: &str| {
            let hex = digest.trim_start_matches("sha256:").to_owned();
            let bytes = std::fs::read(home.blobs().join(&hex)).unwrap();
            (hex, bytes)
        };
        let (_, manifest) = blob(&home.inspect(image, "{{.Descriptor.digest}}"));
        let said: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
        let inner = Arc::new(Inner {
            layer: blob(said["layers"][0]["digest"].as_str().unwrap()),
            config: blob(said["config"]["digest"].as_str().unwrap()),
            manifest,
            sent: AtomicUsize::new(0),
            resumed: AtomicBool::new(false),
            tokens: AtomicUsize::new(0),
            guarded: AtomicBool::new(false),
            done: Mutex::default(),
            stalled: (Mutex::new(false), Condvar::new()),
        });
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::clone(&inner);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let inner = Arc::clone(&shared);
                // A client that leaves is no failure of ours.
                std::thread::spawn(move || drop(inner.talk(stream.unwrap())));
            }
        });
        Hostile { port, inner }
    }

    pub fn image(&self, how: &str) -> String {
        format!("127.0.0.1:{}/{how}:1", self.port)
    }

    pub fn layer(&self) -> &str {
        &self.inner.layer.0
    }

    pub fn layers_sent(&self) -> usize {
        self.inner.sent.load(Ordering::SeqCst)
    }

    /// How many were given out.
    pub fn tokens(&self) -> usize {
        self.inner.tokens.load(Ordering::SeqCst)
    }

    pub fn was_resumed(&self) -> bool {
        self.inner.resumed.load(Ordering::SeqCst)
    }

    pub fn wait_for_stall(&self) {
        let (stalled, changed) = &self.inner.stalled;
        let mut stalled = stalled.lock().unwrap();
        while !*stalled {
            stalled = changed.wait(stalled).unwrap();
        }
    }
}

fn answer(out: &mut TcpStream, status: &str, headers: &str, body: &[u8]) -> std::io::Result<()> {
    let len = body.len();
    write!(
        out,
        "HTTP/1.1 {status}\r\nContent-Length: {len}\r\n{headers}Connection: close\r\n\r\n"
    )?;
    out.write_all(body)
}

fn challenge(out: &mut TcpStream, host: &str) -> std::io::Result<()> {
    let realm = format!("http://{host}/token");
    let header = format!("WWW-Authenticate: Bearer realm=\"{realm}\",service=\"test\"\r\n");
    answer(out, "401 Unauthorized", &header, b"")
}

impl Inner {
    /// One request; the connection ends with it.
    fn talk(&self, mut out: TcpStream) -> std::io::Result<()> {
        let mut lines = BufReader::new(out.try_clone()?).lines();
        let request = lines.next().unwrap_or(Ok(String::new()))?;
        let (mut from, mut has_token, mut host) = (0, false, String::new());
        for line in lines {
            let line = line?;
            if line.is_empty() {
                break;
            }
            let line = line.to_ascii_lowercase();
            if let Some(range) = line.strip_prefix("range: bytes=") {
                from = range.trim_end_matches('-').parse().unwrap();
            }
            has_token |= line == "authorization: bearer let-me-in";
            if let Some(name) = line.strip_prefix("host: ") {
                host = name.to_owned();
            }
        }
        let path = request.split(' ').nth(1).unwrap_or_default();
        let parts: Vec<&str> = path.split('/').collect();
        match parts[..] {
            ["", query] if query.starts_with("token?") && query.contains("service=test") => {
                self.tokens.fetch_add(1, Ordering::SeqCst);
                answer(&mut out, "200 OK", "", br#"{"token": "let-me-in"}"#)
            }
            ["", "v2", "token", ..] if !has_token => {
                self.guarded.store(true, Ordering::SeqCst);
                challenge(&mut out, &host)
            }
            ["", "v2", ""] if self.guarded.load(Ordering::SeqCst) => challenge(&mut out, &host),
            ["", "v2", ""] => answer(&mut out, "200 OK", "", b"{}"),
            ["", "v2", how, "manifests", _] => self.manifest(&mut out, how),
            ["", "v2", how, "blobs", digest] if digest.ends_with(&self.layer.0) => {
                self.layer(&mut out, how, from)
            }
            ["", "v2", _, "blobs", digest] if digest.ends_with(&self.config.0) => {
                answer(&mut out, "200 OK", "", &self.config.1)
            }
            _ => answer(&mut out, "404 Not Found", "", b""),
        }
    }

    fn first(&self, what: &str) -> bool {
        self.done.lock().unwrap().insert(what.to_owned())
    }

    fn manifest(&self, out: &mut TcpStream, how: &str) -> std::io::Result<()> {
        match how {
            "denied" => answer(out, "401 Unauthorized", "", b""),
            "error" => answer(out, "500 Internal Server Error", "", b"oops"),
            "limit" => answer(out, "429 Too Many Requests", "Retry-After: 0\r\n", b""),
            "huge" => answer(out, "200 OK", "", &vec![b' '; 5 << 20]),
            "noise" => answer(out, "200 OK", "", b"this is no manifest"),
            _ => {
                let kind = "Content-Type: application/vnd.oci.image.manifest.v1+json\r\n";
                answer(out, "200 OK", kind, &self.manifest)
            }
        }
    }

    fn layer(&self, out: &mut TcpStream, how: &str, from: usize) -> std::io::Result<()> {
        let bytes = &self.layer.1;
        let half = bytes.len() / 2;
        let len = bytes.len();
        let part = |out: &mut TcpStream| {
            write!(
                out,
                "HTTP/1.1 200 OK\r\nContent-Length: {len}\r\nConnection: close\r\n\r\n"
            )?;
            out.write_all(&bytes[..half])
        };
        match how {
            "busy" if self.first("busy") => {
                answer(out, "429 Too Many Requests", "Retry-After: 0\r\n", b"")
            }
            "moved" if self.first("moved") => {
                let path = format!("Location: /v2/plain/blobs/sha256:{}\r\n", self.layer.0);
                answer(out, "307 Temporary Redirect", &path, b"")
            }
            "cut" | "cut-norange" if self.first(how) => part(out),
            "short" => match from {
                0 => part(out),
                _ => answer(out, "206 Partial Content", "", b""),
            },
            "stall" => {
                part(out)?;
                let (stalled, changed) = &self.stalled;
                // By now the first half is more than any buffer on the way holds.
                *stalled.lock().unwrap() = true;
                changed.notify_all();
                let mut rest = String::new();
                std::io::Read::read_to_string(out, &mut rest).map(drop)
            }
            "flip" => {
                let mut wrong = bytes.clone();
                wrong[half] ^= 1;
                answer(out, "200 OK", "", &wrong)
            }
            "long" => answer(out, "200 OK", "", &[bytes, &bytes[..]].concat()),
            _ if from > 0 && how != "cut-norange" => {
                self.resumed.store(true, Ordering::SeqCst);
                answer(out, "206 Partial Content", "", &bytes[from..])
            }
            _ => {
                self.sent.fetch_add(1, Ordering::SeqCst);
                answer(out, "200 OK", "", bytes)
            }
        }
    }
}
