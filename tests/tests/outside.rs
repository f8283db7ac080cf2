// SPDX-License-Identifier: Apache-2.0
//! What is said where walnut can't run, or not yet. Runs on this very machine: the emulated host has
//! all that is missing here.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use walnut_tests::harness::{Done, Home, Program, kernel, skip};
use walnut_tests::place;

/// This machine's /dev/kvm opens and has no processor behind it.
fn paravirtual() -> bool {
    let opens = File::options().read(true).write(true).open("/dev/kvm");
    opens.is_ok() && !walnut_vmm_host::has_virtualization()
}

#[test]
fn a_processor_without_virtualization_is_named() {
    if !paravirtual() {
        return skip("/dev/kvm is missing here, or real");
    }
    let home = Home::without_kvm();
    let words = ["neither vmx nor svm", "emulated host"];
    let done = home.walnut(["run", "--rm", &home.busybox(), "true"]).run();
    done.exited(125).complains(&words);
    let done = home.walnut(["doctor"]).run();
    let text = String::from_utf8_lossy(&done.stdout);
    assert!(text.contains("NO  processor"), "{}", done.story());

    // The monitor tries, and says why that could not be.
    let path = home.path().join("kernel");
    // mov $0xe0000000,%eax; jmp *%eax: to where there is neither memory nor a device
    fs::write(&path, kernel(&[0xb8, 0, 0, 0, 0xe0, 0xff, 0xe0])).unwrap();
    let done = home.vmm(["--kernel".as_ref(), path.as_os_str()]).run();
    done.exited(1).complains(&[
        "KVM cannot run the guest: vCPU 0: internal error",
        words[0],
        words[1],
    ]);
}

#[test]
fn what_is_used_and_why_is_one_line() {
    let program = Path::new(env!("CARGO_BIN_EXE_emulated-host"));
    let done = Program::new(program).args(["detect"]).run();
    let words = if walnut_tests::kvm::detect().is_usable() {
        "using /dev/kvm: "
    } else {
        "using the emulated host: /dev/kvm "
    };
    done.complains(&[words]);
}

/// `.ci/deps` where one package is missing, as this user; apt-get only writes down what it was told.
fn deps(uid: &str) -> (Done, String) {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let all_but_erofs = "shift 3; for p in \"$@\"; do [ $p = erofs-utils ] || echo \"$p install ok installed\"; done";
    for (name, script) in [
        ("cargo", "exit 9"),
        ("id", &format!("echo {uid}")),
        ("dpkg-query", all_but_erofs),
        ("apt-get", &format!("echo \"$@\" >> {}", log.display())),
    ] {
        let path = dir.path().join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
    }
    let done = Program::new(place::checkout().join(".ci/deps"))
        .env("PATH", format!("{}:/usr/bin:/bin", dir.path().display()))
        .run();
    (done, fs::read_to_string(log).unwrap_or_default())
}

#[test]
fn missing_packages_are_installed_by_root() {
    let (done, told) = deps("0");
    done.succeeded();
    assert!(told.starts_with("update "), "{told}");
    assert!(told.trim_end().ends_with(" erofs-utils"), "{told}");
}

#[test]
fn missing_packages_are_named_to_others() {
    let (done, told) = deps("1000");
    done.exited(1);
    assert_eq!(told, "");
    let text = String::from_utf8_lossy(&done.stderr);
    let line = "    apt-get install -y --no-install-recommends erofs-utils";
    assert!(text.lines().any(|l| l == line), "{}", done.story());
}

#[test]
fn a_kernel_source_that_is_none_is_named() {
    let cache = tempfile::tempdir().unwrap();
    let build = |source: &Path, flags: &[&str]| {
        Program::new(place::checkout().join("guest-image/build-kernel"))
            .args(flags)
            .env("XDG_CACHE_HOME", cache.path())
            .env("KERNEL_SRC", source)
            .run()
    };
    let missing = Path::new("/nonexistent/linux");
    build(missing, &[])
        .exited(1)
        .complains(&["no source at /nonexistent/linux", "KERNEL_SRC"]);
    // Nothing is in this cache; it is looked up without building anything.
    let tree = tempfile::tempdir().unwrap();
    build(tree.path(), &["--cached"]).exited(1).says("");
    let done = build(tree.path(), &[]);
    done.exited(1);
    let text = String::from_utf8_lossy(&done.stderr);
    assert!(text.contains("is no kernel source"), "{}", done.story());
    let kernels = fs::read_dir(cache.path().join("walnut/kernel")).unwrap();
    let left: Vec<_> = kernels.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["lock"], "what was begun is cleared away");
}
