// SPDX-License-Identifier: Apache-2.0
//! `walnut run -it` on a real terminal: a pty whose other end is this test.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::pty::OpenptFlags;
use rustix::termios::{Termios, Winsize, tcgetattr, tcsetwinsize};
use walnut_tests::harness::{Home, skip};

const NO_KVM: &str = "no KVM that runs a stock kernel";

/// A `walnut run --rm -it` and the user before it.
struct Session {
    child: Child,
    keyboard: File,
    screen: Receiver<Vec<u8>>,
    seen: String,
    /// What came before the words that were waited for.
    skipped: String,
    tty: OwnedFd,
    before: Termios,
}

impl Session {
    fn start(home: &Home, command: &[&str]) -> Self {
        let image = home.busybox();
        let line = ["run", "--rm", "-it", &image];
        Self::of(home, &[&line, command].concat())
    }

    /// `walnut LINE`.
    fn of(home: &Home, line: &[&str]) -> Self {
        let master = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        rustix::pty::grantpt(&master).unwrap();
        rustix::pty::unlockpt(&master).unwrap();
        let name = rustix::pty::ptsname(&master, Vec::new()).unwrap();
        let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY;
        let tty = rustix::fs::open(&name, flags, rustix::fs::Mode::empty()).unwrap();
        size(&master, 33, 101);
        let before = tcgetattr(&tty).unwrap();
        let stdio = || Stdio::from(tty.try_clone().unwrap());
        let child = home
            .walnut(line)
            .into_command()
            .stdin(stdio())
            .stdout(stdio())
            .stderr(stdio())
            .spawn()
            .unwrap();
        let keyboard = File::from(master);
        let mut reader = keyboard.try_clone().unwrap();
        let (send, screen) = channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(len @ 1..) = reader.read(&mut buffer) {
                if send.send(buffer[..len].to_vec()).is_err() {
                    break;
                }
            }
        });
        Self {
            child,
            keyboard,
            screen,
            seen: String::new(),
            skipped: String::new(),
            tty,
            before,
        }
    }

    fn type_in(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until `words` have appeared since the last ones that were waited for.
    fn expect(&mut self, words: &str) {
        let deadline = Instant::now() + Duration::from_secs(90);
        loop {
            if let Some(at) = self.seen.find(words) {
                self.skipped = self.seen[..at].to_owned();
                self.seen.drain(..at + words.len());
                return;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match self.screen.recv_timeout(left) {
                Ok(bytes) => self.seen.push_str(&String::from_utf8_lossy(&bytes)),
                Err(error) => panic!("{error}: no {words:?} in {:?}", self.seen),
            }
        }
    }

    /// The exit code; the terminal is as it was.
    fn end(mut self) -> Option<i32> {
        let code = self.child.wait().unwrap().code();
        let after = tcgetattr(&self.tty).unwrap();
        assert_eq!(
            after.local_modes, self.before.local_modes,
            "the terminal is restored"
        );
        assert_eq!(
            after.input_modes, self.before.input_modes,
            "the terminal is restored"
        );
        assert_eq!(
            after.output_modes, self.before.output_modes,
            "the terminal is restored"
        );
        code
    }
}

fn size(master: &impl std::os::fd::AsFd, ws_row: u16, ws_col: u16) {
    tcsetwinsize(
        master,
        Winsize {
            ws_row,
            ws_col,
            ws_xpixel: 0,
            ws_ypixel: 0,
        },
    )
    .unwrap();
}

#[test]
fn a_shell_on_a_terminal() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    let mut session = Session::start(&home, &["sh"]);
    session.expect("/ # ");
    session.type_in("stty size; tty\r");
    session.expect("33 101");
    session.expect("/dev/");
    session.expect("/ # ");
    // ^C is the container's: it ends the sleep, not the shell, and not walnut.
    session.type_in("sh -c 'echo go\"\"ing; exec sleep 1000'\r");
    session.expect("going");
    session.type_in("\x03");
    session.expect("/ # ");
    session.type_in("echo status=$?\r");
    session.expect("status=130");
    session.expect("/ # ");
    // Job control. Before it is another program, a shell's child ignores what ends it.
    session
        .type_in("sleep 1000 & jobs; until grep -q sleep /proc/$!/comm; do usleep 10000; done\r");
    session.expect("Running");
    session.expect("/ # ");
    session.type_in("kill %1; wait; echo jobs-done\r");
    session.expect("\njobs-done");
    session.expect("/ # ");
    // ^Z stops what is in front, and it goes on when it is told.
    session.type_in("sh -c 'echo runn\"\"ing; sleep 1000'\r");
    session.expect("running");
    session.type_in("\x1a");
    session.expect("Stopped");
    session.expect("/ # ");
    session.type_in("kill %1; fg; echo on=$?\r");
    session.expect("on=143");
    session.expect("/ # ");
    session.type_in("exit 4\r");
    assert_eq!(session.end(), Some(4));
    home.assert_clean();
}

#[test]
fn nothing_but_the_containers_own_words_reaches_the_screen() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    // A title that the container sets comes through; walnut sets none, and no color.
    let mut session = Session::start(&home, &["printf", "\\033]0;its own\\007here\n"]);
    session.expect("here\r\n");
    assert_eq!(session.skipped, "\x1b]0;its own\x07");
    session.child.wait().unwrap();
    // Whatever else was written is read before this.
    rustix::io::write(&session.tty, b"end").unwrap();
    session.expect("end");
    assert_eq!(session.skipped, "");
    assert_eq!(session.end(), Some(0));
    home.assert_clean();
}

#[test]
fn end_of_file_ends_the_shell() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    let mut session = Session::start(&home, &["sh"]);
    session.expect("/ # ");
    session.type_in("\x04");
    assert_eq!(session.end(), Some(0));
    home.assert_clean();
}

#[test]
fn a_new_size_reaches_the_container() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    let script = "trap 'stty size; exit 0' WINCH; echo ready; while :; do sleep 1000 & wait; done";
    let mut session = Session::start(&home, &["sh", "-c", script]);
    session.expect("ready");
    size(&session.keyboard, 44, 132);
    // The pty has no process group in the foreground here to tell: the terminal's driver would.
    let pid = rustix::process::Pid::from_child(&session.child);
    rustix::process::kill_process(pid, rustix::process::Signal::WINCH).unwrap();
    session.expect("44 132");
    assert_eq!(session.end(), Some(0));
    home.assert_clean();
}

#[test]
fn without_a_terminal_it_is_refused() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    let done = home
        .walnut(["run", "--rm", "-it", &home.busybox(), "sh"])
        .run();
    done.exited(1).complains(&["the input device is not a TTY"]);
}

#[test]
fn the_detach_keys_leave_it_running() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    let mut session = Session::start(&home, &["sh"]);
    session.expect("/ # ");
    session.type_in("\x10\x11");
    assert_eq!(session.end(), Some(0));
    let id = home.says(&["ps", "-q"]);
    assert_eq!(id.len(), 12, "one runs still: {id}");
    home.walnut(["attach", &id])
        .run()
        .exited(1)
        .complains(&["the input device is not a TTY"]);
    home.walnut(["kill", &id]).run().succeeded();
    assert_eq!(home.says(&["ps", "-aq"]), "", "it was run with --rm");
    home.assert_clean();
}

#[test]
fn other_keys_to_leave_by() {
    let Some(home) = Home::new() else {
        return skip(NO_KVM);
    };
    let image = home.busybox();
    let keys = ["run", "-it", "--name", "box", "--detach-keys", "ctrl-x,d"];
    let mut session = Session::of(&home, &[&keys[..], &[&image, "sh"]].concat());
    session.expect("/ # ");
    // What only begins like them is the shell's.
    session.type_in("sh -c 'echo go\"\"ing; exec cat'\r");
    session.expect("going");
    session.type_in("a\x18b\r");
    session.expect("a\x18b\r\n");
    session.type_in("\x04");
    session.expect("/ # ");
    session.type_in("\x18d");
    assert_eq!(session.end(), Some(0));
    let attach = ["attach", "--detach-keys", "ctrl-a", "box"];
    let mut session = Session::of(&home, &attach);
    session.type_in("echo on\"\"ce more\r");
    session.expect("once more");
    session.type_in("\x01");
    assert_eq!(session.end(), Some(0));
    let none = ["attach", "--detach-keys", "ctrl-!", "box"];
    home.walnut(none).run().exited(1).complains(&["ctrl-!"]);
    home.remove_all();
    home.assert_clean();
}
