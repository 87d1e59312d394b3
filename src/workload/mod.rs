//! What statements this process has seen on each migrated table: how often, what was understood of
//! them, how long they took. What a team reads before it starts a migration.
//!
//! * Bounded: so many kinds of statements per migration, so much text of each. What finds no room
//!   is still counted, by what it is; nothing is thrown out for it.
//! * No value of a client's is kept: texts are [`crate::sql::normal`].
//! * Cheap: a session has the [`Tally`] of a statement with what it means, by text; counting is a
//!   few relaxed additions. Only a text that is not known yet looks for its tally, without a lock
//!   unless it is new.

mod latency;
mod report;
mod vetting;

pub use report::{Class, Line, Part, Report, Routes, Vetting};

use crate::sql::indirect;
use crate::sql::normal::normal;
use crate::sql::reason::Reason;
use crate::sql::statement::{self, Place, Statement};
use crate::sql::truncate::{Extent, Reach};
use arc_swap::{ArcSwap, ArcSwapOption};
use latency::Latency;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

/// Kinds of statements that are kept per migration: few apps have as many on one table, and a
/// person reads no more. With their texts below 4 MB.
pub const KINDS_MAX: usize = 1_000;
/// So many of them are kept for statements that are not understood: none of the others, however
/// many, hides what a team has to look at.
const NOT_UNDERSTOOD_ROOM: usize = 200;
/// Of one text; the rest is cut off.
pub const TEXT_BYTES_MAX: usize = 1_000;
/// Of a reason why the shadow cannot answer: it may quote names.
const WHY_BYTES_MAX: usize = 200;

/// What was seen, by migration.
#[derive(Debug, Default)]
pub struct Workload {
    migrations: ArcSwap<BTreeMap<String, Arc<Observed>>>,
}

/// What was seen of one migration's table.
#[derive(Debug)]
pub struct Observed {
    since: SystemTime,
    kinds: ArcSwap<HashMap<Arc<Kind>, Arc<Tally>>>,
    /// Held to add a kind.
    adding: Mutex<()>,
    /// Why no read is fit, whatever it says.
    no_reads: ArcSwapOption<String>,
}

/// What makes statements one kind.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Kind {
    text: Text,
    verdict: Verdict,
}

/// The text that statements of a kind share.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Text {
    /// Without values, cut, and the hash of the whole.
    Kept(Box<str>, u64),
    /// It is not read.
    Unread,
    /// Different ones, that there was no room for.
    Others,
}

/// What was understood of a statement, as far as one table is concerned.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Verdict {
    /// A write that is mirrored.
    Write,
    /// A read that the shadow can answer.
    Read,
    /// A read that it cannot: why.
    UnfitRead(Box<str>),
    /// A read among other statements of one text: why it could not alone either, if so.
    ReadAmong(Option<Box<str>>),
    /// It changes nothing, and has nothing to read for the shadow.
    Other,
    /// A change of the table's definition.
    Ddl,
    /// It may write in a way that is not understood.
    NotUnderstood(Reason),
}

/// Where a statement was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// To the source, as it was.
    Source,
    /// To the source, with its keys fed to the shadow.
    Mirrored,
    /// To the shadow.
    Shadow,
    /// To the source, with a mark before it or behind it.
    Marked,
    /// Nowhere.
    Refused,
}

/// How a statement ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// With its rows, or its tag.
    Well,
    /// With an error.
    Badly,
}

/// The counters of one kind of statement.
#[derive(Debug)]
pub struct Tally {
    taken: [AtomicU64; 5],
    errors: AtomicU64,
    latency: Latency,
    /// Of a read.
    verdicts: vetting::Verdicts,
    /// Milliseconds since 1970.
    first: u64,
    last: AtomicU64,
    /// The last set of tables and functions that it was understood for.
    generation: AtomicU64,
}

/// The tallies of one statement, with the index of each one's target.
pub type Tallies = Arc<[(usize, Arc<Tally>)]>;

impl Workload {
    /// What was seen of a migration; begins to be kept.
    pub fn of(&self, migration: &str) -> Arc<Observed> {
        if let Some(found) = self.migrations.load().get(migration) {
            return Arc::clone(found);
        }
        let new = Arc::new(Observed::new());
        self.migrations.rcu(|now| {
            let mut next = BTreeMap::clone(now);
            next.entry(migration.to_owned()).or_insert_with(|| Arc::clone(&new));
            next
        });
        self.migrations.load().get(migration).map_or(new, Arc::clone)
    }

    /// The report on a migration, if this process observes it.
    pub fn report(&self, migration: &str) -> Option<Report> {
        self.migrations.load().get(migration).map(|observed| observed.report(migration))
    }

    /// All reports.
    pub fn reports(&self) -> Vec<Report> {
        self.migrations.load().iter().map(|(name, observed)| observed.report(name)).collect()
    }
}

impl Observed {
    fn new() -> Self {
        Self {
            since: SystemTime::now(),
            kinds: ArcSwap::default(),
            adding: Mutex::default(),
            no_reads: ArcSwapOption::empty(),
        }
    }

    /// Why the shadow cannot answer any read at present.
    pub fn set_no_reads(&self, why: Option<&str>) {
        self.no_reads.store(why.map(|why| Arc::new(why.to_owned())));
    }

    /// The tally of a statement at its place in a text, for the target of this index: none if it
    /// does not concern it.
    pub fn tally(
        &self,
        target: usize,
        text: &str,
        (statement, place): (&Statement, Place),
        generation: u64,
    ) -> Option<Arc<Tally>> {
        let verdict = Verdict::of(text, (statement, place), target)?;
        let text = text.get(statement.at.clone()).and_then(normal);
        Some(self.find(Text::of(text.as_deref()), verdict, generation))
    }

    /// The tally of a statement that reads the table through a view and does not name it.
    pub fn through_view(&self, text: &str, statement: &Statement, generation: u64) -> Arc<Tally> {
        let text = text.get(statement.at.clone()).and_then(normal);
        let verdict = Verdict::UnfitRead("it reads the table through a view".into());
        self.find(Text::of(text.as_deref()), verdict, generation)
    }

    /// What the vetting says of reads of this text, as [`crate::sql::normal`] has it; the question
    /// is more than the text: who asks, and with what. A reason says no value.
    pub fn vetted(&self, normal: Option<&str>, question: u64, verdict: Result<(), &str>) {
        let kind = Kind { text: Text::of(normal), verdict: Verdict::Read };
        // Without a line of its own it has no room here either.
        if let Some(tally) = self.kinds.load().get(&kind) {
            tally.verdicts.add(question, verdict);
        }
    }

    /// The tally of texts that are not read, for this reason.
    pub fn unread(&self, why: Reason, generation: u64) -> Arc<Tally> {
        self.find(Text::Unread, Verdict::NotUnderstood(why), generation)
    }

    fn find(&self, text: Text, verdict: Verdict, generation: u64) -> Arc<Tally> {
        let mut kind = Kind { text, verdict };
        let known = self.kinds.load();
        let mut found = known.get(&kind).map(Arc::clone);
        if found.is_none() && known.len() >= kind.verdict.room() {
            kind = kind.without_detail();
            found = known.get(&kind).map(Arc::clone);
        }
        let tally = found.unwrap_or_else(|| self.add(kind));
        tally.generation.fetch_max(generation, Relaxed);
        tally
    }

    fn add(&self, kind: Kind) -> Arc<Tally> {
        let _adding = self.adding.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.kinds.load_full();
        let kind = if now.len() < kind.verdict.room() { kind } else { kind.without_detail() };
        if let Some(found) = now.get(&kind) {
            return Arc::clone(found);
        }
        let tally = Arc::new(Tally::new());
        let mut next = HashMap::clone(&now);
        next.insert(Arc::new(kind), Arc::clone(&tally));
        self.kinds.store(Arc::new(next));
        tally
    }
}

impl Kind {
    /// What is kept of a kind that there is no room for: what it is. There are few of these.
    fn without_detail(self) -> Self {
        const SEVERAL: &str = "several reasons";
        let verdict = match self.verdict {
            Verdict::UnfitRead(_) => Verdict::UnfitRead(SEVERAL.into()),
            Verdict::ReadAmong(Some(_)) => Verdict::ReadAmong(Some(SEVERAL.into())),
            other => other,
        };
        Self { text: Text::Others, verdict }
    }
}

impl Text {
    fn of(normal: Option<&str>) -> Self {
        use std::hash::BuildHasher as _;
        let Some(normal) = normal else { return Self::Unread };
        let hash = foldhash::fast::FixedState::default().hash_one(normal);
        let kept = cut(normal, TEXT_BYTES_MAX);
        let more = if kept.len() < normal.len() { " …" } else { "" };
        Self::Kept(format!("{kept}{more}").into(), hash)
    }
}

impl Verdict {
    /// How many kinds may be known for one more of it to be kept.
    fn room(&self) -> usize {
        match self {
            Self::NotUnderstood(_) => KINDS_MAX,
            Self::Write
            | Self::Read
            | Self::UnfitRead(_)
            | Self::ReadAmong(_)
            | Self::Other
            | Self::Ddl => KINDS_MAX - NOT_UNDERSTOOD_ROOM,
        }
    }

    fn of(text: &str, (statement, place): (&Statement, Place), target: usize) -> Option<Self> {
        let named = statement.names.iter().any(|name| name.target == target);
        let any = statement.names.is_empty();
        match &statement.class {
            // Not understood, and naming none: it may write any.
            statement::Class::Unclassified(why) if named || any => Some(Self::NotUnderstood(*why)),
            statement::Class::Truncate(truncate) => {
                if truncate.named.contains(&target) && truncate.extent == Extent::Part {
                    return Some(Self::NotUnderstood(Reason::TruncatePart));
                }
                let reached = named || truncate.reach == Reach::Cascade;
                reached.then_some(Self::Write)
            }
            _ if !named => None,
            statement::Class::Unclassified(_) => None,
            statement::Class::Passthrough => Some(match indirect::reads(text, statement) {
                Some(why) => Self::UnfitRead(why.into()),
                None => Self::Other,
            }),
            statement::Class::Cascade
            | statement::Class::Prepare(_)
            | statement::Class::Execute(_)
            | statement::Class::Deallocate(_) => Some(Self::Other),
            statement::Class::Write(write) => {
                let fed = write.feeds().any(|feed| feed.name.target == target);
                Some(if fed { Self::Write } else { Self::Other })
            }
            // Keys are read along only where the COPY is all of its text.
            statement::Class::CopyFrom(..) if place == Place::Among => {
                Some(Self::NotUnderstood(Reason::CopyAmong))
            }
            statement::Class::CopyFrom(names, _) => {
                let fed = names.iter().any(|name| name.target == target);
                Some(if fed { Self::Write } else { Self::Other })
            }
            statement::Class::Ddl(of) => {
                let concerned = of.iter().any(|(changed, _)| *changed == target);
                Some(if concerned { Self::Ddl } else { Self::Other })
            }
            statement::Class::Read(read) => {
                let unfit = read.fit.as_ref().err().map(|why| without_values(why).into());
                Some(match (place, unfit) {
                    (Place::Alone, None) => Self::Read,
                    (Place::Alone, Some(why)) => Self::UnfitRead(why),
                    (Place::Among, unfit) => Self::ReadAmong(unfit),
                })
            }
        }
    }
}

/// A reason without what a parser quotes of the statement: it may be a value.
fn without_values(why: &str) -> &str {
    const PARSER: &str = "not understood: ";
    if why.starts_with(PARSER) { "not understood as a query" } else { cut(why, WHY_BYTES_MAX) }
}

/// The beginning of a text, so many bytes at most.
fn cut(text: &str, bytes_max: usize) -> &str {
    let mut end = text.len().min(bytes_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

impl Tally {
    fn new() -> Self {
        let now = millis(SystemTime::now());
        Self {
            taken: Default::default(),
            errors: AtomicU64::new(0),
            latency: Latency::default(),
            verdicts: vetting::Verdicts::default(),
            first: now,
            last: AtomicU64::new(now),
            generation: AtomicU64::new(0),
        }
    }

    /// A statement was answered, so long after it was sent.
    pub fn answered(&self, taken: Taken, ended: Ended, after: Duration) {
        self.latency.add(after);
        if ended == Ended::Badly {
            self.errors.fetch_add(1, Relaxed);
        }
        self.count(taken);
    }

    /// A statement was refused.
    pub fn refused(&self) {
        self.count(Taken::Refused);
    }

    fn count(&self, taken: Taken) {
        let index = match taken {
            Taken::Source => 0,
            Taken::Mirrored => 1,
            Taken::Shadow => 2,
            Taken::Marked => 3,
            Taken::Refused => 4,
        };
        if let Some(counter) = self.taken.get(index) {
            counter.fetch_add(1, Relaxed);
        }
        self.last.store(millis(SystemTime::now()), Relaxed);
    }
}

fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
