//! The WITH list of a statement, read from its tokens.

use crate::sql::cursor::Cursor;
use crate::sql::lex::{Kind, Token};
use std::ops::Range;

/// `WITH [RECURSIVE] item, …`. Ranges are of tokens.
pub(in crate::sql) struct WithList {
    pub(in crate::sql) is_recursive: bool,
    pub(in crate::sql) items: Vec<Item>,
    /// Index of the token behind the list.
    pub(in crate::sql) end: usize,
}

/// `name [(columns)] AS [[NOT] MATERIALIZED] (body)`.
pub(in crate::sql) struct Item {
    pub(in crate::sql) name: String,
    /// All of it but SEARCH and CYCLE.
    pub(in crate::sql) at: Range<usize>,
    pub(super) has_columns: bool,
    pub(super) body: Range<usize>,
}

/// Reads the list that the first token begins; an empty one if it begins none. `None`: not
/// understood.
pub(in crate::sql) fn with_list(text: &str, tokens: &[Token]) -> Option<WithList> {
    let mut c = Cursor::new(text, tokens);
    let mut list = WithList { is_recursive: false, items: Vec::new(), end: 0 };
    if !c.eat("with") {
        return Some(list);
    }
    list.is_recursive = c.eat("recursive");
    loop {
        list.items.push(item(&mut c)?);
        if !c.eat_kind(Kind::Comma) {
            list.end = c.at;
            return Some(list);
        }
    }
}

fn item(c: &mut Cursor<'_>) -> Option<Item> {
    let start = c.at;
    let name = c.name()?;
    let has_columns = c.eat_group();
    if !c.eat("as") {
        return None;
    }
    c.eat("not");
    c.eat("materialized");
    let open = c.at;
    if !c.eat_group() {
        return None;
    }
    let item = Item { name, at: start..c.at, has_columns, body: open + 1..c.at - 1 };
    (search(c)? && cycle(c)?).then_some(item)
}

/// `SEARCH BREADTH|DEPTH FIRST BY columns SET column`, if it is next.
fn search(c: &mut Cursor<'_>) -> Option<bool> {
    if !c.eat("search") {
        return Some(true);
    }
    let order = c.eat("breadth") || c.eat("depth");
    let by = order && c.eat("first") && c.eat("by");
    names(c)?;
    let set = c.eat("set");
    c.name()?;
    Some(by && set)
}

/// `CYCLE columns SET column [TO value DEFAULT value] USING column`, if it is next.
fn cycle(c: &mut Cursor<'_>) -> Option<bool> {
    if !c.eat("cycle") {
        return Some(true);
    }
    names(c)?;
    if !c.eat("set") {
        return None;
    }
    c.name()?;
    c.at = c.find_top("using")?;
    c.skip();
    c.name()?;
    Some(true)
}

fn names(c: &mut Cursor<'_>) -> Option<()> {
    c.name()?;
    while c.eat_kind(Kind::Comma) {
        c.name()?;
    }
    Some(())
}
