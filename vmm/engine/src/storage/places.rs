// SPDX-License-Identifier: Apache-2.0
//! Where in the guest a container's root is put together, and what else is its own there.

use crate::container::Container;

/// Of the container whose machine it is.
const FIRST: &str = "/run/walnut";

/// Paths in the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    base: String,
    /// Its image is mounted by the machine's first container.
    shares_image: bool,
}

impl Places {
    pub fn of(container: &Container) -> Self {
        let Some(place) = &container.in_vm else {
            return Self {
                base: FIRST.to_owned(),
                shares_image: false,
            };
        };
        Self {
            base: format!("{FIRST}/in/{}", container.id.short()),
            shares_image: place.same_image,
        }
    }

    /// Where its image is mounted.
    pub fn image(&self) -> String {
        let base = match self.shares_image {
            true => FIRST,
            false => self.base.as_str(),
        };
        format!("{base}/image")
    }

    /// A file system in memory for an image that is brought.
    pub fn brought(&self) -> String {
        format!("{}/brought", self.base)
    }

    pub fn writable(&self) -> String {
        format!("{}/rw", self.base)
    }

    /// What it has written over its image.
    pub fn upper(&self) -> String {
        format!("{}/rw/upper", self.base)
    }

    pub fn rootfs(&self) -> String {
        format!("{}/rootfs", self.base)
    }

    /// A file that the agent writes.
    pub fn file(&self, name: &str) -> String {
        format!("{}/files/{name}", self.base)
    }
}
