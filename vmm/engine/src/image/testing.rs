// SPDX-License-Identifier: Apache-2.0
//! Images for the tests, made by hand so that each part can be wrong.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};

use super::digest::Digest;

const OCI: &str = "application/vnd.oci.image";

/// Paths in the layout with their bytes.
pub(super) type Files = BTreeMap<String, Vec<u8>>;

#[derive(Clone)]
pub(super) struct Layer {
    tar: Vec<u8>,
    blob: Vec<u8>,
}

impl Layer {
    /// Files with their content; a directory where the name ends in a slash.
    pub(super) fn of(files: &[(&str, &[u8])]) -> Self {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, data) in files {
            let mut header = tar::Header::new_ustar();
            // set_path() refuses what is to be tested.
            header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
            let kind = match path.ends_with('/') {
                true => tar::EntryType::Directory,
                false => tar::EntryType::Regular,
            };
            header.set_entry_type(kind);
            header.set_size(data.len() as u64);
            header.set_mode(0o755);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(1);
            header.set_cksum();
            builder.append(&header, *data).unwrap();
        }
        Layer::from_tar(builder.into_inner().unwrap())
    }

    pub(super) fn from_tar(tar: Vec<u8>) -> Self {
        Layer {
            blob: tar.clone(),
            tar,
        }
    }

    pub(super) fn gzip(self) -> Self {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&self.tar).unwrap();
        Layer {
            blob: encoder.finish().unwrap(),
            ..self
        }
    }

    pub(super) fn zstd(self) -> Self {
        use ruzstd::encoding::{CompressionLevel, compress_to_vec};
        Layer {
            blob: compress_to_vec(self.tar.as_slice(), CompressionLevel::Fastest),
            ..self
        }
    }

    pub(super) fn blob(&self) -> &[u8] {
        &self.blob
    }

    /// Claims another content than it has.
    pub(super) fn but_tar(self, tar: Vec<u8>) -> Self {
        Layer { tar, ..self }
    }

    /// Where the layout has it.
    pub(super) fn path(&self) -> String {
        blob_path(&self.blob)
    }

    pub(super) fn diff_id(&self) -> Digest {
        Digest::of(&self.tar)
    }
}

#[derive(Clone)]
pub(super) struct TestImage {
    pub layers: Vec<Layer>,
    pub architecture: &'static str,
    /// What the index calls it.
    pub name: Option<&'static str>,
    pub cmd: &'static str,
}

/// One small image, called `test:latest`.
pub(super) fn small() -> TestImage {
    let base = Layer::of(&[("bin/", b""), ("bin/sh", &[7; 10_000]), ("old", b"1")]);
    let top = Layer::of(&[(".wh.old", b""), ("new", b"2")]);
    TestImage {
        layers: vec![base.gzip(), top.zstd()],
        architecture: "amd64",
        name: Some("test:latest"),
        cmd: "sh",
    }
}

impl TestImage {
    pub(super) fn of(layer: Layer) -> Self {
        TestImage {
            layers: vec![layer],
            ..small()
        }
    }

    pub(super) fn config(&self) -> Vec<u8> {
        let diff_ids: Vec<_> = self.layers.iter().map(|layer| layer.diff_id()).collect();
        bytes(&json!({
            "architecture": self.architecture,
            "os": "linux",
            "config": {"Cmd": [self.cmd], "Env": ["A=b"], "ExposedPorts": null, "Labels": null},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": null,
        }))
    }

    fn manifest(&self) -> Vec<u8> {
        let describe = |kind: &str, blob: &[u8]| descriptor(&format!("{OCI}.{kind}"), blob);
        let layer = |layer: &Layer| describe("layer.v1.tar+gzip", &layer.blob);
        bytes(&json!({
            "schemaVersion": 2,
            "config": describe("config.v1+json", &self.config()),
            "layers": self.layers.iter().map(layer).collect::<Vec<_>>(),
        }))
    }

    pub(super) fn manifest_digest(&self) -> Digest {
        Digest::of(&self.manifest())
    }

    pub(super) fn manifest_path(&self) -> String {
        blob_path(&self.manifest())
    }

    pub(super) fn config_path(&self) -> String {
        blob_path(&self.config())
    }

    /// An entry for an index.
    pub(super) fn entry(&self) -> Value {
        let mut entry = descriptor(&format!("{OCI}.manifest.v1+json"), &self.manifest());
        if let Some(name) = self.name {
            entry["annotations"] = json!({"org.opencontainers.image.ref.name": name});
        }
        entry
    }

    fn blobs(&self) -> Files {
        let blobs = self.layers.iter().map(|layer| layer.blob.clone());
        let blobs = blobs.chain([self.config(), self.manifest()]);
        blobs.map(|blob| (blob_path(&blob), blob)).collect()
    }

    /// An OCI layout with this image only.
    pub(super) fn layout(&self) -> Files {
        layout(&[self], &[self.entry()])
    }

    /// What `docker save` writes.
    pub(super) fn docker(&self) -> Files {
        let config_path = format!("{}.json", Digest::of(&self.config()).hex());
        let mut files = Files::new();
        let mut members = Vec::new();
        for (number, layer) in self.layers.iter().enumerate() {
            members.push(format!("{number}/layer.tar"));
            files.insert(members[number].clone(), layer.blob.clone());
        }
        let manifest = json!([{
            "Config": config_path,
            "RepoTags": self.name.map(|name| vec![name]),
            "Layers": members,
        }]);
        files.insert("manifest.json".into(), bytes(&manifest));
        files.insert(config_path, self.config());
        files
    }
}

/// An OCI layout that lists `entries` and holds the blobs of `images`.
pub(super) fn layout(images: &[&TestImage], entries: &[Value]) -> Files {
    let mut files: Files = images.iter().flat_map(|image| image.blobs()).collect();
    files.insert(
        "oci-layout".into(),
        bytes(&json!({"imageLayoutVersion": "1.0.0"})),
    );
    files.insert("index.json".into(), index(entries));
    files
}

pub(super) fn index(entries: &[Value]) -> Vec<u8> {
    bytes(&json!({"schemaVersion": 2, "manifests": entries}))
}

pub(super) fn descriptor(media_type: &str, blob: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": Digest::of(blob), "size": blob.len()})
}

pub(super) fn blob_path(blob: &[u8]) -> String {
    format!("blobs/sha256/{}", Digest::of(blob).hex())
}

pub(super) fn bytes(value: &Value) -> Vec<u8> {
    serde_json::to_vec(value).unwrap()
}

pub(super) fn write_dir(files: &Files, dir: &Path) {
    for (path, data) in files {
        let path = dir.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, data).unwrap();
    }
}

pub(super) fn to_tar(files: &Files) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, data) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        builder
            .append_data(&mut header, path, data.as_slice())
            .unwrap();
    }
    builder.into_inner().unwrap()
}
