// SPDX-License-Identifier: Apache-2.0
//! `walnut-vmm` by itself: any Linux guest, devices by flags, and how machines end.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, TcpListener};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use walnut_tests::harness::network::TestTap;
use walnut_tests::harness::{Done, Home, Program, skip};
use walnut_tests::place;

const NO_KVM: &str = "no KVM that runs a stock kernel";

/// An initramfs with busybox and this script as /init.
fn initramfs(home: &Home, script: &str) -> PathBuf {
    let dir = home.path().join("init");
    let _ = fs::remove_dir_all(&dir);
    for sub in ["bin", "dev", "proc", "sys", "mnt"] {
        fs::create_dir_all(dir.join(sub)).unwrap();
    }
    fs::copy("/bin/busybox", dir.join("bin/busybox")).unwrap();
    let prelude = "#!/bin/busybox sh\nexport PATH=/bin\nbusybox mount -t proc p /proc\n\
                   busybox --install -s /bin\nmount -t sysfs s /sys\nmount -t devtmpfs d /dev\n\
                   exec >/dev/ttyS0 2>&1 </dev/ttyS0\n";
    let init = dir.join("init");
    fs::write(&init, format!("{prelude}{script}\nreboot -f\n")).unwrap();
    fs::set_permissions(&init, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let cpio = home.path().join("init.cpio");
    let line = format!("find . | busybox cpio -o -H newc > {}", cpio.display());
    Program::new("sh")
        .args(["-c", &line])
        .current_dir(&dir)
        .run()
        .succeeded();
    cpio
}

fn boot(home: &Home, script: &str, flags: &[&str]) -> Done {
    program(home, script, flags).run()
}

fn program(home: &Home, script: &str, flags: &[&str]) -> Program {
    let cpio = initramfs(home, script);
    let kernel = place::staged().join("vmlinux");
    let cmdline = "console=ttyS0 reboot=k panic=-1 quiet";
    home.vmm([
        "--kernel",
        kernel.to_str().unwrap(),
        "--initrd",
        cpio.to_str().unwrap(),
    ])
    .args(["--cmdline", cmdline])
    .args(flags)
}

/// What the script printed: no carriage returns, none of the kernel's own lines.
fn console(done: &Done) -> String {
    let text = String::from_utf8_lossy(&done.stdout).replace('\r', "");
    let lines = text.lines().filter(|line| !line.starts_with("[ "));
    lines.map(|line| format!("{line}\n")).collect()
}

#[test]
fn a_guest_boots_and_ends_by_a_reset() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    let done = boot(
        &home,
        "echo up $(nproc); uname -r",
        &["--memory", "128", "--cpus", "1"],
    );
    done.succeeded();
    assert!(console(&done).starts_with("up 1\n"), "{}", done.story());
    assert!(console(&done).contains("-walnut\n"), "{}", done.story());
}

#[test]
fn several_vcpus_run() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    for cpus in ["2", "32"] {
        let done = boot(
            &home,
            "nproc; grep -c ^processor /proc/cpuinfo",
            &["--cpus", cpus],
        );
        done.succeeded();
        assert_eq!(
            console(&done),
            format!("{cpus}\n{cpus}\n"),
            "{}",
            done.story()
        );
    }
}

#[test]
fn memory_beyond_the_hole_below_4_gib() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    let script = "awk '/MemTotal/ {print ($2 > 4500000)}' /proc/meminfo";
    let done = boot(&home, script, &["--memory", "5120"]);
    done.succeeded();
    assert_eq!(console(&done), "1\n", "{}", done.story());
}

#[test]
fn a_disk_is_read_written_and_trimmed() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    let disk = home.path().join("disk.img");
    fs::File::create(&disk).unwrap().set_len(64 << 20).unwrap();
    let path = disk.to_str().unwrap();
    Program::new("mkfs.ext4")
        .args(["-q", "-F", path])
        .run()
        .succeeded();
    let script = "mount -t ext4 /dev/vda /mnt && dd if=/dev/urandom of=/mnt/f bs=1M count=20 2>/dev/null \
                  && sync && sha256sum /mnt/f > /mnt/sum && umount /mnt && mount -t ext4 /dev/vda /mnt \
                  && sha256sum -c /mnt/sum && rm /mnt/f && sync && fstrim /mnt && umount /mnt && echo done";
    let done = boot(&home, script, &["--disk", path]);
    done.succeeded();
    assert!(
        console(&done).ends_with("/mnt/f: OK\ndone\n"),
        "{}",
        done.story()
    );
    let used = std::os::unix::fs::MetadataExt::blocks(&fs::metadata(&disk).unwrap()) * 512;
    assert!(
        used < 16 << 20,
        "{used} bytes are still allocated after the trim"
    );
    Program::new("e2fsck").args(["-fn", path]).run().succeeded();

    let done = boot(
        &home,
        "dd if=/dev/zero of=/dev/vda bs=512 count=1 2>/dev/null || echo refused",
        &["--disk", &format!("{path},ro")],
    );
    assert_eq!(console(&done), "refused\n", "{}", done.story());
}

#[test]
fn persistent_memory_is_the_file() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    let image = home.path().join("image");
    let bytes: Vec<u8> = (0..3_000_000u32).flat_map(|n| n.to_le_bytes()).collect();
    fs::write(&image, &bytes).unwrap();
    let script = format!(
        "head -c {} /dev/pmem0 | sha256sum | cut -d' ' -f1",
        bytes.len()
    );
    let done = boot(&home, &script, &["--pmem", image.to_str().unwrap()]);
    let sum = Command::new("sha256sum").arg(&image).output().unwrap();
    let sum = String::from_utf8(sum.stdout).unwrap();
    assert_eq!(
        console(&done).trim(),
        sum.split(' ').next().unwrap(),
        "{}",
        done.story()
    );

    // Who writes meets the machine's own copy; neither the file nor the machine comes to harm.
    let script = "dd if=/dev/zero of=/dev/pmem0 bs=4096 count=10 2>/dev/null; echo alive";
    let done = boot(&home, script, &["--pmem", image.to_str().unwrap()]);
    done.succeeded();
    assert_eq!(console(&done), "alive\n");
    assert!(
        fs::read(&image).unwrap() == bytes,
        "the guest wrote to the image"
    );
}

#[test]
fn a_directory_is_shared() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    let dir = home.path().join("shared");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("f"), "from host\n").unwrap();
    let script = "mount -t virtiofs tag /mnt && cat /mnt/f && for i in $(seq 300); do echo $i > /mnt/n$i; done; \
                  ls /mnt | wc -l; cat /mnt/n* | wc -l; rm /mnt/n*; mkdir /mnt/d && mv /mnt/f /mnt/d/g";
    let done = boot(&home, script, &["--fs", &format!("tag={}", dir.display())]);
    done.succeeded();
    assert_eq!(console(&done), "from host\n301\n300\n", "{}", done.story());
    assert_eq!(fs::read_to_string(dir.join("d/g")).unwrap(), "from host\n");
}

#[test]
fn the_random_device_and_the_balloon_are_there() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    let script = "cat /sys/class/misc/hw_random/rng_current; head -c 16 /dev/hwrng | wc -c; \
                  ls /sys/bus/virtio/drivers/virtio_balloon | grep -c ^virtio";
    let done = boot(&home, script, &[]);
    assert_eq!(console(&done), "virtio_rng.0\n16\n1\n", "{}", done.story());
}

#[test]
fn every_device_at_once() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    let at = |name: &str| home.path().join(name).to_str().unwrap().to_owned();
    for image in ["disk.img", "pmem.img"] {
        fs::write(at(image), vec![b'x'; 1 << 20]).unwrap();
    }
    let (disk, pmem, socket) = (at("disk.img"), at("pmem.img"), at("vsock"));
    let fs_flag = format!("home={}", home.path().display());
    let script = "head -c 1 /dev/vda; head -c 1 /dev/pmem0; echo; mount -t virtiofs home /mnt && \
                  test -S /mnt/vsock && ls /sys/bus/virtio/drivers/*/ | grep -c ^virtio[0-9]";
    let flags = ["--memory", "128", "--cpus", "1", "--disk", &disk];
    let more = ["--pmem", &pmem, "--fs", &fs_flag, "--vsock", &socket];
    let done = boot(&home, script, &[flags, more].concat());
    done.succeeded();
    assert_eq!(console(&done), "xx\n6\n", "{}", done.story());
    assert!(!home.path().join("vsock").exists(), "the socket is left");
    home.assert_clean();
}

/// 1,000,000 bytes each way where 200,000 go at once, and then as many in a second.
#[test]
fn a_rate_is_kept_each_way() {
    const LEN: usize = 1_000_000;
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    if !rustix::process::geteuid().is_root() {
        return skip("making a tap needs root");
    }
    let _tap = TestTap::new(1500);
    let listener = TcpListener::bind("192.0.2.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let took = std::thread::spawn(move || {
        let (mut to_guest, _) = listener.accept().unwrap();
        let started = Instant::now();
        to_guest.write_all(&vec![0; LEN]).unwrap();
        to_guest.shutdown(Shutdown::Write).unwrap();
        // The guest speaks when it has all.
        let (mut from_guest, _) = listener.accept().unwrap();
        let first = started.elapsed();
        let came = std::io::copy(&mut from_guest, &mut std::io::sink()).unwrap();
        assert_eq!(came, LEN as u64);
        [first, started.elapsed() - first]
    });
    let script = format!(
        "ip addr add 192.0.2.2/24 dev eth0; ip link set eth0 up; \
         nc 192.0.2.1 {port} </dev/null | wc -c; head -c {LEN} /dev/zero | nc 192.0.2.1 {port}"
    );
    let net = format!("tap={},rate=200000", TestTap::NAME);
    let done = boot(&home, &script, &["--net", &net]);
    done.succeeded();
    assert_eq!(console(&done), format!("{LEN}\n"), "{}", done.story());
    for took in took.join().unwrap() {
        // The last frame, of 64 KiB at most, goes when there are tokens for its beginning.
        assert!(took >= Duration::from_millis(3600), "{took:?}");
    }
}

#[test]
fn a_monitor_that_is_told_to_stop_takes_its_socket_along() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    let socket = home.path().join("vsock");
    let flags = ["--vsock", socket.to_str().unwrap()];
    for signal in [Signal::TERM, Signal::KILL] {
        let mut child = program(&home, "echo up; sleep 1000", &flags)
            .into_command()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut console = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        while !line.ends_with("up\r\n") {
            assert_ne!(console.read_line(&mut line).unwrap(), 0, "{line}");
        }
        assert!(socket.exists());
        kill_process(Pid::from_child(&child), signal).unwrap();
        child.wait().unwrap();
        // Whoever clears up has the console open until it has.
        std::io::copy(&mut console, &mut std::io::sink()).unwrap();
        assert!(!socket.exists(), "the socket is left");
        home.assert_clean();
    }
}

#[test]
fn a_panic_is_named() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    let done = boot(&home, "echo c > /proc/sysrq-trigger; exit 1", &[]);
    done.exited(1)
        .complains(&["the guest kernel panicked: Kernel panic - not syncing"]);
}

#[test]
fn an_image_that_another_machine_writes_is_refused() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    let disk = home.path().join("disk.img");
    let file = fs::File::create(&disk).unwrap();
    file.set_len(1 << 20).unwrap();
    file.lock().unwrap();
    let done = boot(&home, "true", &["--disk", disk.to_str().unwrap()]);
    done.exited(1).complains(&["disk.img"]);
}

#[test]
fn files_that_are_none() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    home.vmm(["--kernel", "/nonexistent"])
        .run()
        .exited(1)
        .complains(&["kernel", "/nonexistent"]);
    home.vmm(["--kernel", "/etc/passwd"])
        .run()
        .exited(1)
        .complains(&["no Linux kernel"]);
    let kernel = place::staged().join("vmlinux");
    let kernel = kernel.to_str().unwrap();
    let flags: [(&[&str], &str); 4] = [
        (&["--disk", "/nonexistent"], "/nonexistent"),
        (&["--pmem", "/nonexistent"], "/nonexistent"),
        (&["--fs", "t=/nonexistent"], "/nonexistent"),
        (&["--initrd", "/nonexistent"], "/nonexistent"),
    ];
    for (args, words) in flags {
        home.vmm(["--kernel", kernel])
            .args(args)
            .run()
            .exited(1)
            .complains(&[words]);
    }
}
