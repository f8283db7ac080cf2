// SPDX-License-Identifier: Apache-2.0
//! `walnut`: arguments in, exit code out.

use std::ffi::OsString;
use std::process::ExitCode;

use walnut::cli::{Cli, Command, ContainerCommand, UsageError};
use walnut::image::ImageError;
use walnut::logger::say;
use walnut::paths::Paths;
use walnut::run::{RunError, timings};
use walnut::supervisor::background::{self, BackgroundError};
use walnut::verb::{self, VerbError};
use walnut::{doctor, image_verbs, logger, run};

/// Docker's code for a failure of its own.
const OWN_FAILURE: u8 = 125;

fn main() -> ExitCode {
    let begin_us = timings::now_us();
    let args: Vec<OsString> = std::env::args_os().collect();
    let code = match Cli::from_args(&args) {
        Ok(cli) => dispatch(cli, begin_us).unwrap_or_else(|e| fail(&e)),
        Err(usage) => explain(&usage),
    };
    ExitCode::from(code)
}

fn dispatch(cli: Cli, begin_us: u64) -> anyhow::Result<u8> {
    logger::init(cli.verbose);
    let paths = Paths::resolve(cli.root, cli.state)?;
    match cli.command {
        Command::Completion(args) => Ok(args.print().map(|()| 0)?),
        Command::Doctor => doctor::run(&paths),
        Command::ManPages(args) => Ok(args.write().map(|()| 0)?),
        Command::Images(verb) => Ok(image_verbs::run(verb, &paths)?),
        Command::Supervise(args) => Ok(background::supervise(&args.into(), &paths)?),
        Command::Switch(args) => Ok(walnut::network::member::serve(&args)?),
        Command::Network(command) => Ok(verb::network::run(command, &paths)?),
        Command::Template(command) => Ok(verb::template::template(command, &paths)?),
        Command::Container(command) => container(*command, &paths, begin_us),
        Command::Attach(args) => container(ContainerCommand::Attach(args), &paths, begin_us),
        Command::Console(args) => Ok(verb::console::console(&args, &paths)?),
        Command::Checkpoint(command) => Ok(verb::checkpoint::checkpoint(&command, &paths)?),
        Command::Clone(args) => container(ContainerCommand::Clone(args), &paths, begin_us),
        Command::Commit(args) => container(ContainerCommand::Commit(args), &paths, begin_us),
        Command::Cp(args) => container(ContainerCommand::Cp(args), &paths, begin_us),
        Command::Diff(args) => container(ContainerCommand::Diff(args), &paths, begin_us),
        Command::Export(args) => container(ContainerCommand::Export(args), &paths, begin_us),
        Command::Create(args) => container(ContainerCommand::Create(args), &paths, begin_us),
        Command::Exec(args) => container(ContainerCommand::Exec(args), &paths, begin_us),
        Command::Inspect(args) => container(ContainerCommand::Inspect(args), &paths, begin_us),
        Command::Kill(args) => container(ContainerCommand::Kill(args), &paths, begin_us),
        Command::Logs(args) => container(ContainerCommand::Logs(args), &paths, begin_us),
        Command::Pause(args) => container(ContainerCommand::Pause(args), &paths, begin_us),
        Command::Port(args) => container(ContainerCommand::Port(args), &paths, begin_us),
        Command::Ps(args) => container(ContainerCommand::Ls(args), &paths, begin_us),
        Command::Rename(args) => container(ContainerCommand::Rename(args), &paths, begin_us),
        Command::Restart(args) => container(ContainerCommand::Restart(args), &paths, begin_us),
        Command::Rm(args) => container(ContainerCommand::Rm(args), &paths, begin_us),
        Command::Run(args) => container(ContainerCommand::Run(args), &paths, begin_us),
        Command::Start(args) => container(ContainerCommand::Start(args), &paths, begin_us),
        Command::Stats(args) => container(ContainerCommand::Stats(args), &paths, begin_us),
        Command::Stop(args) => container(ContainerCommand::Stop(args), &paths, begin_us),
        Command::Top(args) => container(ContainerCommand::Top(args), &paths, begin_us),
        Command::Unpause(args) => container(ContainerCommand::Unpause(args), &paths, begin_us),
        Command::Update(args) => container(ContainerCommand::Update(args), &paths, begin_us),
        Command::Events(args) => Ok(verb::events::events(&args, &paths)?),
        Command::Info(args) => Ok(verb::system::info(&args, &paths)?),
        Command::System(command) => Ok(verb::system::run(command, &paths)?),
        Command::Version(args) => Ok(verb::system::version(&args)?),
        Command::Volume(command) => Ok(verb::volume::run(command, &paths)?),
        Command::Wait(args) => container(ContainerCommand::Wait(args), &paths, begin_us),
    }
}

fn container(command: ContainerCommand, paths: &Paths, begin_us: u64) -> anyhow::Result<u8> {
    use verb::{
        clone, cp, exec, files, inspect, life, logs, ports, ps, remove, start, stats, top, update,
    };
    Ok(match command {
        ContainerCommand::Attach(args) => life::attach(&args, paths)?,
        ContainerCommand::Clone(args) => clone::clone(&args, paths)?,
        ContainerCommand::Commit(args) => files::commit(&args, paths)?,
        ContainerCommand::Cp(args) => cp::cp(&args, paths)?,
        ContainerCommand::Diff(args) => files::diff(&args, paths)?,
        ContainerCommand::Export(args) => files::export(&args, paths)?,
        ContainerCommand::Create(args) => run::create_only(&args, paths)?,
        ContainerCommand::Exec(args) => exec::exec(&args, paths)?,
        ContainerCommand::Inspect(args) => inspect::inspect(&args, paths)?,
        ContainerCommand::Kill(args) => life::kill(&args, paths)?,
        ContainerCommand::Logs(args) => logs::logs(&args, paths)?,
        ContainerCommand::Ls(args) => ps::ps(&args, paths)?,
        ContainerCommand::Pause(args) => life::pause(&args, paths, true)?,
        ContainerCommand::Port(args) => ports::port(&args, paths)?,
        ContainerCommand::Prune(args) => remove::prune(&args, paths)?,
        ContainerCommand::Rename(args) => life::rename(&args, paths)?,
        ContainerCommand::Restart(args) => life::restart(&args, paths)?,
        ContainerCommand::Rm(args) => remove::rm(&args, paths)?,
        ContainerCommand::Run(args) => run::run(&args, paths, begin_us)?,
        ContainerCommand::Start(args) => start::start(&args, paths)?,
        ContainerCommand::Stats(args) => stats::stats(&args, paths)?,
        ContainerCommand::Stop(args) => life::stop(&args, paths)?,
        ContainerCommand::Top(args) => top::top(&args, paths)?,
        ContainerCommand::Unpause(args) => life::pause(&args, paths, false)?,
        ContainerCommand::Update(args) => update::update(&args, paths)?,
        ContainerCommand::Wait(args) => life::wait(&args, paths)?,
    })
}

/// One line that a user can act on: what failed, on what, why.
fn fail(error: &anyhow::Error) -> u8 {
    if is_broken_pipe(error) {
        return 0;
    }
    let run = error.downcast_ref::<RunError>();
    let image = error.downcast_ref::<image_verbs::VerbError>();
    let is_silent = image.is_some_and(image_verbs::VerbError::is_silent);
    if !run.is_some_and(RunError::is_silent) && !is_silent {
        say(&format!("{error:#}"));
    }
    if let Some(verb) = error.downcast_ref::<VerbError>() {
        return verb.exit_code();
    }
    if image.is_some() {
        return image_verbs::VerbError::EXIT_CODE;
    }
    match error.downcast_ref::<BackgroundError>() {
        Some(BackgroundError::Supervisor(error)) => error.exit_code(),
        _ => run.map_or(OWN_FAILURE, RunError::exit_code),
    }
}

/// A reader that has seen enough is no failure.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let writes = matches!(
        error.downcast_ref::<VerbError>(),
        Some(VerbError::Stdout(_) | VerbError::Format(_))
    );
    let writes_images = matches!(
        error.downcast_ref::<image_verbs::VerbError>(),
        Some(
            image_verbs::VerbError::Output(_)
                | image_verbs::VerbError::Format(_)
                | image_verbs::VerbError::Image(ImageError::Save(_))
        )
    );
    // What `completion` prints has no more to it.
    (writes || writes_images || error.is::<std::io::Error>())
        && error.chain().any(|cause| {
            cause
                .downcast_ref::<std::io::Error>()
                .is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
        })
}

fn explain(usage: &UsageError) -> u8 {
    match usage.as_help() {
        Some(help) => {
            let _ = help.print();
        }
        None => {
            say(&usage.to_string());
        }
    }
    usage.exit_code()
}
