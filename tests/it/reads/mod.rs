//! Reads that the shadow serves, and those that stay on the source: the client cannot tell.

mod again;
mod collations;
mod dark;
mod lost;
mod meaning;
mod music;
mod names;
mod orm;
mod proof;
mod rental;
mod scans;
mod shared;
mod texts;
mod transactions;

use crate::live::raw::{bind, describe, execute, parse, query, sync};
use crate::live::{Live, ORDERS, ORDERS_TABLE, Pair, Raw, text};
use crate::support::eventually;
use tokio_postgres::Client;

/// Served by the shadow.
const SERVED: &[&str] = &[
    "SELECT * FROM orders WHERE id = 5",
    "SELECT * FROM orders ORDER BY id",
    "SELECT o.* FROM orders AS o WHERE o.id = 5",
    "SELECT orders.total, orders.id, total FROM orders WHERE orders.id = 5",
    "SELECT total AS t, note \"N\" FROM public.orders WHERE user_id = 1 ORDER BY id DESC LIMIT 2",
    "SELECT count(*), sum(total), min(note), max(id), avg(user_id) FROM orders",
    "SELECT user_id, count(*) FROM orders GROUP BY user_id HAVING count(*) > 1 ORDER BY user_id",
    "SELECT o.id, x.note, o.note FROM orders o JOIN other x ON x.orders_id = o.id ORDER BY o.id",
    "SELECT x.*, o.* FROM other x LEFT JOIN orders o ON x.orders_id = o.id AND o.id > 3 ORDER BY x.id",
    "SELECT a.id, b.id FROM orders a JOIN orders b ON a.id = b.id + 1 WHERE b.total > 20 ORDER BY 1",
    "SELECT id FROM other WHERE id IN (SELECT id FROM orders WHERE total > 20) ORDER BY id",
    "SELECT (SELECT note FROM orders WHERE orders.id = other.id) FROM other ORDER BY other.id",
    "SELECT EXISTS (SELECT 1 FROM orders WHERE id = 11), NOT EXISTS (SELECT FROM orders WHERE id = 1)",
    "WITH o AS (SELECT * FROM orders WHERE id < 4) SELECT sum(total) FROM o",
    "SELECT id FROM orders WHERE id < 3 UNION ALL SELECT orders_id FROM other ORDER BY 1",
    "SELECT id, row_number() OVER (ORDER BY id) FROM orders ORDER BY id",
    "SELECT DISTINCT user_id FROM orders ORDER BY user_id",
    "SELECT id, total * 2, upper(note), CASE WHEN id > 5 THEN 'big' END FROM orders WHERE id = 7",
    "SELECT email FROM orders WHERE email = 'e3'",
    "SELECT id FROM orders WHERE note LIKE 'note 1%' ORDER BY id",
    "SELECT id FROM orders WHERE id BETWEEN 2 AND 4 AND total <> 30 ORDER BY id;",
    "/* orders */ SELECT id /* a */ FROM /* b */ orders /* c */ WHERE id = 2 -- the end",
    "SELECT \"orders\".\"id\" FROM \"public\".\"orders\" WHERE \"orders\".\"id\" = 5",
];

/// Not to be moved.
const STAYING: &[&str] = &[
    "SELECT id FROM orders WHERE id = 5 FOR UPDATE",
    "SELECT id FROM orders WHERE id = 5 FOR KEY SHARE",
    "SELECT ctid, id FROM orders WHERE id = 5",
    "SELECT tableoid::regclass FROM orders WHERE id = 5",
    "SELECT xmin IS NULL FROM orders WHERE id = 5",
    "SELECT o FROM orders o WHERE id = 5",
    "SELECT row_to_json(orders) FROM orders WHERE id = 5",
    "SELECT id, random() < 2 FROM orders WHERE id = 5",
    "SELECT id, note FROM orders GROUP BY id ORDER BY id",
    "SELECT id FROM ONLY orders WHERE id = 5",
    "SELECT count(*) FROM orders TABLESAMPLE BERNOULLI (100)",
    "SELECT 'orders'::regclass::text",
    "SELECT 1 FROM other WHERE note = 'orders'",
    "SELECT nowhere FROM orders",
    "SELECT id FROM orders WHERE id = 'x'",
    "SELECT id FROM orders WHERE",
    "EXPLAIN (COSTS OFF) SELECT id FROM orders WHERE id = 5",
    "SELECT pg_typeof(orders.*) FROM orders WHERE id = 5",
    "SELECT (orders.*)::text FROM orders WHERE id = 5",
];

/// A query, its declared types, values and their format.
type Case<'a> = (&'a str, &'a [u32], &'a [Option<&'a [u8]>], u16);

async fn served(live: &Live, raw: &mut Raw, frames: &[u8], what: &str) {
    eventually(&format!("the shadow serves {what}"), async || {
        let before = live.shadow_reads();
        let said = raw.exchange(frames, 1).await;
        if live.shadow_reads() > before { Ok(()) } else { Err(said) }
    })
    .await;
}

fn extended(sql: &str, format: u16) -> Vec<u8> {
    let bound = [bind("", "", 0, &[], format), describe(b'P', ""), execute("", 0), sync()];
    [parse("", sql, &[]), describe(b'S', ""), bound.concat()].concat()
}

#[tokio::test]
async fn reads_on_the_shadow_look_the_same_in_every_byte() {
    let live = Live::orders("", "reads = 100").await;
    let mut pair = Pair::new(&live, ORDERS).await;
    for sql in SERVED {
        served(&live, &mut pair.live, &query(sql), sql).await;
        served(&live, &mut pair.live, &extended(sql, 0), sql).await;
        let before = live.shadow_reads();
        pair.simple(sql).await;
        pair.extended(sql, &[], 0).await;
        pair.extended(sql, &[], 1).await;
        pair.simple("BEGIN").await;
        pair.simple(sql).await;
        pair.simple("COMMIT").await;
        assert!((live.shadow_reads() - before - 4.0).abs() < 0.5, "not all on the shadow: {sql}");
    }
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

#[tokio::test]
async fn reads_that_the_shadow_cannot_answer_stay_on_the_source() {
    let live = Live::orders("", "reads = 100").await;
    let mut pair = Pair::new(&live, ORDERS).await;
    served(&live, &mut pair.live, &query(SERVED[0]), SERVED[0]).await;
    for _ in 0..3 {
        for sql in STAYING {
            let before = live.shadow_reads();
            pair.simple(sql).await;
            pair.extended(sql, &[], 0).await;
            assert!((live.shadow_reads() - before).abs() < 0.5, "on the shadow: {sql}");
        }
    }
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

#[tokio::test]
async fn the_clients_own_errors_are_the_same_on_either_side() {
    let live = Live::orders("", "reads = 100").await;
    let mut pair = Pair::new(&live, ORDERS).await;
    served(&live, &mut pair.live, &query(SERVED[0]), SERVED[0]).await;
    for _ in 0..3 {
        for sql in [
            "SELECT total / 0 FROM orders WHERE id = 1",
            "SELECT total / (id - 3) FROM orders ORDER BY id",
            "SELECT note::int FROM orders WHERE id = 4",
            "SELECT id, total FROM orders WHERE total * 2147483647 > 0",
            "SELECT (SELECT id FROM orders) FROM other",
        ] {
            pair.simple(sql).await;
            pair.extended(sql, &[], 1).await;
            for how in ["BEGIN", "BEGIN ISOLATION LEVEL REPEATABLE READ"] {
                pair.simple(how).await;
                pair.simple(sql).await;
                pair.simple("SELECT id FROM orders WHERE id = 1").await;
                pair.simple("ROLLBACK").await;
                pair.simple(how).await;
                pair.simple("SAVEPOINT a").await;
                pair.extended(sql, &[], 0).await;
                pair.simple("ROLLBACK TO a").await;
                pair.simple("SELECT id FROM orders WHERE id = 1").await;
                pair.simple("COMMIT").await;
            }
        }
    }
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

#[tokio::test]
async fn parameters_of_reads_keep_their_types_and_their_meaning() {
    let live = Live::orders("", "reads = 100").await;
    let mut pair = Pair::new(&live, ORDERS).await;
    let cases: &[Case<'_>] = &[
        ("SELECT * FROM orders WHERE id = $1", &[], &[Some(b"5")], 0),
        ("SELECT * FROM orders WHERE id = $1", &[], &[Some(&[0, 0, 0, 5])], 1),
        ("SELECT * FROM orders WHERE id = $1", &[20], &[Some(&[0, 0, 0, 0, 0, 0, 0, 5])], 1),
        ("SELECT * FROM orders WHERE id = $1", &[], &[None], 0),
        ("SELECT * FROM orders WHERE id = $1", &[], &[Some(b"99999999999")], 0),
        ("SELECT * FROM orders WHERE id = $1 AND $1 < 7", &[], &[Some(b"5")], 0),
        (
            "SELECT id, $2::text FROM orders WHERE total > $1 ORDER BY id",
            &[],
            &[Some(b"50"), Some(b"x")],
            0,
        ),
        ("SELECT id FROM orders WHERE id = ANY ($1) ORDER BY id", &[], &[Some(b"{1,2,99}")], 0),
        (
            "SELECT id FROM orders WHERE note = $1 OR email = $2 ORDER BY id LIMIT $3",
            &[],
            &[Some(b"note 3"), Some(b"e4"), Some(b"5")],
            0,
        ),
    ];
    let client = live.client().await;
    live.until_shadow_serves(&client, "SELECT total FROM orders WHERE id = 5").await;
    let before = live.shadow_reads();
    for (sql, types, values, format) in cases {
        let frames = [
            parse("s", sql, types),
            describe(b'S', "s"),
            bind("p", "s", *format, values, 1),
            describe(b'P', "p"),
            execute("p", 2),
            execute("p", 0),
            frame_close(),
            sync(),
        ];
        // Once on the source at least, and again when it has been looked at.
        for _ in 0..20 {
            pair.exchange(sql, &frames.concat(), 1).await;
        }
    }
    // Which of them have been looked at by now is a matter of speed; that some will be is not.
    let (sql, types, values, format) = cases[0];
    let again = [parse("", sql, types), bind("", "", format, values, 1), execute("", 0), sync()];
    eventually("one is on the shadow", async || {
        pair.exchange(sql, &again.concat(), 1).await;
        if live.shadow_reads() > before { Ok(()) } else { Err(before) }
    })
    .await;
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

fn frame_close() -> Vec<u8> {
    crate::live::raw::close(b'S', "s")
}

#[tokio::test]
async fn an_error_on_the_shadow_outside_a_transaction_is_answered_from_the_source() {
    let live = Live::orders("", "reads = 100").await;
    let (client, direct) = (live.client().await, live.direct().await);
    let sql = "SELECT total FROM orders WHERE id = 5";
    live.until_shadow_serves(&client, sql).await;
    let prepared = client.prepare("SELECT total FROM orders WHERE id = $1").await.unwrap();
    eventually("the prepared read is on the shadow", async || {
        let before = live.shadow_reads();
        client.query_one(&prepared, &[&5i32]).await.unwrap();
        if live.shadow_reads() > before { Ok(()) } else { Err(before) }
    })
    .await;
    // One row that no int4 holds.
    direct.batch_execute("UPDATE orders_v2 SET total_minor = 9e15 WHERE id = 5").await.unwrap();
    assert_eq!(text(&client, sql).await, "50");
    assert!(live.proxy.metric("pgsegue_shadow_retries_total").unwrap() > 0.5);
    let row = client.query_one(&prepared, &[&5i32]).await.unwrap();
    assert_eq!(row.get::<_, i32>(0), 50);
    direct.batch_execute("UPDATE orders_v2 SET total_minor = 5000 WHERE id = 5").await.unwrap();
    live.until_shadow_serves(&client, sql).await;
    direct.batch_execute("ALTER TABLE orders_v2 RENAME total_minor TO gone").await.unwrap();
    assert_eq!(text(&client, sql).await, "50");
    let row = client.query_one(&prepared, &[&5i32]).await.unwrap();
    assert_eq!(row.get::<_, i32>(0), 50);
    direct.batch_execute("ALTER TABLE orders_v2 RENAME gone TO total_minor").await.unwrap();
}

async fn share(live: &Live, clients: &[Client], reads: usize) -> Vec<f64> {
    let mut shares = Vec::new();
    for client in clients {
        let before = live.shadow_reads();
        for _ in 0..reads {
            assert_eq!(text(client, "SELECT total FROM orders WHERE id = 5").await, "50");
        }
        shares.push(live.shadow_reads() - before);
    }
    shares
}

#[tokio::test]
async fn the_canarys_percentage_and_stickiness_decide_who_reads_the_shadow() {
    let toml = |routing: &str| crate::live::orders_toml("", routing);
    let live = Live::orders("", "reads = 100").await;
    let mut clients = Vec::new();
    for _ in 0..24 {
        clients.push(live.client().await);
    }
    live.until_shadow_serves(&clients[0], "SELECT total FROM orders WHERE id = 5").await;
    assert!(share(&live, &clients, 4).await.iter().all(|s| (s - 4.0).abs() < 0.5));
    for (sticky, routing) in [
        ("session", "reads = 50"),
        ("statement", "reads = 50\nsticky = \"statement\""),
        ("user", "reads = 50\nsticky = \"user\""),
    ] {
        let applied = live.proxy.metric("pgsegue_config_reloads_total{result=\"applied\"}");
        live.proxy.rewrite_config(&toml(routing));
        eventually("the file is in force", async || {
            let now = live.proxy.metric("pgsegue_config_reloads_total{result=\"applied\"}");
            if now > applied { Ok(()) } else { Err(now) }
        })
        .await;
        let shares = share(&live, &clients, 8).await;
        let all: f64 = shares.iter().sum();
        let whole = shares.iter().all(|s| *s < 0.5 || *s > 7.5);
        match sticky {
            "session" => assert!(whole && all > 15.5 && all < 176.5, "{shares:?}"),
            "statement" => assert!(!whole && all > 40.0 && all < 152.0, "{shares:?}"),
            _ => assert!(!(0.5..=191.5).contains(&all), "{shares:?}"),
        }
    }
    live.cli(&["route", "orders_v2", "--reads", "0", "--why", "incident 7"]);
    eventually("no more shadow reads", async || {
        let shares = share(&live, &clients, 1).await;
        if shares.iter().sum::<f64>() < 0.5 { Ok(()) } else { Err(shares) }
    })
    .await;
    let events = "SELECT what || ' ' || value_before || '>' || value_after || ' ' || why \
                  FROM pgsegue.events WHERE what = 'reads' ORDER BY id DESC LIMIT 1";
    let last = text(&live.db.client, events).await;
    assert!(last.contains("incident 7"), "{last}");
    let who =
        text(&live.db.client, "SELECT who FROM pgsegue.events ORDER BY id DESC LIMIT 1").await;
    assert!(who.contains("tester"), "{who}");
    // The file alone cannot raise it again.
    live.proxy.rewrite_config(&toml("reads = 100"));
    assert!(share(&live, &clients, 2).await.iter().sum::<f64>() < 0.5);
}

#[tokio::test]
async fn all_sessions_of_an_application_read_the_same_side_and_a_new_name_is_followed() {
    let live = Live::orders("", "reads = 50\nsticky = \"application_name\"").await;
    let read = "SELECT total FROM orders WHERE id = 5";
    let mut clients = Vec::new();
    for name in 0..12 {
        for _ in 0..2 {
            let conninfo = format!("{} application_name=app{name}", live.proxy.conninfo());
            clients.push(crate::support::connect(&conninfo).await);
        }
    }
    eventually("somebody reads the shadow", async || {
        let shares = share(&live, &clients, 1).await;
        if shares.iter().sum::<f64>() > 0.5 { Ok(()) } else { Err(shares) }
    })
    .await;
    let shares = share(&live, &clients, 4).await;
    let of_names: Vec<f64> = shares.chunks(2).map(|two| two[0]).collect();
    assert!(shares.chunks(2).all(|two| (two[0] - two[1]).abs() < 0.5), "{shares:?}");
    assert!(shares.iter().all(|s| *s < 0.5 || *s > 3.5), "{shares:?}");
    assert!(of_names.iter().any(|s| *s < 0.5) && of_names.iter().any(|s| *s > 3.5), "{shares:?}");
    let follows = async |client: &Client, name: usize, how: &str| {
        let before = live.shadow_reads();
        for _ in 0..4 {
            assert_eq!(text(client, read).await, "50");
        }
        let share = live.shadow_reads() - before;
        assert!((share - of_names[name]).abs() < 0.5, "{how}: {share} of app{name}");
    };
    // In mid-session, for a transaction, and back.
    for (name, client) in (0..12).cycle().skip(5).zip(&clients) {
        client.batch_execute(&format!("SET application_name = 'app{name}'")).await.unwrap();
        follows(client, name, "SET").await;
        let other = (name + 7) % 12;
        let local = format!("BEGIN; SET LOCAL application_name = 'app{other}'");
        client.batch_execute(&local).await.unwrap();
        follows(client, other, "SET LOCAL").await;
        client.batch_execute("ROLLBACK").await.unwrap();
        follows(client, name, "ROLLBACK").await;
        let config = format!("SELECT set_config('application_name', 'app{other}', false)");
        text(client, &config).await;
        follows(client, other, "set_config").await;
    }
    for (at, client) in clients.iter().enumerate() {
        client.batch_execute("RESET application_name").await.unwrap();
        follows(client, at / 2, "RESET").await;
    }
    live.orders_in_step().await;
}

#[tokio::test]
async fn a_row_that_has_no_way_back_fails_its_transaction_as_the_server_does_and_is_repaired() {
    let live = Live::orders("", "reads = 100").await;
    let direct = live.direct().await;
    let mut pair = Pair::new(&live, ORDERS).await;
    let read = "SELECT total FROM orders WHERE id = 5";
    for protocol in ["simple", "extended"] {
        let frames = if protocol == "simple" { query(read) } else { extended(read, 0) };
        served(&live, &mut pair.live, &frames, read).await;
        for begin in ["BEGIN", "BEGIN; SAVEPOINT a"] {
            served(&live, &mut pair.live, &frames, read).await;
            pair.live.run(begin).await;
            // One that no int4 holds.
            let spoil = "UPDATE orders_v2 SET total_minor = 9e15 WHERE id = 5";
            direct.batch_execute(spoil).await.unwrap();
            let said = pair.live.exchange(&frames, 1).await;
            let error = said.iter().find(|line| line.starts_with('E')).expect("an error");
            assert!(error.contains("C22003 / Minteger out of range"), "{error}");
            assert_eq!(said.last().unwrap(), "Z E", "{said:?}");
            let back = if begin == "BEGIN" { "ROLLBACK" } else { "ROLLBACK TO a; COMMIT" };
            for sql in back.split("; ") {
                pair.live.run(sql).await;
            }
            // Alone it is sent to the source again, until the row is repaired.
            pair.exchange(read, &frames, 1).await;
            pair.same();
            eventually("the row is repaired", async || {
                let row = "SELECT total_minor FROM orders_v2 WHERE id = 5";
                let seen = text(&direct, row).await;
                if seen == "5000" { Ok(()) } else { Err(seen) }
            })
            .await;
            live.orders_in_step().await;
            pair.simple(begin).await;
            pair.exchange(read, &frames, 1).await;
            pair.simple("COMMIT").await;
        }
    }
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

#[tokio::test]
async fn a_dark_read_finds_a_corrupted_row_names_it_and_has_it_repaired() {
    let live = Live::orders("", "reads = 100\ndark_reads = 100").await;
    let (client, direct) = (live.client().await, live.direct().await);
    let sql = "SELECT id, note FROM orders WHERE id = 5";
    let count = |outcome: &str| {
        let labels = format!("{{migration=\"orders_v2\",outcome=\"{outcome}\"}}");
        live.proxy.metric(&format!("pgsegue_dark_reads_total{labels}")).unwrap_or(0.0)
    };
    eventually("dark reads are compared", async || {
        text(&client, sql).await;
        if count("compared") > 0.5 { Ok(()) } else { Err(count("dropped")) }
    })
    .await;
    live.until_shadow_serves(&client, sql).await;
    assert!(count("mismatched") < 0.5);
    // Readers on the source, so that no client is served the corrupted row.
    live.cli(&["route", "orders_v2", "--reads", "0", "--why", "first look in the dark"]);
    eventually("no shadow reads", async || {
        let before = live.shadow_reads();
        text(&client, sql).await;
        if live.shadow_reads() > before { Err(before) } else { Ok(()) }
    })
    .await;
    direct.batch_execute("UPDATE orders_v2 SET note = 'corrupt' WHERE id = 5").await.unwrap();
    eventually("a dark read sees it", async || {
        assert_eq!(text(&client, sql).await, "5 note 5");
        if count("mismatched") > 0.5 { Ok(()) } else { Err(count("compared")) }
    })
    .await;
    eventually("it is repaired", async || {
        let note = text(&direct, "SELECT note FROM orders_v2 WHERE id = 5").await;
        if note == "note 5" { Ok(()) } else { Err(note) }
    })
    .await;
    live.orders_in_step().await;
    let log = live.proxy.log();
    assert!(log.lines().any(|l| l.contains("dark") && l.contains('5')), "{log}");
}

/// A prepared statement outlives the rollback of its transaction.
#[tokio::test]
async fn a_read_whose_planning_fails_keeps_no_other_from_the_shadow() {
    let live = Live::orders("", "reads = 100").await;
    let mut raw = live.raw().await;
    eventually("the vetting has said no", async || {
        let said = raw.exchange(&query("SELECT id FROM orders WHERE total = 1 / 0"), 1).await;
        let log = live.proxy.log();
        let no = log.lines().any(|l| l.contains("stays on the source") && l.contains("by zero"));
        if no { Ok(()) } else { Err(said) }
    })
    .await;
    for sql in SERVED {
        served(&live, &mut raw, &query(sql), sql).await;
    }
}
