//! Statements that write.

use crate::forms;
use crate::pen::{Constants, Order, Pen, Sql};
use crate::random::Random;
use crate::schema::{Column, Fill, Schema, Table, quoted};
use crate::values::Kind;

/// One statement that writes.
pub fn write(random: &mut Random, schema: &Schema, constants: Constants) -> Sql {
    let mut pen = Pen::new(random, schema, constants);
    let text = match pen.random.below(100) {
        0..=31 => insert(&mut pen),
        32..=58 => update(&mut pen),
        59..=73 => delete(&mut pen),
        74..=83 => with(&mut pen),
        84..=85 if !schema.has_ways => with(&mut pen),
        84..=85 if schema.has_ways => forms::through(&mut pen),
        86..=90 => forms::merge(&mut pen),
        _ => forms::odd(&mut pen),
    };
    pen.finish(text)
}

pub fn insert(pen: &mut Pen<'_>) -> String {
    let table = pen.table();
    insert_into(pen, table)
}

pub fn insert_into(pen: &mut Pen<'_>, table: &Table) -> String {
    let name = pen.name(table);
    let into = *pen.random.pick(&["INSERT INTO", "INSERT INTO", "insert into", "INSERT\n INTO"]);
    let aliased = pen.random.chance(20);
    let alias = if aliased { " AS tgt" } else { "" };
    let prefix = if aliased { "tgt.".to_owned() } else { String::new() };
    let always = table.columns.iter().any(|c| c.fill == Fill::IdentityAlways);
    let source = match pen.random.below(20) {
        0 if table.key == 1 => " DEFAULT VALUES".to_owned(),
        1..=4 => insert_select(pen, table),
        _ => insert_values(pen, table, always),
    };
    let conflict =
        if pen.random.chance(45) { on_conflict(pen, table, aliased) } else { String::new() };
    let returning = returning(pen, &prefix, table);
    format!("{into} {name}{alias}{source}{conflict}{returning}")
}

fn insert_values(pen: &mut Pen<'_>, table: &Table, always: bool) -> String {
    let overriding = match pen.random.below(10) {
        0..=5 if always => " OVERRIDING SYSTEM VALUE",
        6 => " OVERRIDING USER VALUE",
        _ => "",
    };
    let columns: Vec<&Column> = table
        .columns
        .iter()
        .enumerate()
        .filter(|(at, column)| match &column.fill {
            Fill::Generated(_) | Fill::Volatile(_) => false,
            Fill::IdentityAlways if overriding.is_empty() => pen.random.chance(10),
            Fill::Serial | Fill::IdentityByDefault | Fill::Constant(_) => pen.random.chance(50),
            Fill::Default(_) => pen.random.chance(60),
            _ => *at < table.key || column.not_null || pen.random.chance(75),
        })
        .map(|(_, column)| column)
        .collect();
    if columns.is_empty() {
        return " DEFAULT VALUES".to_owned();
    }
    let rows = *pen.random.pick(&[1, 1, 1, 2, 3, 5]);
    let rows: Vec<String> = (0..rows)
        .map(|_| {
            let values: Vec<String> = columns
                .iter()
                .map(|c| if pen.random.chance(5) { "DEFAULT".into() } else { pen.value(c) })
                .collect();
            format!("({})", values.join(", "))
        })
        .collect();
    format!(" ({}){overriding} VALUES {}", pen.columns("", &columns), rows.join(", "))
}

fn insert_select(pen: &mut Pen<'_>, table: &Table) -> String {
    let columns: Vec<&Column> = table
        .settable()
        .into_iter()
        .filter(|c| !matches!(c.fill, Fill::Serial | Fill::IdentityByDefault))
        .collect();
    if columns.is_empty() {
        return " DEFAULT VALUES".to_owned();
    }
    let from = pen.name(table);
    let shift = pen.random.between(10, 40);
    if pen.random.chance(15) && table.key == 1 && columns[0].kind.is_integer() {
        let key = pen.column("", columns[0]);
        let only: Vec<&&Column> = columns.iter().skip(1).filter(|c| c.not_null).collect();
        if only.is_empty() {
            return format!(" ({key}) SELECT n + {shift} FROM plain ORDER BY n");
        }
    }
    let outputs: Vec<String> = columns
        .iter()
        .map(|c| {
            let name = pen.column("s.", c);
            let is_key = table.keys().iter().any(|k| k.name == c.name);
            match c.kind {
                _ if c.unique => "NULL".to_owned(),
                Kind::Int2 | Kind::Int4 | Kind::Int8 if is_key => format!("{name} + {shift}"),
                Kind::Text if is_key => format!("{name} || '{shift}'"),
                _ => name,
            }
        })
        .collect();
    let condition = pen.condition("s.", table);
    let order = pen.order_by_key("s.", table);
    format!(
        " ({}) SELECT {} FROM {from} s WHERE {condition} ORDER BY {order} LIMIT 3",
        pen.columns("", &columns),
        outputs.join(", ")
    )
}

fn on_conflict(pen: &mut Pen<'_>, table: &Table, aliased: bool) -> String {
    let key = pen.columns("", &table.keys().iter().collect::<Vec<_>>());
    let unique = table.columns.iter().find(|c| c.unique);
    let target = match (pen.random.below(6), unique) {
        (0, _) => String::new(),
        (1, Some(unique)) => format!(" ({})", pen.column("", unique)),
        (2, _) => format!(" ON CONSTRAINT {}", quoted(&table.key_constraint)),
        (3, _) => format!(" ({key}) WHERE true"),
        (4, _) if table.folded.is_some() => {
            let at = table.folded.unwrap_or_default();
            let name = pen.column("", &table.columns[at]);
            let some =
                if at.is_multiple_of(2) { format!(" WHERE {name} <> 'b'") } else { String::new() };
            format!(" (lower({name})){some}")
        }
        _ => format!(" ({key})"),
    };
    if target.is_empty() || pen.random.chance(35) {
        return format!(" ON CONFLICT{target} DO NOTHING");
    }
    let settable = non_key(table);
    if settable.is_empty() {
        return format!(" ON CONFLICT{target} DO NOTHING");
    }
    let columns = pen.random.some(&settable);
    let own = if aliased { "tgt".to_owned() } else { quoted(&table.name) };
    let sets: Vec<String> = columns
        .iter()
        .map(|c| {
            let name = pen.column("", c);
            let excluded = pen.column("EXCLUDED.", c);
            match (c.kind, pen.random.below(4)) {
                (Kind::Int4 | Kind::Int8, 0) => format!("{name} = {own}.{} + 1", quoted(&c.name)),
                (_, 1) => format!("{name} = {}", pen.value(c)),
                _ => format!("{name} = {excluded}"),
            }
        })
        .collect();
    let condition = if pen.random.chance(30) {
        format!(" WHERE {}", pen.condition(&format!("{own}."), table))
    } else {
        String::new()
    };
    format!(" ON CONFLICT{target} DO UPDATE SET {}{condition}", sets.join(", "))
}

pub fn non_key(table: &Table) -> Vec<&Column> {
    let is_key = |c: &Column| table.keys().iter().any(|k| k.name == c.name);
    table.settable().into_iter().filter(|c| !is_key(c)).collect()
}

fn returning(pen: &mut Pen<'_>, prefix: &str, table: &Table) -> String {
    if pen.random.chance(55) {
        return String::new();
    }
    let word = *pen.random.pick(&["RETURNING", "RETURNING", "returning"]);
    if pen.random.chance(4) && table.is_printable() && prefix.is_empty() {
        pen.binary = false;
        pen.width = Some(1);
        return format!(" {word} {}", quoted(&table.name));
    }
    format!(" {word} {}", pen.outputs(prefix, table))
}

pub fn update(pen: &mut Pen<'_>) -> String {
    let table = pen.table();
    update_of(pen, table)
}

pub fn update_of(pen: &mut Pen<'_>, table: &Table) -> String {
    let name = pen.name(table);
    let only = if pen.random.chance(4) { "ONLY " } else { "" };
    let (alias, prefix) = pen.alias(table);
    let sets = sets(pen, table, &prefix);
    let others: Vec<&Table> =
        pen.schema.tables.iter().filter(|t| t.full() != table.full()).collect();
    let (from, joined) = match pen.random.below(12) {
        2 if !prefix.is_empty() && !others.is_empty() => {
            // At most one row of the other table for each of this one.
            let other = others[pen.random.below(others.len())];
            let key = pen.column(&prefix, &table.columns[0]);
            let name = pen.name(other);
            let theirs = quoted(&other.columns[0].name);
            let from =
                format!(" FROM (SELECT DISTINCT o.{theirs}::text AS k FROM {name} AS o) AS one");
            (from, format!("{key}::text = one.k AND "))
        }
        0 if !prefix.is_empty() => {
            let key = pen.column(&prefix, &table.columns[0]);
            (" FROM plain AS p".to_owned(), format!("{key}::text = p.n::text AND "))
        }
        1 if !prefix.is_empty() => {
            let other = pen.name(table);
            let keys: Vec<String> = table
                .keys()
                .iter()
                .map(|c| format!("{} = other.{}", pen.column(&prefix, c), quoted(&c.name)))
                .collect();
            (format!(" FROM {other} AS other"), format!("{} AND ", keys.join(" AND ")))
        }
        _ => (String::new(), String::new()),
    };
    let condition = pen.condition(&prefix, table);
    let everything = from.is_empty() && pen.random.chance(6);
    let condition =
        if everything { String::new() } else { format!(" WHERE {joined}({condition})") };
    let returning = if from.is_empty() { returning(pen, &prefix, table) } else { String::new() };
    format!("UPDATE {only}{name}{alias} SET {sets}{from}{condition}{returning}")
}

pub fn sets(pen: &mut Pen<'_>, table: &Table, prefix: &str) -> String {
    let mut columns = non_key(table);
    if columns.is_empty() || pen.random.chance(8) {
        columns = table.settable();
    }
    if columns.is_empty() {
        columns = table.columns.iter().collect();
    }
    let mut columns = pen.random.some(&columns);
    columns.truncate(4);
    if columns.len() > 1 && pen.random.chance(20) {
        let names = pen.columns("", &columns);
        let values: Vec<String> = columns.iter().map(|c| pen.value(c)).collect();
        let values = values.join(", ");
        return match pen.random.below(3) {
            0 => format!("({names}) = ({values})"),
            1 => format!("({names}) = ROW({values})"),
            _ => format!("({names}) = (SELECT {values})"),
        };
    }
    let sets: Vec<String> = columns.iter().map(|c| set(pen, c, prefix)).collect();
    sets.join(", ")
}

fn set(pen: &mut Pen<'_>, column: &Column, prefix: &str) -> String {
    let name = pen.column("", column);
    let own = pen.column(prefix, column);
    match (column.kind, pen.random.below(6)) {
        (_, 0) => format!("{name} = DEFAULT"),
        (Kind::Int2 | Kind::Int4 | Kind::Int8 | Kind::Numeric, 1) => format!("{name} = {own} + 1"),
        (Kind::Text | Kind::Varchar, 1) => format!("{name} = {own} || 'x'"),
        (Kind::Jsonb, 1) => format!("{name}['a'] = '{}'", pen.random.below(5)),
        (Kind::Jsonb, 2) => format!("{name} = {own} || '{{\"z\": 1}}'"),
        (Kind::Ints, 1) => format!("{name}[{}] = 5", pen.random.between(1, 3)),
        (Kind::Ints, 2) => format!("{name} = array_append({own}, 4)"),
        (Kind::Pair, 1) => format!("{name}.a = 4"),
        _ => format!("{name} = {}", pen.value(column)),
    }
}

pub fn delete(pen: &mut Pen<'_>) -> String {
    let table = pen.table();
    delete_from(pen, table)
}

pub fn delete_from(pen: &mut Pen<'_>, table: &Table) -> String {
    let name = pen.name(table);
    let (alias, prefix) = pen.alias(table);
    let condition = pen.condition(&prefix, table);
    if !prefix.is_empty() && pen.random.chance(15) {
        let key = pen.column(&prefix, &table.columns[0]);
        return format!(
            "DELETE FROM {name}{alias} USING plain AS p WHERE {key}::text = p.n::text AND ({condition})"
        );
    }
    let returning = returning(pen, &prefix, table);
    format!("DELETE FROM {name}{alias} WHERE {condition}{returning}")
}

/// Writes within WITH: of one table, or of several.
fn with(pen: &mut Pen<'_>) -> String {
    let text = several(pen);
    pen.width = None;
    text
}

fn several(pen: &mut Pen<'_>) -> String {
    let tables: Vec<&Table> = pen.schema.tables.iter().collect();
    let first = pen.table();
    let key = quoted(&first.columns[0].name);
    let one = match pen.random.below(3) {
        0 => insert_into(pen, first),
        1 => update_of(pen, first),
        _ => delete_from(pen, first),
    };
    let one = match one.to_uppercase().find("RETURNING") {
        Some(_) => one.clone(),
        None => format!(
            "{one} RETURNING {}",
            if one.starts_with("UPDATE") { "1 AS one".to_owned() } else { key }
        ),
    };
    let other = tables.iter().find(|t| t.name != first.name);
    match (pen.random.below(8), other) {
        (6, Some(other)) => {
            let second = update_of(pen, other);
            let third = insert_into(pen, first);
            format!("WITH gone AS ({one}), also AS ({second}) {third}")
        }
        (7, _) => {
            let (plain, again) = (pen.name(first), pen.name(first));
            let key = quoted(&first.columns[0].name);
            format!(
                "WITH gone AS ({one}), seen AS (SELECT count(*) AS c FROM {plain}), kept AS \
                 (INSERT INTO plain SELECT 200, c::text FROM seen ON CONFLICT DO NOTHING RETURNING n) \
                 DELETE FROM {again} WHERE {key} IN (SELECT {key} FROM {again} ORDER BY {key} LIMIT 1) \
                 AND EXISTS (SELECT FROM kept)"
            )
        }
        (0, Some(other)) => {
            let second = update_of(pen, other);
            format!("WITH gone AS ({one}) {second}")
        }
        (1, Some(other)) => {
            let second = delete_from(pen, other);
            format!("WITH gone AS ({one}), also AS ({second}) SELECT count(*) FROM gone")
        }
        (2, _) => {
            format!(
                "WITH gone AS ({one}) INSERT INTO plain SELECT 100 + count(*), 'gone' FROM gone ON CONFLICT (n) DO UPDATE SET s = excluded.s RETURNING n, s"
            )
        }
        (3, _) => format!(
            "WITH a AS (SELECT 1 AS x), gone AS ({one}) SELECT count(*), max(a.x) FROM gone, a"
        ),
        (4, _) => {
            let t = pen.name(first);
            pen.order = Order::Any;
            format!("WITH gone AS ({one}) SELECT (SELECT count(*) FROM gone), count(*) FROM {t}")
        }
        _ => {
            pen.order = Order::Any;
            format!("WITH gone AS ({one}) SELECT * FROM gone")
        }
    }
}
