// SPDX-License-Identifier: Apache-2.0
//! Words as a tree: Go's text/template grammar without `define`, `template` and `block`.

use std::iter::Peekable;
use std::vec::IntoIter;

use serde_json::Value;

use super::TemplateError;
use super::functions;
use super::lex::{Token, lex};

/// Blocks and parentheses inside each other.
const MAX_DEPTH: usize = 64;

#[derive(Debug)]
pub(super) enum Node {
    Text(String),
    Print(Pipeline),
    If {
        condition: Pipeline,
        then: Vec<Node>,
        otherwise: Vec<Node>,
    },
    With {
        value: Pipeline,
        then: Vec<Node>,
        otherwise: Vec<Node>,
    },
    Range {
        over: Pipeline,
        body: Vec<Node>,
        otherwise: Vec<Node>,
    },
}

#[derive(Debug)]
pub(super) struct Pipeline {
    /// `$a :=`, or `$i, $a := range`.
    pub variables: Vec<String>,
    /// `=` in place of `:=`: the variable is there already.
    pub assigns: bool,
    pub commands: Vec<Command>,
}

/// A function and its arguments, or one operand.
#[derive(Debug)]
pub(super) struct Command(pub Vec<Operand>);

#[derive(Debug)]
pub(super) struct Operand {
    pub base: Base,
    /// `.a.b` behind it.
    pub fields: Vec<String>,
}

impl Operand {
    /// `.Label`, which is asked for one by its name: Docker's only method with an argument.
    fn is_label(&self) -> bool {
        self.fields.last().is_some_and(|name| name == "Label")
    }
}

#[derive(Debug)]
pub(super) enum Base {
    Dot,
    Variable(String),
    Function(String),
    Literal(Value),
    Pipeline(Box<Pipeline>),
}

pub(super) fn parse(text: &str) -> Result<Vec<Node>, TemplateError> {
    let mut parser = Parser {
        tokens: lex(text)?.into_iter().peekable(),
        depth: 0,
    };
    match parser.nodes()? {
        (nodes, Stop::End) => Ok(nodes),
        (_, stop) => Err(TemplateError::Unexpected(stop.word().into())),
    }
}

struct Parser {
    tokens: Peekable<IntoIter<Token>>,
    depth: usize,
}

/// Why a list of nodes is over.
enum Stop {
    End,
    /// `{{end}}`.
    EndWord,
    /// `{{else}}`, with what follows it still to be read.
    Else,
}

impl Stop {
    fn word(&self) -> &'static str {
        match self {
            Stop::End => "EOF",
            Stop::EndWord => "{{end}}",
            Stop::Else => "{{else}}",
        }
    }
}

impl Parser {
    fn nodes(&mut self) -> Result<(Vec<Node>, Stop), TemplateError> {
        let mut nodes = Vec::new();
        loop {
            match self.tokens.next() {
                None => return Ok((nodes, Stop::End)),
                Some(Token::Text(text)) => nodes.push(Node::Text(text)),
                Some(Token::Open) => {
                    let word = match self.tokens.peek() {
                        Some(Token::Word(word)) => word.clone(),
                        _ => String::new(),
                    };
                    match word.as_str() {
                        "end" => {
                            self.tokens.next();
                            self.close()?;
                            return Ok((nodes, Stop::EndWord));
                        }
                        "else" => {
                            self.tokens.next();
                            return Ok((nodes, Stop::Else));
                        }
                        "if" | "with" | "range" => {
                            self.tokens.next();
                            nodes.push(self.block(&word)?);
                        }
                        "define" | "template" | "block" | "break" | "continue" => {
                            return Err(TemplateError::NotSupported(word));
                        }
                        _ => {
                            let pipeline = self.pipeline()?;
                            self.close()?;
                            nodes.push(Node::Print(pipeline));
                        }
                    }
                }
                Some(other) => return Err(unexpected(&other)),
            }
        }
    }

    /// Behind `{{if`, `{{with` or `{{range`.
    fn block(&mut self, word: &str) -> Result<Node, TemplateError> {
        self.enter()?;
        let head = self.pipeline()?;
        self.close()?;
        let (then, stop) = self.nodes()?;
        let otherwise = match stop {
            Stop::EndWord => Vec::new(),
            Stop::End => return Err(TemplateError::Unexpected(stop.word().into())),
            Stop::Else => self.otherwise()?,
        };
        self.depth -= 1;
        Ok(match word {
            "if" => Node::If {
                condition: head,
                then,
                otherwise,
            },
            "with" => Node::With {
                value: head,
                then,
                otherwise,
            },
            _ => Node::Range {
                over: head,
                body: then,
                otherwise,
            },
        })
    }

    /// Behind `{{else`: `}} … {{end}}`, or ` if …}}` and its own rest.
    fn otherwise(&mut self) -> Result<Vec<Node>, TemplateError> {
        if let Some(Token::Word(word)) = self.tokens.peek()
            && matches!(word.as_str(), "if" | "with")
        {
            let word = word.clone();
            self.tokens.next();
            return Ok(vec![self.block(&word)?]);
        }
        self.close()?;
        match self.nodes()? {
            (nodes, Stop::EndWord) => Ok(nodes),
            (_, stop) => Err(TemplateError::Unexpected(stop.word().into())),
        }
    }

    fn close(&mut self) -> Result<(), TemplateError> {
        match self.tokens.next() {
            Some(Token::Close) => Ok(()),
            Some(other) => Err(unexpected(&other)),
            None => Err(TemplateError::Unclosed),
        }
    }

    fn enter(&mut self) -> Result<(), TemplateError> {
        self.depth += 1;
        match self.depth {
            0..=MAX_DEPTH => Ok(()),
            _ => Err(TemplateError::TooDeep),
        }
    }

    fn pipeline(&mut self) -> Result<Pipeline, TemplateError> {
        self.enter()?;
        let mut pipeline = Pipeline {
            variables: Vec::new(),
            assigns: false,
            commands: Vec::new(),
        };
        let mut first = Vec::new();
        // `$x` may be declared, assigned or read: what follows tells.
        while let Some(Token::Variable(_)) = self.tokens.peek() {
            let Some(Token::Variable(name)) = self.tokens.next() else {
                break;
            };
            match self.tokens.peek() {
                Some(Token::Declare | Token::Symbol('=')) => {
                    pipeline.assigns = self.tokens.next() == Some(Token::Symbol('='));
                    pipeline.variables.push(name);
                    break;
                }
                Some(Token::Symbol(',')) if pipeline.variables.is_empty() => {
                    self.tokens.next();
                    pipeline.variables.push(name);
                }
                _ => {
                    first.push(self.operand(Base::Variable(name)));
                    break;
                }
            }
        }
        loop {
            pipeline
                .commands
                .push(self.command(std::mem::take(&mut first))?);
            match self.tokens.peek() {
                Some(Token::Symbol('|')) => drop(self.tokens.next()),
                _ => break,
            }
        }
        self.depth -= 1;
        Ok(pipeline)
    }

    fn command(&mut self, mut operands: Vec<Operand>) -> Result<Command, TemplateError> {
        loop {
            let base = match self.tokens.peek() {
                None => return Err(TemplateError::Unclosed),
                Some(Token::Close | Token::Symbol('|' | ')')) => break,
                Some(_) => self.base()?,
            };
            let operand = self.operand(base);
            operands.push(operand);
        }
        match operands.first() {
            None => Err(TemplateError::MissingValue),
            Some(first) if matches!(first.base, Base::Function(_)) => Ok(Command(operands)),
            Some(first) if operands.len() == 2 && first.is_label() => Ok(Command(operands)),
            Some(_) if operands.len() > 1 => Err(TemplateError::NotAFunction),
            Some(_) => Ok(Command(operands)),
        }
    }

    fn base(&mut self) -> Result<Base, TemplateError> {
        if let Some(Token::Field { .. }) = self.tokens.peek() {
            // `.A` is a field of the dot; `operand` takes the names.
            if let Some(Token::Field { chained, .. }) = self.tokens.peek_mut() {
                *chained = true;
            }
            return Ok(Base::Dot);
        }
        Ok(match self.tokens.next() {
            Some(Token::Dot) => Base::Dot,
            Some(Token::Variable(name)) => Base::Variable(name),
            Some(Token::String(text)) => Base::Literal(text.into()),
            Some(Token::Number(number)) => Base::Literal(Value::Number(number)),
            Some(Token::Word(word)) => match word.as_str() {
                "true" => Base::Literal(true.into()),
                "false" => Base::Literal(false.into()),
                "nil" => Base::Literal(Value::Null),
                name if functions::exists(name) => Base::Function(word),
                _ => return Err(TemplateError::NoFunction(word)),
            },
            Some(Token::Symbol('(')) => {
                let inner = self.pipeline()?;
                match self.tokens.next() {
                    Some(Token::Symbol(')')) => Base::Pipeline(Box::new(inner)),
                    _ => return Err(TemplateError::UnclosedParenthesis),
                }
            }
            Some(other) => return Err(unexpected(&other)),
            None => return Err(TemplateError::Unclosed),
        })
    }

    fn operand(&mut self, base: Base) -> Operand {
        let mut fields = Vec::new();
        while let Some(Token::Field { chained: true, .. }) = self.tokens.peek() {
            if let Some(Token::Field { name, .. }) = self.tokens.next() {
                fields.push(name);
            }
        }
        Operand { base, fields }
    }
}

fn unexpected(token: &Token) -> TemplateError {
    TemplateError::Unexpected(match token {
        Token::Text(_) => "text".into(),
        Token::Open => "{{".into(),
        Token::Close => "}}".into(),
        Token::Dot => "<.>".into(),
        Token::Field { name, .. } => format!("<.{name}>"),
        Token::Variable(name) => format!("${name}"),
        Token::Word(word) => word.clone(),
        Token::String(text) => format!("{text:?}"),
        Token::Number(number) => number.to_string(),
        Token::Symbol(symbol) => format!("\"{symbol}\""),
        Token::Declare => "\":=\"".into(),
    })
}
