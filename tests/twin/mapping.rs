//! What a case migrates to: for every migrated table a shadow of another shape, the mapping to it
//! and the way back.

use crate::random::Random;
use crate::schema::{Column, Fill, Schema, Table, WAYS, quoted};
use crate::values::Kind;
use pgsegue::manifest::{Migration, Unclassified};
use pgsegue::sql::ident::{Ident, QualifiedName};
use std::time::Duration;

/// The migrations of a case.
#[derive(Debug, Clone)]
pub struct Plan {
    pub migrations: Vec<Migration>,
    /// Creates the shadows.
    pub ddl: String,
}

/// A shadow column as it will be.
struct Target {
    name: String,
    definition: String,
    mapping: Option<String>,
}

#[derive(Default)]
struct Shadow {
    columns: Vec<Target>,
    reverse: Vec<(String, String)>,
    key: Vec<String>,
}

pub fn random(random: &mut Random, all: &Schema) -> Plan {
    let mut plan = Plan { migrations: Vec::new(), ddl: String::new() };
    let mut sources: Vec<&Table> = all.tables.iter().filter(|t| t.migrated).collect();
    if random.chance(20) {
        // Another shadow of the same source.
        sources.push(sources[0]);
    }
    for table in sources {
        let number = plan.migrations.len() + 1;
        let shadow = shadow(random, table);
        let name = match random.below(4) {
            0 => format!("it's \"new\" %{number}"),
            _ => format!("shadow_{number}"),
        };
        let schema = if random.chance(80) { table.schema.clone() } else { "public".to_owned() };
        let lines: Vec<String> = shadow.columns.iter().map(|c| c.definition.clone()).collect();
        let key: Vec<String> = shadow.key.iter().map(|k| quoted(k)).collect();
        plan.ddl += &format!(
            "CREATE TABLE {}.{} (\n  {},\n  PRIMARY KEY ({})\n);\n",
            quoted(&schema),
            quoted(&name),
            lines.join(",\n  "),
            key.join(", ")
        );
        let full = format!("{}.{}", quoted(&schema), quoted(&name));
        if random.chance(80) {
            plan.ddl += &format!("GRANT SELECT ON {full} TO twin_app;\n");
        }
        let first = table.full() == all.tables[0].full();
        if first {
            plan.ddl += &all.policy_on(&full, &key[0]);
        }
        let mut migration = migration(random, number, table, (schema, name), shadow);
        if first && all.policy.is_some() {
            // The column's name may differ, and that is all.
            migration.accepted.push(format!("policies {}", migration.shadow.spelled()));
        }
        // Another table may have a name that is a word of theirs.
        if all.has_ways {
            migration.accepted.extend(WAYS.map(str::to_owned));
        }
        plan.migrations.push(migration);
    }
    plan
}

fn migration(
    random: &mut Random,
    number: usize,
    table: &Table,
    name: (String, String),
    shadow: Shadow,
) -> Migration {
    let mut columns: Vec<(Ident, String)> = shadow
        .columns
        .into_iter()
        .filter_map(|c| c.mapping.map(|mapping| (Ident::new(c.name), mapping)))
        .collect();
    random.shuffle(&mut columns);
    Migration {
        name: format!("m{number}"),
        source: qualified(&table.schema, &table.name),
        shadow: qualified(&name.0, &name.1),
        key: table.keys().iter().map(|c| Ident::new(c.name.as_str())).collect(),
        columns,
        reverse: shadow.reverse.into_iter().map(|(name, sql)| (Ident::new(name), sql)).collect(),
        unclassified: Unclassified::Record,
        lock_budget: Duration::from_millis(100),
        backfill_rows_per_second: None,
        accepted: Vec::new(),
    }
}

fn qualified(schema: &str, name: &str) -> QualifiedName {
    QualifiedName { schema: Ident::new(schema), name: Ident::new(name) }
}

fn shadow(random: &mut Random, table: &Table) -> Shadow {
    let mut shadow = Shadow::default();
    for (at, column) in table.columns.iter().enumerate() {
        if at < table.key {
            key_column(random, &mut shadow, column)
        } else {
            map(random, &mut shadow, column)
        }
    }
    merge(random, &mut shadow, table);
    if random.chance(25) {
        shadow.columns.push(Target {
            name: "currency".into(),
            definition: "\"currency\" text NOT NULL".into(),
            mapping: Some("'USD'".into()),
        });
    }
    if random.chance(15) {
        shadow.columns.push(Target {
            name: "made at".into(),
            definition: "\"made at\" timestamptz DEFAULT now()".into(),
            mapping: None,
        });
    }
    random.shuffle(&mut shadow.columns);
    shadow
}

/// A name in the shadow: as before, or another.
fn name(random: &mut Random, column: &Column) -> String {
    let renamed = match random.below(6) {
        0 => format!("New {}", column.name),
        1 => format!("{}_x", column.name),
        _ => column.name.clone(),
    };
    if renamed.len() > 63 { column.name.clone() } else { renamed }
}

fn key_column(random: &mut Random, shadow: &mut Shadow, column: &Column) {
    let name = name(random, column);
    let from = quoted(&column.name);
    let (kind, mapping) = match (column.kind, random.below(3)) {
        (Kind::Int2, 0) => ("int4", from.clone()),
        (Kind::Int2 | Kind::Int4, 1) => ("int8", format!("{from}::bigint")),
        (Kind::Int4, 0) => ("int8", from.clone()),
        (Kind::Int8, 0) => ("numeric", from.clone()),
        (Kind::Varchar, 0) => ("text", from.clone()),
        (kind, _) => (kind.sql(), from.clone()),
    };
    let identity = column.kind.is_integer() && kind != "numeric" && random.chance(10);
    let identity = if identity { " GENERATED BY DEFAULT AS IDENTITY" } else { "" };
    if name != column.name {
        shadow.reverse.push((column.name.clone(), quoted(&name)));
    } else if kind != column.kind.sql() && random.chance(50) {
        shadow.reverse.push((column.name.clone(), format!("{from}::{}", column.kind.sql())));
    }
    shadow.key.push(name.clone());
    shadow.columns.push(Target {
        definition: format!("{} {kind}{identity}", quoted(&name)),
        mapping: Some(mapping),
        name,
    });
}

/// One column to the shadow, in one of the ways that its type allows.
fn map(random: &mut Random, shadow: &mut Shadow, column: &Column) {
    if let Fill::Constant(value) = &column.fill
        && random.chance(60)
    {
        shadow.reverse.push((column.name.clone(), value.clone()));
        return;
    }
    if random.chance(2) {
        return;
    }
    let new = name(random, column);
    let (from, to) = (quoted(&column.name), quoted(&new));
    let old = column.kind.sql();
    let cast = |sql: &str| format!("({sql})::{old}");
    let same = (old.to_owned(), from.clone(), to.clone());
    let (kind, mapping, back) = match (column.kind, random.below(5)) {
        (Kind::Int2, 0 | 1) => ("int4".into(), from.clone(), cast(&to)),
        (Kind::Int2 | Kind::Int4, 2) => ("int8".into(), format!("{from}::bigint"), cast(&to)),
        (Kind::Int4 | Kind::Int2, 3) => {
            ("int8".into(), format!("{from}::bigint * 100"), cast(&format!("{to} / 100")))
        }
        (Kind::Int4 | Kind::Int8, 4) => ("text".into(), format!("{from}::text"), cast(&to)),
        (Kind::Varchar, 0 | 1) => ("text".into(), from.clone(), cast(&to)),
        (Kind::Varchar, 2) => ("varchar(80)".into(), from.clone(), cast(&to)),
        (Kind::Text, 0) => ("varchar".into(), from.clone(), cast(&to)),
        (Kind::Text | Kind::Varchar, 3) if new.len() < 60 => {
            split(shadow, column, &new);
            return;
        }
        (Kind::Numeric, 0) => ("numeric(20,5)".into(), from.clone(), cast(&to)),
        (Kind::Numeric, 1) => ("numeric".into(), from.clone(), cast(&to)),
        (Kind::Bool, 0) => ("int4".into(), format!("{from}::int"), format!("{to}::bool")),
        (Kind::Uuid, 0) => ("text".into(), format!("{from}::text"), cast(&to)),
        (Kind::Jsonb, 0) => ("text".into(), format!("{from}::text"), cast(&to)),
        (Kind::Char, 0) => ("char(8)".into(), from.clone(), cast(&to)),
        (Kind::Positive, 0) => ("int4".into(), format!("{from}::int4"), cast(&to)),
        _ => same,
    };
    let needed = new != column.name || mapping != from;
    if needed || kind != old && random.chance(50) {
        shadow.reverse.push((column.name.clone(), back));
    }
    let not_null = if column.not_null && random.chance(70) { " NOT NULL" } else { "" };
    let unique = if column.unique && random.chance(50) { " UNIQUE" } else { "" };
    shadow.columns.push(Target {
        definition: format!("{to} {kind}{not_null}{unique}"),
        mapping: Some(mapping),
        name: new,
    });
}

/// A text in two columns.
fn split(shadow: &mut Shadow, column: &Column, new: &str) {
    let from = quoted(&column.name);
    let (head, tail) = (format!("{new}_1"), format!("{new}_2"));
    for (name, mapping) in
        [(&head, format!("left({from}, 2)")), (&tail, format!("substr({from}, 3)"))]
    {
        shadow.columns.push(Target {
            definition: format!("{} text", quoted(name)),
            mapping: Some(mapping),
            name: name.clone(),
        });
    }
    let back = format!("{} || {}", quoted(&head), quoted(&tail));
    shadow.reverse.push((column.name.clone(), back));
}

/// Two columns as one array, now and then.
fn merge(random: &mut Random, shadow: &mut Shadow, table: &Table) {
    if !random.chance(15) {
        return;
    }
    let bare = |shadow: &Shadow, c: &Column| {
        shadow.columns.iter().position(|t| t.name == c.name && t.mapping == Some(quoted(&c.name)))
    };
    let others = &table.columns[table.key..];
    for kind in [Kind::Int4, Kind::Text] {
        let pair: Vec<&Column> =
            others.iter().filter(|c| c.kind == kind && bare(shadow, c).is_some()).take(2).collect();
        let [a, b] = pair.as_slice() else { continue };
        for column in [a, b] {
            if let Some(at) = bare(shadow, column) {
                shadow.columns.remove(at);
            }
            shadow.reverse.retain(|(name, _)| *name != column.name);
        }
        shadow.reverse.push((a.name.clone(), "\"both of\"[1]".into()));
        shadow.reverse.push((b.name.clone(), "\"both of\"[2]".into()));
        shadow.columns.push(Target {
            name: "both of".into(),
            definition: format!("\"both of\" {}[]", kind.sql()),
            mapping: Some(format!("ARRAY[{}, {}]", quoted(&a.name), quoted(&b.name))),
        });
        return;
    }
}
