//! pgbench's own scripts through the proxy while the tables under them move.

use crate::steer;
use crate::support::{Proxy, TestDb, assert_same, database, rows, server};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// How long one run of pgbench lasts; runs follow each other until the test has seen enough.
const SECONDS: &str = "6";
const CLIENTS: &str = "8";

const ACCOUNTS: &str = r#"
[[migration]]
name = "accounts"
source = "public.pgbench_accounts"
shadow = "public.accounts_v2"
key = ["aid"]
[migration.columns]
aid = "aid"
branch_id = "bid"
balance_minor = "abalance::bigint * 100"
note = "filler::text"
[migration.reverse]
bid = "branch_id"
abalance = "(balance_minor / 100)::int"
filler = "note::character(84)"
[migration.routing]
reads = 0
dark_reads = 20
sticky = "statement"
"#;
const ACCOUNTS_V2: &str = "CREATE TABLE accounts_v2 (aid bigint PRIMARY KEY, branch_id int, \
    balance_minor bigint NOT NULL, note text NOT NULL)";
const ACCOUNTS_MAPPED: [&str; 2] = [
    "SELECT aid, bid, abalance::bigint * 100, rtrim(filler) FROM pgbench_accounts ORDER BY aid",
    "SELECT aid, branch_id, balance_minor, note FROM accounts_v2 ORDER BY aid",
];

/// The three that pgbench writes beside the accounts.
const OTHERS: &str = r#"
[[migration]]
name = "branches"
source = "public.pgbench_branches"
shadow = "public.branches_v2"
key = ["bid"]
[migration.columns]
id = "bid"
balance_minor = "bbalance::bigint * 100"
[migration.reverse]
bid = "id"
bbalance = "(balance_minor / 100)::int"
filler = "NULL::character(88)"
[[migration]]
name = "tellers"
source = "public.pgbench_tellers"
shadow = "public.tellers_v2"
key = ["tid"]
[migration.columns]
tid = "tid"
bid = "bid"
tbalance = "tbalance::numeric(20, 2)"
filler = "filler"
[migration.reverse]
tbalance = "tbalance::int"
[[migration]]
name = "history"
source = "public.pgbench_history"
shadow = "public.history_v2"
key = ["hid"]
[migration.columns]
hid = "hid"
tid = "tid"
bid = "bid"
aid = "aid::bigint"
delta_minor = "delta::bigint * 100"
at = "mtime"
filler = "filler"
[migration.reverse]
aid = "aid::int"
delta = "(delta_minor / 100)::int"
mtime = "at"
"#;
const OTHERS_V2: &str = "
    ALTER TABLE pgbench_history ADD COLUMN hid bigserial PRIMARY KEY;
    CREATE TABLE branches_v2 (id bigint PRIMARY KEY, balance_minor bigint);
    CREATE TABLE tellers_v2 (tid int PRIMARY KEY, bid int, tbalance numeric(20, 2), filler char(84));
    CREATE TABLE history_v2 (hid bigint PRIMARY KEY, tid int, bid int, aid bigint, \
        delta_minor bigint, at timestamp, filler char(22));";
const OTHERS_MAPPED: [[&str; 2]; 3] = [
    [
        "SELECT bid, bbalance::bigint * 100 FROM pgbench_branches ORDER BY bid",
        "SELECT id, balance_minor FROM branches_v2 ORDER BY id",
    ],
    [
        "SELECT tid, bid, tbalance::numeric(20, 2), filler FROM pgbench_tellers ORDER BY tid",
        "SELECT tid, bid, tbalance, filler FROM tellers_v2 ORDER BY tid",
    ],
    [
        "SELECT hid, tid, bid, aid, delta::bigint * 100, mtime, filler FROM pgbench_history \
         ORDER BY hid",
        "SELECT hid, tid, bid, aid, delta_minor, at, filler FROM history_v2 ORDER BY hid",
    ],
];

fn pgbench() -> Command {
    let program = server().bin("pgbench").expect("pgbench: apt-get install postgresql-contrib");
    let mut command = Command::new(program);
    for name in ["PGHOST", "PGPORT", "PGUSER", "PGDATABASE", "PGPASSWORD", "PGOPTIONS"] {
        command.env_remove(name);
    }
    command
}

/// A database with pgbench's tables at a scale.
async fn initialised(scale: u32) -> TestDb {
    let db = database().await;
    let scale = scale.to_string();
    let output = pgbench().args(["-i", "-q", "-s", &scale, &db.conninfo]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    db
}

/// pgbench runs one after the other, until told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Vec<Output>>>,
}

impl Load {
    fn start(proxy: &Proxy, arguments: &[&str]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let mut command = pgbench();
        command.args(["-n", "-c", CLIENTS, "-j", "2", "-T", SECONDS]).args(arguments);
        command.arg(proxy.conninfo());
        let thread = std::thread::spawn(move || {
            let mut outputs = Vec::new();
            while !told.load(Ordering::SeqCst) {
                outputs.push(command.output().unwrap());
            }
            outputs
        });
        Self { stop, thread: Some(thread) }
    }

    /// Lets the run that goes on end; none of them has seen an error.
    fn assert_nothing_failed(mut self) {
        self.stop.store(true, Ordering::SeqCst);
        for output in self.thread.take().unwrap().join().unwrap() {
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            let complaints = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "{complaints}\n{said}");
            let unexpected: Vec<&str> =
                complaints.lines().filter(|line| !line.starts_with("pgbench (")).collect();
            assert!(unexpected.is_empty(), "{complaints}");
            assert!(said.contains("number of failed transactions: 0 (0.000%)"), "{said}");
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

fn reads_in_file(toml: &str, percent: u32) -> String {
    toml.replace("reads = 0\ndark", &format!("reads = {percent}\ndark"))
}

/// Canary up and down by the file, then by the command.
async fn ramp(proxy: &Proxy, toml: &str) {
    for percent in [1, 10, 50, 100] {
        proxy.rewrite_config(&reads_in_file(toml, percent));
        steer::more(proxy, "shadow/read", 5).await;
    }
    steer::reads(proxy, "accounts", 0);
    steer::rolled_back(proxy).await;
    for percent in [1, 10, 50, 100] {
        steer::reads(proxy, "accounts", percent);
        steer::more(proxy, "shadow/read", 5).await;
    }
    proxy.rewrite_config(toml);
    steer::rolled_back(proxy).await;
}

async fn assert_sums_agree(db: &TestDb) {
    let sql = "SELECT (SELECT sum(abalance) FROM pgbench_accounts), \
        (SELECT sum(bbalance) FROM pgbench_branches), (SELECT sum(tbalance) FROM pgbench_tellers), \
        (SELECT sum(delta) FROM pgbench_history)";
    let sums = rows(&db.client, sql).await.remove(0);
    assert!(sums.iter().all(|sum| *sum == sums[0] && sum.is_some()), "{sums:?}");
}

/// Both scripts in one load, in one protocol mode, from before the migration until after.
async fn accounts_move(mode: &str) {
    let db = initialised(1).await;
    db.client.batch_execute(ACCOUNTS_V2).await.unwrap();
    let proxy = Proxy::start(&db, ACCOUNTS).await;
    let load = Load::start(&proxy, &["-M", mode, "-b", "tpcb-like@1", "-b", "select-only@1"]);
    steer::more(&proxy, "source/read", 100).await;
    steer::start(&proxy, "accounts");
    ramp(&proxy, ACCOUNTS).await;
    load.assert_nothing_failed();
    steer::settled(&proxy, &db, "accounts").await;
    assert_same(&db.client, ACCOUNTS_MAPPED[0], ACCOUNTS_MAPPED[1]).await;
    assert_sums_agree(&db).await;
    let dark = |outcome| {
        let labels = format!("{{migration=\"accounts\",outcome=\"{outcome}\"}}");
        proxy.metric(&format!("pgsegue_dark_reads_total{labels}")).unwrap_or(0.0)
    };
    assert_eq!(dark("mismatched"), 0.0, "{}", proxy.get("/metrics").1);
    assert!(dark("compared") > 0.0, "{}", proxy.get("/metrics").1);
    let seen = steer::statements(&proxy);
    assert!(seen["mirrored/write"] > 0, "{seen:?}");
    for unexpected in ["recorded/write", "refused/write", "refused/read"] {
        assert_eq!(seen.get(unexpected).copied().unwrap_or(0), 0, "{seen:?}");
    }
    steer::assert_no_complaint(&proxy);
}

#[tokio::test(flavor = "multi_thread")]
async fn accounts_move_under_simple_queries_without_a_failed_statement() {
    accounts_move("simple").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn accounts_move_under_extended_queries_without_a_failed_statement() {
    accounts_move("extended").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn accounts_move_under_prepared_statements_without_a_failed_statement() {
    accounts_move("prepared").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_four_tables_move_at_once_without_a_failed_statement() {
    let db = initialised(2).await;
    db.client.batch_execute(&format!("{ACCOUNTS_V2};{OTHERS_V2}")).await.unwrap();
    let toml = format!("{ACCOUNTS}{OTHERS}");
    let proxy = Proxy::start(&db, &toml).await;
    let load = Load::start(&proxy, &["-M", "prepared"]);
    steer::more(&proxy, "source/read", 100).await;
    let names = ["accounts", "branches", "tellers", "history"];
    for name in names {
        steer::run(&proxy, &["migration", "start", name, "--no-wait"]);
    }
    for name in names {
        steer::phase(&proxy, name, "ready").await;
    }
    proxy.rewrite_config(&reads_in_file(&toml, 100));
    steer::more(&proxy, "shadow/read", 100).await;
    steer::more(&proxy, "mirrored/write", 400).await;
    proxy.rewrite_config(&toml);
    steer::rolled_back(&proxy).await;
    load.assert_nothing_failed();
    for name in names {
        steer::settled(&proxy, &db, name).await;
    }
    assert_same(&db.client, ACCOUNTS_MAPPED[0], ACCOUNTS_MAPPED[1]).await;
    for [source, shadow] in OTHERS_MAPPED {
        assert_same(&db.client, source, shadow).await;
    }
    assert_sums_agree(&db).await;
    steer::assert_no_complaint(&proxy);
}
