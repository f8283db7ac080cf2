// SPDX-License-Identifier: Apache-2.0
//! How a test runs `walnut`.
