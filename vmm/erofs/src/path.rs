// SPDX-License-Identifier: Apache-2.0
//! Paths in a layer: cleaned by name here, resolved against the tree in [`crate::layer`].

/// Linux's `PATH_MAX`, without the NUL.
const MAX_PATH: usize = 4095;
const MAX_NAME: usize = 255;

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PathError {
    #[error("it climbs above the root")]
    Escapes,
    #[error("it is longer than {MAX_PATH} bytes")]
    TooLong,
    #[error("a name in it is longer than {MAX_NAME} bytes")]
    NameTooLong,
    #[error("it holds a NUL")]
    Nul,
}

/// A path's components, `.` and `..` resolved by name; none for the root itself.
pub(crate) fn components(path: &[u8]) -> Result<Vec<&[u8]>, PathError> {
    if path.len() > MAX_PATH {
        return Err(PathError::TooLong);
    }
    let mut components = Vec::new();
    for name in path.split(|byte| *byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => {
                components.pop().ok_or(PathError::Escapes)?;
            }
            name if name.len() > MAX_NAME => return Err(PathError::NameTooLong),
            name if name.contains(&0) => return Err(PathError::Nul),
            name => components.push(name),
        }
    }
    Ok(components)
}

/// For messages: printable, and never longer than a line or two.
pub(crate) fn display(path: &[u8]) -> String {
    const MOST: usize = 200;
    let mut shown = path
        .iter()
        .take(MOST)
        .copied()
        .collect::<Vec<_>>()
        .escape_ascii()
        .to_string();
    if path.len() > MOST {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cleaned_by_name() {
        assert_eq!(components(b"./a//b/./c/").unwrap(), [&b"a"[..], b"b", b"c"]);
        assert_eq!(
            components(b"/etc/passwd").unwrap(),
            [&b"etc"[..], b"passwd"]
        );
        assert_eq!(components(b"a/../b").unwrap(), [&b"b"[..]]);
        assert!(components(b"./").unwrap().is_empty());
        assert_eq!(components(b"..."), Ok(vec![&b"..."[..]]));
    }

    #[test]
    fn climbing_out_is_refused() {
        for path in [
            &b".."[..],
            b"../x",
            b"a/../../x",
            b"/../etc/passwd",
            b"./..",
        ] {
            assert_eq!(
                components(path),
                Err(PathError::Escapes),
                "{}",
                display(path)
            );
        }
    }

    #[test]
    fn lengths_are_bounded() {
        assert_eq!(components(&[b'n'; 256]), Err(PathError::NameTooLong));
        assert!(components(&[b'n'; 255]).is_ok());
        assert_eq!(components(&b"ab/".repeat(2000)), Err(PathError::TooLong));
        assert_eq!(components(b"a\0b"), Err(PathError::Nul));
    }
}
