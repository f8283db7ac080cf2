// SPDX-License-Identifier: Apache-2.0
//! Which addresses are somebody's already, as far as the host knows.

use walnut_netlink::{Cidr, Netlink};
use walnut_protocol::chain;

/// Of IPv4; none where the kernel does not say.
pub fn known() -> Vec<Cidr> {
    let asked = Netlink::open().and_then(|mut netlink| netlink.routes_ipv4());
    match asked {
        Ok(routes) => routes.into_iter().map(|(route, _)| route).collect(),
        Err(error) => {
            log::debug!("{}", chain(&error));
            Vec::new()
        }
    }
}

/// Whether a network's packets would go there. Half of all addresses is how a VPN says all.
pub fn is_in_the_way(route: Cidr, subnet: Cidr) -> bool {
    route.prefix > 1 && subnet.overlaps(route)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_the_way() {
        let subnet = "10.86.0.0/24".parse().unwrap();
        for (route, expected) in [
            ("10.86.0.77/32", true),
            ("10.86.0.0/24", true),
            ("10.0.0.0/8", true),
            ("10.86.1.0/24", false),
            ("0.0.0.0/1", false),
        ] {
            let route = route.parse().unwrap();
            assert_eq!(is_in_the_way(route, subnet), expected, "{route}");
        }
    }

    #[test]
    fn the_kernel_says() {
        known();
        assert!(Netlink::open().unwrap().routes_ipv4().is_ok());
    }
}
