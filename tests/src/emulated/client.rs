// SPDX-License-Identifier: Apache-2.0
//! The outside: boots the machine, passes the standard streams on, waits for the command's end.

use std::env;
use std::fs::File;
use std::io::{self, BufReader, IsTerminal, Read, Write};
use std::net::Shutdown;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use super::initramfs::{self, InitramfsError};
use super::kernel::{self, HostKernel, KernelError};
use super::qemu::{LastWords, Machine, Qemu, QemuError};
use super::terminal::{self, RawTerminal};
use super::wire::{self, HELLO, Port, Request, ToInside, ToOutside};

/// Lines of the console that an error carries.
const CONSOLE_LINES: usize = 80;

/// How often it is booted before the first command. Debian's kernel patches its own code early in a
/// boot, and now and then TCG runs what was there before: the kernel panics, and the next boot does not.
const BOOTS: usize = 3;

/// From the start of QEMU to the first word from inside; what is usual is four seconds.
const BOOT_TIMEOUT: Duration = Duration::from_secs(120);

/// A command to run in the emulated host.
#[derive(Clone, Debug)]
pub struct Run {
    pub argv: Vec<std::ffi::OsString>,
    /// From the first start of QEMU to the command's end.
    pub timeout: Option<Duration>,
    pub memory_mib: u32,
    /// A directory outside that is writable inside, under the same path.
    pub output: Option<PathBuf>,
    /// The `emulated-host` binary, which becomes PID 1.
    pub init: PathBuf,
}

/// How the command ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Outcome {
    /// Its exit status, or 128 and the signal's number.
    pub status: u8,
}

#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Kernel(#[from] KernelError),
    #[error(transparent)]
    Initramfs(#[from] InitramfsError),
    #[error(transparent)]
    Qemu(#[from] QemuError),
    #[error("the output directory {} can't be used", path.display())]
    Output { path: PathBuf, source: io::Error },
    #[error("can't use this terminal")]
    Terminal(#[source] io::Error),
    #[error("can't talk to the emulated host")]
    Wire(#[source] io::Error),
    #[error("can't pass the command's output on")]
    Stream(#[source] io::Error),
    #[error("{message}")]
    Inside { status: u8, message: String },
    #[error("still running after {} s; killed{}", .timeout.as_secs(), last_words(.console))]
    Deadline {
        timeout: Duration,
        console: Vec<String>,
    },
    #[error("the emulated host's kernel did not boot{}", last_words(.console))]
    NotBooted { console: Vec<String> },
    #[error("the emulated host died{}", last_words(.console))]
    Died { console: Vec<String> },
}

impl RunError {
    /// The exit status for it: 124 as timeout(1) has it, 126 and 127 as shells have them, else 125.
    #[must_use]
    pub fn status(&self) -> u8 {
        match self {
            Self::Deadline { .. } => 124,
            Self::Inside { status, .. } => *status,
            _ => 125,
        }
    }
}

fn last_words(lines: &[String]) -> String {
    if lines.is_empty() {
        return ", without a word on its console".into();
    }
    format!("; its console's last words:\n    {}", lines.join("\n    "))
}

/// What the threads tell the one that waits.
enum Event {
    /// The inside has its control port.
    Booted,
    Message(ToOutside),
    /// The control port has ended: QEMU is gone.
    Gone,
    /// So many bytes of this stream have been passed on.
    Passed(Port, u64),
    Failed(RunError),
}

/// Runs a command; its standard streams are this process's own.
///
/// # Errors
/// [`RunError`]: everything that is not the command's own failure.
pub fn run(run: &Run) -> Result<Outcome, RunError> {
    let input = io::stdin();
    // A terminal's input belongs to whoever reads it there; the command sees an end at once.
    let input = || (!input.is_terminal()).then(io::stdin);
    let boot = Boot::prepare(run, false)?;
    boots(|| Session::start(&boot)?.serve(run.timeout, input()))
}

/// Runs a command on this terminal, which is made raw meanwhile.
///
/// # Errors
/// [`RunError`]: everything that is not the command's own failure.
pub fn shell(run: &Run) -> Result<Outcome, RunError> {
    let boot = Boot::prepare(run, true)?;
    boots(|| {
        let mut session = Session::start(&boot)?;
        let control = session.control.try_clone().map_err(RunError::Wire)?;
        let resize = move |size| wire::send(&control, &ToInside::Resize(size)).is_ok();
        let _raw = RawTerminal::new(resize).map_err(RunError::Terminal)?;
        session.serve(run.timeout, Some(io::stdin()))
    })
}

/// Once more when the kernel did not boot: the command has not run, nor was anything read for it.
fn boots(mut once: impl FnMut() -> Result<Outcome, RunError>) -> Result<Outcome, RunError> {
    for _ in 1..BOOTS {
        match once() {
            Err(error @ RunError::NotBooted { .. }) => {
                eprintln!("{error}\nthe emulated host is booted once more");
            }
            result => return result,
        }
    }
    once()
}

impl LastWords {
    /// Why it is gone. Without a word of the kernel's it was QEMU that failed, and will again.
    fn error(self, booted: bool) -> RunError {
        if booted || self.console.is_empty() {
            return RunError::Died {
                console: self.all(),
            };
        }
        RunError::NotBooted {
            console: self.all(),
        }
    }
}

/// What all boots have in common.
struct Boot<'a> {
    run: &'a Run,
    terminal: bool,
    kernel: HostKernel,
    initramfs: PathBuf,
    output: Option<PathBuf>,
    /// The first one began.
    begun: Instant,
}

impl<'a> Boot<'a> {
    fn prepare(run: &'a Run, terminal: bool) -> Result<Self, RunError> {
        let kernel = kernel::host_kernel()?;
        let initramfs = initramfs::initramfs(&kernel, &run.init)?;
        let output = run.output.as_ref().map(|path| {
            path.canonicalize().map_err(|source| RunError::Output {
                path: path.clone(),
                source,
            })
        });
        Ok(Self {
            run,
            terminal,
            kernel,
            initramfs,
            output: output.transpose()?,
            begun: Instant::now(),
        })
    }

    fn request(&self) -> Result<Request, RunError> {
        let cwd = env::current_dir().map_err(RunError::Wire)?;
        let bytes = |path: &PathBuf| path.clone().into_os_string().into_vec();
        Ok(Request {
            argv: self
                .run
                .argv
                .iter()
                .map(|word| word.as_bytes().to_vec())
                .collect(),
            env: env::vars_os()
                .map(|(name, value)| (name.into_vec(), value.into_vec()))
                .collect(),
            cwd: bytes(&cwd),
            terminal: self
                .terminal
                .then(terminal::size)
                .transpose()
                .map_err(RunError::Terminal)?,
            output: self.output.as_ref().map(bytes),
            modules: bytes(&self.kernel.modules),
        })
    }
}

struct Session {
    qemu: Option<Qemu>,
    control: UnixStream,
    started: Instant,
    /// The first boot's start.
    begun: Instant,
}

impl Session {
    fn start(boot: &Boot<'_>) -> Result<Self, RunError> {
        let started = Instant::now();
        let mut qemu = Qemu::start(&Machine {
            kernel: &boot.kernel.vmlinuz,
            initramfs: &boot.initramfs,
            memory_mib: boot.run.memory_mib,
            output: boot.output.as_ref(),
        })?;
        let control = qemu.take(Port::Control);
        // Nobody reads it where QEMU has ended already, which has said why.
        if wire::send(&control, &ToInside::Run(boot.request()?)).is_err() {
            return Err(qemu.end(CONSOLE_LINES).error(false));
        }
        Ok(Self {
            qemu: Some(qemu),
            control,
            started,
            begun: boot.begun,
        })
    }

    fn serve(
        &mut self,
        timeout: Option<Duration>,
        input: Option<io::Stdin>,
    ) -> Result<Outcome, RunError> {
        let mut qemu = self.qemu.take().expect("a session serves once");
        let (tell, events) = mpsc::channel();
        let control = self.control.try_clone().map_err(RunError::Wire)?;
        let teller = tell.clone();
        thread::spawn(move || listen(control, &teller));
        for (port, fd) in [
            (Port::Stdout, rustix::stdio::stdout()),
            (Port::Stderr, rustix::stdio::stderr()),
        ] {
            let (stream, to, tell) = (qemu.take(port), own(fd)?, tell.clone());
            thread::spawn(move || pass_out(port, stream, to, &tell));
        }
        let stdin = qemu.take(Port::Stdin);
        thread::spawn(move || pass_in(input, &stdin));

        let mut passed = [0; 2];
        let (mut booted, mut ended) = (false, None);
        loop {
            let boot = (!booted).then(|| BOOT_TIMEOUT.saturating_sub(self.started.elapsed()));
            let whole = timeout.map(|timeout| timeout.saturating_sub(self.begun.elapsed()));
            let event = match whole.into_iter().chain(boot).min() {
                None => events.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(left) => events.recv_timeout(left),
            };
            match event {
                Ok(Event::Booted) => booted = true,
                Ok(Event::Message(ToOutside::Started)) => {}
                Ok(Event::Message(ToOutside::Failed { status, message })) => {
                    return Err(RunError::Inside { status, message });
                }
                Ok(Event::Message(ToOutside::Exited {
                    status,
                    stdout,
                    stderr,
                })) => {
                    ended = Some((Outcome { status }, [stdout, stderr]));
                }
                Ok(Event::Passed(port, n)) => passed[usize::from(port == Port::Stderr)] += n,
                Ok(Event::Failed(error)) => return Err(error),
                Ok(Event::Gone) | Err(RecvTimeoutError::Disconnected) => {
                    return Err(qemu.end(CONSOLE_LINES).error(booted));
                }
                Err(RecvTimeoutError::Timeout) => {
                    let words = qemu.end(CONSOLE_LINES);
                    return Err(match timeout {
                        Some(timeout) if self.begun.elapsed() >= timeout => RunError::Deadline {
                            timeout,
                            console: words.all(),
                        },
                        _ => RunError::NotBooted {
                            console: words.all(),
                        },
                    });
                }
            }
            match ended {
                Some((outcome, expected)) if passed == expected => return Ok(outcome),
                _ => {}
            }
        }
    }
}

fn own(fd: BorrowedFd<'_>) -> Result<File, RunError> {
    Ok(File::from(
        fd.try_clone_to_owned().map_err(RunError::Stream)?,
    ))
}

fn listen(control: UnixStream, tell: &Sender<Event>) {
    let mut control = BufReader::new(control);
    let hello = greeted(&mut control) && tell.send(Event::Booted).is_ok();
    while hello && let Ok(Some(message)) = wire::receive(&mut control) {
        // Nobody waits any more: the run is over.
        if tell.send(Event::Message(message)).is_err() {
            return;
        }
    }
    let _ = tell.send(Event::Gone);
}

fn greeted(stream: &mut impl Read) -> bool {
    let mut hello = [0];
    stream.read_exact(&mut hello).is_ok() && hello == [HELLO]
}

fn pass_out(port: Port, mut from: UnixStream, mut to: File, tell: &Sender<Event>) {
    if !greeted(&mut from) {
        return;
    }
    let mut buffer = vec![0; 64 << 10];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        let event = match to.write_all(buffer.get(..n).unwrap_or_default()) {
            Ok(()) => Event::Passed(port, n as u64),
            Err(error) => Event::Failed(RunError::Stream(error)),
        };
        if tell.send(event).is_err() {
            return;
        }
    }
}

fn pass_in(from: Option<io::Stdin>, mut to: &UnixStream) {
    if !greeted(&mut to) {
        return;
    }
    if let Some(mut from) = from {
        // A command that no longer reads ends the copying, and that is no error.
        let _ = io::copy(&mut from, &mut to);
    }
    // This is how the inside sees the end. QEMU throws away what it has not read yet when the whole
    // socket closes, so that waits until QEMU has closed its side.
    let _ = to.shutdown(Shutdown::Write);
    let _ = io::copy(&mut to, &mut io::sink());
}
