// SPDX-License-Identifier: Apache-2.0
//! What is made of the command line's definition: completion for shells, and man pages.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::Cli;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  walnut completion bash > /etc/bash_completion.d/walnut
  walnut completion zsh > ~/.zfunc/_walnut
  walnut completion fish > ~/.config/fish/completions/walnut.fish")]
pub struct CompletionArgs {
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  walnut man-pages /usr/local/share/man/man1")]
pub struct ManPagesArgs {
    /// Where the pages go: one for each verb
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

impl CompletionArgs {
    /// # Errors
    /// Nobody reads the output.
    pub fn print(&self) -> io::Result<()> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "walnut", &mut script);
        io::stdout().write_all(&script)
    }
}

impl ManPagesArgs {
    /// # Errors
    /// The directory can't be written to.
    pub fn write(&self) -> io::Result<()> {
        std::fs::create_dir_all(&self.dir)?;
        clap_mangen::generate_to(Cli::command(), &self.dir)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shell_learns_every_verb() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "walnut", &mut script);
            let script = String::from_utf8(script).unwrap();
            for verb in Cli::command()
                .get_subcommands()
                .filter(|verb| !verb.is_hide_set())
            {
                assert!(
                    script.contains(verb.get_name()),
                    "{shell}: {}",
                    verb.get_name()
                );
            }
        }
    }

    #[test]
    fn every_verb_has_a_page() {
        let dir = tempfile::tempdir().unwrap();
        let args = ManPagesArgs {
            dir: dir.path().join("man1"),
        };
        args.write().unwrap();
        for page in [
            "walnut.1",
            "walnut-pull.1",
            "walnut-image-prune.1",
            "walnut-run.1",
        ] {
            assert!(args.dir.join(page).exists(), "{page}");
        }
    }
}
