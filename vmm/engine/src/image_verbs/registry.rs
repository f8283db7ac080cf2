// SPDX-License-Identifier: Apache-2.0
//! `walnut pull`, `push`, `login` and `logout`, and what `run` does where an image is missing.

use std::io::{self, BufRead, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use walnut_registry::{Credential, credentials};

use super::{VerbError, print_lines};
use crate::cli::image::{LoginArgs, LogoutArgs, PullArgs, PushArgs};
use crate::image::{
    DEFAULT_REGISTRY, Digest, HUB, Name, Platform, Pulled, Quiet, Store, Stored, connect,
    connect_to,
};

pub(super) fn pull(args: &PullArgs, store: &Store) -> Result<(), VerbError> {
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
    let say = move |text: String| {
        if !quiet {
            line(&mut io::stdout(), &text);
        }
    };
    pull_image(store, &name, args.platform.as_deref(), args.tls.verify, say)?;
    print_lines([name.canonical()])
}

/// For `run` and `create`: told on stderr, where no output of a container's can be meant, and not
/// before the registry has answered.
pub fn pull_missing(store: &Store, name: &Name, platform: Option<&str>) -> Result<(), VerbError> {
    let missing = store.look_up(&Stored::Name(name.clone())).is_err();
    let first = missing.then(|| format!("Unable to find image '{name}' locally"));
    let held = Arc::new(Mutex::new(first.into_iter().collect::<Vec<_>>()));
    let begun = AtomicBool::new(false);
    let begun = Arc::new(begun);
    let say = move |text: String| {
        let mut held = held.lock().unwrap_or_else(PoisonError::into_inner);
        held.push(text);
        if begun.swap(true, Ordering::Relaxed) {
            held.drain(..)
                .for_each(|text| line(&mut io::stderr(), &text));
        }
    };
    pull_image(store, name, platform, true, say).map(drop)
}

fn pull_image(
    store: &Store,
    name: &Name,
    platform: Option<&str>,
    tls_verify: bool,
    say: impl Fn(String) + Clone + Send + Sync + 'static,
) -> Result<Pulled, VerbError> {
    let platform = Platform::wanted(platform)?;
    let registry = connect(name, tls_verify, find(name.registry())?)?;
    let version = match (name.tag(), name.digest()) {
        (Some(tag), _) => tag.to_owned(),
        (None, digest) => digest.map(|d| d.to_string()).unwrap_or_default(),
    };
    say(format!("{version}: Pulling from {}", name.repository()));
    let tell = {
        let say = say.clone();
        move |layer: Digest, what: &str| say(format!("{}: {what}", layer.short()))
    };
    let pulled = store.pull(&registry, name, &platform, tell, &mut Quiet)?;
    say(format!("Digest: {}", pulled.digest));
    say(match pulled.new {
        true => format!("Status: Downloaded newer image for {name}"),
        false => format!("Status: Image is up to date for {name}"),
    });
    Ok(pulled)
}

/// Nobody may be left to tell.
fn line(out: &mut dyn Write, text: &str) {
    let _ = out.write_all(format!("{text}\n").as_bytes());
}

pub(super) fn push(args: &PushArgs, store: &Store) -> Result<(), VerbError> {
    let name: Name = args.image.parse()?;
    let registry = connect(&name, args.tls.verify, find(name.registry())?)?;
    let quiet = args.quiet;
    let say = |text: String| {
        if !quiet {
            line(&mut io::stdout(), &text);
        }
    };
    say(format!(
        "The push refers to repository [{}/{}]",
        name.registry(),
        name.repository()
    ));
    let tell = |layer: Digest, what: &str| say(format!("{}: {what}", layer.short()));
    let (digest, size) = store.push(&registry, &name, tell)?;
    match quiet {
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
