// SPDX-License-Identifier: Apache-2.0
//! The questions, one module each. A row that fails leaves the others alone.

mod back;
mod checkpoint;
mod exec;
mod exits;
mod files;
mod idle;
mod list;
mod load;
mod net;
mod net_start;
mod phases;
mod pull;
mod sizes;
mod start;
mod stdio;
mod template;

use std::path::PathBuf;
use std::time::Duration;

use walnut_protocol::chain;
use walnut_vmm_config::VmConfig;

use super::guest_io::GuestIoError;
use super::machine::MachineError;
use super::net_guest::NetGuestError;
use super::peers::{Boot, PeerError, Peers};
use super::process::ProcessError;
use super::record::{self, RecordError};
use super::registry::RegistryError;
use super::report::{Report, Row};
use super::stage::{Stage, StageError};
use super::trace::TraceError;
use super::walnut::{COLD, Walnut, WalnutError};
use super::{Options, RowName, image};

/// Time for one child, on the slowest host that anybody waits for.
pub(super) const LIMIT: Duration = Duration::from_secs(120);
/// The same for one that works through many files or much data.
pub(super) const LONG_LIMIT: Duration = Duration::from_secs(600);

/// What the guest's stand-in for init says when it runs (`bench-init`).
const INIT_SAYS: &[u8] = b"walnut-bench-init";
const INIT: &str = "init.cpio";

/// Why there is no row, or none of somebody.
#[derive(Debug, thiserror::Error)]
pub enum RowError {
    #[error(transparent)]
    Process(#[from] ProcessError),
    #[error(transparent)]
    Stage(#[from] StageError),
    #[error(transparent)]
    Machine(#[from] MachineError),
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error(transparent)]
    Trace(#[from] TraceError),
    #[error(transparent)]
    Walnut(#[from] WalnutError),
    #[error(transparent)]
    Peer(#[from] PeerError),
    #[error(transparent)]
    GuestIo(#[from] GuestIoError),
    #[error("{name} said something else than was asked for: {said}")]
    Nonsense { name: String, said: String },
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error(transparent)]
    NetGuest(#[from] NetGuestError),
    #[error("talk to {place}")]
    Talk {
        place: std::net::SocketAddr,
        source: std::io::Error,
    },
    #[error("{name} changed what went through it: {different} bytes differ")]
    Corrupt { name: String, different: usize },
    #[error("can't read {}", path.display())]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("the monitor's memory map has no room for {memory_mib} MiB of guest memory")]
    NoGuestMemory { memory_mib: u32 },
}

/// All that the rows share.
pub struct Bench {
    pub options: Options,
    pub stage: Stage,
    pub peers: Peers,
    pub walnut: Result<Walnut, WalnutError>,
    pub report: Report,
}

impl Bench {
    /// Copies everything to the stage.
    ///
    /// # Errors
    /// There is no place for a stage.
    pub fn new(options: Options) -> Result<Self, StageError> {
        let stage = Stage::new()?;
        progress("copying to a tmpfs");
        let peers = Peers::new(&stage, &options.images);
        let walnut = Walnut::new(&stage, &options.staged, &options.images);
        Ok(Self {
            options,
            stage,
            peers,
            walnut,
            report: Report::default(),
        })
    }

    #[must_use]
    pub fn into_report(self) -> Report {
        self.report
    }

    /// The product, or its absence noted in the report.
    fn walnut(&mut self, row: &'static str) -> Option<Walnut> {
        match &self.walnut {
            Ok(walnut) => Some(walnut.clone()),
            Err(why) => {
                let why = chain(why);
                self.report.skip(row, "walnut", why);
                None
            }
        }
    }

    /// The machine that `walnut run` makes, with one vCPU.
    fn machine(&self, walnut: &Walnut) -> Result<VmConfig, RecordError> {
        let flags = ["--rm", "--cpus", "1", COLD[0], COLD[1]];
        record::record(&self.stage, walnut, &flags, &[image::BUSYBOX, "true"])
    }

    /// What every bare monitor boots: the product's kernel, and as its init a program that says one
    /// word.
    fn init_boot(&self) -> Result<Boot, PeerError> {
        let kernel = self.options.staged.join("vmlinux");
        let initrd = self.options.images.join(INIT);
        if !kernel.exists() || !initrd.exists() {
            return Err(PeerError::NothingToBoot);
        }
        Ok(Boot {
            kernel: self.stage.copy(&kernel, "vmlinux")?,
            initrd: self.stage.copy(&initrd, INIT)?,
            cmdline: CMDLINE.into(),
            memory_mib: 128,
        })
    }
}

/// The quietest that the kernel can be and still let init be heard; `quiet` comes first, or the early
/// console begins with what the kernel has said up to there.
const CMDLINE: &str = "quiet loglevel=1 earlycon=uart8250,io,0x3f8 keep_bootcon panic=-1 reboot=k \
     tsc=reliable no_timer_check random.trust_cpu=on cryptomgr.notests 8250.nr_uarts=0 noreplace-smp";

/// Measures every row that was asked for, one after the other.
pub fn measure(bench: &mut Bench) {
    type Measure = fn(&mut Bench) -> Vec<Row>;
    let rows: [(&[RowName], Measure); 17] = [
        (&[RowName::Sizes], sizes::measure),
        (&[RowName::Start], start::measure),
        (&[RowName::Template], template::measure),
        (&[RowName::Checkpoint], checkpoint::measure),
        (&[RowName::Phases], phases::measure),
        (&[RowName::Exits, RowName::Memory], exits::measure),
        (&[RowName::Load], load::measure),
        (&[RowName::Stdio], stdio::measure),
        (&[RowName::Files], files::measure),
        (&[RowName::Exec], exec::measure),
        (&[RowName::Ps], list::ps),
        (&[RowName::Logs], list::logs),
        (&[RowName::Pull], pull::measure),
        (&[RowName::Idle], idle::measure),
        (&[RowName::Back], back::measure),
        (&[RowName::Net], net::measure),
        (&[RowName::NetStart], net_start::measure),
    ];
    for (names, measure) in rows {
        if names.iter().any(|name| bench.options.rows.contains(name)) {
            let rows = measure(bench);
            bench.report.rows.extend(rows);
        }
    }
}

fn progress(what: &str) {
    eprintln!("bench: {what}");
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
