//! Cancel requests that meet the proxy at work: a mark, a question for facts, a form it prepares, a
//! read on the shadow. The client's statement fails as if nothing but itself had been cancelled,
//! and no later statement does.

use crate::live::raw::{bind, describe, execute, parse, query, sync};
use crate::live::{Live, ORDERS, ORDERS_V2, Raw, orders_toml, text};
use crate::support::{Proxy, connect, database, eventually, server};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const CANCEL: u32 = 80_877_102;

fn request(key: &[u8]) -> Vec<u8> {
    let length = u32::try_from(key.len() + 8).unwrap();
    [&length.to_be_bytes(), &CANCEL.to_be_bytes(), key].concat()
}

async fn cancel(port: u16, key: (u32, u32)) {
    let key = [key.0.to_be_bytes(), key.1.to_be_bytes()].concat();
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.write_all(&request(&key)).await.unwrap();
    let mut end = Vec::new();
    stream.read_to_end(&mut end).await.unwrap();
    assert_eq!(end, b"");
}

/// One statement by the extended protocol.
fn extended(sql: &str) -> Vec<u8> {
    [parse("", sql, &[]), bind("", "", 0, &[], 0), describe(b'P', ""), execute("", 0), sync()]
        .concat()
}

/// Sends frames that get stuck, cancels, and asserts that they fail with nothing but that.
async fn stuck_and_cancelled(live: &Live, raw: &mut Raw, frames: &[u8], waits_with: &str) {
    raw.send(frames).await;
    // From another database: its catalog is not locked.
    let elsewhere = connect(&server().conninfo("postgres")).await;
    let waiting = format!(
        "SELECT query FROM pg_stat_activity WHERE datname = '{}' AND wait_event_type = 'Lock'",
        live.db.name
    );
    eventually(&format!("a backend waits with {waits_with}"), async || {
        let seen = text(&elsewhere, &waiting).await;
        if seen.contains(waits_with) { Ok(()) } else { Err(seen) }
    })
    .await;
    cancel(live.proxy.port, raw.key).await;
    let messages = raw.until_ready(1).await;
    let errors: Vec<_> = messages.iter().filter(|m| m.tag == b'E').map(|m| raw.show(m)).collect();
    assert_eq!(errors.len(), 1, "{:?}", raw.shown(&messages));
    assert!(errors[0].contains("C57014"), "{errors:?}");
    let said: Vec<u8> = messages.iter().map(|m| m.tag).collect();
    let given = said.iter().filter(|t| !b"12tTnEZ".contains(t)).count();
    assert_eq!(given, 0, "{:?}", raw.shown(&messages));
}

#[tokio::test]
async fn a_cancelled_mark_is_a_cancelled_statement_and_the_next_one_is_marked() {
    let live = Live::orders("", "").await;
    let unseen = "DO $$ BEGIN UPDATE orders SET total = total + 1 WHERE id = 1; END $$";
    let blocker = live.direct().await;
    for (frames, twice) in [(query(unseen), "12"), (extended(unseen), "14")] {
        let mut raw = live.raw().await;
        for _ in 0..3 {
            blocker.batch_execute("BEGIN; LOCK TABLE pgsegue.dirty_keys").await.unwrap();
            stuck_and_cancelled(&live, &mut raw, &frames, "mark_orders_v2").await;
            blocker.batch_execute("ROLLBACK").await.unwrap();
            assert_eq!(raw.query("SELECT 1").await[1], "D 1");
        }
        for _ in 0..2 {
            let said = raw.exchange(&frames, 1).await;
            assert!(said.contains(&"C DO".to_owned()), "{said:?}");
        }
        assert_eq!(text(&live.db.client, "SELECT total FROM orders WHERE id = 1").await, twice);
    }
    live.orders_in_step().await;
}

#[tokio::test]
async fn a_cancelled_question_for_facts_is_a_cancelled_statement() {
    let live = Live::orders("", "").await;
    let sql = "UPDATE orders SET total = total + 1 WHERE id = 2";
    let blocker = live.direct().await;
    for frames in [query(sql), extended(sql)] {
        let mut raw = live.raw().await;
        blocker.batch_execute("BEGIN; LOCK TABLE pg_catalog.pg_class").await.unwrap();
        stuck_and_cancelled(&live, &mut raw, &frames, "default_transaction_isolation").await;
        blocker.batch_execute("ROLLBACK").await.unwrap();
        let said = raw.exchange(&frames, 1).await;
        assert!(said.contains(&"C UPDATE 1".to_owned()), "{said:?}");
    }
    assert_eq!(text(&live.db.client, "SELECT total FROM orders WHERE id = 2").await, "22");
    live.orders_in_step().await;
}

#[tokio::test]
async fn a_cancelled_preparation_of_a_form_leaves_the_statement_as_it_was() {
    let toml = orders_toml("", "");
    let live = Live::declared(&format!("{ORDERS};{ORDERS_V2}"), &toml).await;
    let mut raw = live.raw().await;
    let sql = "UPDATE orders SET total = total + 1 WHERE id = 3";
    let said = raw.exchange(&[parse("s", sql, &[]), sync()].concat(), 1).await;
    assert_eq!(said, ["1", "Z I"]);
    live.start("orders_v2");
    live.until_phase("orders_v2", "ready").await;
    let run = [bind("", "s", 0, &[], 0), execute("", 0), sync()].concat();
    let blocker = live.direct().await;
    for _ in 0..2 {
        blocker.batch_execute("BEGIN; LOCK TABLE orders").await.unwrap();
        stuck_and_cancelled(&live, &mut raw, &run, "pgsegue").await;
        blocker.batch_execute("ROLLBACK").await.unwrap();
        assert_eq!(raw.query("SELECT 1").await[1], "D 1");
    }
    assert_eq!(raw.exchange(&run, 1).await, ["2", "C UPDATE 1", "Z I"]);
    assert_eq!(text(&live.db.client, "SELECT total FROM orders WHERE id = 3").await, "31");
    live.orders_in_step().await;
}

#[tokio::test]
async fn a_cancelled_read_on_the_shadow_is_not_answered_by_the_source() {
    let live = Live::orders("", "reads = 100").await;
    let sql = "SELECT total FROM orders WHERE id = 4";
    let mut raw = live.raw().await;
    let blocker = live.direct().await;
    for frames in [query(sql), extended(sql)] {
        eventually("the shadow serves it", async || {
            let before = live.shadow_reads();
            raw.exchange(&frames, 1).await;
            if live.shadow_reads() > before { Ok(()) } else { Err(before) }
        })
        .await;
        blocker.batch_execute("BEGIN; LOCK TABLE orders_v2").await.unwrap();
        stuck_and_cancelled(&live, &mut raw, &frames, "orders_v2").await;
        blocker.batch_execute("ROLLBACK").await.unwrap();
        let said = raw.exchange(&frames, 1).await;
        assert!(said.contains(&"D 40".to_owned()), "{said:?}");
    }
    assert_eq!(live.proxy.metric("pgsegue_shadow_retries_total"), Some(0.0));
}

/// Cancels at any moment hit one statement or none; each answer is that of its own statement.
#[tokio::test(flavor = "multi_thread")]
async fn cancels_at_random_moments_never_put_a_session_out_of_step() {
    let live = Live::orders("", "reads = 50\nsticky = \"statement\"").await;
    let mut raw = live.raw().await;
    let stop = Arc::new(AtomicBool::new(false));
    let (port, key, ended) = (live.proxy.port, raw.key, Arc::clone(&stop));
    let storm = tokio::spawn(async move {
        while !ended.load(Ordering::Relaxed) {
            cancel(port, key).await;
        }
    });
    let (mut cancelled, mut done) = (0, 0);
    for i in 0..600 {
        let sql = match i % 4 {
            0 => format!("UPDATE orders SET total = {i} WHERE id = 5 RETURNING {i}"),
            1 => format!("SELECT {i} FROM orders WHERE id = 5"),
            2 => format!("WITH x AS (UPDATE orders SET note = 'x' RETURNING id) SELECT {i}"),
            _ => format!("INSERT INTO orders VALUES ({i} + 1000, 1, 1) RETURNING {i}"),
        };
        let frames = if i % 8 < 4 { query(&sql) } else { extended(&sql) };
        let said = raw.exchange(&frames, 1).await;
        let own = said.contains(&format!("D {i}"));
        let failed = said.iter().any(|m| m.starts_with("E ") && m.contains("C57014"));
        // A statement may be cancelled behind its row; nothing else may come.
        let alien = |m: &String| {
            (m.starts_with("D ") && *m != format!("D {i}"))
                || (m.starts_with("E ") && !m.contains("C57014"))
        };
        let in_step = !said.iter().any(alien) && said.last().unwrap() == "Z I";
        assert!((own || failed) && in_step, "{sql}: {said:?}");
        cancelled += u32::from(failed);
        done += u32::from(own);
    }
    stop.store(true, Ordering::Relaxed);
    storm.await.unwrap();
    assert!(cancelled > 0 && done > 0, "{cancelled} cancelled, {done} done");
    live.orders_in_step().await;
}

#[tokio::test]
async fn a_long_cancel_key_arrives_as_it_was_sent() {
    let db = database().await;
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut proxy = Proxy::prepare(&db, "");
    proxy.write_config(&format!(
        "[proxy]\nlisten = \"127.0.0.1:{}\"\n[server]\naddress = \"{}\"\n\
         [admin]\nlisten = \"127.0.0.1:{}\"\n",
        proxy.port,
        server.local_addr().unwrap(),
        proxy.admin_port
    ));
    proxy.start_again().await;
    for key_bytes in [8u16, 36, 260] {
        let sent = request(&(0..key_bytes).map(|i| i.to_be_bytes()[1]).collect::<Vec<_>>());
        let mut client = TcpStream::connect(("127.0.0.1", proxy.port)).await.unwrap();
        client.write_all(&sent).await.unwrap();
        let (mut accepted, _) = server.accept().await.unwrap();
        let mut got = vec![0; sent.len()];
        accepted.read_exact(&mut got).await.unwrap();
        assert_eq!(got, sent);
        // Closing is the server's answer, and so the proxy's.
        drop(accepted);
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
    }
}

/// The client has its answer by then, and sends nothing more.
#[tokio::test]
async fn a_cancel_that_meets_the_release_of_a_mark_does_not_leave_it_held() {
    let live = Live::orders("", "").await;
    let (writer, blocker) = (live.direct().await, live.direct().await);
    writer.batch_execute("BEGIN; UPDATE orders SET note = 'x' WHERE id = 1").await.unwrap();
    let mut raw = live.raw().await;
    let code = "DO $$ BEGIN COMMIT; UPDATE orders SET total = 7 WHERE id = 1; END $$";
    raw.send(&query(code)).await;
    live.until_blocked("COMMIT; UPDATE orders").await;
    blocker.batch_execute("BEGIN; LOCK TABLE pgsegue.dirty_keys").await.unwrap();
    writer.batch_execute("ROLLBACK").await.unwrap();
    raw.until_ready(1).await;
    live.until_blocked("release_orders_v2").await;
    cancel(live.proxy.port, raw.key).await;
    blocker.batch_execute("ROLLBACK").await.unwrap();
    let held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' \
                AND classid = x'70677367'::int AND database = \
                (SELECT oid FROM pg_database WHERE datname = current_database())";
    eventually("it is released", async || {
        let held = text(&writer, held).await;
        if held == "0" { Ok(()) } else { Err(held) }
    })
    .await;
    live.orders_in_step().await;
    assert_eq!(raw.query("SELECT 1").await[1], "D 1");
}
