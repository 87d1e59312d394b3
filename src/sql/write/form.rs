//! The mirrored form of a statement.
//!
//! ```sql
//! WITH "pgsegue w" AS (UPDATE orders AS o SET … RETURNING o."id" AS "pgsegue 1")
//! SELECT count(*), "pgsegue"."sync_x"(array_agg("pgsegue 1"), 0) FROM "pgsegue w"
//! ```
//!
//! An INSERT of one row and an UPDATE of one key need no array of keys: the function is called in
//! the RETURNING itself, for every row that there is, were it several after all.
//!
//! ```sql
//! UPDATE orders AS o SET … WHERE id = $1 RETURNING "pgsegue"."follow_x"(o."id", 0) AS "pgsegue d"
//! ```
//!
//! The keys come from RETURNING: what the statement really touched. The function call is evaluated
//! after the CTE has run to its end (an aggregate needs all its rows), and being VOLATILE it sees
//! the statement's own changes. With a RETURNING of the client's the call sits in a scalar
//! subquery, so that the rows come unjoined and in their order (hazard C11).
//!
//! A write that is an item of a WITH list is split in two, so that what refers to it sees what it
//! saw. The call is in an INSERT that inserts nothing: the server runs that to its end whoever
//! refers to it, and with it the write. Its outcome comes as a notice.
//!
//! ```sql
//! WITH "pgsegue w0" ("pgsegue 1", "pgsegue c1") AS (DELETE FROM orders RETURNING "orders"."id", id),
//! w AS (SELECT "pgsegue c1" AS "id" FROM "pgsegue w0"),
//! "pgsegue d0" AS (INSERT INTO "pgsegue"."sink" SELECT 1 FROM (SELECT … AS d FROM "pgsegue w0") AS c
//!     WHERE CASE WHEN d = 0 THEN false ELSE "pgsegue"."tell"('x', d) END)
//! SELECT * FROM w
//! ```
//!
//! A MERGE that cannot return notes its keys on the way ([`super::merge`]), which closes the gate:
//!
//! ```sql
//! MERGE INTO orders o USING v ON … WHEN MATCHED AND CASE WHEN v.n > 5
//!     THEN "pgsegue"."tell"('x', "pgsegue"."sync_x"(ARRAY[o."id"], 2)) IS NOT NULL ELSE false END THEN DELETE
//! ```
//!
//! It stands right behind the write: so the writes of one statement run in the order that they have
//! without it. Each call re-reads its keys after its own write, so the last one to touch a key
//! leaves the shadow as the source is.

use super::merge::Keys;
use super::shape::{Reach, RowLock, Shape, Vacated};
use super::{Before, Layout, Part, Place, Write};
use crate::sql::ident::{Ident, literal};
use crate::sql::splice::Spliced;
use crate::sql::target::{SyncMode, Target};
use crate::sql::write::Modes;
use std::fmt::Write as _;
use std::ops::Range;
use std::sync::Arc;

/// Keys per call of the sync function, where a statement may touch many rows: bounds the array.
const BATCH_KEYS: u32 = 5_000;

const AFTER_OLD_KEYS: &str = " >= 0";

/// A feed that is mirrored.
pub(super) struct Fed<'a> {
    target: &'a Target,
    mode: SyncMode,
    reach: Reach,
    vacates: bool,
    /// Its number in the statement.
    number: usize,
    /// The numbers of its key columns.
    keys: Range<usize>,
}

/// The feeds of a part that are mirrored; the part's first has this number.
pub(super) fn fed<'a>(
    part: &Part,
    first: usize,
    targets: &'a [Arc<Target>],
    modes: Modes,
) -> Vec<Fed<'a>> {
    let mut fed = Vec::with_capacity(1);
    let mut key = 1;
    for (n, feed) in part.shape.feeds.iter().enumerate() {
        let (Some(mode), Some(target)) = (modes.of(first + n), targets.get(feed.name.target))
        else {
            continue;
        };
        let keys = key..key + target.key.len();
        key = keys.end;
        let (reach, vacates) = (feed.reach, feed.vacates);
        fed.push(Fed { target, mode, reach, vacates, number: first + n, keys });
    }
    fed
}

/// What the rows are where this is the statement itself.
pub(super) fn layout(main: &Part, fed: &[Fed<'_>]) -> Layout {
    if main.shape.noted.is_some() {
        return Layout::Own;
    }
    let returns = main.shape.returning.is_some();
    match (fed, returns) {
        ([], _) => Layout::Own,
        (fed, true) if is_followed(fed) => Layout::Leading(fed.len()),
        (fed, false) if is_followed(fed) => Layout::Outcome,
        (fed, true) => {
            let keys: usize = fed.iter().map(|f| f.keys.len() + old_keys(&main.shape, f)).sum();
            Layout::Leading(fed.len() + keys)
        }
        (_, false) => Layout::Counted,
    }
}

/// Columns of old keys that a feed adds to RETURNING.
fn old_keys(shape: &Shape, fed: &Fed<'_>) -> usize {
    match &shape.vacated {
        Some(Vacated::Returned(_) | Vacated::Returnable) if fed.vacates => fed.keys.len(),
        Some(_) | None => 0,
    }
}

/// Whether the functions for one row can be used.
fn is_followed(fed: &[Fed<'_>]) -> bool {
    let one =
        |f: &Fed<'_>| f.reach == Reach::One && !f.vacates && f.target.follow_function.is_some();
    fed.iter().all(one)
}

pub(super) fn mirrored(
    write: &Write,
    text: &str,
    targets: &[Arc<Target>],
    modes: Modes,
) -> Spliced {
    let mut out = Spliced::default();
    let mut done = write.whole.start;
    let mut first = 0;
    for (number, part) in write.parts.iter().enumerate() {
        let fed = fed(part, first, targets, modes);
        let own = first;
        first += part.shape.feeds.len();
        if fed.is_empty() {
            continue;
        }
        let form = Form { text, part, fed, number, first: own };
        done = match &part.place {
            Place::Item { at, columns, .. } => {
                out.client(text, done..at.start);
                form.item(&mut out, at, columns.as_deref());
                at.end
            }
            Place::Main { .. } if part.shape.noted.is_some() => {
                form.noted(&mut out, done);
                write.whole.end
            }
            Place::Main { .. } if is_followed(&form.fed) => {
                out.client(text, done..part.shape.bare.end);
                form.followed(&mut out);
                write.whole.end
            }
            Place::Main { with } => {
                form.wrapped(&mut out, done, *with);
                form.rows(&mut out);
                write.whole.end
            }
            Place::Copied { with, columns } => {
                form.wrapped(&mut out, done, *with);
                form.sinks(&mut out);
                out.ours(&format!(" SELECT {} FROM {}", picked(columns), form.source()));
                part.shape.at.end
            }
        };
    }
    out.client(text, done..write.whole.end);
    out
}

/// One write and what is made of it.
struct Form<'a> {
    text: &'a str,
    part: &'a Part,
    fed: Vec<Fed<'a>>,
    /// The part's number in the statement.
    number: usize,
    /// The number of its first feed.
    first: usize,
}

impl Form<'_> {
    fn shape(&self) -> &Shape {
        &self.part.shape
    }

    fn refname(&self) -> String {
        Ident::new(self.shape().refname.clone()).quoted()
    }

    /// A name of ours for something of this part.
    fn name(&self, kind: char) -> String {
        match self.part.place {
            Place::Item { .. } => format!("\"pgsegue {kind}{}\"", self.number),
            Place::Main { .. } | Place::Copied { .. } => format!("\"pgsegue {kind}\""),
        }
    }

    /// What the keys are read from.
    fn source(&self) -> String {
        match &self.part.place {
            // Nothing refers to it but ours: it keeps its name.
            Place::Item { name, columns: None, .. } => Ident::new(name.clone()).quoted(),
            Place::Item { .. } | Place::Main { .. } | Place::Copied { .. } => self.name('w'),
        }
    }

    /// A MERGE each of whose conditions notes the keys as well.
    fn noted(&self, out: &mut Spliced, mut done: usize) {
        for when in self.shape().noted.iter().flatten() {
            out.client(self.text, done..when.at.start).ours(" AND ");
            if let Some(condition) = &when.condition {
                out.ours("CASE WHEN ").client(self.text, condition.clone()).ours(" THEN ");
            }
            self.notes(out, &when.keys);
            out.ours(if when.condition.is_some() { " ELSE false END " } else { " " });
            done = when.at.end;
        }
        out.client(self.text, done..self.shape().at.end);
    }

    /// A condition that holds, and records a key.
    fn notes(&self, out: &mut Spliced, keys: &Keys) {
        let refname = self.refname();
        let first = self.first;
        for (n, fed) in self.fed.iter().enumerate() {
            let (target, and) = (fed.target, if n == 0 { "" } else { " AND " });
            let name = literal(&target.migration);
            let function = &target.sync_function;
            out.ours(&format!("{and}\"pgsegue\".\"tell\"({name}, {function}("));
            match keys {
                Keys::Matched => {
                    for key in &target.key {
                        out.ours(&format!("ARRAY[{refname}.{}], ", key.quoted()));
                    }
                }
                Keys::Inserted(values) => {
                    let values = values.get(fed.number - first).into_iter().flatten();
                    let types = target.copy.iter().flat_map(|copy| &copy.key_types);
                    for (value, kind) in values.zip(types) {
                        out.ours("ARRAY[CAST(").client(self.text, value.clone());
                        out.ours(&format!(" AS {})], ", kind.sql));
                    }
                }
            }
            out.ours(&format!("{})) IS NOT NULL", SyncMode::RecordOnly.as_sql()));
        }
    }

    /// Calls of the functions for one row, in RETURNING.
    fn followed(&self, out: &mut Spliced) {
        let refname = self.refname();
        let mut calls = String::new();
        for (n, fed) in self.fed.iter().enumerate() {
            let function = fed.target.follow_function.as_deref().unwrap_or_default();
            let comma = if n == 0 { "" } else { ", " };
            let _infallible = write!(calls, "{comma}{function}(");
            for key in &fed.target.key {
                let _infallible = write!(calls, "{refname}.{}, ", key.quoted());
            }
            let _infallible = write!(calls, "{}) AS {}", fed.mode.as_sql(), outcome_name(n));
        }
        self.returning(out, &calls);
    }

    /// RETURNING with what is ours first.
    fn returning(&self, out: &mut Spliced, ours: &str) {
        match &self.shape().returning {
            None => out.ours(" RETURNING ").ours(ours),
            Some(returning) => {
                // Its keyword is written anew, unless WITH follows it.
                const KEYWORD_BYTES: usize = "RETURNING".len();
                out.ours(" ");
                if returning.head.len() > KEYWORD_BYTES {
                    out.client(self.text, returning.head.clone());
                } else {
                    out.ours("RETURNING");
                }
                out.ours(" ").ours(ours).ours(", ").client(self.text, returning.list.clone())
            }
        };
    }

    /// The statement as an item of its WITH list, up to where the rest of that begins.
    fn wrapped(&self, out: &mut Spliced, done: usize, with: Before) {
        out.client(self.text, done..self.shape().bare.start);
        out.ours(if with == Before::List { ", " } else { "WITH " });
        self.old_keys(out);
        out.ours(&self.name('w'));
        if let Place::Copied { columns, .. } = &self.part.place {
            out.ours(&format!(" ({})", self.columns(columns.len())));
        }
        out.ours(" AS (");
        self.body(out, self.shape().bare.start);
        out.ours(") ");
    }

    /// An item of a WITH list.
    fn item(&self, out: &mut Spliced, at: &Range<usize>, columns: Option<&[String]>) {
        self.old_keys(out);
        let body = self.shape().at.clone();
        match columns {
            None => {
                out.client(self.text, at.start..body.start);
                self.body(out, body.start);
            }
            Some(columns) => {
                let names = self.columns(columns.len());
                out.ours(&format!("{} ({names}) AS (", self.name('w')));
                self.body(out, body.start);
                out.ours("), ").client(self.text, at.start..body.start);
                out.ours(&format!("SELECT {} FROM {}", picked(columns), self.source()));
            }
        }
        out.client(self.text, body.end..at.end);
        self.sinks(out);
    }

    /// The write itself, returning its keys first.
    fn body(&self, out: &mut Spliced, start: usize) {
        let (text, shape) = (self.text, self.shape());
        match shape.vacated.as_ref().filter(|_| self.vacates()) {
            Some(Vacated::Before(before)) => {
                let count = format!("(SELECT pg_catalog.count(*) FROM {})", self.name('k'));
                match &before.condition {
                    Some((keyword, condition)) => out
                        .client(text, start..keyword.end)
                        .ours(" (")
                        .client(text, condition.clone())
                        .ours(") AND ")
                        .ours(&count)
                        .ours(AFTER_OLD_KEYS),
                    None => out
                        .client(text, start..shape.bare.end)
                        .ours(" WHERE ")
                        .ours(&count)
                        .ours(AFTER_OLD_KEYS),
                };
                self.returning(out, &self.keys("pgsegue ", &self.refname(), |_| true));
            }
            Some(Vacated::Returned(old)) => {
                out.client(text, start..shape.bare.end);
                self.returning(out, &self.keys_and_old(&Ident::new(old.clone()).quoted()));
            }
            Some(Vacated::Returnable) => {
                out.client(text, start..shape.bare.end);
                let keys = self.keys_and_old("\"pgsegue o\"");
                match &shape.returning {
                    None => out.ours(&format!(" RETURNING WITH (OLD AS \"pgsegue o\") {keys}")),
                    Some(returning) => out
                        .ours(&format!(" RETURNING WITH (OLD AS \"pgsegue o\") {keys}, "))
                        .client(text, returning.list.clone()),
                };
            }
            None => {
                out.client(text, start..shape.bare.end);
                self.returning(out, &self.keys("pgsegue ", &self.refname(), |_| true));
            }
        }
    }

    fn vacates(&self) -> bool {
        self.fed.iter().any(|f| f.vacates)
    }

    /// The keys that the rows have now, locked as the update will lock them. It is read first
    /// because the update's condition asks for its count; a self-join instead would lose the
    /// client's update under concurrency (hazard A6).
    fn old_keys(&self, out: &mut Spliced) {
        let Some(Vacated::Before(before)) =
            self.shape().vacated.as_ref().filter(|_| self.vacates())
        else {
            return;
        };
        let refname = self.refname();
        out.ours(&self.name('k'))
            .ours(" AS MATERIALIZED (SELECT ")
            .ours(&self.keys("pgsegue ", &refname, |f| f.vacates))
            .ours(" FROM ")
            .client(self.text, before.table.clone());
        if let Some(from) = &before.from {
            out.ours(", ").client(self.text, from.clone());
        }
        if let Some((_, condition)) = &before.condition {
            out.ours(" WHERE ").client(self.text, condition.clone());
        }
        let lock = match before.lock {
            RowLock::NoKey => "NO KEY UPDATE",
            RowLock::Key => "UPDATE",
        };
        out.ours(&format!(" FOR {lock} OF {refname}), "));
    }

    /// Key columns of a row of this name, each under a name of ours.
    fn keys(&self, prefix: &str, row: &str, of: impl Fn(&Fed<'_>) -> bool) -> String {
        let mut keys = String::new();
        for fed in self.fed.iter().filter(|f| of(f)) {
            for (n, key) in fed.keys.clone().zip(&fed.target.key) {
                let comma = if keys.is_empty() { "" } else { ", " };
                let _infallible = write!(keys, "{comma}{row}.{} AS \"{prefix}{n}\"", key.quoted());
            }
        }
        keys
    }

    fn keys_and_old(&self, old: &str) -> String {
        let keys = self.keys("pgsegue ", &self.refname(), |_| true);
        format!("{keys}, {}", self.keys("pgsegue o", old, |f| f.vacates))
    }

    /// The names of all columns of the write, ours and the client's, by their positions.
    fn columns(&self, clients: usize) -> String {
        let numbers = || self.fed.iter().flat_map(|f| f.keys.clone());
        let mut names: Vec<_> = numbers().map(|n| format!("\"pgsegue {n}\"")).collect();
        for fed in self.fed.iter().filter(|f| old_keys(self.shape(), f) > 0) {
            names.extend(fed.keys.clone().map(|n| format!("\"pgsegue o{n}\"")));
        }
        names.extend((1..=clients).map(|n| format!("\"pgsegue c{n}\"")));
        names.join(", ")
    }

    /// What comes behind the write: the outcomes, and the client's rows or their number.
    fn rows(&self, out: &mut Spliced) {
        if self.shape().returning.is_some() {
            out.ours("SELECT ");
            for (n, fed) in self.fed.iter().enumerate() {
                let (call, name) = (self.call(fed), outcome_name(n));
                out.ours(&format!("(SELECT pg_catalog.max(d) FROM ({call}) AS c) AS {name}, "));
            }
            out.ours(&format!("w.* FROM {} AS w", self.source()));
            return;
        }
        match self.fed.as_slice() {
            [only] => drop(out.ours(&self.call(only))),
            several => {
                for (n, fed) in several.iter().enumerate() {
                    let mut outcomes = vec!["0"; several.len()];
                    if let Some(own) = outcomes.get_mut(n) {
                        *own = "d";
                    }
                    let union = if n == 0 { "SELECT n, " } else { " UNION ALL SELECT 0, " };
                    let (outcomes, call) = (outcomes.join(", "), self.call(fed));
                    out.ours(&format!("{union}{outcomes} FROM ({call}) AS c"));
                }
            }
        }
    }

    /// An item for each feed that calls its function and stores nothing.
    fn sinks(&self, out: &mut Spliced) {
        for fed in &self.fed {
            out.ours(&format!(
                ", \"pgsegue d{}\" AS (INSERT INTO \"pgsegue\".\"sink\" SELECT 1 FROM ({}) AS c \
                 WHERE CASE WHEN d OPERATOR(pg_catalog.=) 0 THEN false \
                 ELSE \"pgsegue\".\"tell\"({}, d) END)",
                fed.number,
                self.call(fed),
                literal(&fed.target.migration)
            ));
        }
    }

    /// `SELECT n, d FROM …`: rows touched and the sync function's outcome, a row per batch.
    fn call(&self, fed: &Fed<'_>) -> String {
        let names = fed.keys.clone().map(|n| format!("\"pgsegue {n}\"")).collect::<Vec<_>>();
        let arrays = names.iter().fold(String::new(), |mut arrays, name| {
            let _infallible = write!(arrays, "pg_catalog.array_agg({name}), ");
            arrays
        });
        let (source, columns) = (self.source(), names.join(", "));
        let (count, keys) = match self.vacated_keys(fed) {
            Some(vacated) => (
                "pg_catalog.sum(n)::pg_catalog.int8",
                format!("(SELECT 1 AS n, {columns} FROM {source} UNION ALL {vacated}) AS u"),
            ),
            None => ("pg_catalog.count(*)", source),
        };
        let function = &fed.target.sync_function;
        let mode = fed.mode.as_sql();
        let select = format!("SELECT {count} AS n, {function}({arrays}{mode}) AS d FROM ");
        match fed.reach {
            Reach::One | Reach::Few => format!("{select}{keys}"),
            Reach::Many => {
                let n = if fed.vacates { "n, " } else { "" };
                format!(
                    "{select}(SELECT {n}{columns}, (pg_catalog.row_number() OVER () - 1) \
                     / {BATCH_KEYS} AS b FROM {keys}) AS x GROUP BY b"
                )
            }
        }
    }

    /// The query of the keys that the rows had before.
    fn vacated_keys(&self, fed: &Fed<'_>) -> Option<String> {
        let vacated = self.shape().vacated.as_ref().filter(|_| fed.vacates)?;
        let named = |prefix: &str| {
            let names = fed.keys.clone().map(|n| format!("\"pgsegue {prefix}{n}\""));
            names.collect::<Vec<_>>().join(", ")
        };
        Some(match vacated {
            Vacated::Before(_) => format!("SELECT 0, {} FROM {}", named(""), self.name('k')),
            // A row that is new was none.
            Vacated::Returned(_) | Vacated::Returnable => format!(
                "SELECT 0, {} FROM {} WHERE \"pgsegue o{}\" IS NOT NULL",
                named("o"),
                self.source(),
                fed.keys.start
            ),
        })
    }
}

/// The client's columns by their positions, each under its name.
fn picked(columns: &[String]) -> String {
    let named = |(n, name): (usize, &String)| {
        format!("\"pgsegue c{}\" AS {}", n + 1, Ident::new(name.clone()).quoted())
    };
    columns.iter().enumerate().map(named).collect::<Vec<_>>().join(", ")
}

fn outcome_name(number: usize) -> String {
    match number {
        0 => "\"pgsegue d\"".to_owned(),
        n => format!("\"pgsegue d{}\"", n + 1),
    }
}
