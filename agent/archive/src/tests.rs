// SPDX-License-Identifier: Apache-2.0

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use tar::{Builder, EntryType, Header};

use super::*;

const GUEST: Options = Options {
    owner: Owner::Archived,
    follow: true,
    strict: false,
};
const HOST: Options = Options {
    owner: Owner::Caller,
    follow: false,
    strict: false,
};

fn pack(path: &Path, holes: bool) -> Vec<u8> {
    let mut packer = Packer::new(Vec::new(), holes);
    packer.add_tree(path, Path::new("t")).unwrap();
    packer.finish().unwrap()
}

fn entry(kind: EntryType, name: &str, link: &str, data: &[u8]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_size(data.len() as u64);
    let gnu = header.as_gnu_mut().unwrap();
    gnu.name[..name.len()].copy_from_slice(name.as_bytes());
    gnu.linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_cksum();
    builder.append(&header, data).unwrap();
    let mut bytes = builder.into_inner().unwrap();
    bytes.truncate(bytes.len() - 1024);
    bytes
}

fn archive(entries: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = entries.concat();
    bytes.extend([0; 1024]);
    bytes
}

#[test]
fn a_tree_there_and_back() {
    let from = tempfile::tempdir().unwrap();
    let to = tempfile::tempdir().unwrap();
    let tree = from.path().join("t");
    fs::create_dir_all(tree.join("sub/deep")).unwrap();
    let long = "n".repeat(200);
    fs::write(tree.join(&long), "long").unwrap();
    fs::write(tree.join("sub/file"), vec![7; 200_000]).unwrap();
    fs::set_permissions(tree.join("sub/file"), Permissions::from_mode(0o4751)).unwrap();
    fs::hard_link(tree.join("sub/file"), tree.join("twin")).unwrap();
    symlink("../nowhere", tree.join("sub/link")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        tree.join("pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    fs::set_permissions(tree.join("sub"), Permissions::from_mode(0o500)).unwrap();
    unpack(pack(&tree, true).as_slice(), to.path(), GUEST).unwrap();
    let made = to.path().join("t");
    assert_eq!(fs::read(made.join(&long)).unwrap(), b"long");
    assert_eq!(fs::read(made.join("twin")).unwrap(), vec![7; 200_000]);
    let meta = |name: &str| fs::symlink_metadata(made.join(name)).unwrap();
    assert_eq!(meta("twin").ino(), meta("sub/file").ino());
    assert_eq!(meta("sub/file").mode() & 0o7777, 0o4751);
    assert_eq!(meta("sub").mode() & 0o7777, 0o500);
    assert_eq!(
        meta("sub").mtime(),
        fs::metadata(tree.join("sub")).unwrap().mtime()
    );
    assert_eq!(meta("pipe").mode() & 0o170_000, 0o010_000);
    let target = fs::read_link(made.join("sub/link")).unwrap();
    assert_eq!(target, Path::new("../nowhere"));
    // Once more, over what is there.
    unpack(pack(&tree, false).as_slice(), to.path(), GUEST).unwrap();
}

#[test]
fn holes_stay_holes() {
    let from = tempfile::tempdir().unwrap();
    let to = tempfile::tempdir().unwrap();
    let path = from.path().join("t");
    let file = File::create(&path).unwrap();
    file.set_len(64 << 20).unwrap();
    // More pieces than a header and one block hold.
    for at in 0..40 {
        file.write_all_at(b"data", at << 20).unwrap();
    }
    for holes in [true, false] {
        let packed = pack(&path, holes);
        assert_eq!(packed.len() < 1 << 20, holes, "{}", packed.len());
        unpack(packed.as_slice(), to.path(), HOST).unwrap();
        let made = to.path().join("t");
        assert!(fs::read(&made).unwrap() == fs::read(&path).unwrap());
        assert!(fs::metadata(&made).unwrap().blocks() * 512 < 1 << 20);
    }
}

#[test]
fn an_attribute_goes_along() {
    let from = tempfile::tempdir().unwrap();
    let to = tempfile::tempdir().unwrap();
    let path = from.path().join("t");
    fs::write(&path, "x").unwrap();
    let flags = rustix::fs::XattrFlags::empty();
    if rustix::fs::setxattr(&path, "user.test", b"a\0b=\n", flags).is_err() {
        eprintln!("SKIPPED: no extended attributes here");
        return;
    }
    unpack(pack(&path, true).as_slice(), to.path(), HOST).unwrap();
    let mut value = [0; 16];
    let made = to.path().join("t");
    let len = rustix::fs::getxattr(&made, "user.test", &mut value[..]).unwrap();
    assert_eq!(&value[..len], b"a\0b=\n");
}

#[test]
fn nothing_outside_is_reached() {
    let temp = tempfile::tempdir().unwrap();
    let (inside, outside) = (temp.path().join("in"), temp.path().join("out"));
    fs::create_dir(&inside).unwrap();
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), "s").unwrap();
    let out = outside.to_str().unwrap();
    let link = || entry(EntryType::Symlink, "link", out, b"");
    let secret = format!("{out}/secret");
    for hostile in [
        vec![link(), entry(EntryType::Regular, "link/evil", "", b"x")],
        vec![link(), entry(EntryType::Directory, "link/evil", "", b"")],
        vec![entry(EntryType::Regular, "../out/evil", "", b"x")],
        vec![link(), entry(EntryType::Link, "hard", "link/secret", b"")],
        vec![entry(EntryType::Link, "hard", "../out/secret", b"")],
    ] {
        let said = unpack(archive(&hostile).as_slice(), &inside, HOST).unwrap_err();
        assert!(matches!(said, ArchiveError::Outside { .. }), "{said}");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    }
    // A link in a file's place is replaced, not followed.
    let through = [
        entry(EntryType::Symlink, "file", &secret, b""),
        entry(EntryType::Regular, "file", "", b"new"),
        // An absolute name is one below.
        entry(EntryType::Regular, "/abs", "", b"a"),
    ];
    unpack(archive(&through).as_slice(), &inside, HOST).unwrap();
    assert_eq!(fs::read(outside.join("secret")).unwrap(), b"s");
    assert_eq!(fs::read(inside.join("file")).unwrap(), b"new");
    assert_eq!(fs::read(inside.join("abs")).unwrap(), b"a");
}

#[test]
fn kinds_that_don_t_fit_are_refused() {
    let temp = tempfile::tempdir().unwrap();
    fs::create_dir(temp.path().join("dir")).unwrap();
    fs::write(temp.path().join("file"), "x").unwrap();
    let over = |kind, name| {
        let bytes = archive(&[entry(kind, name, "", b"")]);
        unpack(bytes.as_slice(), temp.path(), HOST).unwrap_err()
    };
    assert!(matches!(
        over(EntryType::Regular, "dir"),
        ArchiveError::OntoDirectory { .. }
    ));
    assert!(matches!(
        over(EntryType::Directory, "file"),
        ArchiveError::DirectoryOnto { .. }
    ));
    let cut = &archive(&[entry(EntryType::Regular, "f", "", &[1; 2000])])[..1000];
    assert!(unpack(cut, temp.path(), HOST).is_err());
}
