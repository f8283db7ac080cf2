// SPDX-License-Identifier: Apache-2.0
//! What cannot work is refused: one line that names what and why, the right exit code, nothing left.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use walnut_tests::harness::{Done, Home, Program, skip};
use walnut_tests::images::{self, Entry, Image, Layer};
use walnut_tests::place;

const NO_KVM: &str = "no KVM that runs a stock kernel";

fn run(home: &Home, args: &[&str]) -> Done {
    let done = home.walnut(["run", "--rm"].iter().chain(args)).run();
    home.assert_clean();
    done
}

fn run_archive(home: &Home, archive: &Path) -> Done {
    run(
        home,
        &[&format!("oci-archive:{}", archive.display()), "true"],
    )
}

/// busybox with one more layer.
fn with_layer(home: &Home, name: &str, layer: Layer) -> PathBuf {
    let mut image = images::busybox().unwrap();
    image.layers.push(layer);
    write(home, name, &image)
}

fn write(home: &Home, name: &str, image: &Image) -> PathBuf {
    let path = home.path().join(name);
    image.write_oci_archive(&path).unwrap();
    path
}

#[test]
fn flags() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    let image = home.busybox();
    let refused: [(&[&str], &str); 10] = [
        (&["--nosuch", &image], "unknown flag: --nosuch"),
        (&["--memory", "12x", &image], "12x"),
        (
            &["--memory", "1m", &image],
            "minimum memory limit allowed is 6MB",
        ),
        (
            &["--memory", "100000g", &image],
            "more than this machine has",
        ),
        (&["--cpus", "64", &image], "CPUs"),
        (
            &["-v", "/nonexistent:/x", &image],
            "bind source path does not exist: /nonexistent",
        ),
        (&["-w", "relative", &image], "needs to be an absolute path"),
        (&["--cap-add", "NOSUCH", &image], "invalid capability"),
        (
            &["--ulimit", "nofile=9:1", &image],
            "soft limit must be less",
        ),
        (&["--rootfs", "/nonexistent", "sh"], "/nonexistent"),
    ];
    for (args, words) in refused {
        let done = run(&home, args);
        done.exited(125);
        let text = String::from_utf8_lossy(&done.stderr);
        assert!(text.contains(words), "no {words:?}\n{}", done.story());
    }
    run(&home, &["nosuch:tag", "true"])
        .exited(125)
        .complains(&["nosuch:tag"]);
}

#[test]
fn archives() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    let good = fs::read(place::test_images().join("busybox.tar")).unwrap();
    run_archive(&home, &home.path().join("missing.tar"))
        .exited(125)
        .complains(&["missing.tar", "No such file"]);

    let cut = home.path().join("cut.tar");
    fs::write(&cut, &good[..good.len() / 2]).unwrap();
    run_archive(&home, &cut).exited(125).complains(&["cut.tar"]);

    let noise = home.path().join("noise.tar");
    fs::write(&noise, vec![0x5a; 100_000]).unwrap();
    run_archive(&home, &noise)
        .exited(125)
        .complains(&["noise.tar"]);

    let flipped = home.path().join("flipped.tar");
    let mut bytes = good;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&flipped, bytes).unwrap();
    run_archive(&home, &flipped)
        .exited(125)
        .complains(&["sha256:"]);
    run(&home, &["busybox", "true"])
        .exited(125)
        .complains(&["busybox"]);
}

#[test]
fn archives_that_cannot_be_read() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    let dir = format!("oci-archive:{}", home.path().display());
    run(&home, &[&dir, "true"])
        .exited(125)
        .complains(&["not a regular file"]);
    home.forget_templates();
    let secret = home.path().join("secret.tar");
    fs::copy(place::test_images().join("busybox.tar"), &secret).unwrap();
    fs::set_permissions(&secret, Permissions::from_mode(0o000)).unwrap();
    let archive = format!("oci-archive:{}", secret.display());
    home.unprivileged(["run", "--rm", &archive, "true"])
        .run()
        .exited(125)
        .complains(&["secret.tar", "Permission denied"]);
    home.assert_clean();
}

#[test]
fn layers_that_reach_out() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    let outside = home.path().join("outside");
    fs::create_dir(&outside).unwrap();
    let target = outside.to_str().unwrap();
    let escaping = Layer(vec![
        Entry::symlink("link", target),
        Entry::file("link/evil", 0o644, "x"),
    ]);
    let archive = with_layer(&home, "symlink.tar", escaping);
    let done = run_archive(&home, &archive);
    assert!(
        done.status() == 0 || done.status() == 125,
        "{}",
        done.story()
    );
    assert_eq!(
        fs::read_dir(&outside).unwrap().count(),
        0,
        "a layer wrote to the host"
    );

    let climbing = Layer(vec![Entry::file("../../../evil", 0o644, "x")]);
    let archive = with_layer(&home, "climbing.tar", climbing);
    run_archive(&home, &archive)
        .exited(125)
        .complains(&["../../../evil"]);
    // An absolute path is one of the image.
    let absolute = Layer(vec![Entry::file(
        &format!("{target}/inside"),
        0o644,
        "within\n",
    )]);
    let archive = with_layer(&home, "absolute.tar", absolute);
    let image = format!("oci-archive:{}", archive.display());
    run(&home, &[&image, "cat", &format!("{target}/inside")])
        .succeeded()
        .says("within\n");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
}

#[test]
fn another_architecture() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    let mut image = images::busybox().unwrap();
    image.config.architecture = "arm64".into();
    let archive = write(&home, "arm.tar", &image);
    run_archive(&home, &archive)
        .exited(125)
        .complains(&["arm64", "linux/amd64"]);
}

#[test]
fn no_room_for_the_image() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    if !rustix::process::geteuid().is_root() {
        return skip("a small tmpfs needs root");
    }
    let root = home.root();
    fs::create_dir_all(&root).unwrap();
    let options = c"size=1m";
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount("tmpfs", &root, "tmpfs", flags, options).unwrap();
    let done = home.walnut(["run", "--rm", &home.busybox(), "true"]).run();
    let mut left = Vec::new();
    files_below(&root, &mut left);
    rustix::mount::unmount(&root, rustix::mount::UnmountFlags::DETACH).unwrap();
    done.exited(125).complains(&["No space left on device"]);
    let blobs: Vec<_> = left.iter().filter(|(_, len)| *len > 100_000).collect();
    assert!(blobs.is_empty(), "left in the store: {blobs:?}");
}

fn files_below(dir: &Path, found: &mut Vec<(PathBuf, u64)>) {
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let metadata = entry.metadata().unwrap();
        if metadata.is_dir() {
            files_below(&entry.path(), found);
        } else {
            found.push((entry.path(), metadata.len()));
        }
    }
}

/// A directory like the staged one, in which one file is another.
fn libexec(home: &Home, name: &str, bytes: &[u8]) -> PathBuf {
    let dir = home.path().join("libexec");
    fs::create_dir_all(&dir).unwrap();
    for file in ["walnut-vmm", "vmlinux", "guest.erofs"] {
        let _ = fs::remove_file(dir.join(file));
        fs::copy(place::staged().join(file), dir.join(file)).unwrap();
    }
    fs::write(dir.join(name), bytes).unwrap();
    dir
}

fn run_with(home: &Home, libexec: &Path) -> Program {
    home.walnut(["run", "--rm", &home.busybox(), "true"])
        .env("WALNUT_LIBEXEC", libexec)
        .env("WALNUT_READY_TIMEOUT_S", "20")
}

#[test]
fn a_kernel_that_is_none() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    let dir = libexec(&home, "vmlinux", b"not a kernel at all");
    run_with(&home, &dir)
        .run()
        .exited(125)
        .complains(&["vmlinux", "no Linux kernel"]);
    home.assert_clean();
}

/// A root file system of the guest with this script as its init, or with none.
fn guest(home: &Home, init: Option<&str>) -> Vec<u8> {
    let dir = home.path().join("guest");
    fs::create_dir_all(dir.join("newroot")).unwrap();
    if let Some(script) = init {
        fs::copy("/bin/busybox", dir.join("busybox")).unwrap();
        fs::write(dir.join("init"), script).unwrap();
        fs::set_permissions(dir.join("init"), Permissions::from_mode(0o755)).unwrap();
    }
    let image = home.path().join("guest.erofs");
    Program::new("mkfs.erofs")
        .args(["--quiet", "-E", "noinline_data"])
        .args([&image, &dir])
        .run()
        .succeeded();
    fs::read(&image).unwrap()
}

#[test]
fn a_guest_that_panics() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    let dir = libexec(&home, "guest.erofs", &guest(&home, None));
    let done = run_with(&home, &dir).run();
    done.exited(125);
    let text = String::from_utf8_lossy(&done.stderr);
    assert!(text.contains("panic"), "{}", done.story());
    home.assert_clean();
}

#[test]
fn a_guest_that_never_becomes_ready() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    let script = "#!/busybox sh\n/busybox mount -t devtmpfs d /newroot\n\
                  echo '<0>stuck here' > /newroot/kmsg\nexec /busybox sleep 1000\n";
    let sleeper = guest(&home, Some(script));
    let dir = libexec(&home, "guest.erofs", &sleeper);
    let done = run_with(&home, &dir)
        .env("WALNUT_READY_TIMEOUT_S", "5")
        .run();
    done.exited(125);
    let text = String::from_utf8_lossy(&done.stderr);
    let words = "the guest was not ready within 5 s; the end of its console:";
    assert!(text.contains(words), "{}", done.story());
    assert!(text.contains("stuck here"), "{}", done.story());
    home.assert_clean();
}

#[test]
fn no_kvm_and_no_permission() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    if !rustix::process::geteuid().is_root() {
        return skip("hiding /dev/kvm needs root");
    }
    let image = home.busybox();
    let walnut = home.walnut(["run", "--rm", &image, "true"]).into_command();
    let hidden = format!(
        "mount --make-rprivate / && mount -t tmpfs t /dev && touch /dev/null && {walnut:?} </dev/null"
    );
    Program::new("unshare")
        .args(["-m", "sh", "-c", &hidden])
        .run()
        .exited(125)
        .complains(&["/dev/kvm", "does not exist"]);
    // Its group is named to those who could join it.
    for (group, words) in [("root", "user 0 only"), ("kvm", "usermod -aG kvm")] {
        let denied = format!(
            "mount --make-rprivate / && mount -t tmpfs t /dev && mknod -m 666 /dev/null c 1 3 && \
             mknod -m 660 /dev/kvm c 10 232 && chgrp {group} /dev/kvm && chmod o+rwx {dir} && \
             exec setpriv --reuid 65533 --regid 65533 --clear-groups env HOME={dir} \
             {program:?} --root {dir}/r2 --state {dir}/s2 run --rm {image} true",
            dir = home.path().display(),
            program = place::staged().join("walnut"),
        );
        let done = Program::new("unshare")
            .args(["-m", "sh", "-c", &denied])
            .run();
        done.exited(125)
            .complains(&["no permission", "/dev/kvm", words]);
    }
}
