// SPDX-License-Identifier: Apache-2.0
#![deny(unsafe_code)]
