// SPDX-License-Identifier: Apache-2.0
//! Layers and archives, plain or compressed. Told by their first bytes, as Docker does: media types
//! are often wrong.

use std::io::{self, BufRead, Read};

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    None,
    Gzip,
    Zstd,
    /// One that we know by name only.
    Unsupported(&'static str),
}

impl Compression {
    /// `head` is the first 6 bytes or more, or all there is.
    pub(super) fn detect(head: &[u8]) -> Self {
        match head {
            [0x1f, 0x8b, ..] => Compression::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::Zstd,
            // A skippable frame; zstd:chunked may begin with one.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Compression::Zstd,
            [b'B', b'Z', b'h', ..] => Compression::Unsupported("bzip2"),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Compression::Unsupported("xz"),
            _ => Compression::None,
        }
    }
}

impl Compression {
    /// Of a layer (OCI image-spec, layer.md).
    pub(super) fn media_type(self) -> &'static str {
        match self {
            Compression::None | Compression::Unsupported(_) => {
                "application/vnd.oci.image.layer.v1.tar"
            }
            Compression::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
            Compression::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
        }
    }
}

/// Decompresses `R`.
pub(super) enum Decoder<R: BufRead> {
    Plain(R),
    Gzip(Box<MultiGzDecoder<R>>),
    Zstd(Box<ZstdFrames<R>>),
}

impl<R: BufRead> Decoder<R> {
    pub(super) fn new(compression: Compression, source: R) -> Self {
        match compression {
            Compression::None | Compression::Unsupported(_) => Decoder::Plain(source),
            Compression::Gzip => Decoder::Gzip(Box::new(MultiGzDecoder::new(source))),
            Compression::Zstd => Decoder::Zstd(Box::new(ZstdFrames::new(source))),
        }
    }

    pub(super) fn get_mut(&mut self) -> &mut R {
        match self {
            Decoder::Plain(source) => source,
            Decoder::Gzip(decoder) => decoder.get_mut(),
            Decoder::Zstd(decoder) => &mut decoder.source,
        }
    }
}

impl<R: BufRead> Read for Decoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Decoder::Plain(source) => source.read(buffer),
            Decoder::Gzip(decoder) => decoder.read(buffer),
            Decoder::Zstd(decoder) => decoder.read(buffer),
        }
    }
}

/// All frames of a zstd stream (RFC 8878 §3: any number of frames, some to be skipped). Frames'
/// own checksums are not looked at: the layer's digests say more.
pub(super) struct ZstdFrames<R> {
    source: R,
    decoder: FrameDecoder,
    in_frame: bool,
}

impl<R: BufRead> ZstdFrames<R> {
    fn new(source: R) -> Self {
        ZstdFrames {
            source,
            decoder: FrameDecoder::new(),
            in_frame: false,
        }
    }

    /// False at the end of the stream.
    fn next_frame(&mut self) -> io::Result<bool> {
        while !self.source.fill_buf()?.is_empty() {
            match self.decoder.reset(&mut self.source) {
                Ok(()) => return Ok(true),
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => {
                    let mut skipped = (&mut self.source).take(length.into());
                    if io::copy(&mut skipped, &mut io::sink())? < u64::from(length) {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        Ok(false)
    }
}

impl<R: BufRead> Read for ZstdFrames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if !self.in_frame {
                self.in_frame = self.next_frame()?;
                if !self.in_frame {
                    return Ok(0);
                }
            }
            while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                self.decoder
                    .decode_blocks(&mut self.source, BlockDecodingStrategy::UptoBlocks(1))
                    .map_err(io::Error::other)?;
            }
            let len = self.decoder.read(buffer)?;
            if len > 0 || buffer.is_empty() {
                return Ok(len);
            }
            self.in_frame = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::write::GzEncoder;
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};
    use std::io::Write;

    fn decode(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        Decoder::new(Compression::detect(bytes), bytes).read_to_end(&mut out)?;
        Ok(out)
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        compress_to_vec(bytes, CompressionLevel::Fastest)
    }

    #[test]
    fn every_form_gives_the_same_bytes() {
        let text = b"walnut ".repeat(100_000);
        assert_eq!(decode(&text).unwrap(), text);
        assert_eq!(decode(&gzip(&text)).unwrap(), text);
        assert_eq!(decode(&zstd(&text)).unwrap(), text);
    }

    #[test]
    fn members_and_frames_follow_each_other() {
        assert_eq!(
            decode(&[gzip(b"ab"), gzip(b"cd")].concat()).unwrap(),
            b"abcd"
        );
        let skipped = [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"xyz"].concat();
        let frames = [
            skipped.clone(),
            zstd(b"ab"),
            skipped.clone(),
            zstd(b"cd"),
            skipped,
        ]
        .concat();
        assert_eq!(decode(&frames).unwrap(), b"abcd");
    }

    #[test]
    fn a_stream_cut_short_is_an_error() {
        let text = b"walnut ".repeat(1000);
        for whole in [gzip(&text), zstd(&text)] {
            for len in [7, whole.len() / 2, whole.len() - 1] {
                assert!(decode(&whole[..len]).is_err(), "{len}");
            }
        }
        assert!(decode(&[0x50, 0x2a, 0x4d, 0x18, 9, 0, 0, 0, 1]).is_err());
    }

    #[test]
    fn others_are_named() {
        assert_eq!(
            Compression::detect(b"BZh9"),
            Compression::Unsupported("bzip2")
        );
        assert_eq!(
            Compression::detect(b"\xfd7zXZ\0"),
            Compression::Unsupported("xz")
        );
        assert_eq!(Compression::detect(b""), Compression::None);
    }
}
