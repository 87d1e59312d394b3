//! Working off dirty keys: read the records, bring their keys in step with the source, remove
//! exactly the records that were read.
//!
//! One transaction: the chunk lock exclusively, as a statement of its own; the records; one call
//! of the sync function for all their keys; the removal by seq. Why it is safe:
//! * The records are read before the source is: a writer that dirties a key later writes a new
//!   record, with a seq that is not among those removed.
//! * No chunk is in flight under the lock, so none can bring back a row after its record is gone.
//! * The sync locks the source rows FOR SHARE, so no writer is between its source row and its
//!   shadow row; for a key without a source row it locks the shadow row first and looks again.
//! * Killed anywhere before the commit, nothing has happened.

use super::Error;
use super::shape::Shape;
use crate::pg;
use tokio_postgres::{Client, IsolationLevel, Transaction};

/// Records of one batch: bounds how long a chunk or a writer waits for it.
const BATCH: i64 = 500;

/// What a batch did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Repaired {
    /// Records removed.
    pub done: u64,
    /// Records whose key could not be brought in step this time.
    pub failed: u64,
}

/// Repairs one batch of keys that are due.
///
/// # Errors
/// When the connection is lost. Keys that fail are put off, with the reason in their record.
pub async fn batch(client: &mut Client, shape: &Shape) -> Result<Repaired, Error> {
    let due = due(client, shape, Due::Now).await?;
    if due.is_empty() {
        return Ok(Repaired::default());
    }
    let mut repaired = Repaired::default();
    let mut together = true;
    let mut pending = vec![due];
    while let Some(seqs) = pending.pop() {
        let Err(error) = bring_in_step(client, shape, &seqs, Way::Upsert).await else {
            repaired.done += count(&seqs);
            continue;
        };
        let Error::Postgres(error) = error else { return Err(error) };
        if error.as_db_error().is_none() || client.is_closed() {
            return Err(Error::Postgres(error));
        }
        let unique = error.code().is_some_and(|code| code.code() == "23505");
        if unique && together {
            // Values that changed places: no upsert of one key after the other converges. All
            // dirty keys at once, those that are backed off too: the other half may be there.
            together = false;
            let all = self::due(client, shape, Due::All).await?;
            if !is_cascaded_to(client, shape).await?
                && bring_in_step(client, shape, &all, Way::Replace).await.is_ok()
            {
                repaired.done += count(&all);
                return Ok(repaired);
            }
        }
        match seqs.as_slice() {
            [seq] => {
                put_off(client, *seq, &pg::reason(&error)).await?;
                repaired.failed += 1;
            }
            more => {
                let (first, second) = more.split_at(more.len() / 2);
                pending.push(second.to_vec());
                pending.push(first.to_vec());
            }
        }
    }
    Ok(repaired)
}

fn count(seqs: &[i64]) -> u64 {
    u64::try_from(seqs.len()).unwrap_or(u64::MAX)
}

#[derive(Clone, Copy)]
enum Due {
    /// Those that are not backed off.
    Now,
    /// Those that are, too.
    All,
}

async fn due(client: &Client, shape: &Shape, which: Due) -> Result<Vec<i64>, Error> {
    let filter = match which {
        Due::Now => "AND (retry_at IS NULL OR retry_at <= clock_timestamp())",
        Due::All => "",
    };
    let rows = client
        .query(
            &format!(
                "SELECT seq FROM pgsegue.dirty_keys WHERE migration = $1 AND key IS NOT NULL \
                 {filter} ORDER BY seq LIMIT {BATCH}"
            ),
            &[&shape.migration.name],
        )
        .await?;
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Upsert each row.
    Upsert,
    /// Delete all shadow rows first, then insert.
    Replace,
}

async fn bring_in_step(
    client: &mut Client,
    shape: &Shape,
    seqs: &[i64],
    way: Way,
) -> Result<(), Error> {
    let tx =
        client.build_transaction().isolation_level(IsolationLevel::ReadCommitted).start().await?;
    tx.execute(
        "SELECT pg_advisory_xact_lock($1, hashtext($2::text))",
        &[&super::install::REPAIR_LOCK_CLASS, &shape.migration.name],
    )
    .await?;
    if way == Way::Replace {
        clear(&tx, shape, seqs).await?;
    }
    tx.query(&sync_records_sql(shape), &[&shape.migration.name, &seqs]).await?;
    tx.execute(
        "DELETE FROM pgsegue.dirty_keys WHERE migration = $1 AND seq = ANY ($2)",
        &[&shape.migration.name, &seqs],
    )
    .await?;
    Ok(tx.commit().await?)
}

/// The call of the sync function for the keys of records.
fn sync_records_sql(shape: &Shape) -> String {
    let arrays: Vec<String> = shape
        .key
        .iter()
        .enumerate()
        .map(|(i, pair)| format!("array_agg(key[{}]::{})", i + 1, pair.source.type_sql))
        .collect();
    format!(
        "SELECT {}({}, 3) FROM pgsegue.dirty_keys WHERE migration = $1 AND seq = ANY ($2)",
        super::sync::sync_name(&shape.migration.name),
        arrays.join(", ")
    )
}

/// Removes the shadow rows of the records' keys, in this transaction: nobody sees them gone.
async fn clear(tx: &Transaction<'_>, shape: &Shape, seqs: &[i64]) -> Result<(), Error> {
    let same: Vec<String> = shape
        .key
        .iter()
        .enumerate()
        .map(|(i, pair)| {
            let (name, kind) = (pair.shadow.name.quoted(), &pair.shadow.type_sql);
            format!("t.{name} = d.key[{}]::{kind}", i + 1)
        })
        .collect();
    let order: Vec<String> =
        shape.key.iter().map(|pair| format!("t.{}", pair.shadow.name.quoted())).collect();
    let (shadow, same, order) = (shape.shadow.name.quoted(), same.join(" AND "), order.join(", "));
    let records = "d.migration = $1 AND d.seq = ANY ($2)";
    tx.query(
        &format!(
            "SELECT 1 FROM {shadow} AS t, pgsegue.dirty_keys AS d WHERE {records} AND {same} \
             ORDER BY {order} FOR UPDATE OF t"
        ),
        &[&shape.migration.name, &seqs],
    )
    .await?;
    tx.execute(
        &format!(
            "DELETE FROM {shadow} AS t USING pgsegue.dirty_keys AS d WHERE {records} AND {same}"
        ),
        &[&shape.migration.name, &seqs],
    )
    .await?;
    Ok(())
}

/// Whether deleting a shadow row would reach other tables.
async fn is_cascaded_to(client: &Client, shape: &Shape) -> Result<bool, Error> {
    let row = client
        .query_one(
            "SELECT EXISTS (SELECT FROM pg_constraint WHERE contype = 'f' AND confrelid = $1)",
            &[&shape.shadow.oid],
        )
        .await?;
    Ok(row.try_get(0)?)
}

/// The next try: after 100 ms · 2^attempts, at most a minute.
async fn put_off(client: &Client, seq: i64, reason: &str) -> Result<(), Error> {
    client
        .execute(
            "UPDATE pgsegue.dirty_keys SET attempts = attempts + 1, last_error = left($2, 500), \
             retry_at = clock_timestamp() + least(interval '100 milliseconds' \
                 * power(2, least(attempts, 12)), interval '1 minute') WHERE seq = $1",
            &[&seq, &reason],
        )
        .await?;
    Ok(())
}

/// What is left of a migration's dirty keys.
#[derive(Debug, PartialEq, Eq)]
pub struct Backlog {
    /// Records with a key.
    pub keys: i64,
    /// Of those, how many were tried without success.
    pub tried: i64,
    /// Records without one: any row may be stale. None while a statement runs that has made one and may go
    /// on writing: a pass that begins now says nothing of what that writes later.
    pub unseen: Vec<i64>,
    /// There are such records, and such a statement.
    pub held: bool,
    /// Keys that were tried this often without success, with the error, at most ten.
    pub poison: Vec<String>,
}

/// Entries `l` of `pg_locks` by which a statement holds its mark: of class `$3`, and migration `$1`.
const OF_HOLD: &str = "l.locktype = 'advisory' AND l.classid::int8 = $3::int4 \
     AND l.objid = hashtext($1)::oid AND l.objsubid = 2 AND l.granted \
     AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())";

/// Tries after which a key counts as one that needs an operator: with the back-off, 6 s.
const POISON_ATTEMPTS: i32 = 6;

/// Reads the backlog.
///
/// # Errors
/// When the database fails.
pub async fn backlog(client: &Client, shape: &Shape) -> Result<Backlog, Error> {
    let name = &shape.migration.name;
    // The records are those of the query's snapshot, the locks those of later: a record whose lock is gone is
    // of a statement that is over.
    let row = client
        .query_one(
            &format!(
                "SELECT count(*) FILTER (WHERE key IS NOT NULL), \
             count(*) FILTER (WHERE key IS NOT NULL AND attempts > 0), \
             coalesce(array_agg(seq) FILTER (WHERE key IS NULL), '{{}}'), \
             CASE WHEN count(*) FILTER (WHERE key IS NULL) > 0 THEN \
                 EXISTS (SELECT FROM pg_locks l WHERE {OF_HOLD}) ELSE false END, \
             coalesce((SELECT array_agg('(' || array_to_string(key, ', ') || '): ' \
                 || coalesce(last_error, '')) FROM (SELECT key, max(last_error) AS last_error \
                 FROM pgsegue.dirty_keys WHERE migration = $1 AND attempts >= $2 \
                 GROUP BY key ORDER BY key LIMIT 10) p), '{{}}') \
             FROM pgsegue.dirty_keys WHERE migration = $1"
            ),
            &[name, &POISON_ATTEMPTS, &super::install::HOLD_LOCK_CLASS],
        )
        .await?;
    let held = row.try_get(3)?;
    Ok(Backlog {
        keys: row.try_get(0)?,
        tried: row.try_get(1)?,
        unseen: if held { Vec::new() } else { row.try_get(2)? },
        held,
        poison: row.try_get(4)?,
    })
}
