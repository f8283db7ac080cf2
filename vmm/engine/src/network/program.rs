// SPDX-License-Identifier: Apache-2.0
//! Programs of the host's on the PATH.

use std::path::PathBuf;

use rustix::fs::{Access, access};

pub(super) fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .filter(|dir| dir.is_absolute())
        .map(|dir| dir.join(name))
        .find(|program| access(program, Access::EXEC_OK).is_ok())
}
