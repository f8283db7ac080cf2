// SPDX-License-Identifier: Apache-2.0
//! An interrupt each second. QEMU's TCG (seen with 7.2) forgets one now and then: a thread that
//! raises an interrupt and the vCPU that leaves a nested guest write the same word, each without
//! the other. A vCPU that sleeps by then sleeps on, its timer's interrupt pending and time with it,
//! until the next device has one.

use std::fs::File;
use std::io;

use rustix::ioctl::{NoArg, ioctl, opcode};

/// linux/rtc.h: `RTC_UIE_ON`.
const UPDATE_INTERRUPTS_ON: u32 = opcode::none(b'p', 0x03);

/// For as long as the file is open: the real-time clock says that a second is over.
pub(super) fn start() -> io::Result<File> {
    let clock = File::open("/dev/rtc0")?;
    #[expect(unsafe_code, reason = "an ioctl without a wrapper")]
    // SAFETY: the kernel knows it by this number, and it takes no argument.
    let update_interrupts = unsafe { NoArg::<UPDATE_INTERRUPTS_ON>::new() };
    #[expect(unsafe_code, reason = "an ioctl without a wrapper")]
    // SAFETY: as above.
    unsafe { ioctl(&clock, update_interrupts) }?;
    Ok(clock)
}
