//! Whole migrations between tables whose names try to break out: schema, tables, columns, key,
//! constraint, roles and database, each spelled in each way, through every step there is.

use crate::live::{Live, outcome, text};
use crate::support::{Proxy, TestDb, assert_same, connect, eventually, rows, server};
use futures_util::SinkExt as _;
use pgsegue::sql::ident::Ident;
use tokio_postgres::{Client, Config, NoTls};

/// One for each way to break out of a statement, a literal, a format, a pattern, a line, a file.
pub(crate) const NAMES: [&str; 12] = [
    "with \"quotes\"",
    "it's",
    "a.b",
    " spaced  out ",
    "100%s %1$I %",
    "back\\slash\\",
    "größe日本",
    "$$x$1$pgsegue$",
    "x\"; DROP TABLE x --",
    "/* comment",
    "Select",
    "new\nline\ttab",
];

/// The names of one life: each name comes to each place in one of them.
struct Life {
    number: usize,
    schema: String,
    source: String,
    shadow: String,
    key: String,
    value: String,
    shadow_key: String,
    shadow_value: String,
    constraint: String,
    app: String,
    control: String,
    database: String,
}

pub(crate) fn quoted(name: &str) -> String {
    Ident::new(name).quoted()
}

impl Life {
    fn new(number: usize) -> Self {
        let name = |place: usize| NAMES[(number + place) % NAMES.len()].to_owned();
        Self {
            number,
            schema: name(0),
            source: name(1),
            shadow: format!("{} v2", name(2)),
            key: name(3),
            value: name(4),
            shadow_key: name(5),
            shadow_value: name(6),
            constraint: name(7),
            app: format!("{}app{number}", name(8)),
            control: format!("{}control{number}", name(9)),
            database: format!("{}db{number}", name(10)),
        }
    }

    /// With the names in their places.
    fn sql(&self, sql: &str) -> String {
        let (schema, source) = (quoted(&self.schema), quoted(&self.source));
        [
            ("<source>", format!("{schema}.{source}")),
            ("<shadow>", format!("{schema}.{}", quoted(&self.shadow))),
            ("<schema>", schema),
            ("<bare>", source),
            ("<k>", quoted(&self.key)),
            ("<v>", quoted(&self.value)),
            ("<sk>", quoted(&self.shadow_key)),
            ("<sv>", quoted(&self.shadow_value)),
            ("<pk>", quoted(&self.constraint)),
            ("<app>", quoted(&self.app)),
            ("<control>", quoted(&self.control)),
        ]
        .iter()
        .fold(sql.to_owned(), |sql, (place, name)| sql.replace(place, name))
    }

    /// A database with the tables, reached by a control role of such a name.
    async fn database(&self) -> TestDb {
        server().create_database(&self.database).await.unwrap();
        let escaped = |name: &str| name.replace('\\', "\\\\").replace('\'', "\\'");
        let conninfo = |user: &str| {
            format!(
                "host=127.0.0.1 port={} user='{}' dbname='{}'",
                server().port(),
                escaped(user),
                escaped(&self.database)
            )
        };
        let client = connect(&conninfo("postgres")).await;
        let ddl = self.sql(
            "CREATE ROLE <app> LOGIN; CREATE ROLE <control> LOGIN SUPERUSER; CREATE SCHEMA <schema>; \
             CREATE TABLE <source> (<k> int CONSTRAINT <pk> PRIMARY KEY, <v> int, note text); \
             CREATE TABLE <shadow> (<sk> bigint PRIMARY KEY, <sv> bigint, note text); \
             INSERT INTO <source> SELECT i, i, 'n' || i FROM generate_series(1, 2000) i; \
             GRANT USAGE ON SCHEMA <schema> TO <app>; GRANT ALL ON <source> TO <app>; \
             GRANT SELECT ON <shadow> TO <app>",
        );
        client.batch_execute(&ddl).await.unwrap_or_else(|e| panic!("{ddl}: {e:?}"));
        TestDb {
            name: self.database.clone(),
            conninfo: conninfo(&self.control),
            port: server().port(),
            client,
        }
    }

    fn toml(&self, reads: u8) -> String {
        let table = |pairs: Vec<(&str, String)>| {
            let pairs = pairs.into_iter().map(|(k, v)| (k.to_owned(), toml::Value::String(v)));
            pairs.collect::<toml::Table>()
        };
        let mut migration = table(vec![
            ("name", "odd".to_owned()),
            ("source", self.sql("<source>")),
            ("shadow", self.sql("<shadow>")),
        ]);
        migration.insert("key".to_owned(), vec![self.key.clone()].into());
        let columns = table(vec![
            (&self.shadow_key, self.sql("<k>")),
            (&self.shadow_value, self.sql("<v>::bigint * 100")),
            ("note", "note".to_owned()),
        ]);
        let reverse = table(vec![
            (&self.key, self.sql("<sk>")),
            (&self.value, self.sql("(<sv> / 100)::int")),
        ]);
        migration.insert("columns".to_owned(), columns.into());
        migration.insert("reverse".to_owned(), reverse.into());
        let routing = toml::Table::from_iter([("reads".to_owned(), i64::from(reads).into())]);
        migration.insert("routing".to_owned(), routing.into());
        let all = toml::Table::from_iter([("migration".to_owned(), vec![migration].into())]);
        toml::to_string(&all).unwrap()
    }

    /// A client of the app's role through the proxy.
    async fn client(&self, live: &Live) -> Client {
        let mut config = Config::new();
        config.host("127.0.0.1").port(live.proxy.port).user(&self.app).dbname(&self.database);
        let (client, connection) = config.connect(NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    async fn in_step(&self, live: &Live) {
        live.until_clean("odd").await;
        let mapped = self.sql("SELECT <k>, <v>::bigint * 100, note FROM <source> ORDER BY 1");
        let shadow = self.sql("SELECT <sk>, <sv>, note FROM <shadow> ORDER BY 1");
        assert_same(&live.db.client, &mapped, &shadow).await;
    }
}

const WRITES: [&str; 16] = [
    "INSERT INTO <source> VALUES (3100, 1, 'x') RETURNING *",
    "INSERT INTO <source> (<k>, <v>) VALUES (3101, 1), (3102, 2) RETURNING <k> AS <v>",
    "INSERT INTO <source> SELECT <k> + 4000, <v>, note FROM <source> WHERE <k> < 4",
    "INSERT INTO <source> AS <app> VALUES (1, 5, 'y') ON CONFLICT (<k>) DO UPDATE SET <v> = excluded.<v> + <app>.<v>",
    "INSERT INTO <source> VALUES (2, 5, 'y') ON CONFLICT ON CONSTRAINT <pk> DO UPDATE SET <v> = 77 RETURNING <v>",
    "UPDATE <source> SET <v> = <v> + 1 WHERE <k> = 3 RETURNING <bare>.<v>, <bare>.*",
    "UPDATE ONLY <source> AS <control> SET note = 'z' WHERE <control>.<k> IN (4, 5) RETURNING <control>.<k>",
    "UPDATE <source> SET <k> = <k> + 10000 WHERE <k> = 6 RETURNING <k>",
    "UPDATE <source> AS <sk> SET <v> = <sv>.<v> FROM <source> AS <sv> WHERE <sv>.<k> = <sk>.<k> - 1 AND <sk>.<k> < 12",
    "UPDATE <source> SET (<v>, note) = (SELECT 9, 'row') WHERE <k> = 7",
    "DELETE FROM <source> AS <pk> USING <source> AS <sk> WHERE <pk>.<k> = 8 AND <sk>.<k> = 9 RETURNING <pk>.<k>",
    "DELETE FROM <source> WHERE <k> = 9 RETURNING <k>, <v>",
    "WITH <sk> AS (SELECT 10 AS <sv>) DELETE FROM <source> USING <sk> WHERE <k> = <sv>",
    "BEGIN; SAVEPOINT <sv>; UPDATE <source> SET <v> = 0 WHERE <k> < 13; ROLLBACK TO <sv>; UPDATE <source> SET <v> = 5 WHERE <k> = 13; COMMIT",
    "PREPARE <pk> (int) AS UPDATE <source> SET <v> = $1 WHERE <k> = 14; EXECUTE <pk> (4); DEALLOCATE <pk>",
    "MERGE INTO <source> AS <sv> USING (VALUES (15), (5000)) AS <sk> (<k>) ON <sv>.<k> = <sk>.<k> \
     WHEN MATCHED THEN UPDATE SET note = 'merged' WHEN NOT MATCHED THEN INSERT (<k>, <v>) VALUES (<sk>.<k>, 1)",
];

const READS: [&str; 6] = [
    "SELECT * FROM <source> WHERE <k> = 20",
    "SELECT <v>, <k> AS <sv>, <bare>.note FROM <source> WHERE <bare>.<k> BETWEEN 20 AND 30 ORDER BY <k>",
    "SELECT <sv>.<v> FROM <source> AS <sv> WHERE <sv>.<k> = 21",
    "SELECT count(*), sum(<v>) FROM <source>",
    "SELECT a.<v>, b.* FROM <source> a JOIN <source> b ON b.note = a.note WHERE a.<k> = 22 AND b.<k> = 22",
    "WITH <pk> AS (SELECT <v> AS <sk> FROM <source> WHERE <k> = 23) SELECT <sk> FROM <pk>",
];

async fn live(life: &Life) -> Live {
    let db = life.database().await;
    let mut proxy = Proxy::prepare(&db, &life.toml(0));
    let checked = proxy.pgsegue(&["check", "odd"]);
    let said = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert_eq!(checked.status.code(), Some(0), "{}: {said} {checked:?}", life.number);
    assert!(said.ends_with("odd: nothing is in the way\n"), "{said}");
    proxy.start_again().await;
    let mut live = Live { db, proxy };
    // The barrier waits for busy connections that are older than the engine.
    live.db.client = connect(&live.db.conninfo).await;
    live.start("odd");
    live.until_phase("odd", "ready").await;
    life.in_step(&live).await;
    // Lookups then go by the indexes on both sides.
    live.db.client.batch_execute("ANALYZE").await.unwrap();
    live
}

async fn write(life: &Life, live: &Live, client: &Client) {
    for sql in WRITES {
        let sql = life.sql(sql);
        let done = outcome(client, &sql).await;
        assert!(done.as_ref().is_ok_and(|counts| !counts.is_empty()), "{sql}: {done:?}");
    }
    life.in_step(live).await;
    let mirrored = live.statements("mirrored", "write");
    assert!(mirrored > 12.0, "{}: only {mirrored} mirrored", life.number);
    let update = life.sql("UPDATE <source> SET <v> = $1, note = $2 WHERE <k> = $3 RETURNING <v>");
    let prepared = client.prepare(&update).await.unwrap();
    for k in [16, 17] {
        let row = client.query_one(&prepared, &[&(k * 2), &"p", &k]).await.unwrap();
        assert_eq!(row.get::<_, i32>(0), k * 2);
        assert_eq!(row.columns()[0].name(), life.value);
    }
    let copy = life.sql("COPY <source> (<k>, <v>) FROM STDIN");
    let sink = client.copy_in::<_, bytes::Bytes>(&copy).await.unwrap();
    let mut sink = Box::pin(sink);
    sink.send("6000\t6\n6001\t7\n".into()).await.unwrap();
    assert_eq!(sink.as_mut().finish().await.unwrap(), 2);
    client.batch_execute(&life.sql("SET search_path = <schema>")).await.unwrap();
    let bare = life.sql("UPDATE <bare> SET <v> = 18 WHERE <k> = 18");
    assert_eq!(outcome(client, &bare).await, Ok(vec![1]), "{bare}");
    client.batch_execute("RESET search_path").await.unwrap();
    life.in_step(live).await;
}

async fn read(life: &Life, live: &Live, client: &Client) {
    live.proxy.rewrite_config(&life.toml(100));
    for sql in READS {
        let sql = life.sql(sql);
        live.until_shadow_serves(client, &sql).await;
        assert_eq!(rows(client, &sql).await, rows(&live.db.client, &sql).await, "{sql}");
        let names = |statement: tokio_postgres::Statement| {
            statement.columns().iter().map(|c| c.name().to_owned()).collect::<Vec<_>>()
        };
        let expected = names(live.db.client.prepare(&sql).await.unwrap());
        assert_eq!(names(client.prepare(&sql).await.unwrap()), expected, "{sql}");
    }
}

/// Somebody spoils the shadow, the verify finds it; a locked row makes a key dirty.
async fn repair(life: &Life, live: &Live, client: &Client) {
    let spoil = life
        .sql("UPDATE <shadow> SET <sv> = -1 WHERE <sk> = 30; DELETE FROM <shadow> WHERE <sk> = 31");
    live.db.client.batch_execute(&spoil).await.unwrap();
    live.verified("odd").await;
    life.in_step(live).await;
    let direct = live.direct().await;
    let lock = life.sql("BEGIN; SELECT FROM <shadow> WHERE <sk> = 32 FOR UPDATE");
    direct.batch_execute(&lock).await.unwrap();
    let sql = life.sql("UPDATE <source> SET <v> = 99 WHERE <k> = 32");
    assert_eq!(outcome(client, &sql).await, Ok(vec![1]));
    assert_eq!(live.dirty().await.len(), 1);
    direct.batch_execute("COMMIT").await.unwrap();
    life.in_step(live).await;
}

async fn explain_and_abort(life: &Life, live: &Live) {
    let said = live.cli(&["explain", &life.sql("UPDATE <source> SET <v> = 1 WHERE <k> = 1")]);
    assert!(said.contains("pgsegue"), "{said}");
    let why = "it's \"over\" \\ %s\n";
    live.cli(&["route", "odd", "--reads", "0", "--why", why]);
    live.cli(&["migration", "abort", "odd", "--why", why]);
    live.until_phase("odd", "aborted").await;
    assert!(live.cli(&["migration", "events", "odd"]).contains("it's"));
    eventually("the functions are gone", async || {
        let sql = "SELECT count(*) FROM pg_proc WHERE pronamespace = 'pgsegue'::regnamespace \
                   AND proname LIKE '%odd'";
        let seen = text(&live.db.client, sql).await;
        if seen == "0" { Ok(()) } else { Err(seen) }
    })
    .await;
}

async fn lives(numbers: std::ops::Range<usize>) {
    for number in numbers {
        let life = Life::new(number);
        let live = Box::pin(live(&life)).await;
        let client = life.client(&live).await;
        Box::pin(write(&life, &live, &client)).await;
        Box::pin(read(&life, &live, &client)).await;
        Box::pin(repair(&life, &live, &client)).await;
        Box::pin(explain_and_abort(&life, &live)).await;
        drop(client);
        let drop_roles = life.sql("DROP OWNED BY <app>; DROP ROLE <app>");
        live.db.client.batch_execute(&drop_roles).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn quotes_dots_and_spaces_live_through_a_migration() {
    lives(0..4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn percents_backslashes_and_other_alphabets_live_through_a_migration() {
    lives(4..8).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_comments_keywords_and_lines_live_through_a_migration() {
    lives(8..12).await;
}
