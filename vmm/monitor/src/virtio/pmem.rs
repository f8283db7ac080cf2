// SPDX-License-Identifier: Apache-2.0
//! virtio-pmem (virtio 1.3 §5.19): an image file as memory of the guest, which it maps with DAX, so
//! that the host's page cache is the guest's as well. One queue of flush requests, served by the
//! monitor's event loop.
//!
//! The mapping is private: a guest that writes changes pages of its own, never the file or what
//! another guest sees. The monitor itself never touches the mapping. Should somebody truncate the
//! file, the pages behind its new end are gone, and KVM tries in vain to get one that the guest
//! touches: as an asynchronous page fault again and again (seen with Linux 6.12), or `KVM_RUN`
//! fails with `EFAULT`. No signal reaches the monitor, which can be ended as ever.

use std::ffi::c_void;
use std::fs::File;
use std::path::{Path, PathBuf};

use rustix::mm::{MapFlags, ProtFlags};
use thiserror::Error;
use virtio_queue::DescriptorChain;
use vm_memory::GuestAddress;
use walnut_vmm_config::PmemConfig;

use super::plain::PlainHandler;
use super::{ActivateError, Activation, QueueHandler, VirtioDevice};
use crate::memory::{GuestMemory, HUGE_PAGE, MemoryError, PAGE, map_aligned};

/// §5.19.
const TYPE: u32 = 27;

const QUEUE_SIZES: &[u16] = &[64];

/// §5.19.6: the one request there is.
const REQUEST_FLUSH: u32 = 0;

/// §5.19.6: what is answered to a request.
const STATUS_OK: u32 = 0;
const STATUS_FAILED: u32 = u32::MAX;

#[derive(Debug, Error)]
pub enum PmemError {
    #[error("cannot open image {path}")]
    Open {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("image {path} is empty or no regular file")]
    Empty { path: PathBuf },
    #[error("image {path} of {len} bytes is too large to be mapped")]
    TooLarge { path: PathBuf, len: u64 },
    #[error("there is no room of {room} bytes for image {path} of {len}")]
    Room { path: PathBuf, len: u64, room: u64 },
    #[error("cannot reserve addresses for image {path}")]
    Reserve { path: PathBuf, source: MemoryError },
    #[error("cannot map image {path}")]
    Map {
        path: PathBuf,
        source: rustix::io::Errno,
    },
}

/// The device; its mapping lives as long as it does.
pub struct Pmem {
    mapping: Mapping,
    config: [u8; 16],
}

impl Pmem {
    /// Maps the image, to appear at `guest_addr`, which must be a multiple of [`HUGE_PAGE`].
    pub fn new(config: &PmemConfig, guest_addr: GuestAddress) -> Result<Self, PmemError> {
        let mapping = Mapping::of_file(&config.path, config.room)?;
        if config.prefault {
            mapping.collapse();
        }
        let mut bytes = [0; 16];
        // §5.19.4: struct virtio_pmem_config { le64 start; le64 size; }
        bytes[..8].copy_from_slice(&guest_addr.0.to_le_bytes());
        bytes[8..].copy_from_slice(&(mapping.len as u64).to_le_bytes());
        Ok(Self {
            mapping,
            config: bytes,
        })
    }

    /// Bytes of guest-physical address space: the image padded with zeros to [`HUGE_PAGE`], or to
    /// the room that it was given.
    #[expect(clippy::len_without_is_empty, reason = "an empty image is refused")]
    pub fn len(&self) -> u64 {
        self.mapping.len as u64
    }

    /// Bytes of it that can be other than zero.
    pub fn image_len(&self) -> u64 {
        (self.mapping.file_len as u64).next_multiple_of(PAGE)
    }

    /// Where the image lies in this process, for a memory slot. Nothing may read or write there.
    pub fn host_addr(&self) -> u64 {
        self.mapping.addr as u64
    }
}

/// A private mapping of a file, aligned to and padded to huge pages.
struct Mapping {
    addr: usize,
    len: usize,
    file_len: usize,
}

impl Mapping {
    fn of_file(path: &Path, room: Option<u64>) -> Result<Self, PmemError> {
        let opened = |source| PmemError::Open {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(opened)?;
        let metadata = file.metadata().map_err(opened)?;
        if !metadata.is_file() || metadata.len() == 0 {
            return Err(PmemError::Empty {
                path: path.to_owned(),
            });
        }
        let too_large = || PmemError::TooLarge {
            path: path.to_owned(),
            len: metadata.len(),
        };
        let file_len = usize::try_from(metadata.len()).map_err(|_| too_large())?;
        let padded = file_len
            .checked_next_multiple_of(HUGE_PAGE)
            .ok_or_else(too_large)?;
        let len = match room.map(usize::try_from) {
            None => padded,
            Some(Ok(room)) if room >= padded && room.is_multiple_of(HUGE_PAGE) => room,
            Some(_) => {
                return Err(PmemError::Room {
                    path: path.to_owned(),
                    len: metadata.len(),
                    room: room.unwrap_or_default(),
                });
            }
        };
        let addr = map_aligned(len).map_err(|source| PmemError::Reserve {
            path: path.to_owned(),
            source,
        })?;
        let mapping = Self {
            addr: addr as usize,
            len,
            file_len,
        };
        mapping.place(&file, file_len).map_err(|source| {
            let path = path.to_owned();
            PmemError::Map { path, source }
        })?;
        Ok(mapping)
    }

    /// Puts the file over the start of the zeros that are there. The bytes between its end and that
    /// of its last page are zeros, too (mmap(2)).
    #[expect(unsafe_code, reason = "mmap is unsafe by nature")]
    fn place(&self, file: &File, file_len: usize) -> rustix::io::Result<()> {
        // SAFETY: `file_len` bytes from `addr` are within the anonymous mapping that `self` owns,
        // and nothing refers to them.
        let placed = unsafe {
            rustix::mm::mmap(
                self.addr as *mut c_void,
                file_len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED,
                file,
                0,
            )
        };
        placed.map(|_| ())
    }

    /// Makes the file's page cache huge pages, where its file system has them (tmpfs; others with the
    /// kernel's `READ_ONLY_THP_FOR_FS`): 512 pages are one for KVM to map then. What has been done by
    /// an earlier machine is not done again.
    #[expect(unsafe_code, reason = "madvise is unsafe by nature")]
    fn collapse(&self) {
        let whole = self.file_len / HUGE_PAGE * HUGE_PAGE;
        // SAFETY: the range is a part of the mapping that `self` owns; its bytes stay as they are.
        let done = unsafe { libc::madvise(self.addr as *mut c_void, whole, libc::MADV_COLLAPSE) };
        if done < 0 {
            let error = std::io::Error::last_os_error();
            log::debug!("no huge pages for an image: {error}");
        }
    }
}

impl Drop for Mapping {
    #[expect(unsafe_code, reason = "munmap is unsafe by nature")]
    fn drop(&mut self) {
        // SAFETY: the range is the mapping that `self` owns. The monitor holds no reference into
        // it, and KVM forgets the pages of a memory slot whose mapping goes.
        if let Err(error) = unsafe { rustix::mm::munmap(self.addr as *mut c_void, self.len) } {
            log::warn!("cannot unmap an image: {error}");
        }
    }
}

impl VirtioDevice for Pmem {
    fn device_type(&self) -> u32 {
        TYPE
    }

    fn queue_sizes(&self) -> &[u16] {
        QUEUE_SIZES
    }

    fn config(&self) -> Vec<u8> {
        self.config.to_vec()
    }

    fn activate(&mut self, activation: Activation) -> Result<Box<dyn QueueHandler>, ActivateError> {
        Ok(PlainHandler::boxed(activation, answer))
    }
}

/// Answers one request (§5.19.6): `le32 type`, then room for `le32 ret`. A flush has nothing to do:
/// what the guest writes is nobody's but its own.
fn answer(memory: &GuestMemory, chain: DescriptorChain<&GuestMemory>) -> u32 {
    let Ok(mut reader) = chain.clone().reader(memory) else {
        return 0;
    };
    let Ok(mut writer) = chain.writer(memory) else {
        return 0;
    };
    let status = match reader.read_obj::<u32>() {
        Ok(request) if u32::from_le(request) == REQUEST_FLUSH => STATUS_OK,
        _ => STATUS_FAILED,
    };
    match writer.write_obj(status.to_le()) {
        Ok(()) => 4,
        Err(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_driver::Driver;
    use super::*;
    use std::io::Write;

    fn image(len: usize) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&vec![0xa5; len]).unwrap();
        file
    }

    fn pmem(file: &tempfile::NamedTempFile) -> Result<Pmem, PmemError> {
        let path = file.path().to_owned();
        Pmem::new(
            &PmemConfig {
                path,
                room: None,
                prefault: false,
            },
            GuestAddress(0x1_0000_0000),
        )
    }

    #[expect(unsafe_code, reason = "looks at the mapping as a guest would")]
    fn byte_at(pmem: &Pmem, offset: usize) -> *mut u8 {
        assert!(offset < pmem.mapping.len);
        // SAFETY: within the mapping, which `pmem` keeps.
        unsafe { (pmem.host_addr() as *mut u8).add(offset) }
    }

    #[expect(unsafe_code, reason = "looks at the mapping as a guest would")]
    fn read(pmem: &Pmem, offset: usize) -> u8 {
        // SAFETY: mapped, and nobody else knows it.
        unsafe { byte_at(pmem, offset).read_volatile() }
    }

    #[test]
    fn an_image_of_any_length_is_padded_with_zeros_to_huge_pages() {
        for len in [1, 4095, 4097, HUGE_PAGE, HUGE_PAGE + 1] {
            let file = image(len);
            let pmem = pmem(&file).unwrap();
            assert_eq!(pmem.mapping.len, len.next_multiple_of(HUGE_PAGE));
            assert_eq!(pmem.host_addr() % HUGE_PAGE as u64, 0);
            assert_eq!(read(&pmem, len - 1), 0xa5);
            if len < pmem.mapping.len {
                assert_eq!(read(&pmem, len), 0);
            }
            assert_eq!(
                read(&pmem, pmem.mapping.len - 1),
                if len == HUGE_PAGE { 0xa5 } else { 0 }
            );
        }
    }

    #[test]
    fn a_device_can_be_larger_than_its_image() {
        let file = image(4097);
        let with_room = |room| {
            let config = PmemConfig {
                path: file.path().to_owned(),
                room: Some(room),
                prefault: false,
            };
            Pmem::new(&config, GuestAddress(1 << 32))
        };
        let huge = HUGE_PAGE as u64;
        let device = with_room(3 * huge).unwrap();
        assert_eq!(device.len(), 3 * huge);
        assert_eq!(read(&device, 4096), 0xa5);
        assert_eq!(read(&device, 2 * HUGE_PAGE), 0);
        assert_eq!(device.config()[8..], (3 * huge).to_le_bytes());
        for room in [0, 4096, huge + 4096, u64::MAX] {
            assert!(matches!(with_room(room), Err(PmemError::Room { .. })));
        }
    }

    #[test]
    #[expect(unsafe_code, reason = "writes to the mapping as a guest would")]
    fn a_write_of_the_guest_stays_its_own() {
        let file = image(8192);
        let (first, second) = (pmem(&file).unwrap(), pmem(&file).unwrap());
        // SAFETY: mapped, and nobody else knows it.
        unsafe { byte_at(&first, 100).write_volatile(1) };
        assert_eq!(read(&first, 100), 1);
        assert_eq!(read(&second, 100), 0xa5);
        assert_eq!(std::fs::read(file.path()).unwrap()[100], 0xa5);
    }

    #[test]
    fn huge_pages_or_not_it_is_the_same_image() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let len = 2 * HUGE_PAGE + 5;
        let bytes: Vec<u8> = (0..=250).cycle().take(len).collect();
        file.write_all(&bytes).unwrap();
        let config = PmemConfig {
            path: file.path().to_owned(),
            room: None,
            prefault: true,
        };
        let device = Pmem::new(&config, GuestAddress(1 << 32)).unwrap();
        for at in [0, 4096, HUGE_PAGE - 1, HUGE_PAGE, 2 * HUGE_PAGE, len - 1] {
            assert_eq!(read(&device, at), bytes[at], "{at}");
        }
        assert_eq!(std::fs::read(file.path()).unwrap(), bytes);
    }

    #[test]
    fn config_space_has_start_and_padded_size() {
        let device = pmem(&image(5)).unwrap();
        let bytes = device.config();
        assert_eq!(bytes[..8], 0x1_0000_0000u64.to_le_bytes());
        assert_eq!(bytes[8..], (HUGE_PAGE as u64).to_le_bytes());
    }

    #[test]
    fn what_cannot_be_mapped_is_named() {
        let empty = image(0);
        assert!(matches!(pmem(&empty), Err(PmemError::Empty { .. })));
        let gone = PmemConfig {
            path: "/nonexistent/image".into(),
            room: None,
            prefault: false,
        };
        let error = Pmem::new(&gone, GuestAddress(0)).err().unwrap();
        assert!(error.to_string().contains("/nonexistent/image"));
        let directory = PmemConfig {
            path: "/".into(),
            room: None,
            prefault: false,
        };
        assert!(matches!(
            Pmem::new(&directory, GuestAddress(0)),
            Err(PmemError::Empty { .. })
        ));
    }

    #[test]
    fn a_flush_succeeds_and_anything_else_fails() {
        let mut driver = Driver::new(QUEUE_SIZES);
        let mut device = pmem(&image(5)).unwrap();
        driver.activate(&mut device, 0);
        let reply = driver.request(0, &[&REQUEST_FLUSH.to_le_bytes()], &[4]);
        assert_eq!(reply.written, STATUS_OK.to_le_bytes());
        assert_eq!(reply.len, 4);
        let reply = driver.request(0, &[&7u32.to_le_bytes()], &[4]);
        assert_eq!(reply.written, STATUS_FAILED.to_le_bytes());
        let reply = driver.request(0, &[&[0u8; 2]], &[4]);
        assert_eq!(reply.written, STATUS_FAILED.to_le_bytes());
        assert_eq!(driver.request(0, &[&[0u8; 4]], &[3]).len, 0);
    }
}
