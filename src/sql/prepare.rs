//! PREPARE, EXECUTE and DEALLOCATE: statements by a name, in SQL.

use super::cursor::Cursor;
use super::lex::Token;
use std::ops::Range;

/// `PREPARE name (types) AS statement`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepare {
    /// What it will be executed by.
    pub name: String,
    /// Where the types of its parameters are, brackets included; nothing, if they are not declared.
    pub types: Range<usize>,
    /// Where the statement is.
    pub body: Range<usize>,
}

/// `EXECUTE name (arguments)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Execute {
    /// What was prepared.
    pub name: String,
    /// Where the name is.
    pub named: Range<usize>,
}

/// `DEALLOCATE`, `DISCARD`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deallocate {
    /// The statement of this name.
    One(String),
    /// Every statement of the session.
    All,
}

/// Reads a PREPARE. `None`: it is not understood.
pub(super) fn prepare(text: &str, tokens: &[Token]) -> Option<Prepare> {
    let mut c = Cursor::new(text, tokens);
    c.eat("prepare").then_some(())?;
    let name = clipped(c.name()?);
    let from = c.at;
    c.eat_group();
    let types = span(tokens.get(from..c.at)?);
    c.eat("as").then_some(())?;
    let body = span(tokens.get(c.at..).filter(|rest| !rest.is_empty())?);
    Some(Prepare { name, types, body })
}

/// Reads an EXECUTE. `None`: it is not understood.
pub(super) fn execute(text: &str, tokens: &[Token]) -> Option<Execute> {
    let mut c = Cursor::new(text, tokens);
    c.eat("execute").then_some(())?;
    let named = c.peek()?.at.clone();
    let name = clipped(c.name()?);
    c.eat_group();
    c.peek().is_none().then_some(Execute { name, named })
}

/// Reads a DEALLOCATE or DISCARD. `None`: no statement is dropped by it.
pub(super) fn deallocate(text: &str, tokens: &[Token]) -> Option<Deallocate> {
    let mut c = Cursor::new(text, tokens);
    if c.eat("discard") {
        return c.is("all").then_some(Deallocate::All);
    }
    c.eat("deallocate").then_some(())?;
    if c.is("prepare") && c.at + 1 < tokens.len() {
        c.skip();
    }
    if c.is("all") {
        return Some(Deallocate::All);
    }
    c.name().map(clipped).map(Deallocate::One)
}

/// As much of a name as the server keeps (`NAMEDATALEN - 1` bytes, and no part of a character).
fn clipped(mut name: String) -> String {
    const BYTES_MAX: usize = 63;
    name.truncate(name.floor_char_boundary(BYTES_MAX));
    name
}

fn span(tokens: &[Token]) -> Range<usize> {
    tokens.first().map_or(0, |t| t.at.start)..tokens.last().map_or(0, |t| t.at.end)
}
