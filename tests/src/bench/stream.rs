// SPDX-License-Identifier: Apache-2.0
//! Bytes to send through something and to compare when they come back: random, yet cheap enough
//! that neither making nor comparing them is what is measured.

use std::io::{self, Write};

/// Prime, so that a lost or repeated page or packet shifts what follows against the pattern.
const PERIOD: usize = 1_048_573;

/// An endless stream of pseudo-random bytes that begins again every [`PERIOD`].
#[derive(Clone, Debug)]
pub struct Pattern {
    /// Two periods: any piece up to one period long is one slice of it.
    bytes: Vec<u8>,
}

impl Pattern {
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let mut bytes = Vec::with_capacity(2 * PERIOD + 8);
        while bytes.len() < PERIOD {
            bytes.extend_from_slice(&random.draw().to_le_bytes());
        }
        bytes.truncate(PERIOD);
        bytes.extend_from_within(..);
        Self { bytes }
    }

    /// The first `length` bytes.
    #[must_use]
    pub fn bytes(&self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length);
        while bytes.len() < length {
            bytes.extend_from_slice(self.at(bytes.len(), length - bytes.len()));
        }
        bytes
    }

    /// Up to `length` bytes from `offset` on.
    fn at(&self, offset: usize, length: usize) -> &[u8] {
        let from = offset % PERIOD;
        self.bytes
            .get(from..from + length.min(PERIOD))
            .unwrap_or_default()
    }

    /// Writes the first `length` bytes.
    ///
    /// # Errors
    /// What `to` said.
    pub fn write(&self, mut to: impl Write, length: usize) -> io::Result<()> {
        let mut offset = 0;
        while offset < length {
            let piece = self.at(offset, (length - offset).min(256 << 10));
            to.write_all(piece)?;
            offset += piece.len();
        }
        to.flush()
    }

    /// How many of `bytes` are not what stands at `offset`.
    #[must_use]
    pub fn different(&self, mut offset: usize, mut bytes: &[u8]) -> usize {
        let mut different = 0;
        while !bytes.is_empty() {
            let expected = self.at(offset, bytes.len());
            let (piece, rest) = bytes.split_at(expected.len());
            if piece != expected {
                different += piece.iter().zip(expected).filter(|(a, b)| a != b).count();
            }
            offset += piece.len();
            bytes = rest;
        }
        different
    }
}

/// xorshift64* (Vigna, "An experimental exploration of Marsaglia's xorshift generators, scrambled").
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn draw(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_what_is_expected() {
        let pattern = Pattern::new(1);
        let length = 2 * PERIOD + 12_345;
        let mut written = Vec::new();
        pattern.write(&mut written, length).unwrap();
        assert_eq!(written.len(), length);
        assert_eq!(pattern.different(0, &written), 0);
        assert_eq!(pattern.bytes(length), written);
        for cut in [1, 4096, PERIOD - 1] {
            assert_eq!(pattern.different(cut, &written[cut..]), 0);
        }
    }

    #[test]
    fn a_flipped_bit_and_a_lost_page_are_seen() {
        let pattern = Pattern::new(1);
        let mut bytes = pattern.bytes(2 * PERIOD);
        bytes[PERIOD + 7] ^= 1;
        assert_eq!(pattern.different(0, &bytes), 1);
        let mut shorter = bytes.clone();
        shorter.drain(..1 << 20);
        assert!(pattern.different(0, &shorter) > shorter.len() / 2);
        bytes.drain(4096..8192);
        assert!(pattern.different(0, &bytes) > PERIOD / 2);
    }
}
