//! Writes in the rarer forms: MERGE, TRUNCATE, EXPLAIN, what is wrong, and definitions that do no
//! harm.

use crate::pen::Pen;
use crate::schema::{Column, Table, quoted};
use crate::writes::{delete_from, insert_into, non_key, sets, update_of};

/// What an EXPLAIN may say that is the same on both sides.
const ANALYZE: &str = "EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF)";

pub fn merge(pen: &mut Pen<'_>) -> String {
    let table = pen.table();
    let name = pen.name(table);
    let key = pen.column("tgt.", &table.columns[0]);
    let others: Vec<&Table> =
        pen.schema.tables.iter().filter(|t| t.full() != table.full()).collect();
    let from = match pen.random.below(5) {
        0 if !others.is_empty() => {
            let other = others[pen.random.below(others.len())];
            let (name, key) = (pen.name(other), quoted(&other.columns[0].name));
            format!("(SELECT DISTINCT o.{key}::text AS n FROM {name} AS o) AS p")
        }
        1 => "(VALUES ('1'), ('2'), ('20')) AS p(n)".to_owned(),
        _ => "plain AS p".to_owned(),
    };
    let mut clauses = String::new();
    for _ in 0..pen.random.between(1, 3) {
        clauses += &clause(pen, table);
    }
    format!("MERGE INTO {name} AS tgt USING {from} ON {key}::text = p.n::text{clauses}")
}

fn clause(pen: &mut Pen<'_>, table: &Table) -> String {
    if pen.random.chance(40) {
        let keys: Vec<&Column> = table.keys().iter().collect();
        let condition = if pen.random.chance(70) { " AND p.n::text > '5'" } else { "" };
        let action = match pen.random.below(6) {
            0 => "INSERT DEFAULT VALUES".to_owned(),
            1 => "DO NOTHING".to_owned(),
            n => {
                let values: Vec<String> = keys.iter().map(|c| pen.of_kind(c.kind)).collect();
                let overriding = if n == 2 { " OVERRIDING SYSTEM VALUE" } else { "" };
                let names = pen.columns("", &keys);
                format!("INSERT ({names}){overriding} VALUES ({})", values.join(", "))
            }
        };
        return format!(" WHEN NOT MATCHED{condition} THEN {action}");
    }
    let condition = match pen.random.chance(50) {
        true => format!(" AND {}", pen.key_is("tgt.", table)),
        false => String::new(),
    };
    let action = match pen.random.below(4) {
        0 => "DELETE".to_owned(),
        1 => "DO NOTHING".to_owned(),
        _ if non_key(table).is_empty() => "DELETE".to_owned(),
        _ => format!("UPDATE SET {}", sets(pen, table, "tgt.")),
    };
    format!(" WHEN MATCHED{condition} THEN {action}")
}

pub fn truncate(pen: &mut Pen<'_>) -> String {
    let table = pen.table();
    let mut names = vec![pen.name(table)];
    if pen.random.chance(25) {
        let other = pen.table();
        names.push(pen.name(other));
    }
    if pen.random.chance(10) {
        names.push("plain".to_owned());
    }
    let word = *pen.random.pick(&["TRUNCATE", "TRUNCATE TABLE", "TRUNCATE ONLY", "truncate"]);
    let how = *pen.random.pick(&[
        "",
        " RESTART IDENTITY",
        " CONTINUE IDENTITY",
        " CASCADE",
        " RESTRICT",
        " RESTART IDENTITY CASCADE",
    ]);
    format!("{word} {}{how}", names.join(", "))
}

fn any(pen: &mut Pen<'_>) -> String {
    let table = pen.table();
    match pen.random.below(3) {
        0 => insert_into(pen, table),
        1 => update_of(pen, table),
        _ => delete_from(pen, table),
    }
}

pub fn explain(pen: &mut Pen<'_>) -> String {
    let table = pen.table();
    let name = pen.name(table);
    let inner = match pen.random.below(4) {
        0 => format!("SELECT count(*) FROM {name} WHERE {}", pen.key_is("", table)),
        _ => any(pen),
    };
    match pen.random.below(4) {
        0 => format!("EXPLAIN (COSTS OFF, VERBOSE) {inner}"),
        1 => format!("EXPLAIN (COSTS OFF, FORMAT json) {inner}"),
        _ => format!("{ANALYZE} {inner}"),
    }
}

/// A definition that passes.
pub fn definition(pen: &mut Pen<'_>) -> String {
    let table = pen.table();
    let name = pen.name(table);
    let column = quoted(&table.columns[0].name);
    match pen.random.below(6) {
        0 => format!("COMMENT ON TABLE {name} IS 'it''s commented'"),
        1 => format!("COMMENT ON COLUMN {}.{column} IS NULL", table.full()),
        2 => format!("ALTER TABLE {name} SET (autovacuum_enabled = off)"),
        3 => format!("ALTER TABLE {name} ALTER COLUMN {column} SET STATISTICS 10"),
        4 => format!("ALTER TABLE IF EXISTS {name} RESET (autovacuum_enabled)"),
        _ => format!("ANALYZE {name}"),
    }
}

/// A write whose rows make a table.
pub fn made(pen: &mut Pen<'_>) -> String {
    let table = pen.table();
    let key = quoted(&table.columns[0].name);
    let name = pen.name(table);
    let condition = pen.condition("", table);
    let value = non_key(table).first().map(|c| (quoted(&c.name), pen.value(c)));
    let one = match (pen.random.below(3), value) {
        (0, Some((column, value))) => {
            format!("UPDATE {name} SET {column} = {value} WHERE {condition} RETURNING {key}")
        }
        (1, _) => {
            let insert = insert_into(pen, table);
            match insert.to_uppercase().contains("RETURNING") {
                true => insert,
                false => format!("{insert} RETURNING {key}"),
            }
        }
        _ => format!("DELETE FROM {name} WHERE {condition} RETURNING {key}"),
    };
    match pen.random.below(4) {
        0 => format!("WITH w AS ({one}) SELECT 1 AS x, count(*) INTO TEMP made FROM w"),
        1 => format!("CREATE TEMP TABLE made AS SELECT {key} FROM {name} WHERE {condition}"),
        2 => format!("CREATE TEMP TABLE made (c) AS WITH w AS ({one}) SELECT count(*) FROM w"),
        _ => format!("CREATE TEMP TABLE made AS WITH w AS ({one}) SELECT 1 AS x FROM w"),
    }
}

/// A write of the first table that does not name it.
pub fn through(pen: &mut Pen<'_>) -> String {
    let table = &pen.schema.tables[0];
    let key = quoted(&table.columns[0].name);
    let value = pen.random.between(1, 9);
    match pen.random.below(10) {
        0 => format!("DELETE FROM window_on WHERE {key}::text = '{value}' RETURNING {key}"),
        1 => format!("DELETE FROM public.window_on WHERE {key}::text = '{value}'"),
        2 | 3 => match non_key(table).first() {
            Some(column) => {
                let to = pen.value(column);
                let condition = pen.key_is("", table);
                format!("UPDATE window_on SET {} = {to} WHERE {condition}", quoted(&column.name))
            }
            None => "SELECT touch(NULL)".to_owned(),
        },
        4 => format!("SELECT public.touch('{value}')"),
        5 => format!("SELECT n, touch(n::text) FROM plain WHERE n < {value} ORDER BY n"),
        6 => format!("CALL leave_out('{value}')"),
        7 => format!("INSERT INTO ruled VALUES ('{value}') RETURNING k"),
        8 => format!("DO $do$ BEGIN CALL leave_out('{value}'); END $do$"),
        _ => format!("INSERT INTO plain SELECT 300, touch('{value}')::text ON CONFLICT DO NOTHING"),
    }
}

/// A text that defines something by which the first table is written, writes by it, and drops it.
pub fn at_once(pen: &mut Pen<'_>) -> String {
    let table = &pen.schema.tables[0];
    let (name, key) = (table.full(), quoted(&table.columns[0].name));
    let delete = format!("DELETE FROM {name} WHERE {key}::text = '{}'", pen.random.between(1, 9));
    match pen.random.below(3) {
        0 => format!(
            "CREATE FUNCTION pg_temp.once() RETURNS void LANGUAGE sql AS $way$ {delete} $way$; \
             SELECT pg_temp.once(); DROP FUNCTION pg_temp.once()"
        ),
        1 => format!(
            "CREATE TEMP VIEW once AS SELECT * FROM {name}; \
             DELETE FROM once WHERE {key}::text = '{}'; DROP VIEW once",
            pen.random.between(1, 9)
        ),
        _ => format!(
            "CREATE RULE once AS ON INSERT TO plain DO ALSO {delete}; \
             INSERT INTO plain VALUES (400, 'x') ON CONFLICT DO NOTHING; DROP RULE once ON plain"
        ),
    }
}

/// What is rare, or wrong.
pub fn odd(pen: &mut Pen<'_>) -> String {
    let table = pen.table();
    let name = pen.name(table);
    let key = quoted(&table.columns[0].name);
    match pen.random.below(14) {
        13 => definition(pen),
        12 => truncate(pen),
        10 | 11 => explain(pen),
        9 => format!("LOCK TABLE {name} IN ROW EXCLUSIVE MODE"),
        0 => format!("DELETE FROM {name} WHERE 1 / (length({key}::text) * 0) = 1"),
        1 => format!("UPDATE {name} SET nothing_like_it = 1"),
        2 => format!("INSERT INTO {name} ({key}) VALUES ('no such value')"),
        3 => format!("UPDATE {name} SET {key} = {key} WHERE {key} ="),
        4 => format!("INSERT INTO {name} VALUES (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12)"),
        5 => format!("DELETE FROM {name} RETURNING nothing_like_it"),
        6 => {
            let inner = delete_from(pen, table);
            let inner = inner.split(" RETURNING").next().unwrap_or_default().to_owned();
            let inner = inner.split(" returning").next().unwrap_or_default().to_owned();
            format!("DO $do$ BEGIN {inner}; END $do$")
        }
        7 => {
            let inner = insert_into(pen, table);
            format!("EXPLAIN (COSTS OFF) {inner}")
        }
        _ => truncate(pen),
    }
}
