// SPDX-License-Identifier: Apache-2.0
//! What layers do to each other, seen in the tree.

use std::collections::BTreeMap;

use super::*;
use crate::archive::Archive;
use crate::tar::TarReader;

/// Paths with what stands there: `d`, `f SIZE`, `-> TARGET`, and further names of one inode.
fn apply(layers: &[Archive]) -> Result<BTreeMap<String, String>, EntryError> {
    tree(layers).map(|tree| flatten(&tree))
}

fn tree(layers: &[Archive]) -> Result<Tree, EntryError> {
    let mut tree = Tree::new();
    for (number, archive) in (1..).zip(layers) {
        let mut layer = LayerState::new(number);
        let bytes = archive.clone().finish();
        let mut tar = TarReader::new(&bytes[..]);
        while let Some(entry) = tar.next_entry().unwrap() {
            layer.apply(&mut tree, &entry)?;
        }
    }
    Ok(tree)
}

fn flatten(tree: &Tree) -> BTreeMap<String, String> {
    let mut flat = BTreeMap::new();
    let mut dirs = vec![(ROOT, String::new())];
    while let Some((dir, path)) = dirs.pop() {
        for (name, dentry) in tree.entries(dir).unwrap() {
            let path = format!("{path}/{}", String::from_utf8_lossy(name));
            let inode = tree.inode(dentry.ino);
            let what = match &inode.node {
                Node::Dir { .. } => {
                    dirs.push((dentry.ino, path.clone()));
                    "d".into()
                }
                Node::File { size, .. } if inode.names > 1 => format!("f {size} x{}", inode.names),
                Node::File { size, .. } => format!("f {size}"),
                Node::Symlink(target) => format!("-> {}", String::from_utf8_lossy(target)),
                other => format!("{other:?}"),
            };
            flat.insert(path, what);
        }
    }
    flat
}

#[track_caller]
fn gives(layers: &[Archive], expected: &[(&str, &str)]) {
    let expected: BTreeMap<String, String> = expected
        .iter()
        .map(|(path, what)| ((*path).into(), (*what).into()))
        .collect();
    assert_eq!(apply(layers).unwrap(), expected);
}

fn new() -> Archive {
    Archive::new()
}

#[test]
fn a_later_layer_replaces_and_adds() {
    gives(
        &[
            new().dir("d").file("d/a", b"1").file("d/b", b"1"),
            new().file("d/b", b"22").dir("e"),
        ],
        &[("/d", "d"), ("/d/a", "f 1"), ("/d/b", "f 2"), ("/e", "d")],
    );
}

#[test]
fn a_directory_over_a_directory_keeps_its_children_and_takes_the_attributes() {
    let layers = [
        new().mode(0o700).dir("d").file("d/a", b""),
        new().mode(0o755).owner(5, 6).dir("d"),
    ];
    gives(&layers, &[("/d", "d"), ("/d/a", "f 0")]);
    let tree = tree(&layers).unwrap();
    let attributes = &tree.inode(tree.child(ROOT, b"d").unwrap().ino).attributes;
    assert_eq!(
        (attributes.mode, attributes.uid, attributes.gid),
        (0o755, 5, 6)
    );
}

#[test]
fn file_and_directory_replace_each_other() {
    gives(
        &[new().dir("x").file("x/a", b""), new().file("x", b"1")],
        &[("/x", "f 1")],
    );
    gives(
        &[new().file("x", b"1"), new().dir("x").file("x/a", b"")],
        &[("/x", "d"), ("/x/a", "f 0")],
    );
    gives(
        &[new().symlink("x", "y").dir("y"), new().dir("x")],
        &[("/x", "d"), ("/y", "d")],
    );
    gives(&[new().file("x", b"1").file("x", b"22")], &[("/x", "f 2")]);
}

#[test]
fn whiteouts_hide_files_and_trees() {
    let base = new()
        .dir("d")
        .file("d/a", b"")
        .dir("d/s")
        .file("d/s/x", b"")
        .file("e", b"");
    gives(
        &[base.clone(), new().file("d/.wh.a", b"")],
        &[("/d", "d"), ("/d/s", "d"), ("/d/s/x", "f 0"), ("/e", "f 0")],
    );
    gives(&[base.clone(), new().file(".wh.d", b"")], &[("/e", "f 0")]);
    gives(
        &[
            base.clone(),
            new()
                .file("nowhere/.wh.a", b"")
                .file(".wh.none", b"")
                .file(".wh.d", b""),
        ],
        &[("/e", "f 0")],
    );
    gives(
        &[base, new().file("e/.wh.x", b"").file(".wh.d", b"")],
        &[("/e", "f 0")],
    );
}

#[test]
fn whiteouts_spare_their_own_layer() {
    let base = new().dir("d").file("d/old", b"").file("d/both", b"");
    let expected = [("/d", "d"), ("/d/both", "f 1"), ("/d/new", "f 0")];
    for upper in [
        new()
            .dir("d")
            .file("d/.wh..wh..opq", b"")
            .file("d/new", b"")
            .file("d/both", b"1"),
        new()
            .dir("d")
            .file("d/new", b"")
            .file("d/both", b"1")
            .file("d/.wh..wh..opq", b""),
        new()
            .file("d/new", b"")
            .file("d/both", b"1")
            .file(".wh.d", b""),
        new()
            .file(".wh.d", b"")
            .file("d/new", b"")
            .file("d/both", b"1"),
    ] {
        gives(&[base.clone(), upper], &expected);
    }
}

#[test]
fn an_opaque_directory_hides_the_deep_but_not_the_new() {
    let base = new().file("d/a/b/old", b"").file("d/c/old", b"");
    let upper = new().file("d/a/b/new", b"").file("d/.wh..wh..opq", b"");
    gives(
        &[base.clone(), upper.clone()],
        &[
            ("/d", "d"),
            ("/d/a", "d"),
            ("/d/a/b", "d"),
            ("/d/a/b/new", "f 0"),
        ],
    );
    // And the third layer hides the second's.
    gives(
        &[base.clone(), upper, new().file("d/.wh..wh..opq", b"")],
        &[("/d", "d")],
    );
    gives(&[base, new().file(".wh..wh..opq", b"")], &[]);
}

#[test]
fn aufs_leftovers_are_no_files() {
    gives(
        &[new()
            .file(".wh..wh.aufs", b"")
            .dir(".wh..wh.plnk")
            .file(".wh..wh.plnk/1.2", b"x")],
        &[],
    );
}

#[test]
fn a_whiteout_of_no_name_is_refused() {
    for name in [".wh.", ".wh..", ".wh...", "d/.wh."] {
        let error = apply(&[new().file(name, b"")]).unwrap_err();
        assert!(matches!(error, EntryError::Whiteout), "{name}");
    }
}

#[test]
fn leading_slashes_and_inner_dots_are_dropped() {
    gives(
        &[new()
            .file("/etc/a", b"")
            .file("./etc/./b", b"")
            .file("etc/x/../c", b"")
            .dir("./")],
        &[
            ("/etc", "d"),
            ("/etc/a", "f 0"),
            ("/etc/b", "f 0"),
            ("/etc/c", "f 0"),
        ],
    );
}

#[test]
fn climbing_above_the_root_is_refused() {
    for path in ["../a", "a/../../b", "/../a", ".."] {
        let error = apply(&[new().file(path, b"")]).unwrap_err();
        assert!(
            matches!(error, EntryError::Path(PathError::Escapes)),
            "{path}"
        );
    }
    let error = apply(&[new().hard_link("a", "../b")]).unwrap_err();
    assert!(matches!(
        error,
        EntryError::LinkPath {
            source: PathError::Escapes,
            ..
        }
    ));
    let error = apply(&[new().file("../.wh.a", b"")]).unwrap_err();
    assert!(matches!(error, EntryError::Path(PathError::Escapes)));
}

#[test]
fn missing_parents_are_made() {
    let tree = tree(&[new().mtime(77).owner(3, 3).file("a/b/c", b"")]).unwrap();
    let a = tree.inode(tree.child(ROOT, b"a").unwrap().ino);
    assert_eq!(
        (a.attributes.mode, a.attributes.uid, a.attributes.mtime.secs),
        (0o755, 0, 77)
    );
}

#[test]
fn symlinks_among_the_parents_are_followed_inside() {
    let expected = [
        ("/bin", "-> usr/bin"),
        ("/usr", "d"),
        ("/usr/bin", "d"),
        ("/usr/bin/sh", "f 1"),
    ];
    let base = new().dir("usr/bin").symlink("bin", "usr/bin");
    gives(&[base, new().file("bin/sh", b"1")], &expected);
    // Absolute ones begin at the image's root, and what they lead to is made where it is missing.
    gives(
        &[
            new().symlink("var/run", "/run"),
            new().file("var/run/pid", b""),
        ],
        &[
            ("/run", "d"),
            ("/run/pid", "f 0"),
            ("/var", "d"),
            ("/var/run", "-> /run"),
        ],
    );
    gives(
        &[new().symlink("a/l", "../b/./c/").file("a/l/f", b"")],
        &[
            ("/a", "d"),
            ("/a/l", "-> ../b/./c/"),
            ("/b", "d"),
            ("/b/c", "d"),
            ("/b/c/f", "f 0"),
        ],
    );
    // The last component is never followed.
    gives(
        &[new().symlink("l", "/etc/passwd"), new().file("l", b"1")],
        &[("/l", "f 1")],
    );
    gives(
        &[
            new().file("t", b"").symlink("l", "t"),
            new().file(".wh.l", b""),
        ],
        &[("/t", "f 0")],
    );
}

#[test]
fn a_symlink_that_climbs_out_may_exist_but_not_be_used() {
    let link = new().symlink("l", "../../etc");
    gives(std::slice::from_ref(&link), &[("/l", "-> ../../etc")]);
    for use_it in [
        new().file("l/passwd", b""),
        new().hard_link("h", "l/x"),
        new().file("l/.wh.x", b""),
    ] {
        let error = apply(&[link.clone(), use_it]).unwrap_err();
        assert!(matches!(error, EntryError::SymlinkEscapes(name) if name == "l"));
    }
}

#[test]
fn symlinks_in_a_circle_are_refused() {
    let circle = new().symlink("a", "b").symlink("b", "a").file("a/x", b"");
    assert!(matches!(apply(&[circle]), Err(EntryError::TooManySymlinks)));
    let deeper = new().symlink("a", "a/a/a/a").file("a/x", b"");
    assert!(matches!(apply(&[deeper]), Err(EntryError::TooManySymlinks)));
}

#[test]
fn a_file_among_the_parents_is_refused() {
    let error = apply(&[new().file("a", b"").file("a/b", b"")]).unwrap_err();
    assert!(matches!(error, EntryError::NotADirectory(name) if name == "a"));
}

#[test]
fn hard_links_within_and_across_layers() {
    gives(
        &[
            new().file("a", b"1").hard_link("b", "a"),
            new().hard_link("d/c", "/b"),
        ],
        &[
            ("/a", "f 1 x3"),
            ("/b", "f 1 x3"),
            ("/d", "d"),
            ("/d/c", "f 1 x3"),
        ],
    );
    // The inode stays when the name it came by goes.
    gives(
        &[
            new().file("a", b"1"),
            new().hard_link("b", "a"),
            new().file("a", b"22"),
        ],
        &[("/a", "f 2"), ("/b", "f 1")],
    );
    gives(
        &[new().file("a", b"1").hard_link("a", "a")],
        &[("/a", "f 1")],
    );
    gives(
        &[new().dir("d").file("d/a", b"1").hard_link("d", "d/a")],
        &[("/d", "f 1")],
    );
    gives(
        &[new().symlink("s", "t").hard_link("h", "s")],
        &[("/h", "-> t"), ("/s", "-> t")],
    );
}

#[test]
fn hard_links_to_nothing_or_to_directories_are_refused() {
    for target in ["gone", "d/gone", "f/x"] {
        let error = apply(&[new().dir("d").file("f", b"").hard_link("h", target)]).unwrap_err();
        assert!(matches!(error, EntryError::MissingTarget(name) if name == target));
    }
    for target in ["d", "/"] {
        let error = apply(&[new().dir("d").hard_link("h", target)]).unwrap_err();
        assert!(matches!(error, EntryError::TargetIsDirectory(name) if name == target));
    }
}

#[test]
fn what_no_file_system_could_hold_is_refused() {
    assert!(matches!(
        apply(&[new().file(&"n".repeat(256), b"")]),
        Err(EntryError::Path(PathError::NameTooLong))
    ));
    assert!(matches!(
        apply(&[new().file(&"n/".repeat(3000), b"")]),
        Err(EntryError::Path(PathError::TooLong))
    ));
    assert!(matches!(
        apply(&[new().symlink("l", &"t".repeat(4096))]),
        Err(EntryError::TargetTooLong)
    ));
    assert!(apply(&[new().symlink("l", &"t".repeat(4095))]).is_ok());
    assert!(matches!(
        apply(&[new().symlink("l", "")]),
        Err(EntryError::EmptyTarget)
    ));
    assert!(matches!(
        apply(&[new().file(".", b"")]),
        Err(EntryError::Root)
    ));
    assert!(matches!(
        apply(&[new().device(::tar::EntryType::Char, "c", 4096, 0)]),
        Err(EntryError::Device { .. })
    ));
    assert!(matches!(
        apply(&[new().xattr("nowhere", b"").file("f", b"")]),
        Err(EntryError::Xattr(_))
    ));
}

#[test]
fn released_blocks_are_those_of_files_without_names() {
    let mut tree = Tree::new();
    let mut layer = LayerState::new(1);
    let bytes = new()
        .file("d/a", b"1")
        .hard_link("b", "d/a")
        .file("d/c", b"2")
        .finish();
    let mut tar = TarReader::new(&bytes[..]);
    let mut block = 0;
    while let Some(entry) = tar.next_entry().unwrap() {
        if let Some(ino) = layer.apply(&mut tree, &entry).unwrap() {
            block += 1;
            tree.set_extent(
                ino,
                Extent {
                    start: block,
                    blocks: 1,
                },
            );
        }
    }
    tree.unlink(ROOT, b"d", &mut layer.released);
    assert_eq!(
        layer.released,
        [Extent {
            start: 2,
            blocks: 1
        }]
    );
    tree.unlink(ROOT, b"b", &mut layer.released);
    assert_eq!(layer.released.len(), 2);
    assert_eq!((tree.len(), tree.cost()), (1, 0));
}

#[test]
fn a_tree_of_any_depth_is_taken_down() {
    let mut archive = new();
    // Each symlink leads 1,000 directories deeper.
    let deep = "d/".repeat(1000);
    archive = archive.dir(&deep);
    for n in 0..20 {
        let here = if n == 0 {
            deep.clone()
        } else {
            format!("l{}/", n - 1)
        };
        archive = archive.symlink(&format!("l{n}"), &format!("{here}{deep}"));
        archive = archive.dir(&format!("l{n}/x"));
    }
    let mut tree = tree(&[archive]).unwrap();
    assert!(tree.len() > 20_000);
    let mut released = Vec::new();
    tree.unlink(ROOT, b"d", &mut released);
    assert!(tree.len() < 50);
}
