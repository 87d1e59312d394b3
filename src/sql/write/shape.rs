//! The shape of one INSERT, UPDATE, DELETE or MERGE on a source, read from its tokens.

use super::clauses::Clauses;
use super::merge::{self, When};
use super::returns::{Of, returns};
use super::with::with_list;
use super::{Feed, Returns, Verb};
use crate::sql::cursor::Cursor;
use crate::sql::lex::{Kind, Token, identifier};
use crate::sql::mention::{Mention, Table, mentions_at};
use crate::sql::reason::Reason;
use crate::sql::statement::{Name, Reader};
use crate::sql::target::Target;
use std::ops::Range;

/// The first Postgres with MERGE … RETURNING.
const MERGE_RETURNS: u32 = 17;

/// How many rows the statement can touch, as far as its text says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// One row by its key, or of VALUES, as far as the text says; correct for more.
    One,
    /// Bounded by the text: a list of VALUES, or one row that is removed.
    Few,
    /// Any number.
    Many,
}

/// One write on a source: byte positions in the statement's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) verb: Verb,
    /// Index of its token.
    pub(super) verb_token: usize,
    /// From its first token, which may begin a WITH list of its own, to its last.
    pub(super) at: Range<usize>,
    /// From the verb to the end, without RETURNING.
    pub(super) bare: Range<usize>,
    /// What its table is called in it.
    pub(super) refname: String,
    pub(super) returning: Option<Returning>,
    pub(super) returns: Returns,
    /// Whether `*` in RETURNING is the table's columns and no more.
    pub(super) is_alone: bool,
    /// How the keys that it vacates are learnt, if it vacates any.
    pub(super) vacated: Option<Vacated>,
    /// The verb, where the rows are locked before it, which the server does not do for the client's
    /// own statement (it does where a trigger stands before each row).
    pub(super) locked_for: Option<Verb>,
    /// Of a MERGE that cannot return what it did: where the keys are noted.
    pub(super) noted: Option<Vec<When>>,
    pub(super) feeds: Vec<Feed>,
}

/// `RETURNING [WITH (…)] list`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Returning {
    /// From the keyword up to the list.
    pub(super) head: Range<usize>,
    pub(super) list: Range<usize>,
    /// The tokens of the list.
    pub(super) tokens: Range<usize>,
    pub(super) with: With,
}

/// What a list calls the row that was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum With {
    /// There is no WITH, and nothing in the list that may be `old` or `new`.
    None,
    /// There is no WITH, and the list may say `old` or `new`.
    Default,
    /// The name that WITH gives to OLD.
    Old(String),
    /// A WITH that names NEW alone.
    New,
}

/// A write that may change key columns: the old keys have to be captured, too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Vacated {
    /// They are read and locked before.
    Before(Before),
    /// The client's RETURNING calls the old row so.
    Returned(String),
    /// A RETURNING of ours may name the old row.
    Returnable,
}

/// What finds the rows of an UPDATE before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Before {
    pub(super) table: Range<usize>,
    pub(super) from: Option<Range<usize>>,
    /// The keyword WHERE and the condition after it.
    pub(super) condition: Option<(Range<usize>, Range<usize>)>,
    pub(super) lock: RowLock,
}

/// How the rows are locked before an UPDATE. The stronger lock waits for foreign keys to them; the weaker
/// one, taken first where the UPDATE will need the stronger, makes a deadlock of two waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RowLock {
    /// `FOR NO KEY UPDATE`
    NoKey,
    /// `FOR UPDATE`
    Key,
}

/// Whose WITH list stands before a verb.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum List {
    /// That of the statement, which takes items of ours.
    Statements,
    /// The write's own, within an item.
    Own,
}

impl Shape {
    /// Reads a write; `tokens` is one statement without its semicolon, or what stands between two
    /// brackets. `None`: it is no write, or one on another table.
    ///
    /// # Errors
    /// Says what is not understood.
    pub(super) fn read(
        reader: &Reader<'_>,
        tokens: Range<usize>,
        list: List,
    ) -> Result<Option<Self>, Reason> {
        let (text, offset) = (reader.text, tokens.start);
        let tokens = reader.tokens.get(tokens).unwrap_or_default();
        let verb = with_list(text, tokens).ok_or(Reason::WithList)?.end;
        let mut c = Cursor::new(text, tokens);
        c.at = verb;
        let found = written(reader, &c, offset);
        if found.is_empty() {
            return Ok(None);
        }
        if found.iter().any(|m| m.table == Table::Shadow) {
            return Err(Reason::ShadowWrite);
        }
        let (first, last) = tokens.first().zip(tokens.last()).ok_or(Reason::WriteShape)?;
        let verb_at = c.peek().ok_or(Reason::WriteShape)?.at.start;
        let head = Head::read(&mut c)?;
        if found.first().is_none_or(|m| m.token != offset + head.table_token) {
            return Err(Reason::TableElsewhere);
        }
        let returning = returning(&c, tokens)?;
        let end = returning.as_ref().map_or(tokens.len(), |r| r.token);
        let clauses = Clauses { text, tokens, head: &head, end };
        let bare_end = end.checked_sub(1).and_then(|i| tokens.get(i)).ok_or(Reason::WriteShape)?;
        let mut shape = Self {
            verb: head.verb,
            verb_token: offset + verb,
            at: first.at.start..last.at.end,
            bare: verb_at..returning.as_ref().map_or(bare_end.at.end, |r| r.of.head.start),
            refname: head.refname.clone(),
            is_alone: clauses.is_alone(&c),
            returning: returning.map(|r| r.shifted(offset)),
            returns: Returns::Nothing,
            vacated: None,
            locked_for: None,
            noted: None,
            feeds: Vec::new(),
        };
        for mention in found {
            let target = reader.targets.get(mention.target).ok_or(Reason::WriteShape)?;
            shape.returns = shape.returns_of(reader, target);
            let vacates = clauses.vacates(&c, target)?;
            if vacates && shape.vacated.is_none() {
                let in_own_with = verb > 0 && list == List::Own;
                let context = (reader.functions, &**target, in_own_with);
                let vacated = clauses.vacated(&c, shape.returning.as_ref(), context);
                let by_trigger = |why| match target.update_changes_key {
                    true => Reason::KeyByTrigger,
                    false => why,
                };
                let vacated = vacated.map_err(by_trigger)?;
                let locks = matches!(vacated, Vacated::Before(_)) && !target.update_changes_key;
                shape.locked_for = locks.then_some(head.verb);
                shape.vacated = Some(vacated);
            }
            if shape.verb == Verb::Merge && target.server_version < MERGE_RETURNS {
                let alone = list == List::Statements && shape.returning.is_none();
                let noted = shape.noted.get_or_insert_default();
                if !alone || !merge::note(&clauses, &c, (reader.functions, mention, target), noted)
                {
                    return Err(Reason::MergeBefore17);
                }
            }
            let (target_index, spelling) = (mention.target, mention.spelling);
            shape.feeds.push(Feed {
                name: Name { target: target_index, table: mention.table, spelling },
                reach: clauses.reach(&c, target),
                vacates,
            });
        }
        Ok(Some(shape))
    }
}

impl Shape {
    fn returns_of(&self, reader: &Reader<'_>, target: &Target) -> Returns {
        let list = self.returning.as_ref().and_then(|r| reader.tokens.get(r.tokens.clone()));
        let of = Of { refname: &self.refname, is_alone: self.is_alone, target };
        returns(reader.text, list.unwrap_or_default(), &of)
    }
}

/// The migrated tables that the table of the write at the cursor may be.
fn written<'m>(reader: &Reader<'m>, c: &Cursor<'_>, offset: usize) -> &'m [Mention] {
    let verbs = ["insert", "update", "delete", "merge"];
    let mut c = *c;
    if !verbs.iter().any(|v| c.is(v)) {
        return &[];
    }
    c.skip();
    while c.is("into") || c.is("from") || c.is("only") || c.is_kind(Kind::Open) {
        c.skip();
    }
    let Some((_, token)) = c.qualified_name() else { return &[] };
    mentions_at(reader.found, offset + token)
}

struct ReturningAt {
    /// Index of the keyword.
    token: usize,
    of: Returning,
}

impl ReturningAt {
    /// With indexes among all tokens of the statement.
    fn shifted(self, offset: usize) -> Returning {
        let tokens = self.of.tokens;
        Returning { tokens: tokens.start + offset..tokens.end + offset, ..self.of }
    }
}

fn returning(c: &Cursor<'_>, tokens: &[Token]) -> Result<Option<ReturningAt>, Reason> {
    let Some(token) = c.find_top("returning") else { return Ok(None) };
    let mut after = *c;
    after.at = token + 1;
    if after.find_top("returning").is_some() {
        return Err(Reason::TwoReturning);
    }
    let mut with = if after.eat("with") {
        let group = after.at;
        after.eat_group();
        with(c, tokens.get(group..after.at).unwrap_or_default()).ok_or(Reason::ReturningWith)?
    } else {
        With::None
    };
    let list = tokens.get(after.at..).unwrap_or_default();
    let rows = ["old", "new"];
    let named = |t: &Token| identifier(c.text(), t).is_some_and(|n| rows.contains(&n.as_str()));
    if with == With::None && list.iter().any(named) {
        with = With::Default;
    }
    let keyword = tokens.get(token).ok_or(Reason::WriteShape)?.at.clone();
    let head_end = tokens.get(after.at - 1).ok_or(Reason::WriteShape)?.at.end;
    let end = tokens.last().ok_or(Reason::WriteShape)?.at.end;
    let of = Returning {
        head: keyword.start..head_end,
        list: head_end..end,
        tokens: after.at..tokens.len(),
        with,
    };
    Ok(Some(ReturningAt { token, of }))
}

/// `(OLD AS name, NEW AS name)`, in any order, either or both.
fn with(c: &Cursor<'_>, group: &[Token]) -> Option<With> {
    let mut c = Cursor::new(c.text(), group);
    let mut old = None;
    if !c.eat_kind(Kind::Open) {
        return None;
    }
    loop {
        let is_old = c.eat("old");
        if !is_old && !c.eat("new") {
            return None;
        }
        let name = c.eat("as").then(|| c.name()).flatten()?;
        if is_old {
            old = Some(name);
        }
        if !c.eat_kind(Kind::Comma) {
            return Some(old.map_or(With::New, With::Old));
        }
    }
}

/// `INSERT INTO t [AS a]`, `UPDATE [ONLY] t [*] [[AS] a]`, `DELETE FROM [ONLY] t [*] [[AS] a]`,
/// `MERGE INTO [ONLY] t [*] [[AS] a]`.
pub(super) struct Head {
    pub(super) verb: Verb,
    table_token: usize,
    pub(super) table: Range<usize>,
    refname: String,
}

impl Head {
    fn read(c: &mut Cursor<'_>) -> Result<Self, Reason> {
        let verb = Self::verb(c).ok_or(Reason::WriteShape)?;
        let start = c.peek().ok_or(Reason::WriteShape)?.at.start;
        let in_brackets = verb != Verb::Insert && c.eat("only") && c.eat_kind(Kind::Open);
        let (mut refname, table_token) = c.qualified_name().ok_or(Reason::TableInParentheses)?;
        if in_brackets && !c.eat_kind(Kind::Close) {
            return Err(Reason::TableInParentheses);
        }
        if verb != Verb::Insert && c.is_text("*") {
            c.skip();
        }
        let bare_alias = verb != Verb::Insert && !Self::ends_head(c);
        if c.eat("as") || bare_alias {
            refname = c.name().ok_or(Reason::WriteShape)?;
        }
        let end = c.at.checked_sub(1).and_then(|i| {
            let mut last = *c;
            last.at = i;
            last.peek().map(|t| t.at.end)
        });
        let table = start..end.ok_or(Reason::WriteShape)?;
        Ok(Self { verb, table_token, table, refname })
    }

    fn verb(c: &mut Cursor<'_>) -> Option<Verb> {
        if c.eat("insert") {
            return c.eat("into").then_some(Verb::Insert);
        }
        if c.eat("update") {
            return Some(Verb::Update);
        }
        if c.eat("delete") {
            return c.eat("from").then_some(Verb::Delete);
        }
        (c.eat("merge") && c.eat("into")).then_some(Verb::Merge)
    }

    fn ends_head(c: &Cursor<'_>) -> bool {
        c.peek().is_none_or(|t| !matches!(t.kind, Kind::Word | Kind::Quoted | Kind::UnicodeQuoted))
            || ["as", "set", "using", "where", "returning"].iter().any(|k| c.is(k))
    }
}
