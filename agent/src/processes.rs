// SPDX-License-Identifier: Apache-2.0
//! What a container's processes are and use, by the kernel's own accounts of them
//! (proc_pid_stat(5), proc_pid_status(5)).

use std::fs;

use walnut_protocol::agent::ProcessInfo;

use crate::clock;

/// More than anybody looks at.
const MAX_PROCESSES: usize = 4096;
/// Of a command line.
const MAX_ARGUMENTS: usize = 4096;
/// `USER_HZ`, of the times in stat: the same on every x86 Linux.
const TICKS_PER_SECOND: u64 = 100;
const PAGE_KIB: u64 = 4;

/// Those of `pids` that are still there.
pub fn list(pids: &[u32]) -> Vec<ProcessInfo> {
    let now_ms = clock::realtime_ns() / 1_000_000;
    let booted_ms = now_ms.saturating_sub(clock::boottime_us() / 1000);
    let mut all: Vec<ProcessInfo> = pids
        .iter()
        .take(MAX_PROCESSES)
        .filter_map(|pid| look(*pid, booted_ms))
        .collect();
    let own: Vec<(u32, u32)> = pids
        .iter()
        .copied()
        .zip(pids.iter().map(|p| own_pid(*p)))
        .collect();
    for process in &mut all {
        // A parent outside of the container is none, to it.
        let parent = own.iter().find(|(pid, _)| *pid == process.ppid);
        process.ppid = parent.map_or(0, |(_, own)| *own);
    }
    all.sort_by_key(|process| process.pid);
    all
}

fn look(pid: u32, booted_ms: u64) -> Option<ProcessInfo> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let mut info = parse(&stat, &status, booted_ms)?;
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let line = &line[..line.len().min(MAX_ARGUMENTS)];
    let line = line.strip_suffix(b"\0").unwrap_or(line);
    if !line.is_empty() {
        let arguments = line.split(|byte| *byte == 0);
        info.arguments = arguments
            .map(|a| String::from_utf8_lossy(a).into_owned())
            .collect();
    }
    Some(info)
}

fn own_pid(pid: u32) -> u32 {
    let status = fs::read_to_string(format!("/proc/{pid}/status"));
    status
        .ok()
        .and_then(|status| innermost(&status))
        .unwrap_or(0)
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = status.lines();
    lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(str::trim))
}

/// Its number in the innermost namespace.
fn innermost(status: &str) -> Option<u32> {
    field(status, "NSpid")?
        .split_whitespace()
        .last()?
        .parse()
        .ok()
}

fn parse(stat: &str, status: &str, booted_ms: u64) -> Option<ProcessInfo> {
    // The name may hold anything, parentheses too.
    let (head, rest) = stat.rsplit_once(')')?;
    let name = head.split_once('(')?.1;
    // From field 3 on.
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let number = |at: usize| fields.get(at - 3).and_then(|text| text.parse::<i64>().ok());
    let unsigned = |at| number(at).and_then(|n| u64::try_from(n).ok()).unwrap_or(0);
    let small = |at| u32::try_from(unsigned(at)).unwrap_or(0);
    let milliseconds = |ticks: u64| ticks.saturating_mul(1000 / TICKS_PER_SECOND);
    Some(ProcessInfo {
        pid: innermost(status)?,
        ppid: small(4),
        uid: field(status, "Uid")?
            .split_whitespace()
            .next()?
            .parse()
            .ok()?,
        state: (*fields.first()?).to_owned(),
        started_ms: booted_ms.saturating_add(milliseconds(unsigned(22))),
        cpu_ms: milliseconds(unsigned(14).saturating_add(unsigned(15))),
        rss_kib: unsigned(24).saturating_mul(PAGE_KIB),
        vsz_kib: unsigned(23) / 1024,
        threads: small(20),
        tty: small(7),
        nice: number(19)
            .and_then(|nice| i32::try_from(nice).ok())
            .unwrap_or(0),
        name: name.to_owned(),
        ..ProcessInfo::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses() {
        let stat = "77 (a) b (c) S 5 77 77 34816 0 0 0 0 0 0 150 50 0 0 20 0 3 0 200 4096000 250";
        let status = "Name:\ta\nUid:\t1000\t0\t0\t0\nNSpid:\t77\t4\n";
        let info = parse(stat, status, 10_000).unwrap();
        assert_eq!((info.pid, info.ppid, info.uid), (4, 5, 1000));
        assert_eq!(info.name, "a) b (c");
        assert_eq!((info.cpu_ms, info.started_ms), (2000, 12_000));
        assert_eq!((info.vsz_kib, info.rss_kib, info.threads), (4000, 1000, 3));
        assert_eq!((info.tty, info.nice), (34816, 0));
        assert!(parse("", status, 0).is_none() && parse(stat, "", 0).is_none());
    }

    #[test]
    fn this_process() {
        let own = std::process::id();
        let all = list(&[own, 0]);
        assert_eq!(all.len(), 1);
        assert!(!all[0].arguments.is_empty());
    }
}
