// SPDX-License-Identifier: Apache-2.0
//! Containers of images that are in a registry. What pulls and pushes do without a machine is
//! tested beside the engine.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::process::Command;

use walnut_tests::bench::registry::{PROGRAM, Registry, RegistryError};
use walnut_tests::harness::{Home, skip};

const NO_KVM: &str = "no KVM that runs a stock kernel";

#[test]
fn run_fetches_what_is_missing() {
    let (Some(here), Some(there)) = (Home::new(), Home::new()) else {
        return skip(NO_KVM);
    };
    let registry = match Registry::start(Command::new(PROGRAM), &here.path().join("registry")) {
        Err(RegistryError::Start(e)) if e.kind() == std::io::ErrorKind::NotFound => {
            return skip("no docker-registry");
        }
        started => started.unwrap(),
    };
    let name = format!("{}/busybox:1", registry.host());
    let archive = here.busybox();
    let archive = archive.trim_start_matches("oci-archive:");
    let loaded = here.says(&["load", "-i", archive]);
    let loaded = loaded.trim_start_matches("Loaded image: ");
    here.walnut(["tag", loaded, &name]).run().succeeded();
    here.walnut(["push", &name]).run().succeeded();

    let run = |pull: &str| {
        let args = ["run", "--rm", "--pull", pull, &name, "echo", "hi"];
        there.walnut(args).run()
    };
    run("never").exited(125).complains(&["No such image"]);
    let unable = format!("Unable to find image '{name}' locally");
    let downloaded = format!("Status: Downloaded newer image for {name}");
    let fetched = run("missing");
    fetched.succeeded().says("hi\n");
    let said = String::from_utf8_lossy(&fetched.stderr);
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(lines.first(), Some(&unable.as_str()), "{said}");
    assert_eq!(lines.last(), Some(&downloaded.as_str()), "{said}");
    drop(registry);
    run("missing").succeeded().says("hi\n");
    run("never").succeeded().says("hi\n");
    run("always").exited(125).complains(&["connect to"]);
}
