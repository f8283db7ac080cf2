// SPDX-License-Identifier: Apache-2.0
//! How machines end, and in which words. The guests are a few instructions each, where a kernel would
//! not do it on purpose.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use walnut_tests::harness::{Home, Program, kernel, skip};
use walnut_tests::place;

const NO_KVM: &str = "no KVM that runs a stock kernel";

/// `mov $0x3f8,%dx; mov $'\\n',%al; out %al,(%dx)`: a new line on the console.
const READY: [u8; 7] = [0x66, 0xba, 0xf8, 0x03, 0xb0, b'\n', 0xee];

fn guest(home: &Home, code: &[u8]) -> Program {
    let path = home.path().join("kernel");
    fs::write(&path, kernel(code)).unwrap();
    home.vmm(["--kernel".as_ref(), path.as_os_str()])
}

#[test]
fn a_reset_is_named_and_no_failure() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    // mov $0xfe,%al; out %al,$0x64; hlt
    let done = guest(&home, &[0xb0, 0xfe, 0xe6, 0x64, 0xf4]).run();
    done.succeeded().complains(&["the guest ended by a reset"]);
}

#[test]
fn a_triple_fault_is_named() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    // ud2, without an interrupt table that would know what to do about it
    let done = guest(&home, &[0x0f, 0x0b]).run();
    done.exited(1)
        .complains(&["the guest ended in a triple fault"]);
}

#[test]
fn a_kernel_that_ends_by_a_triple_fault() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    let kernel = place::staged().join("vmlinux");
    // Without a root it panics, and restarts in the way that it was told.
    let cmdline = "console=ttyS0 reboot=t panic=-1 quiet";
    let done = home
        .vmm(["--kernel".as_ref(), kernel.as_os_str()])
        .args(["--cmdline", cmdline])
        .run();
    done.exited(1)
        .complains(&["the guest kernel panicked: Kernel panic - not syncing"]);
}

#[test]
fn what_kvm_cannot_run_is_named() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    // mov $0xe0000000,%eax; jmp *%eax: to where there is neither memory nor a device
    let code = [0xb8, 0x00, 0x00, 0x00, 0xe0, 0xff, 0xe0];
    let done = guest(&home, &code).run();
    let words = "KVM cannot run the guest: vCPU 0: internal error (emulation failure) at instruction address 0xe0000000";
    done.exited(1).complains(&[words]);
    // There is a processor with virtualization behind this one.
    let text = String::from_utf8_lossy(&done.stderr);
    assert!(!text.contains("kvm_pvm"), "{}", done.story());
}

#[test]
fn one_that_was_told_to_stop_says_so() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    // A new line on the console, then: jmp .
    let mut child = guest(&home, &[&READY[..], &[0xeb, 0xfe]].concat())
        .into_command()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut console = BufReader::new(child.stdout.take().unwrap());
    console.read_line(&mut line).unwrap();
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let done = child.wait_with_output().unwrap();
    assert_eq!(done.status.code(), Some(0));
    assert_eq!(
        String::from_utf8_lossy(&done.stderr),
        "walnut-vmm: the machine was stopped from outside\n"
    );
}
