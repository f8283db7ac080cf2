// SPDX-License-Identifier: Apache-2.0
//! `walnut update`: other limits and another restart policy. A running container has them at once,
//! within what its machine has; the next machine is made to fit.

use super::{VerbError, each, happened, refused};
use crate::cli::life::UpdateArgs;
use crate::container::limits::{self, check_swap};
use crate::container::{Container, ContainerError};
use crate::paths::Paths;
use crate::record::Entry;
use crate::spec;
use crate::supervisor::client;
use crate::supervisor::restart::Policy;
use crate::supervisor::wire::Request;
use crate::units::{MIB, human_size};

pub fn update(args: &UpdateArgs, paths: &Paths) -> Result<u8, VerbError> {
    if !asks_for_something(args) {
        return refused("you must provide one or more flags when using this command");
    }
    let restart = args.restart.as_deref().map(str::parse).transpose()?;
    each(&args.names, paths, |entry| {
        update_one(entry, args, restart, paths)
    })
}

fn asks_for_something(args: &UpdateArgs) -> bool {
    changes_limits(args) || args.memory_swap.is_some() || args.restart.is_some()
}

fn changes_limits(args: &UpdateArgs) -> bool {
    let sizes = [args.memory, args.memory_reservation, args.cpu_shares];
    let has_time = args.cpus.is_some() || args.cpu_quota.is_some() || args.cpu_period.is_some();
    let has_others = args.pids_limit.is_some() || args.cpuset_cpus.is_some();
    has_time || has_others || sizes.iter().any(Option::is_some)
}

fn update_one(
    entry: &Entry,
    args: &UpdateArgs,
    restart: Option<Policy>,
    paths: &Paths,
) -> Result<(), VerbError> {
    let change = entry.change()?;
    let state = entry.correct(&change)?;
    let mut config = entry.config()?;
    let container = &mut config.container;
    if container.remove && restart.is_some_and(|policy| policy != Policy::No) {
        return refused(
            "Restart policy cannot be updated because AutoRemove is enabled for the container",
        );
    }
    let before = (container.machine_cpus(), container.machine_memory_mib());
    // As Docker has it, zero leaves a limit as it is.
    let [memory, reservation] =
        [args.memory, args.memory_reservation].map(|given| given.filter(|bytes| *bytes > 0));
    let cpus = limits::cpus(args.cpus, args.cpu_quota, args.cpu_period);
    let cpus = cpus.map_err(ContainerError::from)?;
    let limits = &mut container.limits;
    limits.memory = memory.or(limits.memory);
    limits.cpus = cpus.or(limits.cpus);
    limits.memory_reservation = reservation.or(limits.memory_reservation);
    limits.cpu_shares = args.cpu_shares.or(limits.cpu_shares);
    if args.cpuset_cpus.is_some() {
        limits.cpuset.clone_from(&args.cpuset_cpus);
    }
    check_swap(limits.memory, args.memory_swap.as_deref()).map_err(ContainerError::from)?;
    if let Some(pids) = args.pids_limit {
        limits.pids = Some(pids).filter(|limit| *limit > 0);
    }
    limits.check().map_err(ContainerError::from)?;
    container.restart = restart.unwrap_or(container.restart);
    if state.is_up() && changes_limits(args) {
        fits(before, container)?;
        let mut resources = spec::limits(&container.limits, before.0)?;
        if args.pids_limit.is_some() && container.limits.pids.is_none() {
            // Said, not left out: a limit that is there goes.
            resources.set_pids(
                oci_spec::runtime::LinuxPidsBuilder::default()
                    .limit(-1)
                    .build()
                    .ok(),
            );
        }
        let resources = serde_json::to_string(&resources).map_err(spec::SpecError::from)?;
        client::request(paths, entry, Request::Update { resources })?;
    }
    entry.write_config(&config)?;
    happened(entry, paths, "update");
    Ok(())
}

/// The machine is there already, and has what it has.
fn fits((cpus, memory_mib): (u8, u32), container: &Container) -> Result<(), VerbError> {
    let machine = u64::from(memory_mib) * MIB;
    let limits = &container.limits;
    if let Some(memory) = limits.memory.filter(|memory| *memory > machine) {
        return refused(format!(
            "--memory {} is more than its machine has ({}); stop the container first",
            human_size(memory),
            human_size(machine)
        ));
    }
    if limits
        .cpus
        .is_some_and(|asked| asked.ceil() > u32::from(cpus))
    {
        return refused(format!(
            "--cpus is more than its machine has ({cpus}); stop the container first"
        ));
    }
    Ok(())
}
