//! Writes on the source that a proxy cannot see, and whatever changes or swallows a row on its way
//! into the shadow.

use super::{Finding, Subject};
use crate::engine::Error;

const ACCEPT: &str = "change it, or add its id to accepted when it does not write the source";

/// All of them.
pub(super) async fn check(subject: &Subject<'_>) -> Result<Vec<Finding>, Error> {
    let mut findings = triggers(subject).await?;
    findings.extend(cascades(subject).await?);
    findings.extend(rules(subject).await?);
    findings.extend(views(subject).await?);
    findings.extend(functions(subject).await?);
    findings.extend(shadow_triggers(subject).await?);
    findings.extend(children(subject).await?);
    findings.extend(subscriptions(subject).await?);
    Ok(findings)
}

/// `tgtype` bits: 1 row, 2 before, 64 instead. An AFTER trigger runs after the sync has read.
async fn triggers(subject: &Subject<'_>) -> Result<Vec<Finding>, Error> {
    subject
        .each(
            "SELECT t.tgrelid::regclass || '.' || t.tgname, p.oid::regprocedure::text \
             FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid \
             WHERE t.tgrelid IN (SELECT $1::oid UNION SELECT relid FROM pg_partition_tree($1::oid)) \
             AND NOT t.tgisinternal AND t.tgparentid = 0 AND t.tgenabled <> 'D' \
             AND t.tgtype & 2 = 0 AND p.provolatile = 'v' ORDER BY 1",
            &[&subject.shape.source.oid],
            |trigger, function| {
                Finding::blocker(
                    format!("trigger {trigger}"),
                    format!("the AFTER trigger {trigger} calls {function}, which may write the source unseen"),
                    ACCEPT,
                )
            },
        )
        .await
}

async fn cascades(subject: &Subject<'_>) -> Result<Vec<Finding>, Error> {
    let source = &subject.shape.source;
    subject
        .each(
            "SELECT conname, confrelid::regclass::text FROM pg_constraint WHERE contype = 'f' \
             AND conrelid = $1 AND (confdeltype IN ('c', 'n', 'd') OR confupdtype IN ('c', 'n', 'd')) \
             ORDER BY 1",
            &[&source.oid],
            |name, parent| {
                Finding::blocker(
                    format!("foreign key {}.{name}", source.name),
                    format!("deletes or updates in {parent} reach the source through {name}, unseen"),
                    "make it NO ACTION for the time of the migration, or accept it when nobody deletes there",
                )
            },
        )
        .await
}

async fn rules(subject: &Subject<'_>) -> Result<Vec<Finding>, Error> {
    subject
        .each(
            "SELECT rulename, ev_class::regclass::text FROM pg_rewrite \
             WHERE ev_class IN ($1, $2) AND rulename <> '_RETURN' ORDER BY 2, 1",
            &[&subject.shape.source.oid, &subject.shape.shadow.oid],
            |rule, table| {
                Finding::blocker(
                    format!("rule {table}.{rule}"),
                    format!("the rule {rule} on {table} changes what a write does"),
                    "drop the rule",
                )
            },
        )
        .await
}

/// `pg_relation_is_updatable` bits: 4 update, 8 insert, 16 delete.
async fn views(subject: &Subject<'_>) -> Result<Vec<Finding>, Error> {
    subject
        .each(
            "SELECT DISTINCT c.oid::regclass::text FROM pg_depend d \
             JOIN pg_rewrite r ON r.oid = d.objid JOIN pg_class c ON c.oid = r.ev_class \
             WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass \
             AND d.refobjid = $1 AND c.relkind = 'v' \
             AND pg_relation_is_updatable(c.oid, false) & 28 <> 0 ORDER BY 1",
            &[&subject.shape.source.oid],
            |view, _| {
                Finding::blocker(
                    format!("view {view}"),
                    format!("the source can be written through the view {view}, unseen"),
                    "revoke writes on the view, or accept it when nobody writes through it",
                )
            },
        )
        .await
}

async fn functions(subject: &Subject<'_>) -> Result<Vec<Finding>, Error> {
    let source = &subject.shape.source.name;
    subject
        .each(
            "SELECT p.oid::regprocedure::text FROM pg_proc p JOIN pg_namespace n \
             ON n.oid = p.pronamespace WHERE p.provolatile = 'v' AND n.nspname NOT IN \
             ('pg_catalog', 'information_schema', 'pgsegue') AND (p.prosrc ~* \
             ('(^|[^a-z0-9_])' || regexp_replace($1::text, '([^a-zA-Z0-9_])', '\\\\\\1', 'g') \
              || '([^a-z0-9_]|$)') OR EXISTS (SELECT FROM pg_depend d WHERE d.objid = p.oid \
                 AND d.classid = 'pg_proc'::regclass AND d.refclassid = 'pg_class'::regclass \
                 AND d.refobjid = $2)) ORDER BY 1",
            &[&source.name.as_str(), &subject.shape.source.oid],
            |function, _| {
                Finding::blocker(
                    format!("function {function}"),
                    format!("the function {function} names {source} and is VOLATILE: it may write it unseen"),
                    "declare it STABLE if it only reads, or add its id to accepted",
                )
            },
        )
        .await
}

async fn shadow_triggers(subject: &Subject<'_>) -> Result<Vec<Finding>, Error> {
    let shadow = &subject.shape.shadow;
    let mut findings = subject
        .each(
            "SELECT tgname, CASE WHEN tgconstraint <> 0 THEN 'constraint' ELSE 'BEFORE' END \
             FROM pg_trigger WHERE tgrelid = $1 AND NOT tgisinternal AND tgenabled <> 'D' \
             AND (tgtype & 3 = 3 OR tgconstraint <> 0) ORDER BY 1",
            &[&shadow.oid],
            |name, kind| {
                Finding::blocker(
                    format!("trigger {}.{name}", shadow.name),
                    format!(
                        "the shadow's {kind} trigger {name} can change, swallow or refuse a row"
                    ),
                    "disable it until the cutover; the source's rows have been through theirs",
                )
            },
        )
        .await?;
    findings.extend(
        subject
            .each(
                "SELECT tgname FROM pg_trigger WHERE tgrelid = $1 AND NOT tgisinternal \
                 AND tgenabled <> 'D' AND tgtype & 3 <> 3 AND tgconstraint = 0 ORDER BY 1",
                &[&shadow.oid],
                |name, _| {
                    Finding::warning(
                        format!("trigger {}.{name}", shadow.name),
                        format!("the shadow's trigger {name} runs within the clients' writes"),
                        "disable it until the cutover",
                    )
                },
            )
            .await?,
    );
    Ok(findings)
}

async fn children(subject: &Subject<'_>) -> Result<Vec<Finding>, Error> {
    subject
        .each(
            "SELECT i.inhrelid::regclass::text, CASE WHEN c.relispartition THEN 'a partition' \
             ELSE 'an inheritance child' END FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid \
             WHERE i.inhparent = $1 ORDER BY 1",
            &[&subject.shape.source.oid],
            |child, kind| {
                Finding::warning(
                    format!("child {child}"),
                    format!("{child} is {kind} of the source: a write by its own name is unseen"),
                    "revoke writes on it from the app's roles; they need none to write the parent",
                )
            },
        )
        .await
}

async fn subscriptions(subject: &Subject<'_>) -> Result<Vec<Finding>, Error> {
    let source = &subject.shape.source;
    subject
        .each(
            "SELECT srsubid::text FROM pg_subscription_rel WHERE srrelid = $1 ORDER BY 1",
            &[&source.oid],
            |subscription, _| {
                Finding::blocker(
                    format!("subscription {}", source.name),
                    format!(
                        "a logical subscription (oid {subscription}) writes the source, unseen"
                    ),
                    "run the migration where the rows are written first",
                )
            },
        )
        .await
}
