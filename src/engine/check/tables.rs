//! The tables themselves: that they exist, that the key can be one, that a shadow row can be
//! written, and that nothing of the shadow fires at commit or beyond it.

use super::{Finding, Kind, Subject, tree};
use crate::engine::Error;
use crate::engine::shape::{self, Column, Filled, Relation};
use crate::manifest::Migration;
use crate::sql::ident::{Ident, QualifiedName};
use tokio_postgres::Client;

/// Whether both tables are there, are tables, and have the columns that the declaration names.
pub(super) async fn existence(
    client: &Client,
    migration: &Migration,
) -> Result<Vec<Finding>, Error> {
    let mut findings = Vec::new();
    let mapped: Vec<&Ident> = migration.columns.iter().map(|(name, _)| name).collect();
    let key: Vec<&Ident> = migration.key.iter().collect();
    for (name, needed, by) in
        [(&migration.source, key, "key"), (&migration.shadow, mapped, "[migration.columns]")]
    {
        let object = name.spelled();
        match shape::relation(client, name).await? {
            None => findings.push(Finding::blocker(
                Kind::Table,
                &object,
                format!("there is no table {object}"),
                "create it, or correct its name in the config file",
            )),
            Some(relation) if !matches!(relation.kind.as_str(), "r" | "p") => {
                findings.push(Finding::blocker(
                    Kind::Table,
                    &object,
                    format!("{object} is not an ordinary or partitioned table"),
                    "name the table itself, not a view or a foreign table",
                ));
            }
            Some(relation) => findings.extend(missing(&relation, &needed, by)),
        }
    }
    Ok(findings)
}

fn missing(relation: &Relation, needed: &[&Ident], by: &str) -> Vec<Finding> {
    let table = relation.name.spelled();
    let none = needed.iter().filter(|name| relation.column(name).is_none());
    none.map(|name| {
        Finding::blocker(
            Kind::Column,
            format!("{table}.{}", name.spelled()),
            format!("{by} names {}, and {table} has no such column", name.spelled()),
            format!("correct {by}, or add the column"),
        )
    })
    .collect()
}

/// Keys, columns, constraints.
pub(super) async fn check(subject: &Subject<'_>) -> Result<Vec<Finding>, Error> {
    let mut findings = Vec::new();
    for pair in &subject.shape.key {
        if !pair.source.not_null {
            let (table, column) = (&subject.shape.source.name, &pair.source.name);
            findings.push(
                Finding::blocker(
                    Kind::Key,
                    format!("{}.{}", table.spelled(), column.spelled()),
                    format!("the key column {} of the source may be null", column.spelled()),
                    "declare it NOT NULL, or choose a key whose columns are",
                )
                .run(set_not_null(table, column)),
            );
        }
    }
    findings.extend(key_types(subject).await?);
    findings.extend(columns(subject));
    findings.extend(no_way_back(subject));
    findings.extend(deferrable(subject).await?);
    findings.extend(references(subject).await?);
    findings.extend(unlogged(subject).await?);
    Ok(findings)
}

fn set_not_null(table: &QualifiedName, column: &Ident) -> String {
    format!("ALTER TABLE {} ALTER COLUMN {} SET NOT NULL", table.quoted(), column.quoted())
}

/// The functions compare keys with the operators of pg_catalog: other types would be compared as
/// something else, and arrays cannot be passed in arrays.
async fn key_types(subject: &Subject<'_>) -> Result<Vec<Finding>, Error> {
    let oids: Vec<u32> = subject.shape.key.iter().map(|pair| pair.source.type_oid).collect();
    subject
        .each(
            "SELECT format_type(oid, NULL) FROM pg_type WHERE oid = ANY ($1) AND NOT (typtype = 'e' \
             OR (typnamespace = 'pg_catalog'::regnamespace AND typcategory <> 'A'))",
            &[&oids],
            |name, _| {
                Finding::blocker(
                    Kind::KeyType,
                    name,
                    format!("a key column has type {name}, which is not a built-in type"),
                    "choose a key of built-in types or enums, not arrays or domains",
                )
            },
        )
        .await
}

fn columns(subject: &Subject<'_>) -> Vec<Finding> {
    let shadow = &subject.shape.shadow;
    let is_mapped = |c: &Column| subject.shape.mapped.iter().any(|m| m.column.name == c.name);
    let in_key = |c: &Column| subject.shape.key.iter().any(|p| p.shadow.name == c.name);
    let table = shadow.name.quoted();
    let mut findings = Vec::new();
    for column in &shadow.columns {
        let (name, quoted) = (column.name.spelled(), column.name.quoted());
        let object = format!("{}.{name}", subject.shadow());
        match (is_mapped(column), column.filled) {
            (false, Filled::Null) if column.not_null => findings.push(
                Finding::blocker(
                    Kind::Column,
                    object,
                    format!("the shadow column {name} is NOT NULL, not mapped, without default"),
                    "map it in [migration.columns], give it a default, or let it be null",
                )
                .run(format!("ALTER TABLE {table} ALTER COLUMN {quoted} DROP NOT NULL")),
            ),
            (true, Filled::Generated) => findings.push(Finding::blocker(
                Kind::Column,
                object,
                format!("the shadow column {name} is generated, so it cannot be written"),
                "leave it out of [migration.columns]",
            )),
            (true, Filled::IdentityAlways) if !in_key(column) => findings.push(
                Finding::blocker(
                    Kind::Column,
                    object,
                    format!("{name} is GENERATED ALWAYS AS IDENTITY: it cannot be updated"),
                    "make it GENERATED BY DEFAULT",
                )
                .run(format!("ALTER TABLE {table} ALTER COLUMN {quoted} SET GENERATED BY DEFAULT")),
            ),
            (false, Filled::Null | Filled::Default | Filled::Identity | Filled::IdentityAlways) => {
                findings.push(Finding::info(
                    Kind::ExtraColumn,
                    object,
                    format!("the shadow column {name} is not mapped: it gets its default, or null"),
                    "map it in [migration.columns] if it follows from the source",
                ));
            }
            (true | false, _) => {}
        }
    }
    findings
}

/// Source columns that the shadow cannot give back.
fn no_way_back(subject: &Subject<'_>) -> Vec<Finding> {
    let shape = subject.shape;
    let missing = shape.source.columns.iter().filter(|column| shape.way_back(column).is_err());
    missing
        .map(|column| {
            let name = column.name.spelled();
            let line = super::finding::toml_string(column.name.as_str());
            Finding::warning(
                Kind::NoWayBack,
                format!("{}.{name}", subject.source()),
                format!("the source column {name} has no way back from the shadow"),
                "give it a line in [migration.reverse], over the shadow's columns; writes are \
                 mirrored all the same",
            )
            .write(format!("{line} = \"…\""))
        })
        .collect()
}

/// What fires at commit, on the shadow or a partition of it. Constraint triggers are among the triggers.
async fn deferrable(subject: &Subject<'_>) -> Result<Vec<Finding>, Error> {
    let tree = tree(1);
    let sql = format!(
        "SELECT quote_ident(c.conname), c.conrelid::regclass::text, c.contype::text, \
         regexp_replace(pg_get_constraintdef(c.oid), ' DEFERRABLE( INITIALLY DEFERRED)?', '') \
         FROM pg_constraint c WHERE (c.conrelid IN {tree} OR c.contype = 'f' AND c.confrelid IN {tree}) \
         AND c.condeferrable AND c.contype <> 't' AND c.conparentid = 0 ORDER BY 2, 1"
    );
    let rows = subject.rows(&sql, &[&subject.shape.shadow.oid]).await?;
    let mut findings = Vec::new();
    for row in rows {
        let [name, table, kind, definition] = row.as_slice() else { continue };
        let how = if kind == "f" {
            format!("ALTER TABLE {table} ALTER CONSTRAINT {name} NOT DEFERRABLE")
        } else {
            format!(
                "ALTER TABLE {table} DROP CONSTRAINT {name}, ADD CONSTRAINT {name} {definition}"
            )
        };
        findings.push(
            Finding::blocker(
                Kind::Constraint,
                format!("{table}.{name}"),
                format!("the constraint {name} of {table} is deferrable: a mirrored write could make the client's COMMIT fail"),
                "make it NOT DEFERRABLE",
            )
            .run(how),
        );
    }
    Ok(findings)
}

/// Foreign keys that point at the shadow or a partition of it: they follow its deletes, or refuse
/// them.
async fn references(subject: &Subject<'_>) -> Result<Vec<Finding>, Error> {
    let sql = format!(
        "SELECT conrelid::regclass::text, quote_ident(conname), \
         (confdeltype IN ('c', 'n', 'd') OR confupdtype IN ('c', 'n', 'd'))::text \
         FROM pg_constraint WHERE contype = 'f' AND confrelid IN {} AND conparentid = 0 \
         ORDER BY 1, 2",
        tree(1)
    );
    let rows = subject.rows(&sql, &[&subject.shape.shadow.oid]).await?;
    let mut findings = Vec::new();
    for row in rows {
        let [table, name, follows] = row.as_slice() else { continue };
        let object = format!("{table}.{name}");
        let drop = format!("ALTER TABLE {table} DROP CONSTRAINT {name}");
        findings.push(if follows == "true" {
            Finding::blocker(
                Kind::ForeignKey,
                object,
                format!("{table} refers to the shadow and follows its deletes or updates: a mirrored one would reach it"),
                "drop the constraint until the cutover, or make it NO ACTION",
            )
            .run(drop)
        } else {
            Finding::warning(
                Kind::ForeignKey,
                object,
                format!("{table} refers to the shadow: while it has rows of a key, a mirrored delete of the key fails and leaves it dirty"),
                "drop the constraint until the cutover, unless the source has the same",
            )
            .run(drop)
        });
    }
    Ok(findings)
}

/// Tables that a crash of the server empties.
async fn unlogged(subject: &Subject<'_>) -> Result<Vec<Finding>, Error> {
    let sql = format!(
        "SELECT c.oid::regclass::text FROM pg_class c WHERE c.relpersistence = 'u' AND \
         c.relkind = 'r' AND c.oid IN {} ORDER BY 1",
        tree(1)
    );
    let finding = |table: &str, message: &str| {
        Finding::blocker(
            Kind::Unlogged,
            table,
            format!("{table} is UNLOGGED: {message}"),
            "make it LOGGED",
        )
        .run(format!("ALTER TABLE {table} SET LOGGED"))
    };
    let (source, shadow) = (&subject.shape.source.oid, &subject.shape.shadow.oid);
    let empties = "a crash of the server empties the shadow";
    let mut findings = subject.each(&sql, &[shadow], |table, _| finding(table, empties)).await?;
    let keeps = "a crash of the server empties it, and the shadow keeps its rows";
    let of_source =
        subject.each(&sql, &[source], |table, _| finding(table, keeps).or_accept()).await?;
    findings.extend(of_source);
    Ok(findings)
}
