// SPDX-License-Identifier: Apache-2.0
//! virtiofsd's passthrough file system, kept to its directory whatever the guest asks for.
//!
//! The server hands names on as the guest sent them, and the host resolves them against the
//! directory that they are said to be in: `../etc` or `link/etc` would lead out. Every operation
//! that takes a name is here, and refuses one that is no single component. Everything else the
//! guest refers to by numbers, which the passthrough file system gave out itself.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use virtiofsd::filesystem::{
    Context, Entry, Extensions, FileSystem, FsOptions, GetxattrReply, ListxattrReply, OpenOptions,
    SerializableFileSystem, SetattrValid, SetxattrFlags, ZeroCopyReader, ZeroCopyWriter,
};
use virtiofsd::fuse::{Attr, SetattrIn};
use virtiofsd::passthrough::PassthroughFs;

type Inode = <PassthroughFs as FileSystem>::Inode;
type Handle = <PassthroughFs as FileSystem>::Handle;
type DirIter = <PassthroughFs as FileSystem>::DirIter;

pub(super) struct Confined(pub(super) PassthroughFs);

/// An entry of a directory, but neither the directory itself nor the one above it.
fn one_component(name: &CStr) -> io::Result<()> {
    let name = name.to_bytes();
    if matches!(name, b"" | b"." | b"..") || name.contains(&b'/') {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    Ok(())
}

/// Methods that pass all arguments on, after those behind `names` were looked at.
macro_rules! pass_on {
    ($(
        fn $method:ident $(<$generic:ident: $bound:ident>)? (
            $($argument:ident: $type:ty),* $(,)?
        ) $(-> $result:ty)? $(, names $($name:ident)+)?;
    )*) => {$(
        fn $method $(<$generic: $bound>)? (&self, $($argument: $type),*) $(-> $result)? {
            $($(one_component($name)?;)+)?
            self.0.$method($($argument),*)
        }
    )*};
}

impl FileSystem for Confined {
    type Inode = Inode;
    type Handle = Handle;
    type DirIter = DirIter;

    /// Without submounts a guest would take files of different volumes for one and the same.
    fn init(&self, capable: FsOptions) -> io::Result<FsOptions> {
        if !capable.contains(FsOptions::SUBMOUNTS) {
            return Err(io::Error::from_raw_os_error(libc::EPROTO));
        }
        self.0.init(capable)
    }

    pass_on! {
        fn destroy();
        fn statfs(ctx: Context, inode: Inode) -> io::Result<libc::statvfs64>;
        fn syncfs(ctx: Context, inode: Inode) -> io::Result<()>;
        fn access(ctx: Context, inode: Inode, mask: u32) -> io::Result<()>;
    }

    /// A file that is only read leaves nothing to be told of when it is closed: a round trip less.
    fn open(
        &self,
        ctx: Context,
        inode: Inode,
        kill_priv: bool,
        flags: u32,
    ) -> io::Result<(Option<Handle>, OpenOptions)> {
        let (handle, mut options) = self.0.open(ctx, inode, kill_priv, flags)?;
        let access = flags & libc::O_ACCMODE.cast_unsigned();
        if access == libc::O_RDONLY.cast_unsigned() {
            options |= OpenOptions::NOFLUSH;
        }
        Ok((handle, options))
    }

    // Names.
    pass_on! {
        fn lookup(ctx: Context, parent: Inode, name: &CStr) -> io::Result<Entry>, names name;
        fn symlink(
            ctx: Context, target: &CStr, parent: Inode, name: &CStr, extensions: Extensions,
        ) -> io::Result<Entry>, names name;
        fn mknod(
            ctx: Context, parent: Inode, name: &CStr, mode: u32, rdev: u32, umask: u32,
            extensions: Extensions,
        ) -> io::Result<Entry>, names name;
        fn mkdir(
            ctx: Context, parent: Inode, name: &CStr, mode: u32, umask: u32,
            extensions: Extensions,
        ) -> io::Result<Entry>, names name;
        fn create(
            ctx: Context, parent: Inode, name: &CStr, mode: u32, kill_priv: bool, flags: u32,
            umask: u32, extensions: Extensions,
        ) -> io::Result<(Entry, Option<Handle>, OpenOptions)>, names name;
        fn unlink(ctx: Context, parent: Inode, name: &CStr) -> io::Result<()>, names name;
        fn rmdir(ctx: Context, parent: Inode, name: &CStr) -> io::Result<()>, names name;
        fn rename(
            ctx: Context, old_dir: Inode, old_name: &CStr, new_dir: Inode, new_name: &CStr,
            flags: u32,
        ) -> io::Result<()>, names old_name new_name;
        fn link(
            ctx: Context, inode: Inode, new_parent: Inode, new_name: &CStr,
        ) -> io::Result<Entry>, names new_name;
    }

    // Inodes.
    pass_on! {
        fn forget(ctx: Context, inode: Inode, count: u64);
        fn batch_forget(ctx: Context, requests: Vec<(Inode, u64)>);
        fn getattr(
            ctx: Context, inode: Inode, handle: Option<Handle>,
        ) -> io::Result<(Attr, Duration)>;
        fn setattr(
            ctx: Context, inode: Inode, attr: SetattrIn, handle: Option<Handle>,
            valid: SetattrValid,
        ) -> io::Result<(Attr, Duration)>;
        fn readlink(ctx: Context, inode: Inode) -> io::Result<Vec<u8>>;
        fn setxattr(
            ctx: Context, inode: Inode, name: &CStr, value: &[u8], flags: u32,
            extra_flags: SetxattrFlags,
        ) -> io::Result<()>;
        fn getxattr(
            ctx: Context, inode: Inode, name: &CStr, size: u32,
        ) -> io::Result<GetxattrReply>;
        fn listxattr(ctx: Context, inode: Inode, size: u32) -> io::Result<ListxattrReply>;
        fn removexattr(ctx: Context, inode: Inode, name: &CStr) -> io::Result<()>;
        fn opendir(
            ctx: Context, inode: Inode, flags: u32,
        ) -> io::Result<(Option<Handle>, OpenOptions)>;
    }

    // Open files.
    pass_on! {
        fn read<W: ZeroCopyWriter>(
            ctx: Context, inode: Inode, handle: Handle, w: W, size: u32, offset: u64,
            lock_owner: Option<u64>, flags: u32,
        ) -> io::Result<usize>;
        fn write<R: ZeroCopyReader>(
            ctx: Context, inode: Inode, handle: Handle, r: R, size: u32, offset: u64,
            lock_owner: Option<u64>, delayed_write: bool, kill_priv: bool, flags: u32,
        ) -> io::Result<usize>;
        fn readdir(
            ctx: Context, inode: Inode, handle: Handle, size: u32, offset: u64,
        ) -> io::Result<DirIter>;
        fn lseek(
            ctx: Context, inode: Inode, handle: Handle, offset: u64, whence: u32,
        ) -> io::Result<u64>;
        fn fallocate(
            ctx: Context, inode: Inode, handle: Handle, mode: u32, offset: u64, length: u64,
        ) -> io::Result<()>;
        fn copyfilerange(
            ctx: Context, inode_in: Inode, handle_in: Handle, offset_in: u64, inode_out: Inode,
            handle_out: Handle, offset_out: u64, len: u64, flags: u64,
        ) -> io::Result<usize>;
        fn flush(
            ctx: Context, inode: Inode, handle: Handle, lock_owner: u64,
        ) -> io::Result<()>;
        fn fsync(
            ctx: Context, inode: Inode, datasync: bool, handle: Handle,
        ) -> io::Result<()>;
        fn fsyncdir(
            ctx: Context, inode: Inode, datasync: bool, handle: Handle,
        ) -> io::Result<()>;
        fn release(
            ctx: Context, inode: Inode, flags: u32, handle: Handle, flush: bool,
            flock_release: bool, lock_owner: Option<u64>,
        ) -> io::Result<()>;
        fn releasedir(
            ctx: Context, inode: Inode, flags: u32, handle: Handle,
        ) -> io::Result<()>;
    }
}

impl SerializableFileSystem for Confined {
    pass_on! {
        fn prepare_serialization(cancel: Arc<AtomicBool>);
        fn serialize(pipe: File) -> io::Result<()>;
        fn deserialize_and_apply(pipe: File) -> io::Result<()>;
    }
}
