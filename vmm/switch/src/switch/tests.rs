// SPDX-License-Identifier: Apache-2.0
//! Frames in, frames out: machines are the other ends of socket pairs.

mod tcp;

use std::io::{ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use proptest::prelude::*;
use simple_dns::TYPE;

use super::*;
use crate::link::with_length;
use crate::names;
use crate::names::tests::question;
use crate::packet::{End, What, udp, udp_payload};

fn switch() -> Switch {
    Switch::new(Network {
        name: "Net".into(),
        gateway: [10, 89, 0, 1].into(),
        prefix: 24,
    })
}

/// A machine, and what is behind its uplink.
struct Machine {
    at: usize,
    end: End,
    machine: UnixStream,
    outside: Option<UnixStream>,
}

fn pair() -> (UnixStream, OwnedFd) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    (ours, theirs.into())
}

fn join(switch: &mut Switch, names: &[&str], egress: Option<&str>, uplink: bool) -> Machine {
    let (machine, fd) = pair();
    let (outside, up) = match uplink {
        true => pair(),
        false => return join_with(switch, names, None, machine, vec![fd], None),
    };
    let policy = egress.map(|text| crate::Policy::parse(&[text.to_owned()]).unwrap());
    join_with(switch, names, policy, machine, vec![fd, up], Some(outside))
}

fn join_with(
    switch: &mut Switch,
    names: &[&str],
    egress: Option<crate::Policy>,
    machine: UnixStream,
    fds: Vec<OwnedFd>,
    outside: Option<UnixStream>,
) -> Machine {
    let wanted = Join {
        names: names.iter().map(|name| (*name).to_owned()).collect(),
        resolvers: vec![[192, 0, 2, 53].into(), [192, 0, 2, 54].into()],
        egress,
        ..Join::default()
    };
    let (at, joined) = switch.join(wanted, fds).unwrap();
    Machine {
        at,
        end: End {
            mac: joined.mac,
            address: joined.address,
            port: 4000,
        },
        machine,
        outside,
    }
}

/// What has come, whole frames.
fn arrived(stream: &mut UnixStream) -> Vec<Vec<u8>> {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        Ok(_) => panic!("closed"),
    }
    let (mut frames, mut from) = (Vec::new(), 0);
    while let Some(range) = link::next_frame(&bytes, from).unwrap() {
        from = range.end;
        frames.push(bytes[range].to_vec());
    }
    assert_eq!(from, bytes.len(), "whole frames");
    frames
}

impl Machine {
    fn send(&mut self, switch: &mut Switch, frame: &[u8]) {
        self.machine.write_all(&with_length(frame)).unwrap();
        switch.receive(self.at, Side::Machine).unwrap();
    }

    fn got(&mut self) -> Vec<Vec<u8>> {
        arrived(&mut self.machine)
    }

    fn outside_got(&mut self) -> Vec<Vec<u8>> {
        arrived(self.outside.as_mut().unwrap())
    }

    fn bring(&mut self, switch: &mut Switch, frame: &[u8]) {
        let outside = self.outside.as_mut().unwrap();
        outside.write_all(&with_length(frame)).unwrap();
        switch.receive(self.at, Side::Uplink).unwrap();
    }
}

fn gateway(address: [u8; 4], port: u16) -> End {
    End {
        mac: GATEWAY_MAC,
        address: address.into(),
        port,
    }
}

#[test]
fn frames_between_machines() {
    let mut switch = switch();
    let mut one = join(&mut switch, &["one"], None, false);
    let mut two = join(&mut switch, &["two"], None, false);
    let mut three = join(&mut switch, &["three"], None, false);
    assert_eq!(one.end.address, Ipv4Addr::new(10, 89, 0, 2));
    assert_eq!(two.end.address, Ipv4Addr::new(10, 89, 0, 3));
    let frame = udp(&one.end, &two.end, b"hello");
    let burst = [with_length(&frame), with_length(&frame)].concat();
    one.machine.write_all(&burst[..burst.len() - 1]).unwrap();
    switch.receive(one.at, Side::Machine).unwrap();
    assert_eq!(two.got(), std::slice::from_ref(&frame));
    one.machine.write_all(&burst[burst.len() - 1..]).unwrap();
    switch.receive(one.at, Side::Machine).unwrap();
    assert_eq!(two.got(), std::slice::from_ref(&frame));
    let mut broadcast = frame.clone();
    broadcast[..6].fill(0xff);
    one.send(&mut switch, &broadcast);
    assert_eq!(
        (two.got().len(), three.got().len(), one.got().len()),
        (1, 1, 0)
    );
    // Who leaves is forgotten, and its address is free.
    switch.leave(two.at);
    one.send(&mut switch, &frame);
    let again = join(&mut switch, &["two"], None, false);
    assert_eq!(again.end.address, two.end.address);
}

#[test]
fn a_container_has_one_place() {
    let mut switch = switch();
    let wanted = Join {
        container: "0123".into(),
        address: Some([10, 89, 0, 9].into()),
        ..Join::default()
    };
    let (_first, fd) = pair();
    switch.join(wanted.clone(), vec![fd]).unwrap();
    let (_again, fd) = pair();
    switch.join(wanted, vec![fd]).unwrap();
    assert_eq!(switch.ports.iter().flatten().count(), 1);
}

#[test]
fn nobody_is_somebody_else() {
    let mut switch = switch();
    let mut one = join(&mut switch, &["one"], None, false);
    let mut two = join(&mut switch, &["two"], None, false);
    let mut three = join(&mut switch, &["three"], None, false);
    let mac = End {
        mac: two.end.mac,
        ..one.end
    };
    let address = End {
        address: two.end.address,
        ..one.end
    };
    for liar in [
        mac,
        address,
        gateway([10, 89, 0, 9], 1),
        gateway([10, 89, 0, 1], 1),
    ] {
        one.send(&mut switch, &udp(&liar, &three.end, b"lie"));
        let reply = packet::arp_reply(liar.mac, liar.address, three.end.mac, three.end.address);
        if liar.mac == one.end.mac {
            one.send(&mut switch, &reply);
        }
    }
    assert!(three.got().is_empty());
    // A tag of no VLAN, and one in another: what is behind it is a frame to whoever gets it.
    let lies = [
        udp(&address, &three.end, b"lie"),
        packet::arp_reply(
            one.end.mac,
            two.end.address,
            three.end.mac,
            three.end.address,
        ),
    ];
    for lie in lies {
        for tag in [[0x81, 0, 0, 0], [0x88, 0xa8, 0, 0], [0x91, 0, 0, 0]] {
            for tags in [tag.to_vec(), [tag, tag].concat()] {
                let tagged = [&lie[..12], &tags, &lie[12..]].concat();
                one.send(&mut switch, &tagged);
                assert!(three.got().is_empty(), "{tags:x?}");
            }
        }
    }
    // A bridge inside of the machine has addresses of its own, which lead back to it.
    let inner = End {
        mac: Mac([2, 9, 9, 9, 9, 9]),
        address: [10, 89, 0, 77].into(),
        port: 1,
    };
    one.send(&mut switch, &udp(&inner, &two.end, b"hello"));
    let answer = udp(&two.end, &inner, b"answer");
    two.send(&mut switch, &answer);
    assert_eq!((two.got().len(), one.got()), (1, vec![answer]));
    for n in 0..3000_u16 {
        let [a, b] = n.to_be_bytes();
        let many = End {
            mac: Mac([2, 8, 8, 8, a, b]),
            ..inner
        };
        one.send(&mut switch, &udp(&many, &three.end, b""));
        three.got();
    }
    assert_eq!(switch.learnt.len(), MAX_LEARNT);
    // There is room for others, whose addresses stay theirs.
    let theirs = End {
        mac: Mac([2, 7, 7, 7, 7, 7]),
        ..inner
    };
    two.send(&mut switch, &udp(&theirs, &three.end, b"hello"));
    one.send(&mut switch, &udp(&theirs, &three.end, b"lie"));
    assert_eq!(three.got().len(), 1);
    three.send(&mut switch, &udp(&three.end, &theirs, b"answer"));
    assert_eq!((one.got().len(), two.got().len()), (0, 1));
}

/// What a container does not take is dropped, its neighbours' frames first.
#[test]
fn a_flood_of_neighbours_leaves_room() {
    let mut switch = switch();
    let mut one = join(&mut switch, &["one"], None, false);
    let mut two = join(&mut switch, &["two"], None, true);
    let flood = udp(&one.end, &two.end, &[7; 60_000]);
    for _ in 0..200 {
        one.send(&mut switch, &flood);
    }
    let port = switch.ports[two.at].as_ref().unwrap();
    assert!(port.machine.dropped > 0 && !port.machine.is_slow());
    let outside = gateway([192, 0, 2, 1], 9);
    let answer = udp(&outside, &two.end, b"answer");
    two.bring(&mut switch, &answer);
    let (mut said, mut chunk) = (Vec::new(), [0; 4096]);
    loop {
        match two.machine.read(&mut chunk) {
            Ok(len) => said.extend_from_slice(&chunk[..len]),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                let link = &mut switch.ports[two.at].as_mut().unwrap().machine;
                if link.waiting() == 0 {
                    break;
                }
                link.flush().unwrap();
            }
        }
    }
    assert!(said.ends_with(&with_length(&answer)));
}

/// On a network where the gateway's Ethernet address is an address' own.
#[test]
fn an_address_that_would_be_the_gateway_s() {
    let mut switch = Switch::new(Network {
        name: "net".into(),
        gateway: [10, 0, 2, 1].into(),
        prefix: 24,
    });
    let one = join(&mut switch, &["one"], None, false);
    assert_eq!(one.end.address, Ipv4Addr::new(10, 0, 2, 2));
    assert_eq!(one.end.mac, Mac([6, 0x42, 10, 0, 2, 2]));
}

#[test]
fn the_gateway_answers_for_names() {
    let mut switch = switch();
    let mut one = join(&mut switch, &["one"], None, true);
    let _two = join(&mut switch, &["db", "Store"], None, false);
    let dns = gateway([10, 89, 0, 1], 53);
    for name in ["db", "store", "STORE", "db.net", "one"] {
        one.send(
            &mut switch,
            &udp(&one.end.clone(), &dns, &question(name, TYPE::A)),
        );
        let [answer] = one.got().try_into().unwrap();
        let message = udp_payload(&answer).unwrap();
        assert_eq!(
            names::learn(message, 7, &name.to_lowercase()).len(),
            1,
            "{name}"
        );
    }
    assert!(one.outside_got().is_empty());
    // What is not here is asked outside, of another server when nobody answers.
    let elsewhere = question("example.org", TYPE::A);
    for server in [53, 54, 53] {
        one.send(&mut switch, &udp(&one.end.clone(), &dns, &elsewhere));
        let [asked] = one.outside_got().try_into().unwrap();
        let server = gateway([192, 0, 2, server], 53);
        assert_eq!(asked, udp(&one.end, &server, &elsewhere));
    }
    let from = gateway([192, 0, 2, 53], 53);
    let answer = udp(&from, &one.end, &elsewhere);
    one.bring(&mut switch, &answer);
    assert_eq!(one.got(), [udp(&dns, &one.end, &elsewhere)]);
    // Only once: then it is from that server itself.
    one.bring(&mut switch, &answer);
    assert_eq!(one.got(), [answer]);
}

#[test]
fn without_a_way_out() {
    let mut switch = switch();
    let mut one = join(&mut switch, &["one"], None, false);
    let dns = gateway([10, 89, 0, 1], 53);
    let elsewhere = udp(&one.end.clone(), &dns, &question("example.org", TYPE::A));
    one.send(&mut switch, &elsewhere);
    let [answer] = one.got().try_into().unwrap();
    assert_eq!(udp_payload(&answer).unwrap()[3] & 15, 2, "SERVFAIL");
    let outside = udp(&one.end.clone(), &gateway([192, 0, 2, 1], 9), b"x");
    one.send(&mut switch, &outside);
    // "Network unreachable", from the gateway, about that very packet.
    let [told] = one.got().try_into().unwrap();
    assert_eq!(told[34..36], [3, 0]);
    assert_eq!(told[42..62], outside[14..34]);
    let request = {
        let mut frame = packet::arp_reply(
            one.end.mac,
            one.end.address,
            Mac([0xff; 6]),
            [10, 89, 0, 1].into(),
        );
        frame[21] = 1;
        frame
    };
    one.send(&mut switch, &request);
    let [reply] = one.got().try_into().unwrap();
    assert_eq!(packet::source(&reply), GATEWAY_MAC);
}

#[test]
fn what_may_leave() {
    let mut switch = switch();
    let mut one = join(&mut switch, &["one"], Some("192.0.2.0/24:9,ok.test"), true);
    let mut two = join(&mut switch, &["two"], None, true);
    let sent = |one: &mut Machine, switch: &mut Switch, to: [u8; 4], port| {
        one.send(switch, &udp(&one.end.clone(), &gateway(to, port), b"x"));
        one.outside_got().len()
    };
    assert_eq!(sent(&mut one, &mut switch, [192, 0, 2, 1], 9), 1);
    assert_eq!(sent(&mut one, &mut switch, [192, 0, 2, 1], 10), 0);
    assert_eq!(sent(&mut one, &mut switch, [198, 51, 100, 1], 9), 0);
    assert_eq!(sent(&mut two, &mut switch, [198, 51, 100, 1], 9), 1);
    // The sender is told by ICMP: "administratively prohibited".
    let codes: Vec<_> = one.got().iter().map(|told| [told[34], told[35]]).collect();
    assert_eq!(codes, [[3, 13], [3, 13]]);
    // Not by somebody else's way out either.
    let mut around = udp(&one.end, &gateway([198, 51, 100, 1], 9), b"x");
    around[..6].copy_from_slice(&two.end.mac.0);
    one.send(&mut switch, &around);
    assert_eq!((two.got().len(), two.outside_got().len()), (1, 0));
    let dns = gateway([10, 89, 0, 1], 53);
    one.send(
        &mut switch,
        &udp(&one.end.clone(), &dns, &question("secret.evil", TYPE::A)),
    );
    assert!(one.outside_got().is_empty());
    let [refused] = one.got().try_into().unwrap();
    assert_eq!(udp_payload(&refused).unwrap()[3] & 15, 5, "REFUSED");
    let asked = question("ok.test", TYPE::A);
    one.send(&mut switch, &udp(&one.end.clone(), &dns, &asked));
    let [passed] = one.outside_got().try_into().unwrap();
    let Packet::Ipv4(passed) = Packet::of(&passed) else {
        panic!("no IPv4")
    };
    assert!(matches!(passed.what, What::Udp { target: 53, .. }));
}

/// Whoever is asked twice answers twice: the second answer opens no way round the gateway.
#[test]
fn a_resolver_is_asked_by_way_of_the_gateway_alone() {
    let mut switch = switch();
    let mut one = join(&mut switch, &["one"], Some("ok.test,192.0.2.54"), true);
    let (dns, asked) = (gateway([10, 89, 0, 1], 53), question("ok.test", TYPE::A));
    for _ in 0..2 {
        one.send(&mut switch, &udp(&one.end.clone(), &dns, &asked));
    }
    assert_eq!(one.outside_got().len(), 2);
    // The other one is allowed by its address.
    for (server, comes) in [(53, [1, 0, 0]), (54, [1, 1, 1])] {
        let server = gateway([192, 0, 2, server], 53);
        let answer = udp(&server, &one.end, &asked);
        let mut got = [0; 2];
        for got in &mut got {
            one.bring(&mut switch, &answer);
            *got = one.got().len();
        }
        let secret = udp(&one.end, &server, &question("secret.evil", TYPE::A));
        one.send(&mut switch, &secret);
        let left = one.outside_got().len();
        one.got();
        assert_eq!([got[0], got[1], left], comes, "{server:?}");
    }
}

/// Of a connection from outside; a neighbour finishes its own.
#[test]
fn handshakes_are_finished_for_the_uplink() {
    let mut switch = switch();
    let mut one = join(&mut switch, &["one"], None, true);
    let mut two = join(&mut switch, &["two"], None, true);
    for to in [gateway([192, 0, 2, 1], 4000), two.end] {
        // SYN, ACK in place of a datagram.
        let mut frame = udp(&one.end.clone(), &to, &[0; 12]);
        frame[23] = 6;
        frame[34 + 12..34 + 14].copy_from_slice(&[0x50, 0x12]);
        // The IP header's checksum is nobody's business here.
        for _ in 0..2 {
            one.send(&mut switch, &frame);
        }
        let got: Vec<_> = one.got().iter().map(|step| step[34 + 13]).collect();
        let is_outside = to.mac == GATEWAY_MAC;
        assert_eq!(got, if is_outside { vec![0x10] } else { vec![] });
        assert_eq!(one.outside_got().len(), 2 * usize::from(is_outside));
        assert_eq!(two.got().len(), 2 * usize::from(!is_outside));
    }
}

#[test]
fn addresses_that_cannot_be() {
    let mut switch = Switch::new(Network {
        name: "small".into(),
        gateway: [10, 89, 0, 1].into(),
        prefix: 30,
    });
    let one = join(&mut switch, &["one"], None, false);
    let mut refused = |address: Option<[u8; 4]>, mac: Option<Mac>| {
        let wanted = Join {
            address: address.map(Ipv4Addr::from),
            mac,
            ..Join::default()
        };
        switch.join(wanted, vec![pair().1]).unwrap_err()
    };
    assert!(refused(None, None).contains("no address is left on the network small"));
    for taken in [one.end.address, [10, 89, 0, 1].into()] {
        assert_eq!(
            refused(Some(taken.octets()), None),
            format!("Address already in use: {taken} on the network small")
        );
    }
    for outside in [[10, 89, 0, 0], [10, 89, 0, 3], [10, 0, 0, 1]] {
        assert!(refused(Some(outside), None).contains("is no address of the network"));
    }
    switch.leave(one.at);
    let mac = switch.join(
        Join {
            mac: Some(GATEWAY_MAC),
            ..Join::default()
        },
        vec![pair().1],
    );
    assert!(mac.unwrap_err().contains("MAC address"));
}

#[test]
fn a_container_gets_another_name() {
    let mut switch = switch();
    let mut one = join(&mut switch, &["one"], None, true);
    let two = join(&mut switch, &["old", "id"], None, false);
    switch.ports[two.at].as_mut().unwrap().container = "id".into();
    assert_eq!(switch.rename("id", &["New".into(), "id".into()]), Ok(()));
    assert!(switch.rename("nobody", &[]).is_err());
    let dns = gateway([10, 89, 0, 1], 53);
    for (name, found) in [("new", 1), ("id", 1), ("old", 0)] {
        let asked = udp(&one.end.clone(), &dns, &question(name, TYPE::A));
        one.send(&mut switch, &asked);
        assert_eq!(one.got().len(), found, "{name}");
    }
}

/// A container that is on two networks: what the first does not know, the other one is asked for.
#[test]
fn names_of_the_container_s_other_network() {
    let mut front = switch();
    let mut back = Switch::new(Network {
        name: "back".into(),
        gateway: [10, 7, 0, 1].into(),
        prefix: 24,
    });
    let mut one = join(&mut front, &["web"], None, true);
    front.ports[one.at].as_mut().unwrap().container = "id".into();
    let other = join(&mut back, &["web"], None, false);
    back.ports[other.at].as_mut().unwrap().container = "id".into();
    join(&mut back, &["db"], None, false);
    let flags = rustix::net::SocketFlags::CLOEXEC;
    let (family, kind) = (
        rustix::net::AddressFamily::UNIX,
        rustix::net::SocketType::SEQPACKET,
    );
    let (near, far) = rustix::net::socketpair(family, kind, flags, None).unwrap();
    assert_eq!(front.introduce("id", vec![near]), Ok((one.at, 0)));
    assert_eq!(back.introduce("id", vec![far]), Ok((other.at, 0)));
    assert!(back.introduce("nobody", vec![]).is_err());
    let dns = gateway([10, 89, 0, 1], 53);
    let own = one.end.address;
    let mut ask = |front: &mut Switch, name: &str| {
        one.send(front, &udp(&one.end, &dns, &question(name, TYPE::A)));
        back.hear(other.at, 0);
        front.hear(one.at, 0);
        (one.got(), one.outside_got())
    };
    for name in ["db", "db.back"] {
        let (got, outside) = ask(&mut front, name);
        assert_eq!((got.len(), outside.len()), (1, 0), "{name}");
        let answer = udp_payload(&got[0]).unwrap();
        assert_eq!(
            names::learn(answer, 7, name),
            [std::net::Ipv4Addr::new(10, 7, 0, 3)]
        );
    }
    // Its own come first; what neither knows is asked outside.
    let (got, _) = ask(&mut front, "web");
    let answer = udp_payload(&got[0]).unwrap();
    assert_eq!(names::learn(answer, 7, "web"), [own]);
    let (got, outside) = ask(&mut front, "example.org");
    assert_eq!((got.len(), outside.len()), (0, 1));
    // One that is gone is asked no more.
    back.leave(other.at);
    front.hear(one.at, 0);
    one.send(&mut front, &udp(&one.end, &dns, &question("db", TYPE::A)));
    assert_eq!((one.got().len(), one.outside_got().len()), (0, 1));
}

/// Frames that are almost right: the interesting bytes are where the headers are.
fn almost() -> impl Strategy<Value = Vec<u8>> {
    let dns = gateway([10, 89, 0, 1], 53);
    let one = End {
        mac: Mac([2, 0x42, 10, 89, 0, 2]),
        address: [10, 89, 0, 2].into(),
        port: 4000,
    };
    let bases = vec![
        udp(&one, &dns, &question("db", TYPE::A)),
        udp(&one, &gateway([192, 0, 2, 1], 9), &[7; 40]),
        packet::arp_reply(one.mac, one.address, GATEWAY_MAC, [10, 89, 0, 1].into()),
        Vec::new(),
    ];
    let changes = proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..6);
    let base = proptest::sample::select(bases);
    (base, changes, any::<u8>()).prop_map(|(mut frame, changes, cut)| {
        for (at, value) in changes {
            if !frame.is_empty() {
                let at = at.index(frame.len());
                frame[at] = value;
            }
        }
        if cut & 3 == 0 {
            frame.truncate(usize::from(cut));
        }
        frame
    })
}

proptest! {
    #[test]
    fn any_frames(frames in proptest::collection::vec(almost(), 1..20), length: u32) {
        let mut switch = switch();
        let mut one = join(&mut switch, &["one"], Some("192.0.2.0/24:9"), true);
        let mut two = join(&mut switch, &["two"], None, true);
        for frame in &frames {
            one.send(&mut switch, frame);
            one.bring(&mut switch, frame);
        }
        // What comes out is whole frames, and none for where it may not go.
        one.got();
        two.got();
        prop_assert!(two.outside_got().is_empty());
        for frame in one.outside_got() {
            if let Packet::Ipv4(packet) = Packet::of(&frame) {
                prop_assert_eq!(packet.source, one.end.address);
                if let What::Udp { target, .. } = packet.what {
                    prop_assert!(target == 9 && packet.target.octets()[..3] == [192, 0, 2]);
                }
            }
        }
        // A length that no frame has ends the port, and nothing else.
        one.machine.write_all(&(length | 0x0010_0000).to_be_bytes()).unwrap();
        prop_assert!(switch.receive(one.at, Side::Machine).is_err());
        prop_assert!(switch.receive(two.at, Side::Machine).is_ok());
    }
}
