//! Roles, policies and settings.

use super::{Finding, Subject};
use crate::engine::Error;

/// All of them.
pub(super) async fn check(subject: &Subject<'_>) -> Result<Vec<Finding>, Error> {
    let mut findings = policies(subject).await?;
    findings.extend(blind_writers(subject).await?);
    findings.extend(source_only_readers(subject).await?);
    findings.extend(control_role(subject).await?);
    findings.extend(lock_budget(subject).await?);
    Ok(findings)
}

async fn policies(subject: &Subject<'_>) -> Result<Vec<Finding>, Error> {
    let mut findings = Vec::new();
    for relation in [&subject.shape.source, &subject.shape.shadow] {
        let id = format!("row security {}", relation.name);
        let sql = "SELECT row_security_active($1::oid)";
        // The pinned row_security = off does not count: this asks for the role's policies.
        if subject.holds(sql, &[&relation.oid]).await? {
            findings.push(Finding::blocker(
                id,
                format!("row level security hides rows of {} from the control role", relation.name),
                "give the control role BYPASSRLS, or make it the owner of the table",
            ));
        } else if subject
            .holds("SELECT relrowsecurity FROM pg_class WHERE oid = $1", &[&relation.oid])
            .await?
        {
            findings.push(Finding::warning(
                id,
                format!("{} has row level security: a written row that its writer cannot read fails, and the other table needs the same policies", relation.name),
                "compare the policies of both tables; accept when every writer may read what it writes",
            ));
        }
    }
    Ok(findings)
}

/// A mirrored write returns the key, which needs SELECT on it.
async fn blind_writers(subject: &Subject<'_>) -> Result<Vec<Finding>, Error> {
    let source = &subject.shape.source;
    let key: Vec<&str> = subject.shape.key.iter().map(|p| p.source.name.as_str()).collect();
    let rows = subject
        .rows(
            "SELECT coalesce(string_agg(r.rolname, ', ' ORDER BY r.rolname), '') FROM pg_roles r \
             WHERE NOT r.rolsuper AND r.rolname NOT LIKE 'pg\\_%' \
             AND (has_table_privilege(r.oid, $1::oid, 'DELETE') \
                 OR has_any_column_privilege(r.oid, $1::oid, 'INSERT') \
                 OR has_any_column_privilege(r.oid, $1::oid, 'UPDATE')) \
             AND EXISTS (SELECT FROM unnest($2::text[]) k \
                 WHERE NOT has_column_privilege(r.oid, $1::oid, k, 'SELECT'))",
            &[&source.oid, &key],
        )
        .await?;
    let roles = rows.concat().concat();
    if roles.is_empty() {
        return Ok(Vec::new());
    }
    Ok(vec![Finding::blocker(
        format!("privileges {}", source.name),
        format!("these roles may write {} but not read its key: {roles}", source.name),
        format!("GRANT SELECT ({}) ON {} to them", key.join(", "), source.name),
    )])
}

async fn source_only_readers(subject: &Subject<'_>) -> Result<Vec<Finding>, Error> {
    let (source, shadow) = (&subject.shape.source, &subject.shape.shadow);
    let rows = subject
        .rows(
            "SELECT coalesce(string_agg(rolname, ', ' ORDER BY rolname), '') FROM pg_roles r \
             WHERE NOT rolsuper AND rolname NOT LIKE 'pg\\_%' \
             AND has_table_privilege(r.oid, $1::oid, 'SELECT') \
             AND NOT has_table_privilege(r.oid, $2::oid, 'SELECT')",
            &[&source.oid, &shadow.oid],
        )
        .await?;
    let roles = rows.concat().concat();
    if roles.is_empty() {
        return Ok(Vec::new());
    }
    Ok(vec![Finding::warning(
        format!("privileges {}", shadow.name),
        format!(
            "these roles may read {} but not {}: {roles}; their reads stay on the source",
            source.name, shadow.name
        ),
        format!("GRANT SELECT ON {} to them before the canary", shadow.name),
    )])
}

async fn control_role(subject: &Subject<'_>) -> Result<Vec<Finding>, Error> {
    let (source, shadow) = (&subject.shape.source, &subject.shape.shadow);
    let needs = [
        (
            "SELECT has_table_privilege($1::oid, 'SELECT') AND has_any_column_privilege($1::oid, 'UPDATE') AND $2::oid IS NOT NULL",
            format!(
                "SELECT on {0}, and UPDATE on one of its columns (to lock rows FOR SHARE)",
                source.name
            ),
        ),
        (
            "SELECT $1::oid IS NOT NULL AND has_table_privilege($2::oid, 'SELECT') AND has_table_privilege($2::oid, 'INSERT') AND has_table_privilege($2::oid, 'UPDATE') AND has_table_privilege($2::oid, 'DELETE')",
            format!("SELECT, INSERT, UPDATE and DELETE on {}", shadow.name),
        ),
        (
            "SELECT $1::oid IS NOT NULL AND $2::oid IS NOT NULL AND CASE WHEN to_regnamespace('pgsegue') IS NULL \
             THEN has_database_privilege(current_database(), 'CREATE') \
             ELSE has_schema_privilege('pgsegue', 'CREATE') AND has_schema_privilege('pgsegue', 'USAGE') END",
            "CREATE on the database (for schema pgsegue), or on that schema".to_owned(),
        ),
        (
            "SELECT $1::oid IS NOT NULL AND $2::oid IS NOT NULL AND (pg_has_role('pg_read_all_stats', 'USAGE') \
             OR (SELECT rolsuper FROM pg_roles WHERE rolname = current_user))",
            "membership in pg_read_all_stats (the barrier waits for other sessions' statements)"
                .to_owned(),
        ),
    ];
    let mut findings = Vec::new();
    for (n, (sql, need)) in needs.into_iter().enumerate() {
        if !subject.holds(sql, &[&source.oid, &shadow.oid]).await? {
            let what = ["source", "shadow", "schema", "statistics"].get(n).copied().unwrap_or("");
            findings.push(Finding::blocker(
                format!("control role {what}"),
                format!("the control role lacks {need}"),
                "GRANT it to the role of [control] url",
            ));
        }
    }
    Ok(findings)
}

/// A wait of the sync that is longer than `deadlock_timeout` makes the client the victim.
async fn lock_budget(subject: &Subject<'_>) -> Result<Vec<Finding>, Error> {
    let row = subject
        .client
        .query_one("SELECT setting::int8 FROM pg_settings WHERE name = 'deadlock_timeout'", &[])
        .await?;
    let timeout_ms: i64 = row.try_get(0)?;
    let budget_ms = i64::try_from(subject.migration.lock_budget.as_millis()).unwrap_or(i64::MAX);
    if budget_ms < timeout_ms {
        return Ok(Vec::new());
    }
    Ok(vec![Finding::blocker(
        "lock budget",
        format!(
            "lock_budget is {budget_ms} ms, deadlock_timeout {timeout_ms} ms: a client could be the victim of a deadlock with pgsegue"
        ),
        "set lock_budget below deadlock_timeout",
    )])
}
