//! What a case's database holds before anything is migrated: one to three tables of any types,
//! keys, names, constraints, and rows.

use crate::random::Random;
use crate::values::{self, Kind};

/// What fills a column that an INSERT leaves out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fill {
    Null,
    Default(String),
    Serial,
    IdentityByDefault,
    IdentityAlways,
    Generated(String),
    /// A default that a CHECK allows alone: what a shadow may leave out.
    Constant(String),
    /// A default that differs from run to run; never printed.
    Volatile(&'static str),
}

#[derive(Debug, Clone)]
pub struct Column {
    pub name: String,
    pub kind: Kind,
    pub not_null: bool,
    pub unique: bool,
    pub fill: Fill,
}

/// How a table is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    Whole,
    Range,
    Hash,
    List,
}

#[derive(Debug, Clone)]
pub struct Table {
    pub schema: String,
    pub name: String,
    pub columns: Vec<Column>,
    /// How many of the first columns are the key.
    pub key: usize,
    /// The name of the key's constraint.
    pub key_constraint: String,
    pub cut: Cut,
    /// A column that refers to the key of another table.
    pub refers: Option<(usize, usize)>,
    pub trigger: Trigger,
    pub number: usize,
    /// An index on an expression of this column.
    pub folded: Option<usize>,
    pub migrated: bool,
}

/// What fires before a row is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    None,
    /// It changes this column.
    Changes(usize),
    /// It keeps rows with this key from being written.
    Swallows,
}

#[derive(Debug, Clone)]
pub struct Schema {
    pub tables: Vec<Table>,
    /// Every session's search_path.
    pub search_path: String,
    /// Schemas that the search_path has.
    pub visible: Vec<String>,
    rows: String,
    /// What the app's role may do with the tables.
    granted: &'static str,
    /// What the app's role sees of the first table: rows whose key, as text, is so.
    pub policy: Option<&'static str>,
    /// Whether it may write other rows, too.
    pub writes_more: bool,
    /// Whether the first table can be written by other names than its own.
    pub has_ways: bool,
}

/// By what the first table is written under another name, and what it is called in `check`.
pub const WAYS: [&str; 4] = [
    "view public.window_on",
    "function public.touch(text)",
    "function public.leave_out(text)",
    "rule public.ruled.r",
];

const PLAIN: [&str; 16] = [
    "id", "user_id", "total", "note", "email", "kind", "a", "b", "c", "state", "data", "tags",
    "at", "k", "w", "mode",
];
const NASTY: [&str; 16] = [
    "Sel\"ect",
    "two words",
    "dot.ted",
    "per%cent",
    "back\\slash",
    "ünï 表",
    "select",
    "UPPER",
    "it's",
    "$1",
    "/*c*/",
    "--x",
    "abcdefghijklmnopqrstuvwxyz_abcdefghijklmnopqrstuvwxyz_abcdefghi",
    "excluded",
    "returning",
    "a;b",
];
const TABLES: [&str; 5] = ["orders", "items", "users", "t", "w"];
const NASTY_TABLES: [&str; 8] = [
    "Or\"ders",
    "my table",
    "a.b",
    "table",
    "ünï",
    "%s",
    "it's",
    "abcdefghijklmnopqrstuvwxyz_abcdefghijklmnopqrstuvwxyz_abcdefg_t",
];

/// An identifier in double quotes.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

impl Table {
    /// `"schema"."name"`.
    pub fn full(&self) -> String {
        format!("{}.{}", quoted(&self.schema), quoted(&self.name))
    }

    pub fn keys(&self) -> &[Column] {
        &self.columns[..self.key]
    }

    /// The names of its partitions.
    pub fn leaves(&self) -> Vec<String> {
        let suffixes: &[&str] = match self.cut {
            Cut::Whole => &[],
            Cut::Range => &["low", "high"],
            Cut::Hash => &["even", "odd"],
            Cut::List => &["some", "rest"],
        };
        suffixes.iter().map(|suffix| self.leaf(suffix)).collect()
    }

    fn leaf(&self, suffix: &str) -> String {
        format!("part {suffix} {}", self.key_constraint)
    }

    /// The columns that a statement may print.
    pub fn printable(&self) -> Vec<&Column> {
        self.columns.iter().filter(|c| !matches!(c.fill, Fill::Volatile(_))).collect()
    }

    pub fn is_printable(&self) -> bool {
        self.printable().len() == self.columns.len()
    }

    /// The columns that a statement may set.
    pub fn settable(&self) -> Vec<&Column> {
        let may = |c: &&Column| {
            !matches!(c.fill, Fill::Generated(_) | Fill::IdentityAlways | Fill::Volatile(_))
        };
        self.columns.iter().filter(may).collect()
    }
}

impl Schema {
    pub fn random(random: &mut Random) -> Self {
        let mut schemas = vec!["public".to_owned()];
        if random.chance(30) {
            schemas.push((*random.pick(&["app", "My Sch\"ema", "s.p"])).to_owned());
        }
        let count = *random.pick(&[1, 2, 2, 3]);
        let mut names: Vec<&str> = TABLES.to_vec();
        random.shuffle(&mut names);
        let mut nasty_names = NASTY_TABLES.to_vec();
        random.shuffle(&mut nasty_names);
        let nasty = random.chance(35);
        let mut tables: Vec<Table> = Vec::new();
        for number in 0..count {
            let name = if nasty { nasty_names[number] } else { names[number] };
            let schema = random.pick(&schemas).clone();
            let mut table = table(random, schema, name, nasty);
            table.number = number;
            refer(random, &mut table, &tables);
            more(random, &mut table);
            tables.push(table);
        }
        tables[0].migrated = true;
        if count > 1 && random.chance(40) {
            tables[1].migrated = true;
        }
        let visible = if random.chance(85) { schemas } else { vec!["public".to_owned()] };
        let granted = match random.below(100) {
            0..=69 => "SELECT, INSERT, UPDATE, DELETE",
            70..=79 => "INSERT, UPDATE, DELETE",
            _ => "SELECT",
        };
        let path: Vec<String> = visible.iter().rev().map(|s| quoted(s)).collect();
        let policy = match random.below(10) {
            0 => Some("<> '3'"),
            1 => Some("IN ('1', '2', '4', '5', '6', 'a', 'b')"),
            _ => None,
        };
        let (search_path, rows) = (path.join(", "), String::new());
        let (writes_more, has_ways) = (random.chance(40), random.chance(35));
        let mut schema =
            Self { tables, search_path, visible, rows, granted, policy, writes_more, has_ways };
        schema.rows = schema.first_rows(random);
        schema
    }

    /// Everything but shadows.
    pub fn ddl(&self) -> String {
        let mut sql = values::TYPES.to_owned();
        for table in &self.tables {
            if table.schema != "public" {
                sql += &format!("CREATE SCHEMA IF NOT EXISTS {};\n", quoted(&table.schema));
            }
            sql += &create(table, &self.tables);
        }
        sql += "CREATE TABLE public.plain (n int4 PRIMARY KEY, s text);\n\
                INSERT INTO public.plain SELECT i, 'plain ' || i FROM generate_series(1, 6) AS i;\n";
        let first = &self.tables[0];
        sql += &format!(
            "CREATE VIEW public.seen AS SELECT count(*) AS n, max({k}::text) AS last FROM {t};\n",
            k = quoted(&first.columns[0].name),
            t = first.full()
        );
        for table in &self.tables {
            sql += &format!(
                "GRANT USAGE ON SCHEMA {} TO twin_app;\nGRANT {} ON {} TO twin_app;\n",
                quoted(&table.schema),
                self.granted,
                table.full()
            );
        }
        if self.has_ways {
            sql += &ways(first);
        }
        sql += "GRANT SELECT ON public.seen TO twin_app;\n\
                GRANT SELECT, INSERT, UPDATE ON public.plain TO twin_app;\n\
                GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO twin_app;\n";
        sql += &self.policy_on(&first.full(), &quoted(&first.columns[0].name));
        sql + &self.rows
    }

    /// The policies on a table with this key.
    pub fn policy_on(&self, table: &str, key: &str) -> String {
        let Some(policy) = self.policy else { return String::new() };
        let create = |name: &str, what: &str| format!("CREATE POLICY {name} ON {table} {what};\n");
        let seen = format!("TO twin_app USING ({key}::text {policy})");
        let mut sql = format!("ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;\n");
        if !self.writes_more {
            return sql + &create("seen", &seen);
        }
        sql += &create("seen", &format!("FOR SELECT {seen}"));
        sql += &create("added", "FOR INSERT TO twin_app WITH CHECK (true)");
        sql += &create("changed", "FOR UPDATE TO twin_app USING (true)");
        sql + &create("removed", "FOR DELETE TO twin_app USING (true)")
    }

    fn first_rows(&self, random: &mut Random) -> String {
        let mut sql = String::new();
        for table in &self.tables {
            let refers = table.refers.map(|(column, _)| column);
            let settable: Vec<&Column> =
                table.columns.iter().filter(|c| !matches!(c.fill, Fill::Generated(_))).collect();
            let names: Vec<String> = settable.iter().map(|c| quoted(&c.name)).collect();
            let rows = if random.chance(5) { 300 } else { random.below(16) };
            for _ in 0..rows {
                let values: Vec<String> = settable
                    .iter()
                    .map(|column| match &column.fill {
                        Fill::Serial | Fill::Constant(_) | Fill::Volatile(_) => "DEFAULT".into(),
                        _ if refers.is_some_and(|at| table.columns[at].name == column.name) => {
                            "NULL".into()
                        }
                        _ if !column.not_null && random.chance(20) => "NULL".into(),
                        _ => safe_literal(random, column.kind),
                    })
                    .collect();
                sql += &format!(
                    "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE VALUES ({}) \
                     ON CONFLICT DO NOTHING;\n",
                    table.full(),
                    names.join(", "),
                    values.join(", ")
                );
            }
            sql += &format!("ANALYZE {};\n", table.full());
        }
        sql
    }
}

/// A view, functions and a rule by which a table is written.
fn ways(table: &Table) -> String {
    let (name, key) = (table.full(), quoted(&table.columns[0].name));
    format!(
        "CREATE VIEW public.window_on AS SELECT * FROM {name};\n\
         CREATE FUNCTION public.touch(text) RETURNS bool LANGUAGE sql AS $way$ \
             DELETE FROM {name} WHERE {key}::text = $1 RETURNING true $way$;\n\
         CREATE PROCEDURE public.leave_out(text) LANGUAGE sql AS $way$ \
             DELETE FROM {name} WHERE {key}::text = $1 $way$;\n\
         CREATE TABLE public.ruled (k text);\n\
         CREATE RULE r AS ON INSERT TO public.ruled DO ALSO \
             DELETE FROM {name} WHERE {key}::text = NEW.k;\n\
         GRANT SELECT, INSERT, UPDATE, DELETE ON public.window_on, public.ruled TO twin_app;\n"
    )
}

/// A constant that fits its type.
fn safe_literal(random: &mut Random, kind: Kind) -> String {
    loop {
        let literal = values::literal(random, kind);
        let wide = ["32767", "2147483648", "9223372036854775807"].contains(&literal.as_str());
        if !(wide || kind == Kind::Positive && literal == "0") {
            return literal;
        }
    }
}

fn table(random: &mut Random, schema: String, name: &str, nasty: bool) -> Table {
    let mut names = if nasty { NASTY.to_vec() } else { PLAIN.to_vec() };
    if nasty && random.chance(50) {
        names = [&NASTY[..8], &PLAIN[..8]].concat();
    }
    random.shuffle(&mut names);
    let key = *random.pick(&[1, 1, 1, 2, 2, 3]);
    let others = random.between(1, 7);
    let cut = match random.below(12) {
        0 => Cut::Range,
        1 => Cut::Hash,
        2 => Cut::List,
        _ => Cut::Whole,
    };
    let mut columns: Vec<Column> = Vec::new();
    for (at, name) in names.iter().take(key).enumerate() {
        let mut kind = if random.chance(50) { Kind::Int4 } else { *random.pick(&values::KEYS) };
        if at == 0 && cut != Cut::Whole {
            kind = Kind::Int4;
        }
        let fill = key_fill(random, kind, key, cut);
        columns.push(Column { name: (*name).into(), kind, not_null: true, unique: false, fill });
    }
    for name in names.iter().skip(key).take(others) {
        columns.push(other_column(random, name, cut, &columns));
    }
    let key_constraint = match nasty {
        true => format!("key of \"{}", name.chars().take(20).collect::<String>()),
        false => format!("{name}_key"),
    };
    Table {
        schema,
        name: name.to_owned(),
        columns,
        key,
        key_constraint,
        cut,
        refers: None,
        trigger: Trigger::None,
        number: 0,
        folded: None,
        migrated: false,
    }
}

fn key_fill(random: &mut Random, kind: Kind, key: usize, cut: Cut) -> Fill {
    if key > 1 || !kind.is_integer() || cut != Cut::Whole {
        return Fill::Null;
    }
    match random.below(6) {
        0 => Fill::Serial,
        1 => Fill::IdentityByDefault,
        2 => Fill::IdentityAlways,
        _ => Fill::Null,
    }
}

fn other_column(random: &mut Random, name: &str, cut: Cut, before: &[Column]) -> Column {
    let kind = if random.chance(35) {
        *random.pick(&[Kind::Int4, Kind::Text])
    } else {
        *random.pick(&values::ALL)
    };
    let mut fill = match random.below(14) {
        0 | 1 => Fill::Default(safe_literal(random, kind)),
        2 if kind.is_text() => Fill::Constant("'EUR'".to_owned()),
        3 if kind.is_integer() => Fill::Constant("5".to_owned()),
        4 if kind == Kind::Timestamptz => Fill::Volatile("clock_timestamp()"),
        5 if kind == Kind::Uuid => Fill::Volatile("gen_random_uuid()"),
        6 if kind == Kind::Int4 => Fill::Serial,
        _ => Fill::Null,
    };
    let base = before.iter().find(|c| c.kind == kind && matches!(c.fill, Fill::Null));
    if let Some(base) = base
        && random.chance(15)
    {
        let from = quoted(&base.name);
        match kind {
            Kind::Int4 => fill = Fill::Generated(format!("{from} % 7")),
            Kind::Text => fill = Fill::Generated(format!("left({from}, 3) || '!'")),
            _ => {}
        }
    }
    let plain = matches!(fill, Fill::Null | Fill::Default(_));
    let filled = !matches!(fill, Fill::Null | Fill::Generated(_));
    Column {
        name: name.to_owned(),
        kind,
        not_null: filled && random.chance(50) || plain && random.chance(15),
        unique: fill == Fill::Null && cut == Cut::Whole && unique_kind(kind) && random.chance(20),
        fill,
    }
}

fn unique_kind(kind: Kind) -> bool {
    kind.is_integer() || kind.is_text() || matches!(kind, Kind::Uuid | Kind::Date)
}

/// Lets a column refer to an earlier table, where types allow.
fn refer(random: &mut Random, table: &mut Table, earlier: &[Table]) {
    if !random.chance(30) {
        return;
    }
    for (number, to) in earlier.iter().enumerate() {
        let fits = |c: &Column| {
            to.key == 1
                && c.kind == to.columns[0].kind
                && c.fill == Fill::Null
                && !c.not_null
                && !c.unique
        };
        if let Some(at) = table.columns.iter().position(fits) {
            table.refers = Some((at, number));
            return;
        }
    }
}

/// A trigger or an index, now and then.
fn more(random: &mut Random, table: &mut Table) {
    let mut others = table.key..table.columns.len();
    let text =
        |at: &usize| table.columns[*at].kind == Kind::Text && table.columns[*at].fill == Fill::Null;
    let text = others.find(text);
    if table.cut == Cut::Whole && random.chance(12) {
        table.folded = text;
    }
    table.trigger = match (random.below(12), text) {
        (0, Some(at)) => Trigger::Changes(at),
        (1, _) => Trigger::Swallows,
        _ => Trigger::None,
    };
}

fn trigger(table: &Table) -> String {
    let (when, body) = match table.trigger {
        Trigger::None => return String::new(),
        Trigger::Changes(at) => {
            let name = quoted(&table.columns[at].name);
            ("INSERT OR UPDATE", format!("NEW.{name} := left(NEW.{name}, 5) || '+'; RETURN NEW;"))
        }
        Trigger::Swallows => {
            let name = quoted(&table.columns[0].name);
            let row = "CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END";
            let row = format!("({row}).{name}::text");
            let end = "IF TG_OP = 'DELETE' THEN RETURN OLD; END IF; RETURN NEW;";
            let body = format!("IF {row} IN ('3', 'a') THEN RETURN NULL; END IF; {end}");
            ("INSERT OR UPDATE OR DELETE", body)
        }
    };
    // `check` takes a function whose text has the name of a migrated table for one that writes it.
    let function = format!("public.twin_before_{}", table.number);
    format!(
        "CREATE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS $t$ BEGIN {body} END $t$;\n\
         CREATE TRIGGER before BEFORE {when} ON {} FOR EACH ROW EXECUTE FUNCTION {function}();\n",
        table.full()
    )
}

fn create(table: &Table, all: &[Table]) -> String {
    let mut lines: Vec<String> = table.columns.iter().map(definition).collect();
    let key: Vec<String> = table.keys().iter().map(|c| quoted(&c.name)).collect();
    lines.push(format!(
        "CONSTRAINT {} PRIMARY KEY ({})",
        quoted(&table.key_constraint),
        key.join(", ")
    ));
    if let Some((column, to)) = table.refers {
        let deferred = table.columns.len().is_multiple_of(2);
        lines.push(format!(
            "FOREIGN KEY ({}) REFERENCES {}{}",
            quoted(&table.columns[column].name),
            all[to].full(),
            if deferred { " DEFERRABLE INITIALLY DEFERRED" } else { "" }
        ));
    }
    let full = table.full();
    let by = |how: &str| format!(" PARTITION BY {how} ({})", key[0]);
    let part = |suffix: &str, bound: &str| {
        format!(
            "CREATE TABLE {}.{} PARTITION OF {full} {bound};\n",
            quoted(&table.schema),
            quoted(&table.leaf(suffix))
        )
    };
    let (how, parts) = match table.cut {
        Cut::Whole => (String::new(), String::new()),
        Cut::Range => (
            by("RANGE"),
            part("low", "FOR VALUES FROM (MINVALUE) TO (6)")
                + &part("high", "FOR VALUES FROM (6) TO (1000)"),
        ),
        Cut::Hash => (
            by("HASH"),
            part("even", "FOR VALUES WITH (MODULUS 2, REMAINDER 0)")
                + &part("odd", "FOR VALUES WITH (MODULUS 2, REMAINDER 1)"),
        ),
        Cut::List => {
            (by("LIST"), part("some", "FOR VALUES IN (1, 2, 3, 4)") + &part("rest", "DEFAULT"))
        }
    };
    let folded = table.folded.map_or_else(String::new, |at| {
        let name = quoted(&table.columns[at].name);
        let some =
            if at.is_multiple_of(2) { format!(" WHERE {name} <> 'b'") } else { String::new() };
        format!("CREATE UNIQUE INDEX ON {full} (lower({name})){some};\n")
    });
    format!("CREATE TABLE {full} (\n  {}\n){how};\n{parts}{folded}", lines.join(",\n  "))
        + &trigger(table)
}

fn definition(column: &Column) -> String {
    let name = quoted(&column.name);
    let kind = match (&column.fill, column.kind) {
        (Fill::Serial, Kind::Int8) => "bigserial",
        (Fill::Serial, Kind::Int2) => "smallserial",
        (Fill::Serial, _) => "serial",
        (_, kind) => kind.sql(),
    };
    let fill = match &column.fill {
        Fill::Null | Fill::Serial => String::new(),
        Fill::Default(value) => format!(" DEFAULT {value}"),
        Fill::IdentityByDefault => " GENERATED BY DEFAULT AS IDENTITY".to_owned(),
        Fill::IdentityAlways => " GENERATED ALWAYS AS IDENTITY".to_owned(),
        Fill::Generated(from) => format!(" GENERATED ALWAYS AS ({from}) STORED"),
        Fill::Constant(value) => {
            format!(" NOT NULL DEFAULT {value} CHECK ({name} = {value})")
        }
        Fill::Volatile(value) => format!(" DEFAULT {value}"),
    };
    let not_null = if column.not_null { " NOT NULL" } else { "" };
    let unique = if column.unique { " UNIQUE" } else { "" };
    format!("{name} {kind}{fill}{not_null}{unique}")
}
