// SPDX-License-Identifier: Apache-2.0
//! The contract between host and guest: `proto/agent.proto`, and the numbers that go with it.

#![deny(unsafe_code)]

/// vsock port of the agent's ttrpc server.
pub const RPC_PORT: u32 = 1024;
/// vsock port of the agent's stream listener.
pub const STDIO_PORT: u32 = 1025;
/// vsock port on the host (CID 2) that the agent dials when it is ready.
pub const READY_PORT: u32 = 1026;
/// Bytes of a stream token; the fd's number follows as one more byte.
pub const TOKEN_LEN: usize = 16;
