//! TLS on both legs: who is let in, what is checked, what may come before a handshake, and
//! certificates that change under live sessions.

use crate::live::raw::{query, startup};
use crate::live::{ORDERS, ORDERS_TABLE, ORDERS_V2, orders_toml};
use crate::steer;
use crate::support::{
    Authority, Proxy, Signed, TestDb, assert_same, connect, connect_tls, connector, database,
    database_on, eventually, python, raw_tls, rows, server, show_certificate, tls_server,
};
use futures_util::{SinkExt, TryStreamExt};
use pgsegue::throwaway::Postgres;
use std::fs;
use std::process::{Command, Output};
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_postgres::Client;

const TRUST: &str = "host all all 127.0.0.1/32 trust\n";
const POSTGRESQL: &[&[u8]] = &[b"postgresql"];
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];
/// Whether the server sees its own connection encrypted.
const SEEN: &str = "SELECT ssl::text FROM pg_stat_ssl WHERE pid = pg_backend_pid()";

/// The section for clients.
fn proxy_tls(signed: &Signed, keys: &str) -> String {
    format!("[proxy.tls]\n{}{keys}\n", signed.toml())
}

/// The section for the server.
fn server_tls(mode: &str, root: Option<&std::path::Path>) -> String {
    let root =
        root.map_or_else(String::new, |r| format!("root_certificate = \"{}\"\n", r.display()));
    format!("[server.tls]\nmode = \"{mode}\"\n{root}")
}

/// Sessions are looked at, not the control connections.
fn control_in_the_clear(db: &TestDb) -> String {
    format!("[control]\nurl = \"{} sslmode=disable\"\n", db.conninfo)
}

fn psql(port: u16, options: &str) -> Result<String, String> {
    let conninfo = format!("host=127.0.0.1 port={port} user=postgres dbname=postgres {options}");
    let output = Command::new(server().bin("psql").expect("psql is needed"))
        .args(["-XAtw", "-c", "\\conninfo", "-c", SEEN, &conninfo])
        .output()
        .unwrap();
    let Output { status, stdout, stderr } = output;
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    if status.success() { Ok(text(&stdout)) } else { Err(text(&stderr)) }
}

/// What a session through the proxy says of its server connection, or why there is none.
async fn seen(proxy: &Proxy) -> Result<String, String> {
    match tokio_postgres::connect(&proxy.conninfo(), tokio_postgres::NoTls).await {
        Ok((client, connection)) => {
            tokio::spawn(connection);
            Ok(rows(&client, SEEN).await[0][0].clone().unwrap())
        }
        Err(error) => Err(error.as_db_error().unwrap().message().to_owned()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_mode_checks_of_the_server_what_libpq_checks() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let good = ours.sign("server", &["127.0.0.1"]);
    let elsewhere = ours.sign("elsewhere", &["db.example"]);
    let expired = ours.sign_expired("expired", &["127.0.0.1"]);
    let version1 = ours.sign_version1("version1");
    let postgres = tls_server(&ours, &good, TRUST).await;
    let db = database_on(&postgres).await;
    let root = ours.root();
    let (ours, theirs) = (Some(root.as_path()), Some(theirs.root()));
    let itself = Some(good.certificate.as_path());
    let theirs = theirs.as_deref();
    let gone = Some(expired.certificate.as_path());
    let cases: [(&Signed, &[_]); 4] = [
        (
            &good,
            &[
                ("disable", None, Ok("false")),
                ("prefer", None, Ok("true")),
                ("prefer", theirs, Ok("true")),
                ("require", None, Ok("true")),
                ("require", ours, Ok("true")),
                ("require", theirs, Err("UnknownIssuer")),
                ("verify-ca", ours, Ok("true")),
                ("verify-ca", theirs, Err("UnknownIssuer")),
                ("verify-full", ours, Ok("true")),
                ("verify-full", itself, Ok("true")),
                ("verify-full", theirs, Err("UnknownIssuer")),
            ],
        ),
        (
            &elsewhere,
            &[("verify-ca", ours, Ok("true")), ("verify-full", ours, Err("not valid for name"))],
        ),
        (
            &expired,
            &[
                ("require", None, Ok("true")),
                ("verify-ca", ours, Err("expired")),
                ("verify-full", gone, Err("expired")),
            ],
        ),
        // As the recipe in Postgres's manual makes it.
        (&version1, &[("require", None, Ok("true")), ("verify-ca", ours, Err("certificate"))]),
    ];
    let mut proxy = Proxy::prepare(&db, "");
    for (signed, modes) in cases {
        show_certificate(&postgres, signed).await;
        db.client.batch_execute("SELECT pg_reload_conf()").await.unwrap();
        for (mode, root, expected) in modes {
            let clear = control_in_the_clear(&db);
            proxy.rewrite_config(&format!("{clear}{}", server_tls(mode, *root)));
            proxy.start_again().await;
            let got = seen(&proxy).await;
            let as_expected = match (expected, &got) {
                (Ok(expected), Ok(got)) => expected == got,
                (Err(part), Err(got)) => got.contains(part) && got.contains("on TLS"),
                _ => false,
            };
            assert!(as_expected, "{mode} {root:?} {signed:?}: {got:?}");
            proxy.kill_9();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_tls_is_used_by_prefer_alone() {
    let db = database().await;
    let clear = control_in_the_clear(&db);
    let mut proxy = Proxy::start(&db, &format!("{clear}{}", server_tls("prefer", None))).await;
    assert_eq!(seen(&proxy).await.as_deref(), Ok("false"));
    proxy.rewrite_config(&format!("{clear}{}", server_tls("require", None)));
    proxy.restart().await;
    let refused = seen(&proxy).await.unwrap_err();
    assert!(refused.contains("the server does not support TLS"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_offered_what_the_section_says() {
    let authority = Authority::new("ours");
    let signed = authority.sign("proxy", &["127.0.0.1"]);
    let db = database().await;
    let proxy = Proxy::start(&db, &proxy_tls(&signed, "")).await;
    let root = format!("sslrootcert={}", authority.root().display());
    let full = psql(proxy.port, &format!("sslmode=verify-full {root}")).unwrap();
    assert!(full.contains("SSL connection (protocol: TLSv1.3"), "{full}");
    assert!(!psql(proxy.port, "sslmode=disable").unwrap().contains("SSL"));
    let tls12 = psql(proxy.port, "sslmode=require ssl_max_protocol_version=TLSv1.2").unwrap();
    assert!(tls12.contains("TLSv1.2"), "{tls12}");

    proxy.rewrite_config(&proxy_tls(&signed, "mode = \"require\""));
    let refused =
        eventually("TLS is required", async || match psql(proxy.port, "sslmode=disable") {
            Err(refused) => Ok(refused),
            Ok(shown) => Err(shown),
        })
        .await;
    assert!(refused.contains("the proxy takes encrypted connections only"), "{refused}");
    assert!(psql(proxy.port, "sslmode=prefer").unwrap().contains("SSL connection"));

    proxy.rewrite_config(&proxy_tls(&signed, "mode = \"off\""));
    eventually("TLS is off", async || psql(proxy.port, "sslmode=disable")).await;
    let refused = psql(proxy.port, "sslmode=require").unwrap_err();
    assert!(refused.contains("server does not support SSL"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_of_clients_are_asked_for_and_checked() {
    let (authority, apps, others) =
        (Authority::new("ours"), Authority::new("apps"), Authority::new("others"));
    let signed = authority.sign("proxy", &["127.0.0.1"]);
    let (app, other) = (apps.sign("app", &[]), others.sign("other", &[]));
    let expired = apps.sign_expired("expired", &[]);
    let db = database().await;
    let section = |kind: &str| {
        let keys =
            format!("client_ca = \"{}\"\nclient_certificates = \"{kind}\"", apps.root().display());
        proxy_tls(&signed, &keys)
    };
    let proxy = Proxy::start(&db, &section("optional")).await;
    let login = |signed: Option<&Signed>| {
        let shown = signed.map_or_else(
            || "sslcert=/nowhere sslkey=/nowhere".to_owned(),
            |s| format!("sslcert={} sslkey={}", s.certificate.display(), s.key.display()),
        );
        psql(proxy.port, &format!("sslmode=require {shown}"))
    };
    login(None).unwrap();
    login(Some(&app)).unwrap();
    for wrong in [&other, &expired] {
        login(Some(wrong)).unwrap_err();
    }
    proxy.rewrite_config(&section("required"));
    eventually("one is required", async || match login(None) {
        Err(refused) => Ok(refused),
        Ok(shown) => Err(shown),
    })
    .await;
    login(Some(&app)).unwrap();
    login(Some(&other)).unwrap_err();
}

#[tokio::test(flavor = "multi_thread")]
async fn direct_tls_needs_the_name_of_the_protocol() {
    let authority = Authority::new("ours");
    let signed = authority.sign("proxy", &["127.0.0.1"]);
    let db = database().await;
    let proxy = Proxy::start(&db, &proxy_tls(&signed, "mode = \"require\"")).await;
    let direct = format!("{} sslmode=require sslnegotiation=direct", proxy.conninfo());
    let client = connect_tls(&direct, &authority, POSTGRESQL).await.unwrap();
    assert_eq!(rows(&client, "SELECT 1").await, [[Some("1".to_owned())]]);
    assert!(connect_tls(&direct, &authority, &[]).await.is_err());
    assert!(connect_tls(&direct, &authority, &[b"h2"]).await.is_err());
    let asked = format!("{} sslmode=require", proxy.conninfo());
    connect_tls(&asked, &authority, &[]).await.unwrap();
    connect_tls(&asked, &authority, POSTGRESQL).await.unwrap();
    assert!(connect_tls(&asked, &authority, &[b"h2"]).await.is_err());
    // libpq itself, where the driver brings one that knows of it.
    let script = "import psycopg, sys\n\
                  if psycopg.pq.version() < 170000: sys.exit('libpq is older than 17')\n\
                  c = psycopg.connect(sys.argv[1])\n\
                  print(c.execute('SELECT 41 + 1').fetchone()[0], c.pgconn.ssl_in_use)";
    let root = authority.root();
    let options = format!("{direct} sslmode=verify-full sslrootcert={}", root.display());
    let output = python().args(["-c", script, &options]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "42 True\n", "{said}");
}

/// Everything up to the end of the stream.
async fn to_the_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await.ok();
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_in_the_clear_around_a_handshake_is_refused_and_not_done() {
    let authority = Authority::new("ours");
    let signed = authority.sign("proxy", &["127.0.0.1"]);
    let db = database().await;
    db.client.batch_execute("CREATE TABLE t (a int)").await.unwrap();
    let proxy = Proxy::start(&db, &proxy_tls(&signed, "")).await;
    let hidden = [startup("postgres", &db.name, &[]), query("INSERT INTO t VALUES (1)")].concat();
    let connected = async || TcpStream::connect(("127.0.0.1", proxy.port)).await.unwrap();

    // Behind the request, in one packet.
    let mut stream = connected().await;
    stream.write_all(&[&SSL_REQUEST[..], &hidden].concat()).await.unwrap();
    let answer = to_the_end(&mut stream).await;
    let said = String::from_utf8_lossy(&answer);
    assert!(said.starts_with('E') && said.contains("received unencrypted data"), "{said}");

    // After the answer, in the place of the handshake.
    let mut stream = connected().await;
    stream.write_all(&SSL_REQUEST).await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), b'S');
    stream.write_all(&hidden).await.unwrap();
    let answer = to_the_end(&mut stream).await;
    assert!(!answer.contains(&b'R') && !answer.contains(&b'Z'), "{answer:?}");

    // A second request, and one under TLS.
    let mut stream = connected().await;
    stream.write_all(&[0, 0, 0, 8, 4, 210, 22, 48]).await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), b'N');
    stream.write_all(&[0, 0, 0, 8, 4, 210, 22, 48]).await.unwrap();
    let answer = to_the_end(&mut stream).await;
    assert_eq!(answer.first(), Some(&b'E'));
    let mut raw = raw_tls(&authority, proxy.port).await;
    raw.write_all(&SSL_REQUEST).await.unwrap();
    let mut answer = Vec::new();
    raw.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer.first(), Some(&b'E'));

    // Half a handshake, and half a packet under TLS: both end with their connection.
    let mut stream = connected().await;
    stream.write_all(&SSL_REQUEST).await.unwrap();
    stream.write_all(&[0x16, 3, 1, 0, 200]).await.unwrap();
    drop(stream);
    let mut raw = raw_tls(&authority, proxy.port).await;
    raw.write_all(&hidden[..20]).await.unwrap();
    raw.flush().await.unwrap();
    drop(raw);

    // A session as it should be, to know that the rest would have been seen.
    let mut raw = raw_tls(&authority, proxy.port).await;
    raw.write_all(&hidden).await.unwrap();
    eventually("the good one is done", async || {
        let count = rows(&db.client, "SELECT count(*) FROM t").await;
        if count == [[Some("1".to_owned())]] { Ok(()) } else { Err(count) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_says_more_than_yes_before_the_handshake_is_not_believed() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.read_exact(&mut [0; 8]).await.unwrap();
            // AuthenticationOk and ReadyForQuery, as somebody in between would put them there.
            let answer = b"SR\0\0\0\x08\0\0\0\0Z\0\0\0\x05I";
            stream.write_all(answer).await.unwrap();
            to_the_end(&mut stream).await;
        }
    });
    let db = database().await;
    let clear = control_in_the_clear(&db);
    let address = format!("[server]\naddress = \"127.0.0.1:{port}\"\n");
    let overrides = format!("{clear}{address}{}", server_tls("require", None));
    let proxy = Proxy::start(&db, &overrides).await;
    let refused = seen(&proxy).await.unwrap_err();
    assert!(refused.contains("cannot agree with the server on TLS"), "{refused}");
}

/// Connects by TLS, as a client that trusts one authority.
async fn trusting(authority: &Authority, proxy: &Proxy) -> Result<Client, String> {
    let conninfo = format!("{} sslmode=require", proxy.conninfo());
    connect_tls(&conninfo, authority, POSTGRESQL).await.map_err(|error| format!("{error:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_read_again_and_open_sessions_keep_theirs() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let signed = old.sign("proxy", &["127.0.0.1"]);
    let next = new.sign("proxy", &["127.0.0.1"]);
    let db = database().await;
    let proxy = Proxy::start(&db, &proxy_tls(&signed, "")).await;
    let session = trusting(&old, &proxy).await.unwrap();
    let rejected = || proxy.metric("pgsegue_config_rejected").unwrap();

    // The config file stays as it is; the folder of the certificates is watched as well.
    next.replace(&signed);
    let renewed = eventually("the new one is shown", async || trusting(&new, &proxy).await).await;
    assert!(trusting(&old, &proxy).await.is_err());
    rows(&session, "SELECT 1").await;
    eventually("both files were seen", async || if rejected() == 0.0 { Ok(()) } else { Err(()) })
        .await;

    // One that cannot be used changes nothing, whether it changed by itself or at SIGHUP.
    fs::write(&signed.certificate, "-----BEGIN CERTIFICATE-----\nnonsense").unwrap();
    eventually("it is rejected", async || if rejected() == 1.0 { Ok(()) } else { Err(()) }).await;
    trusting(&new, &proxy).await.unwrap();
    let log = proxy.log();
    assert!(log.contains("config file rejected, nothing changed"), "{log}");
    fs::copy(old.root(), &signed.certificate).unwrap();
    proxy.signal("HUP");
    eventually("the wrong key is named", async || {
        let log = proxy.log();
        if log.contains("the certificate cannot be used with this key") { Ok(()) } else { Err(log) }
    })
    .await;
    trusting(&new, &proxy).await.unwrap();
    old.sign("proxy", &["127.0.0.1"]).replace(&signed);
    eventually("the old authority again", async || trusting(&old, &proxy).await).await;
    eventually("it is accepted", async || if rejected() == 0.0 { Ok(()) } else { Err(()) }).await;
    for open in [&session, &renewed] {
        rows(open, "SELECT 1").await;
    }
}

/// A proxy with TLS on both legs and for its control connections.
struct Both {
    authority: Authority,
    postgres: Postgres,
    db: TestDb,
    proxy: Proxy,
}

impl Both {
    async fn new(ddl: &str, toml: &str) -> Self {
        let authority = Authority::new("ours");
        let signed = authority.sign("server", &["127.0.0.1"]);
        let postgres = tls_server(&authority, &signed, TRUST).await;
        let db = database_on(&postgres).await;
        db.client.batch_execute(ddl).await.unwrap();
        let client = authority.sign("proxy", &["127.0.0.1"]);
        let root = authority.root();
        let sections = server_tls("verify-full", Some(&root));
        let proxy = Proxy::start(&db, &format!("{}{sections}{toml}", proxy_tls(&client, ""))).await;
        Self { authority, postgres, db, proxy }
    }

    async fn client(&self) -> Client {
        trusting(&self.authority, &self.proxy).await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_request_reaches_the_server_by_tls() {
    let both = Both::new("", "").await;
    let encrypted = Arc::new(both.client().await);
    let plain = Arc::new(connect(&both.proxy.conninfo()).await);
    for client in [&encrypted, &plain] {
        let running = tokio::spawn({
            let client = Arc::clone(client);
            async move { client.batch_execute("SELECT pg_sleep(600)").await }
        });
        eventually("it sleeps", async || {
            let asleep = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
            let count = rows(&both.db.client, asleep).await;
            if count == [[Some("1".to_owned())]] { Ok(()) } else { Err(count) }
        })
        .await;
        let cancel = client.cancel_token();
        if Arc::ptr_eq(client, &encrypted) {
            cancel.cancel_query(connector(&both.authority, POSTGRESQL)).await.unwrap();
        } else {
            cancel.cancel_query(tokio_postgres::NoTls).await.unwrap();
        }
        let error = running.await.unwrap().unwrap_err();
        assert_eq!(error.code().unwrap().code(), "57014", "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_moves_over_tls_on_both_legs() {
    let toml = orders_toml("", "reads = 100\nsticky = \"statement\"");
    let both = Both::new(&format!("{ORDERS};{ORDERS_V2}"), &toml).await;
    let Both { db, proxy, .. } = &both;
    steer::start(proxy, "orders_v2");
    let client = both.client().await;
    assert_eq!(rows(&client, SEEN).await, [[Some("true".to_owned())]]);
    let insert = "INSERT INTO orders SELECT i, i % 7, i, 'new ' || i, 'e' || i \
                  FROM generate_series(100, 400) AS i";
    assert_eq!(client.execute(insert, &[]).await.unwrap(), 301);
    let update = "UPDATE orders SET total = total + $1 WHERE user_id = $2 RETURNING id";
    assert!(client.query(update, &[&5i32, &2i32]).await.unwrap().len() > 40);
    client.batch_execute("BEGIN; DELETE FROM orders WHERE id > 390; COMMIT").await.unwrap();
    steer::settled(proxy, db, "orders_v2").await;
    let shadow = steer::count(proxy, "shadow/read");
    eventually("the shadow answers", async || {
        let row = client.query_one("SELECT total FROM orders WHERE id = $1", &[&200i32]).await;
        assert_eq!(row.unwrap().get::<_, i32>(0), 200);
        let now = steer::count(proxy, "shadow/read");
        if now > shadow { Ok(()) } else { Err(now) }
    })
    .await;
    assert_same(&db.client, ORDERS_TABLE.mapped, ORDERS_TABLE.shadow).await;
    // The process's own connections use TLS as well, those of the commands included.
    let own = "SELECT DISTINCT ssl::text FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
               WHERE application_name LIKE 'pgsegue%'";
    assert_eq!(rows(&db.client, own).await, [[Some("true".to_owned())]]);
    let checked = proxy.pgsegue(&["check"]);
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn large_results_and_copies_pass_to_slow_readers_whole() {
    let both = Both::new("CREATE TABLE t (a int, b text)", "").await;
    let client = both.client().await;
    let rows_in = 200_000u64;
    let sink = client.copy_in::<_, bytes::Bytes>("COPY t FROM STDIN").await.unwrap();
    let mut writer = Box::pin(sink);
    for chunk in 0..200 {
        let lines: String =
            (0..1_000).map(|i| format!("{}\t{}\n", chunk * 1_000 + i, "x".repeat(90))).collect();
        writer.send(bytes::Bytes::from(lines)).await.unwrap();
    }
    assert_eq!(writer.as_mut().finish().await.unwrap(), rows_in);
    let mut out = Box::pin(client.copy_out("COPY t TO STDOUT").await.unwrap());
    eventually("the server waits for the reader", async || {
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'ClientWrite'";
        let count = rows(&both.db.client, waits).await;
        if count == [[Some("1".to_owned())]] { Ok(()) } else { Err(count) }
    })
    .await;
    let mut bytes = 0;
    while let Some(chunk) = out.try_next().await.unwrap() {
        bytes += chunk.len();
    }
    let digits: usize = (0..rows_in).map(|i| i.to_string().len()).sum();
    assert_eq!(bytes, digits + 92 * usize::try_from(rows_in).unwrap());
    let value = client.query_one("SELECT repeat('y', 30000000)", &[]).await.unwrap();
    assert_eq!(value.get::<_, &str>(0).len(), 30_000_000);
    // A client that ends the stream after its last query still gets the answer.
    let mut raw = raw_tls(&both.authority, both.proxy.port).await;
    let said = [startup("postgres", &both.db.name, &[]), query("SELECT repeat('z', 1000000)")];
    raw.write_all(&said.concat()).await.unwrap();
    raw.shutdown().await.unwrap();
    let mut answer = Vec::new();
    raw.read_to_end(&mut answer).await.ok();
    assert!(answer.len() > 1_000_000 && answer.ends_with(b"Z\0\0\0\x05I"), "{}", answer.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_may_be_asked_for_tls_directly() {
    // Postgres has that from 17 on; a proxy in its place has it before every Postgres.
    let authority = Authority::new("ours");
    let signed = authority.sign("proxy", &["127.0.0.1"]);
    let (behind, db) = (database().await, database().await);
    let required = proxy_tls(&signed, "mode = \"require\"");
    let inner = Proxy::start(&behind, &required).await;
    let outer = format!(
        "{}[server]\naddress = \"127.0.0.1:{}\"\n{}negotiation = \"direct\"\n",
        control_in_the_clear(&db),
        inner.port,
        server_tls("verify-full", Some(&authority.root()))
    );
    let proxy = Proxy::start(&db, &outer).await;
    assert_eq!(seen(&proxy).await.as_deref(), Ok("false"), "behind the inner one");
    // What it had to be by: the inner one takes nothing else.
    let refused = tokio_postgres::connect(&inner.conninfo(), tokio_postgres::NoTls).await;
    assert_eq!(refused.err().unwrap().code().unwrap().code(), "28000");
}
