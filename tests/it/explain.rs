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

async fn proxy() -> (TestDb, Proxy) {
    let db = database().await;
    db.client.batch_execute(TABLES).await.unwrap();
    let proxy = Proxy::start(&db, &format!("{ORDERS_V2}{ROUTING_AND_ITEMS}")).await;
    (db, proxy)
}

fn said(output: &Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{error}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn explained(proxy: &Proxy, arguments: &[&str]) -> Vec<Value> {
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
    assert!(parameters[0]["notes"].to_string().contains("parameters: $1 int4;"), "{parameters:?}");

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
