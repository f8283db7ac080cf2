// SPDX-License-Identifier: Apache-2.0
//! Entries as they should be read, and streams that should be refused.

use ::tar::{EntryType, GnuExtSparseHeader, GnuSparseHeader, Header};
use proptest::prelude::*;

use super::*;
use crate::archive::Archive;

type Read1 = (Entry, Vec<u8>);

fn read(bytes: &[u8]) -> Result<Vec<Read1>, TarError> {
    let mut tar = TarReader::new(bytes);
    let mut entries = Vec::new();
    while let Some(entry) = tar.next_entry()? {
        let mut data = Vec::new();
        loop {
            let chunk = tar.data(u64::MAX)?;
            if chunk.bytes().is_empty() {
                break;
            }
            data.extend_from_slice(chunk.bytes());
        }
        entries.push((entry, data));
    }
    Ok(entries)
}

fn one(archive: Archive) -> Read1 {
    let mut entries = read(&archive.finish()).unwrap();
    assert_eq!(entries.len(), 1);
    entries.remove(0)
}

fn refused(archive: Archive) -> TarError {
    read(&archive.finish()).expect_err("this archive should be refused")
}

#[test]
fn plain_members() {
    let archive = Archive::new()
        .mode(0o4755)
        .owner(1000, 2000)
        .file("bin/a", b"data")
        .dir("dir/")
        .symlink("link", "target")
        .hard_link("hard", "bin/a")
        .device(EntryType::Char, "c", 10, 200)
        .device(EntryType::Block, "b", 8, 1)
        .fifo("f");
    let entries = read(&archive.finish()).unwrap();
    let kinds: Vec<_> = entries.iter().map(|(entry, _)| &entry.kind).collect();
    assert_eq!(
        kinds,
        [
            &Kind::File { size: 4, map: None },
            &Kind::Dir,
            &Kind::Symlink(b"target".to_vec()),
            &Kind::HardLink(b"bin/a".to_vec()),
            &Kind::Char {
                major: 10,
                minor: 200
            },
            &Kind::Block { major: 8, minor: 1 },
            &Kind::Fifo,
        ]
    );
    let (entry, data) = &entries[0];
    assert_eq!(
        (entry.path.as_slice(), data.as_slice()),
        (&b"bin/a"[..], &b"data"[..])
    );
    assert_eq!((entry.mode, entry.uid, entry.gid), (0o4755, 1000, 2000));
    assert_eq!(
        entry.mtime,
        Timestamp {
            secs: 1_700_000_000,
            nanos: 0
        }
    );
}

#[test]
fn a_file_whose_name_ends_in_a_slash_is_a_directory() {
    assert_eq!(one(Archive::new().file("old/", b"")).0.kind, Kind::Dir);
}

#[test]
fn pax_records_win() {
    let long = "d/".repeat(500) + "f";
    let archive = Archive::new()
        .pax("uid", b"4000000000")
        .pax("gid", b"70000")
        .pax("mtime", b"1234567890.000000001")
        .xattr("security.capability", b"\x01\0\n\x02=\xff")
        .file(&long, b"x");
    let (entry, _) = one(archive);
    assert_eq!(entry.path, long.as_bytes());
    assert_eq!((entry.uid, entry.gid), (4_000_000_000, 70000));
    assert_eq!(
        entry.mtime,
        Timestamp {
            secs: 1_234_567_890,
            nanos: 1
        }
    );
    assert_eq!(
        entry.xattrs,
        [(
            b"security.capability".to_vec(),
            b"\x01\0\n\x02=\xff".to_vec()
        )]
    );
}

/// As many as fit into one header: none may take longer the more there are.
#[test]
fn an_attribute_s_last_record_counts() {
    const NAMES: u32 = 15_000;
    let mut archive = Archive::new();
    for value in [b"first", b"again"] {
        for n in 0..NAMES {
            archive = archive.xattr(&format!("user.{n}"), value);
        }
    }
    let (entry, _) = one(archive.file("f", b""));
    assert_eq!(entry.xattrs.len(), NAMES as usize);
    assert!(entry.xattrs.iter().all(|(_, value)| value == b"again"));
}

#[test]
fn pax_records_end_with_their_member() {
    let archive = Archive::new()
        .pax("uid", b"7")
        .file("a", b"")
        .file("b", b"");
    let entries = read(&archive.finish()).unwrap();
    assert_eq!((entries[0].0.uid, entries[1].0.uid), (7, 0));
}

#[test]
fn times_before_the_epoch_and_far_ahead() {
    for (text, secs, nanos) in [
        ("-1", -1, 0),
        ("-1.5", -2, 500_000_000),
        ("-0.25", -1, 750_000_000),
        ("0.1", 0, 100_000_000),
        ("9223372036854775807", i64::MAX, 0),
        ("5.1234567891234", 5, 123_456_789),
        ("5.", 5, 0),
    ] {
        let (entry, _) = one(Archive::new().pax("mtime", text.as_bytes()).file("a", b""));
        assert_eq!(entry.mtime, Timestamp { secs, nanos }, "{text}");
    }
    let negative = |header: &mut Header| {
        header.as_old_mut().mtime = [0xff; 12];
    };
    let archive = Archive::new().member(EntryType::Regular, "a", "", b"", negative);
    assert_eq!(one(archive).0.mtime, Timestamp { secs: -1, nanos: 0 });
    for bad in [
        "",
        "-",
        "x",
        "1.x",
        ".5",
        "1e9",
        "9223372036854775808",
        "--1",
    ] {
        let archive = Archive::new().pax("mtime", bad.as_bytes()).file("a", b"");
        assert!(
            matches!(refused(archive), TarError::Extension { .. }),
            "{bad}"
        );
    }
}

#[test]
fn gnu_names() {
    let long = "n".repeat(300);
    let archive = Archive::new()
        .member(
            EntryType::GNULongName,
            "././@LongLink",
            "",
            format!("{long}\0").as_bytes(),
            |_| {},
        )
        .member(
            EntryType::GNULongLink,
            "././@LongLink",
            "",
            format!("{long}x\0").as_bytes(),
            |_| {},
        )
        .symlink("short", "short");
    let (entry, _) = one(archive);
    assert_eq!(entry.path, long.as_bytes());
    assert_eq!(entry.kind, Kind::Symlink(format!("{long}x").into_bytes()));
}

#[test]
fn ustar_prefixes() {
    let prefix = |header: &mut Header| {
        header.as_ustar_mut().unwrap().prefix[..3].copy_from_slice(b"a/b");
    };
    let (entry, _) = one(Archive::new().member(EntryType::Regular, "c", "", b"", prefix));
    assert_eq!(entry.path, b"a/b/c");
}

#[test]
fn sizes_in_base_256() {
    let size = |header: &mut Header| {
        header.as_old_mut().size = [0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3];
    };
    let (_, data) = one(Archive::new().member(EntryType::Regular, "a", "", b"abc", size));
    assert_eq!(data, b"abc");
}

#[test]
fn global_headers_and_volume_labels_are_passed_over() {
    let archive = Archive::new()
        .member(EntryType::XGlobalHeader, "g", "", b"11 uid=77\n\n", |_| {})
        .member(EntryType::new(b'V'), "label", "", b"", |_| {})
        .file("a", b"");
    let (entry, _) = one(archive);
    assert_eq!((entry.path.as_slice(), entry.uid), (&b"a"[..], 0));
}

#[test]
fn malformed_pax_is_refused() {
    for bad in [
        &b"x"[..],
        b" ",
        b"5 a=b",
        b"7 a=b\n",
        b"99 a=b\n",
        b"6 a=bc",
        b"5 ab\n",
        b"5 =b\n",
        b"0 a=b\n",
        b"99999999999999999999 a=b\n",
        b"11 size=-1\n",
        b"18 uid=4294967296\n",
        b"9 path=\0\n",
    ] {
        let archive = Archive::new()
            .member(EntryType::XHeader, "pax", "", bad, |_| {})
            .file("a", b"");
        let error = refused(archive);
        assert!(
            matches!(error, TarError::Extension { .. }),
            "{}: {error}",
            bad.escape_ascii()
        );
    }
}

#[test]
fn a_huge_extension_is_refused_before_it_is_read() {
    let huge = |header: &mut Header| header.set_size(1 << 40);
    for kind in [
        EntryType::XHeader,
        EntryType::GNULongName,
        EntryType::GNULongLink,
    ] {
        let archive = Archive::new().member(kind, "x", "", b"", huge);
        assert!(matches!(refused(archive), TarError::Extension { .. }));
    }
}

#[test]
fn headers_that_are_none() {
    let error = refused(Archive::new().raw(&[1; 512]));
    assert!(
        matches!(error, TarError::Header { offset: 0, .. }),
        "{error}"
    );
    let mut bytes = Archive::new().file("a", b"").finish();
    bytes[0] = b'b';
    assert!(read(&bytes).unwrap_err().to_string().contains("checksum"));
    let error = refused(Archive::new().member(EntryType::new(b'?'), "a", "", b"", |_| {}));
    assert!(matches!(error, TarError::Type { kind: '?', .. }), "{error}");
    let error = refused(Archive::new().raw(&[0; 512]).file("a", b""));
    assert!(error.to_string().contains("lone zero block"), "{error}");
}

#[test]
fn a_stream_cut_short_is_truncated_at_whatever_place() {
    let whole = Archive::new()
        .pax("mtime", b"1")
        .file("a", &[b'x'; 1000])
        .file("b", &[b'y'; 600])
        .unfinished();
    // Header and data end here: what follows is padding, or nothing.
    let ends = [0, 512 * 3 + 1000, 512 * 5, 512 * 6 + 600, 512 * 8];
    for len in 0..whole.len() {
        let fine = ends.contains(&len)
            || (512 * 3 + 1000..512 * 5).contains(&len)
            || (512 * 6 + 600..512 * 8).contains(&len);
        match read(&whole[..len]) {
            Ok(_) => assert!(fine, "{len}"),
            Err(error) => assert!(
                matches!(error, TarError::Truncated(_)) && !fine,
                "{len}: {error}"
            ),
        }
    }
}

fn gnu_sparse(size: u64, map: &[(u64, u64)], data: &[u8]) -> Archive {
    let fill = |field: &mut GnuSparseHeader, (offset, len): (u64, u64)| {
        field.set_offset(offset);
        field.set_length(len);
    };
    let mut header = Header::new_gnu();
    header.as_old_mut().name[0] = b's';
    header.set_entry_type(EntryType::GNUSparse);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(data.len() as u64);
    let gnu = header.as_gnu_mut().unwrap();
    gnu.set_real_size(size);
    for (field, segment) in gnu.sparse.iter_mut().zip(map) {
        fill(field, *segment);
    }
    gnu.set_is_extended(map.len() > 4);
    header.set_cksum();
    let mut archive = Archive::new().raw(header.as_bytes());
    let mut rest = map.get(4..).unwrap_or_default();
    while !rest.is_empty() {
        let mut block = GnuExtSparseHeader::new();
        let here = rest.len().min(21);
        for (field, segment) in block.sparse_mut().iter_mut().zip(rest) {
            fill(field, *segment);
        }
        rest = &rest[here..];
        block.set_is_extended(!rest.is_empty());
        archive = archive.raw(block.as_bytes());
    }
    let padding = vec![0; data.len().next_multiple_of(512) - data.len()];
    archive.raw(data).raw(&padding)
}

fn segments(map: &[(u64, u64)]) -> Option<Vec<Segment>> {
    Some(
        map.iter()
            .map(|(offset, len)| Segment {
                offset: *offset,
                len: *len,
            })
            .collect(),
    )
}

#[test]
fn sparse_members_in_every_form() {
    let map = [(0, 2), (5000, 3), (9000, 0)];
    let file = Kind::File {
        size: 9000,
        map: segments(&map),
    };
    assert_eq!(one(gnu_sparse(9000, &map, b"abcde")).0.kind, file);
    let pax_0_1 = Archive::new()
        .pax("GNU.sparse.size", b"9000")
        .pax("GNU.sparse.map", b"0,2,5000,3,9000,0")
        .pax("GNU.sparse.name", b"s")
        .file("GNUSparseFile.0/s", b"abcde");
    let (entry, data) = one(pax_0_1);
    assert_eq!((entry.kind, data.as_slice()), (file, &b"abcde"[..]));
    assert_eq!(entry.path, b"s");
    let file = Kind::File {
        size: 9000,
        map: segments(&map),
    };
    let mut pax_0_0 = Archive::new().pax("GNU.sparse.size", b"9000");
    for (offset, len) in map {
        pax_0_0 = pax_0_0
            .pax("GNU.sparse.offset", offset.to_string().as_bytes())
            .pax("GNU.sparse.numbytes", len.to_string().as_bytes());
    }
    assert_eq!(one(pax_0_0.file("s", b"abcde")).0.kind, file);
    let mut data = b"3\n0\n2\n5000\n3\n9000\n0\n".to_vec();
    data.resize(512, 0);
    data.extend_from_slice(b"abcde");
    let pax_1_0 = Archive::new()
        .pax("GNU.sparse.major", b"1")
        .pax("GNU.sparse.minor", b"0")
        .pax("GNU.sparse.realsize", b"9000")
        .file("s", &data);
    let (entry, data) = one(pax_1_0);
    assert_eq!((entry.kind, data.as_slice()), (file, &b"abcde"[..]));
}

#[test]
fn long_sparse_maps_continue_in_further_blocks() {
    let map: Vec<(u64, u64)> = (0..60).map(|n| (n * 4096, 1)).collect();
    let (entry, data) = one(gnu_sparse(60 * 4096, &map, &[b'x'; 60]));
    assert_eq!(
        entry.kind,
        Kind::File {
            size: 60 * 4096,
            map: segments(&map)
        }
    );
    assert_eq!(data.len(), 60);
}

#[test]
fn sparse_maps_that_lie_are_refused() {
    for (size, map, data) in [
        (10, &[(0, 5)][..], 4),
        (10, &[(0, 5)], 6),
        (10, &[(5, 3), (0, 3)], 6),
        (10, &[(0, 4), (2, 4)], 8),
        (4, &[(0, 5)], 5),
        (10, &[(0o77_777_777_777, 5)], 5),
    ] {
        let error = refused(gnu_sparse(size, map, &vec![b'x'; data]));
        assert!(
            matches!(error, TarError::Extension { .. }),
            "{map:?}: {error}"
        );
    }
    for data in [
        &b"99999999\n"[..],
        b"x\n",
        b"1\n",
        b"1\n1\n1\n1\n",
        b"18446744073709551616\n",
    ] {
        let mut data = data.to_vec();
        data.resize(512, 0);
        let archive = Archive::new()
            .pax("GNU.sparse.major", b"1")
            .pax("GNU.sparse.realsize", b"10")
            .file("s", &data);
        refused(archive);
    }
    refused(Archive::new().pax("GNU.sparse.major", b"2").file("s", b""));
    refused(Archive::new().pax("GNU.sparse.map", b"0,1").file("s", b"x"));
}

#[test]
fn seeking_finds_what_reading_finds() {
    let archive = Archive::new()
        .file("a", &vec![b'x'; 300_000])
        .file("b", b"yz")
        .finish();
    let mut tar = TarReader::new(io::Cursor::new(&archive));
    let mut found = Vec::new();
    while let Some(entry) = tar.next_entry().unwrap() {
        found.push((entry.path, tar.offset()));
        tar.seek_past_data().unwrap();
    }
    assert_eq!(
        found,
        [(b"a".to_vec(), 512), (b"b".to_vec(), 512 + 300_032 + 512)]
    );
    assert_eq!(&archive[300_032 + 1024..][..2], b"yz");
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..4096)) {
        let _ = read(&bytes);
    }

    /// Damage that a checksum doesn't see, since it is made good.
    #[test]
    fn any_field_may_be_wrong(
        changes in prop::collection::vec((0usize..512, any::<u8>()), 0..20),
        kind in prop::sample::select(&b"01234567SxgLKV\0"[..]),
    ) {
        let archive = Archive::new().member(EntryType::new(kind), "a/b", "c", &[b'1'; 700], |header| {
            for (at, byte) in changes {
                header.as_mut_bytes()[at] = byte;
            }
        });
        let _ = read(&archive.file("next", b"x").finish());
    }

    #[test]
    fn what_the_tar_crate_writes_is_read_back(
        path in "[a-z]{1,60}(/[a-z]{1,60}){0,4}",
        data in prop::collection::vec(any::<u8>(), 0..2000),
        mtime in 0u64..1 << 33,
        uid in 0u64..1 << 32,
    ) {
        let mut builder = ::tar::Builder::new(Vec::new());
        let mut header = Header::new_gnu();
        header.set_size(data.len() as u64);
        header.set_mode(0o640);
        header.set_uid(uid);
        header.set_gid(5);
        header.set_mtime(mtime);
        builder.append_data(&mut header, &path, data.as_slice()).unwrap();
        let entries = read(&builder.into_inner().unwrap()).unwrap();
        prop_assert_eq!(entries.len(), 1);
        let (entry, read) = &entries[0];
        prop_assert_eq!(&entry.path, path.as_bytes());
        prop_assert_eq!(read, &data);
        prop_assert_eq!(u64::from(entry.uid), uid);
        prop_assert_eq!(entry.mtime.secs.cast_unsigned(), mtime);
    }
}
