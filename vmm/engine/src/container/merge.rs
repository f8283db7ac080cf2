// SPDX-License-Identifier: Apache-2.0
//! From flags and image to a [`Container`], by Docker's rules.

use std::net::IpAddr;
use std::path::Path;

use super::limits::{self, IoLimits, LimitError, check_swap, smallest_rate};
use super::{
    Container, ContainerError, ContainerId, Dns, Healthcheck, Limits, Security, Shared, Ulimit,
    env, in_vm, label, log_option, signal, sysctl, volume,
};
use crate::cli::run::ContainerArgs;
use crate::network;
use crate::supervisor::restart::Policy;
use crate::units::parse_size;

/// `SIGTERM`.
const DEFAULT_STOP_SIGNAL: u32 = 15;
const DEFAULT_STOP_TIMEOUT_S: i32 = 10;
/// Of a host name (`HOST_NAME_MAX`).
const MAX_HOSTNAME: usize = 64;

/// What an image says about its containers; all empty for a `--rootfs`.
#[derive(Clone, Debug, Default)]
pub struct ImageDefaults {
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    pub env: Vec<String>,
    pub working_dir: String,
    pub user: String,
    pub stop_signal: String,
    pub health: Option<Healthcheck>,
    pub exposed: Vec<String>,
}

impl From<&oci_spec::image::ImageConfiguration> for ImageDefaults {
    fn from(image: &oci_spec::image::ImageConfiguration) -> Self {
        let Some(config) = image.config() else {
            return Self::default();
        };
        Self {
            entrypoint: config.entrypoint().clone().unwrap_or_default(),
            cmd: config.cmd().clone().unwrap_or_default(),
            env: config.env().clone().unwrap_or_default(),
            working_dir: config.working_dir().clone().unwrap_or_default(),
            user: config.user().clone().unwrap_or_default(),
            stop_signal: config.stop_signal().clone().unwrap_or_default(),
            // Docker's own: the specification does not know it.
            health: None,
            exposed: config.exposed_ports().clone().unwrap_or_default(),
        }
    }
}

impl Container {
    /// What the flags alone say, checked before any image is looked for; `here` is this process's
    /// working directory. [`Self::apply_image`] completes it.
    pub fn from_flags(args: &ContainerArgs, here: &Path) -> Result<Self, ContainerError> {
        not_held(args)?;
        let id = ContainerId::random().map_err(ContainerError::Id)?;
        let hostname = args.hostname.clone().filter(|name| !name.is_empty());
        let hostname = hostname.unwrap_or_else(|| id.short().to_owned());
        if hostname.len() > MAX_HOSTNAME || hostname.contains('/') || !is_word(&hostname) {
            return Err(ContainerError::Hostname(hostname));
        }
        let domainname = args.domainname.clone().unwrap_or_default();
        if !domainname.is_empty() && !is_word(&domainname) {
            return Err(ContainerError::Domainname(domainname));
        }
        if let Some(name) = &args.name {
            check_name(name)?;
        }
        let (volumes, tmpfs) = volume::parse_all(&args.volume, &args.tmpfs, &args.mount, here)?;
        let stop_signal = args.stop_signal.as_deref().map(signal::parse).transpose()?;
        Ok(Self {
            name: args.name.clone(),
            args: Vec::new(),
            env: env::requested(&args.env_file, &args.env)?,
            cwd: working_dir(args.workdir.as_deref())?,
            user: args.user.clone().unwrap_or_default(),
            group_add: args.group_add.clone(),
            tty: args.tty,
            interactive: args.interactive,
            init: args.init,
            read_only: args.read_only,
            limits: limits(args)?,
            security: Security::new(
                &args.cap_add,
                &args.cap_drop,
                args.privileged,
                &args.security_opt,
            )?,
            shared: shared(args)?,
            domainname,
            oom_score_adj: oom_score_adj(args)?,
            annotations: label::parse_all(&[], &args.annotation)?,
            sysctls: sysctl::parse(&args.sysctl)?,
            hosts: args
                .add_host
                .iter()
                .map(|s| host(s))
                .collect::<Result<_, _>>()?,
            dns: dns(args)?,
            network: network::Wanted::from_flags(args)?,
            stop_signal: stop_signal.unwrap_or(0),
            stop_timeout_s: args.stop_timeout.unwrap_or(DEFAULT_STOP_TIMEOUT_S),
            storage_size: storage_size(&args.storage_opt)?,
            remove: args.rm,
            labels: label::parse_all(&args.label_file, &args.label)?,
            restart: restart(args)?,
            start: args.start,
            in_vm: None,
            health: Healthcheck::from_flags(args)?,
            log: log_option::parse(args.log_driver.as_deref(), &args.log_opt)?,
            id,
            hostname,
            volumes,
            tmpfs,
        })
    }

    /// Fills in what the flags left to the image; `command` is what follows the image's name.
    pub fn apply_image(
        &mut self,
        entrypoint: Option<&str>,
        command: &[String],
        image: &ImageDefaults,
    ) -> Result<(), ContainerError> {
        self.args = full_command(entrypoint, command, image)?;
        self.network.apply_image(&image.exposed);
        self.env = env::merge(&self.hostname, self.tty, &image.env, &self.env);
        if self.cwd.is_empty() {
            // An image's is relative to the root.
            let absolute = image.working_dir.starts_with('/');
            self.cwd = format!("{}{}", if absolute { "" } else { "/" }, image.working_dir);
        }
        if self.user.is_empty() {
            self.user.clone_from(&image.user);
        }
        self.health = Healthcheck::merge(self.health.take(), image.health.as_ref());
        if self.stop_signal == 0 {
            self.stop_signal = match image.stop_signal.as_str() {
                "" => DEFAULT_STOP_SIGNAL,
                signal => signal::parse(signal)?,
            };
        }
        Ok(())
    }
}

/// A given entrypoint drops the image's command with its entrypoint; an empty one drops only them.
fn full_command(
    entrypoint: Option<&str>,
    command: &[String],
    image: &ImageDefaults,
) -> Result<Vec<String>, ContainerError> {
    let mut full = match entrypoint {
        Some("") => Vec::new(),
        Some(program) => vec![program.to_owned()],
        None => image.entrypoint.clone(),
    };
    if command.is_empty() && entrypoint.is_none() {
        full.extend(image.cmd.iter().cloned());
    } else {
        full.extend(command.iter().cloned());
    }
    if full.is_empty() {
        Err(ContainerError::NoCommand)
    } else {
        Ok(full)
    }
}

/// Empty where none is given.
fn working_dir(given: Option<&str>) -> Result<String, ContainerError> {
    match given.unwrap_or_default() {
        dir if dir.is_empty() || dir.starts_with('/') => Ok(dir.to_owned()),
        dir => Err(ContainerError::WorkingDir(dir.to_owned())),
    }
}

/// Docker's rule.
pub fn check_name(name: &str) -> Result<(), ContainerError> {
    let mut bytes = name.strip_prefix('/').unwrap_or(name).bytes();
    let first = bytes.next().is_some_and(|b| b.is_ascii_alphanumeric());
    let rest = bytes.len() > 0
        && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
    if first && rest {
        Ok(())
    } else {
        Err(ContainerError::Name(name.to_owned()))
    }
}

/// What Docker has and a machine here can't hold, refused in words.
fn not_held(args: &ContainerArgs) -> Result<(), ContainerError> {
    let why = if args.gpus.is_some() {
        "--gpus: a machine has no devices of the host"
    } else if !args.device.is_empty() {
        "--device: a machine has no devices of the host"
    } else {
        return Ok(());
    };
    Err(ContainerError::NotHeld(why))
}

fn oom_score_adj(args: &ContainerArgs) -> Result<i32, ContainerError> {
    match args.oom_score_adj.unwrap_or(0) {
        score if (-1000..=1000).contains(&score) => Ok(score),
        score => Err(ContainerError::OomScore(score)),
    }
}

fn restart(args: &ContainerArgs) -> Result<Policy, ContainerError> {
    let policy: Policy = args.restart.parse()?;
    if args.rm && policy != Policy::No {
        return Err(ContainerError::RestartAndRemove);
    }
    Ok(policy)
}

fn limits(args: &ContainerArgs) -> Result<Limits, ContainerError> {
    let memory = args.memory.filter(|bytes| *bytes > 0);
    check_swap(memory, args.memory_swap.as_deref())?;
    let limits = Limits {
        memory,
        cpus: limits::cpus(args.cpus, args.cpu_quota, args.cpu_period)?,
        memory_reservation: args.memory_reservation.filter(|bytes| *bytes > 0),
        cpuset: args.cpuset_cpus.clone(),
        cpu_shares: args.cpu_shares.filter(|shares| *shares > 0),
        io: io_limits(args)?,
        // To Docker, 0 and -1 are no limit.
        pids: args.pids_limit.filter(|limit| *limit > 0),
        shm_size: args.shm_size,
        ulimits: args
            .ulimit
            .iter()
            .map(|s| Ulimit::parse(s))
            .collect::<Result<_, _>>()?,
    };
    limits.check()?;
    Ok(limits)
}

fn io_limits(args: &ContainerArgs) -> Result<IoLimits, LimitError> {
    let bytes = |text: &str| parse_size(text).ok();
    let count = |text: &str| text.parse().ok();
    Ok(IoLimits {
        read_bytes: smallest_rate("device-read-bps", &args.device_read_bps, bytes)?,
        write_bytes: smallest_rate("device-write-bps", &args.device_write_bps, bytes)?,
        reads: smallest_rate("device-read-iops", &args.device_read_iops, count)?,
        writes: smallest_rate("device-write-iops", &args.device_write_iops, count)?,
    })
}

/// Which of its namespaces are the machine's.
fn shared(args: &ContainerArgs) -> Result<Shared, ContainerError> {
    let is_host = |flag, mode: &Option<String>, own: &[&str]| match mode.as_deref() {
        None | Some("" | "private") => Ok(false),
        Some("host") => Ok(true),
        Some(mode) if own.contains(&mode) => Ok(false),
        // Which one that is, is found out when the container is made.
        _ if matches!(flag, "pid" | "ipc") && in_vm::named(mode.as_deref()).is_some() => Ok(false),
        Some(mode) => Err(ContainerError::Mode {
            flag,
            mode: mode.to_owned(),
        }),
    };
    is_host("userns", &args.userns, &[])?;
    Ok(Shared {
        pid: is_host("pid", &args.pid, &[])?,
        ipc: is_host("ipc", &args.ipc, &["none", "shareable"])?,
        uts: is_host("uts", &args.uts, &[])?,
        cgroup: is_host("cgroupns", &args.cgroupns, &[])?,
    })
}

/// `name:address`, or `name=address`; an IPv6 address may stand in brackets.
fn host(text: &str) -> Result<(String, String), ContainerError> {
    let invalid = || ContainerError::AddHost(text.to_owned());
    let (name, address) = text.split_once(['=', ':']).ok_or_else(invalid)?;
    let bare = address
        .strip_prefix('[')
        .and_then(|a| a.strip_suffix(']'))
        .unwrap_or(address);
    let address = match bare {
        // What it is, is known when the container has a network.
        network::HOST_GATEWAY => bare.to_owned(),
        bare => match bare.parse::<IpAddr>() {
            Ok(address) => address.to_string(),
            Err(_) => {
                return Err(ContainerError::AddHostAddress {
                    text: text.to_owned(),
                    address: bare.to_owned(),
                });
            }
        },
    };
    let clean = !name.is_empty() && !name.contains(char::is_whitespace);
    if clean {
        Ok((name.to_owned(), address))
    } else {
        Err(invalid())
    }
}

/// What may stand in a line of a file with others.
fn is_word(text: &str) -> bool {
    !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || c.is_control())
}

fn dns(args: &ContainerArgs) -> Result<Dns, ContainerError> {
    for server in &args.dns {
        if server.parse::<IpAddr>().is_err() {
            return Err(ContainerError::Dns(server.clone()));
        }
    }
    for (flag, given, example) in [
        ("dns-search", &args.dns_search, "example.org"),
        ("dns-option", &args.dns_option, "ndots:2"),
    ] {
        if let Some(text) = given.iter().find(|text| !is_word(text)) {
            return Err(ContainerError::DnsWord {
                flag,
                text: text.chars().take(80).collect(),
                example,
            });
        }
    }
    Ok(Dns {
        servers: args.dns.clone(),
        search: args.dns_search.clone(),
        options: args.dns_option.clone(),
    })
}

fn storage_size(options: &[String]) -> Result<Option<u64>, ContainerError> {
    let mut size = None;
    for option in options {
        let invalid = || ContainerError::StorageOpt(option.clone());
        let value = option.strip_prefix("size=").ok_or_else(invalid)?;
        size = Some(parse_size(value).map_err(|_| invalid())?);
    }
    Ok(size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};

    fn image() -> ImageDefaults {
        ImageDefaults {
            entrypoint: vec!["/entry".into()],
            cmd: vec!["cmd".into(), "arg".into()],
            env: vec!["A=1".into()],
            working_dir: "/srv".into(),
            user: "alice".into(),
            stop_signal: "SIGINT".into(),
            health: None,
            exposed: vec!["80/tcp".into()],
        }
    }

    fn resolve_with(image: &ImageDefaults, line: &[&str]) -> Result<Container, ContainerError> {
        let argv: Vec<std::ffi::OsString> = ["walnut", "run"]
            .iter()
            .chain(line)
            .map(Into::into)
            .collect();
        let Command::Run(args) = Cli::from_args(&argv).unwrap().command else {
            panic!("not run")
        };
        let args = args.container;
        let mut container = Container::from_flags(&args, Path::new("/"))?;
        container.apply_image(args.entrypoint.as_deref(), &args.args[1..], image)?;
        Ok(container)
    }

    fn resolve(line: &[&str]) -> Result<Container, ContainerError> {
        resolve_with(&image(), line)
    }

    #[test]
    fn the_image_is_the_default() {
        let container = resolve(&["image"]).unwrap();
        assert_eq!(container.args, ["/entry", "cmd", "arg"]);
        assert_eq!(
            (container.cwd.as_str(), container.user.as_str()),
            ("/srv", "alice")
        );
        assert_eq!(container.stop_signal, 2);
        assert!(container.env.contains(&"A=1".to_owned()));
        assert_eq!(container.hostname, container.id.short());
    }

    #[test]
    fn entrypoint_and_command() {
        assert_eq!(resolve(&["image", "x"]).unwrap().args, ["/entry", "x"]);
        assert_eq!(
            resolve(&["--entrypoint", "e", "image"]).unwrap().args,
            ["e"]
        );
        assert_eq!(
            resolve(&["--entrypoint", "e", "image", "x"]).unwrap().args,
            ["e", "x"]
        );
        assert_eq!(
            resolve(&["--entrypoint=", "image", "x"]).unwrap().args,
            ["x"]
        );
        let none = resolve(&["--entrypoint=", "image"]).unwrap_err();
        assert_eq!(none.to_string(), "no command specified");
        let empty = resolve_with(&ImageDefaults::default(), &["image"]).unwrap_err();
        assert_eq!(empty.to_string(), "no command specified");
    }

    #[test]
    fn flags_win_over_the_image() {
        let container = resolve(&[
            "-w",
            "/w",
            "-u",
            "0:0",
            "-e",
            "A=2",
            "-h",
            "box",
            "--stop-signal",
            "9",
            "image",
        ])
        .unwrap();
        assert_eq!(
            (container.cwd.as_str(), container.user.as_str()),
            ("/w", "0:0")
        );
        assert_eq!(container.stop_signal, 9);
        assert!(container.env.contains(&"A=2".to_owned()));
        assert!(container.env.contains(&"HOSTNAME=box".to_owned()));
    }

    #[test]
    fn what_is_empty_is_not_given() {
        let flags = ["--hostname", "", "--ip", "", "--mac-address", ""];
        let container = resolve(&[&flags[..], &["--network", "", "image"]].concat()).unwrap();
        assert_eq!(container.hostname, container.id.short());
        let mut plain = resolve(&["image"]).unwrap().network;
        assert_eq!(container.network, plain);
        plain = resolve(&["--network", "", "--network", "none", "image"])
            .unwrap()
            .network;
        assert_eq!(plain.mode, network::Mode::None);
    }

    #[test]
    fn a_name_server_is_an_address() {
        let said = resolve(&["--dns", "a", "image"]).unwrap_err().to_string();
        let expected =
            "invalid argument \"a\" for \"--dns\" flag: IP address is not correctly formatted: a";
        assert_eq!(said, expected);
    }

    #[test]
    fn names_are_said_where_the_network_is() {
        for (flags, what) in [
            (["--dns", "192.0.2.1"], "dns"),
            (["--dns-search", "a"], "dns"),
            (["--add-host", "a:1.1.1.1"], "custom host-to-IP mapping"),
            (["--expose", "80"], "port exposing"),
        ] {
            let line = [&["--network", "container:web"], &flags[..], &["image"]].concat();
            let error = resolve(&line).unwrap_err().to_string();
            assert_eq!(
                error,
                format!("conflicting options: {what} and the network mode")
            );
        }
    }

    #[test]
    fn mistakes_name_what_is_wrong() {
        for (line, said) in [
            (
                &["-w", "rel", "image"][..],
                "the working directory 'rel' is invalid, it needs to be an absolute path",
            ),
            (
                &["--add-host", "a:b", "image"],
                "invalid argument \"a:b\" for \"--add-host\" flag: invalid IP address in add-host: \"b\"",
            ),
            (
                &["--add-host", ":::1", "image"],
                "invalid argument \":::1\" for \"--add-host\" flag: bad format for add-host: \":::1\"",
            ),
            (
                &["--storage-opt", "foo=1", "image"],
                "invalid argument \"foo=1\" for \"--storage-opt\" flag: only size=SIZE is known",
            ),
            (&["--hostname", "a/b", "image"], "invalid hostname: 'a/b'"),
            (
                &["--hostname", "a\nb", "image"],
                "invalid hostname: 'a\\nb'",
            ),
            (
                &["--domainname", "a b", "image"],
                "invalid domainname: 'a b'",
            ),
            (
                &["--dns-search", "a\nnameserver 192.0.2.1", "image"],
                "invalid argument \"a\\nnameserver 192.0.2.1\" for \"--dns-search\" flag: expected one \
                 word, as example.org",
            ),
            (
                &["--dns-option", "", "image"],
                "invalid argument \"\" for \"--dns-option\" flag: expected one word, as ndots:2",
            ),
            (
                &[
                    "--network",
                    "name=nn,ip=10.89.0.99",
                    "--ip",
                    "10.89.0.98",
                    "image",
                ],
                "conflicting options: cannot specify both --ip and per-network IPv4 address \
                 (10.89.0.98 and 10.89.0.99)",
            ),
            (
                &["--network", "none", "--egress", "deny", "image"],
                "conflicting options: --egress and --network none: there is no network to be limited",
            ),
            (&["--stop-signal", "FOO", "image"], "invalid signal: FOO"),
            (
                &["--gpus", "all", "image"],
                "--gpus: a machine has no devices of the host",
            ),
            (
                &["-p", "80:x", "image"],
                "invalid argument \"80:x\" for \"-p, --publish\" flag: invalid containerPort: x",
            ),
            (
                &["--network", "host", "image"],
                "network host: a machine is not the host; publish ports with -p, reach the host's by \
                 --add-host NAME:host-gateway",
            ),
        ] {
            assert_eq!(resolve(line).unwrap_err().to_string(), said, "{line:?}");
        }
        for bad in ["", "a", "-a", "a b", "ä1"] {
            assert!(
                matches!(check_name(bad), Err(ContainerError::Name(_))),
                "{bad}"
            );
        }
        assert!(check_name("web_1.a-b").is_ok());
    }

    #[test]
    fn hosts() {
        assert_eq!(host("a:1.2.3.4").unwrap(), ("a".into(), "1.2.3.4".into()));
        assert_eq!(host("a:[::1]").unwrap(), ("a".into(), "::1".into()));
        assert_eq!(host("a=::1").unwrap(), ("a".into(), "::1".into()));
        let gateway = host("host.walnut.internal:host-gateway").unwrap();
        assert_eq!(gateway.1, network::HOST_GATEWAY);
    }
}
