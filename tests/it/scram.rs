//! Logins over every combination of encrypted and plain legs: every method that a server may ask
//! for, with and without channel binding, by the drivers that apps use.

use crate::live::raw::{frame, startup};
use crate::support::{
    Authority, Proxy, Signed, TestDb, connect_tls, database_on, node, python, raw_tls, rows,
    tls_server,
};
use pgsegue::throwaway::Postgres;
use std::process::{Command, Output};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};

/// Every role by the method that it logs in with.
const HBA: &str = "
host replication scram 127.0.0.1/32 scram-sha-256
host all postgres 127.0.0.1/32 trust
host all trusted 127.0.0.1/32 trust
host all md5 127.0.0.1/32 md5
host all clear 127.0.0.1/32 password
hostssl all certified 127.0.0.1/32 cert
host all all 127.0.0.1/32 scram-sha-256
";
const PASSWORD: &str = "pässword";

/// A server with TLS and roles, a proxy's certificate, and who signed all that.
struct Place {
    authority: Authority,
    proxy: Signed,
    postgres: Postgres,
    db: TestDb,
}

impl Place {
    async fn new() -> Self {
        let authority = Authority::new("pgsegue tests");
        let server = authority.sign("server", &["127.0.0.1"]);
        let proxy = authority.sign("proxy", &["127.0.0.1"]);
        let postgres = tls_server(&authority, &server, HBA).await;
        let db = database_on(&postgres).await;
        let roles = format!(
            "CREATE ROLE scram LOGIN PASSWORD '{PASSWORD}'; CREATE ROLE trusted LOGIN; \
             CREATE ROLE certified LOGIN; CREATE ROLE clear LOGIN PASSWORD '{PASSWORD}'; \
             SET password_encryption = 'md5'; CREATE ROLE md5 LOGIN PASSWORD '{PASSWORD}'; \
             CREATE ROLE old LOGIN PASSWORD '{PASSWORD}'; RESET password_encryption"
        );
        db.client.batch_execute(&roles).await.unwrap();
        Self { authority, proxy, postgres, db }
    }

    /// For clients: TLS if they want it.
    fn client_leg(&self) -> String {
        let Signed { certificate, key } = &self.proxy;
        format!(
            "[proxy.tls]\ncertificate = \"{}\"\nkey = \"{}\"\n",
            certificate.display(),
            key.display()
        )
    }

    /// To the server: TLS, with a certificate for the role `certified`.
    fn server_leg(&self) -> String {
        let Signed { certificate, key } = self.authority.sign("certified", &[]);
        format!(
            "[server.tls]\nmode = \"verify-full\"\nroot_certificate = \"{}\"\n\
             certificate = \"{}\"\nkey = \"{}\"\n",
            self.authority.root().display(),
            certificate.display(),
            key.display()
        )
    }
}

/// What psql shows of a login: `client leg,server leg`, or the error.
fn psql(
    place: &Place,
    port: u16,
    user: &str,
    password: &str,
    options: &str,
) -> Result<String, String> {
    let conninfo = format!("host=127.0.0.1 port={port} user={user} dbname=postgres {options}");
    let sql = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    let output = Command::new(place.postgres.bin("psql").expect("psql is needed"))
        .args(["-XAtw", "-c", "\\conninfo", "-c", sql, &conninfo])
        .env("PGPASSWORD", password)
        .output()
        .unwrap();
    shown(&output)
}

fn shown(output: &Output) -> Result<String, String> {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let client = if text.contains("SSL connection") { "tls" } else { "plain" };
    let server = if text.trim_end().ends_with('t') { "tls" } else { "plain" };
    Ok(format!("{client},{server}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_method_logs_in_on_every_combination_of_legs() {
    let place = Place::new().await;
    let other = database_on(&place.postgres).await;
    let plain = Proxy::start(&other, &place.client_leg()).await;
    let both = format!("{}{}", place.client_leg(), place.server_leg());
    let encrypted = Proxy::start(&place.db, &both).await;
    let mut wrong = Vec::new();
    for (proxy, server_leg) in [(&plain, "plain"), (&encrypted, "tls")] {
        for (sslmode, client_leg) in [("disable", "plain"), ("require", "tls")] {
            for binding in ["disable", "prefer", "require"] {
                for user in ["scram", "md5", "clear", "trusted", "certified"] {
                    let options = format!("sslmode={sslmode} channel_binding={binding}");
                    let got = psql(&place, proxy.port, user, PASSWORD, &options);
                    let bound = user == "scram" && client_leg == "tls" && server_leg == "tls";
                    let expected = (binding != "require" || bound)
                        && (user != "certified" || server_leg == "tls");
                    let legs = format!("{client_leg},{server_leg}");
                    if got.is_ok() != expected || got.as_ref().is_ok_and(|g| *g != legs) {
                        wrong.push(format!("{user} {options} {server_leg}: {got:?}"));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(!encrypted.log().contains(PASSWORD) && !encrypted.log().contains("SCRAM-SHA-256$"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_login_is_refused_in_the_words_of_the_server() {
    let place = Place::new().await;
    let both = format!("{}{}", place.client_leg(), place.server_leg());
    let proxy = Proxy::start(&place.db, &both).await;
    place.db.client.batch_execute("CREATE ROLE bare LOGIN").await.unwrap();
    place
        .db
        .client
        .batch_execute(&format!(
            "CREATE ROLE expired LOGIN PASSWORD '{PASSWORD}' VALID UNTIL '2001-01-01'"
        ))
        .await
        .unwrap();
    for binding in ["disable", "prefer", "require"] {
        for (user, password) in [
            ("scram", "wrong"),
            ("nobody", PASSWORD),
            ("bare", PASSWORD),
            ("old", PASSWORD),
            ("expired", PASSWORD),
        ] {
            let options = format!("sslmode=require channel_binding={binding}");
            let text = |port| {
                let error = psql(&place, port, user, password, &options).unwrap_err();
                error.split_once("failed: ").unwrap().1.to_owned()
            };
            let direct = text(place.postgres.port());
            assert!(direct.contains("password authentication failed"), "{direct}");
            assert_eq!(text(proxy.port), direct, "{user} {binding}");
        }
    }
    // The same way a second time: nothing of a login is kept.
    let change = "ALTER ROLE scram PASSWORD 'changed'";
    let options = "sslmode=require channel_binding=require";
    assert_eq!(psql(&place, proxy.port, "scram", PASSWORD, options).as_deref(), Ok("tls,tls"));
    place.db.client.batch_execute(change).await.unwrap();
    psql(&place, proxy.port, "scram", PASSWORD, options).unwrap_err();
    assert_eq!(psql(&place, proxy.port, "scram", "changed", options).as_deref(), Ok("tls,tls"));
}

#[tokio::test(flavor = "multi_thread")]
async fn verifiers_come_from_a_query_of_ones_own_or_the_client_is_told_what_to_do() {
    let place = Place::new().await;
    place
        .db
        .client
        .batch_execute(&format!(
            "CREATE ROLE keeper LOGIN PASSWORD '{PASSWORD}'; \
             CREATE FUNCTION verifier_of(name text) RETURNS text LANGUAGE sql SECURITY DEFINER \
             SET search_path = pg_catalog, pg_temp AS \
             $$ SELECT rolpassword FROM pg_authid WHERE rolname = name $$; \
             REVOKE ALL ON FUNCTION verifier_of FROM PUBLIC; \
             GRANT EXECUTE ON FUNCTION verifier_of TO keeper; GRANT CREATE ON DATABASE {} TO keeper",
            place.db.name
        ))
        .await
        .unwrap();
    let both = format!("{}{}", place.client_leg(), place.server_leg());
    let url = format!(
        "[control]\nurl = \"host=127.0.0.1 port={} user=keeper dbname={} password={PASSWORD} \
         channel_binding=require\"\n",
        place.postgres.port(),
        place.db.name
    );
    let own = format!("{both}{url}verifier_query = \"SELECT verifier_of($1)\"\n");
    let require = "sslmode=require channel_binding=require";
    let mut proxy = Proxy::start(&place.db, &own).await;
    assert_eq!(psql(&place, proxy.port, "scram", PASSWORD, require).as_deref(), Ok("tls,tls"));
    proxy.rewrite_config(&format!("{both}{url}"));
    proxy.restart().await;
    let refused = psql(&place, proxy.port, "scram", PASSWORD, require).unwrap_err();
    assert!(refused.contains("the proxy has no SCRAM verifiers"), "{refused}");
    assert!(refused.contains("HINT:  Connect with channel_binding=disable"), "{refused}");
    assert!(proxy.log().contains("42501 permission denied for table pg_authid"));
    let disable = "sslmode=require channel_binding=disable";
    assert_eq!(psql(&place, proxy.port, "scram", PASSWORD, disable).as_deref(), Ok("tls,tls"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_drivers_bind_their_logins_to_the_proxys_certificate() {
    let place = Place::new().await;
    let both = format!("{}{}", place.client_leg(), place.server_leg());
    let proxy = Proxy::start(&place.db, &both).await;
    let root = place.authority.root();
    let root = root.display();
    let own = format!(
        "host=127.0.0.1 port={} user=scram password={PASSWORD} dbname=postgres sslmode=require \
         channel_binding=require",
        proxy.port
    );
    let client = connect_tls(&own, &place.authority, &[]).await.unwrap();
    assert_eq!(rows(&client, "SELECT current_user").await, [[Some("scram".to_owned())]]);

    let script = "import psycopg, sys\n\
                  print(psycopg.connect(sys.argv[1]).execute('SELECT current_user').fetchone()[0])";
    let conninfo = format!("{own} sslmode=verify-full sslrootcert={root}");
    assert_eq!(printed(python().args(["-c", script, &conninfo])), "scram\n");

    let script = "const { Client } = require('pg'); const fs = require('fs');\n\
                  const [port, password, root] = process.argv.slice(1);\n\
                  const ssl = { ca: fs.readFileSync(root).toString() };\n\
                  (async () => { for (const enableChannelBinding of [true, false]) {\n\
                  const client = new Client({ host: '127.0.0.1', port, user: 'scram', password,\n\
                    database: 'postgres', ssl, enableChannelBinding });\n\
                  await client.connect();\n\
                  console.log((await client.query('SELECT current_user')).rows[0].current_user);\n\
                  await client.end(); } })();";
    let (port, root) = (proxy.port.to_string(), root.to_string());
    assert_eq!(printed(node().args(["-e", script, &port, PASSWORD, &root])), "scram\nscram\n");
}

fn printed(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn replication_and_other_databases_log_in_the_same_way() {
    let place = Place::new().await;
    place.db.client.batch_execute("ALTER ROLE scram REPLICATION").await.unwrap();
    let both = format!("{}{}", place.client_leg(), place.server_leg());
    let proxy = Proxy::start(&place.db, &both).await;
    for replication in ["database", "true"] {
        let conninfo = format!(
            "host=127.0.0.1 port={} user=scram dbname={} replication={replication} \
             sslmode=require channel_binding=require",
            proxy.port, place.db.name
        );
        let output = Command::new(place.postgres.bin("psql").unwrap())
            .args(["-XAtw", "-c", "IDENTIFY_SYSTEM", &conninfo])
            .env("PGPASSWORD", PASSWORD)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert_eq!(text.matches('|').count(), 3, "{output:?}");
    }
}

/// A client-final message that is bound to another certificate, or is none at all.
#[tokio::test(flavor = "multi_thread")]
async fn a_binding_to_another_certificate_is_refused_by_the_proxy() {
    let place = Place::new().await;
    let both = format!("{}{}", place.client_leg(), place.server_leg());
    let proxy = Proxy::start(&place.db, &both).await;
    let proof = "A".repeat(43);
    for (last, expected) in [
        ("c=cD10bHMtc2VydmVyLWVuZC1wb2ludCwsAAAA,r=NONCE,p=PROOF=", "channel binding check failed"),
        ("c=biws,r=NONCE,p=PROOF=", "channel binding check failed"),
        ("c=biws", "malformed SCRAM message"),
        ("", "malformed SCRAM message"),
    ] {
        let mut raw = raw_tls(&place.authority, proxy.port).await;
        raw.write_all(&startup("scram", "postgres", &[])).await.unwrap();
        let offered = message(&mut raw).await;
        assert!(offered.windows(5).any(|w| w == b"-PLUS"), "{offered:?}");
        let first = b"p=tls-server-end-point,,n=,r=abc";
        let length = u32::try_from(first.len()).unwrap().to_be_bytes();
        let body = [b"SCRAM-SHA-256-PLUS\0", &length[..], first].concat();
        raw.write_all(&frame(b'p', &body)).await.unwrap();
        let server_first = message(&mut raw).await;
        let text = String::from_utf8_lossy(&server_first[9..]).into_owned();
        let nonce = text.strip_prefix("r=").unwrap().split(',').next().unwrap();
        assert!(nonce.starts_with("abc") && nonce.len() > 20, "{text}");
        let last = last.replace("NONCE", nonce).replace("PROOF", &proof);
        raw.write_all(&frame(b'p', last.as_bytes())).await.unwrap();
        let answer = message(&mut raw).await;
        let said = String::from_utf8_lossy(&answer);
        assert!(said.starts_with('E') && said.contains(expected), "{said}");
        let mut rest = Vec::new();
        raw.read_to_end(&mut rest).await.ok();
        assert_eq!(rest, b"");
    }
    // What is not SCRAM is the server's to answer.
    for (hostile, code) in [
        (frame(b'p', b"SCRAM-SHA-256-PLUS\0\xff\xff\xff\xff"), "08P01"),
        (frame(b'p', b"NOT-A-MECHANISM\0\0\0\0\x01x"), "08P01"),
        (frame(b'p', b""), "08P01"),
        (frame(b'Q', b"SELECT 1\0"), "08P01"),
        (frame(b'p', &vec![b'x'; 70_000]), "08P01"),
        (b"p\0\0\0\x01".to_vec(), "08P01"),
    ] {
        let mut raw = raw_tls(&place.authority, proxy.port).await;
        raw.write_all(&startup("scram", "postgres", &[])).await.unwrap();
        message(&mut raw).await;
        // One that is too long is refused before it has been read.
        raw.write_all(&hostile).await.ok();
        raw.shutdown().await.ok();
        let mut answer = Vec::new();
        raw.read_to_end(&mut answer).await.ok();
        let said = String::from_utf8_lossy(&answer);
        // A choice without a first message is answered by asking for it.
        let asked = answer == b"R\0\0\0\x08\0\0\0\x0b";
        assert!(said.is_empty() || asked || said.contains(code), "{hostile:?}: {said}");
        assert!(!answer.windows(9).any(|w| w == b"R\0\0\0\x08\0\0\0\0"), "{said}");
    }
}

/// One frame of the server.
async fn message(stream: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut message = vec![0; 5];
    stream.read_exact(&mut message).await.unwrap();
    let length = u32::from_be_bytes(message[1..].try_into().unwrap());
    message.resize(usize::try_from(length).unwrap() + 1, 0);
    stream.read_exact(&mut message[5..]).await.unwrap();
    message
}
