//! The few words of a text that the session goes by itself, in whatever encoding it is: what is not UTF-8 is
//! read byte by byte. Quotes and keywords are the same bytes in every encoding that a server may have.

use crate::sql::lex::{Kind, Token, identifier, is_keyword, tokens};
use std::borrow::Cow;

/// A text in words.
#[derive(Debug)]
pub(super) struct Spelled<'a> {
    text: Cow<'a, str>,
    tokens: Vec<Token>,
}

/// A statement of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Words<'a> {
    of: &'a Spelled<'a>,
    tokens: &'a [Token],
}

impl<'a> Spelled<'a> {
    /// `None`: it does not come to an end.
    pub(super) fn of(sql: &'a [u8]) -> Option<Self> {
        let text = match std::str::from_utf8(sql) {
            Ok(text) => Cow::Borrowed(text),
            Err(_) => Cow::Owned(sql.iter().map(|byte| char::from(*byte)).collect()),
        };
        let tokens = tokens(&text).ok()?;
        Some(Self { text, tokens })
    }

    pub(super) fn statements(&'a self) -> impl Iterator<Item = Words<'a>> {
        let statements = self.tokens.split(|token| token.kind == Kind::Semicolon);
        statements.filter(|tokens| !tokens.is_empty()).map(|tokens| Words { of: self, tokens })
    }

    fn name(&self, token: &Token) -> Option<Vec<u8>> {
        let name = identifier(&self.text, token)?;
        match self.text {
            Cow::Borrowed(_) => Some(name.into_bytes()),
            Cow::Owned(_) => name.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect(),
        }
    }
}

impl Words<'_> {
    /// Whether the word at this place is one of these keywords.
    pub(super) fn is(&self, at: usize, words: &[&str]) -> bool {
        let is = |token| words.iter().any(|word| is_keyword(&self.of.text, token, word));
        self.tokens.get(at).is_some_and(is)
    }

    /// Whether a word behind the first is this keyword.
    pub(super) fn says(&self, word: &str) -> bool {
        let mut behind = self.tokens.iter().skip(1);
        behind.any(|token| is_keyword(&self.of.text, token, word))
    }

    /// The name at this place, as its bytes.
    pub(super) fn name(&self, at: usize) -> Option<Vec<u8>> {
        self.of.name(self.tokens.get(at)?)
    }

    /// The last name, if that is not all there is.
    pub(super) fn last_name(&self) -> Option<Vec<u8>> {
        let last = self.tokens.iter().rev().find_map(|token| self.of.name(token));
        last.filter(|_| self.tokens.len() > 1)
    }
}
