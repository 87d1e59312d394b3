//! `pgsegue check` as an operator runs it: text, JSON, exit codes.

use crate::live::{Live, ORDERS, ORDERS_V2, orders_toml};
use crate::support::{Proxy, database};
use pgsegue::throwaway::{Auth, Options, Postgres};
use serde_json::{Value, json};
use std::process::Output;

/// Exit code, standard output and standard error.
fn ran(proxy: &Proxy, arguments: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = proxy.pgsegue(arguments);
    (
        status.code(),
        String::from_utf8_lossy(&stdout).into_owned(),
        String::from_utf8_lossy(&stderr).into_owned(),
    )
}

#[tokio::test]
async fn a_clean_pair_of_tables_is_said_to_be_clean() {
    let db = database().await;
    db.client.batch_execute(&format!("{ORDERS};{ORDERS_V2}")).await.unwrap();
    let proxy = Proxy::prepare(&db, &orders_toml("", ""));
    let text = "orders_v2: public.orders to public.orders_v2\n\norders_v2: nothing is in the way\n";
    for arguments in [["check"].as_slice(), &["check", "orders_v2"], &["check", "--full"]] {
        assert_eq!(ran(&proxy, arguments), (Some(0), text.to_owned(), String::new()));
    }
    let (code, out, _) = ran(&proxy, &["check", "--json"]);
    let expected = json!([{
        "migration": "orders_v2", "source": "public.orders", "shadow": "public.orders_v2",
        "verdict": "clear", "blockers": 0, "warnings": 0, "infos": 0, "findings": [],
    }]);
    assert_eq!((code, serde_json::from_str::<Value>(&out).unwrap()), (Some(0), expected));
}

#[tokio::test]
async fn findings_are_grouped_by_severity_with_the_remedy_to_copy() {
    let db = database().await;
    db.client.batch_execute(&format!("{ORDERS};{ORDERS_V2}")).await.unwrap();
    let proxy = Proxy::prepare(&db, &orders_toml("", ""));
    // A warning alone is no reason to fail.
    db.client.batch_execute("CREATE TABLE items (o bigint REFERENCES orders_v2)").await.unwrap();
    let (code, out, error) = ran(&proxy, &["check"]);
    assert_eq!((code, error.as_str()), (Some(0), ""));
    assert!(out.ends_with("\n\norders_v2: can be started: 1 warning, 0 to know\n"), "{out}");
    db.client
        .batch_execute(
            "CREATE VIEW \"o\u{1b}[2Jv\" AS TABLE orders; ALTER TABLE orders_v2 ADD x int NOT NULL",
        )
        .await
        .unwrap();
    let (code, out, _) = ran(&proxy, &["check"]);
    assert_eq!(code, Some(1));
    let end = "\n\norders_v2: cannot be started: 2 blockers, 1 warning, 1 to know\n";
    assert!(out.ends_with(end), "{out}");
    let heads: Vec<&str> = out.lines().filter(|l| !l.is_empty() && !l.starts_with(' ')).collect();
    assert_eq!(
        heads[1..4],
        ["BLOCKERS: the migration is not started", "Warnings: it works, less well", "To know"]
    );
    for part in [
        "\n  column public.orders_v2.x\n    the shadow column x is NOT NULL, not mapped, without default\n    why: ",
        "\n    sql: ALTER TABLE \"public\".\"orders_v2\" ALTER COLUMN \"x\" DROP NOT NULL;\n",
        "\n  view public.\"o\\u{1b}[2Jv\"\n",
        "\n    or accept it: the line is at the end\n",
        "\n    config: accepted = [\"view public.\\\"o\\u001B[2Jv\\\"\"]\n",
    ] {
        assert!(out.contains(part), "{part}\n{out}");
    }
    assert!(!out.contains('\u{1b}'), "{out}");
    let long: Vec<&str> = out
        .lines()
        .filter(|line| {
            line.chars().count() > 100 && !line.contains("sql: ") && !line.contains("config: ")
        })
        .collect();
    assert!(long.is_empty(), "{long:?}");
}

#[tokio::test]
async fn one_line_accepts_all_that_may_be_accepted() {
    let db = database().await;
    db.client.batch_execute(&format!("{ORDERS};{ORDERS_V2}")).await.unwrap();
    let views = "CREATE VIEW one AS TABLE orders; CREATE VIEW \"t w\" AS TABLE orders; \
                 CREATE VIEW three AS TABLE orders";
    db.client.batch_execute(views).await.unwrap();
    // What is accepted already stays in the line that takes the place of the old one.
    let proxy = Proxy::prepare(&db, &orders_toml("accepted = [\"view public.three\"]", ""));
    let (code, out, _) = ran(&proxy, &["check"]);
    assert_eq!(code, Some(1));
    let lines: Vec<&str> = out.lines().filter_map(|l| l.strip_prefix("    config: ")).collect();
    let expected = "accepted = ['view public.\"t w\"', \"view public.one\", \"view public.three\"]";
    assert_eq!(lines, [expected], "{out}");
    proxy.rewrite_config(&orders_toml(lines[0], ""));
    let (code, out, _) = ran(&proxy, &["check"]);
    assert!(code == Some(0) && !out.contains("config: "), "{out}");
}

#[tokio::test]
async fn a_migration_that_is_started_is_not_said_not_to_be() {
    let live = Live::orders("", "").await;
    let client = live.direct().await;
    client.batch_execute("CREATE TABLE items (o bigint REFERENCES orders_v2)").await.unwrap();
    // A definition that has changed is followed within a second, beside this: whatever the phase.
    let checked = || {
        let (code, out, _) = ran(&live.proxy, &["check"]);
        let (before, rest) = out.rsplit_once(" (").expect(&out);
        let (phase, after) = rest.split_once(')').expect(&out);
        assert!(["ready", "repair", "verify"].contains(&phase), "{out}");
        (code, format!("{before}{after}"))
    };
    let (code, out) = checked();
    assert_eq!(code, Some(0));
    assert!(out.ends_with("\norders_v2: is started: 1 warning, 0 to know\n"), "{out}");
    client.batch_execute("CREATE VIEW ov AS TABLE orders").await.unwrap();
    let (code, out) = checked();
    assert_eq!(code, Some(1));
    let title = "\nBLOCKERS: the migration is started, and would not be once more\n";
    assert!(out.contains(title) && !out.contains("not started"), "{out}");
    let end =
        "\norders_v2: is started, and would not be once more: 1 blocker, 1 warning, 1 to know\n";
    assert!(out.ends_with(end), "{out}");
}

#[tokio::test]
async fn the_reason_of_a_block_is_in_the_status_and_not_in_the_list() {
    let ddl = format!("{ORDERS};{ORDERS_V2};CREATE VIEW ov AS TABLE orders");
    let live = Live::declared(&ddl, &orders_toml("", "")).await;
    live.start("orders_v2");
    live.until_phase("orders_v2", "blocked").await;
    let (_, out, _) = ran(&live.proxy, &["migration", "list"]);
    let list = "NAME       SOURCE         SHADOW            PHASE    READS  DIRTY KEYS\n\
                orders_v2  public.orders  public.orders_v2  blocked  0 %    0\n";
    assert_eq!(out, list);
    let (_, out, _) = ran(&live.proxy, &["migration", "status", "orders_v2"]);
    assert!(out.contains("blocked: view public.ov: "), "{out}");
    // It is not started yet.
    let (_, out, _) = ran(&live.proxy, &["check"]);
    assert!(out.contains("\nBLOCKERS: the migration is not started\n"), "{out}");
}

#[tokio::test]
async fn the_fields_of_json_are_these() {
    let db = database().await;
    db.client.batch_execute(&format!("{ORDERS};{ORDERS_V2}")).await.unwrap();
    db.client
        .batch_execute("ALTER TABLE orders_v2 ADD x int NOT NULL; CREATE VIEW ov AS TABLE orders")
        .await
        .unwrap();
    let keys = "accepted = [\"view public.ov\"]";
    let proxy = Proxy::prepare(&db, &orders_toml(keys, ""));
    let (code, out, _) = ran(&proxy, &["check", "--json"]);
    let said: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(code, Some(1));
    let expected = json!({
        "id": "column public.orders_v2.x",
        "kind": "column",
        "object": "public.orders_v2.x",
        "severity": "blocker",
        "accepted": false,
        "message": "the shadow column x is NOT NULL, not mapped, without default",
        "why": "A mirrored write cannot fill the column, so every key would stay dirty.",
        "remedy": "map it in [migration.columns], give it a default, or let it be null",
        "sql": ["ALTER TABLE \"public\".\"orders_v2\" ALTER COLUMN \"x\" DROP NOT NULL"],
        "config": null,
    });
    assert_eq!(said[0]["findings"][0], expected);
    let view = &said[0]["findings"][1];
    assert_eq!(
        (&view["id"], &view["severity"], &view["accepted"], &view["config"]),
        (
            &json!("view public.ov"),
            &json!("info"),
            &json!(true),
            &json!("accepted = [\"view public.ov\"]")
        )
    );
    assert_eq!((&said[0]["verdict"], &said[0]["blockers"]), (&json!("blocked"), &json!(1)));
}

#[tokio::test]
async fn what_cannot_be_checked_is_exit_code_2_with_the_cause() {
    let db = database().await;
    db.client.batch_execute(&format!("{ORDERS};{ORDERS_V2}")).await.unwrap();
    let proxy = Proxy::prepare(&db, &orders_toml("", ""));
    let (code, out, error) = ran(&proxy, &["check", "other"]);
    assert_eq!((code, out.as_str()), (Some(2), ""));
    assert!(
        error.starts_with("error: the config file declares no migration \"other\"\n"),
        "{error}"
    );
    proxy.rewrite_config(&format!(
        "control.url = \"postgres://postgres@127.0.0.1:{}/nowhere\"\n{}",
        db.port,
        orders_toml("", "")
    ));
    let (code, out, error) = ran(&proxy, &["check"]);
    assert_eq!((code, out.as_str()), (Some(2), ""));
    assert!(error.contains("database \"nowhere\" does not exist"), "{error}");
    proxy.rewrite_config(&orders_toml("lock_budget_ms = 0", ""));
    let (code, out, error) = ran(&proxy, &["check", "--json"]);
    assert_eq!((code, out.as_str()), (Some(2), ""));
    assert!(error.starts_with("error: "), "{error}");
}

#[tokio::test]
async fn a_password_is_neither_shown_nor_taken_for_the_host_and_said_to_be_missing() {
    let server = throwaway_with_password("Top:Sec@ret#x");
    let db = crate::support::database_on(&server).await;
    db.client.batch_execute(&format!("{ORDERS};{ORDERS_V2}")).await.unwrap();
    let proxy = Proxy::prepare(&db, "");
    let with = |url: &str| format!("control.url = \"{url}\"\n{}", orders_toml("", ""));
    let place = format!("127.0.0.1:{}/{}", db.port, db.name);
    proxy.rewrite_config(&with(&format!("postgres://postgres:Top:Sec@ret#x@{place}")));
    let (code, out, error) = ran(&proxy, &["check"]);
    assert_eq!((code, out.as_str()), (Some(2), ""));
    assert!(
        error.contains("the url has more than one @\nhint: write an @ of the password"),
        "{error}"
    );
    for part in ["Top", "Sec", "ret#x"] {
        assert!(!error.contains(part), "{error}");
    }
    proxy.rewrite_config(&with(&format!("postgres://postgres:Top%3ASec%40ret%23x@{place}")));
    assert_eq!(ran(&proxy, &["check"]).0, Some(0));
    proxy.rewrite_config(&with(&format!("postgres://postgres@{place}")));
    let (code, _, error) = ran(&proxy, &["check"]);
    assert_eq!(code, Some(2));
    let hint = "password missing\nhint: set PGPASSWORD, or password_file in [control] of the config file\n";
    assert!(error.ends_with(hint), "{error}");
}

fn throwaway_with_password(password: &str) -> Postgres {
    let auth = Auth::Scram { password: password.to_owned() };
    Postgres::start(&Options { auth, ..Options::default() }).unwrap()
}

#[tokio::test]
async fn a_server_that_is_not_that_of_control_is_said() {
    let db = database().await;
    db.client.batch_execute(&format!("{ORDERS};{ORDERS_V2}")).await.unwrap();
    let proxy = Proxy::prepare(&db, &orders_toml("", ""));
    let other = Postgres::start(&Options::default()).unwrap();
    let other = crate::support::database_on(&other).await;
    let to = |port: u16| format!("server.address = \"127.0.0.1:{port}\"\n{}", orders_toml("", ""));
    proxy.rewrite_config(&to(other.port));
    let warns = |text: &str| {
        let (code, out, _) = ran(&proxy, &["check"]);
        assert!(code == Some(0) && out.contains(text), "{out}");
    };
    warns("has no database of the name in [control]\n");
    other.client.batch_execute(&format!("CREATE DATABASE {}", db.name)).await.unwrap();
    warns("is another server than that of [control]\n");
    proxy.rewrite_config(&to(proxy.port));
    warns("cannot be reached: error connecting");
}

#[tokio::test]
async fn every_declared_migration_is_checked() {
    let db = database().await;
    let more = "CREATE TABLE other_v2 (id int PRIMARY KEY)";
    db.client.batch_execute(&format!("{ORDERS};{ORDERS_V2};{more}")).await.unwrap();
    let second = "[[migration]]\nname = \"other_v2\"\nsource = \"public.other\"\n\
                  shadow = \"public.other_v2\"\nkey = [\"id\"]\n[migration.columns]\nid = \"id\"\n";
    let proxy = Proxy::prepare(&db, &format!("{}\n{second}", orders_toml("", "")));
    let (code, out, _) = ran(&proxy, &["check", "--json"]);
    let said: Value = serde_json::from_str(&out).unwrap();
    let seen: Vec<(&str, u64)> = said
        .as_array()
        .unwrap()
        .iter()
        .map(|m| (m["migration"].as_str().unwrap(), m["warnings"].as_u64().unwrap()))
        .collect();
    assert_eq!((code, seen), (Some(0), vec![("orders_v2", 0), ("other_v2", 2)]), "{out}");
}
