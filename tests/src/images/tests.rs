// SPDX-License-Identifier: Apache-2.0
use std::collections::BTreeMap;
use std::io::Read;

use super::{Config, Entry, Image, Layer};

fn small() -> Image {
    Image {
        name: "small".into(),
        tag: "1".into(),
        layers: vec![Layer(vec![
            Entry::directory("home", 0o755).owned(1000),
            Entry::file("hello", 0o640, "hello\n"),
            Entry::symlink("link", "hello"),
        ])],
        config: Config {
            user: "1000".into(),
            ..Config::default()
        },
    }
}

fn read(tar: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut archive = tar::Archive::new(tar);
    let entries = archive.entries().unwrap();
    entries
        .map(|entry| {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().display().to_string();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            (path, bytes)
        })
        .collect()
}

#[test]
fn an_oci_archive_names_its_blobs_by_digest() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.tar");
    small().write_oci_archive(&path).unwrap();
    let files = read(&std::fs::read(&path).unwrap());
    let index: serde_json::Value = serde_json::from_slice(&files["index.json"]).unwrap();
    let digest = index["manifests"][0]["digest"]
        .as_str()
        .unwrap()
        .replace(':', "/");
    let manifest: serde_json::Value =
        serde_json::from_slice(&files[&format!("blobs/{digest}")]).unwrap();
    let digest = manifest["config"]["digest"]
        .as_str()
        .unwrap()
        .replace(':', "/");
    let config: serde_json::Value =
        serde_json::from_slice(&files[&format!("blobs/{digest}")]).unwrap();
    assert_eq!(config["config"]["User"], "1000");
    for (name, bytes) in files.iter().filter(|(name, _)| name.starts_with("blobs/")) {
        let digest = super::layout::Blob::new(bytes.clone()).digest;
        assert_eq!(name, &format!("blobs/sha256/{digest}"));
    }
}

#[test]
fn an_image_is_the_same_bytes_each_time() {
    let directory = tempfile::tempdir().unwrap();
    let [a, b] = ["a", "b"].map(|name| directory.path().join(name));
    small().write_docker_archive(&a).unwrap();
    small().write_docker_archive(&b).unwrap();
    assert_eq!(std::fs::read(a).unwrap(), std::fs::read(b).unwrap());
}

#[test]
fn a_layer_keeps_modes_and_owners() {
    let mut bytes = Vec::new();
    small().layers[0].write_tar(&mut bytes).unwrap();
    let mut archive = tar::Archive::new(bytes.as_slice());
    let seen: Vec<_> = archive
        .entries()
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let header = entry.header();
            (
                entry.path().unwrap().display().to_string(),
                header.mode().unwrap(),
                header.uid().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        seen,
        [
            ("home/".into(), 0o755, 1000),
            ("hello".into(), 0o640, 0),
            ("link".into(), 0o777, 0)
        ]
    );
}
