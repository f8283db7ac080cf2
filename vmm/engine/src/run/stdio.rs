// SPDX-License-Identifier: Apache-2.0
//! The container's standard streams: bytes between this process's descriptors and the machine, one
//! thread each, as fast as the slower side takes them.
//!
//! End of file goes on as a half-close. When our reader has gone (EPIPE), the stream is shut down,
//! so that the container's next write tells it so.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use super::timings::now_us;

const BUFFER: usize = 256 << 10;

/// When the container's first byte of output arrived, on `CLOCK_MONOTONIC`.
pub static FIRST_BYTE_US: OnceLock<u64> = OnceLock::new();

/// Which of our own descriptors. They are never closed: no handle is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sink {
    Stdout,
    Stderr,
}

impl Sink {
    /// All of it.
    pub fn write(self, bytes: &[u8]) -> io::Result<()> {
        write_all(self.fd(), bytes)
    }

    fn fd(self) -> BorrowedFd<'static> {
        match self {
            Self::Stdout => rustix::stdio::stdout(),
            Self::Stderr => rustix::stdio::stderr(),
        }
    }
}

/// Copies what the container writes until it is done.
pub fn output(stream: UnixStream, sink: Sink) -> io::Result<JoinHandle<()>> {
    let name = format!("{sink:?}").to_lowercase();
    thread::Builder::new().name(name).spawn(move || {
        if let Err(e) = copy_out(&stream, sink.fd()) {
            log::debug!("{sink:?}: {e}");
            // Either side may be gone already.
            let _ = stream.shutdown(Shutdown::Both);
        }
    })
}

/// Copies what this process is given to the container. The thread ends with the process: nobody
/// waits for input that may never come.
pub fn input(stream: Arc<UnixStream>) -> io::Result<()> {
    thread::Builder::new().name("stdin".into()).spawn(move || {
        if let Err(e) = copy_in(rustix::stdio::stdin(), &stream) {
            log::debug!("stdin: {e}");
        }
        let _ = stream.shutdown(Shutdown::Write);
    })?;
    Ok(())
}

fn copy_out(mut from: &UnixStream, to: BorrowedFd<'_>) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let count = match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        FIRST_BYTE_US.get_or_init(now_us);
        write_all(to, &buffer[..count])?;
    }
}

fn copy_in(from: BorrowedFd<'_>, mut to: &UnixStream) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        match rustix::io::read(from, &mut buffer[..]) {
            Ok(0) => return Ok(()),
            Ok(count) => to.write_all(&buffer[..count])?,
            Err(Errno::INTR) => {}
            // Somebody else made it non-blocking.
            Err(Errno::AGAIN) => wait(from, PollFlags::IN)?,
            Err(e) => return Err(e.into()),
        }
    }
}

fn write_all(to: BorrowedFd<'_>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(to, bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => wait(to, PollFlags::OUT)?,
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

fn wait(fd: BorrowedFd<'_>, flags: PollFlags) -> io::Result<()> {
    match poll(&mut [PollFd::from_borrowed_fd(fd.as_fd(), flags)], None) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::pipe::pipe;
    use std::fs::File;

    /// Bytes that no copying by lines or text survives.
    fn sample() -> Vec<u8> {
        (0..3_000_000u32)
            .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
            .collect()
    }

    #[test]
    fn output_arrives_whole() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (reader, writer) = pipe().unwrap();
        rustix::fs::fcntl_setfl(&writer, rustix::fs::OFlags::NONBLOCK).unwrap();
        let copy = thread::spawn(move || copy_out(&ours, writer.as_fd()));
        let write = thread::spawn(move || (&theirs).write_all(&sample()).unwrap());
        let mut got = Vec::new();
        File::from(reader).read_to_end(&mut got).unwrap();
        write.join().unwrap();
        copy.join().unwrap().unwrap();
        assert!(got == sample());
    }

    #[test]
    fn input_arrives_whole_and_ends() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let (reader, writer) = pipe().unwrap();
        let copy = thread::spawn(move || {
            copy_in(reader.as_fd(), &ours).unwrap();
            ours.shutdown(Shutdown::Write).unwrap();
            ours
        });
        let write = thread::spawn(move || File::from(writer).write_all(&sample()).unwrap());
        let mut got = Vec::new();
        theirs.read_to_end(&mut got).unwrap();
        write.join().unwrap();
        assert!(got == sample());
        // The other direction is still open.
        theirs.write_all(b"x").unwrap();
        drop(copy.join().unwrap());
    }

    #[test]
    fn a_reader_that_went_ends_the_copy() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (reader, writer) = pipe().unwrap();
        drop(reader);
        (&theirs).write_all(b"x").unwrap();
        let error = copy_out(&ours, writer.as_fd()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
