// SPDX-License-Identifier: Apache-2.0
//! `walnut top`: a container's processes, in ps's columns.

use std::io;
use std::time::Duration;

use walnut_protocol::agent::{ContainerRequest, ProcessInfo};

use super::{Known, VerbError, refused};
use crate::cli::look::TopArgs;
use crate::format::Columns;
use crate::paths::Paths;
use crate::supervisor::shared::CALL_TIMEOUT;
use crate::times::Timestamp;
use crate::units::MIB;
use crate::vm;

/// `-ef` has names under the head of numbers.
const FULL: [&str; 8] = [
    "named uid",
    "pid",
    "ppid",
    "c",
    "stime",
    "tty",
    "time",
    "cmd",
];
const USER: [&str; 11] = [
    "user", "pid", "%cpu", "%mem", "vsz", "rss", "tty", "stat", "start", "time", "command",
];

pub fn top(args: &TopArgs, paths: &Paths) -> Result<u8, VerbError> {
    let columns = columns(&args.options)?;
    let known = Known::find(&args.name, paths)?;
    known.must_run()?;
    let agent = vm::agent(&known.config.container.vsock(paths))?;
    let request = ContainerRequest {
        container_id: known.entry.id().to_owned(),
        ..ContainerRequest::default()
    };
    let answer = agent.within(CALL_TIMEOUT).processes(&request)?;
    let memory = u64::from(known.config.container.machine_memory_mib()) * MIB;
    let now = Timestamp::now();
    let mut table = Columns::default();
    let heads: Vec<&str> = columns.iter().map(|column| column.head).collect();
    table.push(&heads.join("\t"));
    for process in &answer.processes {
        let process = Shown {
            process,
            now,
            memory,
        };
        let cells: Vec<String> = columns
            .iter()
            .map(|column| (column.cell)(&process))
            .collect();
        table.push(&cells.join("\t"));
    }
    table
        .write(&mut io::stdout().lock())
        .map_err(VerbError::Stdout)?;
    Ok(0)
}

struct Shown<'a> {
    process: &'a ProcessInfo,
    now: Timestamp,
    memory: u64,
}

#[derive(Clone, Copy)]
struct Column {
    head: &'static str,
    cell: fn(&Shown<'_>) -> String,
}

/// The columns that ps's options ask for.
fn columns(options: &[String]) -> Result<Vec<Column>, VerbError> {
    let unknown = |what: &str| VerbError::Refused(format!("top: ps {what} is not known here"));
    let names = |names: &[&str]| -> Result<Vec<Column>, VerbError> {
        names
            .iter()
            .map(|name| column(name).ok_or_else(|| unknown(name)))
            .collect()
    };
    let mut asked: Vec<&str> = Vec::new();
    let mut chosen: &[&str] = &FULL;
    let mut options = options.iter();
    while let Some(option) = options.next() {
        match option.as_str() {
            "-ef" | "-e" | "-f" | "ef" | "-A" => chosen = &FULL,
            "aux" | "-aux" => chosen = &USER,
            "-o" | "-eo" | "o" | "--format" => match options.next() {
                Some(list) => asked.extend(list.split(',')),
                None => return refused("top: ps -o needs a list of columns"),
            },
            option => match option
                .strip_prefix("-o")
                .or_else(|| option.strip_prefix("-eo"))
            {
                Some(list) => asked.extend(list.split(',')),
                None => return Err(unknown(option)),
            },
        }
    }
    names(if asked.is_empty() { chosen } else { &asked })
}

fn column(name: &str) -> Option<Column> {
    let (head, cell): (_, fn(&Shown<'_>) -> String) = match name {
        "pid" => ("PID", |s| s.process.pid.to_string()),
        "ppid" => ("PPID", |s| s.process.ppid.to_string()),
        "uid" => ("UID", |s| s.process.uid.to_string()),
        "named uid" => ("UID", |s| s.user()),
        "user" | "euser" => ("USER", |s| s.user()),
        "comm" | "ucmd" => ("COMMAND", |s| printable(&s.process.name)),
        "args" | "command" => ("COMMAND", |s| s.command()),
        "cmd" => ("CMD", |s| s.command()),
        "stat" | "s" | "state" => ("STAT", |s| printable(&s.process.state)),
        "tty" | "tname" | "tt" => ("TTY", |s| terminal(s.process.tty)),
        "time" | "cputime" => ("TIME", |s| clock(s.process.cpu_ms / 1000)),
        "etime" => ("ELAPSED", |s| elapsed(s.age())),
        "stime" => ("STIME", |s| s.started()),
        "start" => ("START", |s| s.started()),
        "rss" => ("RSS", |s| s.process.rss_kib.to_string()),
        "vsz" | "vsize" => ("VSZ", |s| s.process.vsz_kib.to_string()),
        "ni" | "nice" => ("NI", |s| s.process.nice.to_string()),
        "nlwp" | "thcount" => ("NLWP", |s| s.process.threads.to_string()),
        "c" => ("C", |s| format!("{:.0}", s.cpu())),
        "%cpu" | "pcpu" => ("%CPU", |s| format!("{:.1}", s.cpu())),
        "%mem" | "pmem" => ("%MEM", |s| format!("{:.1}", s.share())),
        _ => return None,
    };
    Some(Column { head, cell })
}

impl Shown<'_> {
    fn age(&self) -> Duration {
        let started = Timestamp::from_nanos(self.process.started_ms.saturating_mul(1_000_000));
        self.now.since(started)
    }

    fn user(&self) -> String {
        match self.process.uid {
            0 => "root".to_owned(),
            uid => uid.to_string(),
        }
    }

    fn command(&self) -> String {
        if self.process.arguments.is_empty() {
            return format!("[{}]", printable(&self.process.name));
        }
        printable(&self.process.arguments.join(" "))
    }

    /// The hour of its start, as ps has it; the day, if that is another one.
    fn started(&self) -> String {
        let started = Timestamp::from_nanos(self.process.started_ms.saturating_mul(1_000_000));
        let text = started.rfc3339();
        let (day, time) = text.split_once('T').unwrap_or((&text, ""));
        match self.now.rfc3339().starts_with(day) {
            true => time.get(..5).unwrap_or(time).to_owned(),
            false => day.get(5..).unwrap_or(day).to_owned(),
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "one decimal is shown")]
    fn cpu(&self) -> f64 {
        let age_ms = self.age().as_millis().max(1) as f64;
        (self.process.cpu_ms as f64 / age_ms * 100.0).min(9999.0)
    }

    #[expect(clippy::cast_precision_loss, reason = "one decimal is shown")]
    fn share(&self) -> f64 {
        let kib = (self.memory / 1024).max(1) as f64;
        self.process.rss_kib as f64 / kib * 100.0
    }
}

/// The guest's words: they must not drive the user's terminal, or break the table.
fn printable(text: &str) -> String {
    text.replace(|c: char| c.is_control(), "?")
}

/// `tty_nr` of proc_pid_stat(5): the slaves of pseudo terminals are majors 136 to 143.
fn terminal(number: u32) -> String {
    let major = (number >> 8) & 0xfff;
    let minor = (number & 0xff) | ((number >> 12) & 0xf_ff00);
    match major {
        0 => "?".to_owned(),
        136..=143 => format!("pts/{}", minor + (major - 136) * 256),
        _ => format!("{major}:{minor}"),
    }
}

fn clock(seconds: u64) -> String {
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    format!("{hours:02}:{minutes:02}:{:02}", seconds % 60)
}

fn elapsed(age: Duration) -> String {
    let seconds = age.as_secs();
    let (days, hours, minutes) = (seconds / 86400, seconds / 3600 % 24, seconds / 60 % 60);
    let seconds = seconds % 60;
    match (days, hours) {
        (0, 0) => format!("{minutes:02}:{seconds:02}"),
        (0, _) => format!("{hours:02}:{minutes:02}:{seconds:02}"),
        _ => format!("{days}-{hours:02}:{minutes:02}:{seconds:02}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ps_would_show() {
        let heads = |options: &[&str]| -> Result<Vec<&str>, String> {
            let options: Vec<String> = options.iter().map(ToString::to_string).collect();
            let columns = columns(&options).map_err(|e| e.to_string())?;
            Ok(columns.iter().map(|column| column.head).collect())
        };
        assert_eq!(heads(&[]).unwrap()[..3], ["UID", "PID", "PPID"]);
        assert_eq!(heads(&["-o", "pid,args"]).unwrap(), ["PID", "COMMAND"]);
        assert_eq!(heads(&["-eopid"]).unwrap(), ["PID"]);
        assert_eq!(heads(&["aux"]).unwrap().len(), 11);
        assert!(heads(&["-o"]).is_err() && heads(&["-Z"]).is_err());
        assert!(heads(&["-o", "pid,nosuch"]).unwrap_err().contains("nosuch"));
    }

    #[test]
    fn numbers_for_people() {
        assert_eq!(terminal(0), "?");
        assert_eq!(terminal(0x8801), "pts/1");
        assert_eq!(clock(3_723), "01:02:03");
        assert_eq!(elapsed(Duration::from_secs(90_061)), "1-01:01:01");
        assert_eq!(elapsed(Duration::from_secs(61)), "01:01");
    }
}
