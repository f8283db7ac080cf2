// SPDX-License-Identifier: Apache-2.0
//! A DNS message as bytes (RFC 1035 §4.1), where it has to stay what it is but for one thing: how long
//! an answer by UDP may be (EDNS0, RFC 6891).

/// An answer's longest by UDP: with its headers it is one packet, which passt knows no fragments of.
const LARGEST: u16 = 65_000;

const HEADER_LEN: usize = 12;
/// Where the header counts questions, answers, authorities, additional records.
const QDCOUNT: usize = 4;
const ARCOUNT: usize = 10;

const OPT: u16 = 41;
/// They are last, and sign what is before them.
const SIG: u16 = 24;
const TSIG: u16 = 250;

const RCODE_MASK: u8 = 15;

/// Where things are in a message.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

struct Record {
    start: usize,
    /// Type, class, TTL and length, behind the name.
    fields: usize,
    kind: u16,
}

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        let at = HEADER_LEN;
        Self { bytes, at }
    }

    fn skip(&mut self, len: usize) -> Option<()> {
        self.at += len;
        (self.at <= self.bytes.len()).then_some(())
    }

    fn number(&self, at: usize) -> Option<u16> {
        let bytes = self.bytes.get(at..)?.first_chunk()?;
        Some(u16::from_be_bytes(*bytes))
    }

    fn name(&mut self) -> Option<()> {
        loop {
            let len = *self.bytes.get(self.at)?;
            self.skip(1)?;
            match len {
                0 => return Some(()),
                1..64 => self.skip(len.into())?,
                // The rest of it is elsewhere.
                0xc0.. => return self.skip(1),
                _ => return None,
            }
        }
    }

    fn question(&mut self) -> Option<()> {
        self.name()?;
        self.skip(4)
    }

    fn record(&mut self) -> Option<Record> {
        let start = self.at;
        self.name()?;
        let fields = self.at;
        self.skip(10)?;
        let kind = self.number(fields)?;
        self.skip(self.number(fields + 8)?.into())?;
        Some(Record {
            start,
            fields,
            kind,
        })
    }

    /// The additional records.
    fn additional(&mut self) -> Option<Vec<Record>> {
        for _ in 0..self.number(QDCOUNT)? {
            self.question()?;
        }
        let before = [self.number(QDCOUNT + 2)?, self.number(QDCOUNT + 4)?];
        for _ in 0..before.map(u32::from).iter().sum() {
            self.record()?;
        }
        (0..self.number(ARCOUNT)?).map(|_| self.record()).collect()
    }
}

/// The question so that as much as there is may be answered, and whether it has EDNS of ours alone. As
/// it is, where it is signed or makes no sense.
pub(crate) fn with_room(question: &[u8]) -> (Vec<u8>, bool) {
    let mut bytes = question.to_vec();
    let added = make_room(&mut bytes).unwrap_or(false);
    (bytes, added)
}

fn make_room(bytes: &mut Vec<u8>) -> Option<bool> {
    let mut reader = Reader::new(bytes);
    let all = reader.additional()?;
    if reader.at != bytes.len() || all.iter().any(|one| matches!(one.kind, SIG | TSIG)) {
        return None;
    }
    let [high, low] = LARGEST.to_be_bytes();
    if let Some(opt) = all.iter().find(|one| one.kind == OPT) {
        bytes[opt.fields + 2..opt.fields + 4].copy_from_slice(&[high, low]);
        return Some(false);
    }
    let count = u16::try_from(all.len()).ok()?.checked_add(1)?;
    bytes[ARCOUNT..ARCOUNT + 2].copy_from_slice(&count.to_be_bytes());
    // The root's name, its type, what would be the class, no flags, nothing in it.
    bytes.extend([0, 0, 41, high, low, 0, 0, 0, 0, 0, 0]);
    Some(true)
}

/// The answer to who asked without EDNS: `None` where it can't be said so, since its code takes EDNS.
/// What is behind it goes with it: additional records, which nobody has to send.
pub(crate) fn without_edns(mut answer: Vec<u8>) -> Option<Vec<u8>> {
    let all = Reader::new(&answer).additional()?;
    let Some(at) = all.iter().position(|one| one.kind == OPT) else {
        return Some(answer);
    };
    let opt = &all[at];
    let upper_code = answer[opt.fields + 4];
    let count = u16::try_from(at).ok()?;
    answer.truncate(opt.start);
    answer[ARCOUNT..ARCOUNT + 2].copy_from_slice(&count.to_be_bytes());
    (upper_code == 0).then_some(answer)
}

/// Whether it answers that very question: number, name in any case, type, class.
pub(crate) fn is_answer(message: &[u8], question: &[u8]) -> bool {
    let asked = |bytes: &[u8]| {
        let mut reader = Reader::new(bytes);
        let is_one = reader.number(QDCOUNT) == Some(1) && reader.question().is_some();
        is_one.then_some(HEADER_LEN..reader.at)
    };
    let (Some(one), Some(other)) = (asked(message), asked(question)) else {
        return false;
    };
    let is_response = |bytes: &[u8]| bytes[2] & 0x80 != 0;
    let (one, other) = (&message[one], &question[other]);
    let (name, kind) = one.split_at(one.len() - 4);
    is_response(message)
        && !is_response(question)
        && message[..2] == question[..2]
        && other.len() == one.len()
        && name.eq_ignore_ascii_case(&other[..name.len()])
        && other.ends_with(kind)
}

/// Whether who answers can't say anything else: another one may.
pub(crate) fn is_failure(message: &[u8]) -> bool {
    const SERVER_FAILURE: u8 = 2;
    const REFUSED: u8 = 5;
    let code = message.get(3).map(|flags| flags & RCODE_MASK);
    matches!(code, Some(SERVER_FAILURE | REFUSED))
}

#[cfg(test)]
pub(crate) mod tests;
