// SPDX-License-Identifier: Apache-2.0
//! Bytes between a file and guest memory, without a copy in between.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use super::request::Slice;

/// Buffers in one system call: IOV_MAX is 1024.
const MAX_BUFFERS: usize = 1024;

/// Fills all of `data` from `offset` on.
pub(super) fn read(file: &File, data: Vec<Slice<'_>>, offset: u64) -> io::Result<()> {
    all(data, offset, |buffers, count, offset| {
        #[expect(
            unsafe_code,
            reason = "the memory is the guest's, which no reference describes"
        )]
        // SAFETY: `all` passes buffers in guest memory, which stays mapped while the slices live.
        // The guest may look at and change the bytes meanwhile; nothing here relies on them.
        unsafe {
            libc::preadv(file.as_raw_fd(), buffers, count, offset)
        }
    })
}

/// Writes all of `data` at `offset`; durably, if it is to be written through.
pub(super) fn write(
    file: &File,
    data: Vec<Slice<'_>>,
    offset: u64,
    through: bool,
) -> io::Result<()> {
    let flags = if through { libc::RWF_DSYNC } else { 0 };
    all(data, offset, |buffers, count, offset| {
        #[expect(
            unsafe_code,
            reason = "the memory is the guest's, which no reference describes"
        )]
        // SAFETY: as in `read`.
        unsafe {
            libc::pwritev2(file.as_raw_fd(), buffers, count, offset, flags)
        }
    })
}

/// Calls `transfer` until everything is transferred.
fn all(
    data: Vec<Slice<'_>>,
    mut offset: u64,
    transfer: impl Fn(*const libc::iovec, libc::c_int, libc::off_t) -> isize,
) -> io::Result<()> {
    let mut data = VecDeque::from(data);
    while !data.is_empty() {
        // The guards keep nothing but the addresses: guest memory stays mapped.
        let buffers: Vec<libc::iovec> = data
            .iter()
            .take(MAX_BUFFERS)
            .map(|slice| libc::iovec {
                iov_base: slice.ptr_guard_mut().as_ptr().cast(),
                iov_len: slice.len(),
            })
            .collect();
        let count = libc::c_int::try_from(buffers.len()).expect("at most MAX_BUFFERS");
        let at = libc::off_t::try_from(offset).map_err(io::Error::other)?;
        let done = match usize::try_from(transfer(buffers.as_ptr(), count, at)) {
            // The file is shorter than it was.
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(done) => done,
            Err(_) => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => continue,
                error => return Err(error),
            },
        };
        offset += done as u64;
        advance(&mut data, done);
    }
    Ok(())
}

/// Takes off the first `done` bytes.
fn advance(data: &mut VecDeque<Slice<'_>>, mut done: usize) {
    while let Some(slice) = data.pop_front() {
        if let Ok(rest) = slice.offset(done)
            && !rest.is_empty()
        {
            data.push_front(rest);
            return;
        }
        done = done.saturating_sub(slice.len());
    }
}
