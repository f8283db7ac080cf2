// SPDX-License-Identifier: Apache-2.0
//! Names, owners, rights: what directories and inodes hold.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use anyhow::{Context, ensure};
use nix::libc;
use rustix::fs::{CWD, FileType, Mode, RenameFlags, XattrFlags};
use rustix::io::Errno;

use super::{again, text};

pub fn owners(dir: &Path) -> anyhow::Result<()> {
    let file = dir.join("file");
    fs::write(&file, "x")?;
    chown(&file, Some(1000), Some(50))?;
    fs::set_permissions(&file, PermissionsExt::from_mode(0o6754))?;
    let meta = fs::metadata(&file)?;
    ensure!(
        (meta.uid(), meta.gid()) == (1000, 50),
        "owner {}:{}",
        meta.uid(),
        meta.gid()
    );
    ensure!(meta.mode() & 0o7777 == 0o6754, "mode {:o}", meta.mode());
    // A new owner takes the bits that lend rights.
    chown(&file, Some(1001), None)?;
    let mode = fs::metadata(&file)?.mode() & 0o7777;
    ensure!(mode == 0o754, "mode {mode:o} after a change of owner");
    // A directory's group goes on to what is made in it.
    let shared = dir.join("shared");
    fs::DirBuilder::new().mode(0o755).create(&shared)?;
    chown(&shared, None, Some(50))?;
    fs::set_permissions(&shared, PermissionsExt::from_mode(0o2755))?;
    fs::write(shared.join("file"), "x")?;
    let group = fs::metadata(shared.join("file"))?.gid();
    ensure!(group == 50, "group {group} in a directory of group 50");
    let link = dir.join("link");
    symlink("nowhere", &link)?;
    lchown(&link, Some(7), Some(8))?;
    ensure!(fs::symlink_metadata(&link)?.uid() == 7, "a link's owner");
    Ok(())
}

pub fn permissions(dir: &Path) -> anyhow::Result<()> {
    let file = dir.join("file");
    fs::write(&file, "x")?;
    for (mode, readable) in [(0o600, false), (0o644, true)] {
        fs::set_permissions(&file, PermissionsExt::from_mode(mode))?;
        let read = again(["--read", text(&file)], Some(1000))?;
        ensure!(
            read == readable,
            "mode {mode:o} is readable by others: {read}"
        );
    }
    Ok(())
}

pub fn hard_links(dir: &Path) -> anyhow::Result<()> {
    let (one, two) = (dir.join("one"), dir.join("two"));
    fs::write(&one, "x")?;
    fs::hard_link(&one, &two)?;
    let (a, b) = (fs::metadata(&one)?, fs::metadata(&two)?);
    ensure!((a.ino(), a.nlink()) == (b.ino(), 2), "two names, one file");
    fs::write(&two, "longer")?;
    ensure!(
        fs::read(&one)? == b"longer",
        "what one name wrote, the other reads"
    );
    fs::remove_file(&one)?;
    ensure!(fs::metadata(&two)?.nlink() == 1, "one name is left");
    // An open file lives on without any.
    let mut open = File::open(&two)?;
    fs::remove_file(&two)?;
    let mut left = String::new();
    open.read_to_string(&mut left)?;
    ensure!(
        left == "longer" && open.metadata()?.nlink() == 0,
        "an open file without a name"
    );
    Ok(())
}

pub fn symbolic_links(dir: &Path) -> anyhow::Result<()> {
    fs::create_dir(dir.join("sub"))?;
    fs::write(dir.join("sub/file"), "x")?;
    let long = "x".repeat(1000);
    for (name, target) in [
        ("relative", "sub/file"),
        ("dangling", "no/such"),
        ("long", &long),
    ] {
        symlink(target, dir.join(name))?;
        ensure!(
            fs::read_link(dir.join(name))? == Path::new(target),
            "{name}"
        );
    }
    ensure!(
        fs::read(dir.join("relative"))? == b"x",
        "a link is followed"
    );
    symlink("loop", dir.join("loop"))?;
    let looped = File::open(dir.join("loop")).map_err(|e| e.raw_os_error());
    ensure!(
        matches!(looped, Err(Some(libc::ELOOP))),
        "a loop: {looped:?}"
    );
    Ok(())
}

pub fn special_files(dir: &Path) -> anyhow::Result<()> {
    let mode = Mode::RUSR | Mode::WUSR;
    rustix::fs::mknodat(CWD, dir.join("fifo"), FileType::Fifo, mode, 0)?;
    let kind = FileType::from_raw_mode(fs::metadata(dir.join("fifo"))?.mode());
    ensure!(kind == FileType::Fifo, "{kind:?}");
    let socket = dir.join("socket");
    let _listener = UnixListener::bind(&socket)?;
    UnixStream::connect(&socket)?;
    Ok(())
}

pub fn attributes(dir: &Path) -> anyhow::Result<()> {
    let file = dir.join("file");
    fs::write(&file, "x")?;
    let value = vec![7; 1000];
    rustix::fs::setxattr(&file, "user.one", &value, XattrFlags::CREATE)?;
    rustix::fs::setxattr(&file, "user.two", b"", XattrFlags::empty())?;
    let twice = rustix::fs::setxattr(&file, "user.one", b"", XattrFlags::CREATE);
    ensure!(twice == Err(Errno::EXIST), "made twice: {twice:?}");
    let mut got = vec![0; 2000];
    let len = rustix::fs::getxattr(&file, "user.one", &mut got[..])?;
    ensure!(got[..len] == value, "{len} bytes of a value of 1000");
    let mut names = vec![0; 1000];
    let len = rustix::fs::listxattr(&file, &mut names[..])?;
    let names = String::from_utf8_lossy(&names[..len]).into_owned();
    ensure!(
        names.contains("user.one\0") && names.contains("user.two\0"),
        "names {names:?}"
    );
    rustix::fs::removexattr(&file, "user.one")?;
    let gone = rustix::fs::getxattr(&file, "user.one", &mut got[..]);
    ensure!(gone == Err(Errno::NODATA), "after its removal: {gone:?}");
    Ok(())
}

pub fn rename(dir: &Path) -> anyhow::Result<()> {
    let at = |name: &str| dir.join(name);
    let content = |name: &str| fs::read_to_string(at(name));
    fs::write(at("old"), "old")?;
    fs::write(at("new"), "new")?;
    let mut open = File::open(at("old"))?;
    fs::rename(at("new"), at("old"))?;
    ensure!(
        content("old")? == "new" && !at("new").exists(),
        "over another"
    );
    let mut text = String::new();
    open.read_to_string(&mut text)?;
    ensure!(text == "old", "who had it open reads {text:?}");
    fs::write(at("second"), "second")?;
    let with = |flags| rustix::fs::renameat_with(CWD, at("old"), CWD, at("second"), flags);
    let refused = with(RenameFlags::NOREPLACE);
    ensure!(
        refused == Err(Errno::EXIST),
        "RENAME_NOREPLACE: {refused:?}"
    );
    with(RenameFlags::EXCHANGE).context("RENAME_EXCHANGE")?;
    ensure!(
        content("old")? == "second" && content("second")? == "new",
        "exchanged"
    );
    fs::create_dir(at("full"))?;
    fs::write(at("full/file"), "x")?;
    fs::create_dir(at("empty"))?;
    let over = fs::rename(at("empty"), at("full")).map_err(|e| e.raw_os_error());
    ensure!(
        over == Err(Some(libc::ENOTEMPTY)),
        "over a directory with files: {over:?}"
    );
    fs::rename(at("full"), at("empty"))?;
    ensure!(
        content("empty/file")? == "x",
        "a directory over an empty one"
    );
    let inside = fs::rename(at("empty"), at("empty/in")).map_err(|e| e.raw_os_error());
    ensure!(inside == Err(Some(libc::EINVAL)), "into itself: {inside:?}");
    Ok(())
}

pub fn many(dir: &Path) -> anyhow::Result<()> {
    const COUNT: usize = 500;
    for n in 0..COUNT {
        File::create(dir.join(format!("a-file-with-a-name-{n}")))?;
    }
    let mut names: Vec<_> = fs::read_dir(dir)?
        .map(|entry| entry.map(|entry| entry.file_name()))
        .collect::<Result<_, _>>()?;
    names.sort();
    names.dedup();
    ensure!(names.len() == COUNT, "{} names of {COUNT}", names.len());
    for name in names {
        fs::remove_file(dir.join(name))?;
    }
    ensure!(fs::read_dir(dir)?.next().is_none(), "all gone");
    Ok(())
}
