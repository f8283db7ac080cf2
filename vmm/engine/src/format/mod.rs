// SPDX-License-Identifier: Apache-2.0
//! What `--format` asks for: columns, JSON, or a template in the style of Docker's, which are Go's
//! (text/template).
//!
//! A list is rows of fields, each a JSON object, and a description of its columns. A command that
//! lists things needs no more than this:
//!
//! ```
//! use serde_json::json;
//! use walnut::format::{Format, Listing};
//!
//! const VOLUMES: Listing = Listing {
//!     headers: &[("Driver", "DRIVER"), ("Name", "VOLUME NAME")],
//!     table: "table {{.Driver}}\t{{.Name}}",
//!     quiet: "{{.Name}}",
//! };
//!
//! let rows = [json!({"Driver": "local", "Name": "data"})];
//! // What --format says, or `None`; whether -q was given.
//! let format = VOLUMES.format(None, false).unwrap();
//! let mut out = Vec::new();
//! format.list(&mut out, &rows).unwrap();
//! assert_eq!(out, b"DRIVER    VOLUME NAME\nlocal     data\n");
//! ```
//!
//! `inspect` has documents in place of rows: [`Inspect`]. Fields are what a template can name:
//! a name with a capital letter that a row does not have is an error, as in Docker; any other one
//! (a label's, say) is `<no value>`.

mod inspect;
mod table;
mod template;

use std::borrow::Cow;
use std::io::{self, Write};

use serde_json::{Map, Value};

pub use inspect::Inspect;
pub use table::Columns;
pub use template::{Template, TemplateError};

#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    #[error(transparent)]
    Template(#[from] TemplateError),
    #[error("write the output")]
    Write(#[from] io::Error),
}

/// How one kind of thing is listed.
#[derive(Clone, Copy, Debug)]
pub struct Listing {
    /// The heading of each field; one that is missing here is headed by its name in capitals.
    pub headers: &'static [(&'static str, &'static str)],
    /// Without `--format`.
    pub table: &'static str,
    /// With `-q`.
    pub quiet: &'static str,
}

/// How rows are written.
#[derive(Debug)]
pub struct Format {
    template: Template,
    /// Columns under these headings.
    headers: Option<&'static [(&'static str, &'static str)]>,
}

impl Listing {
    /// `text` is `--format`'s: `table`, `json`, `table TEMPLATE` or `TEMPLATE`.
    ///
    /// # Errors
    /// It is no template.
    pub fn format(&self, text: Option<&str>, quiet: bool) -> Result<Format, FormatError> {
        let text = match text.map(str::trim) {
            // Docker lets --quiet win only where nothing but a table was asked for.
            None | Some("" | "table") if quiet => self.quiet,
            None | Some("" | "table") => self.table,
            Some("json") => "{{json .}}",
            Some(text) => text,
        };
        let (text, headers) = match text.strip_prefix("table") {
            Some(columns) => (columns.trim_start(), Some(self.headers)),
            None => (text, None),
        };
        Ok(Format {
            template: Template::parse(&unescaped(text))?,
            headers,
        })
    }
}

/// Of what is no list: `json` or TEMPLATE.
///
/// # Errors
/// It is no template.
pub fn single(text: &str) -> Result<Template, FormatError> {
    let text = if text == "json" { "{{json .}}" } else { text };
    Ok(Template::parse(&unescaped(text))?)
}

/// A shell's '\t' is two characters.
fn unescaped(text: &str) -> String {
    text.replace("\\t", "\t").replace("\\n", "\n")
}

impl Format {
    /// Whether the template names this field: what is costly to find out need not be.
    pub fn needs(&self, field: &str) -> bool {
        self.template.names(field)
    }

    /// # Errors
    /// The template asks for what a row does not have, or nobody reads the output.
    pub fn list(&self, out: &mut dyn Write, rows: &[Value]) -> Result<(), FormatError> {
        let Some(headers) = self.headers else {
            for row in rows {
                writeln!(out, "{}", self.template.render(&self.shown(row))?)?;
            }
            return Ok(());
        };
        let mut columns = Columns::default();
        columns.push(&self.template.render_headers(&self.heading(headers))?);
        for row in rows {
            columns.push(&self.template.render(row)?);
        }
        Ok(columns.write(out)?)
    }

    /// `.Label NAME` asks for one of them; a row as a whole has `.Labels` only.
    fn shown<'a>(&self, row: &'a Value) -> Cow<'a, Value> {
        let is_asked = self.template.fields().contains(&"Label");
        match row {
            Value::Object(fields) if !is_asked && fields.contains_key("Label") => {
                let mut fields = fields.clone();
                fields.remove("Label");
                Cow::Owned(Value::Object(fields))
            }
            row => Cow::Borrowed(row),
        }
    }

    /// A row whose values are headings.
    fn heading(&self, headers: &[(&str, &str)]) -> Value {
        let mut heading = Map::new();
        for field in self.template.fields() {
            let known = headers.iter().find(|(name, _)| *name == field);
            let text = known.map_or_else(|| in_capitals(field), |(_, text)| (*text).into());
            heading.insert(field.into(), text.into());
        }
        Value::Object(heading)
    }
}

/// `CreatedAt` is `CREATED AT`, `ID` stays.
fn in_capitals(field: &str) -> String {
    let mut text = String::new();
    let mut after_small = false;
    for letter in field.chars() {
        if after_small && letter.is_uppercase() {
            text.push(' ');
        }
        after_small = !letter.is_uppercase();
        text.extend(letter.to_uppercase());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const PETS: Listing = Listing {
        headers: &[("Name", "PET NAME")],
        table: "table {{.Name}}\t{{.BornAt}}",
        quiet: "{{.Name}}",
    };

    fn listed(text: Option<&str>, quiet: bool) -> String {
        let rows = [
            json!({"Name": "Minka", "BornAt": "2 years ago"}),
            json!({"Name": "Bartholomew", "BornAt": ""}),
        ];
        let mut out = Vec::new();
        let format = PETS.format(text, quiet).unwrap();
        format.list(&mut out, &rows).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn columns_as_wide_as_they_must_be() {
        let table = "PET NAME      BORN AT\nMinka         2 years ago\nBartholomew   \n";
        assert_eq!(listed(None, false), table);
        assert_eq!(listed(Some("table"), false), table);
        assert_eq!(listed(Some(r"table {{.Name}}\t{{.BornAt}}"), true), table);
    }

    #[test]
    fn json_lines_templates_and_quiet() {
        assert_eq!(
            listed(Some("json"), true).lines().next(),
            Some(r#"{"BornAt":"2 years ago","Name":"Minka"}"#)
        );
        assert_eq!(listed(None, true), "Minka\nBartholomew\n");
        assert_eq!(
            listed(Some("{{upper .Name}}!"), false),
            "MINKA!\nBARTHOLOMEW!\n"
        );
    }

    #[test]
    fn one_label_is_no_field() {
        let rows = [json!({"Labels": "a=b", "Label": {"a": "b"}})];
        for (text, shown) in [
            ("json", "{\"Labels\":\"a=b\"}\n"),
            ("{{json .}}", "{\"Labels\":\"a=b\"}\n"),
            ("{{.Label \"a\"}}", "b\n"),
        ] {
            let mut out = Vec::new();
            let format = PETS.format(Some(text), false).unwrap();
            format.list(&mut out, &rows).unwrap();
            assert_eq!(String::from_utf8(out).unwrap(), shown, "{text}");
        }
    }

    #[test]
    fn functions_do_not_spoil_headings() {
        let table = listed(Some("table {{lower .Name}}:{{json .BornAt}}"), false);
        assert_eq!(table.lines().next(), Some("PET NAME:BORN AT"));
    }

    #[test]
    fn what_is_not_needed_is_known() {
        let format = PETS.format(Some("{{if .Name}}{{.BornAt}}{{end}}"), false);
        let format = format.unwrap();
        assert!(format.needs("BornAt") && format.needs("Name") && !format.needs("Size"));
        assert!(PETS.format(Some("json"), false).unwrap().needs("Size"));
    }
}
