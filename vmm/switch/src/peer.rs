// SPDX-License-Identifier: Apache-2.0
//! Between the switches of two networks that one container is on: each asks the other for the names
//! that it does not know itself. Nothing but questions and answers of DNS goes this way.
//! SOCK_SEQPACKET, so that each comes whole.
//!
//! A message is its kind, the asker's number (32 bits, big-endian), and the DNS message; an answer
//! without one says that there is no such name.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;

use crate::names::MAX_QUESTION;
use crate::port::Asker;

/// More networks than a container is on.
pub(crate) const MAX_PEERS: usize = 16;
/// Questions under way; the oldest is forgotten.
const MAX_PENDING: usize = 64;

const QUESTION: u8 = 0;
const ANSWER: u8 = 1;
const HEADER_LEN: usize = 5;
/// An answer is its question and some addresses.
const MAX_MESSAGE: usize = HEADER_LEN + 2 * MAX_QUESTION;

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Said {
    Question { number: u32, message: Vec<u8> },
    Answer { number: u32, message: Vec<u8> },
}

impl Said {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let (kind, rest) = bytes.split_first()?;
        let (number, message) = rest.split_first_chunk()?;
        let (number, message) = (u32::from_be_bytes(*number), message.to_vec());
        match *kind {
            QUESTION => Some(Self::Question { number, message }),
            ANSWER => Some(Self::Answer { number, message }),
            _ => None,
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let (kind, number, message) = match self {
            Self::Question { number, message } => (QUESTION, number, message),
            Self::Answer { number, message } => (ANSWER, number, message),
        };
        [&[kind], &number.to_be_bytes()[..], message].concat()
    }
}

/// What a container has asked that others are asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Pending {
    number: u32,
    pub from: Asker,
    pub message: Vec<u8>,
    /// Who is being asked.
    at: usize,
}

/// The other networks of one container.
#[derive(Debug, Default)]
pub(crate) struct Peers {
    sockets: Vec<Option<OwnedFd>>,
    pending: VecDeque<Pending>,
    next: u32,
}

impl Peers {
    /// Where it is from now on.
    pub fn add(&mut self, socket: OwnedFd) -> Result<usize, String> {
        rustix::io::ioctl_fionbio(&socket, true).map_err(|error| error.to_string())?;
        let at = self.sockets.iter().position(Option::is_none);
        let at = at.unwrap_or(self.sockets.len());
        if at == MAX_PEERS {
            return Err(format!("a container is on {MAX_PEERS} networks at most"));
        }
        if at == self.sockets.len() {
            self.sockets.push(None);
        }
        self.sockets[at] = Some(socket);
        Ok(at)
    }

    pub fn remove(&mut self, at: usize) {
        if let Some(socket) = self.sockets.get_mut(at) {
            *socket = None;
        }
    }

    pub fn fd(&self, at: usize) -> Option<BorrowedFd<'_>> {
        self.sockets.get(at)?.as_ref().map(AsFd::as_fd)
    }

    /// The next message of one of them; nothing where there is none that makes sense.
    ///
    /// # Errors
    /// It is gone.
    pub fn receive(&self, at: usize) -> io::Result<Option<Said>> {
        let Some(socket) = self.fd(at) else {
            return Ok(None);
        };
        let mut bytes = [0; MAX_MESSAGE];
        match rustix::io::read(socket, &mut bytes) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(len) => Ok(Said::parse(&bytes[..len])),
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether it went: one that does not read is not waited for.
    pub fn say(&self, at: usize, said: &Said) -> bool {
        let Some(socket) = self.fd(at) else {
            return false;
        };
        let bytes = said.bytes();
        bytes.len() <= MAX_MESSAGE && rustix::io::write(socket, &bytes) == Ok(bytes.len())
    }

    /// Asks the first of them, from `first` on, that takes it; whether there is one.
    pub fn ask(&mut self, from: Asker, message: &[u8], first: usize) -> bool {
        let number = self.next;
        let message = message.to_vec();
        let question = Said::Question { number, message };
        let Some(at) = (first..self.sockets.len()).find(|at| self.say(*at, &question)) else {
            return false;
        };
        self.next = self.next.wrapping_add(1);
        if self.pending.len() == MAX_PENDING {
            self.pending.pop_front();
        }
        let Said::Question { message, .. } = question else {
            return false;
        };
        self.pending.push_back(Pending {
            number,
            from,
            message,
            at,
        });
        true
    }

    /// What an answer is about.
    pub fn take(&mut self, at: usize, number: u32) -> Option<Pending> {
        let is_it = |one: &Pending| (one.at, one.number) == (at, number);
        let found = self.pending.iter().position(is_it)?;
        self.pending.remove(found)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use super::*;

    fn pair() -> (OwnedFd, OwnedFd) {
        let flags = SocketFlags::CLOEXEC;
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap()
    }

    #[test]
    fn one_after_the_other_is_asked() {
        let mut peers = Peers::default();
        assert!(!peers.ask(Asker::Udp(7), b"q", 0), "nobody is there");
        let ((ours, theirs), (second, _kept)) = (pair(), pair());
        let mut other = Peers::default();
        peers.add(ours).unwrap();
        peers.add(second).unwrap();
        other.add(theirs).unwrap();
        assert!(peers.ask(Asker::Udp(7), b"q", 0));
        let asked = other.receive(0).unwrap().unwrap();
        let message = b"q".to_vec();
        assert_eq!(asked, Said::Question { number: 0, message });
        assert_eq!(other.receive(0).unwrap(), None);
        let message = b"a".to_vec();
        assert!(other.say(0, &Said::Answer { number: 0, message }));
        let Some(Said::Answer { number, message }) = peers.receive(0).unwrap() else {
            panic!("no answer")
        };
        assert_eq!(message, b"a");
        assert_eq!(peers.take(1, number), None, "the other was not asked");
        assert_eq!(peers.take(0, number).unwrap().from, Asker::Udp(7));
        assert_eq!(peers.take(0, number), None);
        // One that is gone is not asked any more, and the next one is.
        drop(other);
        assert!(peers.receive(0).is_err());
        peers.remove(0);
        assert!(peers.ask(Asker::Udp(8), b"q", 0) && !peers.ask(Asker::Udp(8), b"q", 2));
        assert_eq!(peers.take(1, 1).unwrap().from, Asker::Udp(8));
    }

    #[test]
    fn nothing_grows_without_bound() {
        let mut peers = Peers::default();
        let mut ends = Vec::new();
        for _ in 0..MAX_PEERS {
            let (ours, theirs) = pair();
            peers.add(ours).unwrap();
            ends.push(theirs);
        }
        assert!(peers.add(pair().0).unwrap_err().contains("16 networks"));
        for _ in 0..2 * MAX_PENDING {
            assert!(peers.ask(Asker::Udp(1), b"q", 0));
        }
        assert_eq!(peers.pending.len(), MAX_PENDING);
        assert!(!peers.say(
            0,
            &Said::Answer {
                number: 0,
                message: vec![0; MAX_MESSAGE]
            }
        ));
    }

    proptest! {
        #[test]
        fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Some(said) = Said::parse(&bytes) {
                prop_assert_eq!(said.bytes(), bytes);
            }
        }
    }
}
