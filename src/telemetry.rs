//! The metrics, on one registry. Labels are closed sets and migration names; never SQL.

use prometheus::{
    Encoder, GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

/// Every metric of the process. Cloning shares them.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Registry,
    /// Client sessions that are open.
    pub sessions: IntGauge,
    /// Statements by `route` (passthrough, source, shadow, mirrored, recorded, refused) and
    /// `kind` (read, write, other).
    pub statements: IntCounterVec,
    /// Rows whose keys were fed to a sync function, by `migration`.
    pub mirrored_rows: IntCounterVec,
    /// Client statements whose keys could not all be brought in step, by `migration`.
    pub dirty_statements: IntCounterVec,
    /// Keys that are dirty now, by `migration`.
    pub dirty_keys: IntGaugeVec,
    /// Keys that the repair worker brought in step, by `migration`.
    pub repaired_keys: IntCounterVec,
    /// Dark reads by `migration` and `outcome` (compared, mismatched, dropped).
    pub dark_reads: IntCounterVec,
    /// Seconds a dark read took, by `migration` and `route` (source, shadow).
    pub dark_read_seconds: HistogramVec,
    /// Seconds a client's read took at the server, by `migration` and `route` (source, shadow).
    pub read_seconds: HistogramVec,
    /// Rows copied by backfills, by `migration`.
    pub backfill_rows: IntCounterVec,
    /// Rows compared by verifies, by `migration`.
    pub verify_rows: IntCounterVec,
    /// Rows that a verify found missing, orphaned or different, by `migration` and `kind`.
    pub verify_differences: IntCounterVec,
    /// Changes of a routing lever, by `migration`.
    pub route_changes: IntCounterVec,
    /// Reloads of the config file by `result` (applied, rejected).
    pub config_reloads: IntCounterVec,
    /// 1 while the file on disk is not the configuration in force.
    pub config_rejected: IntGauge,
    /// Statements on a migrated table that were answered so far, as they are understood now, by `migration` and `class` (write, read,
    /// unfit_read, other, ddl, unclassified).
    pub workload_calls: IntGaugeVec,
    /// The share of them that was understood, by `migration`; 1 before the first.
    pub workload_coverage: GaugeVec,
    /// Shadow reads that failed and were answered from the source.
    pub shadow_retries: IntCounter,
}

const READ_BUCKETS: [f64; 16] = [
    0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0,
    10.0,
];

const ONE: &[&str] = &["migration"];
const BY_CLASS: &[&str] = &["migration", "class"];

impl Metrics {
    /// A fresh registry with every metric on it.
    ///
    /// # Errors
    /// When two metrics have one name: a mistake in this file.
    pub fn new() -> Result<Self, prometheus::Error> {
        let r = Registry::new();
        Ok(Self {
            sessions: gauge(&r, "sessions", "Client sessions that are open")?,
            statements: counters(
                &r,
                "statements_total",
                "Statements by route and kind",
                &["route", "kind"],
            )?,
            mirrored_rows: counters(&r, "mirrored_rows_total", "Rows mirrored", &["migration"])?,
            dirty_statements: counters(
                &r,
                "dirty_statements_total",
                "Client statements that recorded dirty keys",
                ONE,
            )?,
            dirty_keys: gauges(&r, "dirty_keys", "Keys that are dirty now", &["migration"])?,
            repaired_keys: counters(&r, "repaired_keys_total", "Keys repaired", &["migration"])?,
            dark_reads: counters(
                &r,
                "dark_reads_total",
                "Dark reads by outcome",
                &["migration", "outcome"],
            )?,
            dark_read_seconds: histograms(&r, "dark_read_seconds", "Duration of dark reads")?,
            read_seconds: histograms(&r, "read_seconds", "Duration of clients' reads")?,
            backfill_rows: counters(&r, "backfill_rows_total", "Rows copied by backfills", ONE)?,
            verify_rows: counters(&r, "verify_rows_total", "Rows compared by verifies", ONE)?,
            verify_differences: counters(
                &r,
                "verify_differences_total",
                "Rows a verify found different",
                &["migration", "kind"],
            )?,
            route_changes: counters(&r, "route_changes_total", "Changes of a routing lever", ONE)?,
            config_reloads: counters(
                &r,
                "config_reloads_total",
                "Reloads of the config file",
                &["result"],
            )?,
            config_rejected: gauge(
                &r,
                "config_rejected",
                "1 while the file on disk is not in force",
            )?,
            workload_calls: gauges(&r, "workload_calls", "Statements seen", BY_CLASS)?,
            workload_coverage: shares(&r, "workload_coverage_ratio", "Share understood", ONE)?,
            shadow_retries: counter(
                &r,
                "shadow_retries_total",
                "Shadow reads that failed and were answered from the source",
            )?,
            registry: r,
        })
    }

    /// The Prometheus text format.
    ///
    /// # Errors
    /// When a metric cannot be encoded.
    pub fn encode(&self) -> Result<String, prometheus::Error> {
        let mut out = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut out)?;
        Ok(String::from_utf8_lossy(&out).into_owned())
    }
}

fn opts(name: &str, help: &str) -> Opts {
    Opts::new(name, help).namespace("pgsegue")
}

fn counter(r: &Registry, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
    let metric = IntCounter::with_opts(opts(name, help))?;
    r.register(Box::new(metric.clone()))?;
    Ok(metric)
}

fn counters(
    r: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntCounterVec, prometheus::Error> {
    let metric = IntCounterVec::new(opts(name, help), labels)?;
    r.register(Box::new(metric.clone()))?;
    Ok(metric)
}

fn gauge(r: &Registry, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
    let metric = IntGauge::with_opts(opts(name, help))?;
    r.register(Box::new(metric.clone()))?;
    Ok(metric)
}

fn gauges(
    r: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntGaugeVec, prometheus::Error> {
    let metric = IntGaugeVec::new(opts(name, help), labels)?;
    r.register(Box::new(metric.clone()))?;
    Ok(metric)
}

fn shares(
    r: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<GaugeVec, prometheus::Error> {
    let metric = GaugeVec::new(opts(name, help), labels)?;
    r.register(Box::new(metric.clone()))?;
    Ok(metric)
}

fn histograms(r: &Registry, name: &str, help: &str) -> Result<HistogramVec, prometheus::Error> {
    let opts = HistogramOpts { common_opts: opts(name, help), buckets: READ_BUCKETS.to_vec() };
    let metric = HistogramVec::new(opts, &["migration", "route"])?;
    r.register(Box::new(metric.clone()))?;
    Ok(metric)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_has_the_namespace() {
        let metrics = Metrics::new().unwrap();
        metrics.shadow_retries.inc();
        metrics.statements.with_label_values(&["mirrored", "write"]).inc();
        let text = metrics.encode().unwrap();
        assert!(text.contains("pgsegue_shadow_retries_total 1"));
        assert!(text.contains("pgsegue_statements_total{kind=\"write\",route=\"mirrored\"} 1"));
    }
}
