// SPDX-License-Identifier: Apache-2.0
//! What the build script made of `proto/agent.proto`.
//!
//! Generated files open with inner attributes, so `include!` can't take them; a module path can,
//! and the build script writes the two declarations with theirs.

#![expect(
    clippy::cast_possible_truncation,
    reason = "generated: message sizes are below 2 GiB"
)]

include!(concat!(env!("OUT_DIR"), "/modules.rs"));
