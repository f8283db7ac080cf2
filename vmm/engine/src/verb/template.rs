// SPDX-License-Identifier: Apache-2.0
//! `template create`, `ls`, `rm`, `prune`.

use super::{VerbError, complain, say};
use crate::cli::template::{CreateArgs, LsArgs, PruneArgs, RmArgs, TemplateCommand};
use crate::container::Limits;
use crate::format::Columns;
use crate::paths::{Artifacts, Paths};
use crate::template::{Id, LEAST_IMAGE_ROOM, Size, Templates, make, step_back};
use crate::times::{Timestamp, human_duration};
use crate::units::{MIB, human_size};

const HEADER: &str = "TEMPLATE ID\tCPUS\tMEMORY\tIMAGE ROOM\tNETWORK\tSIZE\tCREATED\tSTATUS";

pub fn template(command: TemplateCommand, paths: &Paths) -> Result<u8, VerbError> {
    match command {
        TemplateCommand::Create(args) => create(&args, paths),
        TemplateCommand::Ls(args) => ls(&args, paths),
        TemplateCommand::Rm(args) => rm(&args, paths),
        TemplateCommand::Prune(args) => prune(&args, paths),
    }
}

fn create(args: &CreateArgs, paths: &Paths) -> Result<u8, VerbError> {
    walnut_vmm_host::check()?;
    let limits = Limits {
        cpus: args.cpus,
        memory: args.memory.filter(|bytes| *bytes > 0),
        ..Limits::default()
    };
    limits
        .check()
        .map_err(crate::container::ContainerError::from)?;
    let number = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
    let size = match args.machine.as_deref() {
        Some(&[cpus, memory_mib, image_room, network]) => {
            step_back();
            Size {
                cpus: u8::try_from(cpus).unwrap_or(u8::MAX),
                memory_mib: number(memory_mib),
                image_room,
                network: network != 0,
            }
        }
        _ => Size {
            cpus: limits.machine_cpus(),
            memory_mib: limits.machine_memory_mib(),
            image_room: LEAST_IMAGE_ROOM,
            network: crate::network::installed(),
        },
    };
    let id = make(paths, &Artifacts::find()?, size)?;
    say(id.as_ref())?;
    Ok(0)
}

fn ls(args: &LsArgs, paths: &Paths) -> Result<u8, VerbError> {
    let templates = Templates::new(paths).list(&Artifacts::find()?)?;
    if args.quiet {
        for template in templates {
            say(template.id.as_ref())?;
        }
        return Ok(0);
    }
    let mut columns = Columns::default();
    columns.push(HEADER);
    let now = Timestamp::now();
    for template in templates {
        let age = human_duration(now.since(template.created));
        let memory = human_size(u64::from(template.of.memory_mib) * MIB);
        let room = human_size(template.of.image_room);
        let network = if template.of.network { "user" } else { "-" };
        let size = human_size(template.size);
        let status = if template.current {
            "Ready"
        } else {
            "Outdated"
        };
        columns.push(&format!(
            "{}\t{}\t{memory}\t{room}\t{network}\t{size}\t{age} ago\t{status}",
            template.id, template.of.cpus,
        ));
    }
    columns
        .write(&mut std::io::stdout())
        .map_err(VerbError::Stdout)?;
    Ok(0)
}

fn rm(args: &RmArgs, paths: &Paths) -> Result<u8, VerbError> {
    let templates = Templates::new(paths);
    let mut code = 0;
    for name in &args.templates {
        let removed = match Id::parse(name) {
            Some(id) => templates.remove(&id),
            None => Err(crate::template::TemplateError::NotFound(name.clone())),
        };
        match removed {
            Ok(()) => say(name)?,
            Err(error) => {
                complain(&error.into());
                code = 1;
            }
        }
    }
    Ok(code)
}

fn prune(args: &PruneArgs, paths: &Paths) -> Result<u8, VerbError> {
    let (gone, bytes) = Templates::new(paths).prune(&Artifacts::find()?, args.all)?;
    if !gone.is_empty() {
        say("Deleted Templates:")?;
        for id in &gone {
            say(id.as_ref())?;
        }
        say("")?;
    }
    say(&format!("Total reclaimed space: {}", human_size(bytes)))?;
    Ok(0)
}
