//! Two sessions that are told the same: one through the proxy, one to a plain database.

use super::raw::{bind, describe, execute, parse, query, sync};
use super::{Live, Raw};
use crate::support::{TestDb, assert_same, database, rows};

/// The two sessions. Differences are collected, so that one run shows all of them.
pub struct Pair {
    pub live: Raw,
    pub plain: Raw,
    plain_db: TestDb,
    live_name: String,
    differences: Vec<String>,
}

impl Pair {
    /// A plain database with this schema beside the live one.
    pub async fn new(live: &Live, ddl: &str) -> Self {
        let plain_db = database().await;
        plain_db.client.batch_execute(ddl).await.unwrap();
        let plain = Raw::connect(plain_db.port, "postgres", &plain_db.name).await;
        let live_name = live.db.name.clone();
        Self { live: live.raw().await, plain, plain_db, live_name, differences: Vec::new() }
    }

    /// Goes on in two new sessions; the old ones, the live one first, stay open while they are held.
    pub async fn another(&mut self, live: &Live) -> (Raw, Raw) {
        let plain = Raw::connect(self.plain_db.port, "postgres", &self.plain_db.name).await;
        let live = std::mem::replace(&mut self.live, live.raw().await);
        (live, std::mem::replace(&mut self.plain, plain))
    }

    /// Sends the same frames to both and compares everything that comes back.
    pub async fn exchange(&mut self, what: &str, frames: &[u8], readies: usize) {
        let expected = self.plain.exchange(frames, readies).await;
        let got = self.live.exchange(frames, readies).await;
        self.compare(what, &expected, &got);
    }

    /// The same, where nobody knows how often the server will be ready ([`Raw::exchange_all`]).
    pub async fn exchange_all(&mut self, what: &str, frames: &[u8]) {
        let expected = self.plain.exchange_all(frames).await;
        let got = self.live.exchange_all(frames).await;
        self.compare(what, &expected, &got);
    }

    /// One text as these frames; `<db>` in it is the name of each one's database.
    pub async fn own(&mut self, sql: &str, frames: impl Fn(&str) -> Vec<u8>) {
        let mut said = Vec::new();
        let sides = [(&mut self.plain, &self.plain_db.name), (&mut self.live, &self.live_name)];
        for (raw, name) in sides {
            let lines = raw.exchange(&frames(&sql.replace("<db>", name)), 1).await;
            said.push(lines.iter().map(|line| line.replace(name, "<db>")).collect::<Vec<_>>());
        }
        self.compare(sql, &said[0], &said[1]);
    }

    /// The object id that each one's database has for it, the plain one first.
    pub async fn oids(&mut self, of: &str) -> [u32; 2] {
        let mut oids = [0; 2];
        for (raw, oid) in [&mut self.plain, &mut self.live].into_iter().zip(&mut oids) {
            let said = raw.rows(&format!("SELECT {of}::oid")).await.concat().remove(0);
            *oid = said.unwrap().parse().unwrap();
        }
        oids
    }

    /// Sends to each the frames for its object id.
    pub async fn with_oids(
        &mut self,
        oids: [u32; 2],
        frames: impl Fn(u32) -> Vec<u8>,
        readies: usize,
    ) {
        let expected = self.plain.exchange(&frames(oids[0]), readies).await;
        let got = self.live.exchange(&frames(oids[1]), readies).await;
        self.compare(&format!("{oids:?}"), &expected, &got);
    }

    /// Without an ORDER BY the order of rows is that of the heap, where the space of old versions is used
    /// again as soon as no snapshot needs them: on the live side the engine has some, too.
    fn compare(&mut self, what: &str, expected: &[String], got: &[String]) {
        let ordered = what.to_ascii_lowercase().contains("order by");
        if got != expected && (ordered || with_rows_sorted(got) != with_rows_sorted(expected)) {
            let lines = |lines: &[String]| lines.join("\n      ");
            self.differences.push(format!(
                "{what}\n    expected\n      {}\n    got\n      {}",
                lines(expected),
                lines(got)
            ));
        }
    }

    /// The same with more frames than sockets hold: written and read at once.
    pub async fn pipeline(&mut self, what: &str, frames: &[u8], readies: usize) {
        let mut said = Vec::new();
        for raw in [&mut self.plain, &mut self.live] {
            let messages = raw.pipeline(frames, readies).await;
            said.push(raw.shown(&messages));
        }
        if said[0] != said[1] {
            let at = said[0].iter().zip(&said[1]).position(|(a, b)| a != b);
            self.differences.push(format!("{what}: from message {at:?}"));
        }
    }

    /// One text as a simple query.
    pub async fn simple(&mut self, sql: &str) {
        self.exchange(&format!("simple: {sql}"), &query(sql), 1).await;
    }

    /// One statement, described and executed by the extended protocol, rows in this format.
    pub async fn extended(&mut self, sql: &str, values: &[Option<&str>], format: u16) {
        let values: Vec<_> = values.iter().map(|v| v.map(str::as_bytes)).collect();
        let frames = [
            parse("", sql, &[]),
            describe(b'S', ""),
            bind("", "", 0, &values, format),
            describe(b'P', ""),
            execute("", 0),
            sync(),
        ];
        self.exchange(&format!("extended {format}: {sql}"), &frames.concat(), 1).await;
    }

    /// One statement that is too long to be shown, by both protocols. Where the server's parser has
    /// no room for its brackets, the place is not compared: a mirrored form reaches it some
    /// brackets earlier.
    pub async fn long(&mut self, sql: &str) {
        let what: String = sql.chars().take(60).collect();
        let extended = [parse("", sql, &[]), bind("", "", 0, &[], 0), execute("", 0), sync()];
        for (protocol, frames) in [("simple", query(sql)), ("extended", extended.concat())] {
            let full = |line: &String| line.starts_with("E C42601 / Mmemory exhausted");
            let placeless = |line: String| match line.split_once(" / P") {
                Some((said, _)) if full(&line) => said.to_owned(),
                _ => line,
            };
            let said = self.plain.exchange(&frames, 1).await;
            let expected: Vec<_> = said.into_iter().map(placeless).collect();
            let said = self.live.exchange(&frames, 1).await;
            let got: Vec<_> = said.into_iter().map(placeless).collect();
            self.compare(&format!("{protocol}: {what}…"), &expected, &got);
        }
    }

    /// One statement without parameters by every protocol, undone each time, then for good.
    pub async fn every_way(&mut self, sql: &str) {
        for format in [0, 1] {
            self.simple("BEGIN").await;
            self.extended(sql, &[], format).await;
            self.simple("ROLLBACK").await;
        }
        self.extended(sql, &[], 0).await;
        self.simple("BEGIN").await;
        self.simple("SAVEPOINT a").await;
        self.simple(sql).await;
        self.simple("ROLLBACK TO a").await;
        self.simple("COMMIT").await;
        self.simple(sql).await;
    }

    /// Runs this in both databases, past the proxy, in a session that `finish` also uses; `<db>` is the name
    /// of the database.
    pub async fn elsewhere(&self, live: &Live, sql: &str) {
        for db in [&self.plain_db, &live.db] {
            db.client.batch_execute(&sql.replace("<db>", &db.name)).await.unwrap();
        }
    }

    /// Fails if anything differed, or if a migrated table now holds other rows than the plain
    /// database's or than its shadow.
    pub async fn finish(self, live: &Live, tables: &[Table]) {
        self.same();
        for table in tables {
            let plain = rows(&self.plain_db.client, table.source).await;
            assert_eq!(rows(&live.db.client, table.source).await, plain, "{}", table.source);
            live.until_clean(table.migration).await;
            assert_same(&live.db.client, table.mapped, table.shadow).await;
        }
    }

    /// Fails if anything differed.
    pub fn same(&self) {
        let count = self.differences.len();
        assert!(count == 0, "{count} differ:\n{}", self.differences.join("\n\n"));
    }
}

/// Messages with each run of rows in one order.
fn with_rows_sorted(messages: &[String]) -> Vec<String> {
    let is_row = |message: &str| message.starts_with("D ");
    let mut sorted = messages.to_vec();
    for run in sorted.chunk_by_mut(|a, b| is_row(a) && is_row(b)) {
        run.sort();
    }
    sorted
}

/// How to compare one migration's tables: three queries, each ordered by the key.
pub struct Table {
    pub migration: &'static str,
    pub source: &'static str,
    pub mapped: &'static str,
    pub shadow: &'static str,
}
