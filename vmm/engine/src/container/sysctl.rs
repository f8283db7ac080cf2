// SPDX-License-Identifier: Apache-2.0
//! `--sysctl`: kernel parameters, all of them, since the kernel is the container's own.
//!
//! Those of a namespace that the container has for itself are set in it, by the runtime. The rest
//! are the machine's and go on its kernel's command line (`sysctl.NAME=VALUE`, kernel-parameters),
//! which sets them before the first process runs.

use super::ContainerError;

/// Of the IPC namespace (ipc_namespaces(7)).
const IPC: &[&str] = &[
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shm_rmid_forced",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
];

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sysctls {
    /// Set in the container's namespaces.
    pub container: Vec<(String, String)>,
    /// Set for the whole machine.
    pub machine: Vec<(String, String)>,
}

impl Sysctls {
    /// `NAME=VALUE` each. Docker's own two (low ports and ping without root) are the agent's.
    pub fn parse(given: &[String]) -> Result<Self, ContainerError> {
        let mut all = Self::default();
        for text in given {
            let (name, value) = split(text).ok_or_else(|| ContainerError::Sysctl(text.clone()))?;
            let own = IPC.contains(&name.as_str()) || name.starts_with("fs.mqueue.");
            let list = if own {
                &mut all.container
            } else {
                &mut all.machine
            };
            list.retain(|(known, _)| *known != name);
            list.push((name, value));
        }
        Ok(all)
    }

    /// What the kernel's command line gets for the machine's.
    pub fn kernel_parameters(&self) -> String {
        self.machine
            .iter()
            .map(|(name, value)| format!(" sysctl.{name}=\"{value}\""))
            .collect()
    }
}

/// A name may be written with slashes. A value must survive the command line's quotes.
fn split(text: &str) -> Option<(String, String)> {
    let (name, value) = text.split_once('=')?;
    let name = name.replace('/', ".");
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let named = name.split('.').count() > 1 && name.split('.').all(|part| !part.is_empty());
    let clean = !value.contains(|c: char| c == '"' || c.is_control()) && value.len() < 256;
    (named && name.chars().all(plain) && clean).then(|| (name, value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(given: &[&str]) -> Result<Sysctls, ContainerError> {
        Sysctls::parse(&given.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn each_where_it_belongs() {
        let all = parse(&[
            "kernel.shmmax=1",
            "fs/mqueue/msg_max=2",
            "vm.max_map_count=262144",
            "net.ipv4.ip_unprivileged_port_start=1024",
        ])
        .unwrap();
        assert_eq!(all.container[0], ("kernel.shmmax".into(), "1".into()));
        assert_eq!(all.container[1], ("fs.mqueue.msg_max".into(), "2".into()));
        assert_eq!(
            all.kernel_parameters(),
            " sysctl.vm.max_map_count=\"262144\" \
             sysctl.net.ipv4.ip_unprivileged_port_start=\"1024\""
        );
    }

    #[test]
    fn nothing_else_gets_on_the_command_line() {
        for bad in [
            "",
            "a",
            "a=1",
            "a.b",
            "a..b=1",
            "a.b=\" init=/x",
            "a.b c.d=1",
            ".a=1",
            "a.b=\n",
        ] {
            assert!(parse(&[bad]).is_err(), "{bad}");
        }
    }
}
