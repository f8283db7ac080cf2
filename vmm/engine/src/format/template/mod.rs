// SPDX-License-Identifier: Apache-2.0
//! Templates as Docker takes them: Go's text/template over JSON values.
//!
//! Text, `{{.Field.Field}}`, pipelines, parentheses, variables, `if`/`else if`/`else`, `with`,
//! `range`, comments, `{{-` and `-}}`; Docker's functions `json`, `join`, `split`, `lower`,
//! `upper`, `title`, `pad`, `truncate`, `println`, and of Go's `len`, `index`, `slice`, `print`,
//! `printf`, `and`, `or`, `not` and the comparisons.

mod eval;
mod functions;
mod lex;
mod parse;

use serde_json::Value;

use eval::Scope;
use parse::{Base, Node, Operand, Pipeline};

/// In Go's words where it has some.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TemplateError {
    #[error("template parsing error: template: :1: unclosed action")]
    Unclosed,
    #[error("template parsing error: template: :1: unterminated quoted string")]
    UnclosedString,
    #[error("template parsing error: template: :1: unknown escape in a quoted string")]
    Escape,
    #[error("template parsing error: template: :1: unclosed left paren")]
    UnclosedParenthesis,
    #[error("template parsing error: template: :1: unexpected {0:?} in command")]
    Character(char),
    #[error("template parsing error: template: :1: bad number syntax: {0:?}")]
    Number(String),
    #[error("template parsing error: template: :1: unexpected {0}")]
    Unexpected(String),
    #[error("template parsing error: template: :1: missing value for command")]
    MissingValue,
    #[error("template parsing error: template: :1: function {0:?} not defined")]
    NoFunction(String),
    #[error("template parsing error: template: :1: what is no function has arguments")]
    NotAFunction,
    #[error("template parsing error: template: :1: {0:?} is not supported")]
    NotSupported(String),
    #[error("template parsing error: template: :1: blocks are nested too deep")]
    TooDeep,
    #[error("template: executing \"\" at <.{field}>: can't evaluate field {name}")]
    NoField { field: String, name: String },
    #[error("template: executing \"\": undefined variable: ${0}")]
    NoVariable(String),
    #[error("template: executing \"\" at <{function}>: error calling {function}: {why}")]
    Call { function: &'static str, why: String },
    #[error("template: executing \"\": range can't iterate over {0}")]
    Range(String),
}

#[derive(Debug)]
pub struct Template {
    nodes: Vec<Node>,
}

impl Template {
    /// # Errors
    /// Where `text` is no template.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        Ok(Template {
            nodes: parse::parse(text)?,
        })
    }

    /// # Errors
    /// What the template asks for and `value` does not have.
    pub fn render(&self, value: &Value) -> Result<String, TemplateError> {
        Scope::new(value, false).render(&self.nodes)
    }

    /// The same for a row of headings: functions that would spoil them leave them alone.
    pub(super) fn render_headers(&self, value: &Value) -> Result<String, TemplateError> {
        Scope::new(value, true).render(&self.nodes)
    }

    /// The fields of the dot that are named anywhere.
    pub(super) fn fields(&self) -> Vec<&str> {
        let mut found = Found::default();
        found.nodes(&self.nodes);
        found.fields
    }

    /// Whether `field` is named, or all of them are.
    pub(super) fn names(&self, field: &str) -> bool {
        let mut found = Found::default();
        found.nodes(&self.nodes);
        found.everything || found.fields.contains(&field)
    }
}

#[derive(Default)]
struct Found<'a> {
    fields: Vec<&'a str>,
    /// The dot itself is used.
    everything: bool,
}

impl<'a> Found<'a> {
    fn nodes(&mut self, nodes: &'a [Node]) {
        for node in nodes {
            let (pipeline, inner): (_, [&[Node]; 2]) = match node {
                Node::Text(_) => continue,
                Node::Print(pipeline) => (pipeline, [&[], &[]]),
                Node::If {
                    condition: head,
                    then: body,
                    otherwise,
                }
                | Node::With {
                    value: head,
                    then: body,
                    otherwise,
                }
                | Node::Range {
                    over: head,
                    body,
                    otherwise,
                } => (head, [body, otherwise]),
            };
            self.pipeline(pipeline);
            inner.into_iter().for_each(|nodes| self.nodes(nodes));
        }
    }

    fn pipeline(&mut self, pipeline: &'a Pipeline) {
        for operand in pipeline.commands.iter().flat_map(|command| &command.0) {
            self.operand(operand);
        }
    }

    fn operand(&mut self, operand: &'a Operand) {
        let at_root = match &operand.base {
            Base::Dot => true,
            Base::Variable(name) => name.is_empty(),
            Base::Pipeline(inner) => {
                self.pipeline(inner);
                false
            }
            Base::Function(_) | Base::Literal(_) => false,
        };
        match operand.fields.first() {
            Some(field) if at_root => self.fields.push(field),
            None if at_root => self.everything = true,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
