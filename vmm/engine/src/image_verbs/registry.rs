// SPDX-License-Identifier: Apache-2.0
//! `walnut pull`, `push`, `login` and `logout`, and what `run` does where an image is missing.

use std::io::{self, BufRead, IsTerminal, Write};
use std::sync::Arc;

use walnut_registry::{Credential, credentials};

use super::report::Report;
use super::{VerbError, print_lines};
use crate::cli::image::{LoginArgs, LogoutArgs, PullArgs, PushArgs};
use crate::events::Event;
use crate::image::{
    DEFAULT_REGISTRY, HUB, Name, Platform, Pulled, Quiet, Store, Stored, connect, connect_to,
};
use crate::paths::Paths;

pub(super) fn pull(args: &PullArgs, store: &Store, paths: &Paths) -> Result<(), VerbError> {
    let name: Name = args.image.parse()?;
    let quiet = args.quiet;
    let typed_version = args.image.contains('@')
        || args
            .image
            .rsplit('/')
            .next()
            .is_some_and(|last| last.contains(':'));
    if !quiet && !typed_version {
        print_lines(["Using default tag: latest".to_owned()])?;
    }
    let report = match quiet {
        true => Report::quiet(),
        false => Report::to_stdout(),
    };
    let platform = Platform::wanted(args.platform.as_deref())?;
    pull_image(store, &name, &platform, args.tls.verify, report.into())?;
    Event::image(&name, name.familiar_repository(), "pull").emit(paths);
    print_lines([name.canonical()])
}

/// For `run` and `create`: told on stderr, where no output of a container's can be meant, and not
/// before the registry has answered.
pub fn pull_missing(
    store: &Store,
    name: &Name,
    platform: &Platform,
    paths: &Paths,
) -> Result<(), VerbError> {
    let report = Report::to_stderr();
    if store.look_up(&Stored::Name(name.clone())).is_err() {
        report.hold(format!("Unable to find image '{name}' locally"));
    }
    pull_image(store, name, platform, true, report.into())?;
    Event::image(name, name.familiar_repository(), "pull").emit(paths);
    Ok(())
}

fn pull_image(
    store: &Store,
    name: &Name,
    platform: &Platform,
    tls_verify: bool,
    report: Arc<Report>,
) -> Result<Pulled, VerbError> {
    let registry = connect(name, tls_verify, find(name.registry())?)?;
    let version = name.tag().map_or_else(|| name.version(), str::to_owned);
    report.hold(format!("{version}: Pulling from {}", name.repository()));
    let tell = Arc::clone(&report).of_layers();
    let pulled = store.pull(&registry, name, platform, &tell, &mut Quiet)?;
    report.line(&format!("Digest: {}", pulled.digest));
    report.line(&match pulled.new {
        true => format!("Status: Downloaded newer image for {name}"),
        false => format!("Status: Image is up to date for {name}"),
    });
    Ok(pulled)
}

pub(super) fn push(args: &PushArgs, store: &Store, paths: &Paths) -> Result<(), VerbError> {
    let name: Name = args.image.parse()?;
    let registry = connect(&name, args.tls.verify, find(name.registry())?)?;
    let report = Arc::new(match args.quiet {
        true => Report::quiet(),
        false => Report::to_stdout(),
    });
    report.line(&format!(
        "The push refers to repository [{}/{}]",
        name.registry(),
        name.repository()
    ));
    let (digest, size) = store.push(&registry, &name, &report.of_layers())?;
    Event::image(&name, name.familiar_repository(), "push").emit(paths);
    match args.quiet {
        true => print_lines([name.canonical()]),
        false => print_lines([format!(
            "{}: digest: {digest} size: {size}",
            name.tag().unwrap_or_default()
        )]),
    }
}

fn find(registry: &str) -> Result<Option<Credential>, VerbError> {
    let server = credentials::server(registry, DEFAULT_REGISTRY);
    match credentials::find(&server) {
        // An image that anybody may have needs no home.
        Err(credentials::CredentialError::NoHome) => Ok(None),
        found => Ok(found?),
    }
}

/// The registry of `localhost:5000`, as it stands.
fn registry_of(args: Option<&str>) -> String {
    let text = args.unwrap_or(DEFAULT_REGISTRY);
    let text = text.split_once("://").map_or(text, |(_, rest)| rest);
    let host = text.split('/').next().unwrap_or(text);
    match host {
        "index.docker.io" | HUB => DEFAULT_REGISTRY.to_owned(),
        host => host.to_owned(),
    }
}

pub(super) fn login(args: &LoginArgs) -> Result<(), VerbError> {
    let registry = registry_of(args.server.as_deref());
    let user = match &args.username {
        Some(user) => user.clone(),
        None if io::stdin().is_terminal() => ask("Username: ", true)?,
        None => return Err(VerbError::NoUser),
    };
    let password = match (&args.password, args.password_stdin) {
        (Some(password), false) => password.clone(),
        (None, true) => {
            let mut text = String::new();
            io::Read::read_to_string(&mut io::stdin(), &mut text)?;
            text.trim_end_matches(['\n', '\r']).to_owned()
        }
        (Some(_), true) => return Err(VerbError::TwoPasswords),
        (None, false) if io::stdin().is_terminal() => ask("Password: ", false)?,
        (None, false) => return Err(VerbError::NoPassword),
    };
    let connection = connect_to(&registry, args.tls.verify, None)?;
    walnut_registry::login(&connection, &user, &password)?;
    let server = credentials::server(&registry, DEFAULT_REGISTRY);
    credentials::store(&server, &user, &password)?;
    print_lines(["Login Succeeded".to_owned()])
}

pub(super) fn logout(args: &LogoutArgs) -> Result<(), VerbError> {
    let registry = registry_of(args.server.as_deref());
    let server = credentials::server(&registry, DEFAULT_REGISTRY);
    let had = credentials::erase(&server)?;
    print_lines([match had {
        true => format!("Removing login credentials for {server}"),
        false => format!("Not logged in to {server}"),
    }])
}

/// What is typed at the terminal; a password unseen.
fn ask(prompt: &str, shown: bool) -> io::Result<String> {
    use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
    io::stdout().write_all(prompt.as_bytes())?;
    io::stdout().flush()?;
    let stdin = io::stdin();
    let before = tcgetattr(&stdin)?;
    if !shown {
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(&stdin, OptionalActions::Flush, &silent)?;
    }
    let mut text = String::new();
    let read = stdin.lock().read_line(&mut text);
    if !shown {
        tcsetattr(&stdin, OptionalActions::Flush, &before)?;
        io::stdout().write_all(b"\n")?;
    }
    read?;
    Ok(text.trim_end_matches(['\n', '\r']).to_owned())
}
