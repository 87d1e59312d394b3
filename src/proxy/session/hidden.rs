//! EXECUTE within other statements (EXPLAIN ANALYZE, CREATE TABLE AS), or of what was not read: it may
//! run a write that SQL-level PREPARE has hidden behind a name. EXECUTE by itself is in `named`.

use crate::proxy::context::{Known, Understander};
use crate::sql::lex::{first_word, spells};
use crate::sql::prefilter::has_second_statement;
use crate::sql::reason::Reason;
use crate::sql::statement::{Class, Effect, Statement, Understanding, changes_no_row};

/// Whether a text may run what a name stands for.
pub(super) fn may_execute(sql: &[u8]) -> bool {
    says_execute(sql) && !changes_no_row(sql)
}

/// Whether it is an EXPLAIN that runs nothing.
fn only_explains(sql: &[u8]) -> bool {
    let mut buffer = [0; 16];
    let explains = first_word(sql, &mut buffer) == Some("explain");
    explains && !spells(sql, "analy") && !has_second_statement(sql)
}

/// Whether a text that is not read may change what names stand for.
pub(super) fn may_prepare(sql: &[u8]) -> bool {
    ["prepare", "deallocate", "discard", "execute"].iter().any(|word| spells(sql, word))
}

fn says_execute(sql: &[u8]) -> bool {
    const WORD: &[u8] = b"execute";
    let is_part = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_');
    let found = sql.windows(WORD.len()).enumerate();
    found.filter(|(_, word)| word.eq_ignore_ascii_case(WORD)).any(|(at, _)| {
        let before = at.checked_sub(1).and_then(|at| sql.get(at));
        !is_part(before) && !is_part(sql.get(at + WORD.len()))
    })
}

/// Whether one text prepares a write in SQL and goes on: what follows may execute it.
pub(super) fn prepares_and_executes(known: &Known) -> bool {
    match known {
        Known::Understood(u) => {
            u.statements.len() > 1 && u.statements.iter().any(|s| s.effect == Effect::PreparesWrite)
        }
        Known::Plain | Known::Unreadable(_) => false,
    }
}

/// What such a text means: of several statements, those that may run it can be told.
pub(super) fn executes(sql: &[u8], known: &Known, understander: &Understander) -> Known {
    let u = match known {
        Known::Understood(u) => u,
        // Of a text that concerns no migrated table by its words: it is one statement, or blanks.
        Known::Plain if only_explains(sql) => return Known::Plain,
        Known::Plain => {
            let Ok(text) = std::str::from_utf8(sql) else {
                return Known::Unreadable(Reason::ExecuteOfWrite);
            };
            let mut understood = crate::sql::statement::unread(sql);
            for statement in &mut understood.statements {
                statement.effect = Effect::None;
                may_write(sql, statement);
            }
            return Known::Understood(understander.counted(text, understood));
        }
        Known::Unreadable(_) => return Known::Unreadable(Reason::ExecuteOfWrite),
    };
    if u.statements.iter().all(is_by_name) {
        return known.clone();
    }
    let mut understood = Understanding::clone(u);
    for statement in &mut understood.statements {
        let text = sql.get(statement.at.clone()).unwrap_or_default();
        if may_execute(text) && !is_by_name(statement) && !only_explains(text) {
            may_write(text, statement);
        }
    }
    let text = std::str::from_utf8(sql).unwrap_or_default();
    Known::Understood(understander.counted(text, understood))
}

/// Whether the names in it are all that it has to do with prepared statements.
fn is_by_name(statement: &Statement) -> bool {
    matches!(statement.class, Class::Prepare(_) | Class::Execute(_) | Class::Deallocate(_))
}

fn may_write(sql: &[u8], statement: &mut Statement) {
    if !matches!(statement.class, Class::Ddl(_)) {
        statement.class = Class::Unclassified(Reason::ExecuteOfWrite);
        // Whatever table.
        statement.names = Vec::new();
    }
    let mut buffer = [0; 16];
    // Code may do more than execute: it may prepare and drop.
    let is_code = !matches!(first_word(sql, &mut buffer), Some("explain" | "create"));
    if statement.effect == Effect::Renames {
        // That is more.
    } else if is_code {
        statement.effect = Effect::Anything;
    } else if statement.effect == Effect::None {
        statement.effect = Effect::State;
    }
}
