//! COPY as drivers send it.

use crate::live::{Live, text};
use crate::support::python;
use bytes::Bytes;
use futures_util::SinkExt;
use std::io::Write as _;
use std::process::{Command, Stdio};

#[tokio::test]
async fn psql_copies_in() {
    let live = Live::orders("", "").await;
    let script = "
        \\copy orders (id, user_id) from stdin
60\t1
61\t2
\\.
        COPY orders (id, user_id, note) FROM STDIN WITH (FORMAT csv, HEADER);
id,user_id,note
62,1,\"two
lines\"
\\.
        BEGIN;
        \\copy orders (id, user_id) from program 'echo 63,1' csv
        COMMIT;
        SELECT count(*) FROM orders;
";
    let mut psql = Command::new("psql")
        .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"])
        .arg(live.proxy.conninfo())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("psql is needed: apt-get install postgresql-client, or brew install libpq");
    psql.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    let output = psql.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "14", "{said}");
    assert_eq!(live.dirty().await, []);
    live.orders_in_step().await;
}

#[tokio::test]
async fn tokio_postgres_copies_in() {
    let live = Live::orders("", "").await;
    let mut client = live.client().await;
    let sink =
        client.copy_in::<_, Bytes>("COPY orders (id, user_id) FROM STDIN CSV").await.unwrap();
    futures_util::pin_mut!(sink);
    for id in 60..80 {
        sink.send(Bytes::from(format!("{id},1\n"))).await.unwrap();
    }
    assert_eq!(sink.finish().await.unwrap(), 20);
    let transaction = client.transaction().await.unwrap();
    let sink =
        transaction.copy_in::<_, Bytes>("COPY orders (id, user_id) FROM STDIN").await.unwrap();
    futures_util::pin_mut!(sink);
    sink.send(Bytes::from("80\t1\n")).await.unwrap();
    assert_eq!(sink.finish().await.unwrap(), 1);
    transaction.commit().await.unwrap();
    let sink = client.copy_in::<_, Bytes>("COPY orders (id, user_id) FROM STDIN").await.unwrap();
    futures_util::pin_mut!(sink);
    sink.send(Bytes::from("81\tx\n")).await.unwrap();
    let error = sink.finish().await.unwrap_err();
    assert_eq!(error.as_db_error().unwrap().code().code(), "22P02");
    // One that is left without an end.
    let sink = client.copy_in::<_, Bytes>("COPY orders (id, user_id) FROM STDIN").await.unwrap();
    drop(sink);
    assert_eq!(text(&client, "SELECT count(*) FROM orders").await, "31");
    assert_eq!(live.dirty().await, []);
    live.orders_in_step().await;
}

const SCRIPT: &str = r#"
import sys, psycopg
with psycopg.connect(sys.argv[1], autocommit=True) as conn:
    cur = conn.cursor()
    with cur.copy("COPY orders (id, user_id, note) FROM STDIN") as copy:
        for i in range(60, 80):
            copy.write_row((i, 1, "a\tb\\c\n" if i % 2 else None))
    print(cur.statusmessage)
    with cur.copy("COPY orders (id, user_id, note) FROM STDIN (FORMAT binary)") as copy:
        copy.set_types(["int4", "int4", "text"])
        for i in range(80, 90):
            copy.write_row((i, 1, "x"))
    print(cur.statusmessage)
    with conn.transaction():
        with cur.copy("COPY orders (id, user_id) FROM STDIN CSV") as copy:
            copy.write("90,1\n91,1\n")
    try:
        with cur.copy("COPY orders (id, user_id) FROM STDIN") as copy:
            copy.write_row((92, 1))
            raise ValueError("changed my mind")
    except ValueError as error:
        print(error)
    try:
        with cur.copy("COPY orders (id, user_id) FROM STDIN") as copy:
            copy.write("93\t1\nx\t1\n")
    except psycopg.errors.InvalidTextRepresentation as error:
        print(error.diag.context)
    print(cur.execute("SELECT count(*) FROM orders").fetchone()[0])
"#;

#[tokio::test]
async fn psycopg_copies_in() {
    let live = Live::orders("", "").await;
    let conninfo = live.proxy.conninfo();
    let output = tokio::task::spawn_blocking(move || {
        python().arg("-c").arg(SCRIPT).arg(conninfo).output().unwrap()
    })
    .await
    .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}");
    let expected =
        ["COPY 20", "COPY 10", "changed my mind", "COPY orders, line 2, column id: \"x\"", "42"];
    assert_eq!(shown.lines().collect::<Vec<_>>(), expected, "{said}");
    assert_eq!(live.dirty().await, []);
    live.orders_in_step().await;
}
