//! A case: a schema, its migrations, and what the sessions do. All of it follows from the seed.

use crate::frames::{self, Exchange};
use crate::mapping::{self, Plan};
use crate::pen::{Constants, Format, Sql};
use crate::random::Random;
use crate::schema::Schema;
use crate::{reads, sessions, writes};
use std::collections::BTreeMap;

/// One thing that is done on both sides, or to the live side alone.
#[derive(Debug, Clone)]
pub enum Step {
    /// A session sends something.
    Send { session: usize, exchange: Exchange },
    /// A session's statement sleeps until it is cancelled.
    Cancel { session: usize, sql: String },
    /// Percent of reads that the shadow serves from now on.
    Reads(f64),
    /// Waits until the shadow may serve reads.
    Settle,
}

/// When the statements begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    Ready,
    /// As soon as writes are mirrored, while rows are still copied.
    Mirrored,
}

/// A shadow that would be scanned where its source is not serves no read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plans {
    AsUsual,
    /// Every table is scanned as a whole on both sides, so that most reads are served.
    Scans,
}

#[derive(Debug, Clone)]
pub struct Case {
    pub seed: u64,
    pub schema: Schema,
    pub plan: Plan,
    pub begin: Begin,
    /// What the plans are like.
    pub plans: Plans,
    pub sessions: usize,
    /// Whether they begin in the app's role.
    pub in_role: bool,
    pub steps: Vec<Step>,
}

/// What is going on in a session, as far as the generator can tell.
#[derive(Debug, Clone, Default)]
pub struct Session {
    /// Statements that the open transaction has left.
    pub left: usize,
    pub cursor: bool,
    /// Prepared by the protocol.
    pub named: Vec<(String, Sql)>,
    /// What is likely to be under the names that the protocol and SQL share.
    pub shared: BTreeMap<String, Sql>,
    /// Prepared by PREPARE.
    pub prepared: Vec<(String, Sql)>,
    pub savepoints: usize,
    /// A temporary table hides a migrated one.
    pub hidden: Option<String>,
}

pub struct Author {
    pub random: Random,
    pub schema: Schema,
    pub sessions: Vec<Session>,
    /// Reads that come again and again: the shadow serves what it has seen.
    reads: Vec<Sql>,
    steps: Vec<Step>,
    /// Without what would be marked: then the shadow serves most reads.
    pub calm: bool,
}

impl Case {
    pub fn of(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let schema = Schema::random(&mut random);
        let plan = mapping::random(&mut random, &schema);
        let count = *random.pick(&[1, 1, 1, 2, 2, 3]);
        let begin = if random.chance(15) { Begin::Mirrored } else { Begin::Ready };
        let plans = if random.chance(60) { Plans::Scans } else { Plans::AsUsual };
        let calm = random.chance(50);
        let in_role = random.chance(if schema.policy.is_some() { 60 } else { 6 });
        let mut author = Author {
            random,
            calm,
            schema,
            sessions: vec![Session::default(); count],
            reads: Vec::new(),
            steps: Vec::new(),
        };
        author.write();
        let Author { schema, steps, .. } = author;
        Self { seed, schema, plan, begin, plans, sessions: count, in_role, steps }
    }

    /// How each exchange is said and what its first word is.
    pub fn forms(&self) -> Vec<String> {
        let form = |step: &Step| match step {
            Step::Send { exchange, .. } => {
                let (way, sql) = exchange.label.split_once(": ").unwrap_or((&exchange.label, ""));
                let way = way.split(' ').next().unwrap_or_default();
                let word = sql.split([' ', '\n', ';']).next().unwrap_or_default().to_lowercase();
                Some(format!("{way} {word}"))
            }
            Step::Cancel { .. } => Some("cancel".to_owned()),
            Step::Reads(_) | Step::Settle => None,
        };
        self.steps.iter().filter_map(form).collect()
    }

    /// For who has to understand a failure.
    pub fn show(&self) -> String {
        let mut out = format!("seed {}\n{}{}", self.seed, self.schema.ddl(), self.plan.ddl);
        out += &format!(
            "search_path {}, begin {:?}, plans {:?}, in role {}\n",
            self.schema.search_path, self.begin, self.plans, self.in_role
        );
        for m in &self.plan.migrations {
            out += &format!("migration {} {} -> {}\n", m.name, m.source, m.shadow);
            for (name, sql) in &m.columns {
                out += &format!("  {name} = {sql}\n");
            }
            for (name, sql) in &m.reverse {
                out += &format!("  reverse {name} = {sql}\n");
            }
        }
        for (number, step) in self.steps.iter().enumerate() {
            out += &format!("{number:3} {}\n", step.show());
        }
        out
    }
}

impl Step {
    pub fn show(&self) -> String {
        match self {
            Self::Send { session, exchange } => format!("s{session} {}", exchange.label),
            Self::Cancel { session, sql } => format!("s{session} cancelled: {sql}"),
            Self::Reads(percent) => format!("reads {percent} %"),
            Self::Settle => "settle".to_owned(),
        }
    }
}

impl Author {
    fn write(&mut self) {
        for _ in 0..self.random.between(4, 9) {
            let constants = self.constants();
            self.reads.push(reads::read(&mut self.random, &self.schema, constants));
        }
        // Every level in a case of its own, and all of them in others.
        let mut levels = match self.random.below(6) {
            0 => [0.0; 4],
            1 => [50.0; 4],
            2 => [100.0; 4],
            _ => [0.0, 50.0, 100.0, 100.0],
        };
        self.random.shuffle(&mut levels);
        let first = levels[0];
        self.steps.push(Step::Reads(first));
        if first > 0.0 {
            for sql in self.reads.clone() {
                self.say(0, &sql);
            }
            self.steps.push(Step::Settle);
        }
        let count = if self.random.chance(3) { 150 } else { self.random.between(12, 50) };
        for number in 0..count {
            if number > 0 && number % 13 == 0 {
                let level = *self.random.pick(&levels);
                self.steps.push(Step::Reads(level));
            }
            if self.random.chance(12) && self.sessions.iter().all(|s| s.left == 0) {
                self.steps.push(Step::Settle);
                for _ in 0..self.random.below(7) {
                    let session = self.random.below(self.sessions.len());
                    let sql = self.random.pick(&self.reads).clone();
                    self.say(session, &sql);
                }
            }
            let session = self.random.below(self.sessions.len());
            self.one(session);
        }
        for session in 0..self.sessions.len() {
            if self.sessions[session].left > 0 {
                self.plain(session, "COMMIT");
            }
        }
        self.steps.push(Step::Settle);
        for sql in self.reads.clone() {
            self.say(0, &sql);
        }
    }

    fn one(&mut self, session: usize) {
        let left = self.sessions[session].left;
        if left == 1 {
            self.sessions[session] =
                Session { left: 0, cursor: false, savepoints: 0, ..self.sessions[session].clone() };
            if self.random.chance(8) {
                self.sessions[session].left = self.random.between(2, 4);
                let chain = *self.random.pick(&["COMMIT AND CHAIN", "ROLLBACK AND CHAIN"]);
                return self.plain(session, chain);
            }
            let end =
                *self.random.pick(&["COMMIT", "COMMIT", "COMMIT", "END", "ROLLBACK", "ABORT"]);
            return self.plain(session, end);
        }
        self.sessions[session].left = left.saturating_sub(1);
        match self.random.below(100) {
            0..=37 => {
                let constants = self.constants();
                let sql = writes::write(&mut self.random, &self.schema, constants);
                if self.may(&sql) {
                    self.say(session, &sql);
                }
            }
            38..=69 => {
                let sql = if self.random.chance(80) {
                    self.random.pick(&self.reads).clone()
                } else {
                    let constants = self.constants();
                    reads::read(&mut self.random, &self.schema, constants)
                };
                self.say(session, &sql);
            }
            _ => sessions::something(self, session),
        }
    }

    /// Whether a statement fits this case.
    pub fn may(&self, sql: &Sql) -> bool {
        const MARKED: [&str; 4] = ["MERGE", "DO $do$", "EXPLAIN (ANALYZE", "LOCK"];
        const THROUGH: [&str; 4] = ["window_on", "touch(", "leave_out(", "INTO ruled"];
        let marked = MARKED.iter().any(|word| sql.text.starts_with(word))
            || THROUGH.iter().any(|name| sql.text.contains(name));
        if self.calm && marked {
            return false;
        }
        // What locks a whole table would keep others from reading it; not from its shadow.
        self.sessions.len() == 1
            || !(sql.text.contains("TRUNCATE") || sql.text.contains("truncate"))
    }

    pub fn constants(&mut self) -> Constants {
        if self.random.chance(50) { Constants::Parameters } else { Constants::Inline }
    }

    /// One statement, in some protocol.
    pub fn say(&mut self, session: usize, sql: &Sql) {
        let exchange = if sql.params.is_empty() && self.random.chance(55) {
            frames::simple(sql)
        } else {
            let format = match self.random.below(10) {
                0..=5 => Format::Text,
                6..=7 => Format::Binary,
                _ => Format::Mixed,
            };
            let rows = *self.random.pick(&[0, 0, 0, 1, 2]);
            let name = if self.random.chance(20) {
                let name = format!("s{}", self.steps.len());
                self.sessions[session].named.push((name.clone(), sql.clone()));
                name
            } else {
                String::new()
            };
            frames::extended(sql, &name, format, rows)
        };
        self.send(session, exchange);
    }

    /// A statement that makes a temporary table `made`, and what it holds.
    pub fn made(&mut self, session: usize, text: String) {
        self.say(session, &Sql::plain(text));
        self.plain(session, "SELECT count(*) FROM made");
        self.plain(session, "DROP TABLE made");
    }

    /// A read that comes again and again.
    pub fn random_read(&mut self) -> Sql {
        self.random.pick(&self.reads).clone()
    }

    pub fn plain(&mut self, session: usize, sql: &str) {
        self.send(session, frames::simple(&Sql::plain(sql)));
    }

    pub fn send(&mut self, session: usize, exchange: Exchange) {
        self.steps.push(Step::Send { session, exchange });
    }

    pub fn push(&mut self, step: Step) {
        self.steps.push(step);
    }
}
