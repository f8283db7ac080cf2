// SPDX-License-Identifier: Apache-2.0
//! `walnut events`: what happens to containers, images and volumes.

use std::io::{self, Write};

use serde_json::{Value, json};

use super::{VerbError, refused};
use crate::cli::system::EventsArgs;
use crate::events::{Event, Reader, dir};
use crate::format::{self, Template};
use crate::paths::Paths;
use crate::times::Timestamp;

/// How an event is written.
enum Style {
    Line,
    Template(Box<Template>),
}

type Filters = Vec<(String, String)>;

pub fn events(args: &EventsArgs, paths: &Paths) -> Result<u8, VerbError> {
    let now = Timestamp::now();
    let time = |flag, text: &Option<String>| {
        text.as_deref()
            .map(|text| Timestamp::parse_flag(flag, text, now))
            .transpose()
    };
    let until = time("until", &args.until)?;
    // Without a beginning, what is past is past.
    let since = time("since", &args.since)?.unwrap_or(if until.is_some() {
        Timestamp::default()
    } else {
        now
    });
    let filters = parse_filters(&args.filter)?;
    let style = match args.format.as_deref() {
        None | Some("") => Style::Line,
        Some(text) => Style::Template(Box::new(format::single(text)?)),
    };
    let follow = until.is_none_or(|until| until > now);
    let mut reader = Reader::new(&dir(paths), follow)?;
    loop {
        for event in reader.read()? {
            let in_time = event.time >= since && until.is_none_or(|until| event.time <= until);
            if in_time && fits(&event, &filters) {
                show(&event, &style)?;
            }
        }
        if until.is_some_and(|until| until <= Timestamp::now()) {
            return Ok(0);
        }
        reader.wait(until)?;
    }
}

fn show(event: &Event, style: &Style) -> Result<(), VerbError> {
    let line = match style {
        Style::Template(template) => {
            let rendered = template.render(&document(event));
            rendered.map_err(format::FormatError::from)?
        }
        Style::Line => {
            let attributes = event.attributes.iter();
            let attributes: Vec<String> = attributes.map(|(k, v)| format!("{k}={v}")).collect();
            format!(
                "{} {} {} {} ({})",
                event.time.fixed(),
                event.kind,
                event.action,
                event.id,
                attributes.join(", ")
            )
        }
    };
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")
        .and_then(|()| out.flush())
        .map_err(VerbError::Stdout)
}

/// Under Docker's names.
fn document(event: &Event) -> Value {
    let mut document = json!({
        "Type": event.kind,
        "Action": event.action,
        "Actor": { "ID": event.id, "Attributes": event.attributes },
        "scope": "local",
        "time": event.time.seconds(),
        "timeNano": event.time.nanos(),
    });
    if event.kind == "container" {
        document["status"] = event.action.clone().into();
        document["id"] = event.id.clone().into();
        let image = event.attributes.get("image").cloned();
        document["from"] = image.unwrap_or_default().into();
        document["ID"] = event.id.clone().into();
        document["Status"] = event.action.clone().into();
        document["From"] = document["from"].clone();
    }
    if event.kind == "image" {
        document["status"] = event.action.clone().into();
        document["id"] = event.id.clone().into();
    }
    document
}

fn parse_filters(given: &[String]) -> Result<Filters, VerbError> {
    const KNOWN: [&str; 7] = [
        "container",
        "event",
        "image",
        "label",
        "network",
        "type",
        "volume",
    ];
    let mut filters = Vec::new();
    for text in given {
        match text.split_once('=') {
            Some((key, value)) if KNOWN.contains(&key) => {
                filters.push((key.to_owned(), value.to_owned()));
            }
            _ => return refused(format!("invalid filter '{text}'")),
        }
    }
    Ok(filters)
}

/// Values of one key are alternatives, keys must all hold.
fn fits(event: &Event, filters: &Filters) -> bool {
    filters.iter().all(|(key, _)| {
        let mut values = filters.iter().filter(|(other, _)| other == key);
        values.any(|(key, value)| holds(event, key, value))
    })
}

fn holds(event: &Event, key: &str, value: &str) -> bool {
    let attribute = |name: &str| event.attributes.get(name).map(String::as_str);
    let is = |kind: &str| event.kind == kind;
    match key {
        "type" => is(value),
        // `exec_start: sh` and the like are found by their first word.
        "event" => event.action == value || event.action.split(':').next() == Some(value),
        "container" => {
            is("container") && (event.id.starts_with(value) || attribute("name") == Some(value))
        }
        "volume" => is("volume") && event.id == value,
        "network" => {
            is("network") && (event.id.starts_with(value) || attribute("name") == Some(value))
        }
        "image" if is("image") => event.id == value || attribute("name") == Some(value),
        "image" => attribute("image") == Some(value),
        "label" => match value.split_once('=') {
            Some((name, value)) => attribute(name) == Some(value),
            None => attribute(value).is_some(),
        },
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters() {
        let event = Event::volume("data", "mount").with("container", "x");
        let fits = |texts: &[&str]| {
            let texts: Vec<String> = texts.iter().map(ToString::to_string).collect();
            super::fits(&event, &parse_filters(&texts).unwrap())
        };
        assert!(fits(&[]) && fits(&["type=volume", "volume=data"]));
        assert!(fits(&["event=create", "event=mount"]));
        assert!(!fits(&["event=mount", "type=container"]));
        assert!(fits(&["label=container"]) && !fits(&["label=container=y"]));
        assert!(parse_filters(&["nosuch=1".to_owned()]).is_err());
    }
}
