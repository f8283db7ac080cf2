// SPDX-License-Identifier: Apache-2.0
//! The host's OCI runtime spec, made ready for libcontainer.
//!
//! Only the parts that the agent decides on are read and written: the process's user and HOME,
//! the control group's path, kernel parameters. The rest, the long seccomp section above all, is passed on as the
//! text it came as: under emulation each needless pass over it can be seen in a start's time.

use std::collections::{BTreeMap, HashMap};

use oci_spec::runtime::{
    LinuxDeviceCgroup, LinuxNamespace, LinuxNamespaceType, Process, Root, UserBuilder,
};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::paths::{GuestPath, PathError};
use crate::user::User;

/// What an image says its containers are to be stopped with.
const STOP_SIGNAL: &str = "org.opencontainers.image.stopSignal";

/// Before the ID of the container whose namespace it is.
const CONTAINER: &str = "container:";

#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    #[error("the spec's {part} is malformed")]
    Malformed {
        part: &'static str,
        source: serde_json::Error,
    },
    #[error("the spec has no {part}")]
    Missing { part: &'static str },
    #[error("the spec's root.path")]
    Root(#[source] PathError),
    #[error("no container {0} runs in this machine, whose namespace could be shared")]
    NoContainer(String),
    #[error("the spec's process can't be for this user")]
    User(#[source] oci_spec::OciSpecError),
}

/// A spec, taken apart.
#[derive(Debug)]
pub struct Spec<'a> {
    parts: BTreeMap<String, &'a RawValue>,
    linux: BTreeMap<String, &'a RawValue>,
    pub process: Process,
    pub root: GuestPath,
    /// `CLONE_NEW…` of the namespaces that the spec names.
    pub namespaces: u32,
    pub stop_signal: Option<String>,
    /// Those with their paths.
    named: Vec<LinuxNamespace>,
    /// Of the container's namespaces, in place of what the text has.
    pub sysctls: BTreeMap<String, String>,
}

/// The one part of "linux.resources" that is read here.
#[derive(Deserialize)]
struct Devices {
    devices: Option<Vec<LinuxDeviceCgroup>>,
}

impl<'a> Spec<'a> {
    /// # Errors
    /// It is no spec, or lacks a part that every Linux container has.
    pub fn parse(json: &'a [u8]) -> Result<Self, SpecError> {
        let parts: BTreeMap<String, &'a RawValue> =
            serde_json::from_slice(json).map_err(|source| SpecError::Malformed {
                part: "JSON",
                source,
            })?;
        let linux: BTreeMap<String, &'a RawValue> = part(&parts, "linux")?;
        let root: Root = part(&parts, "root")?;
        let annotations: HashMap<String, String> = match parts.get("annotations") {
            Some(_) => part(&parts, "annotations")?,
            None => HashMap::new(),
        };
        let namespaces: Vec<LinuxNamespace> = match linux.get("namespaces") {
            Some(_) => part(&linux, "namespaces")?,
            None => Vec::new(),
        };
        let root = root.path().to_str().unwrap_or_default();
        Ok(Self {
            process: part(&parts, "process")?,
            root: GuestPath::new(root).map_err(SpecError::Root)?,
            namespaces: namespaces
                .iter()
                .map(|ns| clone_flag(ns.typ()))
                .fold(0, |a, b| a | b),
            stop_signal: annotations.get(STOP_SIGNAL).cloned(),
            named: namespaces,
            sysctls: BTreeMap::new(),
            linux,
            parts,
        })
    }

    /// Whether the container has a network namespace that nobody else has.
    #[must_use]
    pub fn has_own_network(&self) -> bool {
        let is_network = |ns: &LinuxNamespace| ns.typ() == LinuxNamespaceType::Network;
        let mut named = self.named.iter();
        named.any(|ns| is_network(ns) && ns.path().is_none())
    }

    /// Puts the paths of other containers' namespaces where the spec names the containers;
    /// `first_process` says which process stands for one.
    ///
    /// # Errors
    /// There is no such container, or it does not run.
    pub fn join(&mut self, first_process: impl Fn(&str) -> Option<i32>) -> Result<(), SpecError> {
        for namespace in &mut self.named {
            let Some(path) = namespace.path() else {
                continue;
            };
            let Some(id) = path.to_str().and_then(|path| path.strip_prefix(CONTAINER)) else {
                continue;
            };
            let no_such = || SpecError::NoContainer(id.chars().take(64).collect());
            let pid = first_process(id).ok_or_else(no_such)?;
            let file = namespace_file(namespace.typ());
            namespace.set_path(Some(format!("/proc/{pid}/ns/{file}").into()));
        }
        Ok(())
    }

    /// The rules for devices, which libcontainer ignores.
    ///
    /// # Errors
    /// They are malformed.
    pub fn device_rules(&self) -> Result<Vec<LinuxDeviceCgroup>, SpecError> {
        if !self.linux.contains_key("resources") {
            return Ok(Vec::new());
        }
        let resources: Devices = part(&self.linux, "resources")?;
        Ok(resources.devices.unwrap_or_default())
    }

    /// The seccomp section, which libcontainer is not to see.
    #[must_use]
    pub fn take_seccomp(&mut self) -> Option<&'a str> {
        self.linux.remove("seccomp").map(RawValue::get)
    }

    /// The whole again for libcontainer, with `process` as it is now and the agent's path of the
    /// control group.
    ///
    /// # Errors
    /// None that JSON is known for.
    pub fn into_json(self, cgroups_path: &str) -> Result<Vec<u8>, SpecError> {
        let malformed = |part| move |source| SpecError::Malformed { part, source };
        let raw = |part, value: String| RawValue::from_string(value).map_err(malformed(part));
        let path = serde_json::to_string(cgroups_path).map_err(malformed("cgroupsPath"))?;
        let path = raw("cgroupsPath", path)?;
        let mut linux = self.linux;
        linux.insert("cgroupsPath".into(), &path);
        let sysctls = serde_json::to_string(&self.sysctls).map_err(malformed("sysctl"))?;
        let sysctls = raw("sysctl", sysctls)?;
        linux.insert("sysctl".into(), &sysctls);
        let named = serde_json::to_string(&self.named).map_err(malformed("namespaces"))?;
        let named = raw("namespaces", named)?;
        linux.insert("namespaces".into(), &named);
        let linux = serde_json::to_string(&linux).map_err(malformed("linux"))?;
        let linux = raw("linux", linux)?;
        let process = serde_json::to_string(&self.process).map_err(malformed("process"))?;
        let process = raw("process", process)?;
        let mut parts = self.parts;
        parts.insert("linux".into(), &linux);
        parts.insert("process".into(), &process);
        serde_json::to_vec(&parts).map_err(malformed("JSON"))
    }
}

/// A process alone, as Exec brings it.
///
/// # Errors
/// It is no process.
pub fn parse_process(json: &[u8]) -> Result<Process, SpecError> {
    serde_json::from_slice(json).map_err(|source| SpecError::Malformed {
        part: "process",
        source,
    })
}

/// Makes the process one of `user`'s.
///
/// # Errors
/// None that a user is known for.
pub fn set_user(process: &mut Process, user: &User) -> Result<(), SpecError> {
    let mut builder = UserBuilder::default()
        .uid(user.uid)
        .gid(user.gid)
        .additional_gids(user.additional_gids.clone());
    if let Some(umask) = process.user().umask() {
        builder = builder.umask(umask);
    }
    process.set_user(builder.build().map_err(SpecError::User)?);
    let mut env = process.env().clone().unwrap_or_default();
    if !env.iter().any(|entry| {
        entry
            .strip_prefix("HOME=")
            .is_some_and(|home| !home.is_empty())
    }) {
        env.retain(|entry| !entry.starts_with("HOME="));
        env.push(format!("HOME={}", user.home));
    }
    process.set_env(Some(env));
    Ok(())
}

fn part<'a, T: Deserialize<'a>>(
    parts: &BTreeMap<String, &'a RawValue>,
    name: &'static str,
) -> Result<T, SpecError> {
    let json = parts.get(name).ok_or(SpecError::Missing { part: name })?;
    serde_json::from_str(json.get()).map_err(|source| SpecError::Malformed { part: name, source })
}

fn clone_flag(namespace: LinuxNamespaceType) -> u32 {
    let flag = match namespace {
        LinuxNamespaceType::Mount => libc::CLONE_NEWNS,
        LinuxNamespaceType::Cgroup => libc::CLONE_NEWCGROUP,
        LinuxNamespaceType::Uts => libc::CLONE_NEWUTS,
        LinuxNamespaceType::Ipc => libc::CLONE_NEWIPC,
        LinuxNamespaceType::User => libc::CLONE_NEWUSER,
        LinuxNamespaceType::Pid => libc::CLONE_NEWPID,
        LinuxNamespaceType::Network => libc::CLONE_NEWNET,
        LinuxNamespaceType::Time => 0x80,
    };
    flag.cast_unsigned()
}

/// namespaces(7).
fn namespace_file(namespace: LinuxNamespaceType) -> &'static str {
    match namespace {
        LinuxNamespaceType::Mount => "mnt",
        LinuxNamespaceType::Cgroup => "cgroup",
        LinuxNamespaceType::Uts => "uts",
        LinuxNamespaceType::Ipc => "ipc",
        LinuxNamespaceType::User => "user",
        LinuxNamespaceType::Pid => "pid",
        LinuxNamespaceType::Network => "net",
        LinuxNamespaceType::Time => "time",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SPEC: &str = r#"{
        "ociVersion": "1.2.0",
        "process": {"terminal": true, "user": {"uid": 0, "gid": 0, "umask": 18}, "cwd": "/",
            "args": ["sh"], "env": ["PATH=/bin", "HOME="], "noNewPrivileges": false, "capabilities": {"bounding": ["CAP_KILL"]}},
        "root": {"path": "/run/rootfs", "readonly": true},
        "annotations": {"org.opencontainers.image.stopSignal": "SIGINT"},
        "unheardOf": [1, 2.50],
        "linux": {"namespaces": [{"type": "pid"}, {"type": "mount"}], "cgroupsPath": "/elsewhere",
            "sysctl": {"vm.swappiness": "1"},
            "seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "more": {}}}
    }"#;

    #[test]
    fn the_agents_parts_change_and_the_rest_stays() {
        let mut spec = Spec::parse(SPEC.as_bytes()).unwrap();
        assert_eq!(
            spec.namespaces,
            (libc::CLONE_NEWPID | libc::CLONE_NEWNS).cast_unsigned()
        );
        assert_eq!(spec.stop_signal.as_deref(), Some("SIGINT"));
        assert_eq!(spec.root.as_path(), std::path::Path::new("/run/rootfs"));
        let user = User {
            uid: 7,
            gid: 8,
            additional_gids: vec![8, 9],
            home: "/home/seven".into(),
        };
        set_user(&mut spec.process, &user).unwrap();
        assert!(spec.take_seccomp().unwrap().contains("more"));
        spec.process.set_capabilities(None);
        spec.sysctls.insert("kernel.shmmax".into(), "7".into());
        let config = spec.into_json("/containers/1").unwrap();
        let value: serde_json::Value = serde_json::from_slice(&config).unwrap();
        assert_eq!(value["linux"]["cgroupsPath"], "/containers/1");
        assert_eq!(value["linux"].get("seccomp"), None);
        assert_eq!(
            value["linux"]["sysctl"],
            serde_json::json!({"kernel.shmmax": "7"})
        );
        assert_eq!(value["process"].get("capabilities"), None);
        assert_eq!(value["unheardOf"][1], 2.5);
        assert_eq!(value["process"]["user"]["uid"], 7);
        assert_eq!(value["process"]["user"]["umask"], 18);
        assert_eq!(
            value["process"]["env"],
            serde_json::json!(["PATH=/bin", "HOME=/home/seven"])
        );
    }

    #[test]
    fn namespaces_of_other_containers() {
        let json = SPEC.replace(
            r#"{"type": "pid"}"#,
            r#"{"type": "pid", "path": "container:abc"}, {"type": "network"}"#,
        );
        let mut spec = Spec::parse(json.as_bytes()).unwrap();
        assert!(spec.has_own_network());
        let unknown = spec.join(|_| None).unwrap_err().to_string();
        assert!(unknown.starts_with("no container abc runs"), "{unknown}");
        spec.join(|id| (id == "abc").then_some(7)).unwrap();
        let config = spec.into_json("/c").unwrap();
        let value: serde_json::Value = serde_json::from_slice(&config).unwrap();
        let named = &value["linux"]["namespaces"];
        assert_eq!(named[0]["path"], "/proc/7/ns/pid");
        assert_eq!(named[1], serde_json::json!({"type": "network"}));
        assert_eq!(named[2]["type"], "mount");
        assert!(!Spec::parse(SPEC.as_bytes()).unwrap().has_own_network());
    }

    #[test]
    fn a_home_that_is_set_is_kept() {
        let mut process =
            parse_process(br#"{"user":{"uid":0,"gid":0},"cwd":"/","env":["HOME=/x"]}"#).unwrap();
        let user = User {
            uid: 0,
            gid: 0,
            additional_gids: vec![0],
            home: "/root".into(),
        };
        set_user(&mut process, &user).unwrap();
        assert_eq!(process.env().as_deref(), Some(&["HOME=/x".to_string()][..]));
    }

    #[test]
    fn what_is_missing_is_named() {
        let refused = |json: &str| Spec::parse(json.as_bytes()).unwrap_err().to_string();
        assert_eq!(refused("{}"), "the spec has no linux");
        assert_eq!(refused(r#"{"linux":{}}"#), "the spec has no root");
        assert_eq!(refused("[]"), "the spec's JSON is malformed");
        let relative = SPEC.replace("/run/rootfs", "rootfs");
        assert_eq!(refused(&relative), "the spec's root.path");
    }

    proptest! {
        #[test]
        fn any_bytes(json: Vec<u8>) {
            let _ = Spec::parse(&json);
            let _ = parse_process(&json);
        }
    }
}
