// SPDX-License-Identifier: Apache-2.0
//! What the integration tests stand on.
//!
//! - [`bench`]: what walnut costs, beside what else there is
//! - [`emulated`]: a whole machine with a stock `/dev/kvm`, in QEMU's TCG
//! - [`kvm`]: whether this machine needs that
//! - [`images`]: the container images that the tests run
//! - [`harness`]: how a test runs `walnut`: deadlines, temporary stores, skips that are counted
//! - [`place`]: where things lie

#![deny(unsafe_code)]

pub mod bench;
pub mod emulated;
pub mod harness;
pub mod images;
pub mod kvm;
pub mod place;
