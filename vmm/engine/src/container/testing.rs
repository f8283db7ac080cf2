// SPDX-License-Identifier: Apache-2.0
//! Containers for tests, from flags as a user types them.

use std::ffi::OsString;
use std::path::Path;

use super::{Container, ImageDefaults};
use crate::cli::{Cli, Command};

/// `walnut run FLAGS image prog arg`, of an image that says nothing.
pub fn container(flags: &[&str]) -> Container {
    let argv: Vec<OsString> = ["walnut", "run"]
        .iter()
        .chain(flags)
        .chain(&["image", "prog", "arg"])
        .map(OsString::from)
        .collect();
    let Command::Run(args) = Cli::from_args(&argv).unwrap().command else {
        panic!("not run")
    };
    let args = args.container;
    let mut container = Container::from_flags(&args, Path::new("/")).unwrap();
    container
        .apply_image(None, &args.args[1..], &ImageDefaults::default())
        .unwrap();
    container
}
