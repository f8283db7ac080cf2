// SPDX-License-Identifier: Apache-2.0
//! Who may open a device, and how to become one of them.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What lets a user open `device`, which has refused.
pub fn permission_hint(device: &str) -> String {
    let Ok(meta) = fs::metadata(device) else {
        return "ask the administrator for access".to_owned();
    };
    if meta.mode() & 0o060 != 0o060 || meta.gid() == 0 {
        return format!(
            "it is for user {} only; `chgrp kvm {device} && chmod 660 {device}` lets a group in",
            meta.uid()
        );
    }
    let group = group_name(Path::new("/etc/group"), meta.gid());
    let group = group.unwrap_or_else(|| meta.gid().to_string());
    format!(
        "it is for the group {group}; `sudo usermod -aG {group} $USER` and a new login put you in it"
    )
}

fn group_name(file: &Path, gid: u32) -> Option<String> {
    let groups = fs::read_to_string(file).ok()?;
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(gid)).then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_is_found_by_its_number() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "root:x:0:\nkvm:x:107:alice,bob\nbroken\n").unwrap();
        assert_eq!(group_name(file.path(), 107).as_deref(), Some("kvm"));
        assert_eq!(group_name(file.path(), 1), None);
        assert_eq!(group_name(Path::new("/nonexistent"), 107), None);
    }

    #[test]
    fn a_device_of_one_user_wants_a_group() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap();
        let hint = permission_hint(path);
        assert!(hint.contains(&format!("chgrp kvm {path}")), "{hint}");
        let hint = permission_hint("/nonexistent");
        assert_eq!(hint, "ask the administrator for access");
    }
}
