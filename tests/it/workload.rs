//! What a proxy has seen of a table before its migration is started: exact numbers, no values, and
//! nothing changed for it.

use crate::support::{ORDERS_V2, Proxy, TestDb, connect, database, eventually};
use futures_util::SinkExt as _;
use serde_json::{Value, json};
use std::process::Output;
use tokio_postgres::{Client, SimpleQueryMessage};

const SOURCE: &str = "
    CREATE TABLE orders (id int PRIMARY KEY, user_id int NOT NULL, total int);
    CREATE TABLE users (id int PRIMARY KEY, name text);
    INSERT INTO users SELECT i, 'user ' || i FROM generate_series(1, 10) AS i;
    INSERT INTO orders SELECT i, i % 7, i * 3 FROM generate_series(1, 100) AS i;";

const SHADOW: &str =
    "CREATE TABLE orders_v2 (id int PRIMARY KEY, customer_id int NOT NULL, total_minor bigint)";

async fn orders() -> TestDb {
    let db = database().await;
    db.client.batch_execute(SOURCE).await.unwrap();
    db
}

async fn through(proxy: &Proxy) -> Client {
    connect(&proxy.conninfo()).await
}

fn report(proxy: &Proxy) -> Value {
    let (status, body) = proxy.get("/migrations/orders_v2/workload");
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

/// Waits for the report to say so much: a statement is counted when it is answered.
async fn report_of_calls(proxy: &Proxy, calls: u64) -> Value {
    eventually("the calls are counted", async || {
        let report = report(proxy);
        if report["calls"] == calls { Ok(report) } else { Err(report) }
    })
    .await
}

fn line<'a>(report: &'a Value, text: &str) -> &'a Value {
    let lines = report["statements"].as_array().unwrap();
    let found = lines.iter().find(|line| line["text"] == text);
    found.unwrap_or_else(|| panic!("{text} is not in {report:#}"))
}

fn said(output: &Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{error}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Everything that the server says of a text, error included.
async fn answer(client: &Client, sql: &str) -> Vec<String> {
    match client.simple_query(sql).await {
        Ok(messages) => messages
            .iter()
            .map(|message| match message {
                SimpleQueryMessage::Row(row) => {
                    let values = (0..row.len()).map(|i| format!("{:?}", row.get(i)));
                    values.collect::<Vec<_>>().join(",")
                }
                SimpleQueryMessage::CommandComplete(rows) => format!("done {rows}"),
                other => format!("{other:?}"),
            })
            .collect(),
        Err(error) => vec![format!("{:?}", error.as_db_error())],
    }
}

/// What the database consists of, and whatever pgsegue keeps in it.
async fn installed(db: &TestDb) -> Vec<String> {
    let sql = "SELECT concat_ws(' ', 'function', p.oid::regprocedure, xmin) FROM pg_proc p \
        WHERE pronamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace) \
        UNION ALL SELECT concat_ws(' ', 'relation', c.oid::regclass, xmin) FROM pg_class c \
        WHERE relnamespace IN ('public'::regnamespace, 'pgsegue'::regnamespace) AND relkind <> 't' \
        UNION ALL SELECT concat_ws(' ', 'trigger', tgname, tgrelid::regclass) FROM pg_trigger \
        UNION ALL SELECT concat_ws(' ', 'migration', m) FROM pgsegue.migrations m \
        UNION ALL SELECT concat_ws(' ', 'event', e) FROM pgsegue.events e \
        UNION ALL SELECT concat_ws(' ', 'key', d) FROM pgsegue.dirty_keys d ORDER BY 1";
    let rows = db.client.query(sql, &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_seen_before_the_start_is_counted_exactly_and_nothing_is_changed() {
    let (db, twin) = (orders().await, orders().await);
    for db in [&db, &twin] {
        db.client.batch_execute(SHADOW).await.unwrap();
    }
    let proxy = Proxy::start(&db, ORDERS_V2).await;
    // Each class, as simple queries; users alone is not looked into.
    let texts = [
        ("SELECT total FROM orders WHERE id = 7", 3),
        ("select total from ORDERS where id=8 -- again", 2),
        ("SELECT o.total, u.name FROM orders o JOIN users u ON u.id = o.user_id WHERE o.id = 3", 1),
        ("SELECT ctid FROM orders WHERE id = 1", 2),
        ("UPDATE orders SET total = 5 WHERE id = 7", 4),
        ("INSERT INTO orders VALUES (1001, 1, 1), (1002, 2, 2)", 1),
        ("DELETE FROM orders WHERE id = 1001", 1),
        ("LOCK TABLE orders", 1),
        ("ALTER TABLE orders ADD COLUMN note text", 1),
        ("DO 'BEGIN DELETE FROM orders WHERE id = 7; END'; SELECT 1", 1),
        ("INSERT INTO orders VALUES (1, 1, 1)", 1),
        ("SELECT name FROM users", 9),
        ("BEGIN; SELECT count(*) FROM users; COMMIT", 2),
    ];
    let (app, direct) = (through(&proxy).await, connect(&twin.conninfo).await);
    let before = installed(&db).await;
    for (text, times) in texts {
        for _ in 0..times {
            let expected = answer(&direct, text).await;
            let got = answer(&app, text).await;
            // Object ids of the tables differ.
            assert_eq!(got, expected, "{text}");
        }
    }
    let now = installed(&db).await;
    let altered = |lines: &[String]| {
        let of = |l: &&String| !l.contains(" orders ") && !l.contains(" users");
        lines.iter().filter(of).cloned().collect::<Vec<_>>()
    };
    assert_eq!(altered(&now), altered(&before));
    assert!(!now.iter().any(|l| l.contains("orders_v2(") || l.contains("sync_")), "{now:?}");

    let report = report_of_calls(&proxy, 18).await;
    let calls = |part: &str| (report[part]["kinds"].as_u64(), report[part]["calls"].as_u64());
    let of = |kinds, calls| (Some(kinds), Some(calls));
    assert_eq!(calls("reads"), of(2, 6));
    assert_eq!(calls("unfit_reads"), of(1, 2));
    assert_eq!(calls("writes"), of(3, 7));
    assert_eq!((calls("other"), calls("ddl")), (of(1, 1), of(1, 1)));
    assert_eq!(calls("not_understood"), of(1, 1));
    assert_eq!((&report["coverage"], &report["kinds"]), (&json!(94.44), &json!(9)));
    assert_eq!((&report["calls_not_kept"], &report["no_reads"]), (&json!(0), &json!(null)));

    let read = line(&report, "select total from orders where id = ?");
    assert_eq!((&read["calls"], &read["class"]), (&json!(5), &json!("read")));
    assert_eq!(read["routes"]["source"], 5);
    assert!(read["p99_ms"].as_f64().unwrap() >= read["p50_ms"].as_f64().unwrap());
    let unfit = line(&report, "select ctid from orders where id = ?");
    assert_eq!(unfit["why"], "a system column");
    let code = line(&report, "do ?");
    let class = (&json!("unclassified"), &json!(false));
    assert_eq!((&code["class"], &code["understood"]), class);
    assert_eq!(code["why"], "code that names a migrated table");
    assert!(code["way_out"].as_str().unwrap().contains("out of DO or CALL"), "{code}");
    let fails = line(&report, "insert into orders values (?, ?, ?)");
    assert_eq!((&fails["calls"], &fails["errors"]), (&json!(2), &json!(1)));
    let ratio = "pgsegue_workload_coverage_ratio{migration=\"orders_v2\"}";
    assert_eq!(proxy.metric(ratio), Some(0.9444));
    let writes = "pgsegue_workload_calls{class=\"write\",migration=\"orders_v2\"}";
    assert_eq!(proxy.metric(writes), Some(7.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_report_is_shown_by_the_command_and_by_http_alike() {
    let db = orders().await;
    db.client.batch_execute(SHADOW).await.unwrap();
    let proxy = Proxy::start(&db, ORDERS_V2).await;
    let app = through(&proxy).await;
    let insert = app.prepare("INSERT INTO orders VALUES ($1, 1, 1)").await.unwrap();
    for id in 2_000..2_020_i32 {
        app.execute(&insert, &[&id]).await.unwrap();
    }
    app.batch_execute("DO 'BEGIN DELETE FROM orders; END'").await.unwrap();
    report_of_calls(&proxy, 21).await;

    let status = ["migration", "status", "orders_v2", "--workload"];
    let shown = said(&proxy.pgsegue(&status));
    for expected in [
        "  phase       observe (not started)\n",
        &format!("workload, as the proxy at 127.0.0.1:{} has seen it", proxy.admin_port),
        ", 21 calls, 2 statements\n",
        "  understood  95.23 % of the calls (20 of 21)\n",
        "  writes      20 calls, 1 kind: mirrored exactly\n",
        "    do ?\n      why      code that names a migrated table\n      way out  ",
        "    insert into orders values ($1, ?, ?)\n",
    ] {
        assert!(shown.contains(expected), "{expected} is not in\n{shown}");
    }
    assert!(shown.lines().all(|line| line.chars().count() <= 100), "{shown}");
    let own = format!("127.0.0.1:{}", proxy.admin_port);
    let twice = ["--admin", &own, "--admin", &own, "--json"];
    let json = said(&proxy.pgsegue(&[&status[..], &twice[..]].concat()));
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        (&json["phase"], json["workload"].as_array().unwrap().len()),
        (&json!("observe"), 2)
    );
    assert_eq!(json["workload"][1]["statements"], report(&proxy)["statements"]);

    let (status, body) = proxy.get("/migrations/nope/workload");
    assert_eq!(status, 404);
    assert!(body.contains("this process observes no migration"), "{body}");
    let nobody = ["migration", "status", "orders_v2", "--workload", "--admin", "127.0.0.1:9"];
    let refused = proxy.pgsegue(&nobody);
    assert_eq!(refused.status.code(), Some(2));
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(error.contains("hint: only a running proxy knows"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_are_observed_though_the_shadow_is_not_there_yet() {
    let db = orders().await;
    let proxy = Proxy::start(&db, ORDERS_V2).await;
    let app = through(&proxy).await;
    let read = app.prepare("SELECT total FROM orders WHERE id = $1").await.unwrap();
    app.query(&read, &[&1_i32]).await.unwrap();
    app.execute("UPDATE orders SET total = 1 WHERE id = 1", &[]).await.unwrap();
    let first = report_of_calls(&proxy, 2).await;
    assert_eq!(first["no_reads"], "the shadow public.orders_v2 does not exist yet");
    assert_eq!((&first["unfit_reads"]["calls"], &first["writes"]["calls"]), (&json!(1), &json!(1)));

    db.client.batch_execute(SHADOW).await.unwrap();
    eventually("the shadow is seen", async || {
        app.query(&read, &[&1_i32]).await.unwrap();
        let report = report(&proxy);
        if report["no_reads"] == json!(null) && report["unfit_reads"]["calls"] == 0 {
            Ok(())
        } else {
            Err(report)
        }
    })
    .await;
    let now = report(&proxy);
    let line = line(&now, "select total from orders where id = $1");
    assert_eq!((&line["class"], &line["calls"]), (&json!("read"), &now["reads"]["calls"]));
    assert_eq!(now["coverage"], 100.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_value_and_no_comment_of_a_client_is_in_the_report() {
    let db = orders().await;
    db.client.batch_execute(SHADOW).await.unwrap();
    let proxy = Proxy::start(&db, ORDERS_V2).await;
    let app = through(&proxy).await;
    let values = [
        "'geheim'",
        "E'geheim\\' geheim'",
        "U&'\\0067eheim'",
        "$$geheim$$",
        "$q$ 'geheim' $q$",
        "'it''s geheim'",
        "/* geheim */ '4711' -- geheim\n",
        "'gehe'\n'im'",
        "(4711)::text",
        "0x4711::text",
    ];
    for value in values {
        for text in [
            format!("SELECT total FROM orders WHERE total::text = {value}"),
            format!("UPDATE orders SET total = 1 WHERE total::text = {value}"),
            format!("SELECT * FROM orders ROWS FROM {value}"),
            format!("DO 'BEGIN PERFORM 1 FROM orders; END' LANGUAGE {value}"),
            format!("TRUNCATE orders, {value}"),
            format!("SELECT total FROM orders WHERE total::text = {value} AND 'geheim"),
        ] {
            answer(&app, &text).await;
        }
    }
    answer(&app, "SET standard_conforming_strings = off").await;
    answer(&app, "SELECT total FROM orders WHERE total::text = 'geheim'").await;
    // Without the numbers, which may look like a value.
    let lines = report(&proxy)["statements"].as_array().unwrap().clone();
    let by_http: Vec<_> =
        lines.iter().map(|line| format!("{}{}", line["text"], line["why"])).collect();
    let by_http = by_http.join("\n");
    let by_command = said(&proxy.pgsegue(&["migration", "status", "orders_v2", "--workload"]));
    let by_command = by_command.split_once("not understood:").unwrap().1.to_owned();
    for shown in [by_http, by_command] {
        assert!(shown.contains("select total from orders where total::text = ?"), "{shown}");
        assert!(shown.contains("standard_conforming_strings is off"), "{shown}");
        for value in ["geheim", "gehe", "4711", "0067"] {
            assert!(!shown.contains(value), "{value} is in\n{shown}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_that_differ_in_signs_and_in_how_many_values_they_have_are_one_kind() {
    let db = orders().await;
    db.client.batch_execute(SHADOW).await.unwrap();
    let proxy = Proxy::start(&db, ORDERS_V2).await;
    let app = through(&proxy).await;
    let signed = |n: i32, bit: i32| if n >> bit & 1 == 1 { -n } else { n };
    for n in 1_000..1_064_i32 {
        let rows = (0..=n % 3)
            .map(|row| format!("({}, {}, {})", n * 10 + row, signed(n, row), signed(n, row + 1)));
        let rows: Vec<String> = rows.collect();
        app.batch_execute(&format!("INSERT INTO orders VALUES {}", rows.join(", "))).await.unwrap();
        let list: Vec<String> = (0..=n % 4).map(|at| signed(n, at).to_string()).collect();
        let read = format!("SELECT total FROM orders WHERE id IN ({})", list.join(","));
        app.batch_execute(&read).await.unwrap();
        let list: Vec<String> = (1..=n % 4 + 1).map(|at| format!("${at}")).collect();
        let read = format!(
            "SELECT id FROM orders WHERE id IN ({}) AND total = ${}",
            list.join(","),
            list.len() + 1
        );
        let read = app.prepare(&read).await.unwrap();
        let values = vec![&n as &(dyn tokio_postgres::types::ToSql + Sync); list.len() + 1];
        app.query(&read, &values).await.unwrap();
    }
    let report = report_of_calls(&proxy, 192).await;
    assert_eq!(report["kinds"], 3, "{report:#}");
    for text in [
        "insert into orders values (?, ?, ?)",
        "select total from orders where id in (?, …)",
        "select id from orders where id in ($1, …) and total = $2",
    ] {
        assert_eq!(line(&report, text)["calls"], 64);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_start_the_report_says_where_each_statement_went() {
    let db = orders().await;
    db.client.batch_execute(SHADOW).await.unwrap();
    let proxy = Proxy::start(&db, ORDERS_V2).await;
    let app = through(&proxy).await;
    let update = app.prepare("UPDATE orders SET total = total + 1 WHERE id = $1").await.unwrap();
    app.execute(&update, &[&1_i32]).await.unwrap();
    said(&proxy.pgsegue(&["migration", "start", "orders_v2"]));
    app.execute(&update, &[&1_i32]).await.unwrap();
    app.batch_execute("DO 'BEGIN UPDATE orders SET total = 0 WHERE id = 2; END'").await.unwrap();
    app.batch_execute("TRUNCATE orders").await.unwrap();
    app.batch_execute("ALTER TABLE orders ADD COLUMN note text").await.unwrap_err();
    let text = "UPDATE orders SET total = 3; SELECT 1 / 0; UPDATE orders SET total = 4";
    app.batch_execute(text).await.unwrap_err();
    let report = report_of_calls(&proxy, 6).await;
    let routes = |text: &str| {
        let routes = line(&report, text)["routes"].clone();
        ["source", "mirrored", "marked", "refused"].map(|route| routes[route].as_u64().unwrap())
    };
    assert_eq!(routes("update orders set total = total + ? where id = $1"), [1, 1, 0, 0]);
    assert_eq!(routes("do ?"), [0, 0, 1, 0]);
    assert_eq!(routes("truncate orders"), [0, 1, 0, 0]);
    assert_eq!(routes("alter table orders add column note text"), [0, 0, 0, 1]);
    // The third statement of the text was not run.
    assert_eq!(routes("update orders set total = ?"), [0, 1, 0, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_among_other_statements_of_one_text_counts_as_one_that_stays() {
    let db = orders().await;
    db.client.batch_execute(SHADOW).await.unwrap();
    let proxy = Proxy::start(&db, ORDERS_V2).await;
    let app = through(&proxy).await;
    let read = "SELECT total FROM orders WHERE id = 7";
    app.batch_execute(&format!("{read}; {read}")).await.unwrap();
    app.batch_execute(&format!("BEGIN; {read}; COMMIT")).await.unwrap();
    app.batch_execute(read).await.unwrap();
    let report = report_of_calls(&proxy, 4).await;
    assert_eq!(report["reads"], json!({ "kinds": 1, "calls": 1 }));
    assert_eq!(report["unfit_reads"], json!({ "kinds": 1, "calls": 3 }));
    let lines = report["statements"].as_array().unwrap();
    let among = lines.iter().find(|line| line["class"] == "unfit_read").unwrap();
    assert_eq!(among["text"], "select total from orders where id = ?");
    assert_eq!(among["why"], "it is one of several statements of one text");
    assert_eq!(among["way_out"], "send it as a text of its own");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_among_other_statements_counts_as_not_understood() {
    let db = orders().await;
    db.client.batch_execute(SHADOW).await.unwrap();
    let proxy = Proxy::start(&db, ORDERS_V2).await;
    let app = through(&proxy).await;
    let sink = app.copy_in::<_, bytes::Bytes>("COPY orders FROM STDIN").await.unwrap();
    let mut sink = Box::pin(sink);
    sink.send(bytes::Bytes::from_static(b"4711\t1\t1\n")).await.unwrap();
    sink.as_mut().finish().await.unwrap();
    // Fails before it asks for data.
    let among = "BEGIN READ ONLY; COPY orders FROM STDIN; COMMIT";
    app.batch_execute(among).await.unwrap_err();
    let report = report_of_calls(&proxy, 2).await;
    assert_eq!(report["writes"], json!({ "kinds": 1, "calls": 1 }));
    assert_eq!(report["not_understood"], json!({ "kinds": 1, "calls": 1 }));
    let lines = report["statements"].as_array().unwrap();
    let line = lines.iter().find(|line| line["class"] == "unclassified").unwrap();
    assert_eq!(line["why"], "COPY FROM among other statements");
    assert_eq!(line["way_out"], "send COPY FROM STDIN as a text of its own");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_rejects_before_it_is_executed_is_no_call() {
    let db = orders().await;
    db.client.batch_execute(SHADOW).await.unwrap();
    let proxy = Proxy::start(&db, ORDERS_V2).await;
    let app = through(&proxy).await;
    app.prepare("SELECT nope FROM orders").await.unwrap_err();
    // The constant is worked out when it is planned, at Bind.
    let read = app.prepare("SELECT total FROM orders WHERE id = $1::text::int").await.unwrap();
    app.query(&read, &[&"no number"]).await.unwrap_err();
    app.query(&read, &[&"1"]).await.unwrap();
    let report = report_of_calls(&proxy, 1).await;
    assert_eq!((&report["kinds"], &report["statements"][0]["errors"]), (&json!(1), &json!(0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_declared_while_it_runs_is_observed_before_any_statement_comes() {
    let db = orders().await;
    let proxy = Proxy::start(&db, "").await;
    let path = "/migrations/orders_v2/workload";
    assert_eq!(proxy.get(path).0, 404);
    proxy.rewrite_config(ORDERS_V2);
    let report = eventually("it is observed", async || match proxy.get(path) {
        (200, body) => Ok(serde_json::from_str::<Value>(&body).unwrap()),
        (_, body) => Err(body),
    })
    .await;
    assert_eq!((&report["calls"], &report["statements"]), (&json!(0), &json!([])));
    assert_eq!(report["no_reads"], "the shadow public.orders_v2 does not exist yet");
    let shown = said(&proxy.pgsegue(&["migration", "status", "orders_v2", "--workload"]));
    assert!(shown.contains("nothing was seen yet"), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_name_and_no_statement_moves_a_terminal_or_forges_a_line() {
    const NAME: &str = "x\u{1b}[2J\u{7}\r\n  understood  forged\u{202e}\u{2028}\u{9b}";
    let db = orders().await;
    let source = format!("\"{NAME}\"");
    let hostile = format!("CREATE TABLE {source} (id int PRIMARY KEY, user_id int, total int)");
    db.client.batch_execute(&format!("{SHADOW}; {hostile}")).await.unwrap();
    let source = format!("source = {}", toml::Value::from(format!("public.{source}")));
    let migration = ORDERS_V2.replace("source = \"public.orders\"", &source);
    let proxy = Proxy::start(&db, &migration).await;
    let app = through(&proxy).await;
    let read = format!("SELECT total AS \"{NAME}\" FROM public.\"{NAME}\" WHERE id = 1");
    app.batch_execute(&read).await.unwrap();
    app.batch_execute(&format!("LOCK TABLE nope, \"{NAME}\"")).await.unwrap_err();
    report_of_calls(&proxy, 2).await;
    let why = NAME.replace('\r', "");
    said(&proxy.pgsegue(&["route", "orders_v2", "--reads", "50", "--why", &why]));
    let commands: [&[&str]; 7] = [
        &["migration", "status", "orders_v2", "--workload"],
        &["migration", "status", "orders_v2"],
        &["migration", "list"],
        &["migration", "events", "orders_v2"],
        &["migration", "status", NAME],
        &["explain", &read],
        &["check"],
    ];
    for command in commands {
        let output = proxy.pgsegue(command);
        for shown in [output.stdout, output.stderr] {
            let shown = String::from_utf8(shown).unwrap();
            let obeyed = |c: char| c != '\n' && (c.is_control() || "\u{202e}\u{2028}".contains(c));
            assert!(!shown.contains(obeyed), "{command:?}\n{shown:?}");
            let forged = |line: &str| line.starts_with("  understood  forged");
            // SQL is printed in its own lines, behind what is said of it.
            let said = shown.split("\n\nSELECT").next().unwrap();
            assert!(!said.lines().any(forged), "{command:?}\n{shown}");
        }
    }
    let json = said(&proxy.pgsegue(&["migration", "status", "orders_v2", "--workload", "--json"]));
    let json: Value = serde_json::from_str(&json).unwrap();
    assert!(json["workload"][0]["statements"].to_string().contains("understood  forged"), "{json}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_reads_the_table_through_a_view_counts_as_a_read_that_stays() {
    let db = orders().await;
    let views = "CREATE VIEW ov AS SELECT * FROM orders; CREATE VIEW uv AS SELECT * FROM users; \
        CREATE VIEW wide AS SELECT o.id FROM ov AS o JOIN uv ON true; \
        CREATE TABLE words (ov text); CREATE TABLE ruled (id int); \
        CREATE RULE also AS ON INSERT TO ruled DO ALSO UPDATE orders SET total = 0 WHERE id = NEW.id";
    db.client.batch_execute(&format!("{SHADOW}; {views}")).await.unwrap();
    let proxy = Proxy::start(&db, ORDERS_V2).await;
    let app = through(&proxy).await;
    for text in [
        "SELECT total FROM ov WHERE id = 1",
        "SELECT w.id FROM users AS u, public.wide AS w LIMIT 1",
        "SELECT ov FROM words",
        "SELECT id, ov FROM words JOIN users ON true",
        "SELECT * FROM uv",
        "SELECT * FROM ruled",
        "DROP VIEW wide",
    ] {
        app.batch_execute(text).await.unwrap();
    }
    let report = report_of_calls(&proxy, 2).await;
    assert_eq!(report["unfit_reads"], json!({ "kinds": 2, "calls": 2 }));
    let line = line(&report, "select total from ov where id = ?");
    assert_eq!(line["why"], "it reads the table through a view");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_vetting_says_of_a_read_is_in_the_report_and_no_value_is() {
    let db = orders().await;
    let indexed = "CREATE INDEX ON orders (user_id); \
        INSERT INTO orders SELECT i, i % 997, i FROM generate_series(101, 20000) AS i; ANALYZE";
    db.client.batch_execute(&format!("{SHADOW}; {indexed}")).await.unwrap();
    let proxy = Proxy::start(&db, &format!("{ORDERS_V2}[migration.routing]\nreads = 100\n")).await;
    let app = through(&proxy).await;
    let (fit, stays, wrong) = (
        "select total from orders where id = ?",
        "select total from orders where user_id = ?",
        "select id from orders where id = ?",
    );
    let ask = async || {
        answer(&app, &fit.replace('?', "4711")).await;
        answer(&app, &stays.replace('?', "4711")).await;
        answer(&app, &wrong.replace('?', "'geheim'")).await;
    };
    let status = ["migration", "status", "orders_v2", "--workload"];
    said(&proxy.pgsegue(&["route", "orders_v2", "--reads", "0", "--dark", "0", "--why", "x"]));
    said(&proxy.pgsegue(&["migration", "start", "orders_v2"]));
    ask().await;
    let before = report_of_calls(&proxy, 3).await;
    assert_eq!(line(&before, fit)["vetting"], "not_yet");
    let none =
        "  vetted      none yet: that begins when it is ready, and `reads` or `dark_reads` above 0";
    let shown = said(&proxy.pgsegue(&status));
    assert!(shown.contains(none), "{shown}");

    said(&proxy.pgsegue(&["route", "orders_v2", "--reads", "100", "--why", "x"]));
    let report = eventually("every read is vetted", async || {
        ask().await;
        let report = report(&proxy);
        let vetted = [fit, stays, wrong].map(|text| line(&report, text)["vetting"].clone());
        if vetted == ["fit", "stays", "stays"] { Ok(report) } else { Err(vetted) }
    })
    .await;
    let kinds = ["reads", "reads_fit", "reads_stay"].map(|part| report[part]["kinds"].clone());
    assert_eq!(kinds, [json!(3), json!(1), json!(2)]);
    let why = line(&report, stays)["why"].as_str().unwrap();
    assert!(why.starts_with("the shadow would be scanned where"), "{why}");
    let refused = "the server refuses the query itself with SQLSTATE 22P02";
    assert_eq!(line(&report, wrong)["why"], refused);
    let shown = said(&proxy.pgsegue(&status));
    for expected in [
        "  vetted      1 kind fit, 2 kinds on the source, 0 not yet\n",
        "reads that were vetted, and stay on the source:\n",
        "; vetted: stays\n    select total from orders where user_id = ?\n      why      the shadow",
        "; vetted: fit\n    select total from orders where id = ?\n",
    ] {
        assert!(shown.contains(expected), "{expected} is not in\n{shown}");
    }
    assert!(shown.lines().all(|line| line.chars().count() <= 100), "{shown}");
    let log = proxy.log();
    assert!(log.contains(refused) && !log.contains("geheim"), "{log}");
    assert!(!shown.contains("geheim"), "{shown}");
}
