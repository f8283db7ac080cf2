// SPDX-License-Identifier: Apache-2.0
//! Whole images: fsck.erofs checks each; the kernel's view of them is compared with what GNU tar
//! unpacks from the same layers.

#![expect(clippy::unwrap_used, reason = "a test that fails may panic")]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;

use proptest::prelude::*;
use support::archive::Archive;
use support::{Seen, build, is_root, see, untar};
use tar::EntryType;
use walnut_erofs::{Builder, LayerError, Limits, read_file};

/// A little of everything, in attributes that tar can restore on any file system.
fn everything() -> Archive {
    let many = (0..1000).fold(Archive::new().dir("many/"), |archive, n| {
        archive.file(
            &format!("many/{n:03}-{}", "x".repeat(n % 100)),
            n.to_string().as_bytes(),
        )
    });
    many.mode(0o1777)
        .dir("./tmp/")
        .mode(0o4755)
        .file("usr/bin/su", &[b'#'; 5000])
        .file("empty", b"")
        .file("block", &[1; 4096])
        .file("block+1", &[2; 4097])
        .file(
            "large",
            &(0..3_000_000u32)
                .map(|n| n.to_le_bytes()[0])
                .collect::<Vec<_>>(),
        )
        .owner(100_000, 4_294_967_294)
        .file("foreign", b"1")
        .mtime(0)
        .file("old", b"2")
        .pax("mtime", b"1500000000.123456789")
        .file("precise", b"3")
        .pax("mtime", b"-86400.5")
        .file("before", b"4")
        .symlink("link", "usr/bin/su")
        .symlink("long link", &"t/".repeat(2047))
        .hard_link("usr/bin/sudo", "usr/bin/su")
        .hard_link("link2", "link")
        .device(EntryType::Char, "null", 1, 3)
        .device(EntryType::Block, "disk", 259, 65_536)
        .fifo("fifo")
        .xattr("user.note", b"a\nb\0c")
        .xattr(
            "security.capability",
            b"\x01\0\0\x02\0 \0\0\0\0\0\0\0\0\0\0\0\0\0\0",
        )
        .file("capable", b"5")
        .xattr("user.on-a-dir", b"yes")
        .xattr("trusted.one", &[0xff; 300])
        .dir("dir")
        .file("--first", b"sorts before the dots")
        .file(&format!("{}/{}", "n".repeat(255), "m".repeat(255)), b"6")
}

#[test]
fn the_kernel_shows_what_tar_unpacks() {
    let layer = everything().finish();
    let image = build(std::slice::from_ref(&layer)).unwrap();
    let Some(mount) = image.mount() else {
        return;
    };
    let unpacked = untar(&[layer]);
    // Directories that no entry made have no attributes to compare.
    let drop_implied = |mut seen: BTreeMap<PathBuf, Seen>| {
        seen.retain(|path, _| {
            path != "usr" && path != "usr/bin" && !path.ends_with("n".repeat(255))
        });
        seen
    };
    let (image, unpacked) = (
        drop_implied(see(mount.path())),
        drop_implied(see(unpacked.path())),
    );
    assert_eq!(
        image.keys().collect::<Vec<_>>(),
        unpacked.keys().collect::<Vec<_>>()
    );
    for (path, seen) in &image {
        assert_eq!(*seen, unpacked[path], "{}", path.display());
    }
    let precise = &image[&PathBuf::from("precise")];
    assert_eq!(precise.mtime, (1_500_000_000, 123_456_789));
}

#[test]
fn fsck_extracts_every_byte() {
    if !is_root("unpacking devices") {
        return;
    }
    let layer = everything().finish();
    let extracted = build(std::slice::from_ref(&layer)).unwrap().extract();
    let extracted = extracted.path().join("x");
    if !extracted.exists() {
        return;
    }
    let kinds = |seen: BTreeMap<PathBuf, Seen>| -> BTreeMap<PathBuf, String> {
        seen.into_iter()
            .map(|(path, seen)| (path, seen.kind))
            .collect()
    };
    assert_eq!(kinds(see(&extracted)), kinds(see(untar(&[layer]).path())));
}

#[test]
fn layers_apply_in_order() {
    let base = Archive::new()
        .dir("d")
        .file("d/gone", b"1")
        .file("d/kept", b"2")
        .file("f", b"3");
    let middle = Archive::new()
        .file("d/.wh.gone", b"")
        .file("f", &[b'4'; 9000])
        .dir("e");
    let top = Archive::new()
        .dir("d")
        .file("d/.wh..wh..opq", b"")
        .file("d/new", b"5");
    let image = build(&[base.finish(), middle.finish(), top.finish()]).unwrap();
    let Some(mount) = image.mount() else {
        return;
    };
    let names: Vec<_> = see(mount.path()).into_keys().collect();
    assert_eq!(names, ["d", "d/new", "e", "f"].map(PathBuf::from));
    assert_eq!(fs::read(mount.path().join("f")).unwrap(), [b'4'; 9000]);
}

#[test]
fn replaced_files_leave_no_holes() {
    let layer = |byte| Archive::new().file("big", &vec![byte; 10 << 20]).finish();
    let image = build(&[layer(1), layer(2), layer(3)]).unwrap();
    assert!(image.summary.used_bytes < 11 << 20, "{:?}", image.summary);
    // Of a gap that nothing filled, at least the disk gets its blocks back.
    let layers = [
        Archive::new().file("a", &vec![1; 10 << 20]).file("b", b"1"),
        Archive::new().file(".wh.a", b""),
    ];
    let image = build(&layers.map(Archive::finish)).unwrap();
    let on_disk = image.file.as_file().metadata().unwrap().blocks() * 512;
    assert!(on_disk < 1 << 20, "{on_disk}");
}

#[test]
fn the_padding_takes_no_space() {
    let image = build(&[Archive::new().file("a", b"1").finish()]).unwrap();
    let metadata = image.file.as_file().metadata().unwrap();
    assert_eq!(metadata.len(), 2 << 20);
    assert!(metadata.blocks() * 512 <= 32 << 10);
}

/// A page that is mapped past the end of a file must not show what a replaced file left there.
#[test]
fn the_rest_of_a_last_block_is_zero() {
    let secret = Archive::new().file("secret", &[0xaa; 8192]).finish();
    let short = Archive::new()
        .file(".wh.secret", b"")
        .file("short", &[0xbb; 4100])
        .finish();
    let image = build(&[secret, short]).unwrap();
    let mut start = vec![0; 3 * 4096];
    image
        .file
        .as_file()
        .read_exact_at(&mut start, 4096)
        .unwrap();
    assert!(start[..4100].iter().all(|byte| *byte == 0xbb));
    assert!(
        start[4100..8192].iter().all(|byte| *byte == 0),
        "what was there shows"
    );
}

#[test]
fn the_same_layers_give_the_same_bytes() {
    let bytes = || fs::read(build(&[everything().finish()]).unwrap().path()).unwrap();
    assert!(bytes() == bytes());
}

#[test]
fn an_empty_image_is_one() {
    for layers in [vec![], vec![Archive::new().finish()]] {
        let image = build(&layers).unwrap();
        assert_eq!(image.summary.inodes, 1);
        if let Some(mount) = image.mount() {
            assert!(see(mount.path()).is_empty());
        }
    }
}

#[test]
fn sparse_members_are_sparse_here_too() {
    let data = [vec![b'a'; 100], vec![b'b'; 5000]].concat();
    let member = Archive::new()
        .pax("GNU.sparse.size", b"50000000")
        .pax("GNU.sparse.map", b"10,100,40000001,5000")
        .file("sparse", &data);
    // In the way, so that there are used blocks to fall for.
    let before = Archive::new().file("x", &vec![0xcc; 60 << 20]);
    let image = build(&[
        before.finish(),
        Archive::new().file(".wh.x", b"").finish(),
        member.finish(),
    ])
    .unwrap();
    let on_disk = image.file.as_file().metadata().unwrap().blocks() * 512;
    assert!(on_disk < 1 << 20, "{on_disk}");
    let Some(mount) = image.mount() else {
        return;
    };
    let mut expected = vec![0; 50_000_000];
    expected[10..110].fill(b'a');
    expected[40_000_001..40_005_001].fill(b'b');
    assert!(fs::read(mount.path().join("sparse")).unwrap() == expected);
}

#[test]
fn large_directories_and_odd_names_are_found() {
    let names: Vec<String> = (0..3000u32)
        .map(|n| format!("{}{n}", ["", ".", "-", "~", "é"][n as usize % 5]))
        .collect();
    let archive = names.iter().fold(Archive::new(), |archive, name| {
        archive.file(name, name.as_bytes())
    });
    let Some(mount) = build(&[archive.finish()]).unwrap().mount() else {
        return;
    };
    for name in &names {
        assert_eq!(fs::read_to_string(mount.path().join(name)).unwrap(), *name);
    }
    assert!(!mount.path().join("3000").exists());
    assert_eq!(fs::read_dir(mount.path()).unwrap().count(), names.len());
}

/// The kernel refuses inline data that crosses into the next block.
#[test]
fn symlinks_and_directories_of_any_length_are_read() {
    let target = |n: usize| "t".repeat(1 + n * 37 % 4095);
    let mut archive = Archive::new();
    for n in 0..500 {
        archive = archive
            .xattr("trusted.n", &vec![b'v'; n])
            .symlink(&format!("l{n}"), &target(n));
        let name = format!("d{n}/{}", "n".repeat(1 + n % 255));
        archive = archive
            .xattr("trusted.n", &vec![b'v'; n * 9])
            .dir(&format!("d{n}"))
            .file(&name, b"");
    }
    let Some(mount) = build(&[archive.finish()]).unwrap().mount() else {
        return;
    };
    let seen = see(mount.path());
    for n in 0..500 {
        assert_eq!(
            seen[&PathBuf::from(format!("l{n}"))].kind,
            format!("-> {}", target(n))
        );
        assert!(seen.contains_key(&PathBuf::from(format!("d{n}/{}", "n".repeat(1 + n % 255)))));
    }
}

#[test]
fn xattrs_of_any_size() {
    let mut archive = Archive::new();
    for n in 0..100 {
        let name = format!("user.{}", "k".repeat(n + 1));
        archive = archive
            .xattr(&name, &vec![b'v'; n * 37])
            .file(&format!("f{n}"), b"");
    }
    archive = archive
        .xattr("trusted.big", &[b'v'; 65_535])
        .symlink("s", "t");
    archive = archive.xattr("security.big", &[b'v'; 60_000]).dir("d");
    let Some(mount) = build(&[archive.finish()]).unwrap().mount() else {
        return;
    };
    let seen = see(mount.path());
    for n in 0..100 {
        let xattrs = &seen[&PathBuf::from(format!("f{n}"))].xattrs;
        assert_eq!(xattrs[&format!("user.{}", "k".repeat(n + 1))].len(), n * 37);
    }
    assert_eq!(
        seen[&PathBuf::from("d")].xattrs["security.big"].len(),
        60_000
    );
}

fn error(layers: &[Vec<u8>]) -> String {
    let error = build(layers).err().expect("this layer should be refused");
    let source = std::error::Error::source(&error).map(|source| format!(": {source}"));
    format!("{error}{}", source.unwrap_or_default())
}

#[test]
fn errors_name_the_entry_and_the_reason() {
    let bad = Archive::new().file("../../etc/passwd", b"").finish();
    assert_eq!(
        error(&[bad]),
        "layer entry \"../../etc/passwd\": it climbs above the root"
    );
    let long = Archive::new()
        .file(&format!("x\n{}", "n".repeat(4000)), b"")
        .finish();
    let message = error(&[long]);
    assert!(
        message.len() < 400 && message.contains("x\\n") && message.contains('…'),
        "{message}"
    );
    let mut cut = Archive::new().file("a", &[0; 5000]).unfinished();
    cut.truncate(3000);
    assert_eq!(
        error(&[cut]),
        "the tar stream ends in the middle of a file's data"
    );
}

#[test]
fn limits_hold() {
    let file = tempfile::tempfile().unwrap();
    let limits = Limits {
        image_bytes: 1 << 20,
        metadata_bytes: 1 << 30,
    };
    let mut builder = Builder::new(file, limits);
    let claims = Archive::new()
        .member(EntryType::Regular, "big", "", b"", |header| {
            header.set_size(1 << 40)
        })
        .unfinished();
    let result = builder.add_layer(claims.as_slice());
    assert!(matches!(result, Err(LayerError::TooLarge(_))), "{result:?}");

    let limits = Limits {
        image_bytes: 1 << 20,
        metadata_bytes: 100 << 10,
    };
    let mut builder = Builder::new(tempfile::tempfile().unwrap(), limits);
    let many = (0..1000).fold(Archive::new(), |archive, n| archive.dir(&n.to_string()));
    let result = builder.add_layer(many.finish().as_slice());
    assert!(
        matches!(result, Err(LayerError::TooManyEntries(_))),
        "{result:?}"
    );
}

/// One step of a random layer.
#[derive(Clone, Debug)]
enum Step {
    File(String, usize),
    Dir(String),
    Symlink(String, String),
    HardLink(String, String),
}

fn path() -> impl Strategy<Value = String> {
    prop::collection::vec("[a-c]{1,2}", 1..4).prop_map(|names| names.join("/"))
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (path(), 0usize..9000).prop_map(|(path, len)| Step::File(path, len)),
        2 => path().prop_map(Step::Dir),
        1 => (path(), path()).prop_map(|(path, target)| Step::Symlink(path, target)),
        1 => (path(), path()).prop_map(|(path, target)| Step::HardLink(path, target)),
    ]
}

fn archive(steps: &[Step]) -> Archive {
    steps
        .iter()
        .fold(Archive::new(), |archive, step| match step {
            Step::File(path, len) => {
                let byte = u8::try_from(len % 251).unwrap();
                archive.mode(0o600).file(path, &vec![byte; *len])
            }
            Step::Dir(path) => archive.dir(path),
            Step::Symlink(path, target) => archive.symlink(path, target),
            Step::HardLink(path, target) => archive.hard_link(path, target),
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Whatever is accepted is a sound image, and holds what the last step for each path says.
    #[test]
    fn random_layers_give_sound_images(
        layers in prop::collection::vec(prop::collection::vec(step(), 0..40), 1..4),
    ) {
        let archives: Vec<_> = layers.iter().map(|steps| archive(steps).finish()).collect();
        let Ok(image) = build(&archives) else {
            return Ok(());
        };
        let Some(mount) = image.mount() else {
            return Ok(());
        };
        let seen = see(mount.path());
        prop_assert_eq!(image.summary.inodes, inodes(mount.path()));
        if let Some(Step::File(path, len)) = layers.last().and_then(|steps| steps.last()) {
            let metadata = fs::metadata(mount.path().join(path)).unwrap();
            prop_assert_eq!(metadata.len(), *len as u64);
        }
        prop_assert!(seen.values().all(|seen| seen.links < 200));
    }
}

/// The root's, and those of all below it.
fn inodes(root: &std::path::Path) -> u64 {
    let mut numbers: Vec<u64> = see(root)
        .keys()
        .map(|path| fs::symlink_metadata(root.join(path)).unwrap().ino())
        .collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers.len() as u64 + 1
}

#[test]
fn single_files_are_read_back() {
    let image = build(&[everything().finish()]).unwrap();
    let file = image.file.as_file();
    let read = |path: &str, most| read_file(file, path, most).unwrap();
    assert_eq!(read("usr/bin/su", 1 << 20), Some(vec![b'#'; 5000]));
    assert_eq!(read("usr/bin/su", 4097), Some(vec![b'#'; 4097]));
    assert_eq!(read("/usr//bin/sudo", 3), Some(vec![b'#'; 3]));
    assert_eq!(read("empty", 9), Some(Vec::new()));
    assert_eq!(read("foreign", 9), Some(b"1".to_vec()));
    // A directory of many blocks, a name that is the start of another's.
    for n in [0, 1, 500, 999] {
        let path = format!("many/{n:03}-{}", "x".repeat(n % 100));
        assert_eq!(read(&path, 9), Some(n.to_string().into_bytes()), "{path}");
    }
    for path in [
        "many/00",
        "many",
        "nosuch",
        "usr/bin/su/x",
        "link",
        "fifo",
        "",
    ] {
        assert_eq!(read(path, 9), None, "{path}");
    }
}

proptest! {
    #[test]
    fn a_damaged_image_is_an_error_at_most(
        damage in prop::collection::vec((0usize..16384, any::<u8>()), 1..200),
    ) {
        let archive = Archive::new().dir("etc/").file("etc/passwd", b"root:x:0:0::/:\n");
        let file = tempfile::tempfile().unwrap();
        let mut builder = Builder::new(file.try_clone().unwrap(), Limits::default());
        builder.add_layer(archive.finish().as_slice()).unwrap();
        builder.finish([7; 16]).unwrap();
        for (at, byte) in damage {
            file.write_all_at(&[byte], at as u64).unwrap();
        }
        let _ = read_file(&file, "etc/passwd", 4096);
    }
}
