// SPDX-License-Identifier: Apache-2.0
//! `test-images [DIRECTORY]`: makes the test images that aren't there yet.

#![deny(unsafe_code)]

use std::env;
use std::path::PathBuf;

use walnut_tests::{images, place};

fn main() -> anyhow::Result<()> {
    let directory = env::args_os()
        .nth(1)
        .map_or_else(place::test_images, PathBuf::from);
    Ok(images::prepare(&directory)?)
}
