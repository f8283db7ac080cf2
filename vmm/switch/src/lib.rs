// SPDX-License-Identifier: Apache-2.0
//! A network of containers in user space. Each machine's frames come over a stream socket, each
//! behind its length, as passt(1) has them; so does what is outside: a passt of each container's own,
//! since one passt serves one guest (its answers go to the address that it saw last).
//!
//! ```text
//!  machine ── port ─┬─ another port          by the Ethernet address
//!                   ├─ the gateway           ARP, ICMP echo, names (DNS)
//!                   └─ uplink ── passt       all else, if the port's policy allows it
//! ```
//!
//! - `control.rs`: how a container joins
//! - `jail.rs`: what it gives up first
//! - `link.rs`: frames on a socket, with bounded queues
//! - `packet.rs`: what a frame is, read once; the packets that the gateway makes itself
//! - `policy.rs`: what may leave
//! - `names.rs`: DNS, what is answered; `message.rs`: a message as bytes
//! - `peer.rs`: names of the other networks that a container is on
//! - `port.rs`: one container's place, and what becomes of its frames; `port/dns.rs`: of its questions
//! - `streams.rs`: questions by TCP; `upstream.rs`: where they are passed on to; `stack.rs`: TCP
//! - `switch.rs`: all ports, and the loop
//!
//! One thread, no daemon: it comes with the first container and goes with the last. Frames are hostile:
//! a port has its Ethernet address and its IP address, which no other port can take.

#![deny(unsafe_code)]

mod control;
mod jail;
mod link;
mod message;
mod names;
mod packet;
mod peer;
mod policy;
mod port;
mod stack;
mod streams;
mod switch;
mod upstream;

pub use control::{ControlError, Join, Joined, Reply, Request, connect, introduce, join, rename};
pub use jail::{JailError, confine};
pub use policy::{Policy, PolicyError, Rule, Target};
pub use port::GATEWAY_MAC;
pub use switch::{Network, SwitchError, serve};
pub use upstream::LINK_RESOLVER;
