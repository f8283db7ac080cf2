// SPDX-License-Identifier: Apache-2.0
//! A tar file as an index of its members, read in place: nothing is unpacked.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Cursor, Read, Seek, SeekFrom};
use std::path::Path;

use walnut_erofs::tar::{Kind, TarError, TarReader};

use super::decompress::{Compression, Decoder};
use super::error::ImageError;
use super::source::{Blob, unnamed_file};

const MAX_MEMBERS: usize = 100_000;
const MAX_PATH: usize = 4096;
/// Links that may lead to a member: old `docker save` wrote a layer once and linked to it.
const MAX_LINKS: usize = 8;

pub(super) struct Archive {
    file: File,
    len: u64,
    members: HashMap<String, Member>,
    /// Its end mark was there.
    complete: bool,
}

enum Member {
    Data {
        offset: u64,
        size: u64,
    },
    /// To a path from the archive's root.
    Link(String),
}

impl Archive {
    /// A compressed archive can't be read in place: it is unpacked into a file without a name in
    /// `spool`, which goes away with this process.
    pub(super) fn open(path: &Path, spool: &Path) -> Result<Self, ImageError> {
        let open = |source| ImageError::Open {
            path: path.into(),
            source,
        };
        let file = File::open(path).map_err(open)?;
        if !file.metadata().map_err(open)?.is_file() {
            return Err(open(io::Error::other("it is not a regular file")));
        }
        Archive::from_file(path, file, spool)
    }

    /// The same for a file that is open, or a pipe.
    pub(super) fn from_file(path: &Path, mut file: File, spool: &Path) -> Result<Self, ImageError> {
        let open = |source| ImageError::Open {
            path: path.into(),
            source,
        };
        let mut head = [0; 6];
        let head_len = read_up_to(&mut file, &mut head).map_err(open)?;
        let compression = Compression::detect(&head[..head_len]);
        if let Compression::Unsupported(name) = compression {
            let reason = format!("it is compressed with {name}; gzip and zstd are supported");
            return Err(open(io::Error::other(reason)));
        }
        let in_place = file.metadata().map_err(open)?.is_file();
        if !in_place || compression != Compression::None {
            let packed = Cursor::new(head[..head_len].to_vec()).chain(file);
            file = unpack(path, packed, compression, spool)?;
        }
        Archive::index(path, file)
    }

    fn index(path: &Path, file: File) -> Result<Self, ImageError> {
        let read = |source| ImageError::Read {
            path: path.into(),
            source,
        };
        let len = file.metadata().map_err(read)?.len();
        let mut start = file.try_clone().map_err(read)?;
        start.seek(SeekFrom::Start(0)).map_err(read)?;
        let bad = |source| match source {
            TarError::Read(source) => ImageError::Read {
                path: path.into(),
                source,
            },
            source => ImageError::NotTar {
                path: path.into(),
                source,
            },
        };
        let mut tar = TarReader::new(start);
        let mut members = HashMap::new();
        while let Some(entry) = tar.next_entry().map_err(bad)? {
            let Some(name) = clean(&entry.path) else {
                continue;
            };
            let member = match entry.kind {
                Kind::File { size, map: None } => Member::Data {
                    offset: tar.offset(),
                    size,
                },
                Kind::HardLink(target) => match clean(&target) {
                    Some(target) => Member::Link(target),
                    None => continue,
                },
                Kind::Symlink(target) => match from_symlink(&name, &target) {
                    Some(target) => Member::Link(target),
                    None => continue,
                },
                _ => continue,
            };
            tar.seek_past_data().map_err(bad)?;
            if tar.offset() > len.next_multiple_of(512) {
                let end = tar.offset();
                return Err(ImageError::Truncated {
                    path: path.into(),
                    member: name,
                    end,
                    len,
                });
            }
            members.insert(name, member);
            if members.len() > MAX_MEMBERS {
                return Err(ImageError::TooManyMembers {
                    path: path.into(),
                    limit: MAX_MEMBERS,
                });
            }
        }
        let complete = tar.has_end_mark();
        Ok(Archive {
            file,
            len,
            members,
            complete,
        })
    }

    /// `None` where there is no such member.
    pub(super) fn member(&self, path: &Path, name: &str) -> Result<Option<Blob>, ImageError> {
        let mut at = name;
        for _ in 0..MAX_LINKS {
            match self.members.get(at) {
                None => return Ok(None),
                Some(Member::Link(target)) => at = target,
                Some(Member::Data { offset, size }) => {
                    let end = offset.saturating_add(*size);
                    if end > self.len {
                        let (member, len) = (name.into(), self.len);
                        return Err(ImageError::Truncated {
                            path: path.into(),
                            member,
                            end,
                            len,
                        });
                    }
                    let read = |source| ImageError::Read {
                        path: path.into(),
                        source,
                    };
                    let file = self.file.try_clone().map_err(read)?;
                    return Ok(Some(Blob::new(file, *offset, *size)));
                }
            }
        }
        Ok(None)
    }

    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.members.contains_key(name)
    }
}

fn unpack(
    path: &Path,
    packed: impl Read,
    compression: Compression,
    spool: &Path,
) -> Result<File, ImageError> {
    let read = |source| ImageError::Read {
        path: path.into(),
        source,
    };
    let store = |source| ImageError::Store {
        action: "unpack into",
        path: spool.into(),
        source,
    };
    let mut file = unnamed_file(spool)?;
    let mut decoder = Decoder::new(compression, BufReader::with_capacity(64 << 10, packed));
    let mut buffer = vec![0; 128 << 10];
    loop {
        let len = decoder.read(&mut buffer).map_err(read)?;
        if len == 0 {
            return Ok(file);
        }
        io::Write::write_all(&mut file, &buffer[..len]).map_err(store)?;
    }
}

fn read_up_to(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..])? {
            0 => break,
            len => filled += len,
        }
    }
    Ok(filled)
}

/// A member's path without `.` and `..`; `None` for what no image refers to.
fn clean(path: &[u8]) -> Option<String> {
    let path = std::str::from_utf8(path)
        .ok()
        .filter(|path| path.len() <= MAX_PATH)?;
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

fn from_symlink(name: &str, target: &[u8]) -> Option<String> {
    let dir = name.rsplit_once('/').map_or("", |(dir, _)| dir);
    clean(&[dir.as_bytes(), b"/", target].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_cleaned() {
        assert_eq!(
            clean(b"./blobs//sha256/ab").as_deref(),
            Some("blobs/sha256/ab")
        );
        assert_eq!(clean(b"../x"), None);
        assert_eq!(clean(b"\xff"), None);
        assert_eq!(
            from_symlink("a/layer.tar", b"../b/layer.tar").as_deref(),
            Some("b/layer.tar")
        );
        assert_eq!(from_symlink("layer.tar", b"../../etc/passwd"), None);
    }
}
