// SPDX-License-Identifier: Apache-2.0
//! Loading a kernel and telling it about the machine.
//!
//! An uncompressed ELF `vmlinux` is entered by its PVH note (Xen's `docs/misc/pvh.pandoc`), a
//! `bzImage` by the 64-bit Linux boot protocol (the kernel's `Documentation/arch/x86/boot.rst`).

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use linux_loader::configurator::linux::LinuxBootConfigurator;
use linux_loader::configurator::pvh::PvhBootConfigurator;
use linux_loader::configurator::{BootConfigurator, BootParams};
use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use linux_loader::loader::elf::PvhBootCapability;
use linux_loader::loader::elf::start_info::{
    hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info,
};
use linux_loader::loader::{BzImage, Elf, KernelLoader};
use thiserror::Error;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use super::layout::{
    CMDLINE, CMDLINE_MAX, EBDA_START, GDT, HIGH_RAM_START, MMIO_START, PAGE_DIRECTORIES, PDPT,
    PML4, PVH_MEMMAP, PVH_MODULES, PVH_START_INFO, ZERO_PAGE, ram_ranges,
};
use super::mptable;
use crate::memory::mapped::MappedFile;
use crate::memory::{self, GuestMemory, PAGE};

const ELF_MAGIC: &[u8; 4] = b"\x7fELF";
const PVH_MAGIC: u32 = 0x336e_c578;
const E820_RAM: u32 = 1;
const BOOT_FLAG: u16 = 0xaa55;
const HDRS: u32 = u32::from_le_bytes(*b"HdrS");
/// `type_of_loader`: none of the registered ones.
const LOADER_OTHER: u8 = 0xff;
/// The 64-bit entry point lies this far into a bzImage's protected-mode code.
const ENTRY_64: u64 = 0x200;

/// Flat 64-bit code (0x10) and data (0x18), behind two null descriptors.
const GDT_ENTRIES: [u64; 4] = [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff];
pub(super) const GDT_LIMIT: u16 = 4 * 8 - 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Pvh,
    Linux64,
}

/// Where and how the boot processor starts.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    pub rip: GuestAddress,
    pub protocol: Protocol,
}

/// What a machine starts with.
pub struct Loaded {
    pub entry: Entry,
    /// Guest memory that is a file of the host, until the guest writes to it.
    pub mapped: Vec<(GuestAddress, u64)>,
}

#[derive(Debug, Error)]
pub enum BootError {
    #[error("cannot open {what} {path}")]
    Open {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("cannot read {what} {path}")]
    Read {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("{path} is no Linux kernel: neither an ELF vmlinux nor a bzImage")]
    NotAKernel { path: PathBuf },
    #[error("kernel {path} does not load: is it whole, and does it fit into guest memory?")]
    Load {
        path: PathBuf,
        source: linux_loader::loader::Error,
    },
    #[error("kernel {path} has no PVH entry point; build it with CONFIG_PVH=y")]
    NoPvh { path: PathBuf },
    #[error("initramfs {path} of {len} bytes does not fit behind the kernel; give more memory")]
    InitrdTooLarge { path: PathBuf, len: u64 },
    #[error("the kernel command line has {len} bytes; the kernel takes at most {}", CMDLINE_MAX - 1)]
    CmdlineTooLong { len: usize },
    #[error("cannot write boot structures to guest memory")]
    Write(#[from] GuestMemoryError),
    #[error("cannot write boot parameters to guest memory")]
    Params(#[from] linux_loader::configurator::Error),
}

/// The files a machine boots from, opened before the monitor gives up opening files.
pub struct BootFiles {
    kernel: (PathBuf, MappedFile),
    initrd: Option<(PathBuf, MappedFile)>,
}

impl BootFiles {
    pub fn open(kernel: &Path, initrd: Option<&Path>) -> Result<Self, BootError> {
        let open = |what, path: &Path| match File::open(path).and_then(MappedFile::new) {
            Ok(file) => Ok((path.to_owned(), file)),
            Err(source) => Err(BootError::Open {
                what,
                path: path.to_owned(),
                source,
            }),
        };
        let initrd = initrd.map(|path| open("initramfs", path)).transpose()?;
        Ok(Self {
            kernel: open("kernel", kernel)?,
            initrd,
        })
    }

    /// Loads everything and writes what the kernel reads at its start.
    pub fn load(
        mut self,
        memory: &GuestMemory,
        ram_bytes: u64,
        cpus: u8,
        cmdline: &str,
    ) -> Result<Loaded, BootError> {
        let kernel = load_kernel(memory, &self.kernel.0, &mut self.kernel.1)?;
        let initrd = match &mut self.initrd {
            Some((path, file)) => Some(load_initrd(memory, path, file, kernel.end, ram_bytes)?),
            None => None,
        };
        write_cmdline(memory, cmdline)?;
        mptable::write(memory, cpus)?;
        match kernel.setup {
            None => write_pvh(memory, ram_bytes, initrd)?,
            Some(setup) => write_linux64(memory, ram_bytes, initrd, *setup)?,
        }
        let mapped = [Some(&self.kernel), self.initrd.as_ref()]
            .into_iter()
            .flatten()
            .flat_map(|(_, file)| file.mapped())
            .filter_map(|&(host, len)| Some((memory::guest_address(memory, host)?, len as u64)))
            .collect();
        Ok(Loaded {
            entry: kernel.entry,
            mapped,
        })
    }
}

struct LoadedKernel {
    entry: Entry,
    end: u64,
    /// Present for a bzImage.
    setup: Option<Box<setup_header>>,
}

fn load_kernel(
    memory: &GuestMemory,
    path: &Path,
    file: &mut MappedFile,
) -> Result<LoadedKernel, BootError> {
    let mut magic = [0; 4];
    let read = file.peek(&mut magic).map_err(|source| BootError::Read {
        what: "kernel",
        path: path.to_owned(),
        source,
    })?;
    let path = || path.to_owned();
    if read == magic.len() && &magic == ELF_MAGIC {
        let start = Some(GuestAddress(HIGH_RAM_START));
        let loaded = Elf::load(memory, None, file, start).map_err(|source| BootError::Load {
            path: path(),
            source,
        })?;
        let PvhBootCapability::PvhEntryPresent(rip) = loaded.pvh_boot_cap else {
            return Err(BootError::NoPvh { path: path() });
        };
        let entry = Entry {
            rip,
            protocol: Protocol::Pvh,
        };
        return Ok(LoadedKernel {
            entry,
            end: loaded.kernel_end,
            setup: None,
        });
    }
    let loaded = match BzImage::load(memory, None, file, Some(GuestAddress(HIGH_RAM_START))) {
        Ok(loaded) => loaded,
        Err(linux_loader::loader::Error::Bzimage(
            linux_loader::loader::bzimage::Error::ReadBzImageCompressedKernel,
        )) => {
            let source = linux_loader::loader::Error::MemoryOverflow;
            return Err(BootError::Load {
                path: path(),
                source,
            });
        }
        Err(_) => return Err(BootError::NotAKernel { path: path() }),
    };
    let setup = loaded
        .setup_header
        .ok_or_else(|| BootError::NotAKernel { path: path() })?;
    // The kernel unpacks itself into init_size bytes from where it was loaded.
    let end = loaded.kernel_load.0 + u64::from(setup.init_size);
    let rip = GuestAddress(loaded.kernel_load.0 + ENTRY_64);
    let entry = Entry {
        rip,
        protocol: Protocol::Linux64,
    };
    Ok(LoadedKernel {
        entry,
        end: end.max(loaded.kernel_end),
        setup: Some(Box::new(setup)),
    })
}

/// At the end of RAM below 4 GiB, on a page boundary.
fn load_initrd(
    memory: &GuestMemory,
    path: &Path,
    file: &mut MappedFile,
    kernel_end: u64,
    ram_bytes: u64,
) -> Result<(GuestAddress, u64), BootError> {
    let failed = |source| BootError::Read {
        what: "initramfs",
        path: path.to_owned(),
        source,
    };
    let len = file.len();
    let too_large = || BootError::InitrdTooLarge {
        path: path.to_owned(),
        len,
    };
    let low_ram_end = ram_bytes.min(MMIO_START);
    let start = low_ram_end.checked_sub(len).ok_or_else(too_large)? / PAGE * PAGE;
    if start < kernel_end {
        return Err(too_large());
    }
    let bytes = usize::try_from(len).map_err(|_| too_large())?;
    memory
        .read_exact_volatile_from(GuestAddress(start), file, bytes)
        .map_err(|error| failed(io::Error::other(error)))?;
    Ok((GuestAddress(start), len))
}

fn write_cmdline(memory: &GuestMemory, cmdline: &str) -> Result<(), BootError> {
    if cmdline.len() >= CMDLINE_MAX {
        return Err(BootError::CmdlineTooLong { len: cmdline.len() });
    }
    memory.write_slice(cmdline.as_bytes(), CMDLINE)?;
    memory.write_obj(0u8, GuestAddress(CMDLINE.0 + cmdline.len() as u64))?;
    Ok(())
}

/// RAM that the kernel may use: all but what lies between base memory and 1 MiB.
fn usable_ram(ram_bytes: u64) -> Vec<(u64, u64)> {
    let mut usable = vec![(0, EBDA_START)];
    for (start, len) in ram_ranges(ram_bytes) {
        let first = start.0.max(HIGH_RAM_START);
        usable.push((first, (start.0 + len).saturating_sub(first)));
    }
    usable
}

fn write_pvh(
    memory: &GuestMemory,
    ram_bytes: u64,
    initrd: Option<(GuestAddress, u64)>,
) -> Result<(), BootError> {
    let ranges: Vec<_> = usable_ram(ram_bytes)
        .into_iter()
        .map(|(addr, size)| hvm_memmap_table_entry {
            addr,
            size,
            type_: E820_RAM,
            reserved: 0,
        })
        .collect();
    let mut start_info = hvm_start_info {
        magic: PVH_MAGIC,
        version: 1,
        cmdline_paddr: CMDLINE.0,
        memmap_paddr: PVH_MEMMAP.0,
        memmap_entries: u32::try_from(ranges.len()).unwrap_or(0),
        ..Default::default()
    };
    let modules: Vec<_> = initrd
        .into_iter()
        .map(|(start, size)| hvm_modlist_entry {
            paddr: start.0,
            size,
            ..Default::default()
        })
        .collect();
    if !modules.is_empty() {
        start_info.nr_modules = 1;
        start_info.modlist_paddr = PVH_MODULES.0;
    }
    let mut params = BootParams::new(&start_info, PVH_START_INFO);
    params.set_sections(&ranges, PVH_MEMMAP);
    params.set_modules(&modules, PVH_MODULES);
    Ok(PvhBootConfigurator::write_bootparams(&params, memory)?)
}

fn write_linux64(
    memory: &GuestMemory,
    ram_bytes: u64,
    initrd: Option<(GuestAddress, u64)>,
    setup: setup_header,
) -> Result<(), BootError> {
    let mut zero_page = boot_params {
        hdr: setup,
        ..Default::default()
    };
    zero_page.hdr.boot_flag = BOOT_FLAG;
    zero_page.hdr.header = HDRS;
    zero_page.hdr.type_of_loader = LOADER_OTHER;
    zero_page.hdr.cmd_line_ptr = u32::try_from(CMDLINE.0).unwrap_or(0);
    zero_page.hdr.cmdline_size = u32::try_from(CMDLINE_MAX).unwrap_or(0);
    if let Some((start, len)) = initrd {
        // Both below 4 GiB: load_initrd puts it there.
        zero_page.hdr.ramdisk_image = u32::try_from(start.0).unwrap_or(0);
        zero_page.hdr.ramdisk_size = u32::try_from(len).unwrap_or(0);
    }
    for (index, (addr, size)) in usable_ram(ram_bytes).into_iter().enumerate() {
        zero_page.e820_table[index] = boot_e820_entry {
            addr,
            size,
            type_: E820_RAM,
        };
        zero_page.e820_entries += 1;
    }
    LinuxBootConfigurator::write_bootparams(&BootParams::new(&zero_page, ZERO_PAGE), memory)?;
    write_page_tables(memory)?;
    for (index, entry) in (0..).zip(GDT_ENTRIES) {
        memory.write_obj(entry, GuestAddress(GDT.0 + index * 8))?;
    }
    Ok(())
}

/// Identity map of the first 4 GiB with 2 MiB pages.
fn write_page_tables(memory: &GuestMemory) -> Result<(), GuestMemoryError> {
    const PRESENT_WRITABLE: u64 = 3;
    const LARGE: u64 = 1 << 7;
    memory.write_obj(PDPT.0 | PRESENT_WRITABLE, PML4)?;
    for gib in 0..4 {
        let directory = PAGE_DIRECTORIES.0 + gib * PAGE;
        memory.write_obj(directory | PRESENT_WRITABLE, GuestAddress(PDPT.0 + gib * 8))?;
        for page in 0..512 {
            let target = (gib << 30) + (page << 21);
            let entry = target | PRESENT_WRITABLE | LARGE;
            memory.write_obj(entry, GuestAddress(directory + page * 8))?;
        }
    }
    Ok(())
}
