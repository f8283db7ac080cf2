// SPDX-License-Identifier: Apache-2.0
//! Who may talk to whom: certificates, passwords, tokens.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output, Stdio};

use crate::hostile::Hostile;
use crate::real::{PASSWORD, Registry, USER};
use crate::{Home, text};

/// With `password` on standard input.
fn login(mut command: Command, password: &str) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(password.as_bytes()).unwrap();
    drop(stdin);
    child.wait_with_output().unwrap()
}

#[test]
fn certificates_count_but_on_this_machine() {
    let Some(registry) = Registry::with_tls() else {
        return;
    };
    let home = Home::new();
    let name = format!("{}/app:1", registry.host());
    home.publish(&name, 10_000);
    let strict = format!("{}/app:1", registry.strict_host());
    let there = Home::new();
    there.fails(
        &["pull", &strict],
        "its certificate is signed by an authority unknown here",
    );
    there.ok(&["pull", "--tls-verify=false", &strict]);
    let mut pull = Home::new().command(&["pull", &strict]);
    pull.env("SSL_CERT_FILE", registry.authority());
    let done = pull.output().unwrap();
    assert!(done.status.success(), "{}", text(&done.stderr));
}

#[test]
fn a_password_is_asked_for_and_kept() {
    let Some(registry) = Registry::with_password() else {
        return;
    };
    let home = Home::new();
    let host = registry.host();
    let name = format!("{host}/me/app:1");
    home.import(&name, 10_000);
    home.fails(&["push", &name], "unauthorized: authentication required");
    home.fails(&["pull", &name], "pull access denied for");
    let args = ["login", "-u", USER, "--password-stdin", &host];
    let wrong = login(home.command(&args), "wrong");
    assert_eq!(wrong.status.code(), Some(1));
    assert!(text(&wrong.stderr).contains("unauthorized: incorrect username or password"));
    let right = login(home.command(&args), PASSWORD);
    assert_eq!(text(&right.stdout), "Login Succeeded\n");
    home.ok(&["push", &name]);
    home.ok(&["rmi", &name]);
    home.ok(&["pull", &name]);
    let config = home.0.path().join("config.json");
    let mode = std::fs::metadata(&config).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let said = home.ok(&["logout", &host]);
    assert_eq!(said, format!("Removing login credentials for {host}\n"));
    home.fails(&["pull", &name], "pull access denied for");
}

/// Keeps what it is given in files beside itself, as the protocol of credential helpers has it.
const HELPER: &str = r#"#!/bin/sh
cd "$(dirname "$0")"
case $1 in
store) cat > kept ;;
get) if [ -f kept ]; then cat kept; else echo 'credentials not found in native keychain'; exit 1; fi ;;
erase) cat > /dev/null; rm -f kept ;;
esac
"#;

#[test]
fn a_credential_helper_keeps_the_password() {
    let Some(registry) = Registry::with_password() else {
        return;
    };
    let home = Home::new();
    let host = registry.host();
    let bin = home.0.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    let helper = bin.join("docker-credential-files");
    std::fs::write(&helper, HELPER).unwrap();
    std::fs::set_permissions(&helper, PermissionsExt::from_mode(0o755)).unwrap();
    let config = home.0.path().join("config.json");
    std::fs::write(&config, r#"{"credsStore": "files"}"#).unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let command = |args: &[&str]| {
        let mut command = home.command(args);
        command.env("PATH", &path);
        command
    };
    let args = ["login", "-u", USER, "--password-stdin", &host];
    let done = login(command(&args), PASSWORD);
    assert!(done.status.success(), "{}", text(&done.stderr));
    assert!(
        !std::fs::read_to_string(&config)
            .unwrap()
            .contains("\"auth\"")
    );
    assert!(bin.join("kept").exists());
    let name = format!("{host}/app:1");
    home.import(&name, 1000);
    let ok = |args: &[&str]| {
        let done = command(args).output().unwrap();
        assert!(done.status.success(), "{args:?}: {}", text(&done.stderr));
    };
    ok(&["push", &name]);
    ok(&["logout", &host]);
    assert!(!bin.join("kept").exists());
    let done = command(&["pull", &name]).output().unwrap();
    assert!(text(&done.stderr).contains("pull access denied for"));
}

#[test]
fn a_token_is_fetched_where_one_is_wanted() {
    let home = Home::new();
    home.import("app", 1000);
    let hostile = Hostile::serve(&home, "app");
    Home::new().ok(&["pull", &hostile.image("token")]);
    assert_eq!(hostile.tokens(), 1);
}

#[test]
fn a_machine_without_certificates_has_its_own_registries() {
    let home = Home::new();
    home.import("app", 1000);
    let hostile = Hostile::serve(&home, "app");
    let pull = |image: &str| {
        let mut pull = Home::new().command(&["pull", image]);
        pull.env("SSL_CERT_FILE", "/nonexistent")
            .env("SSL_CERT_DIR", "/nonexistent");
        pull.output().unwrap()
    };
    let done = pull(&hostile.image("plain"));
    assert!(done.status.success(), "{}", text(&done.stderr));
    let done = pull("127.1:1/app");
    assert_eq!(done.status.code(), Some(1), "{}", text(&done.stderr));
    assert!(text(&done.stderr).contains("are ca-certificates installed?"));
}

#[test]
fn tokens_are_had_for_what_is_done() {
    let Some(registry) = Registry::with_tokens() else {
        return;
    };
    let home = Home::new();
    let host = registry.host();
    let name = format!("{host}/me/app:1");
    home.import(&name, 10_000);
    home.fails(&["push", &name], "unauthorized");
    let args = ["login", "-u", USER, "--password-stdin", &host];
    let done = login(home.command(&args), PASSWORD);
    assert_eq!(
        text(&done.stdout),
        "Login Succeeded\n",
        "{}",
        text(&done.stderr)
    );
    home.ok(&["push", &name]);
    home.ok(&["rmi", &name]);
    home.ok(&["pull", &name]);
    // Without a password, too.
    Home::new().ok(&["pull", &name]);
    let other = format!("{host}/other/app:2");
    home.ok(&["tag", &name, &other]);
    home.ok(&["push", &other]);
}
