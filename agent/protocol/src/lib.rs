// SPDX-License-Identifier: Apache-2.0
//! The contract between host and guest: `proto/agent.proto`, and what goes over the wire beside it.
//!
//! [`agent`] holds the messages, [`agent_ttrpc`] the service trait; both are made from the proto
//! file. The host calls through [`Client`]. [`Hello`](agent::Hello)'s framing is in [`hello`], the
//! first bytes of a stdio stream in [`stream`]. Runs on both sides: nothing here may trust what it
//! reads.

#![deny(unsafe_code)]

pub mod hello;
pub mod stream;

mod chain;
mod client;
mod generated;

pub use chain::chain;
pub use client::{CallError, Client};
pub use generated::{agent, agent_ttrpc};
pub use protobuf;
pub use ttrpc;

/// vsock port of the agent's ttrpc server.
pub const RPC_PORT: u32 = 1024;
/// vsock port of the agent's stream listener.
pub const STDIO_PORT: u32 = 1025;
/// vsock port on the host (CID 2) that the agent dials when it is ready.
pub const READY_PORT: u32 = 1026;
/// Bytes of a stream token; the fd's number follows as one more byte.
pub const TOKEN_LEN: usize = 16;
