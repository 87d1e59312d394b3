//! EXECUTE within other statements (EXPLAIN ANALYZE, CREATE TABLE AS), or of what was not read: it may
//! run a write that SQL-level PREPARE has hidden behind a name. EXECUTE by itself is in `named`.

use crate::proxy::context::{Known, Understander};
use crate::sql::reason::Reason;
use crate::sql::statement::{Class, Effect, Statement, Understanding, changes_no_row};

/// Whether a text may run what a name stands for.
pub(super) fn may_execute(sql: &[u8]) -> bool {
    says_execute(sql) && !changes_no_row(sql)
}

fn says_execute(sql: &[u8]) -> bool {
    sql.windows(7).any(|w| w.eq_ignore_ascii_case(b"execute"))
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
    let Known::Understood(u) = known else { return Known::Unreadable(Reason::ExecuteOfWrite) };
    if u.statements.iter().all(is_by_name) {
        return known.clone();
    }
    if u.statements.len() < 2 {
        return Known::Unreadable(Reason::ExecuteOfWrite);
    }
    let mut understood = Understanding::clone(u);
    for statement in &mut understood.statements {
        let text = sql.get(statement.at.clone()).unwrap_or_default();
        if may_execute(text) && !is_by_name(statement) {
            may_write(statement);
        }
    }
    let text = std::str::from_utf8(sql).unwrap_or_default();
    Known::Understood(understander.counted(text, understood))
}

/// Whether the names in it are all that it has to do with prepared statements.
fn is_by_name(statement: &Statement) -> bool {
    matches!(statement.class, Class::Prepare(_) | Class::Execute(_) | Class::Deallocate(_))
}

fn may_write(statement: &mut Statement) {
    if !matches!(statement.class, Class::Ddl(_)) {
        statement.class = Class::Unclassified(Reason::ExecuteOfWrite);
        // Whatever table.
        statement.names = Vec::new();
    }
    if statement.effect == Effect::None {
        statement.effect = Effect::State;
    }
}
