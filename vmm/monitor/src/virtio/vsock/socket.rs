// SPDX-License-Identifier: Apache-2.0
//! Stream sockets and guest memory: bytes go from one to the other with no copy in between. Nothing
//! here ever blocks.

use std::io::{Error, ErrorKind, Result};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use vm_memory::bitmap::Bitmap;

use super::packet::Slice;

/// What one call takes (`UIO_MAXIOV`); the rest waits for the next one.
const MAX_VECTORS: usize = 1024;

/// Receives into `slices`, in their order: how many bytes, 0 at the end of the stream.
pub(super) fn receive(socket: BorrowedFd<'_>, slices: &[Slice<'_>]) -> Result<usize> {
    let guards: Vec<_> = slices.iter().map(Slice::ptr_guard_mut).collect();
    let mut vectors: Vec<libc::iovec> = guards
        .iter()
        .zip(slices)
        .map(|(guard, slice)| vector(guard.as_ptr(), slice.len()))
        .collect();
    let mut message = message(&mut vectors);
    let received = retry(|| {
        #[expect(
            unsafe_code,
            reason = "guest memory is no slice that a safe call could take"
        )]
        // SAFETY: `message` refers to `vectors` only, and each of these to guest memory that its
        // guard keeps mapped; that memory is nothing the compiler makes assumptions about.
        unsafe {
            libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT)
        }
    })?;
    let mut rest = received;
    for slice in slices {
        let len = slice.len().min(rest);
        slice.bitmap().mark_dirty(0, len);
        rest -= len;
    }
    Ok(received)
}

/// Sends what `slices` hold, in their order: how many bytes were taken.
pub(super) fn send(socket: BorrowedFd<'_>, slices: &[Slice<'_>]) -> Result<usize> {
    let guards: Vec<_> = slices.iter().map(Slice::ptr_guard).collect();
    let mut vectors: Vec<libc::iovec> = guards
        .iter()
        .zip(slices)
        .map(|(guard, slice)| vector(guard.as_ptr().cast_mut(), slice.len()))
        .collect();
    let message = message(&mut vectors);
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    retry(|| {
        #[expect(
            unsafe_code,
            reason = "guest memory is no slice that a safe call could take"
        )]
        // SAFETY: as in `receive`; the memory is only read.
        unsafe {
            libc::sendmsg(socket.as_raw_fd(), &raw const message, flags)
        }
    })
}

fn vector(base: *mut u8, len: usize) -> libc::iovec {
    libc::iovec {
        iov_base: base.cast(),
        iov_len: len,
    }
}

fn message(vectors: &mut [libc::iovec]) -> libc::msghdr {
    libc::msghdr {
        msg_name: ptr::null_mut(),
        msg_namelen: 0,
        msg_iov: vectors.as_mut_ptr(),
        msg_iovlen: vectors.len().min(MAX_VECTORS),
        msg_control: ptr::null_mut(),
        msg_controllen: 0,
        msg_flags: 0,
    }
}

fn retry(mut call: impl FnMut() -> isize) -> Result<usize> {
    loop {
        // Negative is the only thing that does not fit.
        if let Ok(len) = usize::try_from(call()) {
            return Ok(len);
        }
        let error = Error::last_os_error();
        if error.kind() != ErrorKind::Interrupted {
            return Err(error);
        }
    }
}
