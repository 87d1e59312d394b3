//! What is said of a statement before it is sent: by the command and over HTTP alike, with SQL that
//! runs as it is printed.

use crate::support::{ORDERS_V2, Proxy, TestDb, database, server};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Output, Stdio};

const ROUTING_AND_ITEMS: &str = r#"
[migration.routing]
reads = 100
[[migration]]
name = "items_v2"
source = "public.items"
shadow = "public.items_v2"
key = ["id"]
unclassified = "refuse"
[migration.columns]
id = "id"
label = "name"
[migration.reverse]
name = "label"
"#;

const TABLES: &str = "
    CREATE TABLE orders (id int PRIMARY KEY, user_id int NOT NULL, total int);
    CREATE TABLE orders_v2 (id int PRIMARY KEY, customer_id int NOT NULL, total_minor bigint);
    CREATE TABLE items (id int PRIMARY KEY, name text);
    CREATE TABLE items_v2 (id int PRIMARY KEY, label text);
    CREATE TABLE words (word text);
    INSERT INTO orders SELECT i, i % 7, i * 3 FROM generate_series(1, 5000) AS i;
    INSERT INTO items VALUES (1, 'a');";

pub(crate) async fn proxy() -> (TestDb, Proxy) {
    let db = database().await;
    db.client.batch_execute(TABLES).await.unwrap();
    let proxy = Proxy::start(&db, &format!("{ORDERS_V2}{ROUTING_AND_ITEMS}")).await;
    (db, proxy)
}

pub(crate) fn said(output: &Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{error}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) fn explained(proxy: &Proxy, arguments: &[&str]) -> Vec<Value> {
    let arguments = [&["explain", "--json"], arguments].concat();
    serde_json::from_str(&said(&proxy.pgsegue(&arguments))).unwrap()
}

/// Status and body of `POST /explain`.
fn post(proxy: &Proxy, kind: &str, body: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", proxy.admin_port)).unwrap();
    let head = format!(
        "POST /explain HTTP/1.0\r\nhost: localhost\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    // It may be refused before it is read to its end.
    stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes())).ok();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// Runs a text in psql, direct on the server.
fn psql(db: &TestDb, sql: &str) -> String {
    let mut child = Command::new(server().bin("psql").expect("psql is needed"))
        .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", &db.conninfo])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(sql.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{sql}\n{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

const UNCHANGED: &str = "what the server answers, unchanged";

const TEXTS: [&str; 11] = [
    "UPDATE orders SET total = 5 WHERE id = 7 RETURNING total, id",
    "INSERT INTO orders VALUES ($1, 2, 3)",
    "SELECT id, total FROM orders WHERE id = 7 -- the seventh\n",
    "SELECT ctid FROM orders",
    "SELECT user_id FROM orders WHERE total = 5",
    "SELECT o.id, i.name FROM orders o JOIN items i ON i.id = o.id WHERE o.id = 1",
    "DO 'BEGIN DELETE FROM items; END'",
    "ALTER TABLE orders ADD COLUMN note text; SELECT 1; DELETE FROM items WHERE id = 1",
    "UPDATE orders SET no_such = 1",
    "TRUNCATE orders",
    "SELECT 'orders",
];

#[tokio::test(flavor = "multi_thread")]
async fn the_command_and_http_say_the_same_at_any_lever() {
    let (_db, proxy) = proxy().await;
    for started in [false, true] {
        if started {
            said(&proxy.pgsegue(&["migration", "start", "orders_v2"]));
        }
        for text in TEXTS {
            for reads in [None, Some("0"), Some("12.5"), Some("100")] {
                let (arguments, question) = match reads {
                    None => (vec![text], json!({ "sql": text })),
                    Some(reads) => {
                        let number: f64 = reads.parse().unwrap();
                        (vec![text, "--reads", reads], json!({ "sql": text, "reads": number }))
                    }
                };
                let (status, body) = post(&proxy, "application/json", &question.to_string());
                assert_eq!(status, 200, "{body}");
                let by_http: Vec<Value> = serde_json::from_str(&body).unwrap();
                assert_eq!(explained(&proxy, &arguments), by_http, "{text}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_class_has_its_route_its_reason_and_what_the_client_sees() {
    let (_db, proxy) = proxy().await;
    said(&proxy.pgsegue(&["migration", "start", "orders_v2"]));
    let of = |text: &str| explained(&proxy, &[text]);
    let fields =
        |one: &Value| ["class", "route", "why"].map(|f| one[f].as_str().unwrap().to_owned());

    let write = of(TEXTS[0]);
    let mirrored =
        ["write", "source, mirrored to the shadow", "orders_v2 (ready): dual write is on"];
    assert_eq!(fields(&write[0]), mirrored);
    assert_eq!(write[0]["client"], json!(["UPDATE n", "total int4, id int4"]));
    assert_eq!(write[0]["tables"], json!(["public.orders"]));
    let parameters = of(TEXTS[1]);
    assert_eq!(parameters[0]["parameters"], json!(["int4"]));

    let read = of(TEXTS[2]);
    assert_eq!(fields(&read[0]), ["read", "shadow", "orders_v2 (ready): reads is 100 %"]);
    assert_eq!(read[0]["client"], json!(["SELECT n", "id int4, total int4"]));
    let unfit = of(TEXTS[3]);
    let cannot = "the shadow cannot answer it: a system column";
    assert_eq!(fields(&unfit[0]), ["read", "source", cannot]);
    let joined = of(TEXTS[5]);
    assert_eq!(fields(&joined[0])[2], "items_v2 (observe): reads is 0 %");

    let code = of(TEXTS[6]);
    let why = "not mirrored: items_v2 (observe)";
    assert_eq!(fields(&code[0]), ["unclassified", "source", why]);
    assert_eq!(code[0]["not_understood"], "code that names a migrated table");
    assert!(code[0]["way_out"].as_str().unwrap().contains("out of DO or CALL"));
    let refused = explained(&proxy, &["--reads", "10", TEXTS[6]]);
    assert_eq!(fields(&refused[0])[1], "refused");

    let several = of(TEXTS[7]);
    let routes: Vec<_> = several.iter().map(|one| fields(one)[1].clone()).collect();
    assert_eq!(routes, ["refused", "as it is", "source"]);
    assert_eq!(several[2]["statement"], "DELETE FROM items WHERE id = 1");
    let wrong = of(TEXTS[8]);
    assert!(wrong[0]["client"][0].as_str().unwrap().contains("(SQLSTATE 42703)"), "{wrong:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_text_has_its_class_its_route_and_its_tag() {
    let (_db, proxy) = proxy().await;
    said(&proxy.pgsegue(&["migration", "start", "orders_v2"]));
    for (text, class, client) in [
        (
            "WITH d AS (DELETE FROM orders RETURNING id) INSERT INTO items SELECT id FROM d",
            "write",
            "INSERT 0 n",
        ),
        (
            "WITH d AS (DELETE FROM orders RETURNING id) UPDATE words SET word = d.id FROM d",
            "write",
            "UPDATE n",
        ),
        (
            "WITH d AS (DELETE FROM orders RETURNING id) DELETE FROM words USING d",
            "write",
            "DELETE n",
        ),
        ("WITH d AS (DELETE FROM orders RETURNING id) SELECT * FROM d", "write", "SELECT n"),
        ("COPY (DELETE FROM orders RETURNING id) TO STDOUT", "write", "COPY n"),
        (
            "CREATE TABLE gone AS WITH d AS (DELETE FROM orders RETURNING id) TABLE d",
            "write",
            "SELECT n",
        ),
        ("COPY orders FROM STDIN", "write", "COPY n"),
        ("TRUNCATE orders", "truncate", "TRUNCATE TABLE"),
        ("EXECUTE by_name(1)", "prepared", UNCHANGED),
        ("PREPARE by_name AS DELETE FROM orders", "prepared", UNCHANGED),
        ("DROP TABLE items", "ddl", "SQLSTATE 55006; nothing is changed"),
        ("LOCK TABLE orders", "passthrough", UNCHANGED),
        ("DELETE FROM words", "passthrough", UNCHANGED),
        ("DO $$ BEGIN DELETE FROM orders; END $$", "unclassified", UNCHANGED),
        (
            "DO $$ BEGIN DELETE FROM items; END $$",
            "unclassified",
            "SQLSTATE 0A000; nothing is changed",
        ),
        ("SELECT 'orders", "unclassified", "SQLSTATE 0A000; nothing is changed"),
        ("DELETE orders", "unclassified", UNCHANGED),
        (
            "SELECT FROM WHERE orders",
            "read",
            "the server refuses it: syntax error at or near \"WHERE\" (SQLSTATE 42601)",
        ),
    ] {
        let of = explained(&proxy, &["--reads", "0", text]);
        let said = (of[0]["class"].as_str().unwrap(), of[0]["client"][0].as_str().unwrap());
        assert_eq!(said, (class, client), "{text}");
        assert!(["route", "why"].iter().all(|f| !of[0][f].as_str().unwrap().is_empty()), "{of:?}");
    }
    for empty in ["", " ; -- orders\n;"] {
        assert_eq!(explained(&proxy, &[empty]), Vec::<Value>::new());
        let text = said(&proxy.pgsegue(&["explain", empty]));
        assert_eq!(text, "there is no statement in it: it is sent as it is\n");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_read_by_no_query_of_the_clients_stays_on_the_source_and_says_why() {
    let (_db, proxy) = proxy().await;
    said(&proxy.pgsegue(&["migration", "start", "orders_v2"]));
    for (text, why) in [
        ("DECLARE c CURSOR FOR SELECT * FROM orders", "it is read by a cursor"),
        ("COPY (SELECT id FROM orders) TO STDOUT", "it is read by COPY"),
        ("COPY orders TO STDOUT", "it is read by COPY"),
        ("EXPLAIN SELECT * FROM orders", "the plan that EXPLAIN shows is the source's"),
        (
            "INSERT INTO words SELECT id FROM orders",
            "it is read by a statement that writes another table",
        ),
        (
            "WITH o AS (SELECT id FROM orders) DELETE FROM words USING o",
            "it is read by a statement that writes another table",
        ),
        ("CREATE TABLE filled AS SELECT * FROM orders", "it is read to fill another table"),
        ("CREATE MATERIALIZED VIEW filled AS TABLE orders", "it is read to fill another table"),
        ("SELECT * INTO filled FROM orders", "SELECT INTO"),
        ("LOCK TABLE orders", "it changes no migrated table, and reads none that could be another"),
    ] {
        let of = explained(&proxy, &["--reads", "100", text]);
        assert!(of[0]["why"].as_str().unwrap().contains(why), "{of:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_printed_runs_in_psql_and_does_what_the_statement_does() {
    let (db, proxy) = proxy().await;
    said(&proxy.pgsegue(&["migration", "start", "orders_v2"]));
    let sql = |text: &str| explained(&proxy, &[text])[0]["sql"].as_str().unwrap().to_owned();
    for text in [
        "SELECT id, total AS \"Total %\" FROM orders WHERE id IN (7, 9) /* both\n */ ORDER BY id -- up",
        "SELECT o.id, 'a\n  b' AS t, $q$ FROM\n$q$ FROM orders AS o WHERE o.id = 7 AND o.total > 1",
        "SELECT count(*), max(total) FROM orders WHERE id BETWEEN 5 AND 10 GROUP BY user_id ORDER BY 2",
        "WITH a AS (SELECT id FROM orders WHERE id = 3) SELECT a.id FROM a",
    ] {
        let printed = sql(text);
        assert!(printed.lines().count() > 3 && printed.ends_with(';'), "{printed}");
        assert!(printed.contains("orders_v2"), "{printed}");
        assert_eq!(psql(&db, &printed), psql(&db, text), "{printed}");
    }
    psql(&db, &sql("UPDATE orders SET total = 4 WHERE id = 7"));
    psql(&db, &sql("UPDATE orders SET total = 5 WHERE id > 7 AND id < 10"));
    psql(&db, &sql("INSERT INTO orders (id, user_id, total) VALUES (9001, 1, 2), (9002, 1, 3)"));
    let shadow =
        "SELECT id, total_minor FROM orders_v2 WHERE id IN (7, 8, 9, 9001, 9002) ORDER BY id";
    assert_eq!(psql(&db, shadow), "7|400\n8|500\n9|500\n9001|200\n9002|300\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_would_scan_the_shadow_stays_on_the_source_and_says_so() {
    let (db, proxy) = proxy().await;
    db.client.batch_execute("CREATE INDEX ON orders (user_id); ANALYZE orders").await.unwrap();
    said(&proxy.pgsegue(&["migration", "start", "orders_v2"]));
    let text = "SELECT id FROM orders WHERE user_id = 1 AND total = 21";
    let before = explained(&proxy, &[text]);
    assert_eq!(before[0]["route"], "source");
    assert!(before[0]["vetting"].as_str().unwrap().contains("scanned"), "{before:?}");
    let index = "CREATE INDEX ON orders_v2 (customer_id); ANALYZE orders_v2";
    db.client.batch_execute(index).await.unwrap();
    let after = explained(&proxy, &[text]);
    assert_eq!(after[0]["route"], "shadow", "{after:?}");
}

/// The SQL that the command prints behind what it says.
fn printed(proxy: &Proxy, text: &str) -> String {
    let shown = said(&proxy.pgsegue(&["explain", text]));
    shown.split_once("\n\n").unwrap_or_else(|| panic!("there is no SQL in\n{shown}")).1.to_owned()
}

pub(crate) fn field<'a>(of: &'a Value, name: &str) -> &'a str {
    of[name].as_str().unwrap_or_else(|| panic!("no {name} in {of}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn before_the_shadow_is_filled_the_phase_is_why_and_no_index_is_advised() {
    let (db, proxy) = proxy().await;
    let wider =
        "ALTER TABLE orders_v2 ALTER id TYPE bigint; CREATE INDEX ON orders (user_id); ANALYZE";
    db.client.batch_execute(wider).await.unwrap();
    let text = "SELECT id FROM orders WHERE user_id = 3";
    let now = explained(&proxy, &[text]);
    assert_eq!(field(&now[0], "why"), "orders_v2 (observe): reads is 0 %");
    let later = explained(&proxy, &["--reads", "100", text]);
    assert_eq!(field(&later[0], "route"), "shadow");
    for one in [&now[0], &later[0]] {
        assert!(!one.to_string().contains("CREATE INDEX"), "{one}");
        let vetting = "same parameters, columns and types; how the shadow is reached is seen once it \
                       is filled";
        assert_eq!(field(one, "vetting"), vetting);
    }
    said(&proxy.pgsegue(&["migration", "start", "orders_v2"]));
    let filled = explained(&proxy, &[text]);
    assert!(field(&filled[0], "why").contains("scanned where"), "{filled:?}");
}

const TYPED: &str = r#"
[[migration]]
name = "parcels_v2"
source = "public.parcels"
shadow = "public.parcels_v2"
key = ["id"]
[migration.columns]
id = "id"
state = "status::text"
[migration.reverse]
status = "state::public.st"
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_source_with_a_type_of_its_own_is_fit_and_what_is_printed_for_it_runs() {
    let db = database().await;
    let tables = "CREATE TYPE st AS ENUM ('sent', 'there'); \
        CREATE TABLE parcels (id int PRIMARY KEY, status st); \
        CREATE TABLE parcels_v2 (id int PRIMARY KEY, state text); \
        INSERT INTO parcels VALUES (1, 'sent'); INSERT INTO parcels_v2 VALUES (1, 'sent')";
    db.client.batch_execute(tables).await.unwrap();
    let proxy = Proxy::start(&db, TYPED).await;
    let text = "SELECT status, id FROM parcels WHERE id = 1";
    let of = explained(&proxy, &["--reads", "100", text]);
    assert_eq!((field(&of[0], "route"), field(&of[0], "class")), ("shadow", "read"), "{of:?}");
    assert!(field(&of[0], "vetting").starts_with("same parameters, columns and types"), "{of:?}");
    assert_eq!(psql(&db, &printed(&proxy, text)), "sent|1\n");
    let by_type = printed(&proxy, "SELECT id FROM parcels WHERE status = $1");
    assert!(by_type.starts_with("PREPARE pgsegue_try (\"public\".\"st\") AS\n"), "{by_type}");
    assert_eq!(psql(&db, &format!("{by_type}EXECUTE pgsegue_try ('sent');")), "1\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_prepared_in_sql_is_explained_and_what_drops_it_is_no_execute() {
    let (db, proxy) = proxy().await;
    said(&proxy.pgsegue(&["migration", "start", "orders_v2"]));
    let of = explained(&proxy, &["PREPARE p (int) AS UPDATE orders SET total = 1 WHERE id = $1"]);
    assert_eq!(field(&of[0], "class"), "prepared");
    let route = "as it is; EXECUTE of it (write): source, mirrored to the shadow";
    assert_eq!(field(&of[0], "route"), route);
    assert_eq!(of[0]["tables"], json!(["public.orders"]));
    psql(&db, &format!("{} EXECUTE p(7);", field(&of[0], "sql")));
    assert_eq!(psql(&db, "SELECT total_minor FROM orders_v2 WHERE id = 7"), "100\n");
    let read = explained(&proxy, &["PREPARE p AS SELECT * FROM orders"]);
    assert_eq!(field(&read[0], "why"), "it is read by EXECUTE");
    for text in ["DISCARD ALL", "DEALLOCATE p", "DEALLOCATE ALL"] {
        let of = explained(&proxy, &[text]);
        let why = "it drops prepared statements, and changes no table";
        assert_eq!((field(&of[0], "class"), field(&of[0], "why")), ("passthrough", why));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_step_behind_a_truncate_is_shown_and_runs() {
    let (db, proxy) = proxy().await;
    assert_eq!(explained(&proxy, &["TRUNCATE orders"])[0]["sql"], json!(null));
    said(&proxy.pgsegue(&["migration", "start", "orders_v2"]));
    let printed = printed(&proxy, "TRUNCATE orders CASCADE -- all");
    psql(&db, &printed);
    let left = "SELECT (SELECT count(*) FROM orders_v2), (SELECT count(*) FROM pgsegue.dirty_keys)";
    assert_eq!(psql(&db, left), "0|0\n", "{printed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_write_any_table_names_every_migration() {
    let (_db, proxy) = proxy().await;
    let both = "items_v2 (as if ready; in fact observe), orders_v2 (as if ready; in fact observe)";
    for text in ["CALL somewhere()", "SELECT 'orders"] {
        let of = explained(&proxy, &[text]);
        assert_eq!(of[0]["tables"], json!(["public.items", "public.orders"]), "{text}");
        let why = "not mirrored: items_v2 (observe), orders_v2 (observe)";
        assert_eq!(field(&of[0], "why"), why);
    }
    let config = format!("{ORDERS_V2}{ROUTING_AND_ITEMS}").replace("unclassified = \"refuse\"", "");
    proxy.rewrite_config(&config);
    let of = explained(&proxy, &["--reads", "0", "CALL somewhere()"]);
    assert_eq!(field(&of[0], "why"), format!("{both} have unclassified = \"record\""));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_a_with_query_is_no_table_and_a_view_is_said_to_be_one() {
    let (db, proxy) = proxy().await;
    db.client.batch_execute("CREATE VIEW ov AS SELECT * FROM orders").await.unwrap();
    for (text, tables) in [
        ("WITH orders AS (SELECT 1 AS id) SELECT * FROM orders", json!([])),
        ("WITH o AS (SELECT 1), orders AS (TABLE o) SELECT * FROM orders", json!([])),
        ("WITH orders AS (SELECT * FROM orders) SELECT * FROM orders", json!(["public.orders"])),
        (
            "WITH orders AS (SELECT 1) SELECT * FROM orders, public.orders AS o",
            json!(["public.orders"]),
        ),
        ("SELECT * FROM ov", json!(["public.orders"])),
    ] {
        assert_eq!(explained(&proxy, &[text])[0]["tables"], tables, "{text}");
    }
    let through = explained(&proxy, &["SELECT w.word FROM words AS w, public.ov LIMIT 1"]);
    let why = "it reads the table through \"ov\": views are the source's";
    assert_eq!((field(&through[0], "route"), field(&through[0], "why")), ("source", why));
    let called = explained(&proxy, &["SELECT some_function(1)"]);
    let note = "whatever some_function() reads, it reads of the source";
    assert_eq!(called[0]["notes"], json!([note]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_with_parameters_is_printed_so_that_any_psql_runs_it() {
    let (db, proxy) = proxy().await;
    said(&proxy.pgsegue(&["migration", "start", "orders_v2"]));
    let read = printed(&proxy, "SELECT total FROM orders WHERE id = $1 AND total > $2 -- it");
    assert!(read.ends_with(";\n-- then: EXECUTE pgsegue_try (<$1>, <$2>);\n"), "{read}");
    assert_eq!(psql(&db, &format!("{read}EXECUTE pgsegue_try (7, 1);")), "21\n");
    let write = printed(&proxy, "INSERT INTO orders VALUES ($1, $2, 5)");
    psql(&db, &format!("{write}EXECUTE pgsegue_try (9001, 1);"));
    assert_eq!(psql(&db, "SELECT total_minor FROM orders_v2 WHERE id = 9001"), "500\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_that_begins_with_a_comment_is_no_option() {
    let (_db, proxy) = proxy().await;
    for arguments in [
        ["explain", "--reads=0", "-- note\nSELECT * FROM orders"],
        ["explain", "-- note\nSELECT * FROM orders", "--reads=0"],
    ] {
        let shown = said(&proxy.pgsegue(&arguments));
        assert!(shown.starts_with("SELECT * FROM orders\n  class    read\n"), "{shown}");
    }
    let shown = said(&proxy.pgsegue(&["explain", "--orders"]));
    assert_eq!(shown, "there is no statement in it: it is sent as it is\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn more_statements_than_anybody_reads_are_refused_at_once() {
    let (_db, proxy) = proxy().await;
    let sql = "SELECT * FROM orders WHERE id = 1; ".repeat(101);
    let expected = "101 statements are too many for one question: ask for at most 100 at a time";
    let body = json!({ "sql": sql }).to_string();
    let (status, answer) = post(&proxy, "application/json", &body);
    assert!(status == 400 && answer.contains(expected), "{status} {answer}");
    let output = proxy.pgsegue(&["explain", &sql]);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!((output.status.code(), error), (Some(2), format!("error: {expected}\n")));
    assert_eq!(explained(&proxy, &[&"SELECT ';'; ;".repeat(100)]).len(), 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_explained_is_refused_with_what_to_send() {
    let (_db, proxy) = proxy().await;
    let sql = r#"{"sql": "SELECT 1"}"#;
    for (kind, body, status) in [
        ("text/plain", sql, 415),
        ("application/json", "{", 400),
        ("application/json", r#"{"text": "SELECT 1"}"#, 422),
        ("application/json", r#"{"sql": "SELECT 1", "reads": 101}"#, 400),
        ("application/json", &format!("{{\"sql\": \"{}\"}}", "x".repeat(2 << 20)), 413),
    ] {
        let (code, answer) = post(&proxy, kind, body);
        assert_eq!(code, status, "{answer}");
        let answer: Value = serde_json::from_str(&answer).unwrap();
        assert!(answer["error"].is_string(), "{answer}");
    }
    let output = proxy.pgsegue(&["explain", "--reads", "101", "SELECT 1"]);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(
        (output.status.code(), error.lines().next().unwrap()),
        (Some(2), "error: reads = 101 is no percentage: it is between 0 and 100",)
    );
    let nothing = explained(&proxy, &["SELECT 1"]);
    assert_eq!(
        (&nothing[0]["class"], &nothing[0]["route"]),
        (&json!("passthrough"), &json!("as it is"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_may_look_at_data_is_planned_for_who_asks_by_http() {
    let (db, proxy) = proxy().await;
    db.client.batch_execute("CREATE TABLE secrets AS SELECT 'geheim' AS word").await.unwrap();
    for name in ["table_to_xml", "\"table_to_xml\"", "pg_catalog . table_to_xml /* */"] {
        let sql = format!(
            "SELECT id FROM orders WHERE id = {name}('secrets'::regclass, true, true, '')::text::int"
        );
        let (status, body) = post(&proxy, "application/json", &json!({ "sql": sql }).to_string());
        let vetting = "not asked here: table_to_xml() may look at data while it is planned";
        assert!(status == 200 && body.contains(vetting), "{body}");
        assert!(!body.contains("geheim"), "{body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_form_that_the_server_does_not_take_is_not_printed() {
    let (_db, proxy) = proxy().await;
    said(&proxy.pgsegue(&["migration", "start", "orders_v2"]));
    // The primary key of the source says what is grouped; a derived table has none.
    let read = "SELECT id, user_id FROM orders GROUP BY id";
    let of = &explained(&proxy, &["--reads", "100", read])[0];
    assert_eq!(field(of, "class"), "read");
    assert_eq!(field(of, "route"), "source");
    assert!(field(of, "why").starts_with("the shadow form fails: "), "{of}");
    assert_eq!(of["sql"], json!(null));
    let of = &explained(&proxy, &["SELECT id FROM orders WHERE WHERE id = 1"])[0];
    assert_eq!(field(of, "why"), "the server refuses it");
    assert_eq!(
        of["client"],
        json!(["the server refuses it: syntax error at or near \"WHERE\" (SQLSTATE 42601)"])
    );
}
