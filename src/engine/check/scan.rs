//! Looks at the source's rows through the mapping: whole where the table is small, a sample where
//! it is big, step by step where every row is wanted. Read-only, and each bounded in time.

use super::mappings::Broken;
use super::{Extent, Finding, Kind, Progress, Subject};
use crate::engine::Error;
use crate::engine::range::{Range, nth_key_sql, source_images, source_key};
use crate::engine::reverse::{self, Unproven};
use crate::pg;
use crate::sql::ident::literal;
use tokio_postgres::error::SqlState;

/// Rows that one answer names.
const NAMED_MAX: usize = 5;
/// What a sample may hold, so that wide rows do not fill the server's disk.
const SAMPLE_BYTES_MAX: u64 = 64 << 20;

/// A question that rows answer: what it is called, and the SQL of it over a part of the table,
/// whose rows are the answer (one text column).
pub(super) struct Question {
    /// What it is about, for people.
    pub(super) what: String,
    /// The statement for `FROM source <clause>`, with a place for a further limit.
    pub(super) sql: Box<dyn Fn(&str) -> String + Send + Sync>,
    /// Whether one row is enough to answer it, so that it can be asked step by step.
    pub(super) by_row: bool,
}

/// What came of a question.
pub(super) enum Answer {
    /// The rows, and what they were found in, if not in all: ` (in a sample of …)`.
    Rows(Vec<String>, String),
    /// Looked, or as far as it could; what could not be is on the scan's list.
    None,
    /// The server cannot work it out for some row of this part.
    Failed(Part, tokio_postgres::Error),
}

/// Which rows a statement reads.
#[derive(Debug, Clone)]
pub(super) enum Part {
    Whole,
    Sample,
    /// A range of keys as a predicate.
    Step(String),
}

/// The looks at one source.
pub(super) struct Scan<'a> {
    pub(super) subject: &'a Subject<'a>,
    /// About so many rows there are.
    pub(super) rows: u64,
    /// About so many bytes they take.
    pub(super) bytes: u64,
    sample: Sample,
    sampled: Vec<String>,
    skipped: Vec<String>,
    broken: &'a Broken,
}

/// How a sample is drawn.
#[derive(Debug, Clone, Copy)]
enum Sample {
    /// So many rows from blocks all over the table.
    Blocks(u64),
    /// The first rows: few blocks have many rows each, so that drawing might hit none.
    First(u64),
}

impl<'a> Scan<'a> {
    pub(super) async fn new(subject: &'a Subject<'a>, broken: &'a Broken) -> Result<Self, Error> {
        let source = subject.shape.source.name.quoted();
        // The planner knows the size of the files, even if nobody has analyzed the table.
        let explain = format!("EXPLAIN (FORMAT JSON) SELECT FROM {source}");
        let plan: serde_json::Value = subject.client.query_one(&explain, &[]).await?.try_get(0)?;
        let rows = plan.pointer("/0/Plan/Plan Rows").and_then(serde_json::Value::as_f64);
        let sql = "SELECT coalesce(sum(pg_table_size(oid)), 0)::text FROM pg_class WHERE oid IN \
                   (SELECT $1::oid UNION SELECT relid::oid FROM pg_partition_tree($1::oid))";
        let bytes = subject.rows(sql, &[&subject.shape.source.oid]).await?.concat().concat();
        let mut scan = Self {
            subject,
            rows: format!("{:.0}", rows.unwrap_or(0.0)).parse().unwrap_or(0),
            bytes: bytes.parse().unwrap_or(0),
            sample: Sample::First(0),
            sampled: Vec::new(),
            skipped: Vec::new(),
            broken,
        };
        for column in &broken.mappings {
            scan.skip(format!("what needs {}, whose mapping does not work", column.spelled()));
        }
        for column in &broken.ways {
            scan.skip(format!("way back of {}, which does not work", column.spelled()));
        }
        scan.sample = scan.drawn().await?;
        Ok(scan)
    }

    async fn drawn(&mut self) -> Result<Sample, Error> {
        let width = (self.bytes / self.rows.max(1)).max(1);
        let wanted =
            u64::from(self.subject.effort.sample_rows).min((SAMPLE_BYTES_MAX / width).max(100));
        self.sample = Sample::Blocks(wanted);
        if self.rows > wanted {
            let count = self.count(&Part::Sample).await?;
            if count >= wanted / 2 {
                return Ok(Sample::Blocks(count));
            }
        }
        Ok(Sample::First(wanted))
    }

    async fn count(&self, part: &Part) -> Result<u64, Error> {
        let source = self.subject.shape.source.name.quoted();
        let clause = self.clause(part, None);
        let sql = format!("SELECT count(*)::text FROM (SELECT FROM {source}{clause}) AS c");
        Ok(self.subject.rows(&sql, &[]).await?.concat().concat().parse().unwrap_or(0))
    }

    /// What was asked of a sample only, or not at all.
    pub(super) fn left_out(&self) -> Option<Finding> {
        if self.sampled.is_empty() && self.skipped.is_empty() {
            return None;
        }
        let mut parts = Vec::new();
        if !self.sampled.is_empty() {
            parts.push(format!("{} only: {}", self.extent(), self.sampled.join(", ")));
        }
        if !self.skipped.is_empty() {
            parts.push(format!("not looked at: {}", self.skipped.join(", ")));
        }
        let migration = &self.subject.migration.name;
        let remedy = format!("pgsegue check --full {migration} looks at every row");
        Some(Finding::info(Kind::Sampled, self.subject.source(), parts.join("; "), remedy))
    }

    /// `sampled n of about m rows`.
    fn extent(&self) -> String {
        format!("sampled {} of about {} rows", self.sample_rows(), self.rows)
    }

    /// The ways back that have to be tried on rows and can be.
    pub(super) fn unproven(&self) -> Vec<Unproven> {
        let mut unproven = reverse::unproven(self.subject.shape);
        unproven.retain(|one| !self.broken.ways.contains(&one.name));
        unproven
    }

    /// Something that is not looked at, and why.
    pub(super) fn skip(&mut self, what: impl Into<String>) {
        self.skipped.push(what.into());
    }

    pub(super) fn sample_rows(&self) -> u64 {
        match self.sample {
            Sample::Blocks(rows) | Sample::First(rows) => rows,
        }
    }

    /// Asks, in the extent that the effort allows.
    pub(super) async fn ask(&mut self, question: &Question) -> Result<Answer, Error> {
        let subject = self.subject;
        if subject.effort.extent == Extent::Full {
            return Box::pin(self.ask_all(question)).await;
        }
        if subject.started.elapsed() > subject.effort.looks {
            self.skip(&question.what);
            return Ok(Answer::None);
        }
        if self.rows <= subject.effort.whole_rows
            && let Some(answer) = self.ask_part(question, Part::Whole).await?
        {
            return Ok(answer);
        }
        match self.ask_part(question, Part::Sample).await? {
            Some(Answer::None) => {
                self.sampled.push(question.what.clone());
                Ok(Answer::None)
            }
            Some(answer) => Ok(answer),
            None => {
                self.skip(format!("{} (too slow)", question.what));
                Ok(Answer::None)
            }
        }
    }

    /// Every row, however long it takes.
    async fn ask_all(&self, question: &Question) -> Result<Answer, Error> {
        let mut rows = 0;
        let progress = |rows| {
            let (what, of) = (question.what.as_str(), self.rows);
            (self.subject.progress)(Progress { what, rows, of });
        };
        progress(0);
        if !question.by_row {
            let answer = self.ask_part(question, Part::Whole).await?;
            progress(self.rows);
            return Ok(answer.unwrap_or(Answer::None));
        }
        let (shape, step) = (self.subject.shape, self.subject.effort.step_rows);
        let mut after: Option<Vec<String>> = None;
        let mut found = Vec::new();
        loop {
            let open = Range { after: after.as_deref(), upper: None };
            let row = self.subject.client.query_opt(&nth_key_sql(shape, open, step), &[]).await?;
            let upper: Option<Vec<String>> = row.map(|row| row.try_get(0)).transpose()?;
            let range = Range { after: after.as_deref(), upper: upper.as_deref() };
            match self.ask_part(question, Part::Step(range.of_source(shape))).await? {
                Some(Answer::Rows(rows, _)) => found.extend(rows),
                Some(failed @ Answer::Failed(..)) => return Ok(failed),
                Some(Answer::None) | None => {}
            }
            rows += u64::from(step);
            progress(rows.min(self.rows));
            if found.len() >= NAMED_MAX || upper.is_none() {
                break;
            }
            after = upper;
        }
        found.truncate(NAMED_MAX);
        Ok(if found.is_empty() { Answer::None } else { Answer::Rows(found, String::new()) })
    }

    /// Asks of one part; none when the time for it is over.
    async fn ask_part(&self, question: &Question, part: Part) -> Result<Option<Answer>, Error> {
        let within = match part {
            Part::Sample => format!(" ({})", self.extent()),
            Part::Whole | Part::Step(_) => String::new(),
        };
        let sql = format!("{} LIMIT {NAMED_MAX}", (question.sql)(&self.clause(&part, None)));
        match self.subject.rows(&sql, &[]).await {
            Ok(rows) if rows.is_empty() => Ok(Some(Answer::None)),
            Ok(rows) => Ok(Some(Answer::Rows(rows.concat(), within))),
            Err(Error::Postgres(error)) if error.code() == Some(&SqlState::QUERY_CANCELED) => {
                Ok(None)
            }
            Err(Error::Postgres(error)) if error.as_db_error().is_some() => {
                Ok(Some(Answer::Failed(part, error)))
            }
            Err(error) => Err(error),
        }
    }

    /// What follows `FROM source`.
    pub(super) fn clause(&self, part: &Part, limit: Option<u64>) -> String {
        let limited = |rows: u64| format!(" LIMIT {}", limit.unwrap_or(rows));
        match (part, self.sample) {
            (Part::Whole, _) => limit.map(limited).unwrap_or_default(),
            (Part::Sample, Sample::First(rows)) => limited(rows),
            (Part::Sample, Sample::Blocks(rows)) => {
                // Blocks are drawn, not rows: half as many again, to have enough most times.
                let hundredths = rows.saturating_mul(15_000) / self.rows.max(1);
                let hundredths = hundredths.clamp(1, 10_000);
                let percent = format!("{}.{:02}", hundredths / 100, hundredths % 100);
                format!(" TABLESAMPLE SYSTEM ({percent}) REPEATABLE (1){}", limited(rows))
            }
            (Part::Step(range), _) => {
                let order = source_key(self.subject.shape);
                let limit = limit.map(|rows| format!(" ORDER BY {order} LIMIT {rows}"));
                format!(" WHERE {range}{}", limit.unwrap_or_default())
            }
        }
    }

    /// Which row of a part it is that some mapping cannot be worked out for: its key, the column
    /// and what the server says. Halves the part; none when nothing fails any more.
    pub(super) async fn first_failure(
        &self,
        part: &Part,
    ) -> Result<Option<(String, String, String)>, Error> {
        let shape = self.subject.shape;
        let source = shape.source.name.quoted();
        let all = self.count(part).await?;
        let every: Vec<usize> = (0..shape.mapped.len()).collect();
        let (mut good, mut bad) = (0, all);
        while bad.saturating_sub(good) > 1 {
            let middle = good + (bad - good) / 2;
            match self.failure(&every, &self.clause(part, Some(middle))).await? {
                Some(_) => bad = middle,
                None => good = middle,
            }
        }
        let images = format!(
            "SELECT i FROM (SELECT {} AS i FROM {source}{}) AS c OFFSET {good} LIMIT 1",
            source_images(shape),
            self.clause(part, Some(bad))
        );
        let Some(row) = self.subject.client.query_opt(&images, &[]).await? else { return Ok(None) };
        let key: Vec<String> = row.try_get(0)?;
        let is_it: Vec<String> = shape
            .key
            .iter()
            .zip(&key)
            .map(|(pair, image)| {
                let kind = &pair.source.type_sql;
                format!("{} = {}::{kind}", pair.source.name.quoted(), literal(image))
            })
            .collect();
        let only = format!(" WHERE {}", is_it.join(" AND "));
        for (at, mapped) in shape.mapped.iter().enumerate() {
            if let Some(reason) = self.failure(&[at], &only).await? {
                return Ok(Some((key.join(", "), mapped.column.name.spelled(), reason)));
            }
        }
        Ok(None)
    }

    /// What the server says when some mappings are worked out over `FROM source <clause>`.
    async fn failure(&self, mapped: &[usize], clause: &str) -> Result<Option<String>, Error> {
        let shape = self.subject.shape;
        let chosen = mapped.iter().filter_map(|at| shape.mapped.get(*at));
        let columns: Vec<String> =
            chosen.map(|m| format!("({})::{}", m.expression, m.column.type_sql)).collect();
        let source = shape.source.name.quoted();
        let sql = format!(
            "SELECT count(*) FROM (SELECT ROW({})::text AS r FROM {source}{clause}) AS c WHERE r <> ''",
            columns.join(", ")
        );
        match self.subject.client.query_one(&sql, &[]).await {
            Ok(_) => Ok(None),
            Err(error) if pg::is_about_data(&error) => Ok(Some(pg::reason(&error))),
            Err(error) => Err(error.into()),
        }
    }
}
