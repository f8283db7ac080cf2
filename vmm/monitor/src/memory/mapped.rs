// SPDX-License-Identifier: Apache-2.0
//! A file that is mapped into guest memory where others would be copied.
//!
//! What a kernel never writes to stays the host's page cache: shared by all machines, and not
//! copied at each start. What it does write to becomes a page of its own.

use std::ffi::c_void;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;

use rustix::mm::{MapFlags, ProtFlags};
use vm_memory::bitmap::BitmapSlice;
use vm_memory::{ReadVolatile, VolatileMemoryError, VolatileSlice};

use super::{HUGE_PAGE, PAGE};

/// Less than this is copied: small segments are those that a kernel writes to.
const LEAST: usize = 4 << 20;

/// Reads like its file. Only to be read into guest memory: whole pages of the buffer are replaced.
pub struct MappedFile {
    file: File,
    len: u64,
    /// Address in this process and length of what was mapped.
    mapped: Vec<(usize, usize)>,
}

impl MappedFile {
    pub fn new(file: File) -> io::Result<Self> {
        let len = file.metadata()?.len();
        Ok(Self {
            file,
            len,
            mapped: Vec::new(),
        })
    }

    #[expect(
        clippy::len_without_is_empty,
        reason = "an empty file is as good as any other"
    )]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// The first bytes; where the file is read next stays as it was.
    pub fn peek(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.file.read_at(buf, 0)
    }

    pub fn mapped(&self) -> &[(usize, usize)] {
        &self.mapped
    }

    /// How many bytes from `position` can be mapped at `addr`, for a buffer of `len` bytes: whole
    /// huge pages, so that what lies around keeps its own.
    fn mappable(&self, addr: usize, len: usize, position: u64) -> usize {
        let there = usize::try_from(self.len.saturating_sub(position)).unwrap_or(usize::MAX);
        let len = len.min(there) / HUGE_PAGE * HUGE_PAGE;
        let aligned = addr.is_multiple_of(HUGE_PAGE) && position.is_multiple_of(PAGE);
        if aligned && len >= LEAST { len } else { 0 }
    }

    fn map(&mut self, addr: usize, len: usize, position: u64) -> io::Result<()> {
        map_private(&self.file, position, addr, len)?;
        self.mapped.push((addr, len));
        Ok(())
    }
}

/// Puts a part of a file in the place of guest memory: `addr` and `len` are a part of it, in whole
/// pages.
#[expect(unsafe_code, reason = "mmap is unsafe by nature")]
pub fn map_private(file: &File, position: u64, addr: usize, len: usize) -> io::Result<()> {
    // SAFETY: the caller passes a part of guest memory, a private mapping that this process
    // owns, that no Rust reference points into, and that stays readable and writable.
    unsafe {
        rustix::mm::mmap(
            addr as *mut c_void,
            len,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED,
            file,
            position,
        )
    }?;
    Ok(())
}

impl Read for MappedFile {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.file.read(buf)
    }
}

impl Seek for MappedFile {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

impl ReadVolatile for MappedFile {
    fn read_volatile<B: BitmapSlice>(
        &mut self,
        buf: &mut VolatileSlice<B>,
    ) -> Result<usize, VolatileMemoryError> {
        let failed = VolatileMemoryError::IOError;
        let position = self.file.stream_position().map_err(failed)?;
        let addr = buf.ptr_guard_mut().as_ptr().expose_provenance();
        let len = self.mappable(addr, buf.len(), position);
        if len == 0 {
            return self.file.read_volatile(buf);
        }
        self.map(addr, len, position).map_err(failed)?;
        self.file
            .seek(SeekFrom::Start(position + len as u64))
            .map_err(failed)?;
        // The last page's part: whoever loads a segment wants it whole.
        let mut rest = buf.offset(len)?;
        Ok(len + self.file.read_volatile(&mut rest)?)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write as _;

    use vm_memory::{Bytes, GuestAddress};

    use super::*;
    use crate::memory::{GuestMemory, Memory, allocate, guest_address};

    /// Eight MiB and one page, each word its own offset.
    fn file() -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let words: Vec<u8> = (0..(8u64 << 20) + PAGE)
            .step_by(8)
            .flat_map(u64::to_le_bytes)
            .collect();
        file.write_all(&words).unwrap();
        file
    }

    fn memory() -> Memory {
        allocate(&[(GuestAddress(0), 8 * HUGE_PAGE)]).unwrap()
    }

    fn load(
        memory: &GuestMemory,
        file: &mut MappedFile,
        at: u64,
        len: usize,
    ) -> Result<(), vm_memory::GuestMemoryError> {
        memory.read_exact_volatile_from(GuestAddress(at), file, len)
    }

    #[test]
    fn whole_huge_pages_are_mapped_and_the_rest_is_copied() {
        let (source, memory) = (file(), memory());
        let mut file = MappedFile::new(source.reopen().unwrap()).unwrap();
        file.seek(SeekFrom::Start(PAGE)).unwrap();
        load(&memory, &mut file, 2 << 20, (4 << 20) + 100).unwrap();
        assert_eq!(file.stream_position().unwrap(), PAGE + (4 << 20) + 100);
        let &[(host, len)] = file.mapped() else {
            panic!("{:?}", file.mapped());
        };
        assert_eq!(len, 4 << 20);
        assert_eq!(guest_address(&memory, host), Some(GuestAddress(2 << 20)));
        for offset in [0u64, 4096, (4 << 20) - 8, 4 << 20, (4 << 20) + 88] {
            let word: u64 = memory.read_obj(GuestAddress((2 << 20) + offset)).unwrap();
            assert_eq!(word, PAGE + offset);
        }
        let behind: u64 = memory.read_obj(GuestAddress((6 << 20) + 104)).unwrap();
        assert_eq!(behind, 0);
    }

    #[test]
    fn what_the_guest_writes_stays_its_own() {
        let (source, memory) = (file(), memory());
        let mut file = MappedFile::new(source.reopen().unwrap()).unwrap();
        load(&memory, &mut file, 0, 8 << 20).unwrap();
        assert_eq!(file.mapped().len(), 1);
        memory.write_obj(u64::MAX, GuestAddress(8)).unwrap();
        let bytes = fs::read(source.path()).unwrap();
        assert_eq!(bytes[8..16], 8u64.to_le_bytes());
    }

    #[test]
    fn what_does_not_lie_on_huge_pages_is_copied() {
        let (source, memory) = (file(), memory());
        for (at, position) in [(4096, 0), (2 << 20, 8)] {
            let mut file = MappedFile::new(source.reopen().unwrap()).unwrap();
            file.seek(SeekFrom::Start(position)).unwrap();
            load(&memory, &mut file, at, 5 << 20).unwrap();
            assert!(file.mapped().is_empty());
            let word: u64 = memory.read_obj(GuestAddress(at + 16)).unwrap();
            assert_eq!(word, position + 16);
        }
    }

    #[test]
    fn a_file_that_is_too_short_is_an_error() {
        let (source, memory) = (file(), memory());
        let mut file = MappedFile::new(source.reopen().unwrap()).unwrap();
        assert!(load(&memory, &mut file, 0, 10 << 20).is_err());
    }
}
