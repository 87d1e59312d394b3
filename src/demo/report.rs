//! What the demo measured: a table for people, an object for programs.

use super::load::{Latencies, Seen};
use super::scene::Scene;
use hdrhistogram::Histogram;
use indicatif::HumanCount;
use serde::Serialize;
use std::fmt::Write as _;

/// The result. A number that could not be measured is none, and a problem.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// Statements that the clients ran, transaction control included.
    pub statements: u64,
    /// Statements that failed or answered what cannot be.
    pub failed: u64,
    /// Rows that differ between source and mapped shadow at the end.
    pub divergent: Option<u64>,
    /// Acknowledged writes that the source does not hold at the end.
    pub lost_writes: Option<u64>,
    /// From the corruption of the shadow to its detection.
    pub detect_ms: Option<f64>,
    /// By what it was detected.
    pub detected_by: Option<&'static str>,
    /// From the corruption to the last read that the shadow answered.
    pub shadow_closed_ms: Option<f64>,
    /// Reads that were answered wrong before that.
    pub wrong_reads_before_detection: u64,
    /// From the change of the file to the last read that the shadow answered, at 100 %.
    pub rollback_ms: Option<f64>,
    /// Rows that the backfill copied, per second.
    pub backfill_rows_per_s: Option<f64>,
    /// Rows that the mandatory verify compared, per second.
    pub verify_rows_per_s: Option<f64>,
    /// The whole demo.
    pub seconds: f64,
    /// By scene.
    pub phases: Vec<Phase>,
    /// Failures by message.
    pub failures: Vec<Failure>,
    /// Why the demo has failed; empty when it has not.
    pub problems: Vec<String>,
}

/// The latencies of one scene.
#[derive(Debug, Serialize)]
pub struct Phase {
    /// The scene.
    pub name: &'static str,
    /// Share of the reads that the shadow answered, measured, in percent.
    pub shadow_reads_pct: Option<f64>,
    /// Median of reads and writes.
    pub p50_us: Option<u64>,
    /// 99th percentile of reads and writes.
    pub p99_us: Option<u64>,
    /// Reads alone.
    pub reads: Quantiles,
    /// Writes alone.
    pub writes: Quantiles,
}

/// Of one histogram.
#[derive(Debug, Serialize)]
pub struct Quantiles {
    /// How many.
    pub count: u64,
    /// Median.
    pub p50_us: Option<u64>,
    /// 99th percentile.
    pub p99_us: Option<u64>,
}

/// Failures with one message.
#[derive(Debug, Serialize)]
pub struct Failure {
    /// What was said.
    pub message: String,
    /// How often.
    pub count: u64,
}

impl Report {
    /// Whether the demo has shown what it is to show.
    pub fn has_passed(&self) -> bool {
        self.problems.is_empty()
    }

    /// Takes over what the clients have seen; `shares` are the measured shares of shadow reads.
    pub(super) fn add(&mut self, seen: Seen, shares: &[(Scene, Option<f64>)]) {
        (self.statements, self.failed, self.wrong_reads_before_detection) = seen.counts;
        self.phases = Scene::ALL
            .iter()
            .zip(&seen.scenes)
            .map(|(scene, latencies)| {
                let share = shares.iter().find(|(of, _)| of == scene).and_then(|(_, share)| *share);
                Phase::of(*scene, share, latencies)
            })
            .collect();
        self.failures =
            seen.failures.into_iter().map(|(message, count)| Failure { message, count }).collect();
    }

    /// Says what is wrong with the result.
    pub(super) fn judge(&mut self) {
        let mut problems = Vec::new();
        let zeroes = [
            ("statements failed", Some(self.failed)),
            ("rows diverge", self.divergent),
            ("acknowledged writes are lost", self.lost_writes),
        ];
        for (what, count) in zeroes {
            match count {
                Some(0) => {}
                Some(count) => problems.push(format!("{count} {what}")),
                None => problems.push(format!("not known how many {what}")),
            }
        }
        let measured = [
            ("the corruption was not detected", self.detect_ms),
            ("not known when the shadow served its last read", self.shadow_closed_ms),
            ("the rollback could not be measured", self.rollback_ms),
            ("the backfill could not be measured", self.backfill_rows_per_s),
            ("the verify could not be measured", self.verify_rows_per_s),
        ];
        problems.extend(measured.iter().filter(|(_, m)| m.is_none()).map(|(p, _)| (*p).to_owned()));
        self.problems = problems;
    }

    /// For people.
    pub fn table(&self) -> String {
        let mut out = String::new();
        // Writing to a string does not fail.
        self.write_table(&mut out).ok();
        out
    }

    fn write_table(&self, out: &mut String) -> std::fmt::Result {
        let us = |value: Option<u64>| value.map_or_else(none, milliseconds);
        writeln!(
            out,
            "\n{:<18}{:>9}{:>10}{:>10}{:>10}{:>11}{:>10}{:>10}",
            "phase", "reads", "p50 ms", "p99 ms", "on shadow", "writes", "p50 ms", "p99 ms"
        )?;
        for phase in &self.phases {
            let Phase { name, shadow_reads_pct, reads, writes, .. } = phase;
            let share = shadow_reads_pct.map_or_else(none, |pct| format!("{pct:.1} %"));
            writeln!(
                out,
                "{name:<18}{:>9}{:>10}{:>10}{share:>10}{:>11}{:>10}{:>10}",
                HumanCount(reads.count).to_string(),
                us(reads.p50_us),
                us(reads.p99_us),
                HumanCount(writes.count).to_string(),
                us(writes.p50_us),
                us(writes.p99_us)
            )?;
        }
        writeln!(out, "\non shadow: share of the reads that orders_v2 answered\n")?;
        for (what, value) in self.lines() {
            writeln!(out, "{what:<38}{value}")?;
        }
        for Failure { message, count } in &self.failures {
            writeln!(out, "  {count} × {message}")?;
        }
        for problem in &self.problems {
            writeln!(out, "FAILED: {problem}")?;
        }
        Ok(())
    }

    fn lines(&self) -> Vec<(&'static str, String)> {
        let count = |n: Option<u64>| n.map_or_else(none, |n| HumanCount(n).to_string());
        let ms = |n: Option<f64>| n.map_or_else(none, |n| format!("{n:.1} ms"));
        let rate = |n: Option<f64>| n.map_or_else(none, |n| format!("{n:.0} rows/s"));
        let by = self.detected_by.map_or(String::new(), |by| format!(", by {by}"));
        let wrong = self.wrong_reads_before_detection;
        vec![
            ("statements run", count(Some(self.statements))),
            ("statements failed", count(Some(self.failed))),
            ("rows divergent at the end", count(self.divergent)),
            ("acknowledged writes lost", count(self.lost_writes)),
            ("backfill", rate(self.backfill_rows_per_s)),
            ("verify", rate(self.verify_rows_per_s)),
            ("rollback by the file: last shadow read", format!(" after {}", ms(self.rollback_ms))),
            ("corruption detected", format!("after {}{by}", ms(self.detect_ms))),
            (
                "corruption: last shadow read",
                format!("after {}; {wrong} wrong answers until then", ms(self.shadow_closed_ms)),
            ),
            ("the whole demo", format!("{:.1} s", self.seconds)),
        ]
    }
}

impl Phase {
    fn of(scene: Scene, shadow_reads_pct: Option<f64>, latencies: &Latencies) -> Self {
        let mut both = latencies.reads.clone();
        // The bounds are the same.
        both.add(&latencies.writes).ok();
        let all = Quantiles::of(&both);
        Self {
            name: scene.name(),
            shadow_reads_pct,
            p50_us: all.p50_us,
            p99_us: all.p99_us,
            reads: Quantiles::of(&latencies.reads),
            writes: Quantiles::of(&latencies.writes),
        }
    }
}

impl Quantiles {
    fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| (!histogram.is_empty()).then(|| histogram.value_at_quantile(quantile));
        Self { count: histogram.len(), p50_us: at(0.5), p99_us: at(0.99) }
    }
}

/// What was not measured.
fn none() -> String {
    "–".to_owned()
}

/// Three digits are enough.
fn milliseconds(us: u64) -> String {
    let (whole, thousandths) = (us / 1000, us % 1000);
    if whole >= 100 { whole.to_string() } else { format!("{whole}.{:02}", thousandths / 10) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn perfect() -> Report {
        Report {
            divergent: Some(0),
            lost_writes: Some(0),
            detect_ms: Some(1.0),
            shadow_closed_ms: Some(1.0),
            rollback_ms: Some(1.0),
            backfill_rows_per_s: Some(1.0),
            verify_rows_per_s: Some(1.0),
            ..Report::default()
        }
    }

    #[test]
    fn what_was_not_measured_is_a_problem() {
        let mut report = perfect();
        report.judge();
        assert!(report.has_passed());
        report.detect_ms = None;
        report.divergent = None;
        report.failed = 2;
        report.judge();
        let problems = [
            "2 statements failed",
            "not known how many rows diverge",
            "the corruption was not detected",
        ];
        assert_eq!(report.problems, problems);
        assert!(report.table().contains("FAILED: the corruption was not detected"));
    }

    #[test]
    fn microseconds_are_shown_as_milliseconds() {
        assert_eq!(milliseconds(7), "0.00");
        assert_eq!(milliseconds(1_234), "1.23");
        assert_eq!(milliseconds(123_456), "123");
    }
}
