//! What bounds sessions: how many, how long quiet, how long at a shutdown. Each is told in
//! Postgres's words, and none touches a session that keeps within.

use crate::live::Raw;
use crate::live::raw::{frame, query, startup};
use crate::support::{Proxy, TestDb, database, eventually};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

async fn socket(proxy: &Proxy) -> TcpStream {
    TcpStream::connect(("127.0.0.1", proxy.port)).await.unwrap()
}

async fn session(proxy: &Proxy, db: &TestDb) -> Raw {
    Raw::connect(proxy.port, "postgres", &db.name).await
}

/// What a client is told first: `R` when it is let in, or the error.
async fn first_word(proxy: &Proxy, db: &TestDb) -> (Raw, String) {
    let mut stream = socket(proxy).await;
    stream.write_all(&startup("postgres", &db.name, &[])).await.unwrap();
    let mut raw = Raw::of(stream);
    let message = raw.next().await.unwrap();
    let said = raw.show(&message);
    (raw, said)
}

/// Everything that still comes, in words, up to the end of the stream.
async fn last_words(raw: &mut Raw) -> String {
    let mut said = String::new();
    while let Some(message) = raw.next().await {
        said += &format!("{}\n", raw.show(&message));
    }
    said
}

async fn until_admitted(proxy: &Proxy, db: &TestDb) -> Raw {
    eventually("there is a place", async || {
        let (raw, said) = first_word(proxy, db).await;
        if said.starts_with('R') { Ok(raw) } else { Err(said) }
    })
    .await
}

#[tokio::test]
async fn one_client_too_many_is_told_so_and_a_place_is_free_however_a_session_ends() {
    let db = database().await;
    let proxy = Proxy::start(&db, "proxy.clients_max = 3").await;
    let mut one = session(&proxy, &db).await;
    let _two = session(&proxy, &db).await;
    for end in ["terminate", "drop", "killed", "refused"] {
        let mut three = until_admitted(&proxy, &db).await;
        three.until_ready(1).await;
        let (mut four, said) = first_word(&proxy, &db).await;
        assert!(said.contains("C53300 "), "{said}");
        assert!(said.contains("Msorry, too many clients already"), "{said}");
        assert_eq!(last_words(&mut four).await, "");
        match end {
            "terminate" => three.send(&frame(b'X', b"")).await,
            "killed" => {
                let pid = three.rows("SELECT pg_backend_pid()").await.concat().remove(0).unwrap();
                one.query(&format!("SELECT pg_terminate_backend({pid})")).await;
            }
            "refused" => three.send(&frame(b'Q', b"")[..4]).await,
            _ => {}
        }
        drop(three);
    }
    // Who says nothing has no place, and a cancel request needs none.
    let _silent = (socket(&proxy).await, socket(&proxy).await);
    let _three = until_admitted(&proxy, &db).await;
    one.send(&query("SELECT pg_sleep(600)")).await;
    eventually("it is cancelled", async || {
        let key = [one.key.0.to_be_bytes(), one.key.1.to_be_bytes()].concat();
        let mut stream = socket(&proxy).await;
        let request = [&16u32.to_be_bytes()[..], &80_877_102u32.to_be_bytes(), &key].concat();
        stream.write_all(&request).await.unwrap();
        stream.read_to_end(&mut Vec::new()).await.unwrap();
        let answer = tokio::time::timeout(Duration::from_millis(100), one.until_ready(1)).await;
        answer.map(|messages| assert_eq!(messages[1].tag, b'E')).or(Err("it runs"))
    })
    .await;
    proxy.rewrite_config("proxy.clients_max = 4");
    let _four = until_admitted(&proxy, &db).await;
}

#[tokio::test]
async fn who_does_not_say_who_it_is_is_left() {
    let db = database().await;
    let proxy = Proxy::start(&db, "proxy.startup_timeout_ms = 200").await;
    for said in [&[][..], &[0, 0], &startup("postgres", &db.name, &[])[..20]] {
        let mut stream = socket(&proxy).await;
        stream.write_all(said).await.unwrap();
        let mut end = Vec::new();
        stream.read_to_end(&mut end).await.ok();
        assert_eq!(end, b"");
    }
    session(&proxy, &db).await.run("SELECT 1").await;
}

#[tokio::test]
async fn an_idle_session_is_ended_and_a_busy_one_or_an_open_transaction_is_not() {
    let db = database().await;
    let proxy = Proxy::start(&db, "proxy.idle_timeout_ms = 300").await;
    let (mut open, mut busy) = (session(&proxy, &db).await, session(&proxy, &db).await);
    let mut idle = session(&proxy, &db).await;
    open.run("BEGIN").await;
    busy.send(&query("SELECT pg_sleep(1), 'slept'")).await;
    let said = last_words(&mut idle).await;
    assert!(said.contains("C57P05 ") && said.contains("SFATAL"), "{said}");
    let slept = busy.until_ready(1).await;
    assert!(busy.shown(&slept).contains(&"D  | slept".to_owned()));
    let said = last_words(&mut busy).await;
    assert!(said.contains("C57P05 "), "{said}");
    open.run("COMMIT").await;
    let said = last_words(&mut open).await;
    assert!(said.contains("C57P05 "), "{said}");
    // Switched off: those who come now stay.
    proxy.rewrite_config("proxy.idle_timeout_ms = 0");
    eventually("a session stays", async || {
        let mut raw = session(&proxy, &db).await;
        let word = tokio::time::timeout(Duration::from_millis(900), raw.next()).await;
        if word.is_err() { Ok(()) } else { Err("it was ended") }
    })
    .await;
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_given_up() {
    let db = database().await;
    // A listener whose queue is full lets nobody in.
    let full = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    full.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    full.listen(0).unwrap();
    let address = full.local_addr().unwrap().as_socket().unwrap();
    let mut queue = Vec::new();
    while let Ok(Ok(stream)) =
        tokio::time::timeout(Duration::from_millis(300), TcpStream::connect(address)).await
    {
        queue.push(stream);
    }
    let mut proxy = Proxy::prepare(&db, "");
    proxy.write_config(&format!(
        "[proxy]\nlisten = \"127.0.0.1:{}\"\n[server]\naddress = \"{address}\"\n\
         connect_timeout_ms = 200\n[admin]\nlisten = \"127.0.0.1:{}\"\n",
        proxy.port, proxy.admin_port
    ));
    proxy.start_again().await;
    let (_, said) = first_word(&proxy, &db).await;
    assert!(said.contains("C08006 ") && said.contains("timed out"), "{said}");
}

/// The kernel's own table says which connections have a keepalive timer, and when it is due.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn both_legs_are_kept_alive() {
    let db = database().await;
    let keys = "proxy.tcp_keepalives_idle_s = 77";
    let proxy = Proxy::start(&db, keys).await;
    let _session = session(&proxy, &db).await;
    let timers = |table: &str, column: usize, port: u16| {
        let port = format!(":{port:04X}");
        let due = table.lines().filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let timer = fields.get(5)?.strip_prefix("02:")?;
            let concerned = fields[3] == "01" && fields[column].ends_with(&port);
            concerned.then(|| u64::from_str_radix(timer, 16).unwrap())
        });
        due.filter(|ticks| (7_000..=7_700).contains(ticks)).count()
    };
    // The timer of data under way takes its place for a moment.
    eventually("there is a timer on either leg", async || {
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        match (timers(&table, 1, proxy.port), timers(&table, 2, db.port)) {
            (1, 1) => Ok(()),
            other => Err(other),
        }
    })
    .await;
}

#[tokio::test]
async fn at_a_shutdown_transactions_may_end_and_those_left_at_the_deadline_are_told() {
    let db = database().await;
    let mut proxy = Proxy::start(&db, "proxy.drain_timeout_ms = 1500").await;
    let (mut ends, mut stays) = (session(&proxy, &db).await, session(&proxy, &db).await);
    let (mut idle, mut busy) = (session(&proxy, &db).await, session(&proxy, &db).await);
    ends.run("BEGIN").await;
    stays.run("BEGIN").await;
    busy.send(&query("SELECT pg_sleep(600)")).await;
    proxy.signal("TERM");
    let said = last_words(&mut idle).await;
    assert!(said.contains("C57P01 "), "{said}");
    ends.run("COMMIT").await;
    for raw in [&mut ends, &mut stays, &mut busy] {
        let said = last_words(raw).await;
        assert!(said.contains("C57P01 ") && said.contains("SFATAL"), "{said}");
    }
    assert_eq!(proxy.ended().await, Some(0), "{}", proxy.log());
}
