//! The words and signs of a label selector.

use std::fmt;

/// One word or sign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    Word(String),
    Equals,
    NotEquals,
    Not,
    Greater,
    Less,
    Open,
    Close,
    Comma,
    End,
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Token::Word(text) => text,
            Token::Equals => "=",
            Token::NotEquals => "!=",
            Token::Not => "!",
            Token::Greater => ">",
            Token::Less => "<",
            Token::Open => "(",
            Token::Close => ")",
            Token::Comma => ",",
            Token::End => "",
        })
    }
}

/// Hands out tokens one by one.
pub(super) struct Parser<'a> {
    rest: &'a str,
}

impl<'a> Parser<'a> {
    pub(super) fn new(text: &'a str) -> Parser<'a> {
        Parser { rest: text }
    }

    pub(super) fn peek(&self) -> Token {
        Parser { rest: self.rest }.next()
    }

    pub(super) fn next(&mut self) -> Token {
        const SIGNS: &[char] = &['=', '!', '(', ')', ',', '>', '<'];
        let text = self.rest.trim_start_matches([' ', '\t', '\r', '\n']);
        let Some(first) = text.chars().next() else {
            self.rest = "";
            return Token::End;
        };
        let (token, length) = if SIGNS.contains(&first) {
            match text {
                _ if text.starts_with("==") => (Token::Equals, 2),
                _ if text.starts_with("!=") => (Token::NotEquals, 2),
                _ => (sign(first), 1),
            }
        } else {
            let blank = |c: char| SIGNS.contains(&c) || matches!(c, ' ' | '\t' | '\r' | '\n');
            let end = text.find(blank).unwrap_or(text.len());
            (Token::Word(text[..end].to_owned()), end)
        };
        self.rest = &text[length..];
        token
    }
}

fn sign(c: char) -> Token {
    match c {
        '=' => Token::Equals,
        '!' => Token::Not,
        '(' => Token::Open,
        ')' => Token::Close,
        ',' => Token::Comma,
        '>' => Token::Greater,
        _ => Token::Less,
    }
}
