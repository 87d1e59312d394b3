//! What all sessions share.

use super::Options;
use super::dark::DarkReads;
use super::vet::Vetting;
use crate::routing::{self, Routes};
use crate::sql::indirect;
use crate::sql::lex::first_word;
use crate::sql::prefilter::{Prefilter, Verdict, has_second_statement, part_as_spelled};
use crate::sql::reason::Reason;
use crate::sql::statement::{self, Understanding, understand};
use crate::sql::target::{Functions, Target};
use crate::telemetry::Metrics;
use crate::workload::{Observed, Tallies, Workload};
use arc_swap::ArcSwap;
use quick_cache::sync::Cache;
use std::collections::HashSet;
use std::sync::Arc;

/// Understandings that are kept, by text.
const CACHED_TEXTS: usize = 10_000;
/// Texts longer than this are not kept.
const CACHED_TEXT_BYTES_MAX: usize = 16 * 1024;

/// Shared by all sessions.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) options: Arc<Options>,
    pub(super) routes: Arc<routing::Handle>,
    pub(super) metrics: Metrics,
    pub(super) vetting: Vetting,
    pub(super) dark_reads: DarkReads,
    understander: ArcSwap<Understander>,
}

/// Understands texts for one generation of targets.
#[derive(Debug)]
pub(super) struct Understander {
    pub(super) generation: u64,
    pub(super) targets: Vec<Arc<Target>>,
    functions: Arc<Functions>,
    prefilter: Prefilter,
    cache: Cache<Box<str>, Arc<Counted>>,
    /// Of each target.
    observed: Vec<Arc<Observed>>,
}

/// What a text means, and where its statements are counted.
#[derive(Debug)]
pub(super) struct Counted {
    understanding: Understanding,
    /// Of each statement.
    tallies: Vec<Tallies>,
}

impl Counted {
    /// The tallies of the statement of this index.
    pub(super) fn tallies(&self, statement: usize) -> Option<&Tallies> {
        self.tallies.get(statement)
    }
}

impl std::ops::Deref for Counted {
    type Target = Understanding;

    fn deref(&self) -> &Understanding {
        &self.understanding
    }
}

/// What is known of a text.
#[derive(Debug, Clone)]
pub(super) enum Known {
    /// It concerns no migrated table and has no effect on the session.
    Plain,
    /// It may; this is what it means.
    Understood(Arc<Counted>),
    /// It may, and cannot be read safely: says why.
    Unreadable(Reason),
}

impl Context {
    pub(super) fn new(
        options: Arc<Options>,
        routes: Arc<routing::Handle>,
        metrics: Metrics,
    ) -> Arc<Self> {
        let vetting = Vetting::start(&options);
        let dark_reads = DarkReads::start(&options, &metrics);
        let understander =
            ArcSwap::from_pointee(Understander::new(&routes.load(), &options.workload));
        Arc::new(Self { options, routes, metrics, vetting, dark_reads, understander })
    }

    /// The understander for these routes.
    pub(super) fn understander(&self, routes: &Routes) -> Arc<Understander> {
        let now = self.understander.load_full();
        if now.generation == routes.generation {
            return now;
        }
        let next = Arc::new(Understander::new(routes, &self.options.workload));
        self.understander.store(Arc::clone(&next));
        next
    }
}

impl Understander {
    fn new(routes: &Routes, workload: &Workload) -> Self {
        let targets: Vec<_> = routes.routes.iter().map(|r| Arc::clone(&r.target)).collect();
        let observed = targets.iter().map(|t| workload.of(&t.migration)).collect();
        Self {
            generation: routes.generation,
            prefilter: Prefilter::new(&targets, &routes.functions.ways),
            targets,
            functions: Arc::clone(&routes.functions),
            cache: Cache::new(CACHED_TEXTS),
            observed,
        }
    }

    /// What a text means. `readable` is false when the session's encoding or string syntax makes
    /// the bytes mean something else than they seem.
    pub(super) fn know(&self, sql: &[u8], readable: Readable, bytes_max: usize) -> Known {
        let blind = readable != Readable::Always && self.prefilter.is_blind_to(sql);
        if !blind && self.prefilter.look(sql) == Verdict::Plain {
            return Known::Plain;
        }
        let text = match read(sql, readable, bytes_max) {
            Ok(text) => text,
            Err(why) => {
                let names = blind || self.prefilter.spells_a_name(sql);
                if names && !statement::changes_no_row(sql) {
                    return Known::Unreadable(why);
                }
                let understanding = statement::unread(sql);
                return Known::Understood(Arc::new(Counted { understanding, tallies: Vec::new() }));
            }
        };
        if let Some(found) = self.cache.get(text) {
            return Known::Understood(found);
        }
        let understood = self.counted(text, understand(text, &self.targets, &self.functions));
        if text.len() <= CACHED_TEXT_BYTES_MAX {
            self.cache.insert(text.into(), Arc::clone(&understood));
        }
        Known::Understood(understood)
    }

    /// With the tallies of its statements.
    pub(super) fn counted(&self, text: &str, understanding: Understanding) -> Arc<Counted> {
        let ways = &self.functions.ways;
        let place = understanding.place();
        let tallies = understanding.statements.iter().map(|statement| {
            let views = indirect::views(text, statement, ways);
            let behind = |target: usize| {
                let migration = self.targets.get(target).map(|target| &target.migration);
                let mut all = views.iter().filter_map(|view| ways.relations.get(view));
                migration.is_some_and(|migration| all.any(|behind| behind.contains(migration)))
            };
            let observed = self.observed.iter().enumerate();
            let tally = |(target, observed): (usize, &Arc<Observed>)| {
                let tally = match behind(target) {
                    true => observed.through_view(text, statement, self.generation),
                    false => observed.tally(target, text, (statement, place), self.generation)?,
                };
                Some((target, tally))
            };
            observed.filter_map(tally).collect::<Tallies>()
        });
        let tallies = tallies.collect();
        Arc::new(Counted { understanding, tallies })
    }

    /// Whether a text that is not read may concern a target: one statement that changes or reads rows does what
    /// it does by names, where another may run code. Names in ASCII are the same bytes however long the text is,
    /// in whatever encoding, and whatever its strings are.
    pub(super) fn may_concern(&self, target: usize, sql: &[u8], why: Reason) -> bool {
        const BY_NAME: [&str; 8] =
            ["select", "insert", "update", "delete", "with", "merge", "values", "table"];
        let mut buffer = [0; 16];
        let first = first_word(sql, &mut buffer).unwrap_or_default();
        let by_name = BY_NAME.contains(&first) && !has_second_statement(sql);
        let Some(target) = self.targets.get(target) else { return true };
        let spelled =
            matches!(why, Reason::SqlBytesMax | Reason::Encoding | Reason::StandardStrings);
        if !spelled || !by_name || self.prefilter.is_blind_to(sql) {
            return true;
        }
        let ways = &self.functions.ways;
        let through = ways.relations.iter().chain(&ways.functions);
        let through = through.filter(|(_, all)| all.contains(&target.migration));
        let names: HashSet<&str> =
            target.names().chain(through.map(|(name, _)| &**name)).map(part_as_spelled).collect();
        self.prefilter.spells_one(sql, |word| names.contains(word))
    }

    /// The tallies of a text that is not read, of the targets that it may concern.
    pub(super) fn unread(&self, sql: &[u8], why: Reason) -> Tallies {
        let observed = self.observed.iter().enumerate();
        let observed = observed.filter(|(target, _)| self.may_concern(*target, sql, why));
        observed.map(|(target, o)| (target, o.unread(why, self.generation))).collect()
    }
}

/// The text of a statement, or why it cannot be read safely.
fn read(sql: &[u8], readable: Readable, bytes_max: usize) -> Result<&str, Reason> {
    if sql.len() > bytes_max {
        return Err(Reason::SqlBytesMax);
    }
    match readable {
        Readable::Always => {}
        Readable::Ascii if sql.is_ascii() => {}
        Readable::Ascii => return Err(Reason::Encoding),
        Readable::Never => return Err(Reason::StandardStrings),
    }
    std::str::from_utf8(sql).map_err(|_invalid| Reason::NotUtf8)
}

/// Whether the bytes of a statement can be read as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Readable {
    /// UTF-8, standard strings.
    Always,
    /// Another encoding, in which ASCII is ASCII.
    Ascii,
    /// Backslashes escape in ordinary strings.
    Never,
}
