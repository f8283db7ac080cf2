// SPDX-License-Identifier: Apache-2.0
//! Requests carried out on the image, one after the other. Runs on the device's worker thread.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use rustix::fs::FallocateFlags;
use rustix::io::Errno;
use virtio_queue::DescriptorChain;

use super::Disk;
use super::request::{Parsed, Request, S_IOERR, S_OK, S_UNSUPP, Slice, parse};
use super::transfer;
use crate::memory::GuestMemory;
use crate::virtio::{QueueError, QueueHandler, VirtQueue};

/// What serving a disk calls beyond what every thread of the monitor does.
pub const WORKER_SYSCALLS: &[libc::c_long] = &[
    libc::SYS_fallocate,
    libc::SYS_fdatasync,
    libc::SYS_preadv,
    libc::SYS_pwrite64,
    libc::SYS_pwritev2,
];

/// Zeros written at a time where the file system has no better way.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

pub(super) struct BlkHandler {
    queues: Vec<VirtQueue>,
    server: Server,
}

struct Server {
    disk: Arc<Disk>,
    write_through: bool,
    /// Something was logged; what follows won't be.
    complained: bool,
}

impl BlkHandler {
    pub(super) fn new(queues: Vec<VirtQueue>, disk: Arc<Disk>, write_through: bool) -> Self {
        Self {
            queues,
            server: Server {
                disk,
                write_through,
                complained: false,
            },
        }
    }
}

impl QueueHandler for BlkHandler {
    fn queue_ready(&mut self, index: usize) -> Result<(), QueueError> {
        let Self { queues, server } = self;
        queues.get_mut(index).map_or(Ok(()), |queue| {
            queue.serve(|memory, chain| server.answer(memory, chain))
        })
    }

    fn queues(&self) -> &[VirtQueue] {
        &self.queues
    }
}

impl Server {
    /// Answers one request; how many bytes of its buffers were written, as far as they are written
    /// from their start.
    fn answer(&mut self, memory: &GuestMemory, chain: DescriptorChain<&GuestMemory>) -> u32 {
        let Parsed { status, request } = match parse(&self.disk, memory, chain) {
            Ok(parsed) => parsed,
            Err(error) => {
                self.complain(&error);
                return 0;
            }
        };
        let (code, written) = match request {
            Ok(request) => self.carry_out(request),
            Err(refusal) => {
                self.complain(&refusal);
                (refusal.status(), 0)
            }
        };
        status.copy_from(&[code]);
        match code {
            // A chain has less than 4 GiB; the status comes after the data.
            S_OK => u32::try_from(written + 1).unwrap_or(u32::MAX),
            _ => 0,
        }
    }

    fn carry_out(&mut self, request: Request<'_>) -> (u8, usize) {
        let length = |data: &[Slice<'_>]| data.iter().map(Slice::len).sum();
        let (done, written) = match request {
            Request::Read { offset, data } => {
                let len = length(&data);
                (transfer::read(&self.disk.file, data, offset), len)
            }
            Request::Write { offset, data } => {
                let file = &self.disk.file;
                let done = transfer::write(file, data, offset, self.write_through);
                (done, 0)
            }
            Request::Flush => (self.disk.flush(), 0),
            Request::Discard(ranges) => (self.each(ranges, Disk::discard), 0),
            Request::WriteZeroes(ranges) => (
                self.each(ranges, |disk, (range, unmap)| disk.zero(range, unmap)),
                0,
            ),
            Request::GetId(data) => {
                self.disk.copy_id(&data);
                (Ok(()), length(&data))
            }
        };
        match done {
            Ok(()) => (S_OK, written),
            Err(error) => {
                self.complain(&error);
                match Errno::from_io_error(&error) {
                    Some(Errno::OPNOTSUPP) => (S_UNSUPP, 0),
                    _ => (S_IOERR, 0),
                }
            }
        }
    }

    /// Changes every range, and makes that durable if the driver won't.
    fn each<T>(
        &self,
        ranges: Vec<T>,
        change: impl Fn(&Disk, T) -> io::Result<()>,
    ) -> io::Result<()> {
        ranges
            .into_iter()
            .try_for_each(|range| change(&self.disk, range))?;
        match self.write_through {
            true => self.disk.flush(),
            false => Ok(()),
        }
    }

    fn complain(&mut self, error: &dyn std::error::Error) {
        if !std::mem::replace(&mut self.complained, true) {
            let path = self.disk.path.display();
            log::warn!("disk {path}: {error}; further errors are not logged");
        }
    }
}

impl Disk {
    fn flush(&self) -> io::Result<()> {
        Ok(rustix::fs::fdatasync(&self.file)?)
    }

    /// Gives the space back to the host. What is read there afterwards is zeros.
    fn discard(&self, range: Range<u64>) -> io::Result<()> {
        self.allocate(FallocateFlags::PUNCH_HOLE, &range)
    }

    /// Zeros, by what the file system can do: a hole only if the driver wants no space there.
    fn zero(&self, range: Range<u64>, unmap: bool) -> io::Result<()> {
        let mut ways = [FallocateFlags::PUNCH_HOLE, FallocateFlags::ZERO_RANGE].into_iter();
        if !unmap {
            ways.next();
        }
        for way in ways {
            match self.allocate(way, &range) {
                Err(error) if Errno::from_io_error(&error) == Some(Errno::OPNOTSUPP) => {}
                done => return done,
            }
        }
        self.write_zeros(range)
    }

    fn allocate(&self, way: FallocateFlags, range: &Range<u64>) -> io::Result<()> {
        let len = range.end - range.start;
        if len == 0 {
            return Ok(());
        }
        let flags = way | FallocateFlags::KEEP_SIZE;
        Ok(rustix::fs::fallocate(&self.file, flags, range.start, len)?)
    }

    fn write_zeros(&self, range: Range<u64>) -> io::Result<()> {
        let mut at = range.start;
        while at < range.end {
            let len = usize::try_from(range.end - at).map_or(ZEROS.len(), |n| n.min(ZEROS.len()));
            at += rustix::io::pwrite(&self.file, &ZEROS[..len], at)? as u64;
        }
        Ok(())
    }

    /// The serial, padded with NULs, over however many buffers.
    fn copy_id(&self, data: &[Slice<'_>]) {
        let mut id = &self.id[..];
        for slice in data {
            let len = slice.len().min(id.len());
            slice.copy_from(&id[..len]);
            id = &id[len..];
        }
    }
}
