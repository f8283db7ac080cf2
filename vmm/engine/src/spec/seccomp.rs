// SPDX-License-Identifier: Apache-2.0
//! Seccomp: Docker's default profile for this guest, or one that the user gives in Docker's format.

use std::collections::BTreeSet;

use oci_spec::OciSpecError;
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder,
    LinuxSeccompBuilder, LinuxSeccompFilterFlag, LinuxSeccompOperator, LinuxSyscall,
    LinuxSyscallBuilder,
};
use serde::{Deserialize, Serialize};

use super::seccomp_table as table;

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;
/// The guest kernel's version, for rules that ask for one.
const GUEST_KERNEL: (u32, u32) = (6, 12);

/// The guest kernel runs 64-bit and 32-bit programs. It has no x32 ABI, whose calls would
/// otherwise have to be listed: libseccomp refuses an architecture that isn't.
const ARCHITECTURES: [Arch; 2] = [Arch::ScmpArchX86_64, Arch::ScmpArchX86];

/// Docker's default profile for a container with these capabilities.
pub fn default_profile(
    capabilities: &BTreeSet<&'static str>,
) -> Result<LinuxSeccomp, OciSpecError> {
    let mut names: BTreeSet<&str> = table::ALWAYS.iter().copied().collect();
    for (capability, calls) in table::WITH_CAPABILITY {
        if capabilities.contains(capability) {
            names.extend(*calls);
        }
    }
    let mut rules = vec![allow(names.into_iter().map(str::to_owned).collect(), None)?];
    let families_below = (
        LinuxSeccompOperator::ScmpCmpLt,
        table::SOCKET_FAMILIES_BELOW,
    );
    rules.push(allow_one("socket", families_below, None)?);
    for family in table::SOCKET_FAMILIES {
        rules.push(allow_one(
            "socket",
            (LinuxSeccompOperator::ScmpCmpEq, *family),
            None,
        )?);
    }
    for persona in table::PERSONALITIES {
        rules.push(allow_one(
            "personality",
            (LinuxSeccompOperator::ScmpCmpEq, *persona),
            None,
        )?);
    }
    if !capabilities.contains("CAP_SYS_ADMIN") {
        let no_namespace = (
            LinuxSeccompOperator::ScmpCmpMaskedEq,
            table::CLONE_NAMESPACES,
        );
        rules.push(allow_one("clone", no_namespace, Some(0))?);
        // Its flags are behind a pointer: programs must fall back to clone(2).
        rules.push(
            LinuxSyscallBuilder::default()
                .names(vec!["clone3".to_owned()])
                .action(LinuxSeccompAction::ScmpActErrno)
                .errno_ret(ENOSYS)
                .build()?,
        );
    }
    LinuxSeccompBuilder::default()
        .default_action(LinuxSeccompAction::ScmpActErrno)
        .default_errno_ret(EPERM)
        .architectures(ARCHITECTURES)
        .syscalls(rules)
        .build()
}

fn allow(
    names: Vec<String>,
    args: Option<Vec<LinuxSeccompArg>>,
) -> Result<LinuxSyscall, OciSpecError> {
    let rule = LinuxSyscallBuilder::default()
        .names(names)
        .action(LinuxSeccompAction::ScmpActAllow);
    match args {
        Some(args) => rule.args(args).build(),
        None => rule.build(),
    }
}

/// One call, if its first argument compares so.
fn allow_one(
    name: &str,
    (op, value): (LinuxSeccompOperator, u64),
    value_two: Option<u64>,
) -> Result<LinuxSyscall, OciSpecError> {
    let arg = LinuxSeccompArgBuilder::default()
        .index(0usize)
        .value(value)
        .op(op);
    let arg = match value_two {
        Some(two) => arg.value_two(two).build()?,
        None => arg.build()?,
    };
    allow(vec![name.to_owned()], Some(vec![arg]))
}

/// A profile as `--security-opt seccomp=FILE` gives it: the OCI section, with Docker's conditions.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Profile {
    default_action: LinuxSeccompAction,
    default_errno_ret: Option<u32>,
    #[serde(default)]
    flags: Vec<LinuxSeccompFilterFlag>,
    /// Either this, or `archMap`; both are read for their form and answered by the guest's own.
    #[serde(default)]
    architectures: Vec<Arch>,
    #[serde(default)]
    syscalls: Vec<ProfileRule>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct ProfileRule {
    #[serde(default)]
    names: Vec<String>,
    /// The older form.
    name: Option<String>,
    action: LinuxSeccompAction,
    errno_ret: Option<u32>,
    args: Option<Vec<ProfileArg>>,
    #[serde(default)]
    includes: Condition,
    #[serde(default)]
    excludes: Condition,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct ProfileArg {
    index: usize,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: LinuxSeccompOperator,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Condition {
    #[serde(default)]
    caps: Vec<String>,
    #[serde(default)]
    arches: Vec<String>,
    min_kernel: Option<String>,
}

impl Condition {
    fn kernel_is_new_enough(&self) -> bool {
        let Some(text) = &self.min_kernel else {
            return true;
        };
        let mut parts = text
            .split('.')
            .map(|part| part.parse::<u32>().unwrap_or(u32::MAX));
        let wanted = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
        GUEST_KERNEL >= wanted
    }

    fn includes(&self, capabilities: &BTreeSet<&'static str>) -> bool {
        let arch = self.arches.is_empty() || self.arches.iter().any(|arch| arch == "amd64");
        let caps = self
            .caps
            .iter()
            .all(|cap| capabilities.contains(cap.as_str()));
        arch && caps && self.kernel_is_new_enough()
    }

    fn excludes(&self, capabilities: &BTreeSet<&'static str>) -> bool {
        let kernel = self.min_kernel.is_some() && self.kernel_is_new_enough();
        self.arches.iter().any(|arch| arch == "amd64")
            || self
                .caps
                .iter()
                .any(|cap| capabilities.contains(cap.as_str()))
            || kernel
    }
}

impl Profile {
    pub fn resolve(
        &self,
        capabilities: &BTreeSet<&'static str>,
    ) -> Result<LinuxSeccomp, OciSpecError> {
        let applies = |rule: &&ProfileRule| {
            rule.includes.includes(capabilities) && !rule.excludes.excludes(capabilities)
        };
        let rules = self
            .syscalls
            .iter()
            .filter(applies)
            .map(ProfileRule::resolve)
            .collect::<Result<Vec<_>, _>>()?;
        let profile = LinuxSeccompBuilder::default()
            .default_action(self.default_action)
            .architectures(ARCHITECTURES)
            .flags(self.flags.clone())
            .syscalls(rules);
        match self.default_errno_ret {
            Some(errno) => profile.default_errno_ret(errno).build(),
            None => profile.build(),
        }
    }
}

impl ProfileRule {
    fn resolve(&self) -> Result<LinuxSyscall, OciSpecError> {
        let names: Vec<String> = self.names.iter().chain(&self.name).cloned().collect();
        let mut rule = LinuxSyscallBuilder::default()
            .names(names)
            .action(self.action);
        if let Some(errno) = self.errno_ret {
            rule = rule.errno_ret(errno);
        }
        // An empty list of arguments is no condition, but libseccomp's caller would see one.
        if let Some(args) = self.args.as_ref().filter(|args| !args.is_empty()) {
            let args = args
                .iter()
                .map(ProfileArg::resolve)
                .collect::<Result<Vec<_>, _>>()?;
            rule = rule.args(args);
        }
        rule.build()
    }
}

impl ProfileArg {
    fn resolve(&self) -> Result<LinuxSeccompArg, OciSpecError> {
        LinuxSeccompArgBuilder::default()
            .index(self.index)
            .value(self.value)
            .value_two(self.value_two)
            .op(self.op)
            .build()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(seccomp: &LinuxSeccomp, name: &str) -> bool {
        seccomp.syscalls().iter().flatten().any(|rule| {
            rule.action() == LinuxSeccompAction::ScmpActAllow
                && rule.args().is_none()
                && rule.names().iter().any(|n| n == name)
        })
    }

    #[test]
    fn what_everybody_may_and_nobody_may() {
        let profile = default_profile(&BTreeSet::new()).unwrap();
        assert_eq!(profile.default_action(), LinuxSeccompAction::ScmpActErrno);
        assert_eq!(profile.default_errno_ret(), Some(1));
        for name in [
            "read",
            "execve",
            "futex_waitv",
            "mmap2",
            "socketcall",
            "ptrace",
            "statx",
        ] {
            assert!(allowed(&profile, name), "{name}");
        }
        for name in [
            "mount",
            "unshare",
            "setns",
            "bpf",
            "keyctl",
            "add_key",
            "io_uring_setup",
            "reboot",
            "kexec_load",
            "init_module",
            "userfaultfd",
            "socket",
            "clone",
            "clone3",
            "swapon",
            "chroot",
            "pivot_root",
            "personality",
        ] {
            assert!(!allowed(&profile, name), "{name}");
        }
    }

    #[test]
    fn capabilities_open_their_calls() {
        let profile =
            default_profile(&BTreeSet::from(["CAP_SYS_ADMIN", "CAP_SYS_CHROOT"])).unwrap();
        for name in ["mount", "unshare", "clone", "clone3", "chroot"] {
            assert!(allowed(&profile, name), "{name}");
        }
        assert!(!allowed(&profile, "reboot"));
        // No rule may contradict another: libseccomp refuses that.
        let refusals = profile.syscalls().iter().flatten();
        assert!(
            refusals
                .into_iter()
                .all(|r| r.action() == LinuxSeccompAction::ScmpActAllow)
        );
    }

    #[test]
    fn clone3_does_not_exist_and_clone_makes_no_namespace() {
        let profile = default_profile(&BTreeSet::new()).unwrap();
        let rules = profile.syscalls().as_ref().unwrap();
        let of = |name: &str| {
            rules
                .iter()
                .find(|r| r.names() == &[name.to_owned()])
                .unwrap()
        };
        assert_eq!(of("clone3").errno_ret(), Some(38));
        let arg = of("clone").args().as_ref().unwrap()[0];
        assert_eq!((arg.value(), arg.value_two()), (0x7e02_0000, Some(0)));
        assert_eq!(arg.op(), LinuxSeccompOperator::ScmpCmpMaskedEq);
    }

    #[test]
    fn neither_vsock_nor_kernel_crypto() {
        let profile = default_profile(&BTreeSet::new()).unwrap();
        let may = |family: u64| {
            profile
                .syscalls()
                .iter()
                .flatten()
                .filter(|r| r.names() == &["socket".to_owned()])
                .any(|rule| {
                    let arg = rule.args().as_ref().unwrap()[0];
                    match arg.op() {
                        LinuxSeccompOperator::ScmpCmpLt => family < arg.value(),
                        _ => family == arg.value(),
                    }
                })
        };
        // AF_UNIX, AF_INET, AF_INET6, AF_NETLINK, AF_PACKET.
        assert!([1, 2, 10, 16, 17].into_iter().all(may));
        assert!(![38, 40].into_iter().any(may));
    }

    #[test]
    fn a_profile_in_dockers_format() {
        let text = r#"{
            "defaultAction": "SCMP_ACT_ALLOW",
            "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}],
            "syscalls": [
                {"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "args": [], "errnoRet": 13},
                {"name": "chmod", "action": "SCMP_ACT_ERRNO", "excludes": {"caps": ["CAP_FOWNER"]}},
                {"names": ["a"], "action": "SCMP_ACT_ERRNO", "includes": {"arches": ["arm64"]}},
                {"names": ["b"], "action": "SCMP_ACT_ERRNO", "includes": {"minKernel": "6.13"}},
                {"names": ["c"], "action": "SCMP_ACT_ERRNO", "includes": {"minKernel": "4.8"}}
            ]
        }"#;
        let profile: Profile = serde_json::from_str(text).unwrap();
        let names = |caps: &BTreeSet<&'static str>| -> Vec<String> {
            let resolved = profile.resolve(caps).unwrap();
            resolved
                .syscalls()
                .iter()
                .flatten()
                .flat_map(|r| r.names().clone())
                .collect()
        };
        assert_eq!(names(&BTreeSet::new()), ["mkdir", "chmod", "c"]);
        assert_eq!(names(&BTreeSet::from(["CAP_FOWNER"])), ["mkdir", "c"]);
        let first = profile
            .resolve(&BTreeSet::new())
            .unwrap()
            .syscalls()
            .as_ref()
            .unwrap()[0]
            .clone();
        assert_eq!(
            (first.errno_ret(), first.args().is_none()),
            (Some(13), true)
        );
    }
}
