// SPDX-License-Identifier: Apache-2.0

use super::*;
use crate::container::Volume as Mounted;

struct Place {
    _temp: tempfile::TempDir,
    paths: Paths,
}

fn place() -> Option<Place> {
    if !disk::mkfs_program().starts_with('/') {
        eprintln!("SKIPPED: mkfs.ext4 is not installed");
        return None;
    }
    let temp = tempfile::tempdir().unwrap();
    let paths = Paths::within(temp.path());
    Some(Place { _temp: temp, paths })
}

fn wanted(name: &str) -> Wanted {
    Wanted {
        name: name.to_owned(),
        size: Some(32 << 20),
        ..Wanted::default()
    }
}

fn mounted(name: &str, readonly: bool) -> Mounted {
    Mounted {
        name: Some(name.to_owned()),
        readonly,
        ..Mounted::default()
    }
}

#[test]
fn made_once_listed_and_removed() {
    let Some(place) = place() else { return };
    let volumes = Volumes::new(&place.paths);
    let first = volumes.create(&wanted("data")).unwrap();
    let again = volumes.create(&wanted("data")).unwrap();
    assert_eq!(first.created, again.created);
    let unnamed = volumes.create(&wanted("")).unwrap();
    assert!(unnamed.anonymous && unnamed.name.len() == 64);
    assert_eq!(volumes.list().len(), 2);
    assert!(volumes.size("data") < 4 << 20);
    volumes.remove("data").unwrap();
    let said = volumes.find("data").unwrap_err().to_string();
    assert_eq!(said, "get data: no such volume");
    for bad in ["", "a/b", "..", "../x", "lock", "-a"] {
        assert!(volumes.find(bad).is_err(), "{bad}");
    }
    assert!(volumes.create(&wanted("a/b")).is_err());
}

#[test]
fn one_writer_or_many_readers() {
    let Some(place) = place() else { return };
    let volumes = Volumes::new(&place.paths);
    volumes.create(&wanted("data")).unwrap();
    let claim_all =
        |all: &[Mounted]| claim::claim_by(&place.paths, all, |name, _| Err(claim::taken(name, "")));
    let claim = |readonly| claim_all(&[mounted("data", readonly)]);
    let said = |readonly: bool| claim(readonly).unwrap_err().to_string();
    let writer = claim(false).unwrap();
    assert!(said(false).starts_with("volume data is in use: "));
    assert!(said(true).starts_with("volume data is in use: "));
    drop(writer);
    // Nobody has mounted it yet: a reader's kernel writes, too.
    let first = claim(true).unwrap();
    assert!(!first[0].readonly);
    drop(first);
    let file = fs::OpenOptions::new()
        .write(true)
        .open(volumes.data("data"))
        .unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[1, 0], 1024 + 0x34).unwrap();
    let readers = [claim(true).unwrap(), claim(true).unwrap()];
    assert!(readers.iter().all(|reader| reader[0].readonly));
    assert!(claim(false).is_err());
    drop(readers);
    // In two places of one container: once, and as one of them needs it.
    let twice = claim_all(&[mounted("data", true), mounted("data", false)]).unwrap();
    assert_eq!(twice.len(), 1);
    assert!(!twice[0].readonly);
}
