// SPDX-License-Identifier: Apache-2.0
//! `--device-read-bps` and its like: limits of the guest's disks.

use oci_spec::OciSpecError;
use oci_spec::runtime::{
    LinuxBlockIo, LinuxBlockIoBuilder, LinuxThrottleDevice, LinuxThrottleDeviceBuilder,
};

use crate::container::limits::IoLimits;

/// virtio-blk's in our kernel: the first number that block drivers are given when they ask for any.
const VIRTIO_BLK_MAJOR: i64 = 254;
/// Minor numbers that each disk has for its partitions.
const MINORS: i64 = 16;

/// The same for each of so many disks; nothing where there is no limit, or nothing to limit.
pub(super) fn throttle(
    limits: &IoLimits,
    disks: usize,
) -> Result<Option<LinuxBlockIo>, OciSpecError> {
    if *limits == IoLimits::default() || disks == 0 {
        return Ok(None);
    }
    let each = |rate: Option<u64>| -> Result<Vec<LinuxThrottleDevice>, OciSpecError> {
        let Some(rate) = rate else {
            return Ok(Vec::new());
        };
        (0..i64::try_from(disks).unwrap_or(0))
            .map(|disk| {
                LinuxThrottleDeviceBuilder::default()
                    .major(VIRTIO_BLK_MAJOR)
                    .minor(disk * MINORS)
                    .rate(rate)
                    .build()
            })
            .collect()
    };
    LinuxBlockIoBuilder::default()
        .throttle_read_bps_device(each(limits.read_bytes)?)
        .throttle_write_bps_device(each(limits.write_bytes)?)
        .throttle_read_iops_device(each(limits.reads)?)
        .throttle_write_iops_device(each(limits.writes)?)
        .build()
        .map(Some)
}
