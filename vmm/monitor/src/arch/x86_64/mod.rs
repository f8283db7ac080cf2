// SPDX-License-Identifier: Apache-2.0
//! x86-64: where things lie in guest memory, and the state in which a vCPU enters the kernel.

pub mod boot;
pub mod cpuid;
pub mod layout;
mod mptable;
pub mod regs;
pub mod state;
