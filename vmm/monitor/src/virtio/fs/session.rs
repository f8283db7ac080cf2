// SPDX-License-Identifier: Apache-2.0
//! One FUSE session: virtiofsd's server over one directory, from activation to reset. Lives on the
//! device's worker thread, where it is also made: the server changes the working directory and the
//! umask of its thread.
//!
//! Guests' messages are decoded and bounded by virtiofsd. What it can't decode is an error here,
//! and an error reply to the guest in `handler.rs`.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use rustix::fs::MemfdFlags;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::UnshareFlags;
use virtio_queue::desc::{RawDescriptor, split::Descriptor};
use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};
use virtiofsd::descriptor_utils::{Error as BufferError, Reader, Writer};
use virtiofsd::filesystem::SerializableFileSystem;
use virtiofsd::fuse::OutHeader;
use virtiofsd::passthrough::{
    CachePolicy, Config, MigrationOnError, NegotiationMode, PassthroughFs,
};
use virtiofsd::server::Server;
use virtiofsd::soft_idmap::cmdline::IdMap;
use vm_memory::{Bytes, GuestAddress};
use walnut_vmm_config::{FsConfig, Owner};

use super::confined::Confined;
use crate::memory::{GuestMemory, Memory, MemoryError, allocate};

/// How long the guest may believe in names and attributes that the host can change under it.
const CACHE_TIMEOUT: Duration = Duration::from_secs(1);

/// Each inode that the guest knows costs a descriptor: as many as virtiofsd itself asks for.
const MAX_OPEN_FILES: u64 = 1_000_000;

/// Descriptors that the guest's files leave to the rest of the monitor.
const RESERVED_FILES: u64 = 512;

/// Who a user that no one on this side is known as appears to be: the kernel's overflow id.
const NOBODY: u32 = 65534;

/// What a session shows, and as whom it acts.
pub(super) struct Source {
    root: OwnedFd,
    proc_self_fd: File,
    tag: String,
    open_files: u64,
    /// User and group of a monitor that is not root.
    caller: Option<(u32, u32)>,
    owner: Owner,
}

impl Source {
    /// `root` is a directory, `proc_self_fd` is `/proc/self/fd`; both may be `O_PATH` descriptors.
    pub(super) fn new(config: &FsConfig, root: OwnedFd, proc_self_fd: File) -> Self {
        let uid = rustix::process::geteuid();
        let caller = (!uid.is_root()).then(|| (uid.as_raw(), rustix::process::getegid().as_raw()));
        Self {
            root,
            proc_self_fd,
            tag: config.tag.clone(),
            open_files: raise_open_files(),
            caller,
            owner: config.owner,
        }
    }

    pub(super) fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            root: self.root.try_clone()?,
            proc_self_fd: self.proc_self_fd.try_clone()?,
            tag: self.tag.clone(),
            ..*self
        })
    }

    pub(super) fn tag(&self) -> &str {
        &self.tag
    }

    fn config(&self) -> io::Result<Config> {
        Ok(Config {
            // Relative to the thread's own working directory: no path is looked up any more once
            // the monitor is in its jail.
            root_dir: ".".to_owned(),
            proc_sfd_rawfd: Some(self.proc_self_fd.try_clone()?),
            entry_timeout: CACHE_TIMEOUT,
            attr_timeout: CACHE_TIMEOUT,
            cache_policy: CachePolicy::Auto,
            writeback: false,
            readdirplus: true,
            xattr: true,
            announce_submounts: true,
            allow_direct_io: true,
            killpriv_v2: true,
            // An ACL names users, and these are not translated.
            migration_on_error: MigrationOnError::GuestError,
            posix_acl: match self.caller {
                Some(_) => NegotiationMode::Never,
                None => NegotiationMode::Auto,
            },
            uid_map: self.caller.map(|(uid, _)| squash(uid, self.owner.uid)),
            gid_map: self.caller.map(|(_, gid)| squash(gid, self.owner.gid)),
            guest_fd_limit: self.open_files.saturating_sub(RESERVED_FILES),
            ..Config::default()
        })
    }
}

/// The map of a monitor that is not root and can be nobody but its caller: whoever writes in the
/// guest writes as the caller, whose files are the owner's in the guest; all others are nobody's.
fn squash(caller: u32, owner: u32) -> Vec<IdMap> {
    let nobody = |from_host, count| IdMap::SquashHost {
        from_host,
        to_guest: NOBODY,
        count,
    };
    let after = caller.saturating_add(1);
    [
        IdMap::SquashGuest {
            from_guest: 0,
            to_host: caller,
            count: u32::MAX,
        },
        IdMap::Host {
            from_host: caller,
            to_guest: owner,
            count: 1,
        },
        nobody(0, caller),
        nobody(after, u32::MAX - after),
    ]
    .into_iter()
    .filter(|map| !matches!(map, IdMap::SquashHost { count: 0, .. }))
    .collect()
}

/// Raises the process's limit of open files as far as it may; how far that is.
fn raise_open_files() -> u64 {
    let now = getrlimit(Resource::Nofile);
    let all = |files| Rlimit {
        current: Some(files),
        maximum: Some(files),
    };
    let hard = now.maximum.unwrap_or(MAX_OPEN_FILES);
    for files in [MAX_OPEN_FILES.max(hard), hard] {
        if setrlimit(Resource::Nofile, all(files)).is_ok() {
            return files;
        }
    }
    now.current.unwrap_or(hard)
}

/// Why a message has no proper answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum MessageError {
    #[error("the buffers of a FUSE message do not lie in guest memory: {0}")]
    Buffers(#[from] BufferError),
    #[error("a malformed FUSE message: {0}")]
    Malformed(#[from] virtiofsd::Error),
}

#[derive(Debug, thiserror::Error)]
pub(super) enum SessionError {
    #[error("cannot give the thread a working directory of its own")]
    OwnDirectory(#[source] rustix::io::Errno),
    #[error("cannot enter the shared directory")]
    Enter(#[source] rustix::io::Errno),
    #[error("cannot start virtiofsd's server")]
    Server(#[source] io::Error),
    #[error("cannot take up the saved session")]
    Restore(#[source] io::Error),
    #[error("cannot make room for replies that nobody waits for")]
    Unread(#[from] UnreadError),
}

pub(super) struct Session {
    server: Server<Confined>,
    unread: Unread,
}

impl Session {
    /// On the worker thread. The guest's first message is to be a FUSE_INIT, unless a session that
    /// was saved goes on.
    pub(super) fn start(source: &Source, saved: Option<&[u8]>) -> Result<Self, SessionError> {
        own_working_directory().map_err(SessionError::OwnDirectory)?;
        rustix::process::fchdir(&source.root).map_err(SessionError::Enter)?;
        let config = source.config().map_err(SessionError::Server)?;
        let fs = PassthroughFs::new(config).map_err(SessionError::Server)?;
        let server = Server::new(Confined(fs));
        if let Some(saved) = saved {
            restore(&server, saved).map_err(SessionError::Restore)?;
        }
        Ok(Self {
            server,
            unread: Unread::new()?,
        })
    }

    /// What the guest knows of this session: its inodes, by the paths they have now, and open files.
    /// What has no path any more is an error to the guest that goes on with it.
    pub(super) fn save(&self) -> io::Result<Vec<u8>> {
        self.server
            .prepare_serialization(Arc::new(AtomicBool::new(false)));
        let mut file = memory_file()?;
        self.server.serialize(file.try_clone()?)?;
        let mut saved = Vec::new();
        file.rewind()?;
        file.read_to_end(&mut saved)?;
        Ok(saved)
    }

    /// Answers one message; how many bytes of its buffers were written.
    pub(super) fn answer(
        &self,
        memory: &GuestMemory,
        chain: DescriptorChain<&GuestMemory>,
    ) -> Result<usize, MessageError> {
        let reader = Reader::new(memory, chain.clone())?;
        let writer = Writer::new(memory, chain)?;
        if writer.available_bytes() < size_of::<OutHeader>() {
            // A forget, or a driver that leaves no room. The server expects that there is some for
            // the header of any other message.
            let writer = self.unread.writer()?;
            self.server
                .handle_message(reader, writer, None::<&mut ()>)?;
            return Ok(0);
        }
        Ok(self
            .server
            .handle_message(reader, writer, None::<&mut ()>)?)
    }
}

fn restore(server: &Server<Confined>, saved: &[u8]) -> io::Result<()> {
    let mut file = memory_file()?;
    file.write_all(saved)?;
    file.rewind()?;
    server.deserialize_and_apply(file)
}

/// virtiofsd wants a file.
fn memory_file() -> io::Result<File> {
    Ok(rustix::fs::memfd_create("fs-state", MemfdFlags::CLOEXEC)?.into())
}

thread_local! {
    static OWNS_WORKING_DIRECTORY: Cell<bool> = const { Cell::new(false) };
}

/// Makes working directory, root and umask the calling thread's own.
fn own_working_directory() -> rustix::io::Result<()> {
    if OWNS_WORKING_DIRECTORY.get() {
        return Ok(());
    }
    #[expect(unsafe_code, reason = "other flags of unshare would need care")]
    // SAFETY: CLONE_FS leaves the table of open files shared.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FS) }?;
    OWNS_WORKING_DIRECTORY.set(true);
    Ok(())
}

#[derive(Debug, thiserror::Error)]
pub(super) enum UnreadError {
    #[error(transparent)]
    Memory(#[from] MemoryError),
    #[error("cannot lay out the chain: {0}")]
    Layout(#[from] vm_memory::GuestMemoryError),
    #[error("cannot make the queue: {0}")]
    Queue(#[from] virtio_queue::Error),
    #[error("the queue has no chain")]
    Empty,
}

/// A page of our own with one writable chain in it.
struct Unread {
    memory: Memory,
    chain: DescriptorChain<Memory>,
}

impl Unread {
    // A queue of one entry: its descriptor, its rings, and the buffer behind them.
    const AVAIL: u32 = 0x10;
    const USED: u32 = 0x20;
    const BUFFER: u32 = 0x40;
    const LEN: u32 = 0x1000;

    fn new() -> Result<Self, UnreadError> {
        let memory = allocate(&[(GuestAddress(0), Self::LEN as usize)])?;
        let flags = virtio_bindings::bindings::virtio_ring::VRING_DESC_F_WRITE;
        let flags = u16::try_from(flags).expect("a flag of 16 bits");
        let len = Self::LEN - Self::BUFFER;
        let descriptor = Descriptor::new(u64::from(Self::BUFFER), len, flags, 0);
        memory.write_obj(RawDescriptor::from(descriptor), GuestAddress(0))?;
        memory.write_obj(1u16.to_le(), GuestAddress(u64::from(Self::AVAIL) + 2))?;
        let mut queue = Queue::new(1)?;
        queue.set_desc_table_address(Some(0), Some(0));
        queue.set_avail_ring_address(Some(Self::AVAIL), Some(0));
        queue.set_used_ring_address(Some(Self::USED), Some(0));
        queue.set_ready(true);
        let chain = queue.iter(Memory::clone(&memory))?.next();
        let chain = chain.ok_or(UnreadError::Empty)?;
        Ok(Self { memory, chain })
    }

    fn writer(&self) -> Result<Writer<'_>, BufferError> {
        Writer::new(&self.memory, self.chain.clone())
    }
}
