//! Roles and settings: what the control role may, what the apps' roles may, what they wait for.

use super::{Finding, Kind, Subject};
use crate::engine::Error;
use crate::engine::counted::{Counting, Sequence};
use crate::engine::privileges::{self, Writers};

/// Everything but the control role.
pub(super) async fn check(subject: &Subject<'_>) -> Result<Vec<Finding>, Error> {
    let mut findings = blind_writers(subject).await?;
    findings.extend(source_only_readers(subject).await?);
    findings.extend(lock_budget(subject).await?);
    Ok(findings)
}

/// A mirrored write returns the key, which needs SELECT on it: on the table that it names, be it a
/// partition.
async fn blind_writers(subject: &Subject<'_>) -> Result<Vec<Finding>, Error> {
    let shape = subject.shape;
    let quoted: Vec<String> = shape.key.iter().map(|p| p.source.name.quoted()).collect();
    let columns = quoted.join(", ");
    let tables = privileges::tables(shape.source.oid, shape.parts.iter());
    let key = shape.key.iter().map(|pair| &pair.source.name);
    let writers = privileges::writers(subject.client, &tables, key).await?;
    let finding = |writers: Writers| {
        let Writers { spelled: table, roles, .. } = writers;
        Finding::warning(
            Kind::Privileges,
            &table,
            format!(
                "these roles may write {table} but not read its key, so that what they write is \
                 recorded, and followed by a full verify each time: {roles}"
            ),
            "let them read the key",
        )
        .run(format!("GRANT SELECT ({columns}) ON {table} TO {roles}"))
        .or_accept()
    };
    Ok(writers.into_iter().map(finding).collect())
}

async fn source_only_readers(subject: &Subject<'_>) -> Result<Vec<Finding>, Error> {
    let (source, shadow) = (&subject.shape.source, &subject.shape.shadow);
    let rows = subject
        .rows(
            "SELECT string_agg(quote_ident(rolname), ', ' ORDER BY rolname), \
             bool_or(NOT has_schema_privilege(r.oid, $3::text, 'USAGE'))::text FROM pg_roles r \
             WHERE NOT rolsuper AND rolname NOT LIKE 'pg\\_%' \
             AND has_table_privilege(r.oid, $1::oid, 'SELECT') \
             AND has_schema_privilege(r.oid, $4::text, 'USAGE') \
             AND NOT (has_table_privilege(r.oid, $2::oid, 'SELECT') \
                 AND has_schema_privilege(r.oid, $3::text, 'USAGE'))",
            &[&source.oid, &shadow.oid, &shadow.name.schema.as_str(), &source.name.schema.as_str()],
        )
        .await?;
    let [roles, schema] = rows.concat().try_into().unwrap_or_default();
    if roles.is_empty() {
        return Ok(Vec::new());
    }
    let (from, to) = (subject.source(), subject.shadow());
    let mut found = Finding::warning(
        Kind::Privileges,
        &to,
        format!(
            "these roles may read {from} but not {to}: {roles}; their reads stay on the source"
        ),
        "let them read the shadow before the canary",
    );
    if schema == "true" {
        let schema = shadow.name.schema.quoted();
        found = found.run(format!("GRANT USAGE ON SCHEMA {schema} TO {roles}"));
    }
    Ok(vec![found.run(format!("GRANT SELECT ON {} TO {roles}", shadow.name.quoted()))])
}

/// Something that the control role needs.
struct Need {
    /// The end of the finding's id.
    object: String,
    /// A condition over `$1`, the source, and `$2`, the shadow.
    sql: String,
    /// What it is.
    what: String,
    /// What gives it.
    grant: String,
    /// Whether nothing works without.
    vital: bool,
}

/// What the control role lacks, each with its GRANT.
pub(super) async fn control_role(subject: &Subject<'_>) -> Result<Vec<Finding>, Error> {
    let role = subject.role().await?;
    let mut needs = of_tables(subject, &role);
    needs.extend(of_database(subject, &role).await?);
    let (source, shadow) = (&subject.shape.source, &subject.shape.shadow);
    let mut findings = Vec::new();
    for need in needs {
        let sql = format!("SELECT ({}) AND $1::oid IS NOT NULL AND $2::oid IS NOT NULL", need.sql);
        if subject.holds(&sql, &[&source.oid, &shadow.oid]).await? {
            continue;
        }
        let message = format!("the control role {role} lacks {}", need.what);
        let remedy = "grant it, or make the role the owner of both tables";
        let found = if need.vital {
            Finding::blocker(Kind::ControlRole, need.object, message, remedy)
        } else {
            Finding::warning(Kind::ControlRole, need.object, message, remedy)
        };
        findings.push(found.run(need.grant));
    }
    Ok(findings)
}

fn of_tables(subject: &Subject<'_>, role: &str) -> Vec<Need> {
    let shape = subject.shape;
    let (source, shadow) = (&shape.source.name, &shape.shadow.name);
    let mut needs = Vec::new();
    for (side, parameter, table) in [("source", "$1", source), ("shadow", "$2", shadow)] {
        needs.push(Need {
            object: format!("{side} USAGE"),
            sql: format!(
                "SELECT has_schema_privilege(relnamespace, 'USAGE') FROM pg_class WHERE oid = {parameter}::oid"
            ),
            what: format!("USAGE on schema {}", table.schema.spelled()),
            grant: format!("GRANT USAGE ON SCHEMA {} TO {role}", table.schema.quoted()),
            vital: true,
        });
    }
    let key = shape.key.first().map(|pair| pair.source.name.quoted()).unwrap_or_default();
    needs.push(Need {
        object: "source SELECT".to_owned(),
        sql: "has_table_privilege($1::oid, 'SELECT')".to_owned(),
        what: format!("SELECT on {}", source.spelled()),
        grant: format!("GRANT SELECT ON {} TO {role}", source.quoted()),
        vital: true,
    });
    needs.push(Need {
        object: "source UPDATE".to_owned(),
        sql: "has_any_column_privilege($1::oid, 'UPDATE')".to_owned(),
        what: format!("UPDATE on a column of {} (to lock rows FOR SHARE)", source.spelled()),
        grant: format!("GRANT UPDATE ({key}) ON {} TO {role}", source.quoted()),
        vital: true,
    });
    for privilege in ["SELECT", "INSERT", "UPDATE", "DELETE"] {
        needs.push(Need {
            object: format!("shadow {privilege}"),
            sql: format!("has_table_privilege($2::oid, '{privilege}')"),
            what: format!("{privilege} on {}", shadow.spelled()),
            grant: format!("GRANT {privilege} ON {} TO {role}", shadow.quoted()),
            vital: true,
        });
    }
    needs.push(Need {
        object: "shadow TRUNCATE".to_owned(),
        sql: "has_table_privilege($2::oid, 'TRUNCATE')".to_owned(),
        what: format!(
            "TRUNCATE on {} (a client's TRUNCATE would be followed by a full verify instead)",
            shadow.spelled()
        ),
        grant: format!("GRANT TRUNCATE ON {} TO {role}", shadow.quoted()),
        vital: false,
    });
    if let Some(Counting { sequence: Some(Sequence { oid, name }), .. }) = &shape.counted {
        needs.push(Need {
            object: "sequence SELECT".to_owned(),
            sql: format!("has_sequence_privilege({oid}::oid, 'SELECT')"),
            what: format!("SELECT on sequence {name} (to mirror COPY without the key)"),
            grant: format!("GRANT SELECT ON SEQUENCE {name} TO {role}"),
            vital: false,
        });
    }
    needs
}

async fn of_database(subject: &Subject<'_>, role: &str) -> Result<Vec<Need>, Error> {
    let row = subject.client.query_one("SELECT quote_ident(current_database())", &[]).await?;
    let database: String = row.try_get(0)?;
    let schema = "to_regnamespace('pgsegue')";
    let there = subject.holds(&format!("SELECT {schema} IS NOT NULL"), &[]).await?;
    let (sql, what, grant) = if there {
        (
            format!(
                "has_schema_privilege({schema}, 'CREATE') AND has_schema_privilege({schema}, 'USAGE')"
            ),
            "CREATE and USAGE on schema pgsegue",
            format!("GRANT CREATE, USAGE ON SCHEMA pgsegue TO {role}"),
        )
    } else {
        (
            "has_database_privilege(current_database(), 'CREATE')".to_owned(),
            "CREATE on the database (for schema pgsegue)",
            format!("GRANT CREATE ON DATABASE {database} TO {role}"),
        )
    };
    Ok(vec![
        Need { object: "schema".to_owned(), sql, what: what.to_owned(), grant, vital: true },
        Need {
            object: "statistics".to_owned(),
            sql: "pg_has_role('pg_read_all_stats', 'USAGE') \
                  OR (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)"
                .to_owned(),
            what:
                "membership in pg_read_all_stats (the barrier waits for other sessions' statements)"
                    .to_owned(),
            grant: format!("GRANT pg_read_all_stats TO {role}"),
            vital: true,
        },
        Need {
            object: "TEMPORARY".to_owned(),
            sql: "has_database_privilege(current_database(), 'TEMPORARY')".to_owned(),
            what: "TEMPORARY on the database (to prove that mappings are deterministic)".to_owned(),
            grant: format!("GRANT TEMPORARY ON DATABASE {database} TO {role}"),
            vital: false,
        },
    ])
}

/// A wait of the sync that is longer than `deadlock_timeout` makes the client the victim.
async fn lock_budget(subject: &Subject<'_>) -> Result<Vec<Finding>, Error> {
    let sql = "SELECT setting::int8 FROM pg_settings WHERE name = 'deadlock_timeout'";
    let timeout_ms: i64 = subject.client.query_one(sql, &[]).await?.try_get(0)?;
    let budget_ms = i64::try_from(subject.migration.lock_budget.as_millis()).unwrap_or(i64::MAX);
    if budget_ms < timeout_ms {
        return Ok(Vec::new());
    }
    Ok(vec![
        Finding::blocker(
            Kind::LockBudget,
            "",
            format!(
                "lock_budget is {budget_ms} ms, deadlock_timeout {timeout_ms} ms: a client could be the victim of a deadlock with pgsegue"
            ),
            "set it below deadlock_timeout",
        )
        .write(format!("lock_budget_ms = {}", (timeout_ms / 2).clamp(1, 100))),
    ])
}
