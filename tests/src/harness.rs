// SPDX-License-Identifier: Apache-2.0
//! How a test runs `walnut`: a store of its own, a deadline on everything, and the guest's console
//! in the words of a failure.
//!
//! ```no_run
//! use walnut_tests::harness::{Home, skip};
//!
//! let Some(home) = Home::new() else { return skip("no KVM that runs a stock kernel") };
//! let done = home.walnut(["run", "--rm", &home.busybox(), "echo", "hello"]).run();
//! done.succeeded().says("hello\n");
//! ```

mod home;
mod kernel;
mod namespace;
pub mod network;
pub mod process;
mod program;
mod skips;

pub use home::{Home, SOMEBODY, TEMPLATES};
pub use kernel::kernel;
pub use namespace::{host, in_namespace};
pub use program::{Done, Program};
pub use skips::{SKIPS_FILE, skip};

/// How often what may go wrong is tried: `usual`, or as `WALNUT_TEST_ROUNDS` says.
#[must_use]
pub fn rounds(usual: usize) -> usize {
    let given = std::env::var("WALNUT_TEST_ROUNDS").ok();
    given
        .and_then(|rounds| rounds.parse().ok())
        .unwrap_or(usual)
}
