//! What the catalog has by which the tables of a migration may be written without being named: views,
//! rules, functions and procedures. Bodies are searched for names, nothing is understood of them: what
//! may write counts as a way.
//!
//! Looked at about once a second by a fingerprint. What was made in between was not seen, so a migration
//! to which a way has been added is marked: everything is verified again.

use super::runtime::Engine;
use super::{Error, drift};
use crate::pg::Connection;
use crate::sql::body::{self, Does, Spelled};
use crate::sql::ident::{Ident, QualifiedName};
use crate::sql::target::Target;
use crate::sql::ways::{Named, Ways};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio_postgres::GenericClient;

/// Changes when a function, a procedure, a view or a rule of users' is made, altered or dropped.
const FINGERPRINT: &str = "SELECT concat_ws(' ', \
    (SELECT concat_ws(' ', count(*), sum(hashtext(oid || ' ' || xmin::text)::int8)) \
        FROM pg_proc WHERE oid >= 16384), \
    (SELECT concat_ws(' ', count(*), sum(hashtext(oid || ' ' || xmin::text)::int8)) \
        FROM pg_rewrite WHERE oid >= 16384), \
    (SELECT sum(hashtext(oid || relname)::int8) FROM pg_class \
        WHERE oid IN (SELECT ev_class FROM pg_rewrite WHERE oid >= 16384)))";

/// What has rules, and what they name.
const RULES: &str = "SELECT c.oid, n.nspname::text, c.relname::text, array_agg(DISTINCT d.refobjid), \
    c.relkind = 'v' \
    FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class AND c.relkind <> 'm' \
    JOIN pg_namespace n ON n.oid = c.relnamespace \
    JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid \
        AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> c.oid \
    WHERE r.oid >= 16384 GROUP BY 1, 2, 3, 5";

/// What can be called, or is of triggers; what is written in C is not looked into.
const ROUTINES: &str = "SELECT p.proname::text, l.lanname::text, p.provolatile = 'v', p.prokind = 'p', \
    coalesce(pg_get_function_sqlbody(p.oid), p.prosrc), p.oid, p.prorettype = 'trigger'::regtype \
    FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang JOIN pg_namespace n ON n.oid = p.pronamespace \
    WHERE p.oid >= 16384 AND p.prokind IN ('f', 'p') \
    AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pgsegue') \
    AND p.prorettype <> 'event_trigger'::regtype";

/// A function or procedure.
struct Routine {
    oid: u32,
    name: String,
    spelled: Spelled,
    /// It may write by itself: it is volatile, and has a verb for it, or cannot be read.
    writes: bool,
    /// It may run what it does not spell.
    builds: bool,
}

/// What hangs on what by its rules.
struct Ruled {
    oid: u32,
    name: QualifiedName,
    on: Vec<u32>,
}

/// Changes when the ways may have.
pub(super) async fn fingerprint(
    client: &impl GenericClient,
    targets: &[Arc<Target>],
) -> Result<String, Error> {
    let mut fingerprint: String = client.query_one(FINGERPRINT, &[]).await?.try_get(0)?;
    for target in targets {
        let parts = target.parts.values().flatten().map(|part| part.oid).collect::<Vec<_>>();
        let (source, shadow) = (target.source_oid, target.shadow_oid);
        fingerprint.push_str(&format!(" {} {source} {shadow} {parts:?}", target.migration));
        fingerprint.extend(target.names().flat_map(|name| [" ", name]));
    }
    Ok(fingerprint)
}

/// Reads the ways to these tables.
pub(super) async fn load(
    client: &impl GenericClient,
    targets: &[Arc<Target>],
) -> Result<Ways, Error> {
    let (mut ruled, mut routines, mut triggers) = (Vec::new(), Vec::new(), Vec::new());
    let mut ways = Ways::default();
    for row in client.query(RULES, &[]).await? {
        let [schema, name] = [1, 2].map(|at| row.try_get::<_, String>(at).map(Ident::new));
        let name = QualifiedName { schema: schema?, name: name? };
        if row.try_get(4)? {
            ways.views.insert(name.name.as_str().to_owned());
        }
        ruled.push(Ruled { oid: row.try_get(0)?, name, on: row.try_get(3)? });
    }
    for row in client.query(ROUTINES, &[]).await? {
        let (name, language): (String, String) = (row.try_get(0)?, row.try_get(1)?);
        let (volatile, text): (bool, Option<String>) = (row.try_get(2)?, row.try_get(4)?);
        if row.try_get(3)? {
            ways.procedures.insert(name.clone());
        }
        if let Some(text) = text.filter(|_| !matches!(language.as_str(), "c" | "internal")) {
            let routine = Routine::read((row.try_get(5)?, name), &language, &text, volatile);
            if row.try_get(6)? { triggers.push(routine) } else { routines.push(routine) }
        }
    }
    let callers = callers(&routines);
    ways.building = closure(&routines, &callers, |routine| routine.builds);
    for target in targets {
        let relations = relations(&ruled, target);
        let parts = target.parts.values().flatten().map(|part| &part.name);
        let tables: Vec<&QualifiedName> = [&target.source, &target.shadow]
            .into_iter()
            .chain(parts)
            .chain(relations.iter().copied())
            .collect();
        let named = |routine: &Routine| {
            // What it calls may run the strings that it is given.
            let runs = ways.building.contains(&routine.name);
            let spelled = &routine.spelled;
            tables.iter().any(|table| spelled.names(table) || runs && spelled.hands_on(table))
        };
        let functions = closure(&routines, &callers, |routine| routine.writes && named(routine));
        let calls = |trigger: &Routine| functions.iter().any(|name| trigger.spelled.calls(name));
        let triggers = triggers.iter().filter(|t| t.writes && named(t) || calls(t));
        let triggers = triggers.map(|trigger| trigger.name.clone()).collect();
        add(&mut ways.triggers, triggers, &target.migration);
        let relations = relations.iter().map(|name| name.name.as_str().to_owned()).collect();
        add(&mut ways.relations, relations, &target.migration);
        add(&mut ways.functions, functions, &target.migration);
    }
    let called = routines.iter().filter(|routine| ways.functions.contains_key(&routine.name));
    ways.called = called.map(|routine| (routine.oid, routine.name.clone())).collect();
    Ok(ways)
}

fn add(named: &mut Named, names: BTreeSet<String>, migration: &str) {
    for name in names {
        named.entry(name).or_default().insert(migration.to_owned());
    }
}

impl Routine {
    fn read((oid, name): (u32, String), language: &str, text: &str, volatile: bool) -> Self {
        let readable = matches!(language, "sql" | "plpgsql");
        Self {
            oid,
            name,
            spelled: Spelled::by(language, text),
            // The server refuses writes in the others; what they call may write all the same.
            writes: volatile && matches!(body::does(language, text), Does::Writes | Does::Anything),
            builds: !readable || body::builds(text),
        }
    }
}

/// The relations that reach the tables of a target by rules, over any number of steps.
fn relations<'a>(ruled: &'a [Ruled], target: &Target) -> Vec<&'a QualifiedName> {
    let parts = target.parts.values().flatten().map(|part| part.oid);
    let own: BTreeSet<u32> =
        [target.source_oid, target.shadow_oid].into_iter().chain(parts).collect();
    let (mut reached, mut names) = (own, Vec::new());
    loop {
        let on =
            |r: &&Ruled| !reached.contains(&r.oid) && r.on.iter().any(|on| reached.contains(on));
        let more: Vec<&Ruled> = ruled.iter().filter(on).collect();
        if more.is_empty() {
            return names;
        }
        for ruled in more {
            reached.insert(ruled.oid);
            names.push(&ruled.name);
        }
    }
}

/// Who calls each name.
type Callers<'a> = BTreeMap<&'a str, Vec<&'a str>>;

fn callers(routines: &[Routine]) -> Callers<'_> {
    let mut named: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    let (mut odd, mut callers) = (BTreeSet::new(), Callers::new());
    for routine in routines {
        match Spelled::is_word(&routine.name) {
            true => _ = named.entry(routine.name.to_lowercase()).or_default().insert(&routine.name),
            false => _ = odd.insert(routine.name.as_str()),
        }
    }
    for routine in routines {
        let words = routine.spelled.called().filter_map(|word| named.get(word)).flatten().copied();
        let odd = odd.iter().copied().filter(|name| routine.spelled.calls(name));
        for name in words.chain(odd) {
            callers.entry(name).or_default().push(&routine.name);
        }
    }
    callers
}

/// The names of the routines that are so, and of those that call one of these names.
fn closure(
    routines: &[Routine],
    callers: &Callers<'_>,
    is_so: impl Fn(&Routine) -> bool,
) -> BTreeSet<String> {
    let mut next: Vec<&str> =
        routines.iter().filter(|routine| is_so(routine)).map(|r| r.name.as_str()).collect();
    let mut reached = BTreeSet::new();
    while let Some(name) = next.pop() {
        if reached.insert(name.to_owned()) {
            next.extend(callers.get(name).into_iter().flatten());
        }
    }
    reached
}

impl Engine {
    /// Looks whether there are other ways to the tables than before.
    pub(super) async fn look_for_ways(&self, control: &Connection) -> Result<(), Error> {
        let targets = self.targets();
        let now = fingerprint(&control.client, &targets).await?;
        if self.has_ways(&now) {
            return Ok(());
        }
        let grown = self.refresh_functions(control, &targets, now).await?;
        if grown.is_empty() {
            return Ok(());
        }
        // Statements that were decided before were not seen, either.
        let epoch = self.routes().load().epoch;
        drift::until_reached(self.routes(), epoch).await;
        for target in targets.iter().filter(|target| grown.contains(&target.migration)) {
            let migration = &target.migration;
            tracing::warn!(migration, "a view or function that may write the table was added");
            let mark = format!("SELECT {}($1)", target.mark_function);
            let why = "a view or function that may write the table was added";
            control.client.execute(&mark, &[&why]).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routine(name: &str, text: &str) -> Routine {
        Routine::read((0, name.to_owned()), "plpgsql", text, true)
    }

    #[test]
    fn callers_of_callers_count_and_names_that_are_no_calls_do_not() {
        let routines = [
            routine("one", "BEGIN UPDATE orders SET total = 1; END"),
            routine("two", "BEGIN PERFORM one (); END"),
            routine("three", "BEGIN CALL x.\"two\"(); END"),
            routine("other", "BEGIN INSERT INTO log VALUES (one, 'two'); END"),
        ];
        let names =
            closure(&routines, &callers(&routines), |r| r.writes && r.spelled.has("orders"));
        assert_eq!(names.into_iter().collect::<Vec<_>>(), ["one", "three", "two"]);
    }
}
