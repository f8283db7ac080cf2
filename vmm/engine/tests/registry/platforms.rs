// SPDX-License-Identifier: Apache-2.0
//! Images for several platforms, and `--pull`.

use serde_json::json;

use crate::Home;
use crate::real::Registry;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// Pushes an image for each platform and an index of them; the digests of their manifests.
fn push_index(registry: &Registry, home: &Home, platforms: &[&str]) -> Vec<String> {
    let entries = platforms.iter().map(|platform| {
        let name = format!("{}/app:{}", registry.host(), platform.replace('/', "-"));
        home.import_for(platform, &name, 1000);
        home.ok(&["push", &name]);
        let digest = home.inspect(&name, "{{.Descriptor.digest}}");
        let size = home.blobs().join(digest.trim_start_matches("sha256:"));
        let size = std::fs::metadata(size).unwrap().len();
        let (os, architecture) = platform.split_once('/').unwrap();
        json!({
            "mediaType": MANIFEST, "digest": digest, "size": size,
            "platform": {"os": os, "architecture": architecture},
        })
    });
    let entries: Vec<_> = entries.collect();
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries});
    registry.put_manifest("app", "1", INDEX, &index.to_string());
    let digests = entries
        .iter()
        .map(|entry| entry["digest"].as_str().unwrap().to_owned());
    digests.collect()
}

#[test]
fn out_of_a_list_comes_the_image_for_this_platform() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let home = Home::new();
    let digests = push_index(&registry, &home, &["linux/arm64", "linux/amd64"]);
    let name = format!("{}/app:1", registry.host());
    let there = Home::new();
    there.ok(&["pull", &name]);
    assert_eq!(there.inspect(&name, "{{.Architecture}}"), "amd64");
    let layers = there.inspect(&name, "{{.RootFS.Layers}}");
    let ours = format!("{}/app@{}", registry.host(), digests[1]);
    assert_eq!(layers, home.inspect(&ours, "{{.RootFS.Layers}}"));
    // The index's own digest pins it, too.
    let pinned = there.inspect(&name, "{{index .RepoDigests 0}}");
    assert!(!pinned.contains(&digests[1]), "{pinned}");
    Home::new().ok(&["pull", &pinned]);
    Home::new().ok(&["pull", "--platform", "linux/amd64", &name]);
}

#[test]
fn where_nothing_in_a_list_fits() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let home = Home::new();
    push_index(&registry, &home, &["linux/arm64", "linux/s390x"]);
    let name = format!("{}/app:1", registry.host());
    Home::new().fails(
        &["pull", &name],
        "no matching manifest for linux/amd64 in the manifest list entries",
    );
    Home::new().fails(
        &["pull", "--platform", "linux/riscv64", &name],
        "no matching manifest for linux/riscv64 in the manifest list entries",
    );
}

#[test]
fn always_never_or_where_it_is_missing() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let home = Home::new();
    let name = format!("{}/app:1", registry.host());
    home.import(&name, 1000);
    home.ok(&["push", &name]);
    let there = Home::new();
    let create = |pull: &str| {
        let done = there.run(&["create", "--pull", pull, &name, "true"]);
        (done.status.code(), crate::text(&done.stderr))
    };
    let (code, said) = create("never");
    assert_eq!(code, Some(125));
    assert!(said.contains(&format!("No such image: {name}")), "{said}");
    let (code, said) = create("missing");
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.starts_with(&format!("Unable to find image '{name}' locally\n")),
        "{said}"
    );
    assert_eq!(create("missing"), (Some(0), String::new()));
    let old = there.inspect(&name, "{{.Id}}");
    home.import(&name, 1000);
    home.ok(&["push", &name]);
    assert_eq!(create("never"), (Some(0), String::new()));
    assert_eq!(create("missing").0, Some(0));
    assert_eq!(there.inspect(&name, "{{.Id}}"), old);
    let (code, said) = create("always");
    assert_eq!(code, Some(0), "{said}");
    assert_ne!(there.inspect(&name, "{{.Id}}"), old);
    assert!(said.contains("Status: Downloaded newer image"), "{said}");
}
