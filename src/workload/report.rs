//! The workload report: what was seen, in order, with the sums that a decision hangs on.

use super::latency::Counts;
use super::{Kind, Observed, Tally, Text, Verdict, millis};
use crate::sql::indirect;
use crate::sql::statement::Place;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::atomic::Ordering::Relaxed;
use std::time::SystemTime;

/// What one process has seen of one migration's table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The migration.
    pub migration: String,
    /// Since when, in milliseconds since 1970.
    pub since_ms: u64,
    /// For how long.
    pub seconds: u64,
    /// Statements that were answered or refused.
    pub calls: u64,
    /// Percent of the calls that were understood; none without calls.
    pub coverage: Option<f64>,
    /// Kinds of statements that are kept.
    pub kinds: usize,
    /// Calls of kinds that found no room; they are in the sums.
    pub calls_not_kept: u64,
    /// Why the shadow cannot answer any read, whatever it says.
    pub no_reads: Option<String>,
    /// Writes that are mirrored exactly.
    pub writes: Part,
    /// Reads that the shadow can answer, by what they say.
    pub reads: Part,
    /// Those of them that were vetted: the shadow answers them.
    #[serde(default)]
    pub reads_fit: Part,
    /// Those of them that were vetted: all or some stay on the source.
    #[serde(default)]
    pub reads_stay: Part,
    /// Reads that only the source can answer.
    pub unfit_reads: Part,
    /// Statements that change nothing and read nothing for the shadow.
    pub other: Part,
    /// Changes of the table's definition: refused while it is migrated.
    pub ddl: Part,
    /// Statements that may write in a way that is not understood.
    pub not_understood: Part,
    /// Each kind, the most called first.
    pub statements: Vec<Line>,
}

/// A part of the workload.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Kinds of statements.
    pub kinds: usize,
    /// Calls of them.
    pub calls: u64,
}

/// One kind of statement.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// Its text without values; in parentheses what it is instead of one.
    pub text: String,
    /// What it is.
    pub class: Class,
    /// Whether what it does to the table is known.
    pub understood: bool,
    /// Why it is not understood, why the shadow cannot answer it, or why it stays on the source.
    pub why: Option<String>,
    /// Of a read that the shadow can answer, by what it says: whether it may.
    #[serde(default)]
    pub vetting: Option<Vetting>,
    /// What to change so that it is understood, or can be read of the shadow.
    pub way_out: Option<String>,
    /// How often it was answered or refused.
    pub calls: u64,
    /// Where it was sent.
    pub routes: Routes,
    /// How often the answer was an error.
    pub errors: u64,
    /// Milliseconds that half of the calls stayed below.
    pub p50_ms: Option<f64>,
    /// Milliseconds that 99 % of the calls stayed below.
    pub p99_ms: Option<f64>,
    /// Milliseconds since 1970.
    pub first_ms: u64,
    /// Milliseconds since 1970.
    pub last_ms: u64,
}

/// What a statement is to a migrated table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// A write that is mirrored.
    Write,
    /// A read that the shadow can answer.
    Read,
    /// A read that it cannot.
    UnfitRead,
    /// Neither.
    Other,
    /// A change of the definition.
    Ddl,
    /// Not understood.
    Unclassified,
}

/// What the vetting says of reads of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Vetting {
    /// Nothing yet.
    NotYet,
    /// The shadow answers them.
    Fit,
    /// They stay on the source.
    Stays,
    /// That, of some; it hangs on the role, the search_path or the constants.
    Both,
}

/// Calls by where they were sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Routes {
    /// To the source.
    pub source: u64,
    /// To the source, mirrored.
    pub mirrored: u64,
    /// To the shadow.
    pub shadow: u64,
    /// To the source, with a mark.
    pub marked: u64,
    /// Nowhere.
    pub refused: u64,
}

impl Routes {
    fn all(self) -> u64 {
        self.source + self.mirrored + self.shadow + self.marked + self.refused
    }
}

/// A tally at one moment.
struct Seen {
    kind: Kind,
    routes: Routes,
    errors: u64,
    counts: Counts,
    vetting: (Vetting, Option<String>),
    first: u64,
    last: u64,
    generation: u64,
}

impl Seen {
    fn of(kind: &Kind, tally: &Tally) -> Self {
        let [source, mirrored, shadow, marked, refused] =
            tally.taken.each_ref().map(|counter| counter.load(Relaxed));
        Self {
            kind: kind.clone(),
            routes: Routes { source, mirrored, shadow, marked, refused },
            errors: tally.errors.load(Relaxed),
            counts: tally.latency.counts(),
            vetting: tally.verdicts.sum(),
            first: tally.first,
            last: tally.last.load(Relaxed),
            generation: tally.generation.load(Relaxed),
        }
    }

    /// Takes in what was seen of the same text when less was known of the tables.
    fn merge(&mut self, older: &Self) {
        let (routes, before) = (&mut self.routes, older.routes);
        routes.source += before.source;
        routes.mirrored += before.mirrored;
        routes.shadow += before.shadow;
        routes.marked += before.marked;
        routes.refused += before.refused;
        self.errors += older.errors;
        self.counts.merge(&older.counts);
        self.first = self.first.min(older.first);
        self.last = self.last.max(older.last);
    }

    /// What reads share that were understood for different sets of tables and functions: the text, and
    /// whether others stood beside it.
    fn kept_read(&self) -> Option<(Text, Place)> {
        let place = match self.kind.verdict {
            Verdict::Read | Verdict::UnfitRead(_) => Place::Alone,
            Verdict::ReadAmong(_) => Place::Among,
            Verdict::Write | Verdict::Other | Verdict::Ddl | Verdict::NotUnderstood(_) => {
                return None;
            }
        };
        matches!(self.kind.text, Text::Kept(..)).then(|| (self.kind.text.clone(), place))
    }

    /// Whether its reads are vetted, and each of them by this line.
    fn is_vetted(&self) -> bool {
        self.kind.verdict == Verdict::Read && matches!(self.kind.text, Text::Kept(..))
    }

    fn line(&self) -> Line {
        let (class, why, way_out) = match &self.kind.verdict {
            Verdict::Write => (Class::Write, None, None),
            Verdict::Read => (Class::Read, self.vetting.1.clone(), None),
            Verdict::UnfitRead(why) | Verdict::ReadAmong(Some(why)) => {
                (Class::UnfitRead, Some(why.to_string()), None)
            }
            Verdict::ReadAmong(None) => (
                Class::UnfitRead,
                Some(indirect::AMONG.to_owned()),
                Some(indirect::AMONG_WAY_OUT.to_owned()),
            ),
            Verdict::Other => (Class::Other, None, None),
            Verdict::Ddl => (Class::Ddl, None, None),
            Verdict::NotUnderstood(why) => {
                (Class::Unclassified, Some(why.text().to_owned()), Some(why.way_out().to_owned()))
            }
        };
        let text = match &self.kind.text {
            Text::Kept(text, _) => text.as_ref(),
            Text::Unread => "(not read)",
            Text::Others => "(others, not kept one by one)",
        };
        Line {
            text: text.to_owned(),
            class,
            understood: class != Class::Unclassified,
            why,
            vetting: self.is_vetted().then_some(self.vetting.0),
            way_out,
            calls: self.routes.all(),
            routes: self.routes,
            errors: self.errors,
            p50_ms: self.counts.quantile_ms(500),
            p99_ms: self.counts.quantile_ms(990),
            first_ms: self.first,
            last_ms: self.last,
        }
    }
}

impl Observed {
    /// What was seen so far.
    pub(super) fn report(&self, migration: &str) -> Report {
        let kinds = self.kinds.load();
        let seen = kinds.iter().map(|(kind, tally)| Seen::of(kind, tally)).collect();
        let seen = as_known_now(seen);
        let others = seen.iter().filter(|one| one.kind.text == Text::Others);
        let calls_not_kept = others.map(|one| one.routes.all()).sum();
        let mut lines: Vec<Line> =
            seen.iter().map(Seen::line).filter(|line| line.calls > 0).collect();
        lines.sort_by(|a, b| b.calls.cmp(&a.calls).then_with(|| a.text.cmp(&b.text)));
        let sum = |is_of: &dyn Fn(&Line) -> bool| {
            let of = lines.iter().filter(|line| is_of(line));
            of.fold(Part::default(), |part, line| Part {
                kinds: part.kinds + 1,
                calls: part.calls + line.calls,
            })
        };
        let part = |of: &[Class]| sum(&|line| of.contains(&line.class));
        let stays = [Some(Vetting::Stays), Some(Vetting::Both)];
        let calls = lines.iter().map(|line| line.calls).sum();
        let not_understood = part(&[Class::Unclassified]);
        Report {
            migration: migration.to_owned(),
            since_ms: millis(self.since),
            seconds: SystemTime::now().duration_since(self.since).unwrap_or_default().as_secs(),
            calls,
            coverage: percent(calls - not_understood.calls, calls),
            kinds: lines.len(),
            calls_not_kept,
            no_reads: self.no_reads.load().as_ref().map(|why| why.as_ref().clone()),
            writes: part(&[Class::Write]),
            reads: part(&[Class::Read]),
            reads_fit: sum(&|line| line.vetting == Some(Vetting::Fit)),
            reads_stay: sum(&|line| stays.contains(&line.vetting)),
            unfit_reads: part(&[Class::UnfitRead]),
            other: part(&[Class::Other]),
            ddl: part(&[Class::Ddl]),
            not_understood,
            statements: lines,
        }
    }
}

/// Reads that were understood otherwise for an earlier set of tables and functions count as what
/// they are now. Whatever else was not understood stays on record as that.
fn as_known_now(seen: Vec<Seen>) -> Vec<Seen> {
    let mut newest: HashMap<(Text, Place), u64> = HashMap::new();
    for (read, generation) in seen.iter().filter_map(|one| Some((one.kept_read()?, one.generation)))
    {
        let newest = newest.entry(read).or_default();
        *newest = generation.max(*newest);
    }
    let is_old = |one: &Seen| {
        let newest = one.kept_read().and_then(|read| newest.get(&read));
        newest.is_some_and(|newest| one.generation < *newest)
    };
    let (old, mut now): (Vec<Seen>, Vec<Seen>) = seen.into_iter().partition(is_old);
    for older in &old {
        let read = older.kept_read();
        let same = |one: &&mut Seen| one.kept_read() == read;
        if let Some(one) = now.iter_mut().find(same) {
            one.merge(older);
        }
    }
    now
}

/// Of `all`, in percent with two places, rounded down: 100 is all.
fn percent(part: u64, all: u64) -> Option<f64> {
    let hundredths = part.saturating_mul(10_000).checked_div(all)?;
    Some(f64::from(u32::try_from(hundredths).unwrap_or(u32::MAX)) / 100.0)
}
