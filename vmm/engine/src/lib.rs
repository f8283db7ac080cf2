// SPDX-License-Identifier: Apache-2.0
//! The engine: from a command line to a container in a virtual machine of its own, and back to an
//! exit code.
//!
//! [`cli`] holds the literal flags, [`container`] what they mean, [`spec`] the OCI runtime spec
//! made of that, [`storage`] its root file system; [`vm`] starts and ends the machine,
//! [`template`] keeps machines to start from, [`run`] drives it all. The binary is a thin front of this library.

#![deny(unsafe_code)]

pub mod checkpoint;
pub mod cli;
pub mod container;
pub mod doctor;
pub mod events;
pub mod files;
pub mod format;
pub mod image;
pub mod image_verbs;
pub mod log_file;
pub mod logger;
pub mod network;
pub mod networks;
pub mod paths;
pub mod record;
pub mod run;
pub mod spec;
pub mod storage;
pub mod supervisor;
pub mod template;
pub mod times;
pub mod units;
pub mod verb;
pub mod vm;
pub mod volumes;
