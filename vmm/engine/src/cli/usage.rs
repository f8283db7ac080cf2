// SPDX-License-Identifier: Apache-2.0
//! What is wrong with a command line, in Docker's words.

use std::ffi::OsString;

use clap::ArgAction;
use clap::error::{ContextKind, ContextValue, ErrorKind};

/// The verb that was meant, with those below it: `container prune`; and how it is defined.
fn verb<'a>(command: &'a clap::Command, args: &[OsString]) -> Option<(String, &'a clap::Command)> {
    let mut known = command;
    let mut words: Vec<&str> = Vec::new();
    for arg in args.iter().skip(1) {
        let below = arg.to_str().and_then(|arg| known.find_subcommand(arg));
        match below {
            Some(below) => {
                words.push(below.get_name());
                known = below;
            }
            // What follows a verb is its own.
            None if !words.is_empty() => break,
            None => {}
        }
    }
    (!words.is_empty()).then(|| (words.join(" "), known))
}

/// How many arguments a verb takes, in Docker's words.
fn wants(verb: &clap::Command) -> String {
    let all: Vec<&clap::Arg> = verb.get_positionals().collect();
    let least = all.iter().filter(|arg| arg.is_required_set()).count();
    let is_open = |arg: &&clap::Arg| matches!(arg.get_action(), ArgAction::Append);
    let arguments = |count| format!("{count} argument{}", if count == 1 { "" } else { "s" });
    match (least, all.len()) {
        // `run` can do without an image, which few know.
        (least, _) if all.iter().any(is_open) => {
            format!("requires at least {}", arguments(least.max(1)))
        }
        (0, 0) => "accepts no arguments".to_owned(),
        (least, most) if least == most => format!("requires exactly {}", arguments(most)),
        (0, most) => format!("requires at most {}", arguments(most)),
        (least, most) => format!("requires at least {least} and at most {}", arguments(most)),
    }
}

/// What to do about a verb of Docker's that there is none of.
fn instead(verb: &str) -> &'static str {
    match verb {
        "build" | "builder" | "buildx" => {
            ": others build images, such as podman or buildah; walnut takes them by pull and load"
        }
        "compose" | "stack" | "swarm" | "service" => ": it runs one container at a time",
        "context" => ": there is no daemon, here or elsewhere, to choose from",
        _ => "",
    }
}

/// A command line that can't be understood, or one that asks for help.
#[derive(Debug)]
pub struct UsageError {
    inner: clap::Error,
    verb: Option<String>,
    wants: String,
}

impl UsageError {
    pub(super) fn new(inner: clap::Error, command: &clap::Command, args: &[OsString]) -> Self {
        let verb = verb(command, args);
        Self {
            inner,
            wants: verb
                .as_ref()
                .map_or_else(String::new, |(_, verb)| wants(verb)),
            verb: verb.map(|(words, _)| words),
        }
    }

    /// `--help` and `--version` (to stdout), or a bare `walnut`: for clap to print.
    pub fn as_help(&self) -> Option<&clap::Error> {
        let help = [
            ErrorKind::DisplayHelp,
            ErrorKind::DisplayVersion,
            ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand,
        ];
        help.contains(&self.inner.kind()).then_some(&self.inner)
    }

    /// One argument too many, or too few.
    fn is_of_number(&self) -> bool {
        match self.inner.kind() {
            ErrorKind::MissingRequiredArgument => true,
            ErrorKind::UnknownArgument => {
                let arg = self.context(ContextKind::InvalidArg);
                arg.is_some_and(|arg| !arg.starts_with('-'))
            }
            _ => false,
        }
    }

    /// An unknown verb, or the wrong number of arguments, is 1 to Docker; a wrong flag is 125.
    pub fn exit_code(&self) -> u8 {
        match self.inner.kind() {
            ErrorKind::DisplayHelp
            | ErrorKind::DisplayVersion
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => 0,
            ErrorKind::InvalidSubcommand | ErrorKind::MissingSubcommand => 1,
            _ if self.is_of_number() => 1,
            _ => 125,
        }
    }

    fn context(&self, kind: ContextKind) -> Option<&str> {
        match self.inner.get(kind)? {
            ContextValue::String(text) => Some(text),
            ContextValue::Strings(texts) => texts.first().map(String::as_str),
            _ => None,
        }
    }

    /// `--memory <SIZE>` becomes `-m, --memory`, as pflag names a flag; `[CMD]...` stays.
    fn flag(&self) -> String {
        let arg = self.context(ContextKind::InvalidArg).unwrap_or_default();
        let arg = arg.split(['=', ' ', '[']).next().unwrap_or(arg);
        match arg.strip_prefix("--").and_then(super::run::short_of) {
            Some(short) => format!("-{short}, {arg}"),
            None => arg.to_owned(),
        }
    }

    fn words(&self) -> String {
        let value = self.context(ContextKind::InvalidValue).unwrap_or_default();
        match self.inner.kind() {
            _ if self.is_of_number() => {
                let verb = self.verb.as_deref().unwrap_or_default();
                format!("\"walnut {verb}\" {}", self.wants)
            }
            ErrorKind::UnknownArgument => {
                let arg = self.context(ContextKind::InvalidArg).unwrap_or_default();
                match arg.strip_prefix('-') {
                    Some(short) if !short.starts_with('-') => {
                        let letter = short.chars().next().unwrap_or('-');
                        format!("unknown shorthand flag: '{letter}' in {arg}")
                    }
                    _ => format!("unknown flag: {}", arg.split('=').next().unwrap_or(arg)),
                }
            }
            ErrorKind::InvalidSubcommand => {
                let verb = self.context(ContextKind::InvalidSubcommand);
                let verb = verb.unwrap_or_default();
                format!("'{verb}' is not a walnut command{}", instead(verb))
            }
            ErrorKind::ValueValidation => {
                let cause = std::error::Error::source(&self.inner).map(ToString::to_string);
                let cause = cause.unwrap_or_else(|| "invalid value".to_owned());
                format!(
                    "invalid argument \"{value}\" for \"{}\" flag: {cause}",
                    self.flag()
                )
            }
            ErrorKind::InvalidValue if value.is_empty() => {
                format!("flag needs an argument: {}", self.flag())
            }
            ErrorKind::TooManyValues => format!(
                "invalid argument \"{value}\" for \"{}\" flag: it is true or false",
                self.flag()
            ),
            ErrorKind::InvalidValue => {
                format!("invalid argument \"{value}\" for \"{}\" flag", self.flag())
            }
            ErrorKind::InvalidUtf8 => "an argument is not valid UTF-8".to_owned(),
            _ => {
                let text = self.inner.to_string();
                let line = text.lines().next().unwrap_or_default();
                line.strip_prefix("error: ").unwrap_or(line).to_owned()
            }
        }
    }
}

impl std::fmt::Display for UsageError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.verb {
            Some(verb) => write!(f, "{}; see 'walnut {verb} --help'", self.words()),
            None => write!(f, "{}; see 'walnut --help'", self.words()),
        }
    }
}

impl std::error::Error for UsageError {}
