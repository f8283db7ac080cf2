// SPDX-License-Identifier: Apache-2.0
//! What files hold, and how it comes to a disk.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::mem::MaybeUninit;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use anyhow::{Context, bail, ensure};
use nix::libc;
use rustix::fs::{FallocateFlags, OFlags, SeekFrom, inotify};
use rustix::io::Errno;

pub fn fsync(dir: &Path) -> anyhow::Result<()> {
    let mut file = File::create(dir.join("file"))?;
    file.write_all(b"x")?;
    file.sync_all().context("a file")?;
    file.write_all(b"y")?;
    file.sync_data().context("a file's data")?;
    // PostgreSQL stops where this fails.
    File::open(dir)?.sync_all().context("a directory")?;
    File::open(dir)?.sync_data().context("a directory's data")?;
    rustix::fs::syncfs(&file).context("the file system")?;
    Ok(())
}

/// Works, or is refused when the file is opened: never data that goes astray.
pub fn direct(dir: &Path) -> anyhow::Result<()> {
    const BLOCK: usize = 4096;
    let path = dir.join("file");
    fs::write(&path, vec![b'x'; BLOCK])?;
    let flag = i32::try_from(OFlags::DIRECT.bits())?;
    let opened = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(flag)
        .open(&path);
    let file = match opened {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return Ok(()),
        opened => opened?,
    };
    let mut room = vec![0; 3 * BLOCK];
    let start = room.as_ptr().align_offset(BLOCK);
    let block = room
        .get_mut(start..start + BLOCK)
        .context("room for a block")?;
    block.fill(b'd');
    file.write_all_at(block, BLOCK as u64)?;
    ensure!(
        fs::metadata(&path)?.len() == 2 * BLOCK as u64,
        "the file has grown"
    );
    file.read_exact_at(block, 0)?;
    ensure!(
        block.iter().all(|byte| *byte == b'x'),
        "read past the cache"
    );
    ensure!(
        fs::read(&path)?[BLOCK..] == [b'd'; BLOCK],
        "written past the cache"
    );
    Ok(())
}

pub fn notify(dir: &Path) -> anyhow::Result<()> {
    use inotify::{CreateFlags, ReadFlags, Reader, WatchFlags};
    let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    let flags = WatchFlags::CREATE
        | WatchFlags::CLOSE_WRITE
        | WatchFlags::MOVED_FROM
        | WatchFlags::MOVED_TO
        | WatchFlags::DELETE;
    inotify::add_watch(&watch, dir, flags)?;
    fs::write(dir.join("a"), "x")?;
    fs::rename(dir.join("a"), dir.join("b"))?;
    fs::remove_file(dir.join("b"))?;
    let mut room = [MaybeUninit::uninit(); 4096];
    let mut reader = Reader::new(&watch, &mut room);
    let mut seen = Vec::new();
    loop {
        match reader.next() {
            Ok(event) => seen.push(event.events()),
            Err(Errno::AGAIN) => break,
            Err(error) => bail!("read the events: {error}"),
        }
    }
    let wanted = [
        ReadFlags::CREATE,
        ReadFlags::CLOSE_WRITE,
        ReadFlags::MOVED_FROM,
        ReadFlags::MOVED_TO,
        ReadFlags::DELETE,
    ];
    ensure!(seen == wanted, "{seen:?}");
    Ok(())
}

pub fn holes(dir: &Path) -> anyhow::Result<()> {
    const MIB: u64 = 1 << 20;
    let file = File::create_new(dir.join("file"))?;
    file.set_len(8 * MIB)?;
    file.write_all_at(&[1; 4096], 4 * MIB)?;
    let blocks = |file: &File| file.metadata().map(|meta| meta.blocks() * 512);
    ensure!(blocks(&file)? < MIB, "a hole takes room");
    let end = rustix::fs::seek(&file, SeekFrom::End(0))?;
    ensure!(end == 8 * MIB, "{end} bytes long");
    let data = rustix::fs::seek(&file, SeekFrom::Data(0))?;
    ensure!(data <= 4 * MIB, "data begins at {data}");
    rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, 2 * MIB)?;
    ensure!(blocks(&file)? >= 2 * MIB, "no room was made");
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(&file, punch, 4 * MIB, 4096)?;
    let mut byte = [1];
    File::open(dir.join("file"))?.read_exact_at(&mut byte, 4 * MIB)?;
    ensure!(byte == [0], "a punched hole reads as zeros");
    Ok(())
}

pub fn append(dir: &Path) -> anyhow::Result<()> {
    let path = dir.join("file");
    let open = || OpenOptions::new().append(true).create(true).open(&path);
    let (mut one, mut two) = (open()?, open()?);
    one.write_all(b"one ")?;
    two.write_all(b"two ")?;
    one.write_all(b"three")?;
    ensure!(fs::read(&path)? == b"one two three", "two that append");
    let before = fs::metadata(&path)?.modified()?;
    one.set_len(3)?;
    ensure!(fs::read(&path)? == b"one", "cut");
    ensure!(
        fs::metadata(&path)?.modified()? >= before,
        "a time that goes back"
    );
    let then = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_millis(1_234_567);
    one.set_modified(then)?;
    ensure!(
        fs::metadata(&path)?.modified()? == then,
        "a time that was set"
    );
    Ok(())
}
