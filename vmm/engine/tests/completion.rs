// SPDX-License-Identifier: Apache-2.0
//! Completion, as shells do it when the tab key is pressed.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::path::{Path, PathBuf};
use std::process::Command;

/// A completion script in a directory of its own, which also has `walnut` on the `PATH`.
fn script(shell: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let walnut = env!("CARGO_BIN_EXE_walnut");
    let done = Command::new(walnut).args(["completion", shell]).output();
    let path = dir.path().join("script");
    std::fs::write(&path, done.unwrap().stdout).unwrap();
    std::os::unix::fs::symlink(walnut, dir.path().join("walnut")).unwrap();
    (dir, path)
}

/// What `program ARGS` prints; `None`, loudly, where it is not installed.
fn said(dir: &Path, program: &str, args: &[&str]) -> Option<String> {
    let path = format!("{}:{}", dir.display(), std::env::var("PATH").unwrap());
    let mut command = Command::new(program);
    command
        .args(args)
        .current_dir(dir)
        .env("PATH", path)
        .env("HOME", dir);
    match command.output() {
        Err(error) => {
            eprintln!("SKIPPED: no {program}: {error}");
            None
        }
        Ok(done) => {
            let text = [done.stdout, done.stderr].concat();
            Some(String::from_utf8_lossy(&text).into_owned())
        }
    }
}

#[test]
fn bash_completes() {
    let (dir, _script) = script("bash");
    let press_tab = "source ./script; COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1)); \
         _walnut walnut \"${@: -1}\" \"${@: -2:1}\"; echo \"${COMPREPLY[@]}\"";
    for (line, wanted) in [
        (&["walnut", "pul"][..], "pull\n"),
        (&["walnut", "image", "pru"], "prune\n"),
        (&["walnut", "pull", "--tls"], "--tls-verify\n"),
        (&["walnut", "run", "--entryp"], "--entrypoint\n"),
    ] {
        let args = [&["-c", press_tab, "bash"], line].concat();
        if let Some(said) = said(dir.path(), "bash", &args) {
            assert_eq!(said, wanted, "{line:?}");
        }
    }
}

#[test]
fn fish_completes() {
    let (dir, _script) = script("fish");
    for (line, wanted) in [
        ("walnut pul", "pull\tFetch an image from a registry"),
        ("walnut image pru", "prune\tRemove images that nobody needs"),
        ("walnut pull --tls", "--tls-verify"),
    ] {
        let command = format!("source ./script; complete -C '{line}'");
        if let Some(said) = said(dir.path(), "fish", &["-N", "-c", &command]) {
            assert!(said.starts_with(wanted), "{line}: {said}");
        }
    }
}

#[test]
fn zsh_completes() {
    let (dir, _script) = script("zsh");
    let keys = r#"
        set timeout 30
        spawn -noecho zsh -f
        send "autoload -U compinit; compinit -D; source ./script; echo rea''dy\r"
        expect ready {} timeout { exit 1 }
        foreach {typed wanted} {"walnut pul" "walnut pull" "walnut image pru" "walnut image prune"} {
            send "$typed\t"
            expect $wanted {} timeout { exit 1 }
            send "\025"
        }
        send "exit\r"
        expect eof
        puts "\nall completed"
    "#;
    if said(dir.path(), "zsh", &["--version"]).is_none() {
        return;
    }
    if let Some(said) = said(dir.path(), "expect", &["-c", keys]) {
        assert!(said.ends_with("all completed\n"), "{said}");
    }
}
