//! Writes SQL: names in their spellings, values as constants or parameters, conditions.

use crate::random::Random;
use crate::schema::{Column, Fill, Schema, Table, quoted};
use crate::values::{self, Kind};

/// A value beside the text of a statement.
#[derive(Debug, Clone)]
pub struct Param {
    /// Its type, where the statement says it in Parse; else 0.
    pub oid: u32,
    pub image: Option<String>,
    pub binary: Option<Vec<u8>>,
}

/// What rows of a reply have an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    Exact,
    Any,
}

/// A statement.
#[derive(Debug, Clone)]
pub struct Sql {
    pub text: String,
    pub params: Vec<Param>,
    pub order: Order,
    /// Whether a binary reply has no object ids of the database's own.
    pub binary: bool,
    /// How many columns it prints, where that is known.
    pub width: Option<usize>,
}

/// How the columns of a reply are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Text,
    Binary,
    /// One by one: binary, text, binary and so on.
    Mixed,
}

impl Sql {
    pub fn plain(text: impl Into<String>) -> Self {
        let (params, order) = (Vec::new(), Order::Exact);
        Self { text: text.into(), params, order, binary: true, width: None }
    }

    /// The values of its parameters, for EXECUTE.
    pub fn given(&self) -> String {
        let value = |p: &Param| p.image.as_deref().map_or_else(|| "NULL".to_owned(), literal);
        let values: Vec<String> = self.params.iter().map(value).collect();
        if values.is_empty() { String::new() } else { format!("({})", values.join(", ")) }
    }

    /// The format codes of a Bind.
    pub fn formats(&self, format: Format) -> Vec<u16> {
        match (format, self.width) {
            (_, _) if !self.binary => vec![0],
            (Format::Text, _) => vec![0],
            (Format::Mixed, Some(width)) => (0..width).map(|n| u16::from(n % 2 == 0)).collect(),
            (Format::Binary | Format::Mixed, _) => vec![1],
        }
    }
}

pub fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Whether constants may be parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Constants {
    Inline,
    Parameters,
}

pub struct Pen<'a> {
    pub random: &'a mut Random,
    pub schema: &'a Schema,
    constants: Constants,
    params: Vec<Param>,
    pub order: Order,
    pub binary: bool,
    pub width: Option<usize>,
}

impl<'a> Pen<'a> {
    pub fn new(random: &'a mut Random, schema: &'a Schema, constants: Constants) -> Self {
        let (params, order) = (Vec::new(), Order::Exact);
        Self { random, schema, constants, params, order, binary: true, width: None }
    }

    pub fn finish(self, text: String) -> Sql {
        let Self { params, order, binary, width, .. } = self;
        Sql { text, params, order, binary, width }
    }

    /// A table, mostly a migrated one.
    pub fn table(&mut self) -> &'a Table {
        let schema = self.schema;
        let migrated: Vec<&Table> = schema.tables.iter().filter(|t| t.migrated).collect();
        if self.random.chance(80) {
            migrated[self.random.below(migrated.len())]
        } else {
            self.random.pick(&schema.tables)
        }
    }

    /// A table's name in one of its spellings, or that of one of its partitions.
    pub fn name(&mut self, table: &Table) -> String {
        let leaves = table.leaves();
        let own = match leaves.is_empty() || self.random.chance(85) {
            true => &table.name,
            false => self.random.pick(&leaves),
        };
        let name = self.ident(own);
        if self.schema.visible.contains(&table.schema) && self.random.chance(70) {
            return name;
        }
        let schema = self.ident(&table.schema);
        let dot = *self.random.pick(&[".", ".", ".", ".", ".", " . "]);
        format!("{schema}{dot}{name}")
    }

    /// An identifier, quoted or not where that is the same.
    pub fn ident(&mut self, name: &str) -> String {
        let plain = name.chars().all(|c| c.is_ascii_lowercase() || c == '_')
            && !["select", "table", "returning", "user", "excluded"].contains(&name);
        match self.random.below(20) {
            0 => quoted(name),
            1 if plain => name.to_uppercase(),
            2 if name.is_ascii() && !name.contains(['\\', '"']) && self.random.chance(20) => {
                format!("U&\"{name}\"")
            }
            _ if plain => name.to_owned(),
            _ => quoted(name),
        }
    }

    pub fn column(&mut self, prefix: &str, column: &Column) -> String {
        let name = self.ident(&column.name);
        format!("{prefix}{name}")
    }

    pub fn columns(&mut self, prefix: &str, columns: &[&Column]) -> String {
        let names: Vec<String> = columns.iter().map(|c| self.column(prefix, c)).collect();
        names.join(", ")
    }

    /// The whole key as an ORDER BY has it.
    pub fn order_by_key(&mut self, prefix: &str, table: &Table) -> String {
        let down = self.random.chance(25);
        let names: Vec<String> = table
            .keys()
            .iter()
            .map(|c| self.column(prefix, c) + if down { " DESC" } else { "" })
            .collect();
        names.join(", ")
    }

    /// A value for a column; NULL now and then where it may be, or where it makes an error.
    pub fn value(&mut self, column: &Column) -> String {
        let nulls =
            if column.not_null || matches!(column.fill, Fill::Constant(_)) { 1 } else { 10 };
        if self.random.chance(nulls) {
            return "NULL".to_owned();
        }
        if let Fill::Constant(value) = &column.fill
            && self.random.chance(95)
        {
            return value.clone();
        }
        self.of_kind(column.kind)
    }

    pub fn of_kind(&mut self, kind: Kind) -> String {
        if self.constants == Constants::Inline || self.random.chance(40) {
            return values::literal(self.random, kind);
        }
        let image = values::image(self.random, kind);
        let declared = self.random.chance(50);
        let oid = if declared { kind.oid() } else { 0 };
        let binary = if oid != 0 && self.random.chance(50) { kind.binary(&image) } else { None };
        let image = if self.random.chance(97) { Some(image) } else { None };
        self.params.push(Param { oid, binary: image.as_ref().and(binary), image });
        let number = self.params.len();
        if oid == 0 && self.random.chance(60) {
            format!("${number}::{}", kind.sql())
        } else {
            format!("${number}")
        }
    }

    /// A condition on a table's columns.
    pub fn condition(&mut self, prefix: &str, table: &Table) -> String {
        match self.random.below(12) {
            0 => {
                let (a, b) = (self.simple(prefix, table), self.simple(prefix, table));
                let word = *self.random.pick(&["AND", "OR", "and"]);
                format!("{a} {word} {b}")
            }
            1 => format!("NOT ({})", self.simple(prefix, table)),
            2 => {
                let a = self.key_is(prefix, table);
                format!("({a} OR {})", self.simple(prefix, table))
            }
            3 => {
                let key = self.column(prefix, &table.columns[0]);
                let number = self.random.between(1, 6);
                format!("{key}::text IN (SELECT n::text FROM plain WHERE n <= {number})")
            }
            4..=8 => self.key_is(prefix, table),
            _ => self.simple(prefix, table),
        }
    }

    /// A condition on the key.
    pub fn key_is(&mut self, prefix: &str, table: &Table) -> String {
        let keys = table.keys();
        if keys.len() > 1 && self.random.chance(25) {
            let names = self.columns(prefix, &keys.iter().collect::<Vec<_>>());
            let values: Vec<String> = keys.iter().map(|c| self.of_kind(c.kind)).collect();
            return format!("({names}) = ({})", values.join(", "));
        }
        let count = if self.random.chance(70) { keys.len() } else { 1 };
        let parts: Vec<String> = keys[..count].iter().map(|c| self.compare(prefix, c)).collect();
        parts.join(" AND ")
    }

    fn compare(&mut self, prefix: &str, column: &Column) -> String {
        let name = self.column(prefix, column);
        let kind = column.kind;
        match self.random.below(9) {
            0 => format!("{name} IN ({}, {})", self.of_kind(kind), self.of_kind(kind)),
            1 => format!("{name} >= {}", self.of_kind(kind)),
            2 => format!("{name} BETWEEN {} AND {}", self.of_kind(kind), self.of_kind(kind)),
            3 if kind.is_integer() => format!("{name} = ANY ('{{1,2,3}}')"),
            4 if kind == Kind::Int4 => format!("{name} % 3 = 1"),
            5 => format!("{} = {name}", self.of_kind(kind)),
            _ => format!("{name} = {}", self.of_kind(kind)),
        }
    }

    fn simple(&mut self, prefix: &str, table: &Table) -> String {
        let column = *self.random.pick(&table.printable());
        let name = self.column(prefix, column);
        match (column.kind, self.random.below(6)) {
            (_, 0) => format!("{name} IS NULL"),
            (_, 1) => format!("{name} IS NOT NULL"),
            (Kind::Text | Kind::Varchar, 2) => format!("{name} LIKE '%a%'"),
            (Kind::Text | Kind::Varchar, 3) => format!("length({name}) < 4"),
            (Kind::Bool, 2 | 3) => name,
            (Kind::Jsonb, 2 | 3) => format!("{name} ? 'a'"),
            (Kind::Ints, 2) => format!("2 = ANY ({name})"),
            (kind, 4) => format!("{name} IS DISTINCT FROM {}", self.of_kind(kind)),
            (kind, 5) if kind.is_ordered() => format!("{name} > {}", self.of_kind(kind)),
            _ => self.compare(prefix, column),
        }
    }

    /// ` AS x` and `x.`, or nothing and nothing, or the table's own name.
    pub fn alias(&mut self, table: &Table) -> (String, String) {
        match self.random.below(6) {
            0 => (" AS o".to_owned(), "o.".to_owned()),
            1 => (" x".to_owned(), "x.".to_owned()),
            2 => (" AS \"it's %\"".to_owned(), "\"it's %\".".to_owned()),
            3 => (String::new(), format!("{}.", quoted(&table.name))),
            _ => (String::new(), String::new()),
        }
    }

    /// What a SELECT or RETURNING prints of one table.
    pub fn outputs(&mut self, prefix: &str, table: &Table) -> String {
        let (names, width) = self.some_outputs(prefix, table);
        self.width = Some(width);
        names
    }

    fn some_outputs(&mut self, prefix: &str, table: &Table) -> (String, usize) {
        let printable = table.printable();
        match self.random.below(8) {
            0 | 1 if table.is_printable() => ("*".to_owned(), printable.len()),
            2 if table.is_printable() && !prefix.is_empty() => {
                (format!("{prefix}*"), printable.len())
            }
            3 => {
                let one = *self.random.pick(&printable);
                let key = self.column(prefix, &table.columns[0]);
                let name = self.column(prefix, one);
                let outputs =
                    format!("{key} AS k, {name} AS \"Out %s\", {name}, 1 + 1, 'x' || {key}::text");
                (outputs, 5)
            }
            4 => {
                let columns = self.random.some(&printable);
                let names = self.columns(prefix, &columns);
                let one = self.column(prefix, columns[0]);
                let outputs = format!(
                    "{names}, (SELECT count(*) FROM plain) AS counted, NULL, length({one}::text)"
                );
                (outputs, columns.len() + 3)
            }
            _ => {
                let columns = self.random.some(&printable);
                (self.columns(prefix, &columns), columns.len())
            }
        }
    }
}
