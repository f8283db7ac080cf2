// SPDX-License-Identifier: Apache-2.0
//! The README's examples of `walnut`, typed into a shell as they stand there.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use walnut_tests::harness::{Done, Home, Program, skip};
use walnut_tests::place;

const NO_KVM: &str = "no KVM that runs a stock kernel";

/// A user's working directory, and the programs on their PATH.
struct Desk {
    home: Home,
    dir: PathBuf,
}

impl Desk {
    fn new() -> Option<Self> {
        let home = Home::new()?;
        let (bin, dir) = (home.path().join("bin"), home.path().join("desk"));
        fs::create_dir(&bin).unwrap();
        fs::create_dir(&dir).unwrap();
        // As installed, but for the place where it keeps things.
        let walnut = home.walnut([] as [&str; 0]).into_command();
        let line = format!("#!/bin/sh\nexec {walnut:?} \"$@\"\n");
        executable(&bin.join("walnut"), &line);
        let images = place::test_images();
        for file in ["busybox.tar", "busybox-docker.tar", "busybox-oci"] {
            symlink(images.join(file), dir.join(file)).unwrap();
        }
        Some(Self { home, dir })
    }

    fn types(&self, line: &str) -> Done {
        let path = std::env::var("PATH").unwrap();
        let own = self.home.path().join("bin");
        Program::new("sh")
            .args(["-c", line])
            .current_dir(&self.dir)
            .env("PATH", format!("{}:{path}", own.display()))
            .run()
    }
}

fn executable(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn images_by_every_name() {
    let Some(desk) = Desk::new() else {
        return skip(NO_KVM);
    };
    for image in [
        "oci-archive:busybox.tar",
        "docker-archive:busybox-docker.tar",
        "oci:busybox-oci",
        "oci:busybox-oci:latest",
        "busybox",
    ] {
        desk.types(&format!("walnut run --rm {image} echo hello"))
            .succeeded()
            .says("hello\n");
    }
    desk.types("walnut run --rm busybox sh -c 'exit 7'; echo $?")
        .says("7\n");
    desk.home.assert_clean();
}

#[test]
fn a_script_in_the_working_directory() {
    let Some(desk) = Desk::new() else {
        return skip(NO_KVM);
    };
    let root = desk.dir.join("rootfs");
    fs::create_dir_all(root.join("bin")).unwrap();
    fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    for applet in ["sh", "id", "nproc"] {
        symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    executable(
        &desk.dir.join("script.sh"),
        "#!/bin/sh\necho \"$A from $(id -u):$(id -g) in $PWD with $(nproc)\"\n",
    );
    desk.types(
        "walnut run --rm --rootfs ./rootfs -v \"$PWD\":/work -w /work -e A=b -u 1000:1000 \
         --memory 256m --cpus 2 -- ./script.sh",
    )
    .succeeded()
    .says("b from 1000:1000 in /work with 2\n");
    desk.home.assert_clean();
}

#[test]
fn a_tar_through_a_pipe() {
    let Some(desk) = Desk::new() else {
        return skip(NO_KVM);
    };
    let files = desk.dir.join("files");
    fs::create_dir(&files).unwrap();
    fs::write(files.join("a"), vec![0; 3 << 20]).unwrap();
    fs::write(files.join("b"), "b").unwrap();
    let image = desk.home.busybox();
    let line = format!("cd files && tar c . | walnut run --rm -i {image} tar t | sort");
    desk.types(&line).succeeded().says("./\n./a\n./b\n");
    desk.home.assert_clean();
}

#[test]
fn the_doctor() {
    let Some(desk) = Desk::new() else {
        return skip(NO_KVM);
    };
    let done = desk.types("walnut doctor");
    done.succeeded();
    let text = String::from_utf8_lossy(&done.stdout);
    assert!(text.starts_with("ok  walnut"), "{}", done.story());
    assert!(!text.contains("\nNO"), "{}", done.story());
}
