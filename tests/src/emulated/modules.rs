// SPDX-License-Identifier: Apache-2.0
//! Kernel modules: which file, and after which others, by the modules' own words.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

#[derive(Debug, thiserror::Error)]
pub enum ModuleError {
    #[error("can't list the modules in {}", path.display())]
    List { path: PathBuf, source: io::Error },
    #[error("can't read the module {}", path.display())]
    Read { path: PathBuf, source: io::Error },
}

/// A module, decompressed.
pub(super) struct Module {
    pub(super) name: String,
    pub(super) bytes: Vec<u8>,
}

/// The wanted modules and all that they depend on, in the order to load them. What the kernel has
/// built in, or has not at all, is left out.
pub(super) fn in_load_order(modules: &Path, wanted: &[&str]) -> Result<Vec<Module>, ModuleError> {
    let mut files = HashMap::new();
    list(&modules.join("kernel"), &mut files).map_err(|source| ModuleError::List {
        path: modules.into(),
        source,
    })?;
    let mut order = Vec::new();
    let mut seen = HashSet::new();
    for name in wanted {
        visit(name, &files, &mut seen, &mut order)?;
    }
    Ok(order)
}

fn visit(
    name: &str,
    files: &HashMap<String, PathBuf>,
    seen: &mut HashSet<String>,
    order: &mut Vec<Module>,
) -> Result<(), ModuleError> {
    let name = name.replace('-', "_");
    let Some(path) = files.get(&name) else {
        return Ok(());
    };
    if !seen.insert(name.clone()) {
        return Ok(());
    }
    let bytes = decompress(path).map_err(|source| ModuleError::Read {
        path: path.clone(),
        source,
    })?;
    for dependency in dependencies(&bytes) {
        visit(&dependency, files, seen, order)?;
    }
    order.push(Module { name, bytes });
    Ok(())
}

fn list(directory: &Path, files: &mut HashMap<String, PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            list(&path, files)?;
        } else if let Some((stem, _)) = entry.file_name().to_string_lossy().split_once(".ko") {
            files.insert(stem.replace('-', "_"), path);
        }
    }
    Ok(())
}

fn decompress(path: &Path) -> io::Result<Vec<u8>> {
    let tool = match path.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        _ => return fs::read(path),
    };
    let done = Command::new(tool)
        .arg("-dc")
        .arg(path)
        .stdin(Stdio::null())
        .output()?;
    if done.status.success() {
        Ok(done.stdout)
    } else {
        Err(io::Error::other(format!("{tool}: {}", done.status)))
    }
}

/// The `depends=` entry of a module's `.modinfo` section: NUL-terminated `key=value` strings.
fn dependencies(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|window| window == KEY) else {
        return Vec::new();
    };
    let value = module.get(at + KEY.len()..).unwrap_or_default();
    let value = value.split(|byte| *byte == 0).next().unwrap_or_default();
    let value = String::from_utf8_lossy(value);
    value
        .split(',')
        .filter(|name| !name.is_empty())
        .map(Into::into)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_dependencies_from_modinfo() {
        let module = b"\x7fELF..\0license=GPL\0depends=kvm,ccp\0retpoline=Y\0";
        assert_eq!(dependencies(module), ["kvm", "ccp"]);
        assert!(dependencies(b"\0depends=\0").is_empty());
        assert!(dependencies(b"none").is_empty());
    }

    #[test]
    fn loads_dependencies_first_and_once() {
        let root = tempfile::tempdir().unwrap();
        let kernel = root.path().join("kernel/a");
        fs::create_dir_all(&kernel).unwrap();
        for (name, depends) in [("top", "mid,base"), ("mid", "base"), ("base", "")] {
            fs::write(
                kernel.join(format!("{name}.ko")),
                format!("\0depends={depends}\0"),
            )
            .unwrap();
        }
        let order = in_load_order(root.path(), &["top", "base", "built-in"]).unwrap();
        let names: Vec<_> = order.into_iter().map(|module| module.name).collect();
        assert_eq!(names, ["base", "mid", "top"]);
    }
}
