//! What has to be equal: replies, sources, and shadows with their sources.

use crate::case::Case;
use crate::pen::Order;
use crate::raw::{Message, Raw};
use crate::schema::quoted;
use crate::stand::{Stand, pinned};
use pgsegue::engine::shape;
use pgsegue::manifest::Migration;
use tokio_postgres::Client;

/// The replies of one side, one line per message; the rows of a statement without an order sorted.
pub fn shown(raw: &Raw, messages: &[Message], order: Order) -> Vec<String> {
    let mut lines: Vec<String> =
        messages.iter().map(|m| without_number(&raw.show_without(m, b""))).collect();
    if order == Order::Any {
        let starts = |line: &String, tags: &[&str]| tags.iter().any(|tag| line.starts_with(tag));
        let mut at = 0;
        while at < lines.len() {
            // A portal that gives some rows at a time is suspended in between.
            let end = lines[at..].iter().position(|l| !starts(l, &["D ", "d ", "s"]));
            let end = end.map_or(lines.len(), |n| at + n);
            let mut rows: Vec<String> =
                lines[at..end].iter().filter(|l| starts(l, &["D ", "d "])).cloned().collect();
            rows.sort();
            let mut rows = rows.into_iter();
            for line in &mut lines[at..end] {
                if starts(line, &["D ", "d "]) {
                    *line = rows.next().unwrap_or_default();
                }
            }
            at = end + 1;
        }
    }
    lines
}

/// Whether two errors part where that has to be. In their places in the server's source: an error
/// that the proxy says itself has none; and in a transaction that has failed it is the Parse of a
/// form that fails where the Bind of the client's own statement would. In the table that is denied:
/// of several the server names the first, and a mirrored form has them in another order. In what
/// waited for a row, or for the entry of an index: a BEFORE trigger locks it, and so does a mirrored form
/// where there is none. In what comes first: such a form waits for its rows before it works out what to
/// write; where that fails, the client's own statement fails without having waited.
pub fn may_part(expected: &str, got: &str) -> bool {
    let is_place = |part: &&str| part.starts_with(['F', 'L', 'R']);
    let rest = |line: &str| {
        line.split(" / ").filter(|p| !is_place(p)).map(str::to_owned).collect::<Vec<_>>()
    };
    let is_denied =
        |line: &str| line.starts_with("E C42501 ") && line.contains("Mpermission denied");
    if is_denied(expected) && is_denied(got) {
        // Nothing of ours.
        return ["pgsegue", "shadow", "\"new\""].iter().all(|name| !got.contains(name));
    }
    if expected.starts_with("E C2") && got.starts_with("E C55P03 ") {
        return true;
    }
    // Whoever locks a row first says that it was updated, where the write itself says deleted.
    if expected.starts_with("E C40001 ") && got.starts_with("E C40001 ") {
        return true;
    }
    // In a transaction that has failed, what else is wrong with a frame is found behind that.
    let found_later = ["E C08P01 ", "E C26000 ", "E C34000 ", "E C42601 "];
    if got.starts_with("E C25P02 ") && found_later.iter().any(|code| expected.starts_with(code)) {
        return true;
    }
    let waited = |line: &str| {
        const WAITS: [&str; 4] = [
            "Wwhile updating tuple ",
            "Wwhile deleting tuple ",
            "Wwhile locking tuple ",
            "Wwhile inserting index tuple ",
        ];
        let waits = |part: &&str| WAITS.iter().any(|context| part.starts_with(context));
        line.split(" / ").filter(|part| !waits(part)).map(str::to_owned).collect::<Vec<_>>()
    };
    if expected.starts_with("E C55P03 ") && waited(expected) == waited(got) {
        return true;
    }
    let ours = !got.split(" / ").any(|p| is_place(&p));
    got.starts_with("E ") && (ours || got.starts_with("E C25P02 ")) && rest(expected) == rest(got)
}

/// An error without the values of the row that failed: some of them may be random.
pub fn without_values(line: String) -> String {
    let Some(at) = line.find(" / DFailing row contains (") else { return line };
    let end = line.rfind("). / M").unwrap_or(line.len());
    format!("{} … {}", &line[..at], &line[end.max(at)..])
}

/// The schema of a session's temporary tables without its number.
fn without_number(line: &str) -> String {
    let mut parts = line.split("pg_temp_");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        out += "pg_temp_";
        out += part.trim_start_matches(|c: char| c.is_ascii_digit());
    }
    out
}

async fn rows(client: &Client, sql: &str) -> Result<Vec<String>, String> {
    let rows = client.query(sql, &[]).await.map_err(|e| format!("{sql}: {e:?}"))?;
    Ok(rows.iter().map(|row| row.get::<_, Option<String>>(0).unwrap_or_default()).collect())
}

/// Every table of the plain database has the rows that the live one has.
pub async fn sources(case: &Case, stand: &Stand) -> Result<(), String> {
    let (plain, live) = (pinned(&stand.plain).await, pinned(&stand.live).await);
    for table in &case.schema.tables {
        let columns: Vec<String> =
            table.printable().iter().map(|c| format!("{}::text", quoted(&c.name))).collect();
        let sql =
            format!("SELECT ROW({})::text FROM {} ORDER BY 1", columns.join(", "), table.full());
        let (expected, got) = (rows(&plain, &sql).await?, rows(&live, &sql).await?);
        if expected != got {
            return Err(format!(
                "{} differs from the plain database's\n  plain: {expected:#?}\n  live: {got:#?}",
                table.full()
            ));
        }
    }
    Ok(())
}

/// Rows of a shadow that are not what the mapping says, as `key: mapped, shadow`; without those
/// whose keys are on record, and none while anything is marked.
pub async fn silent(client: &Client, migration: &Migration) -> Result<Vec<String>, String> {
    let shape =
        shape::read(client, migration).await.map_err(|e| e.to_string())?.ok_or("no shape")?;
    let keys = |of: &dyn Fn(&shape::KeyPair) -> String| {
        shape.key.iter().map(|pair| format!("{}::text", of(pair))).collect::<Vec<_>>().join(", ")
    };
    let mapped: Vec<String> =
        shape.mapped.iter().map(|m| format!("({})::{}", m.expression, m.column.type_sql)).collect();
    let names: Vec<String> = shape.mapped.iter().map(|m| m.column.name.quoted()).collect();
    let sql = format!(
        "WITH s AS (SELECT ARRAY[{}] AS k, ROW({})::text AS r FROM {}), \
         t AS (SELECT ARRAY[{}] AS k, ROW({})::text AS r FROM {}), \
         d AS (SELECT key FROM pgsegue.dirty_keys WHERE migration = '{}') \
         SELECT k::text || ': ' || coalesce(s.r, 'no row') || ', ' || coalesce(t.r, 'no row') \
         FROM s FULL JOIN t USING (k) WHERE s.r IS DISTINCT FROM t.r \
         AND k NOT IN (SELECT key FROM d WHERE key IS NOT NULL) \
         AND NOT EXISTS (SELECT FROM d WHERE key IS NULL) ORDER BY 1",
        keys(&|pair| pair.source.name.quoted()),
        mapped.join(", "),
        shape.source.name.quoted(),
        keys(&|pair| pair.shadow.name.quoted()),
        names.join(", "),
        shape.shadow.name.quoted(),
        migration.name,
    );
    rows(client, &sql).await
}
