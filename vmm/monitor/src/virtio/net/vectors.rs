// SPDX-License-Identifier: Apache-2.0
//! Guest memory and bytes of our own, gathered for one system call on a descriptor that does not
//! block.

use std::io::{Error, ErrorKind, Result};
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::chain::Slice;

/// Buffers in one system call: IOV_MAX.
pub(super) const MAX_VECTORS: usize = 1024;

/// The guards that slices give keep nothing but addresses: guest memory stays mapped.
#[derive(Default)]
pub(super) struct Vectors<'a> {
    list: Vec<libc::iovec>,
    held: PhantomData<&'a [u8]>,
}

impl<'a> Vectors<'a> {
    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    pub(super) fn push(&mut self, slice: &Slice<'a>) {
        self.list.push(libc::iovec {
            iov_base: slice.ptr_guard_mut().as_ptr().cast(),
            iov_len: slice.len(),
        });
    }

    /// To be written only.
    pub(super) fn push_bytes(&mut self, bytes: &'a [u8]) {
        self.list.push(libc::iovec {
            iov_base: bytes.as_ptr().cast_mut().cast(),
            iov_len: bytes.len(),
        });
    }

    /// `None` where the descriptor takes nothing now.
    pub(super) fn write(&self, fd: BorrowedFd<'_>) -> Result<Option<usize>> {
        attempt(|| {
            #[expect(
                unsafe_code,
                reason = "the memory is the guest's, which no reference describes"
            )]
            // SAFETY: each vector is guest memory, which stays mapped while its slice lives, or
            // bytes that are borrowed for as long as `self`; all of it is only read.
            unsafe {
                libc::writev(fd.as_raw_fd(), self.list.as_ptr(), self.count())
            }
        })
    }

    fn count(&self) -> libc::c_int {
        libc::c_int::try_from(self.list.len().min(MAX_VECTORS)).expect("at most MAX_VECTORS")
    }
}

/// Reads into `slices`, in their order; `None` where there is nothing now.
pub(super) fn read(fd: BorrowedFd<'_>, slices: &[Slice<'_>]) -> Result<Option<usize>> {
    let mut vectors = Vectors::default();
    for slice in slices {
        vectors.push(slice);
    }
    attempt(|| {
        #[expect(
            unsafe_code,
            reason = "the memory is the guest's, which no reference describes"
        )]
        // SAFETY: each vector is guest memory, which stays mapped while `slices` live. The guest may
        // look at and change the bytes meanwhile; nothing here relies on them.
        unsafe {
            libc::readv(fd.as_raw_fd(), vectors.list.as_ptr(), vectors.count())
        }
    })
}

fn attempt(mut call: impl FnMut() -> isize) -> Result<Option<usize>> {
    loop {
        // Negative is the only thing that does not fit.
        if let Ok(len) = usize::try_from(call()) {
            return Ok(Some(len));
        }
        let error = Error::last_os_error();
        match error.kind() {
            ErrorKind::Interrupted => {}
            ErrorKind::WouldBlock => return Ok(None),
            _ => return Err(error),
        }
    }
}
