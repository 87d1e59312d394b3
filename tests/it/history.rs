//! Writers that keep a history: what was acknowledged, and what may or may not have happened
//! because the connection was lost before the answer came.
//!
//! Each writer has its own rows, so that it knows what each of them must hold. A change in doubt
//! retires its rows: whether it happened is asked at the very end.

use crate::support::{TestDb, connect, eventually, rows};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::task::JoinHandle;
use tokio_postgres::{Client, Error, NoTls, Statement};

pub const MIGRATION: &str = r#"
[[migration]]
name = "stock"
source = "public.stock"
shadow = "public.stock_v2"
key = ["id"]
backfill_rows_per_second = 15000
[migration.columns]
id = "id"
amount = "v * 100"
[migration.reverse]
v = "amount / 100"
[migration.routing]
reads = 50
dark_reads = 10
sticky = "statement"
"#;
const ROWS: i32 = 20_000;
const WRITERS: i32 = 6;
/// Longer than any answer takes: a statement without one by then hangs.
const HANGS: Duration = Duration::from_secs(60);

/// Between attempts to connect.
const RECONNECT: Duration = Duration::from_millis(5);

/// Random numbers that a seed repeats.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// From `PGSEGUE_TEST_SEED`, or else from the clock.
    pub fn seeded() -> Self {
        let set = std::env::var("PGSEGUE_TEST_SEED").ok().and_then(|text| text.parse().ok());
        let seed = set.unwrap_or_else(|| {
            u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros())
                .unwrap()
        });
        eprintln!("to repeat: PGSEGUE_TEST_SEED={seed}");
        Self(seed | 1)
    }

    /// A number below `bound` (xorshift64).
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// One row before and after; `None` is no row.
#[derive(Debug, Clone, Copy)]
struct Change {
    id: i32,
    before: Option<i64>,
    after: Option<i64>,
}

/// The changes of one transaction.
#[derive(Debug, Default)]
struct Pending {
    changes: Vec<Change>,
    commit_was_sent: bool,
}

struct Writer {
    number: i32,
    random: Random,
    /// What every row of this writer holds, apart from those in doubt.
    known: BTreeMap<i32, Option<i64>>,
    doubts: Vec<Vec<Change>>,
    next_id: i32,
}

/// The statements of one connection.
struct Session {
    client: Client,
    update: Statement,
    insert: Statement,
    upsert: Statement,
    delete: Statement,
    rekey: Statement,
    read: Statement,
}

impl Session {
    async fn open(conninfo: &str) -> Result<Self, Error> {
        let (client, connection) = tokio_postgres::connect(conninfo, NoTls).await?;
        tokio::spawn(connection);
        Ok(Self {
            update: client.prepare("UPDATE stock SET v = $2 WHERE id = $1").await?,
            insert: client.prepare("INSERT INTO stock VALUES ($1, $2)").await?,
            upsert: client
                .prepare(
                    "INSERT INTO stock VALUES ($1, $2) ON CONFLICT (id) DO UPDATE \
                     SET v = excluded.v RETURNING v",
                )
                .await?,
            delete: client.prepare("DELETE FROM stock WHERE id = $1 RETURNING id").await?,
            rekey: client.prepare("UPDATE stock SET id = $2 WHERE id = $1").await?,
            read: client.prepare("SELECT v FROM stock WHERE id = $1").await?,
            client,
        })
    }
}

impl Writer {
    fn new(number: i32, mut random: Random) -> Self {
        random.0 ^= u64::try_from(number + 1).unwrap() << 32;
        let own = (1..=ROWS).filter(|id| id % WRITERS == number);
        Self {
            number,
            random,
            known: own.map(|id| (id, Some(i64::from(id)))).collect(),
            doubts: Vec::new(),
            next_id: (ROWS / WRITERS + 1) * WRITERS + number,
        }
    }

    fn pick(&mut self) -> (i32, Option<i64>) {
        let number = self.random.below(u64::try_from(self.known.len()).unwrap());
        let found = self.known.iter().nth(usize::try_from(number).unwrap()).unwrap();
        (*found.0, *found.1)
    }

    fn value(&mut self) -> i64 {
        i64::try_from(self.random.below(1 << 40)).unwrap()
    }

    fn new_id(&mut self) -> i32 {
        self.next_id += WRITERS;
        self.next_id
    }

    /// One transaction; the changes in `pending` have happened when it is `Ok`.
    async fn step(&mut self, session: &Session, pending: &mut Pending) -> Result<(), Error> {
        let (id, before) = self.pick();
        let value = self.value();
        let after = Some(value);
        let affected = u64::from(before.is_some());
        match self.random.below(9) {
            0 | 1 => {
                let after = before.and(after);
                *pending = commits_alone(&[Change { id, before, after }]);
                let count = session.client.execute(&session.update, &[&id, &value]).await?;
                assert_eq!(count, affected, "update of {id}, {before:?}");
            }
            2 => {
                let id = self.new_id();
                *pending = commits_alone(&[Change { id, before: None, after }]);
                let count = session.client.execute(&session.insert, &[&id, &value]).await?;
                assert_eq!(count, 1);
            }
            3 => {
                *pending = commits_alone(&[Change { id, before, after: None }]);
                let gone = session.client.query(&session.delete, &[&id]).await?;
                let gone: Vec<i32> = gone.iter().map(|row| row.get(0)).collect();
                assert_eq!(gone, before.map(|_| id).into_iter().collect::<Vec<_>>());
            }
            4 => {
                *pending = commits_alone(&[Change { id, before, after }]);
                let row = session.client.query_one(&session.upsert, &[&id, &value]).await?;
                assert_eq!(row.get::<_, i64>(0), value);
            }
            5 => {
                let to = self.new_id();
                *pending = commits_alone(&[
                    Change { id, before, after: None },
                    Change { id: to, before: None, after: before },
                ]);
                let count = session.client.execute(&session.rekey, &[&id, &to]).await?;
                assert_eq!(count, affected, "new key for {id}, {before:?}");
            }
            6 => {
                let found = session.client.query_opt(&session.read, &[&id]).await?;
                assert_eq!(found.map(|row| row.get(0)), before, "read of {id}");
            }
            7 => self.two_statements(session, (id, before), value, pending).await?,
            _ => self.transaction(session, (id, before), value, pending).await?,
        }
        Ok(())
    }

    /// Two writes in one simple query: one implicit transaction.
    async fn two_statements(
        &mut self,
        session: &Session,
        (id, before): (i32, Option<i64>),
        value: i64,
        pending: &mut Pending,
    ) -> Result<(), Error> {
        let new = self.new_id();
        *pending = commits_alone(&[
            Change { id, before, after: None },
            Change { id: new, before: None, after: Some(value) },
        ]);
        let sql = format!(
            "DELETE FROM stock WHERE id = {id}; INSERT INTO stock (v, id) VALUES ({value}, {new})"
        );
        session.client.batch_execute(&sql).await
    }

    /// Several writes, some of them taken back, and a read of what was just written.
    async fn transaction(
        &mut self,
        session: &Session,
        (id, before): (i32, Option<i64>),
        value: i64,
        pending: &mut Pending,
    ) -> Result<(), Error> {
        let client = &session.client;
        let new = self.new_id();
        client.batch_execute("BEGIN").await?;
        client.execute(&session.insert, &[&new, &value]).await?;
        client.batch_execute("SAVEPOINT s").await?;
        client.execute(&session.delete, &[&new]).await?;
        client.execute(&session.upsert, &[&id, &-1_i64]).await?;
        client.batch_execute("ROLLBACK TO s").await?;
        client.execute(&session.upsert, &[&id, &value]).await?;
        for id in [id, new] {
            let found = client.query_opt(&session.read, &[&id]).await?;
            assert_eq!(found.map(|row| row.get(0)), Some(value), "own write of {id}");
        }
        if self.random.below(3) == 0 {
            return client.batch_execute("ROLLBACK").await;
        }
        let after = Some(value);
        *pending =
            commits_alone(&[Change { id, before, after }, Change { id: new, before: None, after }]);
        client.batch_execute("COMMIT").await
    }

    fn settle(&mut self, pending: Pending, happened: bool) {
        if happened {
            self.known.extend(pending.changes.iter().map(|change| (change.id, change.after)));
        } else if pending.commit_was_sent {
            for change in &pending.changes {
                self.known.remove(&change.id);
            }
            self.doubts.push(pending.changes);
        }
    }

    async fn run(mut self, conninfo: String, shared: Arc<Shared>) -> Self {
        let conninfo = format!("{conninfo} application_name=writer{}", self.number);
        while !shared.stop.load(Ordering::SeqCst) {
            let opened = tokio::time::timeout(HANGS, Session::open(&conninfo)).await;
            let session = match opened.expect("a connection attempt hangs") {
                Ok(session) => session,
                Err(error) => {
                    shared.assert_expected(&error);
                    tokio::time::sleep(RECONNECT).await;
                    continue;
                }
            };
            while !shared.stop.load(Ordering::SeqCst) {
                let mut pending = Pending::default();
                let step = self.step(&session, &mut pending);
                let done = tokio::time::timeout(HANGS, step).await.expect("a statement hangs");
                self.settle(pending, done.is_ok());
                if let Err(error) = done {
                    shared.assert_expected(&error);
                    break;
                }
                shared.acknowledged.fetch_add(1, Ordering::SeqCst);
            }
        }
        self
    }
}

fn commits_alone(changes: &[Change]) -> Pending {
    Pending { changes: changes.to_vec(), commit_was_sent: true }
}

struct Shared {
    stop: AtomicBool,
    acknowledged: AtomicU64,
    /// SQLSTATEs that a client may see beside a lost connection.
    expected: Vec<&'static str>,
}

impl Shared {
    fn assert_expected(&self, error: &Error) {
        let fine = match error.code() {
            Some(code) => self.expected.contains(&code.code()),
            None => true,
        };
        assert!(fine, "{error:?}");
    }
}

/// The writers, at work.
pub struct Writers {
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<Writer>>,
}

impl Writers {
    /// Starts them; each reconnects whenever it loses its connection.
    pub fn start(conninfo: &str, random: &Random, expected: &[&'static str]) -> Self {
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            acknowledged: AtomicU64::new(0),
            expected: expected.to_vec(),
        });
        let tasks = (0..WRITERS)
            .map(|number| {
                let writer = Writer::new(number, random.clone());
                tokio::spawn(writer.run(conninfo.to_owned(), Arc::clone(&shared)))
            })
            .collect();
        Self { shared, tasks }
    }

    /// Waits until this many more transactions have been acknowledged.
    pub async fn more(&self, wanted: u64) {
        let now = || self.shared.acknowledged.load(Ordering::SeqCst);
        let enough = now() + wanted;
        eventually("the writers go on", async || {
            let broken = self.tasks.iter().any(JoinHandle::is_finished);
            assert!(!broken, "a writer has failed");
            if now() >= enough { Ok(()) } else { Err(now()) }
        })
        .await;
    }

    /// Stops them. The source holds every acknowledged change; of those in doubt each is there
    /// completely or not at all.
    pub async fn assert_nothing_lost(self, db: &TestDb) {
        self.shared.stop.store(true, Ordering::SeqCst);
        let mut expected = BTreeMap::new();
        let mut doubts = Vec::new();
        for task in self.tasks {
            let writer = task.await.unwrap();
            expected.extend(writer.known.into_iter().filter_map(|(id, v)| Some((id, v?))));
            doubts.extend(writer.doubts);
        }
        let found = db.client.query("SELECT id, v FROM stock", &[]).await.unwrap();
        let mut found: BTreeMap<i32, i64> =
            found.iter().map(|row| (row.get(0), row.get(1))).collect();
        for changes in doubts {
            let now: Vec<Option<i64>> = changes.iter().map(|c| found.remove(&c.id)).collect();
            let before: Vec<Option<i64>> = changes.iter().map(|c| c.before).collect();
            let after: Vec<Option<i64>> = changes.iter().map(|c| c.after).collect();
            assert!(now == before || now == after, "half a transaction: {changes:?}, {now:?}");
        }
        let lost: Vec<_> =
            expected.iter().filter(|(id, v)| found.get(id) != Some(v)).take(10).collect();
        assert!(lost.is_empty(), "lost or changed (id, v): {lost:?}");
        let strange: Vec<_> =
            found.iter().filter(|(id, _)| !expected.contains_key(id)).take(10).collect();
        assert!(strange.is_empty(), "there again (id, v): {strange:?}");
    }
}

/// Source and shadow, filled.
pub async fn create_tables(db: &TestDb) {
    let sql = format!(
        "CREATE TABLE stock (id int PRIMARY KEY, v bigint NOT NULL); \
         CREATE TABLE stock_v2 (id bigint PRIMARY KEY, amount bigint NOT NULL); \
         INSERT INTO stock SELECT i, i FROM generate_series(1, {ROWS}) AS i; ANALYZE stock"
    );
    db.client.batch_execute(&sql).await.unwrap();
}

/// The sessions that a proxy has at the server now: pid and start.
pub async fn sessions_of_proxy(db: &TestDb) -> Vec<Vec<Option<String>>> {
    let sql = "SELECT pid, backend_start FROM pg_stat_activity WHERE datname = current_database() \
               AND (application_name LIKE 'writer%' OR application_name LIKE 'pgsegue%') \
               ORDER BY pid";
    rows(&db.client, sql).await
}
