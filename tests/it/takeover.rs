//! A second process takes over from the first while clients connect all the time: nobody is
//! refused, nobody is reset, every write is mirrored.

use crate::live::Live;
use crate::live::raw::{Raw, query, startup};
use crate::support::{Proxy, database, eventually};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// Clients that connect, run one statement and leave, again and again; everything that goes wrong.
struct Storm {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU32>,
    clients: JoinSet<Vec<String>>,
}

impl Storm {
    fn start(port: u16, database: &str, sql: &'static str) -> Self {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let mut clients = JoinSet::new();
        for _ in 0..6 {
            let (stop, done, database) =
                (Arc::clone(&stop), Arc::clone(&done), database.to_owned());
            clients.spawn(async move {
                let mut failures = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    match once(port, &database, sql).await {
                        Ok(()) => _ = done.fetch_add(1, Ordering::Relaxed),
                        Err(failure) => failures.push(failure),
                    }
                }
                failures
            });
        }
        Self { stop, done, clients }
    }

    /// Waits until clients have been served that came later than now.
    async fn goes_on(&self) {
        let before = self.done.load(Ordering::Relaxed);
        eventually("clients are served", async || {
            let now = self.done.load(Ordering::Relaxed);
            if now > before + 50 { Ok(()) } else { Err(now - before) }
        })
        .await;
    }

    async fn end(self) -> u32 {
        self.stop.store(true, Ordering::Relaxed);
        let failures = self.clients.join_all().await.concat();
        assert_eq!(failures, Vec::<String>::new(), "of {:?}", self.done);
        self.done.load(Ordering::Relaxed)
    }
}

async fn once(port: u16, database: &str, sql: &str) -> Result<(), String> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await;
    let mut stream = stream.map_err(|error| format!("connect: {error}"))?;
    stream.set_nodelay(true).ok();
    let mut said = startup("postgres", database, &[]);
    for answer in ["startup", "statement"] {
        stream.write_all(&said).await.map_err(|error| format!("{answer}: {error}"))?;
        let mut raw = Raw::of(stream);
        loop {
            let message = raw.next().await.ok_or_else(|| format!("{answer}: closed"))?;
            match message.tag {
                b'Z' => break,
                b'E' => return Err(format!("{answer}: {}", raw.show(&message))),
                _ => {}
            }
        }
        stream = raw.stream;
        said = query(sql);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_successor_on_the_same_port_refuses_and_resets_nobody() {
    let db = database().await;
    let mut first = Proxy::start(&db, "proxy.reuse_port = true").await;
    let storm = Storm::start(first.port, &db.name, "SELECT 1");
    storm.goes_on().await;
    for _ in 0..5 {
        let mut second = first.successor();
        second.spawn();
        second.until_it_says_ready().await;
        storm.goes_on().await;
        first.signal("TERM");
        assert_eq!(first.ended().await, Some(0), "{}", first.log());
        storm.goes_on().await;
        first = second;
    }
    eventually("the last one has the admin port", async || match first.try_get("/readyz") {
        Some((200, _)) => Ok(()),
        other => Err(other),
    })
    .await;
    storm.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_is_inherited_is_left_to_the_heir() {
    let db = database().await;
    let mut first = Proxy::prepare(&db, "proxy.reuse_port = true");
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    first.spawn_with_socket(&socket);
    let storm = Storm::start(port, &db.name, "SELECT 1");
    first.until_it_says_ready().await;
    storm.goes_on().await;
    for _ in 0..3 {
        let mut second = first.successor();
        second.spawn_with_socket(&socket);
        second.until_it_says_ready().await;
        first.signal("TERM");
        assert_eq!(first.ended().await, Some(0), "{}", first.log());
        storm.goes_on().await;
        first = second;
    }
    // Nobody there for a while: clients wait in the socket.
    first.signal("TERM");
    assert_eq!(first.ended().await, Some(0), "{}", first.log());
    first.spawn_with_socket(&socket);
    storm.goes_on().await;
    storm.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_processes_mirror_while_one_takes_over() {
    let mut live = Live::orders("", "").await;
    live.proxy.rewrite_config(&crate::live::orders_toml("", ""));
    // The first one has the port for itself: it is started again with reuse_port.
    let toml = format!("proxy.reuse_port = true\n{}", crate::live::orders_toml("", ""));
    live.proxy.rewrite_config(&toml);
    live.proxy.restart().await;
    let storm = Storm::start(
        live.proxy.port,
        &live.db.name,
        "UPDATE orders SET total = total + 1 WHERE id = 5",
    );
    let mut stays = live.raw().await;
    stays.run("BEGIN; UPDATE orders SET total = 1000 WHERE id = 1").await;
    stays.run("COMMIT; BEGIN; INSERT INTO orders VALUES (20, 1, 1)").await;
    let mut second = live.proxy.successor();
    second.spawn();
    second.until_it_says_ready().await;
    storm.goes_on().await;
    live.proxy.signal("TERM");
    storm.goes_on().await;
    stays.run("INSERT INTO orders VALUES (21, 1, 1); COMMIT").await;
    assert_eq!(live.proxy.ended().await, Some(0));
    storm.goes_on().await;
    storm.end().await;
    live.proxy = second;
    live.orders_in_step().await;
}
