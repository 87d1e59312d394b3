//! Writes on the source that a proxy cannot see, whatever changes or swallows a row on its way into
//! the shadow, and reads that stay on the source.

use super::{Finding, Kind, NAMES_MAX, Subject, tree};
use crate::engine::{Error, partitions};
use crate::sql::body::{self, Does, Spelled};
use crate::sql::ident::QualifiedName;
use crate::sql::target::Part;

/// All of them.
pub(super) async fn check(subject: &Subject<'_>) -> Result<Vec<Finding>, Error> {
    let tables = Tables::read(subject).await?;
    let mut findings = triggers(subject, &tables).await?;
    findings.extend(cascades(subject).await?);
    findings.extend(rules(subject).await?);
    let (views, mut readers) = views(subject).await?;
    findings.extend(views);
    let (functions, reading) = functions(subject, &tables).await?;
    findings.extend(functions);
    readers.extend(reading);
    findings.extend(reads(subject, &readers));
    findings.extend(shadow_triggers(subject).await?);
    Ok(findings)
}

/// The names of the two tables and of what holds rows of them: a body may write them by any.
struct Tables {
    source: Vec<QualifiedName>,
    shadow: Vec<QualifiedName>,
}

impl Tables {
    async fn read(subject: &Subject<'_>) -> Result<Self, Error> {
        let (source, shadow) = (&subject.shape.source.name, &subject.shape.shadow.name);
        let parts = partitions::read(subject.client, shadow).await?;
        let all = |table: &QualifiedName, parts: &[Part]| {
            let parts = parts.iter().map(|part| part.name.clone());
            std::iter::once(table.clone()).chain(parts).collect()
        };
        Ok(Self { source: all(source, &subject.shape.parts), shadow: all(shadow, &parts) })
    }
}

/// The table of these that a body spells.
fn named<'t>(spelled: &Spelled, tables: &'t [QualifiedName]) -> Option<&'t QualifiedName> {
    tables.iter().find(|table| spelled.names(table))
}

/// `tgtype` bits: 1 row, 2 before, 64 instead. An AFTER trigger runs after the sync has read; a
/// BEFORE trigger's own row is read as it has become, other rows that it writes are not.
async fn triggers(subject: &Subject<'_>, tables: &Tables) -> Result<Vec<Finding>, Error> {
    let tree = tree(1);
    let sql = format!(
        "SELECT quote_ident(t.tgname), t.tgrelid::regclass::text, p.oid::regprocedure::text, l.lanname::text, \
         coalesce(pg_get_function_sqlbody(p.oid), p.prosrc), (t.tgtype & 2 = 0)::text \
         FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid JOIN pg_language l ON l.oid = p.prolang \
         WHERE t.tgrelid IN {tree} AND NOT t.tgisinternal AND t.tgparentid = 0 \
         AND t.tgenabled <> 'D' AND p.provolatile = 'v' ORDER BY 2, 1"
    );
    let mut findings = Vec::new();
    for row in subject.rows(&sql, &[&subject.shape.source.oid]).await? {
        let [name, table, function, language, text, after] = row.as_slice() else { continue };
        let (does, after) = (body::does(language, text), after == "true");
        let spelled = Spelled::by(language, text);
        let named = [&tables.source, &tables.shadow].iter().any(|t| named(&spelled, t).is_some());
        let object = format!("{table}.{name}");
        let calls = format!(
            "the {} trigger {name} calls {function}",
            if after { "AFTER" } else { "BEFORE" }
        );
        let accept = "change it, disable it, or accept it when it writes neither table";
        let disable = format!("ALTER TABLE {table} DISABLE TRIGGER {name}");
        let blocker = |what: &str| {
            Finding::blocker(Kind::Trigger, &object, format!("{calls}, which {what}"), accept)
                .run(disable.clone())
                .or_accept()
        };
        findings.extend(match (does, named) {
            (Does::Anything, _) => {
                Some(blocker("builds statements or cannot be read: it may write the source unseen"))
            }
            (Does::Writes, true) => {
                Some(blocker("writes and names the source or the shadow: it may write them unseen"))
            }
            (Does::Writes, false) if after => Some(
                Finding::warning(
                    Kind::Trigger,
                    &object,
                    format!("{calls}, which writes other tables"),
                    "make sure that nothing there writes the source in turn, and accept it",
                )
                .or_accept(),
            ),
            (Does::Reads, _) if after => Some(Finding::info(
                Kind::Trigger,
                &object,
                format!("{calls}, which calls or reads something"),
                "make sure that nothing that it calls writes the source",
            )),
            (Does::Writes | Does::Reads | Does::Nothing, _) => None,
        });
    }
    findings.extend(subject.shape.key_changes.on_update.then(|| {
        Finding::info(
            Kind::Trigger,
            subject.shape.source.name.to_string(),
            "a trigger before each row, or a generated key, may change the key at any UPDATE: rows \
             are locked before they are updated, and what cannot be done so (before Postgres 18: ON \
             CONFLICT DO UPDATE, MERGE) is marked",
            "let the trigger's function say NEW only with other columns behind it",
        )
    }));
    Ok(findings)
}

async fn cascades(subject: &Subject<'_>) -> Result<Vec<Finding>, Error> {
    let sql = format!(
        "SELECT quote_ident(conname), conrelid::regclass::text, confrelid::regclass::text, \
         regexp_replace(pg_get_constraintdef(oid), ' ON (DELETE|UPDATE) (CASCADE|SET NULL|SET DEFAULT)( \\([^)]*\\))?', '', 'g') \
         FROM pg_constraint WHERE contype = 'f' AND conrelid IN {} AND conparentid = 0 \
         AND (confdeltype IN ('c', 'n', 'd') OR confupdtype IN ('c', 'n', 'd')) ORDER BY 2, 1",
        tree(1)
    );
    let mut findings = Vec::new();
    for row in subject.rows(&sql, &[&subject.shape.source.oid]).await? {
        let [name, table, parent, definition] = row.as_slice() else { continue };
        findings.push(
            Finding::blocker(
                Kind::ForeignKey,
                format!("{table}.{name}"),
                format!("deletes or updates in {parent} reach {table} through {name}, unseen"),
                "make it NO ACTION for the time of the migration, or accept it when nobody deletes or updates there",
            )
            .run(format!("ALTER TABLE {table} DROP CONSTRAINT {name}, ADD CONSTRAINT {name} {definition}"))
            .or_accept(),
        );
    }
    Ok(findings)
}

async fn rules(subject: &Subject<'_>) -> Result<Vec<Finding>, Error> {
    let sql = format!(
        "SELECT quote_ident(rulename), ev_class::regclass::text FROM pg_rewrite \
         WHERE (ev_class IN {} OR ev_class IN {}) AND rulename <> '_RETURN' AND ev_enabled <> 'D' \
         ORDER BY 2, 1",
        tree(1),
        tree(2)
    );
    let (source, shadow) = (subject.shape.source.oid, subject.shape.shadow.oid);
    let mut findings = subject
        .each(&sql, &[&source, &shadow], |rule, table| {
            Finding::blocker(
                Kind::Rule,
                format!("{table}.{rule}"),
                format!("the rule {rule} on {table} changes what a write does"),
                "drop the rule",
            )
            .run(format!("DROP RULE {rule} ON {table}"))
        })
        .await?;
    findings.extend(rules_elsewhere(subject).await?);
    Ok(findings)
}

/// What writes another relation, and by its rule one of the two.
async fn rules_elsewhere(subject: &Subject<'_>) -> Result<Vec<Finding>, Error> {
    let (source, shadow) = (tree(1), tree(2));
    let sql = format!(
        "SELECT DISTINCT quote_ident(rulename), ev_class::regclass::text FROM pg_rewrite r \
         JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid \
             AND d.refclassid = 'pg_class'::regclass \
         WHERE (d.refobjid IN {source} OR d.refobjid IN {shadow}) AND ev_class NOT IN {source} \
             AND ev_class NOT IN {shadow} AND rulename <> '_RETURN' AND ev_enabled <> 'D' ORDER BY 2, 1"
    );
    subject
        .each(&sql, &[&subject.shape.source.oid, &subject.shape.shadow.oid], |rule, table| {
            Finding::warning(
                Kind::Rule,
                format!("{table}.{rule}"),
                format!(
                    "the rule {rule} on {table} names the source or the shadow: a write on {table} is not \
                     mirrored, but recorded, and verified again"
                ),
                "drop the rule, or let the apps write the source by its own name",
            )
            .run(format!("DROP RULE {rule} ON {table}"))
            .or_accept()
        })
        .await
}

/// Views over the source, over several steps: those that can be written, and the names of all.
/// `pg_relation_is_updatable` bits: 4 update, 8 insert, 16 delete.
async fn views(subject: &Subject<'_>) -> Result<(Vec<Finding>, Vec<String>), Error> {
    let sql = format!(
        "WITH RECURSIVE over (oid) AS (SELECT t.oid FROM {} AS t UNION SELECT r.ev_class FROM over \
             JOIN pg_depend d ON d.refobjid = over.oid AND d.classid = 'pg_rewrite'::regclass \
                 AND d.refclassid = 'pg_class'::regclass \
             JOIN pg_rewrite r ON r.oid = d.objid AND r.rulename = '_RETURN') \
         SELECT c.oid::regclass::text, (c.relkind = 'v' AND \
             pg_relation_is_updatable(c.oid, true) & 28 <> 0)::text \
         FROM over JOIN pg_class c USING (oid) WHERE c.relkind IN ('v', 'm') ORDER BY 1",
        tree(1)
    );
    let rows = subject.rows(&sql, &[&subject.shape.source.oid]).await?;
    let (mut findings, mut all) = (Vec::new(), Vec::new());
    for row in rows {
        let [view, writable] = row.as_slice() else { continue };
        all.push(format!("view {view}"));
        if writable == "true" {
            findings.push(
                Finding::blocker(
                    Kind::View,
                    view,
                    format!(
                        "the source can be written through the view {view}: that is recorded, not \
                         mirrored, and followed by a full verify each time"
                    ),
                    "make writes name the table, and accept it when nobody writes through the view",
                )
                .or_accept(),
            );
        }
    }
    Ok((findings, all))
}

/// Functions that name the source or the shadow: those that may write it, and the names of those
/// that read the source. Trigger functions of the source have been looked at as triggers; one that no
/// trigger calls can be called by nobody.
async fn functions(
    subject: &Subject<'_>,
    tables: &Tables,
) -> Result<(Vec<Finding>, Vec<String>), Error> {
    let (source, shadow) = (&subject.shape.source, &subject.shape.shadow);
    let (of_source, of_shadow) = (tree(1), tree(2));
    let sql = format!(
        "SELECT p.oid::regprocedure::text, l.lanname::text, coalesce(pg_get_function_sqlbody(p.oid), p.prosrc), \
         (p.provolatile = 'v')::text, \
         EXISTS (SELECT FROM pg_depend d WHERE d.objid = p.oid AND d.classid = 'pg_proc'::regclass \
             AND d.refclassid = 'pg_class'::regclass AND d.refobjid IN {of_source})::text, \
         EXISTS (SELECT FROM pg_depend d WHERE d.objid = p.oid AND d.classid = 'pg_proc'::regclass \
             AND d.refclassid = 'pg_class'::regclass AND d.refobjid IN {of_shadow})::text \
         FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace JOIN pg_language l ON l.oid = p.prolang \
         WHERE p.oid >= 16384 AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pgsegue') \
         AND p.prokind <> 'a' AND l.lanname NOT IN ('c', 'internal') \
         AND (p.prorettype <> 'trigger'::regtype OR EXISTS (SELECT FROM pg_trigger t WHERE t.tgfoid = p.oid \
             AND NOT t.tgisinternal AND t.tgenabled <> 'D')) \
         AND NOT EXISTS (SELECT FROM pg_trigger t WHERE t.tgfoid = p.oid AND NOT t.tgisinternal \
             AND t.tgenabled <> 'D' AND t.tgrelid IN {of_source}) ORDER BY 1"
    );
    let rows = subject.rows(&sql, &[&source.oid, &shadow.oid]).await?;
    let (mut findings, mut reading) = (Vec::new(), Vec::new());
    for row in rows {
        let [function, language, text, volatile, on_source, on_shadow] = row.as_slice() else {
            continue;
        };
        let spelled = Spelled::by(language, text);
        let depends = |on: &str, table| (on == "true").then_some(table);
        let on_source =
            named(&spelled, &tables.source).or_else(|| depends(on_source, &source.name));
        let on_shadow =
            named(&spelled, &tables.shadow).or_else(|| depends(on_shadow, &shadow.name));
        let writes = volatile == "true"
            && matches!(body::does(language, text), Does::Writes | Does::Anything);
        if let Some(table) = on_source.filter(|_| writes) {
            let table = table.spelled();
            findings.push(
                Finding::blocker(
                    Kind::Function,
                    function,
                    format!("the function {function} names {table} and may write it unseen"),
                    "declare it STABLE if it only reads, or accept it when it does not write the source",
                )
                .or_accept(),
            );
        } else if let Some(table) = on_shadow.filter(|_| writes) {
            let table = table.spelled();
            findings.push(
                Finding::warning(
                    Kind::Function,
                    function,
                    format!("the function {function} names {table} and may write it: only pgsegue should"),
                    "keep it from being called until the cutover, and accept it",
                )
                .or_accept(),
            );
        } else if on_source.is_some() {
            reading.push(format!("function {function}"));
        }
    }
    Ok((findings, reading))
}

/// What reads the source without its name in the statement.
fn reads(subject: &Subject<'_>, readers: &[String]) -> Option<Finding> {
    if readers.is_empty() {
        return None;
    }
    let mut list = readers.iter().take(NAMES_MAX).cloned().collect::<Vec<_>>().join(", ");
    if readers.len() > NAMES_MAX {
        list.push_str(&format!(" and {} more", readers.len() - NAMES_MAX));
    }
    Some(Finding::info(
        Kind::Reads,
        subject.source(),
        format!("read the source by themselves: {list}"),
        "nothing, until the cutover: point them at the shadow then",
    ))
}

async fn shadow_triggers(subject: &Subject<'_>) -> Result<Vec<Finding>, Error> {
    let sql = format!(
        "SELECT quote_ident(t.tgname), t.tgrelid::regclass::text, \
         CASE WHEN t.tgconstraint <> 0 THEN 'constraint' WHEN t.tgtype & 3 = 3 THEN 'BEFORE' ELSE '' END, \
         (t.tgenabled = 'R')::text \
         FROM pg_trigger t WHERE t.tgrelid IN {} AND t.tgparentid = 0 \
         AND NOT t.tgisinternal AND t.tgenabled <> 'D' ORDER BY 2, 1",
        tree(1)
    );
    let rows = subject.rows(&sql, &[&subject.shape.shadow.oid]).await?;
    let mut findings = Vec::new();
    for row in rows {
        let [name, table, kind, in_replicas] = row.as_slice() else { continue };
        let object = format!("{table}.{name}");
        if in_replicas == "true" {
            let message = format!(
                "the shadow's trigger {name} is ENABLE REPLICA: it fires for no write but of a session \
                 with session_replication_role = replica"
            );
            let remedy = "make sure that no role that writes the source has this setting";
            findings.push(Finding::info(Kind::Trigger, object, message, remedy));
            continue;
        }
        let found = if kind.is_empty() {
            let message = format!("the shadow's trigger {name} runs within the clients' writes");
            Finding::warning(Kind::Trigger, object, message, "disable it until the cutover")
        } else {
            Finding::blocker(
                Kind::Trigger,
                object,
                format!("the shadow's {kind} trigger {name} can change, swallow or refuse a row"),
                "disable it until the cutover; the source's rows have been through theirs",
            )
        };
        findings.push(found.run(format!("ALTER TABLE {table} DISABLE TRIGGER {name}")));
    }
    Ok(findings)
}
