// SPDX-License-Identifier: Apache-2.0
//! A template's tree against a value.

use serde_json::Value;

use super::TemplateError;
use super::functions::{self, is_true, show};
use super::parse::{Base, Command, Node, Operand, Pipeline};

pub(super) struct Scope {
    dot: Value,
    /// The innermost last; `$` is the first, under an empty name.
    variables: Vec<(String, Value)>,
    headers: bool,
}

impl Scope {
    pub(super) fn new(value: &Value, headers: bool) -> Self {
        Scope {
            dot: value.clone(),
            variables: vec![(String::new(), value.clone())],
            headers,
        }
    }

    pub(super) fn render(mut self, nodes: &[Node]) -> Result<String, TemplateError> {
        let mut out = String::new();
        self.nodes(nodes, &mut out)?;
        Ok(out)
    }

    fn nodes(&mut self, nodes: &[Node], out: &mut String) -> Result<(), TemplateError> {
        for node in nodes {
            match node {
                Node::Text(text) => out.push_str(text),
                Node::Print(pipeline) => {
                    let value = self.pipeline(pipeline)?;
                    if pipeline.variables.is_empty() {
                        show(&value, out);
                    } else {
                        self.bind(pipeline, value)?;
                    }
                }
                Node::If {
                    condition,
                    then,
                    otherwise,
                } => {
                    let outer = self.variables.len();
                    let value = self.bound(condition)?;
                    let chosen = if is_true(&value) { then } else { otherwise };
                    self.nodes(chosen, out)?;
                    self.variables.truncate(outer);
                }
                Node::With {
                    value,
                    then,
                    otherwise,
                } => {
                    let outer = self.variables.len();
                    let value = self.bound(value)?;
                    if is_true(&value) {
                        let dot = std::mem::replace(&mut self.dot, value);
                        self.nodes(then, out)?;
                        self.dot = dot;
                    } else {
                        self.nodes(otherwise, out)?;
                    }
                    self.variables.truncate(outer);
                }
                Node::Range {
                    over,
                    body,
                    otherwise,
                } => self.range(over, body, otherwise, out)?,
            }
        }
        Ok(())
    }

    fn range(
        &mut self,
        over: &Pipeline,
        body: &[Node],
        otherwise: &[Node],
        out: &mut String,
    ) -> Result<(), TemplateError> {
        let items: Vec<(Value, Value)> = match self.pipeline(over)? {
            Value::Null => Vec::new(),
            Value::Array(items) => items
                .into_iter()
                .enumerate()
                .map(|(index, item)| (index.into(), item))
                .collect(),
            Value::Object(fields) => fields
                .into_iter()
                .map(|(key, value)| (key.into(), value))
                .collect(),
            other => return Err(TemplateError::Range(other.to_string())),
        };
        if items.is_empty() {
            return self.nodes(otherwise, out);
        }
        for (key, item) in items {
            let outer = self.variables.len();
            match &over.variables[..] {
                [] => {}
                [only] => self.variables.push((only.clone(), item.clone())),
                [first, second, ..] => {
                    self.variables.push((first.clone(), key));
                    self.variables.push((second.clone(), item.clone()));
                }
            }
            let dot = std::mem::replace(&mut self.dot, item);
            self.nodes(body, out)?;
            self.dot = dot;
            self.variables.truncate(outer);
        }
        Ok(())
    }

    fn bound(&mut self, pipeline: &Pipeline) -> Result<Value, TemplateError> {
        let value = self.pipeline(pipeline)?;
        self.bind(pipeline, value.clone())?;
        Ok(value)
    }

    fn bind(&mut self, pipeline: &Pipeline, value: Value) -> Result<(), TemplateError> {
        for name in &pipeline.variables {
            if pipeline.assigns {
                let mut known = self.variables.iter_mut().rev();
                let slot = known.find(|(known, _)| known == name);
                let slot = slot.ok_or_else(|| TemplateError::NoVariable(name.clone()))?;
                slot.1 = value.clone();
            } else {
                self.variables.push((name.clone(), value.clone()));
            }
        }
        Ok(())
    }

    fn pipeline(&mut self, pipeline: &Pipeline) -> Result<Value, TemplateError> {
        let mut value = None;
        for command in &pipeline.commands {
            value = Some(self.command(command, value)?);
        }
        Ok(value.unwrap_or(Value::Null))
    }

    /// `piped` is the last argument.
    fn command(&mut self, command: &Command, piped: Option<Value>) -> Result<Value, TemplateError> {
        let Some((first, rest)) = command.0.split_first() else {
            return Ok(Value::Null);
        };
        let Base::Function(name) = &first.base else {
            let value = self.operand(first)?;
            return match rest {
                [name] => self.operand(name).map(|name| self.label(&value, &name)),
                _ => Ok(value),
            };
        };
        let mut arguments = Vec::new();
        for operand in rest {
            arguments.push(self.operand(operand)?);
        }
        arguments.extend(piped);
        functions::call(name, arguments, self.headers)
    }

    /// Of `.Label NAME`; its heading is the last part of the name.
    fn label(&self, labels: &Value, name: &Value) -> Value {
        let name = name.as_str().unwrap_or_default();
        if self.headers {
            let last = name.rsplit('.').next().unwrap_or(name);
            return last.replace(['-', '_'], " ").into();
        }
        labels.get(name).cloned().unwrap_or_else(|| "".into())
    }

    fn operand(&mut self, operand: &Operand) -> Result<Value, TemplateError> {
        let mut value = match &operand.base {
            Base::Dot => self.dot.clone(),
            Base::Variable(name) => {
                let mut known = self.variables.iter().rev();
                let found = known.find(|(known, _)| known == name);
                let found = found.ok_or_else(|| TemplateError::NoVariable(name.clone()))?;
                found.1.clone()
            }
            Base::Literal(value) => value.clone(),
            Base::Pipeline(inner) => self.pipeline(inner)?,
            Base::Function(name) => functions::call(name, Vec::new(), self.headers)?,
        };
        for name in &operand.fields {
            value = match value {
                Value::Object(mut fields) => match fields.remove(name) {
                    Some(value) => value,
                    None => missing(operand, name)?,
                },
                _ => missing(operand, name)?,
            };
        }
        Ok(value)
    }
}

/// Our own fields begin with a capital letter; a label or a port need not be there.
fn missing(operand: &Operand, name: &str) -> Result<Value, TemplateError> {
    if name.starts_with(char::is_uppercase) {
        return Err(TemplateError::NoField {
            field: operand.fields.join("."),
            name: name.into(),
        });
    }
    Ok(Value::Null)
}
