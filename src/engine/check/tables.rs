//! The tables themselves: that they exist, that the key is one, that a shadow row can be written.

use super::{Finding, Subject};
use crate::engine::Error;
use crate::engine::shape::{self, Column, Filled};
use crate::manifest::Migration;
use tokio_postgres::Client;

/// Whether both tables are there and are tables.
pub(super) async fn existence(
    client: &Client,
    migration: &Migration,
) -> Result<Vec<Finding>, Error> {
    let mut findings = Vec::new();
    for name in [&migration.source, &migration.shadow] {
        let id = format!("table {name}");
        match shape::relation(client, name).await? {
            None => findings.push(Finding::blocker(
                id,
                format!("{name} does not exist, or the control role may not see its schema"),
                "create it, or correct its name in the config file",
            )),
            Some(relation) if !matches!(relation.kind.as_str(), "r" | "p") => {
                findings.push(Finding::blocker(
                    id,
                    format!("{name} is not an ordinary or partitioned table"),
                    "name the table itself, not a view or a foreign table",
                ));
            }
            Some(_) => {}
        }
    }
    Ok(findings)
}

/// Keys and columns.
pub(super) async fn check(subject: &Subject<'_>) -> Result<Vec<Finding>, Error> {
    let mut findings = Vec::new();
    let shape = subject.shape;
    for pair in &shape.key {
        if !pair.source.not_null {
            findings.push(Finding::blocker(
                format!("key {}.{}", shape.source.name, pair.source.name),
                format!("the key column {} of the source may be null", pair.source.name),
                "choose a key whose columns are all NOT NULL",
            ));
        }
    }
    let source_key: Vec<&Column> = shape.key.iter().map(|pair| &pair.source).collect();
    let shadow_key: Vec<&Column> = shape.key.iter().map(|pair| &pair.shadow).collect();
    for (relation, key) in [(&shape.source, source_key), (&shape.shadow, shadow_key)] {
        if !is_unique(subject, relation.oid, &key).await? {
            let columns: Vec<&str> = key.iter().map(|column| column.name.as_str()).collect();
            findings.push(Finding::blocker(
                format!("unique {}", relation.name),
                format!(
                    "{} has no unique index over exactly ({})",
                    relation.name,
                    columns.join(", ")
                ),
                "create one: valid, not partial, not deferrable, over columns only",
            ));
        }
    }
    findings.extend(key_types(subject).await?);
    findings.extend(columns(subject));
    findings.extend(constraints(subject).await?);
    Ok(findings)
}

async fn is_unique(subject: &Subject<'_>, oid: u32, key: &[&Column]) -> Result<bool, Error> {
    let mut names: Vec<&str> = key.iter().map(|column| column.name.as_str()).collect();
    names.sort_unstable();
    subject
        .holds(
            "SELECT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = $1 AND i.indisunique \
             AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL \
             AND (SELECT array_agg(a.attname::text ORDER BY a.attname::text COLLATE \"C\") \
                  FROM unnest((i.indkey::int2[])[0:i.indnkeyatts - 1]) AS k \
                  JOIN pg_attribute a ON a.attrelid = $1 AND a.attnum = k) = $2::text[])",
            &[&oid, &names],
        )
        .await
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
                    format!("key type {name}"),
                    format!("a key column has type {name}, which is not a built-in type"),
                    "choose a key of built-in types or enums, not arrays or domains",
                )
            },
        )
        .await
}

fn columns(subject: &Subject<'_>) -> Vec<Finding> {
    let shadow = &subject.shape.shadow;
    let mut findings = Vec::new();
    for column in &shadow.columns {
        let id = format!("column {}.{}", shadow.name, column.name);
        let mapped = subject.shape.mapped.iter().any(|m| m.column.name == column.name);
        let in_key = subject.shape.key.iter().any(|pair| pair.shadow.name == column.name);
        match (mapped, column.filled) {
            (false, Filled::Null) if column.not_null => findings.push(Finding::blocker(
                id,
                format!(
                    "the shadow column {} is NOT NULL, not mapped, without default",
                    column.name
                ),
                "map it in [migration.columns], or give it a default",
            )),
            (true, Filled::Generated) => findings.push(Finding::blocker(
                id,
                format!("the shadow column {} is generated, so it cannot be written", column.name),
                "leave it out of [migration.columns]",
            )),
            (true, Filled::IdentityAlways) if !in_key => findings.push(Finding::blocker(
                id,
                format!("{} is GENERATED ALWAYS AS IDENTITY: it cannot be updated", column.name),
                "make it GENERATED BY DEFAULT",
            )),
            (true | false, _) => {}
        }
    }
    if let Err(reason) = subject.shape.target().old_shape {
        findings.push(Finding::warning(
            format!("reverse {}", subject.migration.name),
            format!("{reason}; until then the shadow serves no reads"),
            "add the line; writes are mirrored all the same",
        ));
    }
    findings
}

/// What fires at commit, or beyond the shadow.
async fn constraints(subject: &Subject<'_>) -> Result<Vec<Finding>, Error> {
    let shadow = &subject.shape.shadow;
    let mut findings = subject
        .each(
            "SELECT conname FROM pg_constraint WHERE conrelid = $1 AND condeferrable",
            &[&shadow.oid],
            |name, _| {
                Finding::blocker(
                    format!("constraint {}.{name}", shadow.name),
                    format!("the shadow's constraint {name} is deferrable: it could fail the client's COMMIT"),
                    "make it NOT DEFERRABLE",
                )
            },
        )
        .await?;
    findings.extend(
        subject
            .each(
                "SELECT conname, conrelid::regclass::text FROM pg_constraint WHERE contype = 'f' \
                 AND confrelid = $1 AND (confdeltype IN ('c', 'n', 'd') OR confupdtype IN ('c', 'n', 'd'))",
                &[&shadow.oid],
                |name, table| {
                    Finding::blocker(
                        format!("foreign key {table}.{name}"),
                        format!("{table} refers to the shadow and follows its deletes: a mirrored delete would reach it"),
                        "drop the constraint until the cutover, or make it NO ACTION",
                    )
                },
            )
            .await?,
    );
    Ok(findings)
}
