//! Checking the declared migrations, one by one and against each other.

use super::file::{self, Expressions};
use super::settings::Check;
use crate::engine::Declared;
use crate::manifest::{DualWrite, Levers, Migration, Percent, Scans, Sticky, Unclassified};
use crate::sql::ident::{Ident, QualifiedName};
use std::time::Duration;
use toml::Spanned;

const NAME_BYTES_MAX: usize = 40;
/// What Postgres keeps of an identifier.
const IDENT_BYTES_MAX: usize = 63;
const LOCK_BUDGET_MS: u64 = 100;
/// Below the server's default deadlock_timeout of 1 s: a mirrored write must give up before the
/// deadlock detector picks a victim.
const LOCK_BUDGET_MS_MAX: u64 = 900;
const STICKY: [(&str, Sticky); 4] = [
    ("session", Sticky::Session),
    ("statement", Sticky::Statement),
    ("application_name", Sticky::ApplicationName),
    ("user", Sticky::User),
];
const SCANS: [(&str, Scans); 2] = [("source", Scans::Source), ("shadow", Scans::Shadow)];
const UNCLASSIFIED: [(&str, Unclassified); 2] =
    [("record", Unclassified::Record), ("refuse", Unclassified::Refuse)];

/// The migrations without a problem; the others are in `check`.
pub(super) fn all(check: &mut Check<'_>, raw: Vec<file::Migration>) -> Vec<Declared> {
    let mut names: Vec<String> = Vec::new();
    let mut tables = Vec::new();
    let mut declared = Vec::new();
    for raw in raw {
        let name = name(check, &raw.name, &names);
        names.push(raw.name.get_ref().clone());
        let (number, owner) = (names.len(), raw.name.get_ref().as_str());
        let source = table(check, &raw.source, (Part::Source, number, owner), &mut tables);
        let shadow = table(check, &raw.shadow, (Part::Shadow, number, owner), &mut tables);
        let key = key(check, &raw.key, raw.columns.get_ref());
        if raw.columns.get_ref().0.is_empty() {
            let hint =
                "write each column of the shadow as SQL over the source, for example id = \"id\"";
            check.wrong(&raw.columns.span(), "no column is mapped", hint);
        }
        let columns = expressions(check, &raw.columns.get_ref().0);
        let reverse = expressions(check, &raw.reverse.0);
        let levers = levers(check, &raw.routing);
        let unclassified =
            check.word(raw.unclassified.as_ref(), &UNCLASSIFIED, Unclassified::Record);
        let lock_budget =
            check.number(raw.lock_budget_ms.as_ref(), LOCK_BUDGET_MS, 1..=LOCK_BUDGET_MS_MAX);
        let rate = rate(check, raw.backfill_rows_per_second.as_ref());
        let whole = (|| {
            let migration = Migration {
                name: name?,
                source: source?,
                shadow: shadow?,
                key: key?,
                columns: columns?,
                reverse: reverse?,
                unclassified: unclassified?,
                lock_budget: Duration::from_millis(lock_budget?),
                backfill_rows_per_second: rate?,
                accepted: raw.accepted,
            };
            Some(Declared { migration, levers: levers? })
        })();
        declared.extend(whole);
    }
    declared
}

fn name(check: &mut Check<'_>, raw: &Spanned<String>, others: &[String]) -> Option<String> {
    let text = raw.get_ref();
    let shape = text.len() <= NAME_BYTES_MAX
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if !shape {
        let hint = "at most 40 of a-z, 0-9 and _, starting with a letter, for example orders_v2";
        check.wrong(&raw.span(), &format!("\"{text}\" cannot name a migration"), hint);
        return None;
    }
    if others.contains(text) {
        check.wrong(&raw.span(), &format!("two migrations are named \"{text}\""), "");
        return None;
    }
    Some(text.clone())
}

/// What a table is to a migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Source,
    Shadow,
}

/// A table may be the source of several migrations, or the shadow of one.
fn table(
    check: &mut Check<'_>,
    raw: &Spanned<String>,
    (part, number, owner): (Part, usize, &str),
    taken: &mut Vec<(QualifiedName, Part, usize, String)>,
) -> Option<QualifiedName> {
    let name = match QualifiedName::parse(raw.get_ref()) {
        Ok(name) => name,
        Err(error) => {
            check.wrong(&raw.span(), &error.to_string(), "");
            return None;
        }
    };
    let both_sources = |by: Part| by == Part::Source && part == Part::Source;
    let taker = taken.iter().find(|(other, by, _, _)| *other == name && !both_sources(*by));
    if let Some((_, _, by_number, by)) = taker {
        let message = if *by_number == number {
            format!("the shadow is the source itself: {name}")
        } else {
            format!("{name} is a table of the migration \"{by}\" already")
        };
        check.wrong(&raw.span(), &message, HINT);
        return None;
    }
    taken.push((name.clone(), part, number, owner.to_owned()));
    Some(name)
}

const HINT: &str = "several migrations may have one source; a shadow is of one, and no source";

fn key(
    check: &mut Check<'_>,
    raw: &Spanned<Vec<Spanned<String>>>,
    columns: &Expressions,
) -> Option<Vec<Ident>> {
    if raw.get_ref().is_empty() {
        let hint = "name the source columns that are unique and not null together, for example key = [\"id\"]";
        check.wrong(&raw.span(), "the key has no column", hint);
        return None;
    }
    let mut key: Vec<Ident> = Vec::new();
    for column in raw.get_ref() {
        let ident = ident(check, column)?;
        if key.contains(&ident) {
            check.wrong(&column.span(), &format!("\"{ident}\" is in the key twice"), "");
            return None;
        }
        if !columns.0.iter().any(|(_, sql)| mentions(sql.get_ref(), &ident)) {
            let message =
                format!("no column of the shadow is made from the key column \"{ident}\"");
            let hint = format!("add {ident} = \"{ident}\" to [migration.columns]");
            check.wrong(&column.span(), &message, &hint);
            return None;
        }
        key.push(ident);
    }
    Some(key)
}

fn expressions(
    check: &mut Check<'_>,
    raw: &[(Spanned<String>, Spanned<String>)],
) -> Option<Vec<(Ident, String)>> {
    let mut valid = Vec::new();
    for (column, sql) in raw {
        if sql.get_ref().trim().is_empty() {
            let hint = "write SQL, for example \"total * 100\", or \"NULL\"";
            check.wrong(&sql.span(), "the expression is empty", hint);
        } else if let Some(column) = ident(check, column) {
            valid.push((column, sql.get_ref().trim().to_owned()));
        }
    }
    (valid.len() == raw.len()).then_some(valid)
}

fn ident(check: &mut Check<'_>, raw: &Spanned<String>) -> Option<Ident> {
    let text = raw.get_ref();
    if text.is_empty() || text.contains('\0') || text.len() > IDENT_BYTES_MAX {
        let hint = "a column is written as Postgres stores it, without quotes, 1 to 63 bytes";
        check.wrong(&raw.span(), &format!("\"{text}\" cannot be a column"), hint);
        return None;
    }
    Some(Ident::new(text.clone()))
}

fn levers(check: &mut Check<'_>, raw: &file::Routing) -> Option<Levers> {
    let reads = percent(check, raw.reads.as_ref());
    let dark_reads = percent(check, raw.dark_reads.as_ref());
    let sticky = check.word(raw.sticky.as_ref(), &STICKY, Sticky::Session);
    let scans = check.word(raw.scans.as_ref(), &SCANS, Scans::Source);
    let dual_write = if raw.dual_write.unwrap_or(true) { DualWrite::On } else { DualWrite::Off };
    let (reads, dark_reads, sticky, scans) = (reads?, dark_reads?, sticky?, scans?);
    Some(Levers { dual_write, reads, dark_reads, sticky, scans })
}

fn percent(check: &mut Check<'_>, raw: Option<&Spanned<f64>>) -> Option<Percent> {
    let Some(raw) = raw else { return Some(Percent::ZERO) };
    let percent = Percent::new(*raw.get_ref());
    if percent.is_none() {
        check.wrong(&raw.span(), "must be between 0 and 100", "it is a share of reads in percent");
    }
    percent
}

fn rate(check: &mut Check<'_>, raw: Option<&Spanned<u64>>) -> Option<Option<u32>> {
    let Some(raw) = raw else { return Some(None) };
    let rate = u32::try_from(*raw.get_ref()).ok().filter(|rate| *rate > 0);
    if rate.is_none() {
        let hint =
            "leave the key out for no limit; to hold the backfill, use pgsegue migration pause";
        check.wrong(&raw.span(), "must be between 1 and 4294967295", hint);
    }
    rate.map(Some)
}

/// Whether an expression names a column, bare (folded as SQL does) or in quotes.
fn mentions(sql: &str, column: &Ident) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_' || c == '$';
    sql.contains(&column.quoted())
        || sql.split(|c| !is_word(c)).any(|word| word.to_lowercase() == column.as_str())
}
