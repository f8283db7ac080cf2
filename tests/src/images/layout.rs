// SPDX-License-Identifier: Apache-2.0
//! An image on disk: OCI image layout (directory or tar), or what `docker save` writes.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use flate2::{Compression, GzBuilder};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

use super::rootfs::Layer;

/// What of an image's configuration the tests vary.
#[derive(Clone, Debug)]
pub struct Config {
    pub architecture: String,
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    pub env: Vec<String>,
    pub working_dir: String,
    pub user: String,
    pub stop_signal: Option<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            architecture: "amd64".into(),
            entrypoint: Vec::new(),
            cmd: Vec::new(),
            env: Vec::new(),
            working_dir: String::new(),
            user: String::new(),
            stop_signal: None,
        }
    }
}

/// An image that a test makes up.
#[derive(Clone, Debug)]
pub struct Image {
    pub name: String,
    pub tag: String,
    pub layers: Vec<Layer>,
    pub config: Config,
}

/// A blob and its digest in hex.
pub(super) struct Blob {
    pub(super) digest: String,
    bytes: Vec<u8>,
}

impl Blob {
    pub(super) fn new(bytes: Vec<u8>) -> Self {
        Self {
            digest: hex(&Sha256::digest(&bytes)),
            bytes,
        }
    }

    fn descriptor(&self, media_type: &str) -> Value {
        json!({
            "mediaType": media_type,
            "digest": format!("sha256:{}", self.digest),
            "size": self.bytes.len(),
        })
    }
}

/// A file of the layout: path and bytes.
type File = (String, Vec<u8>);

impl Image {
    /// An OCI layout in a tar, layers gzipped.
    ///
    /// # Errors
    /// What the file system said.
    pub fn write_oci_archive(&self, path: &Path) -> io::Result<()> {
        write_tar(path, &self.oci_files()?)
    }

    /// An OCI layout as a directory, layers gzipped.
    ///
    /// # Errors
    /// What the file system said.
    pub fn write_oci_directory(&self, path: &Path) -> io::Result<()> {
        for (name, bytes) in self.oci_files()? {
            let file = path.join(name);
            fs::create_dir_all(file.parent().unwrap_or(path))?;
            fs::write(file, bytes)?;
        }
        Ok(())
    }

    /// What `docker save` writes: `manifest.json` and uncompressed layers.
    ///
    /// # Errors
    /// What the file system said.
    pub fn write_docker_archive(&self, path: &Path) -> io::Result<()> {
        let tars = self.tars()?;
        let config = Blob::new(serde_json::to_vec(&self.config_json(&tars))?);
        let config_name = format!("{}.json", config.digest);
        let names: Vec<String> = tars
            .iter()
            .map(|tar| format!("{}/layer.tar", tar.digest))
            .collect();
        let manifest = json!([{
            "Config": config_name,
            "RepoTags": [format!("{}:{}", self.name, self.tag)],
            "Layers": names,
        }]);
        let mut files = vec![(config_name, config.bytes)];
        files.extend(names.into_iter().zip(tars.into_iter().map(|tar| tar.bytes)));
        files.push(("manifest.json".into(), serde_json::to_vec(&manifest)?));
        write_tar(path, &files)
    }

    fn tars(&self) -> io::Result<Vec<Blob>> {
        self.layers
            .iter()
            .map(|layer| {
                let mut tar = Vec::new();
                layer.write_tar(&mut tar)?;
                Ok(Blob::new(tar))
            })
            .collect()
    }

    fn config_json(&self, tars: &[Blob]) -> Value {
        let config = &self.config;
        let diff_ids: Vec<String> = tars
            .iter()
            .map(|tar| format!("sha256:{}", tar.digest))
            .collect();
        let mut inner = json!({ "Env": config.env, "Cmd": config.cmd });
        if !config.entrypoint.is_empty() {
            inner["Entrypoint"] = json!(config.entrypoint);
        }
        if !config.working_dir.is_empty() {
            inner["WorkingDir"] = json!(config.working_dir);
        }
        if !config.user.is_empty() {
            inner["User"] = json!(config.user);
        }
        if let Some(signal) = &config.stop_signal {
            inner["StopSignal"] = json!(signal);
        }
        json!({
            "architecture": config.architecture,
            "os": "linux",
            "created": "1970-01-01T00:00:00Z",
            "config": inner,
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        })
    }

    fn oci_files(&self) -> io::Result<Vec<File>> {
        let tars = self.tars()?;
        let config = Blob::new(serde_json::to_vec(&self.config_json(&tars))?);
        let layers: Vec<Blob> = tars
            .iter()
            .map(|tar| gzip(&tar.bytes).map(Blob::new))
            .collect::<io::Result<_>>()?;
        let manifest = Blob::new(serde_json::to_vec(&json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config.descriptor("application/vnd.oci.image.config.v1+json"),
            "layers": layers
                .iter()
                .map(|layer| layer.descriptor("application/vnd.oci.image.layer.v1.tar+gzip"))
                .collect::<Vec<_>>(),
        }))?);
        let mut entry = manifest.descriptor("application/vnd.oci.image.manifest.v1+json");
        entry["annotations"] = json!({ "org.opencontainers.image.ref.name": self.tag });
        let index = json!({ "schemaVersion": 2, "manifests": [entry] });
        let mut files = vec![
            (
                "oci-layout".into(),
                serde_json::to_vec(&json!({ "imageLayoutVersion": "1.0.0" }))?,
            ),
            ("index.json".into(), serde_json::to_vec(&index)?),
        ];
        files.extend(
            [manifest, config]
                .into_iter()
                .chain(layers)
                .map(|blob| (format!("blobs/sha256/{}", blob.digest), blob.bytes)),
        );
        Ok(files)
    }
}

fn gzip(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = GzBuilder::new()
        .mtime(0)
        .write(Vec::new(), Compression::default());
    encoder.write_all(bytes)?;
    encoder.finish()
}

fn write_tar(path: &Path, files: &[File]) -> io::Result<()> {
    let mut tar = Builder::new(fs::File::create(path)?);
    for (name, bytes) in files {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o644);
        header.set_size(bytes.len() as u64);
        tar.append_data(&mut header, name, bytes.as_slice())?;
    }
    tar.into_inner()?.sync_all()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
