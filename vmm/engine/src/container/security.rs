// SPDX-License-Identifier: Apache-2.0
//! What a container may do: capabilities, seccomp, new privileges.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::PathBuf;

use oci_spec::runtime::Capability;
use serde::{Deserialize, Deserializer, Serialize};
use thiserror::Error;

use crate::spec::seccomp::Profile;

#[derive(Debug, Error)]
pub enum SecurityError {
    #[error("invalid capability: \"{0}\"")]
    Capability(String),
    #[error("invalid --security-opt: \"{0}\"")]
    Option(String),
    #[error("open seccomp profile {path}")]
    OpenProfile { path: PathBuf, source: io::Error },
    #[error("read seccomp profile {path}")]
    ParseProfile {
        path: PathBuf,
        source: serde_json::Error,
    },
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub enum Seccomp {
    Default,
    Unconfined,
    Profile(Box<Profile>),
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Security {
    /// Bounding, permitted and effective alike, by name (`CAP_CHOWN`).
    #[serde(deserialize_with = "known_names")]
    pub capabilities: BTreeSet<&'static str>,
    pub seccomp: Seccomp,
    pub no_new_privileges: bool,
    pub privileged: bool,
}

/// Docker's default set.
const DEFAULT: &[&str] = &[
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

/// All that Linux 6.12 has, in the order of their numbers (linux/capability.h).
const ALL: &[(&str, Capability)] = &[
    ("CAP_CHOWN", Capability::Chown),
    ("CAP_DAC_OVERRIDE", Capability::DacOverride),
    ("CAP_DAC_READ_SEARCH", Capability::DacReadSearch),
    ("CAP_FOWNER", Capability::Fowner),
    ("CAP_FSETID", Capability::Fsetid),
    ("CAP_KILL", Capability::Kill),
    ("CAP_SETGID", Capability::Setgid),
    ("CAP_SETUID", Capability::Setuid),
    ("CAP_SETPCAP", Capability::Setpcap),
    ("CAP_LINUX_IMMUTABLE", Capability::LinuxImmutable),
    ("CAP_NET_BIND_SERVICE", Capability::NetBindService),
    ("CAP_NET_BROADCAST", Capability::NetBroadcast),
    ("CAP_NET_ADMIN", Capability::NetAdmin),
    ("CAP_NET_RAW", Capability::NetRaw),
    ("CAP_IPC_LOCK", Capability::IpcLock),
    ("CAP_IPC_OWNER", Capability::IpcOwner),
    ("CAP_SYS_MODULE", Capability::SysModule),
    ("CAP_SYS_RAWIO", Capability::SysRawio),
    ("CAP_SYS_CHROOT", Capability::SysChroot),
    ("CAP_SYS_PTRACE", Capability::SysPtrace),
    ("CAP_SYS_PACCT", Capability::SysPacct),
    ("CAP_SYS_ADMIN", Capability::SysAdmin),
    ("CAP_SYS_BOOT", Capability::SysBoot),
    ("CAP_SYS_NICE", Capability::SysNice),
    ("CAP_SYS_RESOURCE", Capability::SysResource),
    ("CAP_SYS_TIME", Capability::SysTime),
    ("CAP_SYS_TTY_CONFIG", Capability::SysTtyConfig),
    ("CAP_MKNOD", Capability::Mknod),
    ("CAP_LEASE", Capability::Lease),
    ("CAP_AUDIT_WRITE", Capability::AuditWrite),
    ("CAP_AUDIT_CONTROL", Capability::AuditControl),
    ("CAP_SETFCAP", Capability::Setfcap),
    ("CAP_MAC_OVERRIDE", Capability::MacOverride),
    ("CAP_MAC_ADMIN", Capability::MacAdmin),
    ("CAP_SYSLOG", Capability::Syslog),
    ("CAP_WAKE_ALARM", Capability::WakeAlarm),
    ("CAP_BLOCK_SUSPEND", Capability::BlockSuspend),
    ("CAP_AUDIT_READ", Capability::AuditRead),
    ("CAP_PERFMON", Capability::Perfmon),
    ("CAP_BPF", Capability::Bpf),
    ("CAP_CHECKPOINT_RESTORE", Capability::CheckpointRestore),
];

/// Every capability there is.
pub fn all() -> impl Iterator<Item = Capability> {
    ALL.iter().map(|(_, value)| *value)
}

/// A record's names become ours again.
fn known_names<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeSet<&'static str>, D::Error> {
    let given = Vec::<String>::deserialize(from)?;
    names(&given)
        .map(|names| names.into_iter().collect())
        .map_err(serde::de::Error::custom)
}

/// The spec's value for a name of [`Security::capabilities`].
pub fn capability(name: &str) -> Option<Capability> {
    ALL.iter()
        .find(|(known, _)| *known == name)
        .map(|(_, value)| *value)
}

impl Security {
    pub fn new(
        add: &[String],
        drop: &[String],
        privileged: bool,
        options: &[String],
    ) -> Result<Self, SecurityError> {
        let mut security = Self {
            capabilities: capabilities(add, drop, privileged)?,
            seccomp: if privileged {
                Seccomp::Unconfined
            } else {
                Seccomp::Default
            },
            no_new_privileges: false,
            privileged,
        };
        for option in options {
            // Docker also takes the older spelling with a colon.
            let (key, value) = match option.split_once(['=', ':']) {
                Some((key, value)) => (key, Some(value)),
                None => (option.as_str(), None),
            };
            match (key, value) {
                ("no-new-privileges", None | Some("true")) => security.no_new_privileges = true,
                ("no-new-privileges", Some("false")) => security.no_new_privileges = false,
                ("seccomp", Some("unconfined")) => security.seccomp = Seccomp::Unconfined,
                ("seccomp", Some("builtin")) => security.seccomp = Seccomp::Default,
                ("seccomp", Some(path)) => security.seccomp = Seccomp::Profile(read(path)?),
                // There is neither AppArmor nor SELinux in the guest.
                ("apparmor", Some("unconfined")) | ("label", Some("disable")) => {}
                _ => return Err(SecurityError::Option(option.clone())),
            }
        }
        Ok(security)
    }

    /// What it may beyond Docker's default; a privileged one may all anyway.
    pub fn added(&self) -> Vec<&'static str> {
        let added = self.capabilities.iter().copied();
        let added = added.filter(|name| !self.privileged && !DEFAULT.contains(name));
        added.collect()
    }

    /// What it may not of Docker's default.
    pub fn dropped(&self) -> Vec<&'static str> {
        let default = DEFAULT.iter().copied();
        default
            .filter(|name| !self.capabilities.contains(name))
            .collect()
    }
}

fn read(path: &str) -> Result<Box<Profile>, SecurityError> {
    let path = PathBuf::from(path);
    let text = fs::read(&path).map_err(|source| SecurityError::OpenProfile {
        path: path.clone(),
        source,
    })?;
    serde_json::from_slice(&text).map_err(|source| SecurityError::ParseProfile { path, source })
}

/// Docker's order: `ALL` on either side first, then what is named.
fn capabilities(
    add: &[String],
    drop: &[String],
    privileged: bool,
) -> Result<BTreeSet<&'static str>, SecurityError> {
    let add = names(add)?;
    let drop = names(drop)?;
    let mut set: BTreeSet<&'static str> = if privileged || add.contains(&"ALL") {
        ALL.iter().map(|(name, _)| *name).collect()
    } else if drop.contains(&"ALL") {
        BTreeSet::new()
    } else {
        DEFAULT.iter().copied().collect()
    };
    if privileged {
        return Ok(set);
    }
    set.retain(|name| !drop.contains(name));
    set.extend(
        add.into_iter()
            .filter(|name| *name != "ALL" && !drop.contains(name)),
    );
    Ok(set)
}

/// `net_admin`, `NET_ADMIN` and `CAP_NET_ADMIN` are one.
fn names(given: &[String]) -> Result<Vec<&'static str>, SecurityError> {
    given
        .iter()
        .map(|given| {
            let upper = given.to_ascii_uppercase();
            if upper == "ALL" {
                return Ok("ALL");
            }
            let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
            ALL.iter()
                .map(|(name, _)| *name)
                .find(|name| name.strip_prefix("CAP_") == Some(bare))
                .ok_or_else(|| SecurityError::Capability(given.clone()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(add: &[&str], drop: &[&str]) -> BTreeSet<&'static str> {
        let owned = |all: &[&str]| all.iter().map(ToString::to_string).collect::<Vec<_>>();
        capabilities(&owned(add), &owned(drop), false).unwrap()
    }

    #[test]
    fn dockers_default_set() {
        let default = set(&[], &[]);
        assert_eq!(default.len(), 14);
        assert!(default.contains("CAP_MKNOD") && !default.contains("CAP_SYS_ADMIN"));
        assert!(DEFAULT.iter().all(|name| capability(name).is_some()));
        let [add, drop] = ["net_admin", "chown"].map(|name| vec![name.to_owned()]);
        let security = |privileged| Security::new(&add, &drop, privileged, &[]).unwrap();
        assert_eq!(security(false).added(), ["CAP_NET_ADMIN"]);
        assert_eq!(security(false).dropped(), ["CAP_CHOWN"]);
        let all = security(true);
        assert!(all.added().is_empty() && all.dropped().is_empty());
        assert_eq!(ALL.len(), 41);
    }

    #[test]
    fn added_and_dropped() {
        assert!(set(&["net_admin"], &[]).contains("CAP_NET_ADMIN"));
        assert_eq!(set(&["CAP_CHOWN"], &["all"]), BTreeSet::from(["CAP_CHOWN"]));
        let most = set(&["ALL"], &["SYS_ADMIN"]);
        assert!(most.len() == 40 && !most.contains("CAP_SYS_ADMIN"));
        let error = names(&["SYS_FOO".to_owned()]).unwrap_err();
        assert_eq!(error.to_string(), "invalid capability: \"SYS_FOO\"");
    }

    #[test]
    fn options() {
        let options = |all: &[&str]| {
            let owned: Vec<String> = all.iter().map(ToString::to_string).collect();
            Security::new(&[], &[], false, &owned)
        };
        assert!(options(&["no-new-privileges"]).unwrap().no_new_privileges);
        assert!(
            options(&["no-new-privileges:true"])
                .unwrap()
                .no_new_privileges
        );
        let open = options(&["seccomp=unconfined"]).unwrap();
        assert!(matches!(open.seccomp, Seccomp::Unconfined) && !open.no_new_privileges);
        assert!(options(&["frob=1"]).is_err());
        let missing = options(&["seccomp=/nonexistent"]).unwrap_err();
        assert_eq!(missing.to_string(), "open seccomp profile /nonexistent");
    }
}
