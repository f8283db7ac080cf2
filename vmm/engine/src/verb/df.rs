// SPDX-License-Identifier: Apache-2.0
//! `walnut system df`: what there is, and what it takes on disk.

use std::io::{self, Write};

use serde_json::{Value, json};

use super::{VerbError, ps, remove};
use crate::cli::system::DfArgs;
use crate::format::{self, FormatError, Listing};
use crate::image::Store;
use crate::image_verbs;
use crate::paths::Paths;
use crate::record::Registry;
use crate::run::RunError;
use crate::units::decimal_size;
use crate::volumes::Volumes;

const SUMMARY: Listing = Listing {
    headers: &[("TotalCount", "TOTAL")],
    table: "table {{.Type}}\t{{.TotalCount}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}",
    quiet: "{{.Type}}",
};

const IMAGES: Listing = Listing {
    headers: &[
        ("ID", "IMAGE ID"),
        ("CreatedSince", "CREATED"),
        ("SharedSize", "SHARED SIZE"),
        ("UniqueSize", "UNIQUE SIZE"),
    ],
    table: "table {{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}\t{{.SharedSize}}\t\
            {{.UniqueSize}}\t{{.Containers}}",
    quiet: "{{.ID}}",
};

const CONTAINERS: Listing = Listing {
    headers: &[
        ("ID", "CONTAINER ID"),
        ("LocalVolumes", "LOCAL VOLUMES"),
        ("RunningFor", "CREATED"),
    ],
    table: "table {{.ID}}\t{{.Image}}\t{{.Command}}\t{{.LocalVolumes}}\t{{.Size}}\t{{.RunningFor}}\t\
            {{.Status}}\t{{.Names}}",
    quiet: "{{.ID}}",
};

const VOLUMES: Listing = Listing {
    headers: &[("Name", "VOLUME NAME")],
    table: "table {{.Name}}\t{{.Links}}\t{{.Size}}",
    quiet: "{{.Name}}",
};

pub fn df(args: &DfArgs, paths: &Paths) -> Result<u8, VerbError> {
    if args.verbose {
        return verbose(args.format.as_deref(), paths);
    }
    let format = SUMMARY.format(args.format.as_deref(), false)?;
    let rows = [
        images(paths)?.row("Images"),
        containers(paths).row("Containers"),
        volumes(paths).row("Local Volumes"),
        // Nothing builds images here.
        Amount::default().row("Build Cache"),
    ];
    format.list(&mut io::stdout().lock(), &rows)?;
    Ok(0)
}

/// How much of one kind there is, in bytes of disk.
#[derive(Clone, Copy, Debug, Default)]
struct Amount {
    total: usize,
    active: usize,
    size: u64,
    reclaimable: u64,
}

impl Amount {
    fn add(&mut self, active: bool, size: u64) {
        self.total += 1;
        self.active += usize::from(active);
        self.size += size;
        self.reclaimable += if active { 0 } else { size };
    }

    fn row(self, kind: &str) -> Value {
        let percent = match self.size {
            0 => String::new(),
            size => format!(" ({}%)", self.reclaimable.saturating_mul(100) / size),
        };
        json!({
            "Type": kind,
            "TotalCount": self.total.to_string(),
            "Active": self.active.to_string(),
            "Size": decimal_size(self.size),
            "Reclaimable": format!("{}{percent}", decimal_size(self.reclaimable)),
        })
    }
}

fn images(paths: &Paths) -> Result<Amount, VerbError> {
    let store = Store::open(&paths.root).map_err(RunError::from)?;
    let usage = image_verbs::usage(&store, paths).map_err(RunError::from)?;
    Ok(Amount {
        total: usage.total,
        active: usage.active,
        size: usage.size,
        reclaimable: usage.reclaimable,
    })
}

fn containers(paths: &Paths) -> Amount {
    let mut amount = Amount::default();
    for (entry, _, state) in Registry::new(paths).list() {
        amount.add(state.is_claimed(), remove::size_of(&entry));
    }
    amount
}

fn volumes(paths: &Paths) -> Amount {
    let volumes = Volumes::new(paths);
    let users = volumes.users();
    let mut amount = Amount::default();
    for volume in volumes.list() {
        let is_used = !users.of(&volume.name).is_empty();
        amount.add(is_used, volumes.size(&volume.name));
    }
    amount
}

/// `-v`: one by one.
fn verbose(format: Option<&str>, paths: &Paths) -> Result<u8, VerbError> {
    let store = Store::open(&paths.root).map_err(RunError::from)?;
    let images = image_verbs::rows(&store, paths);
    let images = images.map_err(|error| RunError::from(Box::new(error)))?;
    let containers: Vec<Value> = Registry::new(paths)
        .list()
        .iter()
        .map(|(entry, config, state)| ps::row(entry, config, state, false, true))
        .collect();
    let volumes = volume_rows(paths);
    let mut out = io::stdout().lock();
    if let Some(text) = format.filter(|text| !matches!(*text, "" | "table")) {
        let document = json!({
            "Images": images,
            "Containers": containers,
            "Volumes": volumes,
            "BuildCache": [],
        });
        let rendered = format::single(text)?.render(&document);
        let rendered = rendered.map_err(FormatError::from)?;
        writeln!(out, "{rendered}").map_err(VerbError::Stdout)?;
        return Ok(0);
    }
    let tables = [
        ("Images", IMAGES, images),
        ("Containers", CONTAINERS, containers),
        ("Local Volumes", VOLUMES, volumes),
    ];
    for (what, listing, rows) in tables {
        writeln!(out, "{what} space usage:\n").map_err(VerbError::Stdout)?;
        listing.format(None, false)?.list(&mut out, &rows)?;
        writeln!(out).map_err(VerbError::Stdout)?;
    }
    writeln!(out, "Build cache usage: 0B").map_err(VerbError::Stdout)?;
    Ok(0)
}

fn volume_rows(paths: &Paths) -> Vec<Value> {
    let volumes = Volumes::new(paths);
    let users = volumes.users();
    let row = |volume: crate::volumes::Volume| {
        json!({
            "Name": volume.name,
            "Driver": "local",
            "Links": users.of(&volume.name).len().to_string(),
            "Size": decimal_size(volumes.size(&volume.name)),
        })
    };
    volumes.list().into_iter().map(row).collect()
}
