// SPDX-License-Identifier: Apache-2.0
//! Pumps between pipes and sockets.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::thread::CpuSet;

use super::*;

type Pumping = JoinHandle<Result<Ended, Errno>>;

fn spawn(source: OwnedFd, destination: OwnedFd, stop: &Arc<Stop>) -> Pumping {
    let stop = Arc::clone(stop);
    thread::spawn(move || pump(source.as_fd(), destination.as_fd(), &stop))
}

fn nonblocking(stream: UnixStream) -> OwnedFd {
    stream.set_nonblocking(true).unwrap();
    stream.into()
}

fn pipe() -> (OwnedFd, OwnedFd) {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    rustix::io::ioctl_fionbio(&read, true).unwrap();
    (read, write)
}

#[test]
fn every_byte_arrives_and_a_full_peer_holds_the_source() {
    let stop = Arc::new(Stop::new().unwrap());
    let (read, write) = pipe();
    let (near, mut far) = UnixStream::pair().unwrap();
    let pumping = spawn(read, nonblocking(near), &stop);
    let sent: Vec<u8> = (0..8_u32 << 20)
        .map(|n| n.to_le_bytes()[n as usize % 4])
        .collect();
    let expected = sent.clone();
    let writer = thread::spawn(move || File::from(write).write_all(&sent).unwrap());
    let mut got = Vec::new();
    far.read_to_end(&mut got).unwrap();
    assert!(got == expected);
    writer.join().unwrap();
    assert_eq!(pumping.join().unwrap(), Ok(Ended::Source));
}

#[test]
fn a_destination_that_closes_ends_an_idle_pump() {
    let stop = Arc::new(Stop::new().unwrap());
    let (near, _far) = UnixStream::pair().unwrap();
    let (read, write) = pipe();
    rustix::io::ioctl_fionbio(&write, true).unwrap();
    let pumping = spawn(nonblocking(near), write, &stop);
    drop(read);
    assert_eq!(pumping.join().unwrap(), Ok(Ended::Destination));
}

#[test]
fn a_peer_that_closes_ends_a_writing_pump() {
    let stop = Arc::new(Stop::new().unwrap());
    let (read, write) = pipe();
    let (near, far) = UnixStream::pair().unwrap();
    let pumping = spawn(read, nonblocking(near), &stop);
    drop(far);
    // Either the pump takes it and fails to pass it on, or it is gone already.
    let _ = File::from(write).write_all(b"x");
    assert_eq!(pumping.join().unwrap(), Ok(Ended::Destination));
}

#[test]
fn draining_moves_what_is_there_and_ends() {
    let stop = Arc::new(Stop::new().unwrap());
    let (read, write) = pipe();
    let mut write = File::from(write);
    write.write_all(b"before").unwrap();
    stop.drain();
    let (near, mut far) = UnixStream::pair().unwrap();
    let pumping = spawn(read, nonblocking(near), &stop);
    assert_eq!(pumping.join().unwrap(), Ok(Ended::Source));
    let mut got = Vec::new();
    far.read_to_end(&mut got).unwrap();
    assert_eq!(got, b"before");
    // The writer is still there: it is a survivor of the process whose output this was.
    drop(write);
}

/// On one processor the writer often goes on, and ends, between a read of the pump's and its next step.
#[test]
fn what_was_written_last_arrives() {
    let mut one = CpuSet::new();
    one.set(rustix::thread::sched_getcpu());
    rustix::thread::sched_setaffinity(None, &one).unwrap();
    for _ in 0..200 {
        let stop = Arc::new(Stop::new().unwrap());
        let (read, write) = pipe();
        rustix::pipe::fcntl_setpipe_size(&write, 2 * BUFFER).unwrap();
        let (near, mut far) = UnixStream::pair().unwrap();
        let pumping = spawn(read, nonblocking(near), &stop);
        let writer = thread::spawn(move || {
            let mut write = File::from(write);
            for _ in 0..160 {
                write.write_all(&[7; 4096]).unwrap();
            }
            stop.drain();
            // A survivor has it, too: there is no end of file.
            write
        });
        let mut got = Vec::new();
        far.read_to_end(&mut got).unwrap();
        assert_eq!(got.len(), 160 * 4096);
        assert_eq!(pumping.join().unwrap(), Ok(Ended::Source));
        drop(writer.join().unwrap());
    }
}

#[test]
fn as_much_as_a_pipe_that_was_made_larger_holds() {
    let stop = Arc::new(Stop::new().unwrap());
    let (read, write) = pipe();
    let (near, mut far) = UnixStream::pair().unwrap();
    let pumping = spawn(read, nonblocking(near), &stop);
    let len = rustix::pipe::fcntl_setpipe_size(&write, 1 << 20).unwrap();
    // The pump has taken what the socket and its own buffer hold when this is through.
    let mut write = File::from(write);
    write.write_all(&vec![7; len + BUFFER]).unwrap();
    stop.drain();
    let mut got = Vec::new();
    far.read_to_end(&mut got).unwrap();
    assert_eq!(got.len(), len + BUFFER);
    assert_eq!(pumping.join().unwrap(), Ok(Ended::Source));
}

#[test]
fn a_survivor_that_never_stops_writing_does_not_hold_the_drain() {
    let stop = Arc::new(Stop::new().unwrap());
    let (read, write) = pipe();
    let (near, mut far) = UnixStream::pair().unwrap();
    let writer = thread::spawn(move || {
        let mut write = File::from(write);
        while write.write_all(&[7; 4096]).is_ok() {}
    });
    let reader = thread::spawn(move || {
        let mut all = Vec::new();
        far.read_to_end(&mut all).unwrap();
    });
    stop.drain();
    let pumping = spawn(read, nonblocking(near), &stop);
    assert_eq!(pumping.join().unwrap(), Ok(Ended::Source));
    writer.join().unwrap();
    reader.join().unwrap();
}

#[test]
fn finishing_ends_a_pump_that_can_t_write() {
    let stop = Arc::new(Stop::new().unwrap());
    let (near, far) = UnixStream::pair().unwrap();
    let (read, write) = pipe();
    rustix::io::ioctl_fionbio(&write, true).unwrap();
    let pumping = spawn(nonblocking(near), write, &stop);
    let mut far = far;
    far.set_nonblocking(true).unwrap();
    while far.write(&[0; 4096]).is_ok() {}
    stop.finish();
    assert_eq!(pumping.join().unwrap(), Ok(Ended::Told));
    drop(read);
}
