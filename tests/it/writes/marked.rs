//! A text that is marked, alone in a simple query: mark and text are one transaction, and it is
//! over when the client has its answer, on every version of Postgres.

use crate::live::raw::{bind, execute, frame, one, parse, query, sync};
use crate::live::{Live, ORDERS, ORDERS_TABLE, Pair, text};
use crate::support::eventually;

/// The marks that the session's own transaction has written.
pub const OWN_MARKS: &str = "SELECT count(*) FROM pgsegue.dirty_keys \
                             WHERE key IS NULL AND xmin = pg_current_xact_id()::xid";

/// Speaks, and refuses one row, at the commit.
const LATE: &str = "
    CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE NOTICE 'late';
        IF NEW.id = 666 THEN RAISE EXCEPTION 'too late'; END IF;
        RETURN NULL;
    END $$;
    CREATE CONSTRAINT TRIGGER late AFTER INSERT ON other DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION late()";

fn writes(id: i32) -> String {
    format!(
        "DO $$ BEGIN UPDATE orders SET total = {id} WHERE id = 1; \
         INSERT INTO other VALUES ({id}, 1); END $$"
    )
}

#[tokio::test]
async fn a_marked_text_is_committed_when_it_is_answered() {
    let live = Live::orders("", "").await;
    live.db.client.batch_execute(LATE).await.unwrap();
    let mut pair = Pair::new(&live, &format!("{ORDERS}; {LATE}")).await;
    for sql in [
        writes(100),
        // The commit fails.
        writes(666),
        format!("SELECT 1; {}; SELECT 2 WHERE false", writes(101)),
        format!("{}; SELECT 1 / 0", writes(102)),
        format!("SELECT 1; {}", writes(666)),
    ] {
        pair.simple(&sql).await;
        live.orders_in_step().await;
    }
    // The client sends the data when it has the answers up to there.
    let copy = [query(&format!("{}; COPY orders FROM STDIN; SELECT 3", writes(105)))];
    let data = [frame(b'd', b"60\t1\t1\tcopied\tx60\n"), frame(b'c', b"")];
    pair.exchange("a COPY behind another statement", &[copy.concat(), data.concat()].concat(), 1)
        .await;
    live.orders_in_step().await;
    let several = [writes(104), "SELECT txid_current_if_assigned()".to_owned(), writes(666)];
    let frames: Vec<u8> = several.iter().flat_map(|sql| query(sql)).collect();
    pair.exchange("a pipeline", &frames, several.len()).await;
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

#[tokio::test]
async fn a_text_that_begins_or_ends_a_transaction_is_marked_when_it_is_answered() {
    let live = Live::orders("", "").await;
    let mut pair = Pair::new(&live, ORDERS).await;
    for sql in [
        format!("{}; BEGIN; SELECT 1", writes(100)),
        format!("BEGIN ISOLATION LEVEL SERIALIZABLE; {}", writes(101)),
    ] {
        pair.simple(&sql).await;
        // The mark that was written before it is worked off, and the write not yet to be seen.
        live.until_clean("orders_v2").await;
        assert_eq!(pair.live.rows(OWN_MARKS).await.concat(), [Some("1".to_owned())], "{sql}");
        pair.plain.run("SELECT 1").await;
        pair.simple("COMMIT").await;
        live.orders_in_step().await;
    }
    pair.simple(&format!("BEGIN; {}; COMMIT", writes(102))).await;
    live.orders_in_step().await;
    pair.simple(&format!("BEGIN; {}; SELECT 1 / 0", writes(103))).await;
    pair.simple("ROLLBACK").await;
    live.orders_in_step().await;
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

#[tokio::test]
async fn marked_code_may_commit_by_itself() {
    let live = Live::orders("", "").await;
    let mut pair = Pair::new(&live, ORDERS).await;
    let body = "$$ BEGIN UPDATE orders SET total = 5 WHERE id = 4; COMMIT; END $$";
    for sql in [
        format!("DO {body}"),
        format!("/* again */ do LANGUAGE plpgsql {body}"),
        // In a block it cannot, and the client is told so.
        "BEGIN".to_owned(),
        format!("DO {body}"),
        "ROLLBACK".to_owned(),
    ] {
        pair.simple(&sql).await;
        live.orders_in_step().await;
    }
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

#[tokio::test]
async fn a_marked_query_behind_a_group_that_fails_in_its_marked_statement_is_answered() {
    let live = Live::orders("", "").await;
    let mut pair = Pair::new(&live, ORDERS).await;
    let adds = "CREATE FUNCTION adds() RETURNS int LANGUAGE sql \
                AS 'UPDATE orders SET total = total + 1 WHERE id = 1 RETURNING 1'";
    pair.simple(adds).await;
    eventually("the function is known", async || {
        let before = live.statements("recorded", "write");
        pair.simple("SELECT adds() WHERE false").await;
        if live.statements("recorded", "write") > before + 0.5 { Ok(()) } else { Err(()) }
    })
    .await;
    live.until_clean("orders_v2").await;
    let [fails, works] = ["SELECT adds() / 0", "SELECT adds()"]
        .map(|sql| [parse("", sql, &[]), bind("", "", 0, &[], 0), execute("", 0), sync()].concat());
    for begin in ["", "BEGIN"] {
        for first in [&fails, &works] {
            for second in [works.clone(), query("SELECT adds()"), query(&writes(7))] {
                pair.simple(begin).await;
                pair.exchange(begin, &[&first[..], &second, &second].concat(), 3).await;
                pair.simple("COMMIT").await;
                live.orders_in_step().await;
            }
        }
    }
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

#[tokio::test]
async fn a_marked_query_behind_unsynced_frames_that_fail_is_skipped_and_so_is_what_follows() {
    let live = Live::orders("", "").await;
    let mut pair = Pair::new(&live, ORDERS).await;
    for begin in ["", "BEGIN"] {
        for fails in [parse("", "selec", &[]), one("SELECT 1 / 0"), bind("", "none", 0, &[], 0)] {
            for text in [writes(1), "CALL nothing()".to_owned(), "EXECUTE nothing(1)".to_owned()] {
                pair.simple(begin).await;
                let packet = [fails.clone(), query(&text), one("DELETE FROM orders"), sync()];
                pair.exchange(&format!("{begin}; {text}"), &packet.concat(), 1).await;
                pair.simple("COMMIT").await;
                pair.simple("SELECT count(*) FROM orders").await;
            }
        }
    }
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

#[tokio::test]
async fn a_text_that_leaves_a_block_which_fails_meanwhile_is_run() {
    let live = Live::orders("", "").await;
    let mut pair = Pair::new(&live, ORDERS).await;
    let fails =
        ["BEGIN; SELECT 1 / 0", "BEGIN; SAVEPOINT a; SELECT 1 / 0", "BEGIN; SELECT 1", "SELECT 1"];
    for first in fails {
        for leaves in ["ROLLBACK", "COMMIT", "abort", "END WORK", "ROLLBACK TO a"] {
            for then in
                ["UPDATE orders SET total = 77 WHERE id = 8", &writes(9), "SELECT ctid FROM orders"]
            {
                let packet = [query(first), query(&format!("{leaves}; {then}"))];
                pair.exchange(&format!("{first}, {leaves}; {then}"), &packet.concat(), 2).await;
                pair.simple("ROLLBACK").await;
                live.orders_in_step().await;
            }
        }
    }
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

#[tokio::test]
async fn queries_behind_unsynced_frames_that_fail_are_skipped_whatever_is_asked_for_before_the_last()
 {
    let live = Live::orders("", "").await;
    let mut pair = Pair::new(&live, ORDERS).await;
    // From 18 on those that do not fail are one transaction with the queries, up to the Sync.
    let version: u32 = text(&live.db.client, "SELECT current_setting('server_version_num')")
        .await
        .parse()
        .unwrap();
    for last in
        ["DELETE FROM orders WHERE id = 3", "SELECT total FROM orders WHERE id = 3", &writes(8)]
    {
        for between in
            [vec![""], vec!["", "SELECT 1"], vec!["SET search_path = public", "DELETE FROM other"]]
        {
            for first in [execute("", 0), one("SELECT 1 / 0"), one("SELECT 1")] {
                if version >= 180_000 && first == one("SELECT 1") {
                    continue;
                }
                // The session's facts are not known behind it.
                pair.simple("SET work_mem = '4MB'").await;
                let works = first == one("SELECT 1");
                let queries: Vec<u8> = between.iter().flat_map(|sql| query(sql)).collect();
                let readies = if works { between.len() + 2 } else { 1 };
                let packet = [&first[..], &queries, &query(last), &sync()].concat();
                pair.exchange(last, &packet, readies).await;
                pair.simple("SELECT count(*), sum(total) FROM orders").await;
                pair.simple("SELECT count(*) FROM other").await;
                live.orders_in_step().await;
            }
        }
    }
    pair.finish(&live, &[ORDERS_TABLE]).await;
}
