// SPDX-License-Identifier: Apache-2.0
//! Names as Docker reads them.

use proptest::prelude::*;

use super::*;

const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn name(text: &str) -> Name {
    text.parse()
        .unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn names_are_normalised_and_shown_short() {
    for (text, canonical, familiar) in [
        (
            "busybox",
            "docker.io/library/busybox:latest",
            "busybox:latest",
        ),
        (
            "busybox:1.36",
            "docker.io/library/busybox:1.36",
            "busybox:1.36",
        ),
        ("user/app", "docker.io/user/app:latest", "user/app:latest"),
        (
            "docker.io/busybox",
            "docker.io/library/busybox:latest",
            "busybox:latest",
        ),
        ("index.docker.io/a/b:c", "docker.io/a/b:c", "a/b:c"),
        ("localhost/x", "localhost/x:latest", "localhost/x:latest"),
        (
            "localhost:5000/x:y",
            "localhost:5000/x:y",
            "localhost:5000/x:y",
        ),
        ("ghcr.io/a/b/c:v1", "ghcr.io/a/b/c:v1", "ghcr.io/a/b/c:v1"),
        ("[::1]:5000/x", "[::1]:5000/x:latest", "[::1]:5000/x:latest"),
        (
            "a__b/c-_d".replace("-_", "--").as_str(),
            "docker.io/a__b/c--d:latest",
            "a__b/c--d:latest",
        ),
    ] {
        assert_eq!(name(text).canonical(), canonical);
        assert_eq!(name(text).to_string(), familiar);
    }
}

#[test]
fn a_digest_stands_for_a_tag() {
    let pinned = name(&format!("busybox@{DIGEST}"));
    assert_eq!(pinned.tag(), None);
    assert_eq!(pinned.to_string(), format!("busybox@{DIGEST}"));
    let both = name(&format!("busybox:1@{DIGEST}"));
    assert_eq!(
        (both.tag(), both.digest()),
        (Some("1"), Some(DIGEST.parse().unwrap()))
    );
}

#[test]
fn bad_names_are_refused() {
    for bad in [
        "",
        ":",
        "a:",
        ":b",
        "a b",
        "-a",
        "a-",
        "a..b",
        "a___b",
        "a//b",
        "/a",
        "a/",
        "a:b:c",
        "a:.tag",
        "a@sha256:12",
        "a@md5:12",
        "http://x/y",
        "x.y:port/z",
        "b\u{e9}",
        "[::1/x",
    ] {
        assert!(bad.parse::<Name>().is_err(), "{bad}");
    }
    assert_eq!(
        "Busybox".parse::<Name>(),
        Err(ReferenceError::Uppercase("Busybox".into()))
    );
    assert!(matches!(
        "a".repeat(250).parse::<Name>(),
        Err(ReferenceError::TooLong)
    ));
    assert!(format!("a:{}", "t".repeat(129)).parse::<Name>().is_err());
    assert!(matches!(
        "ab".repeat(32).parse::<Name>(),
        Err(ReferenceError::LooksLikeId(_))
    ));
}

#[test]
fn transports_take_a_path_and_perhaps_an_image() {
    let image = |text: &str| Some(text.to_owned());
    assert_eq!(
        "oci-archive:dir/busybox.tar".parse(),
        Ok(Reference::OciArchive {
            file: "dir/busybox.tar".into(),
            image: None
        })
    );
    assert_eq!(
        "docker-archive:b.tar:busybox:1".parse(),
        Ok(Reference::DockerArchive {
            file: "b.tar".into(),
            image: image("busybox:1")
        })
    );
    assert_eq!(
        "oci:d:v1".parse(),
        Ok(Reference::OciDir {
            dir: "d".into(),
            image: image("v1")
        })
    );
    assert_eq!(
        "oci:".parse::<Reference>(),
        Err(ReferenceError::NoPath("oci"))
    );
    // An image may be called what a transport is called.
    assert!(matches!(
        "oci".parse(),
        Ok(Reference::Stored(Stored::Name(_)))
    ));
    for text in ["oci-archive:a.tar:x:y", "oci:d", "docker-archive:x"] {
        assert_eq!(text.parse::<Reference>().unwrap().to_string(), text);
    }
}

#[test]
fn ids_and_digests_are_known() {
    let digest = DIGEST.parse().unwrap();
    assert_eq!(DIGEST.parse(), Ok(Stored::Digest(digest)));
    assert_eq!(
        DIGEST["sha256:".len()..].parse(),
        Ok(Stored::Digest(digest))
    );
    assert!(matches!(
        "e3b0c44298fc".parse(),
        Ok(Stored::NameOrId { .. })
    ));
    assert!(matches!("busybox".parse(), Ok(Stored::Name(_))));
}

proptest! {
    #[test]
    fn never_panics_and_canonical_names_are_fixed_points(text in "[a-zA-Z0-9./:@_\\[\\]-]{0,40}") {
        let _ = text.parse::<Reference>();
        if let Ok(name) = text.parse::<Name>() {
            prop_assert_eq!(name.canonical().parse::<Name>(), Ok(name.clone()));
            prop_assert_eq!(name.to_string().parse::<Name>(), Ok(name));
        }
    }
}
