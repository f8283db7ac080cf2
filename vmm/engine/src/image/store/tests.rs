// SPDX-License-Identifier: Apache-2.0
//! Images of every kind into a store, good ones and bad ones.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::Mutex;

use rustix::fs::FlockOperation;
use serde_json::json;
use tempfile::TempDir;
use walnut_protocol::chain;

use super::*;
use crate::image::progress::Quiet;
use crate::image::testing::{
    Files, Layer, TestImage, blob_path, bytes, descriptor, index, layout, small, to_tar, write_dir,
};

struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        Place {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    fn store(&self) -> Store {
        Store::open(&self.root()).unwrap()
    }

    fn archive(&self, files: &Files) -> PathBuf {
        self.file(&to_tar(files))
    }

    fn file(&self, bytes: &[u8]) -> PathBuf {
        let path = self.dir.path().join("archive.tar");
        fs::write(&path, bytes).unwrap();
        path
    }

    fn resolve(&self, reference: &str) -> Result<Image, ImageError> {
        self.store()
            .resolve(&reference.parse().unwrap(), &Platform::guest(), &mut Quiet)
    }

    fn oci(&self, files: &Files) -> Result<Image, ImageError> {
        self.resolve(&format!("oci-archive:{}", self.archive(files).display()))
    }

    fn docker(&self, files: &Files) -> Result<Image, ImageError> {
        self.resolve(&format!("docker-archive:{}", self.archive(files).display()))
    }

    /// Every file of the store, with its length.
    fn contents(&self) -> Vec<(String, u64)> {
        let mut found = Vec::new();
        let mut dirs = vec![self.root()];
        while let Some(dir) = dirs.pop() {
            let Ok(entries) = fs::read_dir(&dir) else {
                continue;
            };
            for entry in entries {
                let entry = entry.unwrap();
                match entry.metadata().unwrap() {
                    metadata if metadata.is_dir() => dirs.push(entry.path()),
                    metadata => {
                        let name = entry
                            .path()
                            .strip_prefix(self.root())
                            .unwrap()
                            .to_path_buf();
                        found.push((name.display().to_string(), metadata.len()));
                    }
                }
            }
        }
        found.retain(|(name, _)| name != "images/lock");
        found.sort();
        found
    }

    /// The archive is refused with this message, and leaves nothing behind.
    #[track_caller]
    fn refuses(&self, reference: &str, expected: &str) {
        drop(self.store());
        let before = self.contents();
        let error = self
            .resolve(reference)
            .err()
            .expect("this image should be refused");
        let message = chain(&error);
        assert!(message.contains(expected), "{message}");
        assert_eq!(self.contents(), before, "something was left behind");
    }

    #[track_caller]
    fn refuses_oci(&self, files: &Files, expected: &str) {
        let archive = self.archive(files);
        self.refuses(&format!("oci-archive:{}", archive.display()), expected);
    }
}

#[test]
fn every_transport_gives_the_same_file_system() {
    let image = small();
    let place = Place::new();
    let layout_dir = place.dir.path().join("layout");
    write_dir(&image.layout(), &layout_dir);
    let oci = place
        .resolve(&format!("oci:{}", layout_dir.display()))
        .unwrap();
    let archive = place.oci(&image.layout()).unwrap();
    assert_eq!(oci.digest, archive.digest);
    assert_eq!(oci.digest, image.manifest_digest());
    let elsewhere = Place::new();
    let docker = elsewhere.docker(&image.docker()).unwrap();
    assert_eq!(docker.id, oci.id);
    assert_eq!(
        fs::read(&docker.erofs).unwrap(),
        fs::read(&oci.erofs).unwrap()
    );
    for image in [oci, archive, docker] {
        assert_eq!(image.names, ["test:latest".parse().unwrap()]);
        let config = image.config.config().as_ref().unwrap();
        assert_eq!(config.cmd().as_deref(), Some(&["sh".to_owned()][..]));
        assert_eq!(image.erofs.metadata().unwrap().len(), 2 << 20);
    }
}

#[test]
fn a_loaded_image_is_found_by_name_and_id() {
    let place = Place::new();
    let loaded = place.oci(&small().layout()).unwrap();
    let id = loaded.id.hex();
    for name in [
        "test",
        "docker.io/library/test:latest",
        &id,
        &id[..12],
        &loaded.digest.to_string(),
    ] {
        assert_eq!(place.resolve(name).unwrap().erofs, loaded.erofs, "{name}");
    }
    let error = place.resolve("test:other").err().unwrap();
    assert_eq!(error.to_string(), "No such image: test:other");
    let listed = place.store().list().unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!((listed[0].id, &listed[0].names), (loaded.id, &loaded.names));
}

/// Nothing but the index is looked at: the layer could not be read any more.
#[test]
fn a_known_archive_is_not_read_again() {
    let place = Place::new();
    let image = small();
    let mut files = image.layout();
    place.oci(&files).unwrap();
    for path in [
        image.layers[0].path(),
        image.config_path(),
        image.manifest_path(),
    ] {
        files.insert(path, b"unreadable".to_vec());
    }
    place.oci(&files).unwrap();
    let mut files = image.docker();
    place.docker(&files).unwrap();
    files.insert("0/layer.tar".into(), vec![]);
    place.docker(&files).unwrap();
}

#[test]
fn what_is_missing_from_the_store_is_loaded_again() {
    let place = Place::new();
    let files = small().layout();
    let image = place.oci(&files).unwrap();
    let bytes = fs::read(&image.erofs).unwrap();
    fs::remove_file(&image.erofs).unwrap();
    // From its blobs, while they are there.
    let again = place.resolve("test").unwrap();
    assert_eq!(fs::read(&again.erofs).unwrap(), bytes);
    fs::remove_file(&image.erofs).unwrap();
    let layer = small().layers[1].path();
    fs::remove_file(place.root().join("images").join(layer)).unwrap();
    assert!(matches!(
        place.resolve("test"),
        Err(ImageError::NotFound(_))
    ));
    assert!(place.oci(&files).unwrap().erofs.exists());
    fs::remove_file(place.root().join("images/images.json")).unwrap();
    assert!(place.oci(&files).unwrap().erofs.exists());
}

#[test]
fn layers_are_kept_as_they_came() {
    let image = small();
    let place = Place::new();
    place.oci(&image.layout()).unwrap();
    for layer in &image.layers {
        let kept = fs::read(place.root().join("images").join(layer.path())).unwrap();
        assert_eq!(kept, layer.blob());
    }
    // An archive without digests: what the manifest says is what is there.
    let elsewhere = Place::new();
    elsewhere.docker(&image.docker()).unwrap();
    let store = elsewhere.store();
    let manifest = store.list().unwrap()[0].digest;
    let manifest = store.blobs.read(manifest).unwrap().unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    for (layer, described) in image
        .layers
        .iter()
        .zip(manifest["layers"].as_array().unwrap())
    {
        let kept = fs::read(elsewhere.root().join("images").join(layer.path())).unwrap();
        assert_eq!(kept, layer.blob());
        assert_eq!(described["size"], layer.blob().len());
        assert_eq!(
            blob_path(layer.blob()),
            format!(
                "blobs/sha256/{}",
                &described["digest"].as_str().unwrap()[7..]
            )
        );
    }
}

#[test]
fn images_with_the_same_layers_share_a_file() {
    let place = Place::new();
    let one = place.oci(&small().layout()).unwrap();
    let other = TestImage {
        cmd: "other",
        name: Some("other"),
        ..small()
    };
    let other = place.oci(&other.layout()).unwrap();
    assert_eq!(one.erofs, other.erofs);
    assert_ne!(one.id, other.id);
    assert_eq!(place.store().list().unwrap().len(), 2);
}

#[test]
fn a_single_word_is_a_repository() {
    let place = Place::new();
    for (given, known) in [("other", "other:latest"), ("latest", "latest:latest")] {
        let image = TestImage {
            name: Some(given),
            ..small()
        };
        let loaded = place.oci(&image.layout()).unwrap();
        let names: Vec<String> = loaded.names.iter().map(Name::to_string).collect();
        assert!(names.contains(&known.to_owned()), "{names:?}");
        assert_eq!(place.resolve(given).unwrap().id, loaded.id);
    }
    // What can be no name is none.
    let odd = TestImage {
        cmd: "odd",
        name: Some("No Name"),
        ..small()
    };
    assert!(place.oci(&odd.layout()).unwrap().names.is_empty());
}

#[test]
fn an_image_is_held_while_it_is_used() {
    let place = Place::new();
    let image = place.oci(&small().layout()).unwrap();
    let file = File::open(&image.erofs).unwrap();
    let alone = FlockOperation::NonBlockingLockExclusive;
    assert!(rustix::fs::flock(&file, alone).is_err());
    drop(image);
    rustix::fs::flock(&file, alone).unwrap();
}

#[test]
fn an_archive_may_be_compressed_as_a_whole() {
    let plain = to_tar(&small().docker());
    for packed in [
        Layer::from_tar(plain.clone()).gzip(),
        Layer::from_tar(plain).zstd(),
    ] {
        let place = Place::new();
        let archive = place.file(packed.blob());
        place
            .resolve(&format!("docker-archive:{}", archive.display()))
            .unwrap();
        assert!(
            place
                .contents()
                .iter()
                .all(|(name, _)| !name.contains("tmp"))
        );
    }
}

#[test]
fn an_index_is_searched_for_our_platform() {
    let arm = TestImage {
        architecture: "arm64",
        name: None,
        ..small()
    };
    let ours = TestImage {
        name: None,
        ..small()
    };
    let on = |image: &TestImage, architecture: &str| {
        let mut entry = image.entry();
        entry["platform"] = json!({"os": "linux", "architecture": architecture});
        entry
    };
    let list = index(&[on(&arm, "arm64"), on(&ours, "amd64")]);
    let mut entry = descriptor("application/vnd.oci.image.index.v1+json", &list);
    entry["annotations"] = json!({"io.containerd.image.name": "docker.io/library/multi:1"});
    let mut files = layout(&[&arm, &ours], &[entry]);
    files.insert(blob_path(&list), list);
    let place = Place::new();
    let image = place.oci(&files).unwrap();
    assert_eq!(image.digest, ours.manifest_digest());
    assert_eq!(image.names, ["multi:1".parse().unwrap()]);
    // The same without a list in between.
    let files = layout(&[&arm, &ours], &[on(&arm, "arm64"), on(&ours, "amd64")]);
    assert_eq!(
        Place::new().oci(&files).unwrap().digest,
        ours.manifest_digest()
    );
    let files = layout(&[&arm], &[on(&arm, "arm64"), on(&arm, "arm")]);
    Place::new().refuses_oci(
        &files,
        "no matching manifest for linux/amd64 in the manifest list entries",
    );
}

#[test]
fn another_architecture_is_refused_in_dockers_words() {
    let image = TestImage {
        architecture: "arm64",
        ..small()
    };
    let place = Place::new();
    place.refuses_oci(
        &image.layout(),
        "was found but its platform (linux/arm64) does not match the specified platform \
         (linux/amd64)",
    );
    let archive = place.archive(&image.docker());
    place.refuses(
        &format!("docker-archive:{}", archive.display()),
        "(linux/arm64)",
    );
    // One that is in the store already, asked for as something else.
    place.oci(&small().layout()).unwrap();
    let arm = "linux/arm64".parse().unwrap();
    let result = place
        .store()
        .resolve(&"test".parse().unwrap(), &arm, &mut Quiet);
    let message = result
        .err()
        .map(|error| error.to_string())
        .unwrap_or_default();
    assert!(
        message.ends_with("the specified platform (linux/arm64)"),
        "{message}"
    );
}

#[test]
fn one_image_of_several_must_be_named() {
    let one = TestImage {
        name: Some("one:1"),
        ..small()
    };
    let two = TestImage {
        name: Some("two:2"),
        cmd: "two",
        ..small()
    };
    let files = layout(&[&one, &two], &[one.entry(), two.entry()]);
    let place = Place::new();
    place.refuses_oci(
        &files,
        "holds several images: write one of one:1, two:2 behind it",
    );
    let archive = place.archive(&files);
    let named = |name: &str| format!("oci-archive:{}:{name}", archive.display());
    assert_eq!(
        place.resolve(&named("two:2")).unwrap().digest,
        two.manifest_digest()
    );
    place.refuses(
        &named("three"),
        "holds no image \"three\"; it holds one:1, two:2",
    );
    // docker-archive: by name, and by number.
    let place = Place::new();
    let mut files = one.docker();
    let entries = [one.docker(), two.docker()].map(|files| {
        serde_json::from_slice::<serde_json::Value>(&files["manifest.json"]).unwrap()[0].clone()
    });
    files.extend(two.docker());
    files.insert("manifest.json".into(), bytes(&json!(entries)));
    let archive = place.archive(&files);
    let named = |name: &str| format!("docker-archive:{}{name}", archive.display());
    place.refuses(&named(""), "holds several images");
    place.refuses(&named(":three"), "it holds one:1, two:2");
    assert_eq!(
        place.resolve(&named(":two:2")).unwrap().names,
        ["two:2".parse().unwrap()]
    );
    assert_eq!(
        place.resolve(&named(":@0")).unwrap().names,
        ["one:1".parse().unwrap()]
    );
}

#[test]
fn what_is_no_archive_is_refused() {
    let place = Place::new();
    place.refuses(
        "oci-archive:/nowhere/x.tar",
        "open image archive /nowhere/x.tar: No such file",
    );
    place.refuses("oci:/nowhere", "open image archive /nowhere: No such file");
    place.refuses(
        &format!("oci-archive:{}", place.dir.path().display()),
        "not a regular file",
    );
    for (bytes, expected) in [
        (
            &b"no tar at all, but longer than a header".repeat(20)[..],
            "is no tar archive",
        ),
        (b"short", "is no tar archive"),
        (
            b"",
            "is truncated: it has neither index.json nor an end mark",
        ),
        (b"BZh91AY", "compressed with bzip2"),
        (b"\x1f\x8b\x08", "read image archive"),
    ] {
        let archive = place.file(bytes);
        place.refuses(&format!("oci-archive:{}", archive.display()), expected);
    }
    place.refuses_oci(&small().docker(), "it looks like a docker-archive");
    let archive = place.archive(&small().layout());
    place.refuses(
        &format!("docker-archive:{}", archive.display()),
        "it looks like an oci-archive",
    );
}

/// Wherever it is cut, also between two members.
#[test]
fn a_truncated_archive_is_refused() {
    let place = Place::new();
    let mut files = small().layout();
    // The last member, which nobody needs.
    files.remove("oci-layout");
    let whole = to_tar(&files);
    for len in (0..whole.len() - 1024)
        .step_by(512)
        .chain([700, 1700, 3000])
    {
        let archive = place.file(&whole[..len]);
        drop(place.store());
        let before = place.contents();
        let result = place.resolve(&format!("oci-archive:{}", archive.display()));
        let message = chain(
            &result
                .err()
                .unwrap_or_else(|| panic!("{len} bytes were enough")),
        );
        let says_so = message.contains("is truncated") || message.contains("ends in the middle");
        assert!(says_so, "{len}: {message}");
        assert_eq!(place.contents(), before);
    }
}

#[test]
fn a_corrupt_blob_is_named_with_both_digests() {
    let image = small();
    let digests = |path: &str, damaged: &[u8]| {
        let expected = path.rsplit('/').next().unwrap();
        format!(
            "expected digest sha256:{expected}, got {}",
            Digest::of(damaged)
        )
    };
    for path in [
        image.layers[0].path(),
        image.layers[1].path(),
        image.config_path(),
        image.manifest_path(),
    ] {
        let mut files = image.layout();
        let blob = files.get_mut(&path).unwrap();
        let middle = blob.len() / 2;
        blob[middle] ^= 1;
        let expected = digests(&path, blob);
        Place::new().refuses_oci(&files, &expected);
    }
    // A plain layer, damaged where tar would notice first.
    let image = TestImage::of(Layer::of(&[("a", b"1")]));
    let mut files = image.layout();
    let blob = files.get_mut(&image.layers[0].path()).unwrap();
    blob[0] ^= 1;
    let expected = digests(&image.layers[0].path(), blob);
    Place::new().refuses_oci(&files, &expected);
}

#[test]
fn a_layer_that_is_not_what_the_configuration_says_is_refused() {
    let mut image = small();
    image.layers[1] = image.layers[1].clone().but_tar(b"another".to_vec());
    let expected = format!("expected digest {}, got", image.layers[1].diff_id());
    Place::new().refuses_oci(&image.layout(), &expected);
    let place = Place::new();
    let archive = place.archive(&image.docker());
    place.refuses(&format!("docker-archive:{}", archive.display()), &expected);
    let mut files = small().docker();
    let config = files
        .keys()
        .find(|name| name.ends_with(".json") && name.len() > 64)
        .unwrap();
    files.insert(config.clone(), bytes(&json!({})));
    let archive = place.archive(&files);
    place.refuses(
        &format!("docker-archive:{}", archive.display()),
        "expected digest",
    );
}

#[test]
fn a_blob_of_another_size_is_refused() {
    let image = small();
    let mut files = image.layout();
    files.get_mut(&image.layers[0].path()).unwrap().push(0);
    Place::new().refuses_oci(&files, "bytes, got ");
}

#[test]
fn json_that_is_none_is_refused() {
    let image = small();
    for (bytes, expected) in [
        (&b"{"[..], "is malformed"),
        (b"{\"schemaVersion\": 2}", "is malformed"),
        (
            b"{\"schemaVersion\": 2, \"manifests\": []}",
            "it names no manifest",
        ),
        (&[b'['; 100_000], "is malformed"),
        (&[b' '; 9 << 20], "more than 8388608"),
    ] {
        let mut files = image.layout();
        files.insert("index.json".into(), bytes.to_vec());
        Place::new().refuses_oci(&files, expected);
    }
    let mut entry = image.entry();
    entry["digest"] = json!(format!("sha512:{}", "a".repeat(128)));
    Place::new().refuses_oci(&layout(&[&image], &[entry]), "\"sha512\" is not supported");
    let mut entry = image.entry();
    entry["mediaType"] = json!("text/plain");
    Place::new().refuses_oci(
        &layout(&[&image], &[entry]),
        "it is neither manifest nor index",
    );
}

#[test]
fn indexes_inside_each_other_come_to_an_end() {
    let mut files = small().layout();
    let mut entry = small().entry();
    for _ in 0..10 {
        let list = index(&[entry]);
        entry = descriptor("application/vnd.oci.image.index.v1+json", &list);
        files.insert(blob_path(&list), list);
    }
    files.insert("index.json".into(), index(&[entry]));
    Place::new().refuses_oci(&files, "indexes are nested too deep");
}

#[test]
fn layers_that_climb_out_are_refused() {
    let climbing = [("../../etc/passwd", &b"x"[..])];
    let image = TestImage::of(Layer::of(&climbing).gzip());
    Place::new().refuses_oci(
        &image.layout(),
        "can't be applied: layer entry \"../../etc/passwd\": it climbs above the root",
    );
    let xz = TestImage::of(Layer::from_tar(b"\xfd7zXZ\0 and so on".to_vec()));
    Place::new().refuses_oci(&xz.layout(), "compressed with xz");
    // An absolute path is the image's own.
    let absolute = TestImage::of(Layer::of(&[("/etc/passwd", b"x")]));
    Place::new().oci(&absolute.layout()).unwrap();
}

#[test]
fn a_store_from_the_future_is_left_alone() {
    let place = Place::new();
    place.oci(&small().layout()).unwrap();
    let table = place.root().join("images/images.json");
    fs::write(&table, r#"{"version": 9, "images": {}}"#).unwrap();
    place.refuses("test", "was written by a newer walnut");
    place.refuses_oci(
        &TestImage {
            cmd: "x",
            ..small()
        }
        .layout(),
        "was written by a newer walnut",
    );
}

/// Counts what is begun, in two loads at once.
struct Counting<'a>(&'a Mutex<u32>);

impl Progress for Counting<'_> {
    fn begin(&mut self, _what: &str, _total: u64) {
        *self.0.lock().unwrap() += 1;
    }
    fn advance(&mut self, _bytes: u64) {}
    fn end(&mut self) {}
}

#[test]
fn two_loads_at_once_are_one() {
    let place = Place::new();
    let archive = place.archive(&small().layout());
    let reference: Reference = format!("oci-archive:{}", archive.display())
        .parse()
        .unwrap();
    let begun = Mutex::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut progress = Counting(&begun);
                place
                    .store()
                    .resolve(&reference, &Platform::guest(), &mut progress)
                    .unwrap();
            });
        }
    });
    assert_eq!(*begun.lock().unwrap(), 2, "each layer is read once");
    assert_eq!(place.store().list().unwrap().len(), 1);
}

/// Says where it is, then waits to be killed.
struct Waiting;

impl Progress for Waiting {
    fn begin(&mut self, _what: &str, _total: u64) {}
    fn advance(&mut self, _bytes: u64) {
        use std::io::Write;
        let mut out = std::io::stdout();
        out.write_all(b"\nLOADING\n").unwrap();
        out.flush().unwrap();
        std::io::stdin().lock().lines().for_each(drop);
    }
    fn end(&mut self) {}
}

/// In the variable, for the process that this test starts: which archive to load.
const CHILD: &str = "WALNUT_TEST_LOAD";

/// This test program again, doing one thing.
fn child(test: &str, place: &Place, archive: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([
        "--exact",
        &format!("image::store::tests::{test}"),
        "--nocapture",
    ]);
    command.env(
        CHILD,
        format!("{}\n{}", place.root().display(), archive.display()),
    );
    command
}

fn as_child(progress: &mut dyn Progress) -> bool {
    let Ok(what) = std::env::var(CHILD) else {
        return false;
    };
    let (root, archive) = what.split_once('\n').unwrap();
    let reference = format!("oci-archive:{archive}").parse().unwrap();
    let store = Store::open(Path::new(root)).unwrap();
    if let Err(error) = store.resolve(&reference, &Platform::guest(), progress) {
        panic!("{}", chain(&error));
    }
    true
}

#[test]
fn a_killed_load_leaves_nothing_past_the_next_command() {
    if as_child(&mut Waiting) {
        return;
    }
    let place = Place::new();
    let archive = place.archive(&small().layout());
    drop(place.store());
    let before = place.contents();
    let mut child = child(
        "a_killed_load_leaves_nothing_past_the_next_command",
        &place,
        &archive,
    )
    .stdin(Stdio::piped())
    .stdout(Stdio::piped())
    .spawn()
    .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(
        lines
            .map_while(Result::ok)
            .any(|line| line.contains("LOADING"))
    );
    assert_ne!(place.contents(), before, "the load is under way");
    // Alive, it is left alone.
    drop(place.store());
    assert_ne!(place.contents(), before);
    child.kill().unwrap();
    child.wait().unwrap();
    drop(place.store());
    assert_eq!(place.contents(), before);
    place
        .resolve(&format!("oci-archive:{}", archive.display()))
        .unwrap();
}

/// A limit on file sizes stands in for a full disk where nothing can be mounted: writes fail the
/// same way.
#[test]
fn a_write_that_fails_leaves_the_store_as_it_was() {
    if as_child(&mut Quiet) {
        return;
    }
    let place = Place::new();
    place.oci(&small().layout()).unwrap();
    let data = vec![b'x'; 8 << 20];
    let archive = place.archive(&TestImage::of(Layer::of(&[("big", &data)])).layout());
    let before = place.contents();
    let inner = child(
        "a_write_that_fails_leaves_the_store_as_it_was",
        &place,
        &archive,
    );
    let output = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 4096; exec \"$0\" \"$@\""])
        .arg(inner.get_program())
        .args(inner.get_args())
        .envs(
            inner
                .get_envs()
                .filter_map(|(key, value)| Some((key, value?))),
        )
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned()
        + &String::from_utf8_lossy(&output.stdout);
    assert!(
        !output.status.success() && text.contains("File too large"),
        "{text}"
    );
    assert_eq!(place.contents(), before);
}

/// The same on a disk that is full indeed.
#[test]
fn a_full_disk_leaves_the_store_as_it_was() {
    let place = Place::new();
    fs::create_dir(place.root()).unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=4m", "walnut-test"])
        .arg(place.root())
        .output();
    if !mounted.is_ok_and(|output| output.status.success()) {
        let note = "SKIPPED: a full disk needs root, to mount a small tmpfs\n";
        std::io::Write::write_all(&mut std::io::stderr(), note.as_bytes()).unwrap();
        return;
    }
    let _unmount = Unmount(place.root());
    place.oci(&small().layout()).unwrap();
    let data: Vec<u8> = (0..8u32 << 20).map(|n| n.to_le_bytes()[0]).collect();
    let big = TestImage::of(Layer::of(&[("big", &data)]));
    place.refuses_oci(
        &big.layout(),
        "can't write the image: No space left on device",
    );
    place.resolve("test").unwrap();
}

struct Unmount(PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        let status = Command::new("umount").arg(&self.0).status();
        assert!(status.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}
