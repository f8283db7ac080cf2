// SPDX-License-Identifier: Apache-2.0
//! What `inspect` prints: whole documents, or what a template takes from each.

use std::io::Write;

use serde::Serialize;
use serde_json::ser::{PrettyFormatter, Serializer};

use super::{FormatError, Template};

/// How `inspect` writes documents.
#[derive(Debug)]
pub enum Inspect {
    /// A list of them, for people.
    Indented,
    /// The same on one line (`--format json`).
    Json,
    /// A line for each.
    Template(Template),
}

impl Inspect {
    /// `text` is `--format`'s.
    ///
    /// # Errors
    /// It is no template.
    pub fn parse(text: Option<&str>) -> Result<Self, FormatError> {
        Ok(match text {
            None | Some("") => Inspect::Indented,
            Some("json") => Inspect::Json,
            Some(text) => Inspect::Template(Template::parse(text)?),
        })
    }

    /// Fields in the order in which `T` has them.
    ///
    /// # Errors
    /// The template asks for what a document does not have, or nobody reads the output.
    pub fn write<T: Serialize>(
        &self,
        out: &mut dyn Write,
        documents: &[T],
    ) -> Result<(), FormatError> {
        match self {
            Inspect::Indented => {
                let formatter = PrettyFormatter::with_indent(b"    ");
                let mut text = Serializer::with_formatter(Vec::new(), formatter);
                documents
                    .serialize(&mut text)
                    .map_err(std::io::Error::from)?;
                out.write_all(&text.into_inner())?;
                out.write_all(b"\n")?;
            }
            Inspect::Json => {
                let text = serde_json::to_string(documents).map_err(std::io::Error::from)?;
                writeln!(out, "{text}")?;
            }
            Inspect::Template(template) => {
                for document in documents {
                    let value = serde_json::to_value(document).map_err(std::io::Error::from)?;
                    writeln!(out, "{}", template.render(&value)?)?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn shown(format: Option<&str>) -> String {
        let mut out = Vec::new();
        let documents = [json!({"Id": "a", "Config": {"Labels": {"b": "c"}}})];
        Inspect::parse(format)
            .unwrap()
            .write(&mut out, &documents)
            .unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn indented_by_four_in_one_line_or_by_template() {
        assert!(shown(None).starts_with("[\n    {\n        \""));
        assert_eq!(
            shown(Some("json")),
            "[{\"Config\":{\"Labels\":{\"b\":\"c\"}},\"Id\":\"a\"}]\n"
        );
        assert_eq!(
            shown(Some("{{.Id}}: {{index .Config.Labels \"b\"}}")),
            "a: c\n"
        );
    }
}
