//! The database around the two tables: replication, room, and what runs already.

use super::{Finding, Kind, Subject};
use crate::engine::Error;
use crate::pg;
use crate::sql::ident::literal;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Row};

/// Whether the proxy's clients get to the server that `[control]` leads to. `reached` is a connection
/// with what `[control]` says, to the address of `[server]`.
pub async fn leads_elsewhere(
    control: &Client,
    reached: &Result<Client, tokio_postgres::Error>,
    address: &str,
) -> Option<Finding> {
    const IDENTITY: &str =
        "SELECT system_identifier::text, pg_is_in_recovery() FROM pg_control_system()";
    let warning = |message: String| {
        let remedy = "correct the address of [server], or the url of [control]";
        Some(Finding::warning(Kind::Server, address, message, remedy))
    };
    let server = match reached {
        Ok(server) => server,
        Err(error) if error.code() == Some(&SqlState::INVALID_CATALOG_NAME) => {
            return warning(format!("[server] {address} has no database of the name in [control]"));
        }
        Err(error) if is_about_network(error) => {
            return warning(format!("[server] {address} cannot be reached: {}", pg::reason(error)));
        }
        // It answers; it may let in others than the control role.
        Err(_) => return None,
    };
    let here = control.query_one(IDENTITY, &[]).await.ok()?;
    let there = server.query_one(IDENTITY, &[]).await.ok()?;
    let identifier = |row: &Row| row.try_get::<_, String>(0).ok();
    if identifier(&here)? != identifier(&there)? {
        return warning(format!("[server] {address} is another server than that of [control]"));
    }
    let is_standby: bool = there.try_get(1).ok()?;
    if is_standby && !here.try_get::<_, bool>(1).ok()? {
        return warning(format!("[server] {address} is a standby of the server of [control]"));
    }
    None
}

fn is_about_network(error: &tokio_postgres::Error) -> bool {
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        if error.is::<std::io::Error>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// Whether this is a server that takes no writes.
pub(super) async fn standby(client: &Client) -> Result<Vec<Finding>, Error> {
    let row = client.query_one("SELECT pg_is_in_recovery()", &[]).await?;
    if !row.try_get::<_, bool>(0)? {
        return Ok(Vec::new());
    }
    Ok(vec![Finding::blocker(
        Kind::Standby,
        "",
        "[control] leads to a standby",
        "name the primary in [control] and in [server]",
    )])
}

/// All of them.
pub(super) async fn check(subject: &Subject<'_>) -> Result<Vec<Finding>, Error> {
    let mut findings = subscriptions(subject).await?;
    findings.extend(publications(subject).await?);
    findings.extend(slots(subject).await?);
    findings.extend(replicas(subject).await?);
    findings.extend(transactions(subject).await?);
    findings.extend(prepared(subject).await?);
    Ok(findings)
}

async fn subscriptions(subject: &Subject<'_>) -> Result<Vec<Finding>, Error> {
    let source = subject.source();
    // The name is for superusers and the like; the oid is for everybody.
    subject
        .each(
            "SELECT DISTINCT r.srsubid::text FROM pg_subscription_rel r WHERE r.srrelid IN \
             (SELECT $1::oid UNION SELECT relid::oid FROM pg_partition_tree($1::oid)) ORDER BY 1",
            &[&subject.shape.source.oid],
            |subscription, _| {
                Finding::blocker(
                    Kind::Subscription,
                    &source,
                    format!(
                        "a logical subscription (oid {subscription}) writes the source, unseen"
                    ),
                    "run the migration where the rows are written first",
                )
            },
        )
        .await
}

/// Publications of the two tables; `pg_publication_tables` has those of whole schemas, too.
async fn publications(subject: &Subject<'_>) -> Result<Vec<Finding>, Error> {
    let sql = "SELECT quote_ident(p.pubname), (p.puballtables)::text, (p.pubupdate OR p.pubdelete)::text, \
               bool_or(c.oid IN (SELECT $1::oid UNION SELECT relid::oid FROM pg_partition_tree($1::oid)))::text, \
               bool_or(c.oid IN (SELECT $2::oid UNION SELECT relid::oid FROM pg_partition_tree($2::oid)))::text \
               FROM pg_publication_tables t JOIN pg_publication p USING (pubname) \
               JOIN pg_namespace n ON n.nspname = t.schemaname \
               JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = t.tablename \
               GROUP BY 1, 2, 3 HAVING bool_or(c.oid IN (SELECT $1::oid UNION SELECT relid::oid FROM pg_partition_tree($1::oid) \
                   UNION SELECT $2::oid UNION SELECT relid::oid FROM pg_partition_tree($2::oid))) ORDER BY 1";
    let shape = subject.shape;
    let (source, shadow) = (subject.source(), subject.shadow());
    let mut findings = Vec::new();
    let mut changes_published = false;
    for row in subject.rows(sql, &[&shape.source.oid, &shape.shadow.oid]).await? {
        let [name, all, changes, of_source, of_shadow] = row.as_slice() else { continue };
        changes_published |= changes == "true" && of_shadow == "true";
        let (message, remedy) = match (of_source.as_str(), of_shadow.as_str()) {
            ("true", "true") => (
                format!(
                    "{name} publishes both tables: its subscribers get every write twice, once in each"
                ),
                format!(
                    "nothing, if they have both tables: their copy of {shadow} is then complete at the \
                     cutover, behind which the source goes; otherwise have it publish {source} alone"
                ),
            ),
            ("true", _) => (
                format!(
                    "{name} publishes {source} but not {shadow}: after the cutover its subscribers get nothing"
                ),
                format!(
                    "publish both before the cutover, if its subscribers shall have {shadow} then: they \
                     get every write twice until the source goes, once in each; leave it, if they shall not"
                ),
            ),
            _ => (
                format!("{name} publishes {shadow}: its subscribers get the backfill as well"),
                "nothing, if they shall; otherwise leave the shadow out until it is filled"
                    .to_owned(),
            ),
        };
        let found = Finding::info(Kind::Publication, name, message, remedy);
        findings.push(if of_shadow != "true" && all != "true" {
            found.run(format!("ALTER PUBLICATION {name} ADD TABLE {}", shape.shadow.name.quoted()))
        } else {
            found
        });
    }
    if changes_published {
        findings.extend(identity(subject).await?);
    }
    Ok(findings)
}

/// A published table whose updates Postgres would refuse.
async fn identity(subject: &Subject<'_>) -> Result<Vec<Finding>, Error> {
    subject
        .each(
            "SELECT c.oid::regclass::text FROM pg_class c WHERE c.relkind = 'r' AND c.oid IN \
             (SELECT $1::oid UNION SELECT relid::oid FROM pg_partition_tree($1::oid)) AND CASE c.relreplident \
             WHEN 'f' THEN false WHEN 'n' THEN true \
             WHEN 'd' THEN NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary) \
             ELSE NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisreplident) END ORDER BY 1",
            &[&subject.shape.shadow.oid],
            |table, _| {
                Finding::blocker(
                    Kind::ReplicaIdentity,
                    table,
                    format!("{table} is published and has no replica identity: its updates and deletes are refused"),
                    "give it a primary key over the key, or a replica identity",
                )
                .run(format!("ALTER TABLE {table} REPLICA IDENTITY FULL"))
            },
        )
        .await
}

/// Slots that nobody reads.
async fn slots(subject: &Subject<'_>) -> Result<Vec<Finding>, Error> {
    let rows = subject
        .rows(
            "SELECT slot_name::text, slot_type, pg_size_pretty(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)) \
             FROM pg_replication_slots WHERE NOT active AND NOT temporary AND restart_lsn IS NOT NULL ORDER BY 1",
            &[],
        )
        .await?;
    let mut findings = Vec::new();
    for row in rows {
        let [name, kind, kept] = row.as_slice() else { continue };
        findings.push(
            Finding::warning(
                Kind::Slot,
                name,
                format!("nobody reads the {kind} replication slot {name}, for which {kept} of WAL are kept"),
                "start its reader, or drop the slot if it is left over",
            )
            .run(format!("SELECT pg_drop_replication_slot({})", literal(name))),
        );
    }
    Ok(findings)
}

async fn replicas(subject: &Subject<'_>) -> Result<Option<Finding>, Error> {
    let row = subject
        .client
        .query_one(
            "SELECT (SELECT count(*) FROM pg_stat_replication), \
             (SELECT count(*) FROM pg_replication_slots WHERE active AND slot_type = 'logical' \
                 AND database = current_database()), \
             current_setting('synchronous_standby_names') <> ''",
            &[],
        )
        .await?;
    let (receivers, logical): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
    if receivers == 0 && logical == 0 {
        return Ok(None);
    }
    let waits =
        if row.try_get(2)? { "; commits of clients wait for a synchronous one" } else { "" };
    let bound = subject.migration.backfill_rows_per_second;
    let found = Finding::info(
        Kind::Replicas,
        "",
        format!(
            "{receivers} receivers of WAL are connected, {logical} of them decode this database{waits}"
        ),
        "bound the backfill, and watch their lag in pg_stat_replication",
    );
    Ok(Some(if bound.is_none() { found.write("backfill_rows_per_second = 20000") } else { found }))
}

/// The barrier waits for transactions that have written the source.
async fn transactions(subject: &Subject<'_>) -> Result<Vec<Finding>, Error> {
    let seconds = subject.effort.long_transaction.as_secs_f64();
    let rows = subject
        .rows(
            "SELECT a.pid::text, coalesce(quote_ident(a.usename), '?'), \
             date_trunc('second', clock_timestamp() - a.xact_start)::text, \
             EXISTS (SELECT FROM pg_locks l WHERE l.pid = a.pid AND l.granted AND l.locktype = 'relation' \
                 AND l.mode IN ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock') \
                 AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
                 AND l.relation IN (SELECT $1::oid UNION SELECT relid::oid FROM pg_partition_tree($1::oid)))::text \
             FROM pg_stat_activity a WHERE a.datname = current_database() AND a.pid <> pg_backend_pid() \
             AND a.xact_start < clock_timestamp() - make_interval(secs => $2) ORDER BY a.xact_start, a.pid LIMIT 20",
            &[&subject.shape.source.oid, &seconds],
        )
        .await?;
    let mut findings = Vec::new();
    for row in rows {
        let [pid, user, age, writes] = row.as_slice() else { continue };
        let object = format!("pid {pid}");
        let remedy = "wait for its end, or end it";
        let found = if writes == "true" {
            let message = format!(
                "a transaction of {user} has written the source and is open for {age}: the start waits for it"
            );
            Finding::warning(Kind::Transactions, object, message, remedy)
        } else {
            let message = format!("a transaction of {user} is open for {age}");
            Finding::info(Kind::Transactions, object, message, remedy)
        };
        findings.push(found.run(format!("SELECT pg_terminate_backend({pid})")));
    }
    Ok(findings)
}

/// Prepared transactions, of any age: nobody may be there to end them.
async fn prepared(subject: &Subject<'_>) -> Result<Vec<Finding>, Error> {
    subject
        .each(
            "SELECT gid, date_trunc('second', clock_timestamp() - prepared)::text FROM pg_prepared_xacts \
             WHERE database = current_database() ORDER BY prepared LIMIT 20",
            &[],
            |gid, age| {
                Finding::warning(
                    Kind::Transactions,
                    format!("prepared {gid}"),
                    format!("the prepared transaction {gid} is open for {age}: the start waits for it if it has written the source"),
                    "end it: COMMIT PREPARED, or",
                )
                .run(format!("ROLLBACK PREPARED {}", literal(gid)))
            },
        )
        .await
}
