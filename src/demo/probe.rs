//! What the proxy says about itself, over HTTP like any other monitoring would ask it.

use super::error::Error;
use super::tables::NAME;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(5);

/// The admin server of the proxy.
#[derive(Debug, Clone, Copy)]
pub(super) struct Probe {
    admin: SocketAddr,
}

/// The metrics that the story looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counters {
    pub(super) backfill_rows: u64,
    pub(super) verify_rows: u64,
    pub(super) verify_differences: u64,
    pub(super) dark_compared: u64,
    pub(super) dark_mismatched: u64,
    pub(super) repaired_keys: u64,
    /// Reads sent to the shadow.
    pub(super) shadow_sent: u64,
    /// Reads that the shadow has answered.
    pub(super) shadow_answered: u64,
    pub(super) source_answered: u64,
}

impl Counters {
    fn read(text: &str) -> Self {
        let of = |name: &str, labels: &[&str]| sum(text, name, labels);
        Self {
            backfill_rows: of("pgsegue_backfill_rows_total", &[]),
            verify_rows: of("pgsegue_verify_rows_total", &[]),
            verify_differences: of("pgsegue_verify_differences_total", &[]),
            dark_compared: of("pgsegue_dark_reads_total", &["outcome=\"compared\""]),
            dark_mismatched: of("pgsegue_dark_reads_total", &["outcome=\"mismatched\""]),
            repaired_keys: of("pgsegue_repaired_keys_total", &[]),
            shadow_sent: of("pgsegue_statements_total", &["kind=\"read\"", "route=\"shadow\""]),
            shadow_answered: of("pgsegue_read_seconds_count", &["route=\"shadow\""]),
            source_answered: of("pgsegue_read_seconds_count", &["route=\"source\""]),
        }
    }

    /// Anything that moves while the shadow serves.
    pub(super) fn shadow_reads(&self) -> (u64, u64) {
        (self.shadow_sent, self.shadow_answered)
    }

    /// What part of the reads since `before` the shadow has answered, in percent.
    pub(super) fn shadow_share_since(&self, before: &Self) -> Option<f64> {
        let shadow = self.shadow_answered - before.shadow_answered;
        let all = shadow + self.source_answered - before.source_answered;
        (all > 0).then(|| 100.0 * as_f64(shadow) / as_f64(all))
    }
}

impl Probe {
    pub(super) fn new(admin: SocketAddr) -> Self {
        Self { admin }
    }

    /// Whether clients are taken.
    pub(super) async fn is_ready(&self) -> bool {
        self.get("/readyz").await.is_ok_and(|answer| answer.starts_with("HTTP/1.0 200"))
    }

    pub(super) async fn counters(&self) -> Result<Counters, Error> {
        let answer = self.get("/metrics").await.map_err(Error::Admin)?;
        Ok(Counters::read(&answer))
    }

    async fn get(&self, path: &str) -> std::io::Result<String> {
        let ask = async {
            let mut stream = TcpStream::connect(self.admin).await?;
            let request = format!("GET {path} HTTP/1.0\r\nhost: localhost\r\n\r\n");
            stream.write_all(request.as_bytes()).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            Ok(answer)
        };
        timeout(PATIENCE, ask).await?
    }
}

/// The sum over all lines of a metric that carry these labels and, if any migration, this one.
fn sum(text: &str, name: &str, labels: &[&str]) -> u64 {
    let own = format!("migration=\"{NAME}\"");
    text.lines()
        .filter_map(|line| line.strip_prefix(name))
        .filter(|rest| rest.starts_with('{') || rest.starts_with(' '))
        .filter(|rest| labels.iter().all(|label| rest.contains(label)))
        .filter(|rest| !rest.contains("migration=") || rest.contains(&own))
        .filter_map(|rest| rest.rsplit(' ').next()?.parse::<u64>().ok())
        .sum()
}

/// Counts are far below 2^53.
#[expect(clippy::as_conversions, reason = "there is no lossless conversion of a count to f64")]
pub(super) fn as_f64(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_summed_by_name_and_labels() {
        let text = "# HELP pgsegue_x a\n\
            pgsegue_x{migration=\"orders_v2\",outcome=\"compared\"} 3\n\
            pgsegue_x{migration=\"orders_v2\",outcome=\"dropped\"} 4\n\
            pgsegue_x{migration=\"other\",outcome=\"compared\"} 5\n\
            pgsegue_x_more 7\npgsegue_y 9\n";
        assert_eq!(sum(text, "pgsegue_x", &["outcome=\"compared\""]), 3);
        assert_eq!(sum(text, "pgsegue_x", &[]), 7);
        assert_eq!(sum(text, "pgsegue_y", &[]), 9);
        assert_eq!(sum(text, "pgsegue_z", &[]), 0);
    }
}
