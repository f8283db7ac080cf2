// SPDX-License-Identifier: Apache-2.0
//! Extended attributes, checked and encoded as they will stand behind their inode.

use crate::ondisk;

/// Room that `i_xattr_icount`, 16 bits wide, can count.
const MAX_BODY: usize = ondisk::XATTR_HEADER + 4 * (u16::MAX as usize - 1);

/// What the kernel accepts in one attribute (`XATTR_SIZE_MAX` is one more than e_value_size holds).
const MAX_VALUE: usize = u16::MAX as usize;

#[derive(Debug, thiserror::Error)]
pub enum XattrError {
    #[error("the name of extended attribute {0:?} is empty, longer than 255 bytes or holds a NUL")]
    Name(String),
    #[error("extended attribute {0:?} is in no namespace that Linux has")]
    Namespace(String),
    #[error("the value of extended attribute {name:?} is {len} bytes long, more than 65535")]
    Value { name: String, len: usize },
    #[error("its extended attributes take more than {MAX_BODY} bytes")]
    TooMany,
}

/// The inline xattr body: empty where there are none.
pub(crate) type Encoded = Box<[u8]>;

/// Encodes all attributes of one inode, sorted by name so that equal sets give equal bytes; those
/// in `user.` only where the inode may have them.
pub(crate) fn encode(xattrs: &[(Vec<u8>, Vec<u8>)], user: bool) -> Result<Encoded, XattrError> {
    let mut sorted: Vec<_> = xattrs
        .iter()
        .filter(|(name, _)| !is_overlays_own(name) && (user || !name.starts_with(b"user.")))
        .collect();
    sorted.sort();
    if sorted.is_empty() {
        return Ok(Box::default());
    }
    let mut body = vec![0; ondisk::XATTR_HEADER];
    for (name, value) in sorted {
        let printable = || name.escape_ascii().to_string();
        let (index, suffix) = split(name).ok_or_else(|| XattrError::Namespace(printable()))?;
        let suffix_len = match u8::try_from(suffix.len()) {
            Ok(len) if name.len() <= 255 && !name.contains(&0) => len,
            _ => return Err(XattrError::Name(printable())),
        };
        let Some(value_len) = u16::try_from(value.len())
            .ok()
            .filter(|_| value.len() <= MAX_VALUE)
        else {
            return Err(XattrError::Value {
                name: printable(),
                len: value.len(),
            });
        };
        body.extend_from_slice(&ondisk::xattr_entry(index, suffix_len, value_len));
        body.extend_from_slice(suffix);
        body.extend_from_slice(value);
        body.resize(body.len().next_multiple_of(4), 0);
        if body.len() > MAX_BODY {
            return Err(XattrError::TooMany);
        }
    }
    Ok(body.into_boxed_slice())
}

/// Name index and the rest of the name.
fn split(name: &[u8]) -> Option<(u8, &[u8])> {
    match name {
        b"system.posix_acl_access" => return Some((ondisk::XATTR_ACL_ACCESS, &[])),
        b"system.posix_acl_default" => return Some((ondisk::XATTR_ACL_DEFAULT, &[])),
        _ => {}
    }
    let prefixes: [(&[u8], u8); 3] = [
        (b"user.", ondisk::XATTR_USER),
        (b"trusted.", ondisk::XATTR_TRUSTED),
        (b"security.", ondisk::XATTR_SECURITY),
    ];
    prefixes.iter().find_map(|(prefix, index)| {
        let suffix = name.strip_prefix(*prefix)?;
        (!suffix.is_empty()).then_some((*index, suffix))
    })
}

fn is_overlays_own(name: &[u8]) -> bool {
    name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(name: &[u8], value: &[u8]) -> Result<Encoded, XattrError> {
        encode(&[(name.to_vec(), value.to_vec())], true)
    }

    #[test]
    fn entries_are_padded_and_prefixed() {
        let body = one(b"user.ab", b"xyz").unwrap();
        assert_eq!(body[12..], *b"\x02\x01\x03\0abxyz\0\0\0");
        let body = one(b"security.capability", &[1; 20]).unwrap();
        assert_eq!(body[12..16], [10, 6, 20, 0]);
        assert_eq!(
            one(b"system.posix_acl_access", b"1").unwrap()[12..17],
            *b"\0\x02\x01\x001"
        );
    }

    #[test]
    fn order_does_not_matter() {
        let a = (b"user.a".to_vec(), b"1".to_vec());
        let b = (b"user.b".to_vec(), b"2".to_vec());
        assert_eq!(
            encode(&[a.clone(), b.clone()], true).unwrap(),
            encode(&[b, a], true).unwrap()
        );
    }

    #[test]
    fn overlay_attributes_are_dropped() {
        assert!(one(b"trusted.overlay.opaque", b"y").unwrap().is_empty());
        assert!(one(b"user.overlay.redirect", b"/etc").unwrap().is_empty());
        assert!(!one(b"trusted.overlayish", b"y").unwrap().is_empty());
    }

    #[test]
    fn user_attributes_are_not_for_symlinks_and_devices() {
        let xattrs = [
            (b"user.a".to_vec(), vec![]),
            (b"trusted.b".to_vec(), vec![]),
        ];
        assert_eq!(
            encode(&xattrs, false).unwrap(),
            one(b"trusted.b", b"").unwrap()
        );
    }

    #[test]
    fn what_linux_could_not_hold_is_refused() {
        assert!(matches!(
            one(b"weird.name", b""),
            Err(XattrError::Namespace(_))
        ));
        assert!(matches!(one(b"user.", b""), Err(XattrError::Namespace(_))));
        assert!(matches!(one(b"user.a\0b", b""), Err(XattrError::Name(_))));
        let long = [b"user.".to_vec(), vec![b'x'; 251]].concat();
        assert!(matches!(one(&long, b""), Err(XattrError::Name(_))));
        assert!(matches!(
            one(b"user.a", &[0; 65536]),
            Err(XattrError::Value { .. })
        ));
        let many: Vec<_> = (0..5)
            .map(|n| (format!("user.{n}").into_bytes(), vec![0; 65535]))
            .collect();
        assert!(matches!(encode(&many, true), Err(XattrError::TooMany)));
    }
}
