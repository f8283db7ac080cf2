// SPDX-License-Identifier: Apache-2.0
//! Where in the log's files its last entries begin.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const CHUNK: usize = 64 << 10;

/// The log's files, oldest first.
pub(super) fn files(path: &Path) -> Vec<PathBuf> {
    let mut all = vec![path.to_owned()];
    for n in 1.. {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{n}"));
        let older = PathBuf::from(name);
        if !older.exists() {
            break;
        }
        all.push(older);
    }
    all.reverse();
    all
}

/// The offset of the last `wanted` entries of one file, and how many it has of them. What was cut off
/// behind the last newline is no entry.
pub(super) fn start_of_last(file: &File, wanted: u64) -> io::Result<(u64, u64)> {
    let len = file.metadata()?.len();
    let mut at = len;
    let mut found = 0;
    let mut any = false;
    let mut buffer = vec![0; CHUNK];
    while at > 0 && wanted > 0 {
        let size = usize::try_from(at).unwrap_or(CHUNK).min(CHUNK);
        let begin = at - size as u64;
        file.read_exact_at(&mut buffer[..size], begin)?;
        for index in (0..size).rev() {
            // The newline that ends the last entry separates nothing.
            if buffer[index] != b'\n' || !std::mem::replace(&mut any, true) {
                continue;
            }
            found += 1;
            if found == wanted {
                return Ok((begin + index as u64 + 1, found));
            }
        }
        at = begin;
    }
    // The first entry has no newline before it.
    let first = u64::from(any);
    Ok((if wanted == 0 { len } else { 0 }, found + first))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("l");
        std::fs::write(&path, "a\nbb\nccc\n").unwrap();
        let file = File::open(&path).unwrap();
        for (wanted, answer) in [
            (0, (9, 0)),
            (1, (5, 1)),
            (2, (2, 2)),
            (3, (0, 3)),
            (9, (0, 3)),
        ] {
            assert_eq!(start_of_last(&file, wanted).unwrap(), answer, "{wanted}");
        }
        std::fs::write(&path, "a\nbb\ncut").unwrap();
        let file = File::open(&path).unwrap();
        for (wanted, answer) in [(1, (2, 1)), (2, (0, 2)), (9, (0, 2))] {
            assert_eq!(start_of_last(&file, wanted).unwrap(), answer, "{wanted}");
        }
        std::fs::write(&path, "cut").unwrap();
        let file = File::open(&path).unwrap();
        assert_eq!(start_of_last(&file, 1).unwrap(), (0, 0));
        std::fs::write(&path, "").unwrap();
        assert_eq!(
            start_of_last(&File::open(&path).unwrap(), 5).unwrap(),
            (0, 0)
        );
    }

    #[test]
    fn oldest_first() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("l");
        for name in ["l", "l.1", "l.2", "l.4"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        let names: Vec<_> = files(&path)
            .iter()
            .map(|p| p.file_name().unwrap().to_str().unwrap().to_owned())
            .collect();
        assert_eq!(names, ["l.2", "l.1", "l"]);
    }
}
