// SPDX-License-Identifier: Apache-2.0
//! The guest kernel that was built is the one that `guest-image/kernel.config` asks for.

use std::collections::HashMap;
use std::fs;
use std::io::Read;

use flate2::read::GzDecoder;
use walnut_tests::place;

/// What `CONFIG_IKCONFIG` puts around the gzipped configuration.
const START: &[u8] = b"IKCFG_ST";

fn built_in(vmlinux: &[u8]) -> HashMap<String, String> {
    let at = vmlinux
        .windows(START.len())
        .position(|window| window == START);
    let at = at.expect("the kernel carries its configuration") + START.len();
    let mut text = String::new();
    let read = GzDecoder::new(&vmlinux[at..]).read_to_string(&mut text);
    read.expect("the configuration is gzipped text");
    options(&text)
}

fn options(text: &str) -> HashMap<String, String> {
    text.lines()
        .filter(|line| line.starts_with("CONFIG_"))
        .filter_map(|line| line.split_once('='))
        .map(|(option, value)| (option.to_owned(), value.to_owned()))
        .collect()
}

#[test]
fn every_wanted_option_is_in_the_kernel() {
    let vmlinux = fs::read(place::staged().join("vmlinux")).expect("make build stages vmlinux");
    let built = built_in(&vmlinux);
    let wanted = fs::read_to_string(place::checkout().join("guest-image/kernel.config")).unwrap();
    let wrong: Vec<String> = options(&wanted)
        .into_iter()
        .filter(|(option, value)| built.get(option).map_or("n", String::as_str) != value)
        .map(|(option, value)| format!("{option}: wanted {value}, is {:?}", built.get(&option)))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_kernel_takes_no_modules_and_says_whose_it_is() {
    let vmlinux = fs::read(place::staged().join("vmlinux")).expect("make build stages vmlinux");
    let built = built_in(&vmlinux);
    assert_eq!(built.get("CONFIG_MODULES"), None);
    assert_eq!(built["CONFIG_LOCALVERSION"], "\"-walnut\"");
}
