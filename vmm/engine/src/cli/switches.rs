// SPDX-License-Identifier: Apache-2.0
//! `--rm=true`, `-d=false`: Docker takes a word behind each flag that else takes none.

use std::ffi::OsString;

use clap::builder::BoolishValueParser;
use clap::{Arg, ArgAction, Command};

/// The definition, such that switches take words if there may be one. It then is of all verbs:
/// hardly anybody says it this way, and all others should not pay for it.
pub(super) fn understood(command: Command, args: &[OsString]) -> Command {
    let mut command = command;
    if !args.iter().any(has_word) {
        return command;
    }
    command.build();
    taking_words(command)
}

/// `-f=true`, `--flag=0`.
fn has_word(arg: &OsString) -> bool {
    let parts = arg.to_str().and_then(|arg| arg.split_once('='));
    let word = parts.filter(|(flag, _)| flag.starts_with('-'));
    let word = word.map(|(_, word)| word.to_ascii_lowercase());
    word.is_some_and(|word| matches!(&*word, "true" | "t" | "1" | "false" | "f" | "0"))
}

fn taking_words(command: Command) -> Command {
    let taking = |arg: Arg| match arg.get_action() {
        ArgAction::SetTrue => arg
            .action(ArgAction::Set)
            .num_args(0..=1)
            .require_equals(true)
            .default_value("false")
            .default_missing_value("true")
            .value_parser(BoolishValueParser::new()),
        _ => arg,
    };
    command.mut_args(taking).mut_subcommands(taking_words)
}
