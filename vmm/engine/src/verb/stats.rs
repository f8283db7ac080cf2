// SPDX-License-Identifier: Apache-2.0
//! `walnut stats`: what containers use, by their guests' control groups.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use walnut_protocol::Client;
use walnut_protocol::agent::{ContainerRequest, StatsResponse};

use super::{Known, VerbError};
use crate::cli::look::StatsArgs;
use crate::format::Listing;
use crate::paths::Paths;
use crate::record::Registry;
use crate::supervisor::shared::CALL_TIMEOUT;
use crate::units::{MIB, binary_size, decimal_size};
use crate::vm;

const STATS: Listing = Listing {
    headers: &[
        ("Container", "CONTAINER"),
        ("ID", "CONTAINER ID"),
        ("CPUPerc", "CPU %"),
        ("MemUsage", "MEM USAGE / LIMIT"),
        ("MemPerc", "MEM %"),
        ("NetIO", "NET I/O"),
        ("BlockIO", "BLOCK I/O"),
        ("PIDs", "PIDS"),
    ],
    table: "table {{.ID}}\t{{.Name}}\t{{.CPUPerc}}\t{{.MemUsage}}\t{{.MemPerc}}\t{{.NetIO}}\t\
            {{.BlockIO}}\t{{.PIDs}}",
    quiet: "{{.ID}}",
};

/// Between two looks: a share of the processor is of some time.
const INTERVAL: Duration = Duration::from_secs(1);

/// One container that is looked at.
struct Watched {
    known: Known,
    agent: Option<Client>,
    last: Option<(Instant, StatsResponse)>,
}

pub fn stats(args: &StatsArgs, paths: &Paths) -> Result<u8, VerbError> {
    let format = STATS.format(args.format.as_deref(), false)?;
    let mut watched = watch(args, paths)?;
    let timer = Timer::new()?;
    let first: Vec<Value> = watched
        .iter_mut()
        .map(|one| one.look(args.no_trunc))
        .collect();
    if !args.no_stream {
        show(&format, &first, true)?;
    }
    loop {
        timer.wait()?;
        let rows: Vec<Value> = watched
            .iter_mut()
            .map(|one| one.look(args.no_trunc))
            .collect();
        show(&format, &rows, !args.no_stream)?;
        if args.no_stream {
            return Ok(0);
        }
    }
}

fn watch(args: &StatsArgs, paths: &Paths) -> Result<Vec<Watched>, VerbError> {
    let known: Vec<Known> = if args.names.is_empty() {
        let all = Registry::new(paths).list().into_iter();
        all.filter(|(_, _, state)| args.all || state.is_up())
            .map(|(entry, config, state)| Known {
                entry,
                config,
                state,
            })
            .collect()
    } else {
        let names = args.names.iter();
        names
            .map(|name| Known::find(name, paths))
            .collect::<Result<_, _>>()?
    };
    Ok(known
        .into_iter()
        .map(|known| Watched {
            // One that does not run uses nothing.
            agent: vm::agent(&known.config.container.vsock(paths)).ok(),
            known,
            last: None,
        })
        .collect())
}

fn show(format: &crate::format::Format, rows: &[Value], clear: bool) -> Result<(), VerbError> {
    let mut out = io::stdout().lock();
    if clear && io::IsTerminal::is_terminal(&out) {
        out.write_all(b"\x1b[H\x1b[J").map_err(VerbError::Stdout)?;
    }
    format.list(&mut out, rows)?;
    Ok(())
}

impl Watched {
    fn look(&mut self, whole: bool) -> Value {
        let request = ContainerRequest {
            container_id: self.known.entry.id().to_owned(),
            ..ContainerRequest::default()
        };
        let now = Instant::now();
        let agent = self.agent.as_ref().map(|agent| agent.within(CALL_TIMEOUT));
        let stats = agent.and_then(|agent| agent.stats(&request).ok());
        let stats = stats.unwrap_or_default();
        let share = self.last.as_ref().map_or(0.0, |(then, before)| {
            let used = stats.cpu_usage_us.saturating_sub(before.cpu_usage_us);
            percent(used, u64::try_from((now - *then).as_micros()).unwrap_or(1))
        });
        let row = self.row(&stats, share, whole);
        self.last = Some((now, stats));
        row
    }

    fn row(&self, stats: &StatsResponse, cpu: f64, whole: bool) -> Value {
        let entry = &self.known.entry;
        let container = &self.known.config.container;
        let machine = u64::from(container.machine_memory_mib()) * MIB;
        let limit = match stats.memory_max {
            _ if self.agent.is_none() => 0,
            0 | u64::MAX => machine,
            limit => limit.min(machine),
        };
        let used = stats
            .memory_current
            .saturating_sub(stats.memory_inactive_file);
        let id = if whole { entry.id() } else { entry.short() };
        let (read, written) = (stats.io_read_bytes, stats.io_write_bytes);
        let (received, sent) = (stats.net_read_bytes, stats.net_write_bytes);
        json!({
            "Container": id,
            "ID": id,
            "Name": self.known.config.name(),
            "CPUPerc": format!("{cpu:.2}%"),
            "MemUsage": format!("{} / {}", binary_size(used), binary_size(limit)),
            "MemPerc": format!("{:.2}%", percent(used, limit)),
            "NetIO": format!("{} / {}", decimal_size(received), decimal_size(sent)),
            "BlockIO": format!("{} / {}", decimal_size(read), decimal_size(written)),
            "PIDs": stats.pids_current.to_string(),
        })
    }
}

#[expect(clippy::cast_precision_loss, reason = "two decimals are shown")]
fn percent(part: u64, of: u64) -> f64 {
    if of == 0 {
        return 0.0;
    }
    part as f64 / of as f64 * 100.0
}

/// Fires each second.
struct Timer(std::os::fd::OwnedFd);

impl Timer {
    fn new() -> Result<Self, VerbError> {
        use rustix::time::{
            Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create,
            timerfd_settime,
        };
        let failed = |e: rustix::io::Errno| VerbError::Stdout(e.into());
        let fd = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC);
        let fd = fd.map_err(failed)?;
        let each = rustix::time::Timespec {
            tv_sec: i64::try_from(INTERVAL.as_secs()).unwrap_or(1),
            tv_nsec: 0,
        };
        let spec = Itimerspec {
            it_interval: each,
            it_value: each,
        };
        timerfd_settime(&fd, TimerfdTimerFlags::empty(), &spec).map_err(failed)?;
        Ok(Self(fd))
    }

    fn wait(&self) -> Result<(), VerbError> {
        rustix::io::read(&self.0, &mut [0; 8])
            .map(drop)
            .map_err(|e| VerbError::Stdin(e.into()))
    }
}
