//! Mirrored writes by the extended protocol in all the ways that drivers have, and several
//! statements in one text.

use crate::live::raw::{bind, close, describe, execute, flush, parse, query, sync};
use crate::live::{Live, ORDERS, ORDERS_TABLE, Pair};

const INT4: u32 = 23;
const INT8: u32 = 20;
const TEXT: u32 = 25;
const NUMERIC: u32 = 1700;

async fn pair() -> (Live, Pair) {
    let live = Live::orders("", "").await;
    let pair = Pair::new(&live, ORDERS).await;
    (live, pair)
}

/// A statement, the types declared for its parameters, and their values as text.
type Case = (&'static str, &'static [u32], &'static [Option<&'static str>]);

const WITH_PARAMETERS: &[Case] = &[
    ("INSERT INTO orders VALUES ($1, $2, $3, $4)", &[], &[Some("21"), Some("1"), Some("2"), None]),
    (
        "INSERT INTO orders VALUES ($1, $2, $3, $4) RETURNING *",
        &[],
        &[Some("22"), Some("1"), Some("2"), Some("x")],
    ),
    ("UPDATE orders SET total = total + $1 WHERE id = $2", &[], &[Some("5"), Some("1")]),
    ("UPDATE orders SET total = total + $1 WHERE id = $2", &[INT8, INT8], &[Some("5"), Some("1")]),
    ("UPDATE orders SET total = $1 WHERE id = $2", &[INT4, 0], &[Some("5"), Some("1")]),
    ("UPDATE orders SET total = $1 WHERE id = $2", &[NUMERIC, 0], &[Some("5.5"), Some("1")]),
    ("UPDATE orders SET note = $1 RETURNING $2", &[], &[Some("n"), Some("given")]),
    ("UPDATE orders SET note = $1 RETURNING $2 + 1", &[TEXT], &[Some("n"), Some("4")]),
    ("UPDATE orders SET note = $2 WHERE id = $1 RETURNING id, $2", &[], &[Some("3"), Some("n")]),
    ("UPDATE orders SET note = $3 WHERE id = $1", &[], &[Some("3"), Some("n"), Some("m")]),
    (
        "UPDATE orders SET note = $3 WHERE id = $1",
        &[INT4, TEXT, TEXT],
        &[Some("3"), None, Some("m")],
    ),
    ("UPDATE orders SET id = $2 WHERE id = $1 RETURNING id", &[], &[Some("4"), Some("44")]),
    ("UPDATE orders SET id = id + $1 WHERE id > $2", &[], &[Some("1000"), Some("8")]),
    ("UPDATE orders SET total = $1 WHERE id = ANY ($2)", &[], &[Some("1"), Some("{1,2,3}")]),
    ("UPDATE orders SET total = $1::int WHERE note = $2::varchar", &[], &[Some("1"), Some("n")]),
    ("DELETE FROM orders WHERE id = $1", &[], &[Some("7")]),
    ("DELETE FROM orders WHERE id = $1 RETURNING *", &[], &[None]),
    ("DELETE FROM orders WHERE id = $1 AND $1 = $2", &[], &[Some("7")]),
    ("DELETE FROM orders WHERE id = $1", &[], &[Some("seven")]),
    ("INSERT INTO orders VALUES ($1, $1, $1, $1)", &[], &[Some("23")]),
    (
        "INSERT INTO orders SELECT $1, 1, 1, $2 ON CONFLICT (id) DO UPDATE SET note = $2",
        &[],
        &[Some("23"), Some("n")],
    ),
    ("UPDATE orders SET total = 1 WHERE id = $1 OR $2", &[], &[Some("7"), Some("f")]),
];

#[tokio::test]
async fn parameters_keep_their_types_numbers_and_errors() {
    let (live, mut pair) = pair().await;
    for (sql, types, values) in WITH_PARAMETERS {
        let values: Vec<_> = values.iter().map(|v| v.map(str::as_bytes)).collect();
        let frames = [
            parse("p", sql, types),
            describe(b'S', "p"),
            bind("c", "p", 0, &values, 1),
            describe(b'P', "c"),
            execute("c", 0),
            close(b'P', "c"),
            sync(),
            bind("", "p", 0, &values, 0),
            execute("", 0),
            sync(),
            close(b'S', "p"),
            sync(),
        ];
        pair.exchange(sql, &frames.concat(), 3).await;
    }
    for (id, total, note) in [(31_i32, 5_i32, "ü"), (1, -1, ""), (32, i32::MAX, "x")] {
        let sql = "INSERT INTO orders AS o VALUES ($1, 1, $2, $3) ON CONFLICT (id) \
                   DO UPDATE SET total = $2, note = $3 RETURNING o.*, $3";
        let values = [id.to_be_bytes().to_vec(), total.to_be_bytes().to_vec(), note.into()];
        let values: Vec<_> = values.iter().map(|v| Some(v.as_slice())).collect();
        let frames = [parse("", sql, &[]), bind("", "", 1, &values, 1), execute("", 0), sync()];
        pair.exchange("binary", &frames.concat(), 1).await;
    }
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

#[tokio::test]
async fn an_insert_of_40000_declared_parameters_is_mirrored() {
    let (live, mut pair) = pair().await;
    let rows: Vec<_> = (0..10_000)
        .map(|row| {
            let n = 4 * row;
            format!("(${}, ${}, ${}, ${})", n + 1, n + 2, n + 3, n + 4)
        })
        .collect();
    let sql = format!("INSERT INTO orders VALUES {}", rows.join(", "));
    let values: Vec<_> = (0..10_000)
        .flat_map(|row| [format!("{}", 100 + row), "1".to_owned(), "2".to_owned(), "n".to_owned()])
        .collect();
    let values: Vec<_> = values.iter().map(|v| Some(v.as_bytes())).collect();
    let types = [INT4, INT4, INT4, TEXT].repeat(10_000);
    let batch =
        [parse("", &sql, &types), bind("", "", 0, &values, 0), execute("", 0), sync()].concat();
    pair.exchange("many parameters", &batch, 1).await;
    assert_eq!(live.dirty().await, []);
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

#[tokio::test]
async fn names_that_begin_alike_for_63_bytes_are_one_statement() {
    let (live, mut pair) = pair().await;
    let name = |end: &str| format!("{}{end}", "n".repeat(63));
    let update = "UPDATE orders SET total = total + 1 WHERE id = $1";
    let prepared = [parse(&name("one"), update, &[INT4]), sync()].concat();
    pair.exchange("parse", &prepared, 1).await;
    let run = |portal: &str, other: &str| {
        [
            bind(portal, &name("two"), 0, &[Some(b"3")], 0),
            execute(other, 0),
            close(b'P', portal),
            sync(),
        ]
        .concat()
    };
    pair.exchange("bind by another end", &run("", ""), 1).await;
    pair.exchange("portals, too", &run(&name("p"), &name("q")), 1).await;
    pair.exchange("the name is taken", &prepared, 1).await;
    pair.exchange("close", &[close(b'S', &name("three")), sync()].concat(), 1).await;
    pair.exchange("it is gone", &run("", ""), 1).await;
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

#[tokio::test]
async fn portals_may_be_described_limited_suspended_and_closed() {
    let (live, mut pair) = pair().await;
    let update = "UPDATE orders SET total = total + 1 WHERE id < 6";
    for sql in [update.to_owned(), format!("{update} RETURNING id, total")] {
        for limit in [0, 1, 2, 5, 6] {
            let more = [execute("c", limit), execute("c", limit), execute("c", 0), sync()];
            let frames = [parse("", &sql, &[]), bind("c", "", 0, &[], 0), more.concat()].concat();
            pair.exchange(&format!("{limit} rows of {sql}"), &frames, 1).await;
            pair.simple("BEGIN").await;
            let frames = [
                parse("s", &sql, &[]),
                bind("c", "s", 0, &[], 0),
                execute("c", limit),
                sync(),
                describe(b'P', "c"),
                execute("c", limit),
                describe(b'S', "s"),
                sync(),
                close(b'P', "c"),
                execute("c", 1),
                sync(),
            ];
            pair.exchange(&format!("{limit} rows and on of {sql}"), &frames.concat(), 3).await;
            pair.simple("ROLLBACK").await;
            pair.exchange("close", &[close(b'S', "s"), sync()].concat(), 1).await;
        }
    }
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

fn run(sql: &str) -> Vec<u8> {
    [parse("", sql, &[]), bind("", "", 0, &[], 0), describe(b'P', ""), execute("", 0)].concat()
}

#[tokio::test]
async fn a_pipeline_with_an_error_in_it_ends_where_postgres_ends_it() {
    let (live, mut pair) = pair().await;
    let ok = "UPDATE orders SET total = total + 1 WHERE id = 1 RETURNING total";
    let plain = "UPDATE orders SET total = total + 1 WHERE id = 2";
    let read = "SELECT total FROM orders WHERE id IN (1, 2) ORDER BY id";
    let fails = "UPDATE orders SET total = 1 / (id - 3) WHERE id = 3";
    let wrong = "UPDATE orders SET nowhere = 1";
    let batches: &[&[&str]] = &[
        &[ok, plain, read],
        &[ok, fails, plain],
        &[plain, wrong, ok, read],
        &[wrong],
        &["BEGIN", ok, plain, "COMMIT"],
        &["BEGIN", ok, fails, "COMMIT"],
        &["ROLLBACK", plain, "BEGIN", ok],
        &["COMMIT", read],
        &["BEGIN", plain, "SAVEPOINT a", ok, "ROLLBACK TO a", "COMMIT", read],
        &["DELETE FROM orders WHERE id = 9", "INSERT INTO orders VALUES (9, 9, 9)", plain],
        &["TRUNCATE other", plain, "SELECT 1"],
        &[plain, "", ok],
        &["INSERT INTO orders VALUES (1, 1)", "SELECT 1"],
    ];
    for batch in batches {
        let frames: Vec<u8> = batch.iter().flat_map(|sql| run(sql)).collect();
        pair.exchange(&format!("{batch:?}"), &[frames, sync()].concat(), 1).await;
        let frames: Vec<u8> = batch.iter().flat_map(|sql| [run(sql), sync()].concat()).collect();
        pair.exchange(&format!("{batch:?} synced"), &frames, batch.len()).await;
        pair.simple("ROLLBACK").await;
        let frames: Vec<u8> = batch.iter().flat_map(|sql| query(sql)).collect();
        pair.exchange(&format!("{batch:?} simple"), &frames, batch.len()).await;
        pair.simple("ROLLBACK").await;
    }
    let mixed = [run(ok), flush(), run(fails), run(ok), sync(), query(plain), run(read), sync()];
    pair.exchange("mixed", &mixed.concat(), 3).await;
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

#[tokio::test]
async fn names_of_statements_and_portals_behave_as_postgres_has_them() {
    let (live, mut pair) = pair().await;
    let write = "UPDATE orders SET total = total + 1 WHERE id = $1";
    let frames = |list: &[Vec<u8>]| [list.concat(), sync()].concat();
    let one: &[Option<&[u8]>] = &[Some(b"1")];
    let steps: &[(&str, Vec<u8>)] = &[
        ("no such statement", frames(&[bind("", "w", 0, one, 0)])),
        ("parse", frames(&[parse("w", write, &[])])),
        ("twice", frames(&[parse("w", "SELECT 1", &[])])),
        ("still there", frames(&[bind("", "w", 0, one, 0), execute("", 0)])),
        ("no such portal", frames(&[execute("c", 0)])),
        ("too few values", frames(&[bind("", "w", 0, &[], 0)])),
        ("two portals", frames(&[bind("c", "w", 0, one, 0), bind("c", "w", 0, one, 0)])),
        ("unnamed", frames(&[parse("", write, &[]), describe(b'S', "")])),
        ("unnamed stays", frames(&[bind("", "", 0, one, 0), execute("", 0)])),
        ("unnamed goes", frames(&[parse("", "SELECT 1 +", &[])])),
        ("unnamed is gone", frames(&[bind("", "", 0, one, 0), execute("", 0)])),
        ("executed twice", frames(&[bind("", "w", 0, one, 0), execute("", 0), execute("", 0)])),
        ("closed twice", frames(&[close(b'S', "w"), close(b'S', "w"), close(b'P', "x")])),
        ("gone", frames(&[describe(b'S', "w")])),
        ("again", frames(&[parse("w", "DELETE FROM orders WHERE id = $1 RETURNING id", &[])])),
        ("other", frames(&[bind("", "w", 0, one, 0), execute("", 0)])),
        ("bad format", frames(&[bind("", "w", 7, one, 0), execute("", 0)])),
        ("bad row format", frames(&[bind("", "w", 0, one, 7), execute("", 0)])),
    ];
    for (what, frames) in steps {
        pair.exchange(what, frames, 1).await;
    }
    for sql in [
        "DEALLOCATE w",
        "PREPARE w AS SELECT 1",
        "EXECUTE w",
        "DEALLOCATE ALL",
        "SELECT name, statement, parameter_types FROM pg_prepared_statements ORDER BY 1",
        "DISCARD ALL",
    ] {
        pair.simple(sql).await;
    }
    pair.exchange("after", &frames(&[parse("w", write, &[]), describe(b'S', "w")]), 1).await;
    pair.simple("DEALLOCATE w").await;
    pair.exchange("deallocated", &frames(&[bind("", "w", 0, one, 0)]), 1).await;
    pair.exchange("parse", &frames(&[parse("w", write, &[])]), 1).await;
    pair.simple("BEGIN").await;
    pair.exchange("in it", &frames(&[parse("v", "SELECT 1 / 0", &[])]), 1).await;
    pair.exchange("failed", &frames(&[bind("", "v", 0, &[], 0), execute("", 0)]), 1).await;
    pair.exchange("refused", &frames(&[bind("", "w", 0, one, 0), execute("", 0)]), 1).await;
    pair.simple("UPDATE orders SET total = 1").await;
    pair.simple("ROLLBACK").await;
    pair.exchange("works", &frames(&[bind("", "w", 0, one, 0), execute("", 0)]), 1).await;
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

#[tokio::test]
async fn several_statements_in_one_text_are_one_transaction_unless_they_say_otherwise() {
    let (live, mut pair) = pair().await;
    let texts = [
        "UPDATE orders SET total = 1 WHERE id = 1; UPDATE orders SET total = 2 WHERE id = 2",
        "UPDATE orders SET total = 3 WHERE id = 1 RETURNING total; SELECT sum(total) FROM orders;",
        "INSERT INTO orders VALUES (50, 1, 1); INSERT INTO orders VALUES (50, 1, 1); SELECT 1",
        "INSERT INTO orders VALUES (51, 1, 1); SELECT 1/0; INSERT INTO orders VALUES (52, 1, 1)",
        "BEGIN; INSERT INTO orders VALUES (53, 1, 1); COMMIT; INSERT INTO orders VALUES (54, 1, 1)",
        "INSERT INTO orders VALUES (55, 1, 1); COMMIT; INSERT INTO orders VALUES (56, 1); SELECT 1/0",
        "BEGIN; DELETE FROM orders WHERE id = 3; SAVEPOINT s; DELETE FROM orders; ROLLBACK TO s; COMMIT",
        "INSERT INTO orders VALUES (57, 1, 1); ROLLBACK; SELECT count(*) FROM orders",
        "SET LOCAL search_path = pg_catalog; UPDATE orders SET total = 1",
        "DELETE FROM orders WHERE id = 4; INSERT INTO orders VALUES (4, 4, 4) RETURNING *; ;",
        "UPDATE orders SET total = 5; UPDATE orders SET total = syntax error",
        "UPDATE orders SET note = ';' WHERE id = 1; UPDATE orders SET nowhere = 1 WHERE id = 2",
        "SELECT id FROM orders WHERE id = 1; UPDATE orders SET note = 'z' RETURNING id; SELECT 2",
        "VALUES (1); UPDATE orders SET total = 9 WHERE id = 2; BEGIN; UPDATE orders SET total = 8",
        "COMMIT",
        "BEGIN; UPDATE orders SET total = 7 WHERE id = 2; SELECT 1/0; ROLLBACK",
        "UPDATE orders SET total = 6 WHERE id = 2; ROLLBACK",
        "CREATE TEMP TABLE t (x int); INSERT INTO t SELECT id FROM orders; UPDATE orders SET total = 3",
    ];
    for sql in texts {
        pair.simple(sql).await;
        pair.simple("SELECT * FROM orders ORDER BY id").await;
    }
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

#[tokio::test]
async fn cursors_stay_where_they_are_while_rows_under_them_are_written() {
    let (live, mut pair) = pair().await;
    for sql in [
        "BEGIN",
        "DECLARE c CURSOR FOR SELECT id, total FROM orders ORDER BY id FOR UPDATE",
        "FETCH 2 FROM c",
        "UPDATE orders SET total = 0 WHERE CURRENT OF c",
        "UPDATE orders SET total = -1 WHERE CURRENT OF c RETURNING id, total",
        "FETCH 1 FROM c",
        "DELETE FROM orders WHERE CURRENT OF c RETURNING *",
        "DELETE FROM orders WHERE CURRENT OF c",
        "FETCH 1 FROM c",
        "UPDATE orders SET id = 4444 WHERE CURRENT OF c",
        "COMMIT",
        "BEGIN",
        "DECLARE d CURSOR FOR SELECT id FROM orders WHERE id < 5",
        "FETCH 1 FROM d",
        "UPDATE orders SET note = 'at d' WHERE CURRENT OF d RETURNING id",
        "COMMIT",
        "SELECT * FROM orders ORDER BY id",
    ] {
        pair.simple(sql).await;
    }
    pair.finish(&live, &[ORDERS_TABLE]).await;
}
