// SPDX-License-Identifier: Apache-2.0
//! What depends on the processor architecture. A second one would stand beside `x86_64`.

pub mod x86_64;
