//! The SQL around a COPY whose keys the proxy does not know one by one: text, as in `sync`. Its
//! rows are found by an integer column of the key.
//!
//! Of many given keys the proxy knows the smallest and the largest. Of keys that were left to a
//! sequence nobody is told anything. But what a sequence gives lies between what it
//! stands at before and what it stands at behind the COPY, and of the rows in between those are its
//! own that its transaction has written. So `before_copy_…` says what the sequence stands at, and
//! `after_copy_…` looks again, and feeds the keys of these rows to the sync function:
//!
//! * Rows of other sessions in between (nextval is nobody's alone) are left to these: they are not
//!   there yet, or are not ours. Ours are told by `xmin`, this transaction's id or that of a savepoint
//!   of it: what is visible though its transaction is in progress can be nobody else's. That is so
//!   at every isolation level. A row that is ours cannot be locked by anybody else.
//! * More rows than those of the COPY do no harm: a key can only make the shadow follow the source.
//! * Fewer would do. The COPY says how many rows it has written, and all that one command writes have
//!   the same `cmin`: unless some command of this transaction has written as many of the rows in
//!   between, it is recorded that any row may be stale. So it does not matter how a key came to
//!   lie elsewhere: by `setval` meanwhile, by a trigger, by a default that is not what it was.
//! * The sequence has to be the only default of the column, in the source and in whatever may be
//!   copied into in its place, to count up, to end at its end, and to give no numbers that were set
//!   aside earlier (CACHE); and the same before and behind, file included: RESTART makes a new one.
//!
//! Any role may call them. Who may not insert rows does not learn what the sequence stands at.

use super::Error;
use super::shape::{Relation, Shape};
use super::sync::{Function, settings, sync_name};
use crate::pg;
use crate::sql::ident::{Ident, literal};
use crate::sql::target::{Counted, CountedFunctions, Filled};
use tokio_postgres::GenericClient;

/// Keys per call of the sync function, and how many such calls there are at most: each is a
/// subtransaction, of which a server likes no more than 64.
const BATCH_KEYS: u32 = 5_000;
const BATCHES_MAX: u32 = 40;

/// An integer column of the key by which an index finds rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counting {
    /// The column.
    pub column: Ident,
    /// The sequence that fills it, if one does.
    pub sequence: Option<Sequence>,
}

/// A sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sequence {
    /// `pg_class.oid`.
    pub oid: u32,
    /// Its name, as SQL.
    pub name: String,
}

/// `"pgsegue"."before_copy_…"`.
fn before_name(migration: &str) -> String {
    format!("\"pgsegue\".\"before_copy_{migration}\"")
}

/// `"pgsegue"."after_copy_…"`.
pub(super) fn after_name(migration: &str) -> String {
    format!("\"pgsegue\".\"after_copy_{migration}\"")
}

/// What the statements of a proxy have to know of it.
pub(super) fn counted(shape: &Shape) -> Option<Counted> {
    let Counting { column, sequence } = shape.counted.clone()?;
    let filled = sequence.map_or(Filled::Otherwise, |_| Filled::BySequence);
    let name = &shape.migration.name;
    let functions = CountedFunctions { before: before_name(name), after: after_name(name) };
    Some(Counted { column, filled, functions: shape.follows.then_some(functions) })
}

/// The table with whatever may be copied into in its place, as `tree (relid)`, and what fills the
/// column there, as `filled (seq)`: a sequence, 0 for another default. The server prints a default's constants
/// without E'', whatever is in them.
fn filled(table: &str, column: &str) -> String {
    format!(
        "WITH RECURSIVE tree (relid) AS (
            SELECT {table}
            UNION SELECT i.inhrelid FROM pg_inherits AS i JOIN tree ON i.inhparent = tree.relid
        ), filled (seq) AS (
            SELECT CASE WHEN a.attidentity <> '' THEN (
                SELECT d.objid FROM pg_depend AS d JOIN pg_class AS s ON s.oid = d.objid
                WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass
                    AND d.refobjid = a.attrelid AND d.refobjsubid = a.attnum
                    AND d.deptype = 'i' AND s.relkind = 'S'
            ) ELSE coalesce((
                SELECT d.refobjid FROM pg_attrdef AS f JOIN pg_depend AS d ON d.objid = f.oid
                JOIN pg_class AS s ON s.oid = d.refobjid
                WHERE f.adrelid = a.attrelid AND f.adnum = a.attnum AND s.relkind = 'S'
                    AND d.classid = 'pg_attrdef'::regclass AND d.refclassid = 'pg_class'::regclass
                    AND pg_get_expr(f.adbin, f.adrelid)
                        = 'nextval(''' || replace(d.refobjid::regclass::text, '''', '''''') || '''::regclass)'
            ), 0) END
            FROM tree JOIN pg_attribute AS a ON a.attrelid = tree.relid
            WHERE a.attname = {column} AND NOT a.attisdropped AND (a.attidentity <> '' OR a.atthasdef)
        )"
    )
}

/// Looks for one.
pub(super) async fn read(
    client: &impl GenericClient,
    source: &Relation,
    key: &[Ident],
) -> Result<Option<Counting>, Error> {
    const INTEGERS: [u32; 3] = [20, 21, 23];
    let key = || key.iter().filter_map(|name| source.column(name));
    if key().any(|column| column.type_sql.ends_with(']')) {
        return Ok(None);
    }
    let sql = format!(
        "{}, sequence AS ( \
            SELECT min(seq) AS seq FROM filled HAVING count(DISTINCT seq) = 1 AND min(seq) > 0) \
         SELECT seq, seq::regclass::text FROM (VALUES (0)) AS one LEFT JOIN sequence ON true \
         WHERE EXISTS (SELECT FROM pg_index AS i JOIN pg_attribute AS a ON a.attrelid = i.indrelid \
            AND a.attnum = i.indkey[0] JOIN pg_class AS c ON c.oid = i.indexrelid \
            JOIN pg_am AS m ON m.oid = c.relam WHERE i.indrelid = $1 \
            AND a.attname = $2 AND i.indisvalid AND i.indpred IS NULL AND m.amname = 'btree')",
        filled("$1::oid", "$2::name")
    );
    let mut plain = None;
    for column in key().filter(|column| INTEGERS.contains(&column.type_oid)) {
        let found = client.query_opt(&sql, &[&source.oid, &column.name.as_str()]).await?;
        let Some(row) = found else { continue };
        let (oid, name): (Option<u32>, Option<String>) = (row.try_get(0)?, row.try_get(1)?);
        let sequence = oid.zip(name).map(|(oid, name)| Sequence { oid, name });
        let counting = Counting { column: column.name.clone(), sequence };
        if counting.sequence.is_some() {
            return Ok(Some(counting));
        }
        plain = plain.or(Some(counting));
    }
    Ok(plain)
}

/// Both functions; nothing where there is no such column.
pub fn counted_sql(shape: &Shape) -> String {
    match &shape.counted {
        Some(Counting { column, .. }) => {
            format!("{}{}", before_sql(shape, column), after_sql(shape, column))
        }
        None => String::new(),
    }
}

fn before_sql(shape: &Shape, column: &Ident) -> String {
    let name = before_name(&shape.migration.name);
    let settings = settings(pg::PINNED.iter());
    let table = format!("{}::regclass::oid", literal(&shape.source.name.quoted()));
    let filled = filled(&table, &literal(column.as_str()));
    let body = format!(
        "DECLARE
    v_role name := coalesce(nullif(current_setting('role'), 'none'), session_user);
    v_allowed bool;
    v_defaults int8;
    v_sequence oid;
    v_last int8;
    v_called bool;
BEGIN
    {filled}
    SELECT (SELECT bool_or(has_any_column_privilege(v_role, relid, 'INSERT')) FROM tree),
        count(DISTINCT seq), min(seq)
        INTO v_allowed, v_defaults, v_sequence FROM filled;
    IF v_allowed IS NOT TRUE THEN
        RETURN 'no privilege to insert rows';
    END IF;
    IF v_defaults <> 1 OR v_sequence = 0 THEN
        RETURN 'the default of the key is not one sequence';
    END IF;
    IF NOT EXISTS (
        SELECT FROM pg_sequence
        WHERE seqrelid = v_sequence AND seqincrement > 0 AND seqcache = 1 AND NOT seqcycle
    ) THEN
        RETURN 'the sequence of the key counts down, in a circle (CYCLE) or ahead (CACHE)';
    END IF;
    EXECUTE format('SELECT last_value, is_called FROM %s', v_sequence::regclass)
        INTO v_last, v_called;
    RETURN concat_ws(' ', v_sequence, pg_relation_filenode(v_sequence),
        v_last - (NOT v_called)::int4);
EXCEPTION WHEN OTHERS OR assert_failure THEN
    RETURN SQLSTATE || ' ' || SQLERRM;
END
"
    );
    Function {
        name: &name,
        parameters: ("", ""),
        returns: "text",
        settings: &settings,
        body: &body,
        comment: "Before a COPY that leaves the key to its sequence: which one, its file, what it stands at; or \
                  why that cannot be told",
    }
    .sql()
}

fn after_sql(shape: &Shape, column: &Ident) -> String {
    let (before, after) = (before_name(&shape.migration.name), after_name(&shape.migration.name));
    let settings = settings(pg::PINNED.iter());
    let body = after_body(shape, column, &before);
    Function {
        name: &after,
        parameters: ("borders text, rows int8, mode int4", "text, int8, int4"),
        returns: "int4",
        settings: &format!("{settings}\nSET enable_seqscan = off\nSET jit = off"),
        body: &body,
        comment: "Behind a COPY whose rows are between two keys, or have come since before_copy: makes the \
                  shadow follow the rows that it has written. 0: in step; 1: keys recorded as dirty, or that \
                  any row may be stale; 2: recorded because of a lock",
    }
    .sql()
}

/// What the queries on the source are put together from. Where one of its columns may have the name
/// of a variable, that is written with the label of its block.
struct Rows<'a> {
    source: String,
    column: String,
    label: &'a str,
}

impl Rows<'_> {
    /// Which transactions of ours have written the rows in between, and how many a command of
    /// theirs at most.
    fn count(&self) -> String {
        let Self { source, column, label } = self;
        format!(
            "SELECT array_agg(x::text::xid), max(n) INTO v_ours, v_rows
            FROM (
                SELECT x, n, (x + 4294967296 - v_own % 4294967296) % 4294967296 AS since
                FROM (
                    SELECT xmin::text::int8 AS x, count(*) AS n FROM {source}
                    WHERE {column} > {label}.v_low AND {column} <= {label}.v_high
                    GROUP BY xmin::text, cmin::text
                ) AS g
            ) AS s
            WHERE CASE
                WHEN since = 0 THEN true
                -- a savepoint's id is a later one
                WHEN since < 2147483648
                THEN pg_xact_status((v_own + since)::text::xid8) = 'in progress'
            END;"
        )
    }

    /// The last one of the next batch.
    fn next(&self) -> String {
        let Self { source, column, label } = self;
        format!(
            "SELECT max(k) INTO v_to FROM (
                SELECT {column} AS k FROM {source}
                WHERE {column} > {label}.v_low AND {column} <= {label}.v_high
                    AND xmin = ANY ({label}.v_ours)
                ORDER BY {column}
                LIMIT greatest({BATCH_KEYS}, {label}.v_rows / {BATCHES_MAX} + 1)
            ) AS b;"
        )
    }

    /// The keys of that batch.
    fn keys(&self, arrays: &str, variables: &str) -> String {
        let Self { source, column, label } = self;
        format!(
            "SELECT {arrays} INTO {variables} FROM {source}
            WHERE {column} > {label}.v_low AND {column} <= {label}.v_to
                AND xmin = ANY ({label}.v_ours);"
        )
    }
}

fn after_body(shape: &Shape, column: &Ident, before: &str) -> String {
    let migration = literal(&shape.migration.name);
    let sync = sync_name(&shape.migration.name);
    let label = "\"pgsegue copy\"";
    let rows = Rows { source: shape.source.name.quoted(), column: column.quoted(), label };
    let keys = || shape.key.iter().map(|pair| &pair.source).zip(1..);
    let joined = |parts: Vec<String>| parts.join(", ");
    let arrays = joined(keys().map(|(k, _)| format!("array_agg({})", k.name.quoted())).collect());
    let variables = joined(keys().map(|(_, n)| format!("v_k{n}")).collect());
    let declared: String = keys().map(|(k, n)| format!("    v_k{n} {}[];\n", k.type_sql)).collect();
    let (count, next, keys) = (rows.count(), rows.next(), rows.keys(&arrays, &variables));
    format!(
        "#variable_conflict use_column
<<{label}>>
DECLARE
    v_now text;
    v_why text;
    v_low int8;
    v_high int8;
    v_to int8;
    v_own int8;
    v_ours xid[];
    v_rows int8;
    v_outcome int4 := 0;
{declared}BEGIN
    IF $2 <= 0 THEN
        RETURN 0;
    END IF;
    BEGIN
        IF $1 ~ '^-?[0-9]+ -?[0-9]+$' THEN
            v_low := split_part($1, ' ', 1)::int8 - 1;
            v_high := split_part($1, ' ', 2)::int8;
        ELSIF $1 IS NULL OR $1 !~ '^[0-9]+ [0-9]+ -?[0-9]+$' THEN
            v_why := coalesce($1, 'nothing is known from before');
        ELSE
            v_now := {before}();
            IF split_part(v_now, ' ', 1) <> split_part($1, ' ', 1)
                OR split_part(v_now, ' ', 2) <> split_part($1, ' ', 2)
            THEN
                v_why := 'the sequence of the key is not as it was before';
            END IF;
            v_low := split_part($1, ' ', 3)::int8;
            v_high := split_part(v_now, ' ', 3)::int8;
        END IF;
        IF v_why IS NULL THEN
            v_own := pg_current_xact_id_if_assigned()::text::int8;
            {count}
            IF v_rows IS NULL OR v_rows < $2 THEN
                v_why := concat_ws(' ', coalesce(v_rows, 0), 'of', $2, 'rows found by the key');
            END IF;
        END IF;
        WHILE v_why IS NULL AND v_low < v_high LOOP
            {next}
            EXIT WHEN v_to IS NULL;
            {keys}
            v_outcome := greatest(v_outcome, {sync}({variables}, $3));
            v_low := v_to;
        END LOOP;
    EXCEPTION WHEN OTHERS OR assert_failure THEN
        v_why := SQLSTATE || ' ' || SQLERRM;
    END;
    IF v_why IS NOT NULL THEN
        INSERT INTO pgsegue.dirty_keys (migration, reason)
        VALUES ({migration}, \"left\"('COPY: ' || v_why, 500));
        RETURN 1;
    END IF;
    RETURN v_outcome;
END
"
    )
}
