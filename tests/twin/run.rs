//! Runs a case on both sides and says where they part.

use crate::case::{Begin, Case, Step};
use crate::compare;
use crate::frames::{Exchange, Until, simple};
use crate::pen::{Order, Sql};
use crate::raw::{Message, Raw};
use crate::sessions::TRANSACTION;
use crate::stand::{PATIENCE, Spent, Stand, connect, pinned};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// What went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The migration did not become ready.
    NotReady,
    /// Replies differ.
    Reply,
    /// No reply.
    Hang,
    /// The sources differ.
    Source,
    /// A shadow differs though nothing is on record.
    Silent,
    /// Dirty keys are left, or the migration is not ready any more.
    NotClean,
    /// One side could not be serialized where the other could; no failure.
    Serialization,
    /// A panic.
    Panic,
}

#[derive(Debug, Clone)]
pub struct Failure {
    pub kind: Kind,
    /// The step that showed it.
    pub step: Option<usize>,
    pub text: String,
}

/// What a run of a case did.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counts {
    pub statements: u64,
    pub errors: u64,
    pub shadow_reads: u64,
    pub source_reads: u64,
    pub mirrored: u64,
    pub recorded: u64,
    /// Cases that ended early as one side could not be serialized.
    pub parted: u64,
    pub spent: Spent,
}

/// Whether both databases' tables have to be the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sources {
    Same,
    Parted,
}

/// Runs a case. A panic of a side's client is a failure, too.
pub async fn run(case: &Case) -> Result<Counts, Failure> {
    let owned = case.clone();
    let done = tokio::spawn(async move { run_both(&owned).await }).await;
    done.unwrap_or_else(|error| {
        let text = format!("{error:?}");
        Err(Failure { kind: Kind::Panic, step: None, text })
    })
}

async fn run_both(case: &Case) -> Result<Counts, Failure> {
    let mut stand = Stand::build(case).await.map_err(|text| Failure {
        kind: Kind::NotReady,
        step: None,
        text,
    })?;
    let mut counts = Counts::default();
    let result = statements(case, &mut stand, &mut counts).await;
    counts.shadow_reads = stand.counted("shadow", "read");
    counts.source_reads = stand.counted("source", "read");
    counts.mirrored = stand.counted("mirrored", "write");
    counts.recorded = ["read", "write", "other"].map(|k| stand.counted("recorded", k)).iter().sum();
    let began = Instant::now();
    let result = match result {
        Ok(()) => at_the_end(case, &stand, Sources::Same).await,
        // What is locked is not the same, as more is read and written: from here on both differ.
        Err(Failure { kind: Kind::Serialization, .. }) => {
            counts.parted = 1;
            at_the_end(case, &stand, Sources::Parted).await
        }
        Err(failure) => Err(failure),
    };
    let mut spent = stand.spent;
    stand.end().await;
    spent.ending = began.elapsed();
    counts.spent = spent;
    result.map(|()| counts)
}

async fn statements(case: &Case, stand: &mut Stand, counts: &mut Counts) -> Result<(), Failure> {
    let began = Instant::now();
    let mut pairs = Vec::new();
    for _ in 0..case.sessions {
        pairs.push(stand.pair(case).await);
    }
    for (number, step) in case.steps.iter().enumerate() {
        let fail = |kind, text| Failure { kind, step: Some(number), text };
        match step {
            Step::Reads(percent) => {
                stand.set_reads(case, *percent).await.map_err(|text| fail(Kind::NotReady, text))?
            }
            Step::Settle => settle(stand).await,
            Step::Send { session, exchange } => {
                let (plain, live) = &mut pairs[*session];
                send(case, stand, plain, live, exchange, counts)
                    .await
                    .map_err(|(k, t)| fail(k, t))?;
            }
            Step::Cancel { session, sql } => {
                let (plain, live) = &mut pairs[*session];
                cancel(stand, plain, live, sql).await.map_err(|(k, t)| fail(k, t))?;
            }
        }
    }
    for (plain, live) in &mut pairs {
        // What is still open ends here, not some time later.
        let exchange = simple(&Sql::plain("ROLLBACK"));
        send(case, stand, plain, live, &exchange, counts)
            .await
            .map_err(|(kind, text)| Failure { kind, step: None, text })?;
    }
    stand.spent.statements = began.elapsed() - stand.spent.settling;
    Ok(())
}

/// Waits for the gate, but not for ever: a statement before may have blocked the migration, which
/// is found at the end.
async fn settle(stand: &mut Stand) {
    let began = Instant::now();
    while !stand.is_open() && began.elapsed() < Duration::from_secs(3) {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    if !stand.is_open() {
        stand.spent.unsettled += 1;
    }
    stand.spent.settling += began.elapsed();
}

/// With one name for another of the same length.
fn renamed(bytes: &[u8], from: &str, to: &str) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for at in 0..bytes.len() {
        if bytes[at..].starts_with(from.as_bytes()) {
            bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
        }
    }
    bytes
}

async fn reply(raw: &mut Raw, name: &str, exchange: &Exchange) -> Result<Vec<Message>, String> {
    let frames = renamed(&exchange.frames, TRANSACTION, name);
    raw.stream.write_all(&frames).await.map_err(|e| e.to_string())?;
    let mut messages = read(raw, exchange.until).await?;
    messages.iter_mut().for_each(|m| m.body = renamed(&m.body, name, TRANSACTION));
    Ok(messages)
}

async fn read(raw: &mut Raw, until: Until) -> Result<Vec<Message>, String> {
    let mut messages = Vec::new();
    let reading = async {
        let mut readies = match until {
            Until::Readies(readies) => readies,
            Until::Over => 1,
        };
        let mut counted = until != Until::Over;
        while readies > 0 {
            let Some(message) = raw.next().await else { return Err("closed") };
            counted |= message.tag == b'D' && message.body.ends_with(b"over");
            // In a transaction that has failed there is no row.
            counted |= message.tag == b'E' && messages.iter().any(|m: &Message| m.tag == b'Z');
            readies -= usize::from(counted && message.tag == b'Z');
            messages.push(message);
        }
        Ok(())
    };
    let read = tokio::time::timeout(PATIENCE, reading).await;
    match read {
        Ok(Ok(())) => Ok(messages),
        Ok(Err(why)) => Err(format!("{why} after {:?}", raw.shown(&messages))),
        Err(_elapsed) => Err(format!("no more after {:?}", raw.shown(&messages))),
    }
}

async fn send(
    case: &Case,
    stand: &Stand,
    plain: &mut Raw,
    live: &mut Raw,
    exchange: &Exchange,
    counts: &mut Counts,
) -> Result<(), (Kind, String)> {
    let names = [&stand.plain, &stand.live].map(|database| stand.transaction(database));
    let (expected, got) =
        tokio::join!(reply(plain, &names[0], exchange), reply(live, &names[1], exchange));
    counts.statements += 1;
    let expected = expected.map_err(|e| (Kind::Hang, format!("plain: {e}")))?;
    let got = got.map_err(|e| (Kind::Hang, format!("live: {e}")))?;
    counts.errors += u64::from(expected.iter().any(|m| m.tag == b'E'));
    // Without an ORDER BY it is the heap's, which hangs on when the space of old versions is used again.
    let order = match exchange.label.to_lowercase().contains("order by") {
        true => exchange.order,
        false => Order::Any,
    };
    let mut expected = compare::shown(plain, &expected, order);
    let mut got = compare::shown(live, &got, order);
    if case.schema.tables.iter().any(|t| !t.is_printable()) {
        expected = expected.into_iter().map(compare::without_values).collect();
        got = got.into_iter().map(compare::without_values).collect();
    }
    if expected == got || case.sessions == 1 {
        return same(&expected, &got);
    }
    let unserialized = |lines: &[String]| lines.iter().position(|l| l.starts_with("E C40001 "));
    match (unserialized(&expected), unserialized(&got)) {
        (None, None) => same(&expected, &got),
        // A mark is written before the Bind, and fails there as the Execute would.
        (Some(direct), Some(marked))
            if marked < direct && expected[..direct].starts_with(&got[..marked]) =>
        {
            same(&expected[direct..], &got[marked..])
        }
        (Some(_), Some(_)) => same(&expected, &got),
        _ => Err((Kind::Serialization, String::new())),
    }
}

fn same(expected: &[String], got: &[String]) -> Result<(), (Kind, String)> {
    // In a transaction that fails while more is sent, what is wrong with that is found in another order.
    let failed = expected.iter().position(|line| line == "Z E").unwrap_or(expected.len());
    let fail = |a: &str, b: &str| a.starts_with("E ") && b.starts_with("E ");
    let equal = |(at, (a, b)): (usize, (&String, &String))| {
        a == b || compare::may_part(a, b) || at > failed && fail(a, b)
    };
    if expected.len() == got.len() && expected.iter().zip(got).enumerate().all(equal) {
        return Ok(());
    }
    let lines = |lines: &[String]| lines.join("\n      ");
    let text = format!("    expected\n      {}\n    got\n      {}", lines(expected), lines(got));
    Err((Kind::Reply, text))
}

/// A statement that sleeps on both sides and is cancelled there.
async fn cancel(
    stand: &Stand,
    plain: &mut Raw,
    live: &mut Raw,
    sql: &str,
) -> Result<(), (Kind, String)> {
    let frames = crate::raw::query(sql);
    let (plain_port, live_port) = stand.ports();
    let sides = [(plain, plain_port, &stand.plain), (live, live_port, &stand.live)];
    let mut said = Vec::new();
    for (raw, port, database) in sides {
        let wait = |e: std::io::Error| (Kind::Hang, e.to_string());
        raw.stream.write_all(&frames).await.map_err(wait)?;
        let watcher = connect(database).await;
        let began = Instant::now();
        loop {
            // In a transaction that has failed it does not sleep.
            let asleep = "SELECT count(*) > 0 FROM pg_stat_activity WHERE \
                 datname = current_database() AND wait_event = 'PgSleep'";
            if watcher.query_one(asleep, &[]).await.unwrap().get(0) {
                let mut request = 16u32.to_be_bytes().to_vec();
                request.extend(80_877_102u32.to_be_bytes());
                request.extend(raw.key.0.to_be_bytes());
                request.extend(raw.key.1.to_be_bytes());
                let mut stream = TcpStream::connect(("127.0.0.1", port)).await.map_err(wait)?;
                stream.write_all(&request).await.map_err(wait)?;
                // The server closes when it has sent its signals, of which there are two: the second one
                // may come when the first has ended the statement, and hit the next.
                let _closed = stream.read(&mut [0]).await;
                break;
            }
            if began.elapsed() > Duration::from_millis(500) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let messages = read(raw, Until::Readies(1)).await.map_err(|e| (Kind::Hang, e))?;
        said.push(raw.shown(&messages));
    }
    same(&said[0], &said[1])
}

async fn at_the_end(case: &Case, stand: &Stand, are: Sources) -> Result<(), Failure> {
    let fail = |kind, text| Failure { kind, step: None, text };
    if are == Sources::Same {
        compare::sources(case, stand).await.map_err(|text| fail(Kind::Source, text))?;
    }
    let control = stand.control().await.map_err(|text| fail(Kind::NotClean, text))?;
    let client = pinned(&stand.live).await;
    let silent = async |kind| {
        for migration in &case.plan.migrations {
            let rows = compare::silent(&client, migration).await.map_err(|t| fail(kind, t))?;
            if !rows.is_empty() {
                let text = format!("{}: {}", migration.name, rows.join("\n  "));
                return Err(fail(kind, text));
            }
        }
        Ok(())
    };
    if case.begin == Begin::Ready {
        silent(Kind::Silent).await?;
    }
    clean(case, stand, &control, &client).await.map_err(|text| fail(Kind::NotClean, text))?;
    silent(Kind::Silent).await?;
    let found: u64 = case
        .plan
        .migrations
        .iter()
        .flat_map(|m| ["missing", "orphaned", "different"].map(|kind| (m.name.clone(), kind)))
        .map(|(name, kind)| {
            stand.metrics.verify_differences.with_label_values(&[name.as_str(), kind]).get()
        })
        .sum();
    let sql = "SELECT count(*) FROM twin.marks";
    let marks: i64 = client.query_one(sql, &[]).await.unwrap().get(0);
    if found > 0 && marks == 0 {
        let text = format!("verifies found {found} differences though nothing was marked");
        return Err(fail(Kind::Silent, text));
    }
    Ok(())
}

/// Waits until no key is dirty and every migration is ready.
async fn clean(
    case: &Case,
    stand: &Stand,
    control: &pgsegue::engine::Control,
    client: &tokio_postgres::Client,
) -> Result<(), String> {
    let began = Instant::now();
    loop {
        stand.until_ready(case, control).await?;
        let sql = "SELECT coalesce(string_agg(migration || ' ' || coalesce(key::text, 'all') || \
                   ' ' || reason, '; '), '') FROM pgsegue.dirty_keys";
        let dirty: String = client.query_one(sql, &[]).await.map_err(|e| e.to_string())?.get(0);
        if dirty.is_empty() {
            return Ok(());
        }
        if began.elapsed() > PATIENCE {
            return Err(format!("dirty for ever: {dirty}"));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
