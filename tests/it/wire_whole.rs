//! The parts of the protocol that few clients use, through the proxy as without it.

use crate::live::raw::{bind, call, close, describe, execute, flush, frame, parse, query, sync};
use crate::live::{Live, ORDERS, ORDERS_TABLE, Pair, text};
use crate::support::connect;
use std::process::Command;

/// A FunctionCall of this function with one text argument, result as text.
#[tokio::test]
async fn function_calls_and_stray_messages_are_answered_as_without_the_proxy() {
    let live = Live::orders("", "").await;
    let mut pair = Pair::new(&live, ORDERS).await;
    let upper = text(&live.db.client, "SELECT 'upper(text)'::regprocedure::oid").await;
    let upper: u32 = upper.parse().unwrap();
    pair.exchange("call", &call(upper, &["abc"]), 1).await;
    pair.exchange(
        "calls and a query",
        &[call(upper, &["a"]), query("SELECT 1"), call(upper, &["b"])].concat(),
        3,
    )
    .await;
    pair.exchange("no such function", &call(1, &["a"]), 1).await;
    let skipped = [parse("", "SELECT nowhere", &[]), call(upper, &["skipped"]), sync()].concat();
    pair.exchange("a call behind an error", &skipped, 1).await;
    let stray =
        [frame(b'd', b"x"), frame(b'c', b""), frame(b'f', b"x\0"), query("SELECT 1")].concat();
    pair.exchange("stray COPY messages", &stray, 1).await;
    let flushed = [
        parse("f", "SELECT 1", &[]),
        flush(),
        flush(),
        describe(b'S', "f"),
        flush(),
        close(b'S', "f"),
        sync(),
    ];
    pair.exchange("flushes", &flushed.concat(), 1).await;
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

#[tokio::test]
async fn portals_with_row_limits_go_on_where_they_stopped() {
    let live = Live::orders("", "reads = 100").await;
    let mut pair = Pair::new(&live, ORDERS).await;
    let client = live.client().await;
    live.until_shadow_serves(&client, "SELECT id, total FROM orders WHERE id > 2").await;
    for sql in [
        "SELECT id, total FROM orders WHERE id > 2",
        "UPDATE orders SET total = total + 1 WHERE id > 2 RETURNING id, total",
        "DELETE FROM orders WHERE id > 8 RETURNING *",
        "SELECT id FROM other ORDER BY id",
    ] {
        for closes in [true, false] {
            let mut frames =
                [parse("", sql, &[]), bind("p", "", 0, &[], 0), describe(b'P', "p")].concat();
            for rows in [1, 2, 0, 3] {
                frames.extend(execute("p", rows));
            }
            if closes {
                frames.extend(close(b'P', "p"));
            }
            frames.extend(sync());
            pair.simple("BEGIN").await;
            pair.exchange(&format!("portal: {sql}"), &frames, 1).await;
            pair.simple("ROLLBACK").await;
        }
        // Suspended over Syncs, within a transaction; what is left of it is dropped.
        pair.simple("BEGIN").await;
        pair.exchange("open", &[parse("", sql, &[]), bind("q", "", 0, &[], 0), sync()].concat(), 1)
            .await;
        for rows in [1, 1] {
            pair.exchange("fetch", &[execute("q", rows), sync()].concat(), 1).await;
        }
        pair.simple("COMMIT").await;
    }
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

#[tokio::test]
async fn a_pipeline_of_ten_thousand_with_an_error_in_its_middle_stays_in_step() {
    let live = Live::orders("", "").await;
    let mut pair = Pair::new(&live, ORDERS).await;
    pair.exchange(
        "prepare",
        &[parse("u", "UPDATE other SET note = $1 WHERE id = 1", &[]), sync()].concat(),
        1,
    )
    .await;
    for syncs in [1, 100, 10_000] {
        let mut frames = Vec::new();
        for i in 0..10_000 {
            let value = i.to_string();
            let sql = if i == 5_000 { "SELECT 1 / 0" } else { "SELECT 1" };
            match i % 3 {
                0 => frames.extend(bind("", "u", 0, &[Some(value.as_bytes())], 0)),
                _ if i % 500 == 1 => {
                    let write = "UPDATE orders SET total = total + 1 WHERE id = 1 RETURNING total";
                    frames.extend([parse("", write, &[]), bind("", "", 0, &[], 0)].concat());
                }
                _ => frames.extend([parse("", sql, &[]), bind("", "", 0, &[], 0)].concat()),
            }
            frames.extend(execute("", 0));
            if (i + 1) % (10_000 / syncs) == 0 {
                frames.extend(sync());
            }
        }
        for raw in [&mut pair.live, &mut pair.plain] {
            raw.run("SELECT 1").await;
        }
        pair.pipeline(&format!("{syncs} syncs"), &frames, syncs).await;
    }
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replication_connections_pass() {
    let live = Live::orders("", "").await;
    let bin = std::env::var("PG_BIN").ok().or_else(|| {
        let newest =
            std::fs::read_dir("/usr/lib/postgresql").ok()?.flatten().map(|e| e.path()).max()?;
        Some(newest.join("bin").display().to_string())
    });
    let tool = |name: &str| match &bin {
        Some(folder) => Command::new(format!("{folder}/{name}")),
        None => Command::new(name),
    };
    let conninfo = |kind: &str| format!("{} replication={kind}", live.proxy.conninfo());
    for kind in ["true", "database"] {
        let output =
            tool("psql").args([&conninfo(kind), "-Atc", "IDENTIFY_SYSTEM"]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("base");
    let output = tool("pg_basebackup")
        .args(["-d", &live.proxy.conninfo(), "-X", "stream", "-c", "fast", "-D"])
        .arg(&target)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(target.join("PG_VERSION").exists() && target.join("base").exists());
}

#[tokio::test]
async fn texts_in_other_encodings_and_string_syntaxes_are_not_misread() {
    let live = Live::orders("", "").await;
    let mut pair = Pair::new(&live, ORDERS).await;
    // 0x5c is the second byte of a SJIS character: no backslash, and no end of a string behind it.
    let sjis =
        [b"UPDATE orders SET note = '\x95\x5c' WHERE id = 1 RETURNING note\0".as_slice()].concat();
    let latin = b"UPDATE orders SET note = '\xe9t\xe9' WHERE id = 2 RETURNING note\0".to_vec();
    for (encoding, body) in [("SJIS", sjis), ("LATIN1", latin)] {
        pair.simple(&format!("SET client_encoding = '{encoding}'")).await;
        pair.exchange(encoding, &frame(b'Q', &body), 1).await;
        pair.simple("RESET client_encoding").await;
    }
    pair.simple("SET standard_conforming_strings = off; SET escape_string_warning = off").await;
    for sql in [
        r"UPDATE other SET note = '\' UPDATE orders SET total = 0; --' WHERE id = 1",
        r"UPDATE orders SET note = '\'' WHERE id = 3; UPDATE orders SET note = 'b' WHERE id = 4 --'",
        r"INSERT INTO orders VALUES (50, 1, 1, '\'); DELETE FROM orders; --')",
    ] {
        pair.simple(sql).await;
    }
    pair.simple("RESET standard_conforming_strings").await;
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

#[tokio::test]
async fn what_the_server_says_on_its_own_arrives_between_frames_that_are_held() {
    let live = Live::orders("", "").await;
    let mut raw = live.raw().await;
    let other = connect(&live.db.conninfo).await;
    raw.run("LISTEN a").await;
    for turn in 0..20 {
        // The first statement of a session asks for facts, an unseen one is marked.
        let sql = match turn % 2 {
            0 => format!("SET search_path = public; UPDATE orders SET total = {turn} WHERE id = 1"),
            _ => format!("DO $$ BEGIN RAISE NOTICE 'n{turn}'; UPDATE orders SET total = 1; END $$"),
        };
        other
            .batch_execute(&format!("NOTIFY a, 'p{turn}'; SET application_name = 'x{turn}'"))
            .await
            .unwrap();
        raw.run(&format!("SET application_name = 'y{turn}'")).await;
        let said = raw.query(&sql).await;
        assert!(
            said.last().unwrap() == "Z I" && !said.iter().any(|m| m.starts_with("E ")),
            "{said:?}"
        );
        assert_eq!(
            said.iter().any(|m| m.contains(&format!("Mn{turn}"))),
            turn % 2 == 1,
            "{said:?}"
        );
    }
    live.orders_in_step().await;
}
