//! A migration as an operator takes it through: the CLI, the HTTP API and the process together.

use crate::support::{ORDERS_V2, Proxy, TestDb, assert_same, database, database_on, eventually};
use pgsegue::throwaway::{Options, Postgres};
use serde_json::{Value, json};
use std::process::Output;

const LEVERS: &str = "[migration.routing]\nreads = 50\ndark_reads = 5\n";

fn migration() -> String {
    format!("{ORDERS_V2}{LEVERS}")
}

const TABLES: &str = "
    CREATE TABLE orders (id int PRIMARY KEY, user_id int NOT NULL, total int);
    CREATE TABLE orders_v2 (id int PRIMARY KEY, customer_id int NOT NULL, total_minor bigint);
    INSERT INTO orders SELECT i, i % 7, i * 3 FROM generate_series(1, 5000) AS i;";

async fn orders() -> TestDb {
    let db = database().await;
    db.client.batch_execute(TABLES).await.unwrap();
    db
}

/// The shadow holds what the source holds, through the mapping.
async fn assert_mapped(db: &TestDb) {
    let mapped = "SELECT id, user_id, total::bigint * 100 FROM orders ORDER BY id";
    let shadow = "SELECT id, customer_id, total_minor FROM orders_v2 ORDER BY id";
    assert_same(&db.client, mapped, shadow).await;
}

/// Standard output of a command that ends with code 0.
fn said(output: &Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{error}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Exit code and standard error of a command that prints nothing else.
fn refused(output: &Output) -> (Option<i32>, String) {
    assert_eq!(String::from_utf8_lossy(&output.stdout), "");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_checks_starts_and_sees_the_status_everywhere() {
    let db = orders().await;
    let proxy = Proxy::start(&db, &migration()).await;
    let checked = said(&proxy.pgsegue(&["check"]));
    assert!(checked.starts_with("orders_v2: "), "{checked}");
    let started = said(&proxy.pgsegue(&["migration", "start", "orders_v2"]));
    assert_eq!(started, "orders_v2: ready; every row is verified\n");
    assert_mapped(&db).await;

    let status: Value = serde_json::from_str(&said(&proxy.pgsegue(&[
        "migration",
        "status",
        "orders_v2",
        "--json",
    ])))
    .unwrap();
    let (code, body) = proxy.get("/migrations/orders_v2/status");
    let by_http: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        (code, &by_http["phase"], &status["phase"]),
        (200, &json!("ready"), &json!("ready"))
    );
    for field in ["source", "shadow", "reads", "dual_write", "verify_passes"] {
        assert_eq!(by_http[field], status[field], "{field}");
    }
    let shown = said(&proxy.pgsegue(&["migration", "status", "orders_v2"]));
    for line in
        ["  phase       ready\n", "  dual write  on\n", "  reads       50 % from the shadow\n"]
    {
        assert!(shown.contains(line), "{shown}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn levers_are_changed_within_what_the_file_allows_and_every_change_is_on_record() {
    let db = orders().await;
    let proxy = Proxy::start(&db, &migration()).await;
    said(&proxy.pgsegue(&["migration", "start", "orders_v2"]));
    let route = ["route", "orders_v2", "--reads", "20", "--why", "CHG-1"];
    let levers = "orders_v2: reads 20 %, dark reads 5 %, dual write on\n";
    assert_eq!(said(&proxy.pgsegue(&route)), levers);
    let route = ["route", "orders_v2", "--reads", "80", "--why", "CHG-2"];
    let output = proxy.pgsegue(&route);
    assert_eq!(said(&output), "orders_v2: reads 50 %, dark reads 5 %, dual write on\n");
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "hint: reads is 80 % here and 50 % in the config file: the lower counts; raise it there\n"
    );
    let rollback = ["migration", "rollback", "orders_v2", "--why", "p99"];
    let levers = "orders_v2: reads 0 %, dark reads 0 %, dual write on\n";
    assert_eq!(said(&proxy.pgsegue(&rollback)), levers);
    assert_eq!(
        said(&proxy.pgsegue(&["migration", "list"])),
        "NAME       SOURCE         SHADOW            PHASE  READS  DIRTY KEYS\n\
         orders_v2  public.orders  public.orders_v2  ready  0 %    0\n"
    );
    let (code, by_http) = proxy.get("/migrations/orders_v2/events");
    let events = said(&proxy.pgsegue(&["migration", "events", "orders_v2", "--json"]));
    let events: Vec<Value> = serde_json::from_str(&events).unwrap();
    assert_eq!((code, serde_json::from_str(&by_http).unwrap()), (200, json!(events)));
    let levers: Vec<[&str; 5]> = events
        .iter()
        .map(|event| ["what", "from", "to", "who", "why"].map(|f| event[f].as_str().unwrap()))
        .filter(|[what, ..]| *what != "phase")
        .collect();
    let (route, rollback) = ("tester via pgsegue route", "tester via pgsegue migration rollback");
    assert_eq!(
        levers,
        [
            ["reads", "100 %", "20 %", route, "CHG-1"],
            ["reads", "20 %", "80 %", route, "CHG-2"],
            ["reads", "80 %", "0 %", rollback, "p99"],
            ["dark_reads", "100 %", "0 %", rollback, "p99"],
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_that_nobody_knows_is_named_with_those_that_are() {
    let db = orders().await;
    let proxy = Proxy::start(&db, &migration()).await;
    for command in ["status", "start", "pause", "resume", "verify", "repair", "events"] {
        let output = proxy.pgsegue(&["migration", command, "nope"]);
        let expected = "error: there is no migration \"nope\"\nhint: there are: orders_v2\n";
        assert_eq!(refused(&output), (Some(2), expected.to_owned()), "{command}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_was_killed_goes_on_where_it_was() {
    let db = orders().await;
    let mut proxy = Proxy::start(&db, &migration()).await;
    said(&proxy.pgsegue(&["migration", "start", "orders_v2", "--no-wait"]));
    proxy.kill_9();
    proxy.start_again().await;
    let started = said(&proxy.pgsegue(&["migration", "start", "orders_v2"]));
    assert_eq!(started, "orders_v2: ready; every row is verified\n");
    assert_mapped(&db).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_declaration_of_a_started_migration_is_rejected_and_levers_go_on() {
    let db = orders().await;
    let proxy = Proxy::start(&db, &migration()).await;
    said(&proxy.pgsegue(&["migration", "start", "orders_v2"]));
    proxy.rewrite_config(&migration().replace("* 100\"", "* 1000\""));
    eventually("the change is rejected", async || match proxy.metric("pgsegue_config_rejected") {
        Some(1.0) => Ok(()),
        other => Err(other),
    })
    .await;
    let log = proxy.log();
    let rejected = "config file rejected, nothing changed: the engine refuses it: migration \
                    orders_v2 has been started";
    assert!(log.contains(rejected), "{log}");
    proxy.rewrite_config(&migration().replace("reads = 50", "reads = 30"));
    eventually("the lever is applied", async || {
        let (_, body) = proxy.get("/migrations/orders_v2/status");
        match serde_json::from_str::<Value>(&body).unwrap()["reads"].as_f64() {
            Some(30.0) => Ok(()),
            other => Err(other),
        }
    })
    .await;
    assert_eq!(proxy.metric("pgsegue_config_rejected"), Some(0.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_down_is_waited_for() {
    let server = Postgres::start(&Options::default()).unwrap();
    let db = database_on(&server).await;
    let mut proxy = Proxy::prepare(&db, "");
    server.stop_immediate().unwrap();
    proxy.spawn();
    eventually("it says what it waits for", async || {
        let log = proxy.log();
        if log.contains("waiting for the database") { Ok(()) } else { Err(log) }
    })
    .await;
    assert_eq!(proxy.get("/healthz").0, 200);
    assert_eq!(proxy.get("/readyz"), (503, "not ready\n".to_owned()));
    server.start_again().unwrap();
    eventually("it is ready", async || match proxy.get("/readyz") {
        (200, _) => Ok(()),
        other => Err(other),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lever_that_the_file_holds_down_is_named_and_so_is_a_phase_that_does() {
    let db = orders().await;
    let file = format!("{ORDERS_V2}[migration.routing]\ndual_write = true\nreads = 100\n");
    let proxy = Proxy::start(&db, &file).await;
    let hints = |arguments: &[&str]| {
        let output = proxy.pgsegue(&[&["route", "orders_v2", "--why", "x"], arguments].concat());
        said(&output);
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let early = "hint: the levers count once the migration is ready: orders_v2 is in phase observe; \
                 see `pgsegue migration status orders_v2`\n";
    assert_eq!(hints(&["--reads", "10"]), early);
    let output = proxy.pgsegue(&["migration", "start", "orders_v2"]);
    assert_eq!(said(&output), "orders_v2: ready; every row is verified\n");
    let next = "next: dark_reads = 5 in [migration.routing] of the config file, then reads = 1, 10, \
                50, 100\n";
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.ends_with(next) && !error.contains("are at 0"), "{error}");
    let dark = "hint: dark_reads is 5 % here and 0 % in the config file: the lower counts; raise it \
                there\n";
    assert_eq!(hints(&["--dark", "5"]), dark);
    assert_eq!(hints(&["--reads", "10"]), "");
    assert_eq!(hints(&["--reads", "0", "--dark", "0"]), "");
    proxy.rewrite_config(&file.replace("dual_write = true", "dual_write = false"));
    eventually("the file is read", async || {
        let (_, body) = proxy.get("/migrations/orders_v2/status");
        if body.contains("\"dual_write\":false") { Ok(()) } else { Err(body) }
    })
    .await;
    let off = "hint: dual_write is off in the config file: turn it on there\n";
    assert_eq!(hints(&["--dual-write", "on"]), off);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_abort_without_a_proxy_says_what_stays_and_the_next_proxy_drops_it() {
    let db = orders().await;
    let mut proxy = Proxy::start(&db, &migration()).await;
    said(&proxy.pgsegue(&["migration", "start", "orders_v2"]));
    proxy.kill_9();
    let functions = "SELECT count(*) FROM pg_proc p JOIN pg_namespace n ON n.oid = pronamespace \
        WHERE nspname = 'pgsegue' AND proname LIKE '%orders_v2'";
    let left = async || db.client.query_one(functions, &[]).await.unwrap().get::<_, i64>(0);
    let abort = ["migration", "abort", "orders_v2", "--why", "over"];
    let output = eventually("nobody leads any more", async || {
        let output = proxy.pgsegue(&abort);
        let shown = said(&output);
        if shown.contains("will be") { Err(shown) } else { Ok(output) }
    })
    .await;
    assert_eq!(said(&output), "orders_v2: aborted; the shadow table stays\n");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    let (hint, sql) = error.split_once('\n').unwrap();
    assert!(hint.contains("the next one does whose config file declares orders_v2"), "{error}");
    assert!(left().await > 0);
    db.client.batch_execute(&format!("BEGIN; {sql}")).await.unwrap();
    assert_eq!(left().await, 0, "{sql}");
    db.client.batch_execute("ROLLBACK").await.unwrap();

    proxy.start_again().await;
    eventually("the functions are gone", async || match left().await {
        0 => Ok(()),
        more => Err(more),
    })
    .await;
    let again = proxy.pgsegue(&abort);
    assert_eq!(said(&again), "orders_v2: aborted; the shadow table stays\n");
    assert_eq!(String::from_utf8_lossy(&again.stderr), "");
    let started = said(&proxy.pgsegue(&["migration", "start", "orders_v2"]));
    assert_eq!(started, "orders_v2: ready; every row is verified\n");
    assert_mapped(&db).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_are_shown_with_the_quotes_that_sql_needs() {
    let db = orders().await;
    db.client.batch_execute("ALTER TABLE orders RENAME TO \"Or.d\"\"ers\"").await.unwrap();
    let source = "source = 'public.\"Or.d\"\"ers\"'";
    let proxy = Proxy::start(&db, &ORDERS_V2.replace("source = \"public.orders\"", source)).await;
    let listed = said(&proxy.pgsegue(&["migration", "list"]));
    let shown = said(&proxy.pgsegue(&["migration", "status", "orders_v2"]));
    assert!(listed.contains("public.\"Or.d\"\"ers\"  public.orders_v2"), "{listed}");
    assert!(shown.contains("public.\"Or.d\"\"ers\" → public.orders_v2\n"), "{shown}");
}
