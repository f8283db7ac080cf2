// SPDX-License-Identifier: Apache-2.0
//! Names by TCP, with clients and servers that are another smoltcp.

use simple_dns::RCODE;
use smoltcp::socket::tcp::State;
use smoltcp::time::Duration;
use smoltcp::wire::TcpPacket;

use super::*;
use crate::message::tests::answer;
use crate::stack::now;
use crate::stack::tests::Peer;
use crate::streams::with_length as with_prefix;
use crate::upstream::LINK_RESOLVER;

const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 89, 0, 1);
const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 53);
const LATER: Duration = Duration::from_secs(60);

fn client(machine: &Machine, port: u16, to: (Ipv4Addr, u16)) -> Peer {
    let peer = Peer::client(machine.end.address, port, to, now());
    peer.with_macs(machine.end.mac, GATEWAY_MAC)
}

/// Until nobody says anything; what has left by the uplink.
fn exchange(
    switch: &mut Switch,
    machine: &mut Machine,
    client: &mut Peer,
    server: &mut Peer,
) -> Vec<Vec<u8>> {
    let mut left = Vec::new();
    loop {
        let said = client.frames(now());
        for frame in &said {
            machine.send(switch, frame);
        }
        let got = machine.got();
        got.iter().for_each(|frame| client.hear(frame));
        let out = match &machine.outside {
            Some(_) => machine.outside_got(),
            None => Vec::new(),
        };
        out.iter().for_each(|frame| server.hear(frame));
        let answered = server.frames(now());
        for frame in &answered {
            machine.bring(switch, frame);
        }
        if [&said, &got, &out, &answered]
            .iter()
            .all(|all| all.is_empty())
        {
            return left;
        }
        left.extend(out);
    }
}

/// Asks the gateway, with a server outside that says nothing.
fn ask(switch: &mut Switch, machine: &mut Machine, port: u16, message: &[u8]) -> Vec<u8> {
    let mut client = client(machine, port, (GATEWAY, 53));
    let mut nobody = Peer::server(SERVER, 1, now());
    exchange(switch, machine, &mut client, &mut nobody);
    client.say(&with_prefix(message).unwrap());
    exchange(switch, machine, &mut client, &mut nobody);
    let answer = client.read();
    client.socket().close();
    exchange(switch, machine, &mut client, &mut nobody);
    answer.get(2..).unwrap_or_default().to_vec()
}

fn code(message: &[u8]) -> RCODE {
    simple_dns::Packet::parse(message).unwrap().rcode()
}

#[test]
fn names_of_the_network() {
    let mut switch = switch();
    let mut one = join(&mut switch, &["one"], None, false);
    let _two = join(&mut switch, &["db"], None, false);
    for (port, name) in [(4000, "db"), (4001, "db.net"), (4002, "one")] {
        let said = ask(&mut switch, &mut one, port, &question(name, TYPE::A));
        assert_eq!(names::learn(&said, 7, name).len(), 1, "{name}");
    }
    let said = ask(
        &mut switch,
        &mut one,
        4003,
        &question("example.org", TYPE::A),
    );
    assert_eq!(code(&said), RCODE::ServerFailure);
    assert!(ask(&mut switch, &mut one, 4004, b"nonsense").is_empty());
    assert_eq!(switch.deadline(now()), None);
    // Nobody listens elsewhere, and the sender is told at once.
    let [syn] = client(&one, 4005, (GATEWAY, 54))
        .frames(now())
        .try_into()
        .unwrap();
    one.send(&mut switch, &syn);
    let [told] = one.got().try_into().unwrap();
    assert_eq!(told[34..36], [3, 3]);
}

#[test]
fn who_is_idle_is_left() {
    let mut switch = switch();
    let mut one = join(&mut switch, &["one"], None, false);
    let mut client = client(&one, 4000, (GATEWAY, 53));
    let mut nobody = Peer::server(SERVER, 1, now());
    assert_eq!(switch.deadline(now()), None);
    exchange(&mut switch, &mut one, &mut client, &mut nobody);
    assert_eq!(client.socket().state(), State::Established);
    let due = switch.deadline(now()).unwrap();
    assert!(due > now() && due < now() + LATER);
    switch.go_on(now());
    assert!(one.got().is_empty());
    switch.go_on(due);
    let end = one.got();
    end.iter().for_each(|frame| client.hear(frame));
    client.frames(now());
    assert_eq!(client.socket().state(), State::CloseWait);
    switch.go_on(due + LATER);
    assert_eq!(switch.deadline(due + LATER), None);
}

#[test]
fn names_of_others_by_tcp() {
    let mut switch = switch();
    let mut one = join(&mut switch, &["one"], Some("ok.test"), true);
    let said = ask(
        &mut switch,
        &mut one,
        4000,
        &question("secret.evil", TYPE::A),
    );
    assert_eq!(code(&said), RCODE::Refused);
    let dns = (GATEWAY, 53);
    let (mut client, mut server) = (client(&one, 4001, dns), Peer::server(SERVER, 53, now()));
    exchange(&mut switch, &mut one, &mut client, &mut server);
    let asked = question("ok.test", TYPE::A);
    client.say(&with_prefix(&asked).unwrap());
    let left = exchange(&mut switch, &mut one, &mut client, &mut server);
    let Packet::Ipv4(packet) = Packet::of(&left[0]) else {
        panic!("no IPv4")
    };
    let What::Tcp {
        source, target: 53, ..
    } = packet.what
    else {
        panic!("{packet:?}")
    };
    assert_eq!((packet.source, packet.target), (one.end.address, SERVER));
    assert_eq!(server.read(), with_prefix(&asked).unwrap());
    // What goes on with a connection passes, but not with that one.
    let mut other = udp(&one.end, &gateway(SERVER.octets(), 53), &[0; 12]);
    other[23] = 6;
    other[46..48].copy_from_slice(&[0x50, 0x10]);
    for (port, passes) in [(source, 0), (source - 1, 1)] {
        other[34..36].copy_from_slice(&port.to_be_bytes());
        one.send(&mut switch, &other);
        assert_eq!(one.outside_got().len(), passes, "{port}");
    }
    // More than goes into a packet, and each of it is opened.
    let answer = answer(&asked, 200).build_bytes_vec().unwrap();
    assert!(answer.len() > 4096);
    server.say(&with_prefix(&answer).unwrap());
    let left = exchange(&mut switch, &mut one, &mut client, &mut server);
    assert!(!server.socket().is_active());
    assert!(
        left.iter()
            .all(|frame| packet::source(frame) == one.end.mac)
    );
    let mut said = client.read();
    exchange(&mut switch, &mut one, &mut client, &mut server);
    said.extend(client.read());
    assert!(said == with_prefix(&answer).unwrap(), "{}", said.len());
    for (last, passes) in [(0, 1), (199, 1), (200, 0)] {
        let to = gateway([0, 0, 0, last], 80);
        one.send(&mut switch, &udp(&one.end.clone(), &to, b"x"));
        assert_eq!(one.outside_got().len(), passes, "{last}");
    }
    // The connection goes on.
    client.say(&with_prefix(&question("one", TYPE::A)).unwrap());
    exchange(&mut switch, &mut one, &mut client, &mut server);
    assert_eq!(
        names::learn(&client.read()[2..], 7, "one"),
        [one.end.address]
    );
}

/// passt of 2023 says so by a reset that acknowledges nothing, which TCP has to ignore.
#[test]
fn a_server_where_nobody_listens() {
    let mut switch = switch();
    let mut one = join(&mut switch, &["one"], None, true);
    let (mut client, mut nobody) = (
        client(&one, 4000, (GATEWAY, 53)),
        Peer::server(SERVER, 1, now()),
    );
    exchange(&mut switch, &mut one, &mut client, &mut nobody);
    let asked = question("example.org", TYPE::A);
    client.say(&with_prefix(&asked).unwrap());
    for frame in client.frames(now()) {
        one.send(&mut switch, &frame);
    }
    let [mut reset] = one.outside_got().try_into().unwrap();
    // Its answer: addresses and ports the other way round, RST.
    let (here, there) = (reset[26..30].to_vec(), reset[30..34].to_vec());
    reset[26..34].copy_from_slice(&[there, here].concat());
    let (here, there) = (reset[34..36].to_vec(), reset[36..38].to_vec());
    reset[34..38].copy_from_slice(&[there, here].concat());
    reset[38..46].fill(0);
    reset[47] = 4;
    let ends = (SERVER.into(), one.end.address.into());
    TcpPacket::new_unchecked(&mut reset[34..]).fill_checksum(&ends.0, &ends.1);
    let mut second = Peer::server([192, 0, 2, 54].into(), 53, now());
    one.bring(&mut switch, &reset);
    exchange(&mut switch, &mut one, &mut client, &mut second);
    assert_eq!(second.read(), with_prefix(&asked).unwrap());
}

#[test]
fn names_by_the_hosts_resolver() {
    let mut switch = switch();
    let mut one = join(&mut switch, &["one"], None, true);
    switch.ports[one.at].as_mut().unwrap().resolvers = vec![LINK_RESOLVER];
    let dns = (GATEWAY, 53);
    let (mut client, mut nobody) = (client(&one, 4000, dns), Peer::server(SERVER, 1, now()));
    exchange(&mut switch, &mut one, &mut client, &mut nobody);
    let asked = question("example.org", TYPE::A);
    client.say(&with_prefix(&asked).unwrap());
    let left = exchange(&mut switch, &mut one, &mut client, &mut nobody);
    let [left] = left.try_into().unwrap();
    let Packet::Ipv4(packet) = Packet::of(&left) else {
        panic!("no IPv4")
    };
    let What::Udp { source, target: 53 } = packet.what else {
        panic!("{packet:?}")
    };
    assert_eq!(packet.target, LINK_RESOLVER);
    let answer = answer(udp_payload(&left).unwrap(), 100)
        .build_bytes_vec()
        .unwrap();
    let to = End {
        port: source,
        ..one.end
    };
    let answer = udp(&gateway(LINK_RESOLVER.octets(), 53), &to, &answer);
    one.bring(&mut switch, &answer);
    exchange(&mut switch, &mut one, &mut client, &mut nobody);
    let said = client.read();
    let said = simple_dns::Packet::parse(&said[2..]).unwrap();
    assert_eq!((said.answers.len(), said.opt(), said.id()), (100, None, 7));
}

#[test]
fn names_of_the_other_network_by_tcp() {
    let mut front = switch();
    let mut back = Switch::new(Network {
        name: "back".into(),
        gateway: [10, 7, 0, 1].into(),
        prefix: 24,
    });
    let mut one = join(&mut front, &["web"], None, false);
    let other = join(&mut back, &["web"], None, false);
    join(&mut back, &["db"], None, false);
    let flags = rustix::net::SocketFlags::CLOEXEC;
    let kind = rustix::net::SocketType::SEQPACKET;
    let family = rustix::net::AddressFamily::UNIX;
    let (near, far) = rustix::net::socketpair(family, kind, flags, None).unwrap();
    for (switch, at, end) in [(&mut front, one.at, near), (&mut back, other.at, far)] {
        switch.ports[at].as_mut().unwrap().container = "id".into();
        assert_eq!(switch.introduce("id", vec![end]), Ok((at, 0)));
    }
    let mut client = client(&one, 4000, (GATEWAY, 53));
    let mut nobody = Peer::server(SERVER, 1, now());
    exchange(&mut front, &mut one, &mut client, &mut nobody);
    for (name, found) in [("db", 1), ("example.org", 0)] {
        client.say(&with_prefix(&question(name, TYPE::A)).unwrap());
        exchange(&mut front, &mut one, &mut client, &mut nobody);
        assert!(client.read().is_empty());
        back.hear(other.at, 0);
        front.hear(one.at, 0);
        exchange(&mut front, &mut one, &mut client, &mut nobody);
        assert_eq!(
            names::learn(&client.read()[2..], 7, name).len(),
            found,
            "{name}"
        );
    }
}
