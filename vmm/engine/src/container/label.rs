// SPDX-License-Identifier: Apache-2.0
//! `--label` and `--label-file`: what users say about a container, to find it by.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::PathBuf;

use thiserror::Error;

#[derive(Debug, Error)]
pub enum LabelError {
    #[error("invalid label '{0}': empty name")]
    Empty(String),
    #[error("open {path}")]
    File { path: PathBuf, source: io::Error },
}

/// Files first, then flags, later ones winning; `NAME` alone has an empty value.
pub fn parse_all(
    files: &[PathBuf],
    flags: &[String],
) -> Result<BTreeMap<String, String>, LabelError> {
    let mut all = BTreeMap::new();
    for path in files {
        let text = fs::read_to_string(path).map_err(|source| LabelError::File {
            path: path.clone(),
            source,
        })?;
        for line in text.lines().map(str::trim_start) {
            if !line.is_empty() && !line.starts_with('#') {
                add(&mut all, line)?;
            }
        }
    }
    for flag in flags {
        add(&mut all, flag)?;
    }
    Ok(all)
}

fn add(all: &mut BTreeMap<String, String>, text: &str) -> Result<(), LabelError> {
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    if name.is_empty() {
        return Err(LabelError::Empty(text.to_owned()));
    }
    all.insert(name.to_owned(), value.to_owned());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_ones_win() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("l");
        fs::write(&file, "# c\n\na=1\nb\n").unwrap();
        let flags = ["a=2".to_owned(), "c=x=y".to_owned()];
        let all = parse_all(&[file], &flags).unwrap();
        let pairs: Vec<_> = all.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(pairs, [("a", "2"), ("b", ""), ("c", "x=y")]);
        assert!(parse_all(&[], &["=x".to_owned()]).is_err());
    }
}
