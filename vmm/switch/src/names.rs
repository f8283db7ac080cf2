// SPDX-License-Identifier: Apache-2.0
//! DNS (RFC 1035) at the gateway's address: the network's own names are answered, all else is for
//! whoever the host asks.

use std::net::Ipv4Addr;

use simple_dns::rdata::{A, PTR, RData};
use simple_dns::{CLASS, Name, Packet, PacketFlag, QTYPE, Question, RCODE, ResourceRecord, TYPE};

/// More than any honest question takes.
pub(crate) const MAX_QUESTION: usize = 4096;
/// Names come and go with their containers.
const TTL: u32 = 5;
/// Of one answer: it fits any datagram.
const MAX_ANSWERS: usize = 20;
/// Of somebody else's, which may come by TCP.
const MAX_LEARNT: usize = 256;

/// Who is on the network.
pub(crate) trait Directory {
    fn addresses(&self, name: &str) -> Vec<Ipv4Addr>;
    /// `None` for an address that is not of this network, an empty text for one that nobody has.
    fn name(&self, address: Ipv4Addr) -> Option<String>;
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Reply(Vec<u8>),
    /// Not ours: a question for others, by its number and the name that it asks for.
    Elsewhere {
        id: u16,
        name: String,
    },
    /// Not worth one.
    None,
}

pub(crate) fn answer(message: &[u8], directory: &dyn Directory) -> Answer {
    let Some(query) = parse(message) else {
        return Answer::None;
    };
    let [question] = query.questions.as_slice() else {
        return refuse(message, RCODE::FormatError);
    };
    if query.has_flags(PacketFlag::RESPONSE) {
        return Answer::None;
    }
    let name = text(&question.qname);
    if let Some(address) = reverse(&name)
        && let Some(known) = directory.name(address)
    {
        return match Name::new(&known) {
            Ok(target) if !known.is_empty() => {
                reply(&query, question, vec![RData::PTR(PTR(target))])
            }
            _ => refuse(message, RCODE::NameError),
        };
    }
    let addresses = directory.addresses(&name);
    if addresses.is_empty() {
        return Answer::Elsewhere {
            id: query.id(),
            name,
        };
    }
    let data = match question.qtype {
        QTYPE::TYPE(TYPE::A) | QTYPE::ANY => {
            let some = addresses.iter().take(MAX_ANSWERS);
            some.map(|address| RData::A(A::from(*address))).collect()
        }
        // There is such a name, but nothing of this kind.
        _ => Vec::new(),
    };
    reply(&query, question, data)
}

/// The same question, answered by a code alone.
pub(crate) fn refuse(message: &[u8], code: RCODE) -> Answer {
    let Some(query) = parse(message) else {
        return Answer::None;
    };
    let mut packet = header(&query);
    *packet.rcode_mut() = code;
    packet.questions = query.questions.into_iter().take(1).collect();
    build(&packet)
}

/// What somebody else's answer says about `name`; nothing where it is no answer to that.
pub(crate) fn learn(message: &[u8], id: u16, name: &str) -> Vec<Ipv4Addr> {
    let Ok(packet) = Packet::parse(message) else {
        return Vec::new();
    };
    let asked = packet.questions.first().map(|one| text(&one.qname));
    if packet.id() != id || asked.as_deref() != Some(name) {
        return Vec::new();
    }
    let answers = packet.answers.iter().take(MAX_LEARNT);
    let address = |record: &ResourceRecord<'_>| match &record.rdata {
        RData::A(a) => Some(Ipv4Addr::from_bits(a.address)),
        _ => None,
    };
    answers.filter_map(address).collect()
}

fn parse(message: &[u8]) -> Option<Packet<'_>> {
    (message.len() <= MAX_QUESTION)
        .then(|| Packet::parse(message).ok())
        .flatten()
}

fn header(query: &Packet<'_>) -> Packet<'static> {
    let mut packet = Packet::new_reply(query.id());
    packet.set_flags(PacketFlag::RECURSION_AVAILABLE);
    if query.has_flags(PacketFlag::RECURSION_DESIRED) {
        packet.set_flags(PacketFlag::RECURSION_DESIRED);
    }
    packet
}

fn reply<'a>(query: &Packet<'a>, question: &Question<'a>, data: Vec<RData<'a>>) -> Answer {
    let mut packet: Packet<'a> = header(query);
    packet.set_flags(PacketFlag::AUTHORITATIVE_ANSWER);
    let record = |data| ResourceRecord::new(question.qname.clone(), CLASS::IN, TTL, data);
    packet.answers = data.into_iter().map(record).collect();
    packet.questions = vec![question.clone()];
    build(&packet)
}

fn build(packet: &Packet<'_>) -> Answer {
    match packet.build_bytes_vec_compressed() {
        Ok(bytes) => Answer::Reply(bytes),
        Err(error) => {
            log::debug!("an answer: {error}");
            Answer::None
        }
    }
}

/// In lower case, without the last dot.
fn text(name: &Name<'_>) -> String {
    let labels = name.as_bytes().map(|label| {
        let label = String::from_utf8_lossy(label);
        label.to_ascii_lowercase()
    });
    labels.collect::<Vec<_>>().join(".")
}

/// `2.0.89.10.in-addr.arpa`
fn reverse(name: &str) -> Option<Ipv4Addr> {
    let digits = name.strip_suffix(".in-addr.arpa")?;
    let address: Ipv4Addr = digits.parse().ok()?;
    let [a, b, c, d] = address.octets();
    Some([d, c, b, a].into())
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;
    use simple_dns::QCLASS;

    use super::*;

    struct Two;

    impl Directory for Two {
        fn addresses(&self, name: &str) -> Vec<Ipv4Addr> {
            match name {
                "db" => vec![[10, 89, 0, 2].into(), [10, 89, 0, 3].into()],
                _ => Vec::new(),
            }
        }

        fn name(&self, address: Ipv4Addr) -> Option<String> {
            let [10, 89, 0, last] = address.octets() else {
                return None;
            };
            Some(if last == 2 { "db" } else { "" }.to_owned())
        }
    }

    pub(crate) fn question(name: &str, kind: TYPE) -> Vec<u8> {
        let mut query = Packet::new_query(7);
        query.set_flags(PacketFlag::RECURSION_DESIRED);
        let name = Name::new(name).unwrap();
        let question = Question::new(name, kind.into(), QCLASS::CLASS(CLASS::IN), false);
        query.questions.push(question);
        query.build_bytes_vec().unwrap()
    }

    fn replied(name: &str, kind: TYPE) -> (RCODE, Vec<String>) {
        let Answer::Reply(bytes) = answer(&question(name, kind), &Two) else {
            panic!("no reply")
        };
        let packet = Packet::parse(&bytes).unwrap();
        assert_eq!((packet.id(), packet.questions.len()), (7, 1));
        assert!(packet.has_flags(PacketFlag::RESPONSE | PacketFlag::RECURSION_DESIRED));
        let said = packet.answers.iter().map(|one| match &one.rdata {
            RData::A(a) => Ipv4Addr::from_bits(a.address).to_string(),
            RData::PTR(PTR(name)) => name.to_string(),
            other => panic!("{other:?}"),
        });
        (packet.rcode(), said.collect())
    }

    #[test]
    fn names_of_the_network() {
        let both = vec!["10.89.0.2".to_owned(), "10.89.0.3".to_owned()];
        assert_eq!(replied("DB", TYPE::A), (RCODE::NoError, both));
        assert_eq!(replied("db", TYPE::AAAA), (RCODE::NoError, vec![]));
        let back = replied("2.0.89.10.in-addr.arpa", TYPE::PTR);
        assert_eq!(back, (RCODE::NoError, vec!["db".to_owned()]));
        let nobody = replied("9.0.89.10.in-addr.arpa", TYPE::PTR);
        assert_eq!(nobody, (RCODE::NameError, vec![]));
    }

    #[test]
    fn names_of_others() {
        for name in ["example.org", "1.2.0.192.in-addr.arpa"] {
            let elsewhere = answer(&question(name, TYPE::A), &Two);
            let name = name.to_owned();
            assert_eq!(elsewhere, Answer::Elsewhere { id: 7, name });
        }
    }

    #[test]
    fn answers_are_learnt_by_who_asked() {
        let Answer::Reply(bytes) = answer(&question("db", TYPE::A), &Two) else {
            panic!("no reply")
        };
        assert_eq!(learn(&bytes, 7, "db").len(), 2);
        assert!(learn(&bytes, 8, "db").is_empty());
        assert!(learn(&bytes, 7, "other").is_empty());
    }

    proptest! {
        #[test]
        fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = answer(&bytes, &Two);
            let _ = learn(&bytes, 0, "x");
        }

        #[test]
        fn a_question_gone_wrong(at in 0..30usize, value: u8) {
            let mut bytes = question("a.name.that.is.long", TYPE::A);
            bytes[at] = value;
            let _ = answer(&bytes, &Two);
            let _ = refuse(&bytes, RCODE::Refused);
        }
    }
}
