// SPDX-License-Identifier: Apache-2.0
//! Extended attributes, in archives as pax records of the name `SCHILY.xattr.NAME`.

use std::path::Path;

use rustix::fs::{lgetxattr, llistxattr, llistxattr_query};

pub const PREFIX: &str = "SCHILY.xattr.";
/// `XATTR_LIST_MAX` and `XATTR_SIZE_MAX` of linux/limits.h.
const MAX: usize = 64 << 10;

/// Whether an attribute is the file's own, and not of how the file system keeps it.
pub fn is_portable(name: &str) -> bool {
    name.starts_with("user.")
        || matches!(
            name,
            "security.capability" | "system.posix_acl_access" | "system.posix_acl_default"
        )
}

/// Names, with [`PREFIX`], and values. A file system without attributes has none.
pub fn of(path: &Path) -> Vec<(String, Vec<u8>)> {
    match llistxattr_query(path) {
        Ok(0) | Err(_) => Vec::new(),
        Ok(_) => all(path),
    }
}

fn all(path: &Path) -> Vec<(String, Vec<u8>)> {
    let mut names = vec![0; MAX];
    let Ok(len) = llistxattr(path, &mut names[..]) else {
        return Vec::new();
    };
    let names = names[..len].split(|byte| *byte == 0);
    let names = names.filter_map(|name| std::str::from_utf8(name).ok());
    names
        .filter(|name| is_portable(name))
        .filter_map(|name| {
            let mut value = vec![0; MAX];
            let len = lgetxattr(path, name, &mut value[..]).ok()?;
            value.truncate(len);
            Some((format!("{PREFIX}{name}"), value))
        })
        .collect()
}
