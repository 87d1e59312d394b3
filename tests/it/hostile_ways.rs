//! Names that try to break out, of all by which a source is written and read beside its own: partitions, the
//! sequence of its key, views and functions, schemas on the search_path; each in each place.

use crate::hostile::{NAMES, quoted};
use crate::live::raw::{frame, query};
use crate::live::{Live, Pair, text};
use crate::support::{assert_same, eventually};

/// The names of one case, in their places.
struct Case {
    number: usize,
}

impl Case {
    fn name(&self, place: usize) -> &'static str {
        NAMES[(self.number + place) % NAMES.len()]
    }

    fn sql(&self, sql: &str) -> String {
        let (schema, source) = (quoted(self.name(0)), quoted(self.name(1)));
        let of = |name: &str| format!("{schema}.{}", quoted(name));
        let sequence = of(&format!("{}seq", self.name(3)));
        let literal = format!("'{}'", sequence.replace('\'', "''"));
        [
            ("<source>", of(self.name(1))),
            ("<low>", of(&format!("{}low", self.name(2)))),
            ("<high>", of(&format!("{}high", self.name(2)))),
            ("<bare low>", quoted(&format!("{}low", self.name(2)))),
            ("<shadow>", of(&format!("{}v2", self.name(1)))),
            ("<sequence>", sequence),
            ("<sequence literal>", literal),
            ("<view>", of(&format!("{}view", self.name(4)))),
            ("<bare view>", quoted(&format!("{}view", self.name(4)))),
            ("<function>", of(&format!("{}f", self.name(5)))),
            ("<bare function>", quoted(&format!("{}f", self.name(5)))),
            ("<decoys>", quoted(&format!("{}decoys", self.name(6)))),
            ("<k>", quoted(self.name(7))),
            ("<v>", quoted(self.name(8))),
            ("<schema>", schema),
            ("<bare>", source),
        ]
        .iter()
        .fold(sql.to_owned(), |sql, (place, name)| sql.replace(place, name))
    }

    fn toml(&self) -> String {
        let table = |pairs: [(String, String); 2]| {
            toml::Table::from_iter(pairs.map(|(k, v)| (k, toml::Value::String(v))))
        };
        let (k, v) = (self.name(7).to_owned(), self.name(8).to_owned());
        let mut migration = table([
            ("name".to_owned(), "odd".to_owned()),
            ("source".to_owned(), self.sql("<source>")),
        ]);
        migration.insert("shadow".to_owned(), self.sql("<shadow>").into());
        migration.insert("key".to_owned(), vec![k.clone()].into());
        let columns =
            table([(k.clone(), self.sql("<k>")), (v.clone(), self.sql("<v>::bigint * 100"))]);
        let reverse = table([(k, self.sql("<k>")), (v, self.sql("(<v> / 100)::int"))]);
        migration.insert("columns".to_owned(), columns.into());
        migration.insert("reverse".to_owned(), reverse.into());
        let share = |name: &str| (name.to_owned(), toml::Value::Integer(100));
        let routing = toml::Table::from_iter([share("reads"), share("dark_reads")]);
        migration.insert("routing".to_owned(), routing.into());
        let all = toml::Table::from_iter([("migration".to_owned(), vec![migration].into())]);
        toml::to_string(&all).unwrap()
    }

    async fn in_step(&self, live: &Live) {
        live.until_clean("odd").await;
        let mapped = self.sql("SELECT <k>::bigint, <v>::bigint * 100 FROM <source> ORDER BY 1");
        let shadow = self.sql("SELECT <k>, <v> FROM <shadow> ORDER BY 1");
        assert_same(&live.db.client, &mapped, &shadow).await;
    }
}

const SOURCE: &str = "
    CREATE SCHEMA <schema>; CREATE SEQUENCE <sequence> START 50;
    CREATE TABLE <source> (<k> int PRIMARY KEY DEFAULT nextval(<sequence literal>), <v> int)
        PARTITION BY RANGE (<k>);
    ALTER SEQUENCE <sequence> OWNED BY <source>.<k>;
    CREATE TABLE <low> PARTITION OF <source> FOR VALUES FROM (MINVALUE) TO (1000);
    CREATE TABLE <high> PARTITION OF <source> DEFAULT;
    INSERT INTO <source> SELECT i, i FROM generate_series(1, 30) i;
    INSERT INTO <source> SELECT i, i FROM generate_series(2000, 2010) i;
    CREATE SCHEMA <decoys>; CREATE TABLE <decoys>.<bare> (<k> int PRIMARY KEY, <v> int);
    INSERT INTO <decoys>.<bare> SELECT i, -1 FROM generate_series(1, 30) i; ANALYZE";

const SHADOW: &str = "CREATE TABLE <shadow> (<k> bigint PRIMARY KEY, <v> bigint)";

/// Made while the migration is ready.
const WAYS: &str = "
    CREATE VIEW <view> AS SELECT <k>, <v> FROM <source>;
    CREATE FUNCTION <function>(n int) RETURNS int LANGUAGE sql AS
        $hostile$UPDATE <source> SET <v> = <v> + n WHERE <k> = 3 RETURNING <v>$hostile$";

const FORMS: &[&str] = &[
    "UPDATE <low> SET <v> = <v> + 1 WHERE <k> = 5 RETURNING <k>, <v>",
    "UPDATE ONLY <high> AS <bare view> SET <v> = 7 WHERE <bare view>.<k> > 2005",
    "UPDATE <low> SET <v> = 0 WHERE <k> < 3 RETURNING <bare low>.<v>",
    "INSERT INTO <source> (<v>) VALUES (1), (2) RETURNING <k>",
    "INSERT INTO <low> (<v>) VALUES (3)",
    "INSERT INTO <high> VALUES (3001, 1) ON CONFLICT (<k>) DO UPDATE SET <v> = excluded.<v> + 1",
    "WITH d AS (DELETE FROM <low> WHERE <k> = 9 RETURNING <k>) INSERT INTO <high> SELECT <k> + 3000 FROM d",
    "UPDATE <source> SET <k> = <k> + 2900 WHERE <k> = 10",
    "DELETE FROM <low> WHERE <k> = 12 RETURNING *",
    "UPDATE <view> SET <v> = 70 WHERE <k> = 2000",
    "SELECT <function>(1)",
    "SELECT * FROM <function>(2)",
    "SELECT <v> FROM <source> WHERE <k> = 3",
    "SELECT count(*), sum(<v>) FROM <source>",
    "SELECT <bare>.<v>, <bare>.<k> AS <v> FROM <source> WHERE <bare>.<k> BETWEEN 14 AND 20 ORDER BY <k>",
    "SELECT count(*) FROM <low>",
    "SELECT <v> FROM <view> WHERE <k> = 3",
];

/// Of unqualified names, under each of these.
const PATHS: &[&str] = &[
    "SET search_path = <schema>",
    "SET search_path = <decoys>, <schema>",
    "BEGIN; SET LOCAL search_path = <schema>, <decoys>",
    "ROLLBACK",
    "SET search_path = <schema>, <decoys>",
    "RESET search_path",
];

const UNQUALIFIED: &[&str] = &[
    "UPDATE <bare> SET <v> = <v> + 1 WHERE <k> = 20 RETURNING <bare>.<v>",
    "SELECT <v> FROM <bare> WHERE <k> = 20",
    "UPDATE <bare low> SET <v> = <v> + 1 WHERE <k> = 21",
    "UPDATE <bare view> SET <v> = <v> + 1 WHERE <k> = 22",
    "SELECT <bare function>(1)",
    "SELECT count(*), sum(<v>) FROM <bare>",
];

async fn case(number: usize) {
    let case = Case { number };
    let ddl = case.sql(&format!("{SOURCE};{SHADOW}"));
    let live = Live::ready(&ddl, &case.toml(), &["odd"]).await;
    let mut pair = Pair::new(&live, &case.sql(SOURCE)).await;
    let reader = live.client().await;
    let read = case.sql("SELECT <v> FROM <source> WHERE <k> = 3");
    live.until_shadow_serves(&reader, &read).await;
    pair.elsewhere(&live, &case.sql(WAYS)).await;
    until_known(&case, &reader).await;
    for sql in FORMS {
        pair.every_way(&case.sql(sql)).await;
        case.in_step(&live).await;
    }
    for (sql, lines) in [
        ("COPY <source> (<v>) FROM STDIN", "1\n2\n3\n"),
        ("COPY <low> (<v>) FROM STDIN", "4\n5\n"),
        ("COPY <high> (<v>, <k>) FROM STDIN CSV", "6,4000\n"),
    ] {
        let copy = [query(&case.sql(sql)), frame(b'd', lines.as_bytes()), frame(b'c', b"")];
        pair.exchange(sql, &copy.concat(), 1).await;
        assert_eq!(live.dirty().await, [], "{number}: {sql}");
        pair.simple(&case.sql("DELETE FROM <source> WHERE <k> = 4000")).await;
    }
    for path in PATHS {
        pair.simple(&case.sql(path)).await;
        for sql in UNQUALIFIED {
            let sql = case.sql(sql);
            // Where one name of them means nothing, the transaction would end with it.
            if path.starts_with("BEGIN") && sql.contains("UPDATE") {
                pair.simple("SAVEPOINT a").await;
            }
            pair.simple(&sql).await;
            pair.extended(&sql, &[], 0).await;
        }
    }
    pair.same();
    case.in_step(&live).await;
    let decoys = case.sql("SELECT count(*), min(<v>), max(<v>) FROM <decoys>.<bare>");
    pair.simple(&decoys).await;
    pair.simple(&case.sql("TABLE <source> ORDER BY 1")).await;
    pair.same();
    live.until_shadow_serves(&reader, &read).await;
    dark_reads_agree(&live, &reader, &read).await;
    case.in_step(&live).await;
}

/// Waits until a call of the function marks the migration.
async fn until_known(case: &Case, client: &tokio_postgres::Client) {
    let call = case.sql("BEGIN; SELECT <function>(0)");
    eventually("the function is known", async || {
        client.batch_execute(&call).await.map_err(|e| e.to_string())?;
        let marks = "SELECT count(*) FROM pgsegue.dirty_keys WHERE key IS NULL";
        let marks = text(client, marks).await;
        client.batch_execute("ROLLBACK").await.map_err(|e| e.to_string())?;
        if marks == "0" { Err(marks) } else { Ok(()) }
    })
    .await;
}

async fn dark_reads_agree(live: &Live, reader: &tokio_postgres::Client, read: &str) {
    let count = |outcome: &str| {
        let labels = format!("{{migration=\"odd\",outcome=\"{outcome}\"}}");
        live.proxy.metric(&format!("pgsegue_dark_reads_total{labels}")).unwrap_or(0.0)
    };
    eventually("dark reads are compared", async || {
        text(reader, read).await;
        if count("compared") > 0.5 { Ok(()) } else { Err(count("dropped")) }
    })
    .await;
    assert!(count("mismatched") < 0.5, "a dark read saw something else");
}

async fn cases(numbers: std::ops::Range<usize>) {
    for number in numbers {
        Box::pin(case(number)).await;
    }
}

#[tokio::test]
async fn quotes_dots_and_spaces_name_partitions_sequences_views_and_functions() {
    cases(0..4).await;
}

#[tokio::test]
async fn percents_backslashes_and_other_alphabets_name_partitions_sequences_views_and_functions() {
    cases(4..8).await;
}

#[tokio::test]
async fn statements_comments_keywords_and_lines_name_partitions_sequences_views_and_functions() {
    cases(8..12).await;
}
