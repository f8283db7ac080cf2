// SPDX-License-Identifier: Apache-2.0
//! What templates can call, and how values are written.

use std::cmp::Ordering;

use serde_json::Value;

use super::TemplateError;

/// In front: those that leave a heading alone.
const NAMES: [&str; 23] = [
    "json", "join", "split", "lower", "upper", "title", "pad", "truncate", "println", "print",
    "printf", "len", "index", "slice", "and", "or", "not", "eq", "ne", "lt", "le", "gt", "ge",
];
const NOT_FOR_HEADINGS: usize = 8;

pub(super) fn exists(name: &str) -> bool {
    NAMES.contains(&name)
}

pub(super) fn call(
    name: &str,
    mut arguments: Vec<Value>,
    headers: bool,
) -> Result<Value, TemplateError> {
    let index = NAMES.iter().position(|known| *known == name).unwrap_or(0);
    let function = NAMES[index];
    if headers && index < NOT_FOR_HEADINGS && !arguments.is_empty() {
        return Ok(arguments.swap_remove(0));
    }
    let failed = |why: String| TemplateError::Call { function, why };
    let result = match (function, &arguments[..]) {
        ("json", [value]) => value.to_string().into(),
        ("join", [Value::Array(items), Value::String(separator)]) => {
            let items: Vec<String> = items.iter().map(text_of).collect();
            items.join(separator).into()
        }
        ("join", [Value::Null, _]) => "".into(),
        ("split", [Value::String(text), Value::String(separator)]) => {
            text.split(separator.as_str()).collect()
        }
        ("lower", [value]) => text_of(value).to_lowercase().into(),
        ("upper", [value]) => text_of(value).to_uppercase().into(),
        ("title", [value]) => title(&text_of(value)).into(),
        ("pad", [Value::String(text), _, _]) if text.is_empty() => "".into(),
        ("pad", [Value::String(text), before, after]) => {
            let blanks = |count: &Value| " ".repeat(size(count).min(MAX_PAD));
            format!("{}{text}{}", blanks(before), blanks(after)).into()
        }
        ("truncate", [Value::String(text), length]) => {
            text.chars().take(size(length)).collect::<String>().into()
        }
        ("print", values) => values.iter().map(text_of).collect::<String>().into(),
        ("println", values) => {
            let values: Vec<String> = values.iter().map(text_of).collect();
            format!("{}\n", values.join(" ")).into()
        }
        ("printf", [Value::String(pattern), values @ ..]) => printf(pattern, values).into(),
        ("len", [Value::Array(items)]) => items.len().into(),
        ("len", [Value::Object(fields)]) => fields.len().into(),
        ("len", [Value::String(text)]) => text.len().into(),
        ("len", [Value::Null]) => 0.into(),
        ("index", [value, keys @ ..]) => at(value, keys).map_err(failed)?,
        ("slice", [value, bounds @ ..]) => slice(value, bounds).map_err(failed)?,
        ("not", [value]) => (!is_true(value)).into(),
        ("and", [_, ..]) => choose(arguments, |value| !is_true(value)),
        ("or", [_, ..]) => choose(arguments, is_true),
        ("eq", [first, rest @ ..]) if !rest.is_empty() => rest
            .iter()
            .any(|other| compare(first, other) == Some(Ordering::Equal))
            .into(),
        ("ne", [a, b]) => (compare(a, b) != Some(Ordering::Equal)).into(),
        ("lt" | "le" | "gt" | "ge", [a, b]) => {
            let order =
                compare(a, b).ok_or_else(|| failed("incompatible types for comparison".into()))?;
            match function {
                "lt" => order.is_lt(),
                "le" => order.is_le(),
                "gt" => order.is_gt(),
                _ => order.is_ge(),
            }
            .into()
        }
        _ => return Err(failed("wrong number or type of arguments".into())),
    };
    Ok(result)
}

const MAX_PAD: usize = 1000;

/// The first that decides, or the last.
fn choose(arguments: Vec<Value>, decides: impl Fn(&Value) -> bool) -> Value {
    let mut result = Value::Null;
    for value in arguments {
        result = value;
        if decides(&result) {
            break;
        }
    }
    result
}

fn at(value: &Value, keys: &[Value]) -> Result<Value, String> {
    let mut value = value;
    for key in keys {
        value = match (value, key) {
            // The zero value of what Docker keeps in maps: strings.
            (Value::Object(fields), Value::String(key)) => match fields.get(key) {
                Some(value) => value,
                None => return Ok("".into()),
            },
            (Value::Null, Value::String(_)) => return Ok("".into()),
            (Value::Array(items), Value::Number(_)) => items
                .get(size(key))
                .filter(|_| key.as_u64().is_some())
                .ok_or_else(|| format!("error calling index: index out of range: {key}"))?,
            _ => return Err(format!("can't index item of type {}", kind(value))),
        };
    }
    Ok(value.clone())
}

fn slice(value: &Value, bounds: &[Value]) -> Result<Value, String> {
    let out_of_range = || "index out of range".to_owned();
    let range = |len: usize| -> Result<(usize, usize), String> {
        let start = bounds.first().map_or(0, size);
        let end = bounds.get(1).map_or(len, size);
        if start <= end && end <= len && bounds.len() <= 2 {
            Ok((start, end))
        } else {
            Err(out_of_range())
        }
    };
    match value {
        Value::String(text) => {
            let (start, end) = range(text.len())?;
            Ok(text.get(start..end).ok_or_else(out_of_range)?.into())
        }
        Value::Array(items) => {
            let (start, end) = range(items.len())?;
            Ok(items[start..end].to_vec().into())
        }
        other => Err(format!("can't slice item of type {}", kind(other))),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nil",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "list",
        Value::Object(_) => "map",
    }
}

/// A number of characters; a negative one is nothing.
fn size(value: &Value) -> usize {
    let number = value.as_u64().unwrap_or(0);
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn compare(a: &Value, b: &Value) -> Option<Ordering> {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => match (a.as_i64(), b.as_i64()) {
            (Some(a), Some(b)) => Some(a.cmp(&b)),
            _ => a.as_f64()?.partial_cmp(&b.as_f64()?),
        },
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
        (Value::Null, Value::Null) => Some(Ordering::Equal),
        _ => None,
    }
}

fn title(text: &str) -> String {
    let mut out = String::new();
    let mut begins = true;
    for letter in text.chars() {
        if begins {
            out.extend(letter.to_uppercase());
        } else {
            out.push(letter);
        }
        begins = letter.is_whitespace();
    }
    out
}

/// `%s`, `%d`, `%v`, `%q`, with a width and `-`.
fn printf(pattern: &str, values: &[Value]) -> String {
    let mut out = String::new();
    let mut values = values.iter();
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let left = chars.next_if_eq(&'-').is_some();
        let mut width = 0usize;
        while let Some(digit) = chars.peek().and_then(|c| c.to_digit(10)) {
            width = (width * 10 + usize::try_from(digit).unwrap_or(0)).min(MAX_PAD);
            chars.next();
        }
        let verb = chars.next();
        let text = match (verb, values.len()) {
            (Some('%'), _) => "%".into(),
            (Some(verb), 0) => format!("%!{verb}(MISSING)"),
            (Some('s' | 'd' | 'v' | 't'), _) => values.next().map(text_of).unwrap_or_default(),
            (Some('q'), _) => values
                .next()
                .map(|v| format!("{:?}", text_of(v)))
                .unwrap_or_default(),
            (Some(verb), _) => {
                let value = values.next().map(text_of).unwrap_or_default();
                format!("%!{verb}({value})")
            }
            (None, _) => "%!(NOVERB)".into(),
        };
        out.push_str(&match left {
            true => format!("{text:<width$}"),
            false => format!("{text:>width$}"),
        });
    }
    out
}

/// Go's notion: what is neither absent, zero nor empty.
pub(super) fn is_true(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
    }
}

fn text_of(value: &Value) -> String {
    let mut text = String::new();
    show(value, &mut text);
    text
}

/// As Go's `%v` has it.
pub(super) fn show(value: &Value, out: &mut String) {
    match value {
        Value::Null => out.push_str("<no value>"),
        Value::String(text) => out.push_str(text),
        Value::Bool(_) | Value::Number(_) => out.push_str(&value.to_string()),
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                out.push_str(if index > 0 { " " } else { "" });
                show(item, out);
            }
            out.push(']');
        }
        Value::Object(fields) => {
            out.push_str("map[");
            for (index, (key, value)) in fields.iter().enumerate() {
                out.push_str(if index > 0 { " " } else { "" });
                out.push_str(key);
                out.push(':');
                show(value, out);
            }
            out.push(']');
        }
    }
}
