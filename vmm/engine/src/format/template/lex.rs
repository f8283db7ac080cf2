// SPDX-License-Identifier: Apache-2.0
//! A template's text as words: what is copied, and what stands between `{{` and `}}`.

use super::TemplateError;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    /// Outside of braces.
    Text(String),
    /// `{{`.
    Open,
    /// `}}`.
    Close,
    /// `.`, alone.
    Dot,
    /// `.Name`, directly behind what stands before it if `chained`.
    Field {
        name: String,
        chained: bool,
    },
    /// `$name`, or `$`.
    Variable(String),
    Word(String),
    String(String),
    Number(serde_json::Number),
    /// `|`, `(`, `)`, `,`, `=`.
    Symbol(char),
    /// `:=`.
    Declare,
}

pub(super) fn lex(text: &str) -> Result<Vec<Token>, TemplateError> {
    let mut tokens = Vec::new();
    let mut rest = text;
    let mut trim_next = false;
    while let Some((before, after)) = rest.split_once("{{") {
        let (trim_before, inside) = match after.strip_prefix('-') {
            Some(inside) if inside.starts_with(char::is_whitespace) => (true, inside),
            _ => (false, after),
        };
        push_text(&mut tokens, before, trim_next, trim_before);
        if let Some(comment) = inside.trim_start().strip_prefix("/*") {
            let (_, after) = comment.split_once("*/").ok_or(TemplateError::Unclosed)?;
            let after = after.trim_start();
            let (trim, after) = after
                .strip_prefix('-')
                .map_or((false, after), |a| (true, a));
            trim_next = trim;
            rest = after.strip_prefix("}}").ok_or(TemplateError::Unclosed)?;
            continue;
        }
        tokens.push(Token::Open);
        let mut lexer = Action { rest: inside };
        trim_next = lexer.run(&mut tokens)?;
        rest = lexer.rest;
    }
    push_text(&mut tokens, rest, trim_next, false);
    Ok(tokens)
}

fn push_text(tokens: &mut Vec<Token>, text: &str, trim_start: bool, trim_end: bool) {
    let text = if trim_start { text.trim_start() } else { text };
    let text = if trim_end { text.trim_end() } else { text };
    if !text.is_empty() {
        tokens.push(Token::Text(text.into()));
    }
}

/// The text behind a `{{`.
struct Action<'a> {
    rest: &'a str,
}

impl Action<'_> {
    /// Up to and with `}}`; whether blanks behind it go.
    fn run(&mut self, tokens: &mut Vec<Token>) -> Result<bool, TemplateError> {
        loop {
            let blanks = self.skip(|c| c.is_whitespace());
            if let Some(rest) = self.rest.strip_prefix("}}") {
                self.rest = rest;
                tokens.push(Token::Close);
                return Ok(false);
            }
            if let Some(rest) = self.rest.strip_prefix("-}}").filter(|_| blanks > 0) {
                self.rest = rest;
                tokens.push(Token::Close);
                return Ok(true);
            }
            let token = self.token(blanks > 0)?;
            tokens.push(token);
        }
    }

    fn token(&mut self, after_blank: bool) -> Result<Token, TemplateError> {
        let first = self.rest.chars().next().ok_or(TemplateError::Unclosed)?;
        match first {
            '|' | '(' | ')' | ',' | '=' => {
                self.rest = &self.rest[1..];
                Ok(Token::Symbol(first))
            }
            ':' => {
                self.rest = self
                    .rest
                    .strip_prefix(":=")
                    .ok_or(TemplateError::Character(':'))?;
                Ok(Token::Declare)
            }
            '.' => {
                self.rest = &self.rest[1..];
                let name = self.take(is_word);
                Ok(if name.is_empty() {
                    Token::Dot
                } else {
                    Token::Field {
                        name,
                        chained: !after_blank,
                    }
                })
            }
            '$' => {
                self.rest = &self.rest[1..];
                Ok(Token::Variable(self.take(is_word)))
            }
            '"' => self.quoted(),
            '`' => {
                let (raw, rest) = self.rest[1..]
                    .split_once('`')
                    .ok_or(TemplateError::UnclosedString)?;
                self.rest = rest;
                Ok(Token::String(raw.into()))
            }
            '-' | '+' | '0'..='9' => {
                let text = self.take(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
                let number = text.strip_prefix('+').unwrap_or(&text).parse();
                number
                    .map(Token::Number)
                    .map_err(|_| TemplateError::Number(text))
            }
            first if is_word(first) => Ok(Token::Word(self.take(is_word))),
            other => Err(TemplateError::Character(other)),
        }
    }

    /// With Go's escapes of one letter.
    fn quoted(&mut self) -> Result<Token, TemplateError> {
        let mut text = String::new();
        let mut chars = self.rest.char_indices().skip(1);
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => {
                    self.rest = &self.rest[at + 1..];
                    return Ok(Token::String(text));
                }
                '\n' => break,
                '\\' => match chars.next() {
                    Some((_, 'n')) => text.push('\n'),
                    Some((_, 't')) => text.push('\t'),
                    Some((_, 'r')) => text.push('\r'),
                    Some((_, other @ ('"' | '\\' | '\''))) => text.push(other),
                    _ => return Err(TemplateError::Escape),
                },
                other => text.push(other),
            }
        }
        Err(TemplateError::UnclosedString)
    }

    fn take(&mut self, belongs: impl Fn(char) -> bool) -> String {
        let end = self.rest.find(|c| !belongs(c)).unwrap_or(self.rest.len());
        let (taken, rest) = self.rest.split_at(end);
        self.rest = rest;
        taken.into()
    }

    fn skip(&mut self, belongs: impl Fn(char) -> bool) -> usize {
        let rest = self.rest.trim_start_matches(belongs);
        let skipped = self.rest.len() - rest.len();
        self.rest = rest;
        skipped
    }
}

fn is_word(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}
