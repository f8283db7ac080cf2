// SPDX-License-Identifier: Apache-2.0
//! What is wrong with a command line, in Docker's words.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};

/// The verb that was meant, with those below it: `container prune`.
fn verb(command: &clap::Command, args: &[OsString]) -> Option<String> {
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
    (!words.is_empty()).then(|| words.join(" "))
}

/// A command line that can't be understood, or one that asks for help.
#[derive(Debug)]
pub struct UsageError {
    inner: clap::Error,
    verb: Option<String>,
}

impl UsageError {
    pub(super) fn new(inner: clap::Error, command: &clap::Command, args: &[OsString]) -> Self {
        Self {
            inner,
            verb: verb(command, args),
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

    /// An unknown verb is 1 to Docker; a wrong flag is 125.
    pub fn exit_code(&self) -> u8 {
        match self.inner.kind() {
            ErrorKind::DisplayHelp
            | ErrorKind::DisplayVersion
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => 0,
            ErrorKind::InvalidSubcommand | ErrorKind::MissingSubcommand => 1,
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
                format!("'{}' is not a walnut command", verb.unwrap_or_default())
            }
            ErrorKind::MissingRequiredArgument => {
                format!(
                    "\"walnut {}\" requires at least 1 argument",
                    self.verb.as_deref().unwrap_or_default()
                )
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
