// SPDX-License-Identifier: Apache-2.0
//! The clocks, in the units of the protocol.

use rustix::time::{ClockId, Timespec};

/// `CLOCK_BOOTTIME` in microseconds: time since the kernel started.
#[must_use]
pub fn boottime_us() -> u64 {
    nanoseconds(rustix::time::clock_gettime(ClockId::Boottime)) / 1000
}

/// `CLOCK_REALTIME` in nanoseconds.
#[must_use]
pub fn realtime_ns() -> u64 {
    nanoseconds(rustix::time::clock_gettime(ClockId::Realtime))
}

/// Sets the wall clock.
///
/// # Errors
/// The time is before the boot's own, or the caller may not set it.
pub fn set_realtime(ns: u64) -> rustix::io::Result<()> {
    let seconds = i64::try_from(ns / 1_000_000_000).map_err(|_| rustix::io::Errno::INVAL)?;
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: i64::from((ns % 1_000_000_000) as u32),
    };
    rustix::time::clock_settime(ClockId::Realtime, time)
}

/// A clock before 1970 reads as its beginning.
fn nanoseconds(time: Timespec) -> u64 {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanoseconds = u64::try_from(time.tv_nsec).unwrap_or(0);
    seconds
        .saturating_mul(1_000_000_000)
        .saturating_add(nanoseconds)
}
