// SPDX-License-Identifier: Apache-2.0
//! Against the kernel, in a network namespace of the test's own, where it can have one.

use rustix::thread::{UnshareFlags, unshare_unsafe};

use super::*;

/// Runs `test` in a thread with a network namespace of its own; says so where there is none.
fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(|| {
        #[expect(unsafe_code, reason = "only some flags of unshare are dangerous")]
        // SAFETY: descriptors stay shared.
        let unshared = unsafe { unshare_unsafe(UnshareFlags::NEWNET) };
        match unshared {
            Ok(()) => test(),
            Err(error) => eprintln!("SKIPPED: no network namespace: {error}"),
        }
    });
    thread.join().unwrap();
}

fn change_up() -> Change<'static> {
    Change {
        up: true,
        no_arp: Some(false),
        ..Change::default()
    }
}

#[test]
fn a_bridge_comes_and_goes() {
    in_namespace(|| {
        let mut netlink = Netlink::open().unwrap();
        let missing = netlink.link("test0").unwrap_err();
        assert_eq!(missing.errno(), Some(Errno::NODEV));
        netlink.add_bridge("test0").unwrap();
        let again = netlink.add_bridge("test0").unwrap_err();
        assert_eq!(again.errno(), Some(Errno::EXIST));
        let link = netlink.link("test0").unwrap();
        let change = Change {
            name: Some("other0"),
            mtu: Some(1400),
            up: true,
            mac: Some([2, 0, 0, 0, 0, 7]),
            ..Change::default()
        };
        netlink.set(link, &change).unwrap();
        assert_eq!(netlink.link("other0").unwrap(), link);
        for address in ["192.0.2.1/24", "fd00::1/64"] {
            netlink.add_address(link, address.parse().unwrap()).unwrap();
        }
        netlink
            .add_default_route(link, [192, 0, 2, 9].into())
            .unwrap();
        let lone = Change {
            down: true,
            no_arp: Some(true),
            ..Change::default()
        };
        netlink.set(link, &lone).unwrap();
        netlink
            .delete_address(link, "192.0.2.1/24".parse().unwrap())
            .unwrap();
        let gone = netlink.delete_address(link, "192.0.2.1/24".parse().unwrap());
        assert_eq!(gone.unwrap_err().errno(), Some(Errno::ADDRNOTAVAIL));
        netlink.set(link, &change_up()).unwrap();
        netlink
            .add_address(link, "192.0.2.1/24".parse().unwrap())
            .unwrap();
        assert_eq!(netlink.name(link).unwrap(), "other0");
        let routes = netlink.routes_ipv4().unwrap();
        for to in ["192.0.2.0/24", "192.0.2.1/32"] {
            let route = (to.parse().unwrap(), link);
            assert!(routes.contains(&route), "{to} {routes:?}");
        }
        let elsewhere = netlink.add_default_route(link, [198, 51, 100, 1].into());
        assert_eq!(elsewhere.unwrap_err().errno(), Some(Errno::NETUNREACH));
        netlink.delete(link).unwrap();
        assert!(netlink.name(link).is_err());
        let left = netlink.routes_ipv4().unwrap();
        assert!(left.iter().all(|(_, of)| *of != link), "{left:?}");
        assert!(netlink.link("other0").is_err());
    });
}
