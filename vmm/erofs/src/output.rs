// SPDX-License-Identifier: Apache-2.0
//! The image file: positioned writes, gathered while they are contiguous.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::FallocateFlags;

const GATHER: usize = 256 << 10;

pub(crate) struct Output {
    file: File,
    pending: Vec<u8>,
    /// Where `pending` begins.
    at: u64,
}

impl Output {
    pub(crate) fn new(file: File) -> Self {
        Output {
            file,
            pending: Vec::with_capacity(GATHER),
            at: 0,
        }
    }

    pub(crate) fn write_at(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        if self.at + self.pending.len() as u64 != offset || self.pending.len() + data.len() > GATHER
        {
            self.flush()?;
            self.at = offset;
        }
        if data.len() >= GATHER / 2 && self.pending.is_empty() {
            self.file.write_all_at(data, offset)?;
            self.at = offset + data.len() as u64;
        } else {
            self.pending.extend_from_slice(data);
        }
        Ok(())
    }

    /// Gives blocks back to the file system; where it can't punch, they only stay unused.
    pub(crate) fn punch(&mut self, offset: u64, len: u64) -> io::Result<()> {
        self.flush()?;
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match rustix::fs::fallocate(&self.file, flags, offset, len) {
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes what is pending and gives the file its length; returns it.
    pub(crate) fn finish(mut self, len: u64) -> io::Result<File> {
        self.set_len(len)?;
        Ok(self.file)
    }

    pub(crate) fn set_len(&mut self, len: u64) -> io::Result<()> {
        self.flush()?;
        self.file.set_len(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.write_all_at(&self.pending, self.at)?;
        self.at += self.pending.len() as u64;
        self.pending.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn later_writes_win_wherever_they_land() {
        let mut file = tempfile::tempfile().unwrap();
        let mut output = Output::new(file.try_clone().unwrap());
        output.write_at(0, b"aaaa").unwrap();
        output.write_at(4, b"bbbb").unwrap();
        output.write_at(2, b"cc").unwrap();
        output.write_at(8, &vec![b'd'; GATHER]).unwrap();
        output.write_at(8, b"e").unwrap();
        output.finish(GATHER as u64 + 100).unwrap();
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes.len(), GATHER + 100);
        assert_eq!(bytes[..10], *b"aaccbbbbed");
        assert_eq!(bytes[GATHER + 7..GATHER + 9], *b"d\0");
    }
}
