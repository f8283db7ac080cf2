// SPDX-License-Identifier: Apache-2.0
//! A machine that was restored from a template becomes one of its own.
//!
//! All clones of a template have the same random numbers before them, the same time behind them,
//! and the same devices: those that the template had. What this machine has beside them sits where
//! the template's kernel found nothing (virtio 1.3 §4.2.2.2: device ID 0), and is probed now.

use std::fs;
use std::io;
use std::path::Path;

use rustix::io::Errno;
use walnut_protocol::agent::WakeRequest;

use crate::clock;
use crate::entropy::{self, EntropyError};

/// More places than a machine has.
const MAX_SLOTS: u32 = 64;

/// How the kernel calls them, before their number.
pub const PLACE: &str = "virtio-mmio.";
const PLATFORM: &str = "/sys/bus/platform";
const NVDIMM_BUSES: &str = "/sys/bus/nd/devices";

/// Why a clone is none.
#[derive(Debug, thiserror::Error)]
pub enum WakeError {
    #[error("tell the clone's random numbers apart")]
    Entropy(#[from] EntropyError),
    #[error("set the clone's clock")]
    Clock(#[source] Errno),
    #[error("probe device {slot}")]
    Probe { slot: u32, source: io::Error },
    #[error("wait for persistent memory")]
    Nvdimm(#[source] io::Error),
}

/// # Errors
/// The machine must not be used.
pub fn wake(request: &WakeRequest) -> Result<(), WakeError> {
    entropy::add(&request.seed)?;
    clock::set_realtime(request.realtime_ns).map_err(WakeError::Clock)?;
    let probed = probe(Path::new(PLATFORM))?;
    log::debug!("{probed} devices at {} us", clock::boottime_us());
    if probed > 0 {
        wait_for_nvdimms(Path::new(NVDIMM_BUSES)).map_err(WakeError::Nvdimm)?;
    }
    log::debug!("awake at {} us", clock::boottime_us());
    Ok(())
}

/// Has the kernel look at the places that have no driver yet, up to the first without a device; how
/// many devices there were.
fn probe(platform: &Path) -> Result<u32, WakeError> {
    let mut probed = 0;
    for slot in 0..MAX_SLOTS {
        match probe_one(platform, slot)? {
            Place::Taken => {}
            Place::Probed => probed += 1,
            Place::Empty => break,
        }
    }
    Ok(probed)
}

/// Has the kernel look at all places that have no driver yet: devices come where others have gone.
pub fn probe_all() -> Result<(), WakeError> {
    let platform = Path::new(PLATFORM);
    for slot in 0..MAX_SLOTS {
        if !platform.join("devices").join(name_of(slot)).exists() {
            break;
        }
        probe_one(platform, slot)?;
    }
    Ok(())
}

/// Has the driver let go of the device in this place.
pub fn let_go(place: &str) -> io::Result<()> {
    fs::write(
        Path::new(PLATFORM).join("drivers/virtio-mmio/unbind"),
        place,
    )
}

/// What was found where a device can be.
enum Place {
    Taken,
    Probed,
    Empty,
}

fn probe_one(platform: &Path, slot: u32) -> Result<Place, WakeError> {
    let name = name_of(slot);
    let device = platform.join("devices").join(&name);
    if device.join("driver").exists() {
        return Ok(Place::Taken);
    }
    match fs::write(platform.join("drivers/virtio-mmio/bind"), &name) {
        Ok(()) => Ok(Place::Probed),
        Err(error) if error.raw_os_error() == Some(Errno::NODEV.raw_os_error()) => Ok(Place::Empty),
        Err(source) => Err(WakeError::Probe { slot, source }),
    }
}

fn name_of(slot: u32) -> String {
    format!("{PLACE}{slot}")
}

/// The kernel finds namespaces in the background; reading `wait_probe` waits until it has them all
/// (kernel: Documentation/ABI/testing/sysfs-bus-nvdimm).
fn wait_for_nvdimms(buses: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(buses) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().starts_with(b"ndbus") {
            fs::read(entry.path().join("wait_probe"))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_with_a_driver_are_left_alone() {
        let sys = tempfile::tempdir().unwrap();
        for slot in 0..MAX_SLOTS {
            let device = format!("devices/virtio-mmio.{slot}/driver");
            fs::create_dir_all(sys.path().join(device)).unwrap();
        }
        assert_eq!(probe(sys.path()).unwrap(), 0);
        fs::remove_dir_all(sys.path().join("devices/virtio-mmio.7")).unwrap();
        let error = probe(sys.path()).unwrap_err();
        assert!(
            matches!(error, WakeError::Probe { slot: 7, .. }),
            "{error:?}"
        );
    }

    #[test]
    fn a_machine_without_persistent_memory_waits_for_none() {
        let sys = tempfile::tempdir().unwrap();
        wait_for_nvdimms(&sys.path().join("nd")).unwrap();
        fs::create_dir(sys.path().join("ndbus0")).unwrap();
        assert!(wait_for_nvdimms(sys.path()).is_err());
    }
}
